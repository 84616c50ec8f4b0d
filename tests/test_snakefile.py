"""The calls that the chain makes are words for one program, whatever a name holds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases import case

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def planned(folder: Path, root: Path = ROOT, **told: str) -> subprocess.CompletedProcess:
    """What the chain would run, told as make tells it."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    environment = os.environ | {"OUTPUT_ROOT": str(folder), "PYTHONPATH": str(root)} | told
    return subprocess.run(
        [*command, "--cores", "1", "--nolock", "--dry-run", "--printshellcmds"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def calls(run: subprocess.CompletedProcess) -> list[list[str]]:
    assert run.returncode == 0, run.stdout + run.stderr
    printed = re.findall(r"^Shell command: (?!None$)(.*?)\n\n", run.stdout, re.M | re.S)
    return [shlex.split(call) for call in printed]


def test_a_call_is_one_command_whatever_vlm_and_folders_are_called(tmp_path):
    hostile = 'local-dir:plip\'; touch P; echo "$(touch P) `touch P`" {seed} {x} {{y}} \\ %s #\nb'
    root = tmp_path / 'it\'s a $HOME; `x` "y" %s #'
    for name in ("lib", "notebooks", "data/cards"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copy(ROOT / "data" / "vlms.yaml", root / "data")
    made = calls(planned(tmp_path, DATASET="smoke", VLM=hostile, SEEDS="0, 1"))
    file = root / "notebooks" / "params" / "smoke.yaml"
    settings = re.sub("^vlm:.*", "", file.read_text(), flags=re.M)
    quoted = hostile.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    file.write_text(f'{settings}\nvlm: "{quoted}"\n')
    from_a_file = calls(planned(tmp_path, root, DATASET="smoke", METHOD="vlm-cpl"))
    for call in (made, from_a_file):
        assert len(call) > 5
    for where, commands in ((ROOT, made), (root, from_a_file)):
        page = [sys.executable, "-m", "figures.publish", "runs", "--", "smoke", hostile]
        assert commands.count(page) == 1
        for command in [command for command in commands if command != page]:
            notebook = Path(command[3])
            assert command[:3] == [sys.executable, "-m", "lib.runner"]
            assert notebook.parent == where / "notebooks"
            assert command[4:10] == ["-p", "dataset", "smoke", "-p", "vlm", hostile]
            assert all(re.fullmatch("-p|seed|fold|[0-9]", word) for word in command[10:])
    assert not list(tmp_path.rglob("P"))


def test_what_cannot_run_is_refused_in_one_line(tmp_path):
    for told, message in (
        ({"SEEDS": "a"}, "seeds=a: whole numbers, as in SEEDS=0"),
        ({"FOLDS": ","}, "folds=,: whole numbers, as in FOLDS=0"),
        ({"DATASET": "nope"}, "there is no dataset 'nope': there are "),
        ({"OUTPUT_ROOT": str(tmp_path / "{x}")}, "Snakemake takes braces"),
    ):
        with case(told):
            run = planned(tmp_path, **({"DATASET": "smoke"} | told))
            assert run.returncode != 0
            [line] = [line for line in run.stderr.splitlines() if "error" in line.lower()]
            assert line.startswith("error: ") and message in line
            assert "File" not in run.stderr and "Traceback" not in run.stderr
