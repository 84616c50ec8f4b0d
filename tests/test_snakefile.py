"""The calls that the chain makes are words for one program; what cannot run is refused at once."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cases import case
from processes import ROOT, snakemake

from lib.chain import CHAIN

SNAKEFILE = (ROOT / "Snakefile").read_text()


def planned(folder: Path, *words: str, root: Path = ROOT, **told: str) -> list[list[str]]:
    """The commands that the chain would run, told as make tells it."""
    run = snakemake(folder, "--dry-run", "--printshellcmds", *words, root=root, **told)
    assert run.returncode == 0, run.stdout + run.stderr
    printed = re.findall(r"^Shell command: (?!None$)(.*?)\n\n", run.stdout, re.M | re.S)
    return [shlex.split(call) for call in printed]


@pytest.mark.slow
def test_a_call_is_one_command_whatever_vlm_and_folders_are_called(tmp_path):
    hostile = 'local-dir:plip\'; touch P; echo "$(touch P) `touch P`" {seed} {x} {{y}} \\ %s #\nb'
    root = tmp_path / 'it\'s a $HOME; `x` "y" %s #'
    for name in ("lib", "notebooks", "data/cards"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copy(ROOT / "data" / "vlms.yaml", root / "data")
    made = planned(tmp_path, DATASET="smoke", VLM=hostile, SEEDS="0, 1")
    file = root / "notebooks" / "params" / "smoke.yaml"
    settings = re.sub("^vlm:.*", "", file.read_text(), flags=re.M)
    quoted = hostile.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    file.write_text(f'{settings}\nvlm: "{quoted}"\n')
    from_a_file = planned(tmp_path, root=root, DATASET="smoke", METHOD="vlm-cpl")
    for where, commands in ((ROOT, made), (root, from_a_file)):
        assert len(commands) > 5
        page = [sys.executable, "-m", "figures.publish", "runs", "--", "smoke", hostile]
        assert commands.count(page) == 1
        for command in [command for command in commands if command != page]:
            notebook = Path(command[3])
            assert command[:3] == [sys.executable, "-m", "lib.runner"]
            assert notebook.parent == where / "notebooks"
            assert command[4:10] == ["-p", "dataset", "smoke", "-p", "vlm", hostile]
            assert all(re.fullmatch("-p|seed|fold|parts|[0-9]", word) for word in command[10:])
    assert not list(tmp_path.rglob("P"))


@pytest.mark.slow
def test_a_part_of_the_chain_can_be_asked_for(tmp_path):
    (command,) = planned(tmp_path, "--until", "00_tiles_and_splits", DATASET="smoke")
    assert Path(command[3]).stem == "00_tiles_and_splits"


@pytest.mark.slow
def test_an_encoder_goes_beside_the_vlm_whose_stand_in_is_built_by_itself(tmp_path):
    own = "stand-in-smoke_other_lab"
    made = planned(tmp_path, DATASET="smoke", ENCODER="efficientnet-lite2", METHOD="vlm-cpl")
    vlms = {Path(c[3]).stem: c[9] for c in made if c[2] == "lib.runner"}
    assert vlms.pop("01_stand_in_vlm") == own
    assert len(vlms) > 5 and set(vlms.values()) == {f"{own}@efficientnet-lite2"}
    assert "05_both_methods_on_one_page" not in vlms


@pytest.mark.slow
def test_jobs_with_a_share_of_the_tiles_run_before_the_notebook_that_gathers_them(tmp_path):
    def calls(**told):
        made = planned(tmp_path, DATASET="smoke", SEEDS="0,1", METHOD="vlm-cpl", **told)
        of_runner = [words for words in made if words[2] == "lib.runner"]
        named = [(c[3], dict(zip(c[5::3], c[6::3], strict=True))) for c in of_runner]
        jobs = [(Path(f).stem[:2], v.get("seed"), v.get("parts"), v.get("part")) for f, v in named]
        return [job for job in jobs if job[0] in ("10", "11")]

    shared = calls(PARTS="3")
    for number in ("10", "11"):
        for seed in "01":
            of_seed = [job for job in shared if job[:2] == (number, seed)]
            assert sorted(of_seed[:3]) == [(number, seed, "3", part) for part in "012"]
            assert of_seed[3:] == [(number, seed, "3", None)]
    assert {job[2:] for job in calls()} == {("1", None)}


def test_the_profile_for_slurm_names_rules_of_the_chain():
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    rules = {re.sub(r"_share$|_\d$", "", name) for name in profile["set-resources"]}
    assert rules <= CHAIN.keys() and {n for n, step in CHAIN.items() if step.parts} <= rules


REFUSED = {
    "seeds=a: whole numbers, as in SEEDS=0": {"seeds": "a"},
    "folds=,: whole numbers, as in FOLDS=0": {"folds": ","},
    "there is no dataset 'nope': there are ": {"dataset": "nope"},
    "no VLM is set for lc25k_restained": {"dataset": "lc25k_restained"},
    "put it at": {"dataset": "lc25k_colon"},
    "smoke has 0, 1, 2, 3, 4": {"folds": "5"},
    "there are vlm-cpl and unisal": {"method": "x"},
    "there is no encoder 'uni2h': did you mean uni2-h": {"encoder": "uni2h"},
    "parts=0: one number of jobs": {"parts": "0"},
    "parts=2,3: one number of jobs": {"parts": "2,3"},
    "nct_crc has 0": {"dataset": "nct_crc", "folds": "1"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_run_is_refused_before_anything_starts(message, monkeypatch, output_root):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    monkeypatch.setenv("DATASET", "smoke")  # as from make; --config comes first
    checks = compile(SNAKEFILE.partition("\nprint(")[0], "Snakefile", "exec")
    with pytest.raises(SystemExit, match=f"error: .*{re.escape(message)}"):
        exec(checks, {"config": {"dataset": "smoke"} | REFUSED[message]})
    assert not (output_root / "data").exists()


@pytest.mark.slow
def test_a_refusal_is_one_line(tmp_path):
    for told, message in (
        ({"SEEDS": "a"}, "seeds=a: whole numbers"),
        ({"OUTPUT_ROOT": str(tmp_path / "{x}")}, "Snakemake takes braces"),
    ):
        with case(told):
            run = snakemake(tmp_path, "--dry-run", DATASET="smoke", **told)
            assert run.returncode != 0
            [line] = [line for line in run.stderr.splitlines() if "error" in line.lower()]
            assert line.startswith("error: ") and message in line
            assert "File" not in run.stderr and "Traceback" not in run.stderr


def test_targets_that_make_names_reach_snakemake(tmp_path):
    told = {"OUTPUT_ROOT": str(tmp_path), "DATASET": "smoke", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lib.reproduce", "ablations", "throughput", "--dry-run"]
    run = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
