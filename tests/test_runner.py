"""Failures are named and say what to do; nothing half is left; two runs do not meet."""

import json
import os
import signal
import subprocess
import sys

import pytest
from processes import alive, wait_for

from lib import artefacts, chain, parameters, paths, reproduce, runner
from lib.command_line import INTERRUPTED


def start(notebook):
    """`python -m lib.runner` in a process of its own."""
    line = [sys.executable, "-m", "lib.runner", str(notebook)]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(line, cwd=paths.ROOT, text=True, stdout=null, stderr=pipe)


def listed(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


@pytest.mark.parametrize(
    "passed, named",
    [
        (["-p", "sede", "1"], "unknown parameter 'sede': did you mean seed?"),
        (["-p", "seed", "one"], "'seed' must be int"),
        (["-p", "tags", "7"], "'tags' must be list"),
        (["-p", "vlm", "plipp"], "there is no VLM 'plipp': did you mean plip?"),
        (["-p", "rate", "1e-3", "-p", "sede", "1"], "'sede'"),  # YAML takes 1e-3 for a word
        (["-p", "note", "1", "-p", "dataset", "null", "-p", "sede", "1"], "'sede'"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(
    passed, named, write_notebook, output_root, capsys, main
):
    assert main(write_notebook("raise SystemExit"), *passed) == 1
    assert named in capsys.readouterr().err
    assert not (output_root / "data").exists()


def test_a_notebook_that_is_not_there_is_named_with_near_names(capsys, main):
    assert main("notebooks/14_comparisons.py") == 1
    assert "14_comparisons.py: did you mean 14_comparison" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-x", "--help", "a=b", "", "-", "it's {my} $dir\n"])
def test_a_value_may_begin_with_a_dash_or_hold_any_letters(value):
    joined = runner.joined_parameters(["x.py", "-p", "note", value, "-p", "a", "b"])
    assert [runner.name_and_value(text[2:]) for text in joined[1:]] == [("note", value), ("a", "b")]


@pytest.mark.slow
def test_the_modules_that_a_script_uses_are_all_that_python_loads(write_notebook):
    """Those that a function imports when it is called count too."""
    script = write_notebook("from lib.data.tiles import read_tile_table")
    code = "import sys, lib.data.tiles; print(*[n for n in sys.modules if n.startswith('lib.')])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True)
    names = {f"{n.replace('.', '/')}.py" for n in loaded.stdout.decode().split() if n != "lib.data"}
    found = {str(file.relative_to(paths.ROOT)) for file in runner.modules_used(script)}
    assert {"lib/data/tiles.py", "lib/paths.py"} <= names <= found
    assert "lib/figures/plots.py" not in found


BODY = """
import json, os, time
from pathlib import Path

out = Path(os.environ["OUTPUT_ROOT"], "seen.json")
out.write_text(json.dumps([dataset, vlm, seed, rate, share, note, tags, os.getcwd()]))
print("download: x, 5 MB")
print("open page")
print("left out: a.bmp\\nalarm: flat\\nhidden")

# %% [markdown]
# ## A long section

time.sleep(0.6)
"""


def test_a_notebook_runs_with_its_parameters_into_the_run_folder(
    write_notebook, output_root, main, capsys, monkeypatch
):
    """It removes what a killed run left, and not what a running one writes."""
    folder, beside = paths.run_folder("toy", "none/at all", 4), set(paths.ROOT.iterdir())
    dead = 999_999_999  # no process has this number
    left, written = (folder / f".part-{artefacts.HOST}-{p}-0123abcd" for p in (dead, os.getpid()))
    for temporary in (left, written):
        temporary.mkdir(parents=True)
    (paths.shares_folder(folder, "10_toy") / "0of2").mkdir(parents=True)
    monkeypatch.setattr(runner, "SHORT", 0.2)
    passed = "-p seed 4 -p rate 1 -p note -x -p tags".split()
    assert main(write_notebook(BODY), *passed, "[x, y]") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "10_toy (toy none/at all 4) …" and "  10 A long section …" in told
    assert told.index("download: x, 5 MB") < told.index("  10 A long section …")
    assert told[-3:] == ["left out: a.bmp", "alarm: flat", "open page"]
    seen = json.loads((output_root / "seen.json").read_text())
    assert seen == ["toy", "none/at all", 4, 1, -1, "-x", ["x", "y"], str(paths.ROOT)]
    assert listed(folder) == [written.name, "executed", "executed/10_toy.ipynb"]
    content = json.loads((folder / "executed" / "10_toy.ipynb").read_text())
    [cell] = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", ())]
    lines = "".join(cell["source"]).splitlines()
    assert lines[0] == "dataset = 'toy'  # a card" and "seed = 4" in lines and "rate = 1.0" in lines
    assert 0.6 < content["metadata"]["papermill"]["duration"] < 60
    assert {path for path in paths.ROOT.iterdir() if path.name.startswith("kernel")} <= beside
    runs = folder.parent
    [line] = reproduce.summary(runs).splitlines()
    assert line == f"notebooks: {runs / 'html' / 'index.html'}"
    index = (runs / "html" / "index.html").read_text()
    assert '<a href="10_toy-seed4.html">A toy</a>' in index
    assert "A long section" in (runs / "html" / "10_toy-seed4.html").read_text()


FAILING = """
from lib import paths
from lib.artefacts import atomic

with atomic(paths.run_folder(dataset, vlm, seed) / "votes.npy") as part:
    part.write_text("half")
    raise ValueError("first line\\nno tile is kept")

print("never reached")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "body, said",
    [
        (FAILING, "error: 10_toy: first line\nno tile is kept\nup to there: "),
        ("assert not seed + 1, 'why'", "error: 10_toy: AssertionError: why\nThis should not"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "for lack of memory: close"),
    ],
)
def test_a_failing_notebook_says_what_to_do_and_keeps_what_ran(
    body, said, write_notebook, main, capsys
):
    assert main(write_notebook(body)) == 1
    _, error = capsys.readouterr().err.split("error: ")
    assert said in f"error: {error}" and "10_toy.failed.ipynb" in error and "Traceback" not in error
    folder = paths.run_folder("toy", "none/at all", 0)
    assert listed(folder) == ["executed", "executed/10_toy.failed.ipynb"]
    kept = json.loads((folder / "executed" / "10_toy.failed.ipynb").read_text())
    assert not [c for c in kept["cells"] if "never reached" in str(c.get("outputs"))]


SLOW = """
import os, threading
from lib.artefacts import atomic
from lib import paths

folder = paths.run_folder(dataset, vlm, seed)
with atomic(folder / "votes.npy") as part:
    part.write_text("half")
    (folder / "kernel").write_text(str(os.getpid()))
    threading.Event().wait(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_an_ended_run_leaves_no_named_artefact_and_no_kernel(how, status, write_notebook):
    folder = paths.run_folder("toy", "none/at all", 0)
    pid = folder / "kernel"
    before = signal.signal(how, signal.SIG_DFL)  # below nohup it is ignored, and so inherited
    process, kernel = start(write_notebook(SLOW)), None
    signal.signal(how, before)
    try:
        assert wait_for(lambda: pid.is_file() and pid.read_text(), 60), "the notebook did not start"
        kernel = int(pid.read_text())
        process.send_signal(how)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == status and "Traceback" not in error
        assert (INTERRUPTED in error) == (how == signal.SIGINT)
        named = [name for name in listed(folder) if ".part-" not in name]
        assert named == ["executed", "kernel"]
        assert wait_for(lambda: not alive(kernel), 10), "the kernel still runs"
    finally:
        process.kill()
        process.wait()
        if kernel and alive(kernel):
            os.kill(kernel, signal.SIGKILL)


LEAVING = """
import subprocess
from lib import paths

started = subprocess.Popen(["sleep", "100"])
out = paths.run_folder(dataset, vlm, seed) / "started"
out.write_text(str(started.pid))
print("the last line")
"""


def test_a_kernel_leaves_no_process_and_what_it_printed_last_is_kept(write_notebook, main):
    assert main(write_notebook(LEAVING)) == 0
    folder = paths.run_folder("toy", "none/at all", 0)
    assert wait_for(lambda: not alive(int((folder / "started").read_text())), 10)
    assert "the last line" in (folder / "executed" / "10_toy.ipynb").read_text()


@pytest.mark.slow
def test_a_kernel_ends_though_its_parent_was_killed_before_it_looked(tmp_path):
    line = [sys.executable, "-m", "lib.kernel", "-f", str(tmp_path / "kernel.json")]
    environment = os.environ | {"JPY_PARENT_PID": "999999999"}  # no process has this number
    assert subprocess.run(line, cwd=paths.ROOT, env=environment, timeout=60).returncode == 1


LOGGED = """
import time
from lib import paths

log = paths.run_folder(dataset, vlm, seed) / "log"
log.parent.mkdir(parents=True, exist_ok=True)
with log.open("a") as opened:
    opened.write("start ")

time.sleep(1)
with log.open("a") as opened:
    opened.write("end ")
"""


@pytest.mark.slow
def test_of_two_runs_of_one_notebook_the_second_waits_and_says_for_whom(write_notebook):
    notebook = write_notebook(LOGGED)
    started = [start(notebook) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    folder = paths.run_folder("toy", "none/at all", 0)
    assert (folder / "log").read_text().split() == ["start", "end"] * 2
    assert sum("10_toy is run by process" in text for text in told) == 1
    assert listed(folder / "executed") == ["10_toy.ipynb"]


@pytest.mark.parametrize("name", [name for name, step in chain.CHAIN.items() if step.gathers])
def test_a_job_with_a_share_of_the_tiles_ends_when_that_is_encoded(name):
    notebook = paths.notebook_file(name)
    values = parameters.resolve_parameters(notebook, {"dataset": "smoke"})
    whole, part = (runner.filled(notebook, values | job).cells for job in ({}, {"part": 2}))
    *before, last = part
    assert "embed_in_parts(" in last.source and len(whole) > len(part) + 5
    assert not [cell for cell in before if "embed_in_parts(" in cell.source]
    differing = [b.source for a, b in zip(whole, part, strict=False) if a.source != b.source]
    assert len(differing) == 1 and "part = 2" in differing[0]


def test_jobs_take_the_gpus_in_turn(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    files = f"{tmp_path}/nvidia[0-9]*"

    def taken(**job):
        return runner.own_gpu(job, files).get("CUDA_VISIBLE_DEVICES")

    for name in ("nvidiactl", "nvidia0"):
        (tmp_path / name).touch()
        assert taken(part=1, seed=0) is None
    for number in (1, 2):
        (tmp_path / f"nvidia{number}").touch()
    assert [taken(part=part, seed=0) for part in range(6)] == list("012012")
    assert [taken(part=-1, seed=seed, fold=1) for seed in range(3)] == list("120")
    assert taken() == "0"
    for told, expected in (("GPU-a,GPU-b", "GPU-b"), ("1,2", "2"), ("1", None), ("", None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert taken(seed=3) == expected
