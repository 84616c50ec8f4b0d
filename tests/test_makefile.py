"""What a user names reaches the tools as the text that it is; nothing of it is run or expanded."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cases import case
from processes import make

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
DEFAULTS = dict(re.findall(r"^((?!VENV)[A-Z_]+) \?= ?(.*)$", MAKEFILE, re.M))
GOALS = "reproduce ablations throughput record choose data own".split()
GOALS += "label prompts slides site zip figures lab".split()
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def texts(run: str) -> list[str]:
    """Names with a command in all places where it could run, and harmless ones."""
    shell = f"\"; {run}; \" '; {run}; ' `{run}` $({run}) && {run} | {run} #"
    shells = f"$(shell {run}) ${{shell {run}}} $(eval $(shell {run})) $$(shell {run})"
    expanded = f"{shells} $(info x) $@ $("
    lines = f"a\n{run}\n\t{run}\n%: ; {run}\nendef\n"
    names = ["my$folder", "it's", "-x", "--help", "-", "{x}", "{{}}", "#1", "50 %", "a;b"]
    names += ["a\\", "\\"]
    names += ["two  words ", "~", "~/x", "a=b", ":=x", "*", "!", "[1]", "0123", "1e5", "yes", "é:"]
    return [shell, expanded, lines, *names]


@pytest.fixture
def venv(tmp_path) -> Path:
    """A set-up whose Python only records its arguments and its environment."""
    return stub(tmp_path / "venv")


def stub(folder: Path, then: str = "") -> Path:
    program = folder / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n"
        '{ printf "%s\\0" "$@"; printf "\\n\\0"; env -0; printf "\\n\\n\\0"; } >> "$0.calls"\n'
        + then
    )
    program.chmod(0o755)
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg")]
    (folder / ".installed").write_text("none" if devices else "triton|nvidia-cusolver")
    return folder


def calls(venv: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of each call of the Python of a set-up, and forgets them."""
    record = venv / "bin" / "python.calls"
    parts = [call.split("\0\n\0") for call in record.read_text().split("\n\n\0")[:-1]]
    record.unlink()
    return [
        (words.split("\0"), dict(line.split("=", 1) for line in env.split("\0")[:-1]))
        for words, env in parts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["command line", "environment"])
def test_a_value_reaches_the_tools_as_the_text_that_it_is(source, venv, tmp_path):
    for text in texts(f"touch {tmp_path}/marker"):
        named = dict.fromkeys(DEFAULTS, text)
        words = [f"{name}={text}" for name in named] if source == "command line" else []
        with case(text):
            run = make(*GOALS, f"VENV={venv}", *words, **({} if words else named))
            assert run.returncode == 0, run.stderr
            made = calls(venv)
            assert len(made) == len(GOALS) + 2  # the record is three calls
            for arguments, env in made:
                if env["FOLDS"] == "0,1,2,3,4":  # the protocol of the record
                    assert env["SEEDS"] == ("0" if "ablations" in arguments else "0,1,2")
                    env |= {"FOLDS": text, "SEEDS": text}
                assert {name: env[name] for name in named} == named
            own = next(words for words, _ in made if "notebooks/90_your_own_tiles.py" in words)
            names = "folder classes other_tissue other by_folder labels templates vlm".split()
            values = {"dataset": "own"} | dict.fromkeys(names, text) | {"vlm": f"{text}@{text}"}
            assert own[3:] == [word for pair in values.items() for word in ("-p", *pair)]
            script, (first, _, others) = "notebooks/93_compare_prompts.py", text.partition(";")
            compared = next(words for words, _ in made if script in words)
            assert compared[-5:] == ["vlm", first, "-p", "others", others if ";" in text else text]
            assert not (tmp_path / "marker").exists()


def test_no_call_of_make_runs_or_expands_a_value(venv, tmp_path):
    marker = tmp_path / "marker"
    expanded = texts(f"touch {marker}")[1]
    named = [
        f"{name}={expanded}"
        for name in (*DEFAULTS, "UNKNOWN", "NAMED", "RUN", "GOAL", "name", ".name")
    ]
    for call in (["-n", "throughput"], ["-p", "help"], ["-e", "help"], ["site"]):
        with case(*call):
            run = make(*call, f"VENV={venv}", *named)
            assert run.returncode == 0, run.stderr
            assert not marker.exists()
    assert [env["DATASET"] for _, env in calls(venv)] == [expanded]


def test_a_setting_that_a_target_does_not_read_is_refused_by_name(venv):
    slips = {"own": "TILE", "reproduce": "FOLD", "prompts": "OTHER_TISSUE", "record": "FOLDS"}
    for goal, name in slips.items():
        with case(goal):
            run = make(goal, f"{name}=1", "TILES=x" if goal == "own" else "VLM=x", f"VENV={venv}")
            assert run.returncode == 2 and f"make {goal} does not read {name}." in run.stderr
    assert not (venv / "bin" / "python.calls").exists()
    assert make("reproduce", f"VENV={venv}", FOLD="1").returncode == 0


def test_help_prints_values_as_they_are(tmp_path):
    for text in texts(f"touch {tmp_path}/marker"):
        with case(text):
            assert f"TILES={text}" in make("help", f"TILES={text}").stdout
    assert not (tmp_path / "marker").exists()


def test_what_is_not_named_has_its_default(venv):
    assert make("own", "TILES=x", f"VENV={venv}").returncode == 0
    [(words, env)] = calls(venv)
    assert {name: env[name] for name in DEFAULTS} == DEFAULTS | {"TILES": "x"}
    assert words[-3:] == ["-p", "vlm", ""]  # that of the dataset
    assert make("own", "TILES=x", "ENCODER=uni2-h", f"VENV={venv}").returncode == 0
    assert calls(venv)[0][0][-1] == "@uni2-h"
    assert "TILES=folder" in make("own", f"VENV={venv}").stderr


def test_a_set_up_may_lie_in_a_folder_of_any_name(tmp_path):
    marker = tmp_path / "marker"
    for text in texts("touch $MARKER"):
        folder = stub(tmp_path / text)
        with case(text):
            run = make("data", f"VENV={folder}", MARKER=str(marker))
            assert run.returncode == 0, run.stderr
            assert [words[-1] for words, _ in calls(folder)] == ["demo"]
            run = make("data", f"PYTHON={text}", f"VENV={tmp_path}/none", MARKER=str(marker))
            assert "does not run" in run.stderr
    assert not marker.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_smoke_test_leaves_no_folder_and_no_process(how, tmp_path):
    venv = stub(tmp_path / "venv", 'touch "$OUTPUT_ROOT/begun"; sleep 600 & sleep 600\n')
    (scratch := tmp_path / "scratch").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(scratch)}
    run = subprocess.Popen(
        ["make", "smoke", f"VENV={venv}"],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not list(scratch.glob("*/begun")):
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, how) if how == signal.SIGTERM else os.killpg(run.pid, how)
    run.communicate(timeout=120)  # until every process that can write has ended
    assert run.returncode != 0
    assert not list(scratch.iterdir())


def test_clean_removes_only_what_is_made_here(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    ours = ["data/runs/demo/x", "data/models/x", "lib/__pycache__/x", ".snakemake/x"]
    ours += [f"{folder}/__pycache__/x" for folder in ("apps", "data/prepare", "figures")]
    theirs = ["build/x", "dist/x", "other.egg-info", "notebooks/mine.ipynb", "data/labels/x"]
    theirs += ["data/raw/x", "my tiles/__pycache__/x"]
    for name in [*ours, *theirs, "tests/x"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"Makefile", "tests/x", *theirs}
