"""Parameters are checked first; failures are named; nothing half is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import artefacts, paths, runner


def command(notebook, *given, start=subprocess.run, **options):
    """`python -m lib.runner` in a process of its own."""
    line = [sys.executable, "-m", "lib.runner", str(notebook)]
    for name, value in given:
        line += ["-p", name, value]
    return start(line, cwd=paths.ROOT, text=True, **options)


def listed(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


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


# --- running -------------------------------------------------------------------------------------


@pytest.fixture
def keep_sigterm():
    """`main` sets a handler; take it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_wrong_parameters_are_refused_before_anything_starts(
    write_notebook, output_root, capsys, keep_sigterm
):
    notebook = write_notebook("raise SystemExit")
    for given, named in (
        (["-p", "sede", "1"], "unknown parameter 'sede'. Valid: dataset='toy'"),
        (["-p", "seed", "one"], "'seed' must be int"),
        (["-p", "tags", "7"], "'tags' must be list"),
        (["-p", "rate", "1e-3", "-p", "sede", "1"], "'sede'"),  # YAML takes 1e-3 for a word
        (["-p", "note", "1", "-p", "dataset", "null", "-p", "sede", "1"], "'sede'"),
    ):
        assert runner.main([str(notebook), *given]) == 1, given
        assert named in capsys.readouterr().err, given
    assert not (output_root / "data").exists()


def test_a_notebook_that_is_not_there_is_named(capsys, keep_sigterm):
    assert runner.main(["notebooks/99_nothing.py"]) == 1
    assert "99_nothing.py" in capsys.readouterr().err


BODY = """
import json, os
from pathlib import Path

out = Path(os.environ["OUTPUT_ROOT"], "seen.json")
out.write_text(json.dumps([dataset, vlm, seed, rate, share, note, tags, os.getcwd()]))
print("a line for the log")
"""


@pytest.mark.slow
def test_a_notebook_runs_with_its_parameters_into_the_run_folder(write_notebook, output_root):
    given = [("seed", "4"), ("rate", "1"), ("note", "007"), ("tags", "[x, y]")]
    done = command(write_notebook(BODY), *given, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # the kernel's libraries may warn on the same stream
    first, last = [line for line in done.stderr.splitlines() if line.startswith("10_toy ")]
    assert first.startswith("10_toy (toy none/at all 4)") and re.match(r"10_toy \d+ s$", last)
    seen = json.loads((output_root / "seen.json").read_text())
    assert seen == ["toy", "none/at all", 4, 1, -1, "007", ["x", "y"], str(paths.ROOT)]
    folder = paths.run_folder("toy", "none/at all", 4)
    assert folder.is_relative_to(output_root) and folder.name == "seed4"
    assert listed(folder) == ["executed", "executed/10_toy.ipynb"]
    seconds = runner.notebook_seconds(folder)
    assert list(seconds) == ["executed/10_toy.ipynb"] and 0 < seconds["executed/10_toy.ipynb"] < 60
    cells = json.loads((folder / "executed" / "10_toy.ipynb").read_text())["cells"]
    injected = ["".join(c["source"]) for c in cells if "injected" in str(c["metadata"])]
    assert len(injected) == 1 and "seed = 4" in injected[0]


FAILING = """
from lib import paths
from lib.artefacts import atomic

with atomic(paths.run_folder(dataset, vlm, seed) / "votes.npy") as part:
    part.write_text("half")
    raise ValueError("first line\\nno tile is kept")

print("never reached")
"""


@pytest.mark.slow
def test_a_failing_notebook_is_named_with_its_cell_and_keeps_what_ran(write_notebook):
    done = command(write_notebook(FAILING), capture_output=True, timeout=120)
    assert done.returncode == 1
    error = done.stderr[done.stderr.rindex("error: ") :]
    assert "10_toy failed in cell 4" in error and "no tile is kept" in error
    assert "10_toy.failed.ipynb" in error and "Traceback" not in error
    folder = paths.run_folder("toy", "none/at all", 0)
    assert listed(folder) == ["executed", "executed/10_toy.failed.ipynb"]
    kept = json.loads((folder / "executed" / "10_toy.failed.ipynb").read_text())
    outputs = [o for cell in kept["cells"] for o in cell.get("outputs", [])]
    assert [o["ename"] for o in outputs if o["output_type"] == "error"] == ["ValueError"]
    assert runner.notebook_seconds(folder) == {}


@pytest.mark.slow
def test_a_kernel_that_dies_is_reported_with_the_notebook(write_notebook):
    """As when the system kills it for its memory."""
    notebook = write_notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = command(notebook, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert "10_toy" in done.stderr[done.stderr.rindex("error: ") :]
    assert not list(paths.run_folder("toy", "none/at all", 0).rglob("10_toy.ipynb"))


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


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
def test_a_run_leaves_nothing_beside_the_sources(write_notebook):
    before = set(paths.ROOT.iterdir())
    runner.run_notebook(write_notebook("seed"), {})
    assert {path for path in paths.ROOT.iterdir() if path.name.startswith("kernel")} <= before


@pytest.mark.slow
def test_a_terminated_run_leaves_no_named_artefact_and_no_kernel(write_notebook):
    folder = paths.run_folder("toy", "none/at all", 0)
    pid = folder / "kernel"
    process = command(
        write_notebook(SLOW), start=subprocess.Popen,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    kernel = None
    try:
        assert wait_for(lambda: pid.is_file() and pid.read_text(), 60), "the notebook did not start"
        kernel = int(pid.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        named = [name for name in listed(folder) if ".part-" not in name]
        assert named == ["executed", "kernel"]
        if sys.platform.startswith("linux"):
            assert wait_for(lambda: not alive(kernel), 10), "the kernel still runs"
    finally:
        process.kill()
        process.wait()
        if kernel and alive(kernel):
            os.kill(kernel, signal.SIGKILL)


@pytest.mark.slow
def test_a_start_removes_what_a_killed_run_left_but_not_what_a_running_one_writes(write_notebook):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    folder = paths.run_folder("toy", "none/at all", 0)
    folder.mkdir(parents=True)
    left = folder / f".part-{artefacts.HOST}-{dead}-0123abcd"
    written = folder / f".part-{artefacts.HOST}-{os.getpid()}-0123abcd"  # this process lives
    for temporary in (left, written):
        temporary.mkdir()
        (temporary / "votes.npy").write_text("half")
    runner.run_notebook(write_notebook("seed"), {})
    assert not left.exists()
    assert written.exists()


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
    started = [command(notebook, start=subprocess.Popen, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    folder = paths.run_folder("toy", "none/at all", 0)
    assert (folder / "log").read_text().split() == ["start", "end"] * 2
    assert sum("10_toy is run by process" in text for text in told) == 1
    assert listed(folder / "executed") == ["10_toy.ipynb"]


@pytest.mark.parametrize("value", ["-x", "--help", "a=b", "", "-", "it's {my} $dir\n"])
def test_a_value_may_begin_with_a_dash_or_hold_any_letters(value):
    joined = runner.joined_parameters(["x.py", "-p", "note", value, "-p", "a", "b"])
    assert [runner.name_and_value(text[2:]) for text in joined[1:]] == [("note", value), ("a", "b")]


@pytest.mark.slow
def test_what_is_left_out_alarms_and_the_page_are_told_where_the_notebook_runs(write_notebook):
    body = "print('open page')\n\nprint('left out: a.bmp')\nprint('alarm: flat')\nprint('hidden')"
    done = command(write_notebook(body), ("note", "-x"), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-3:] == ["left out: a.bmp", "alarm: flat", "open page"]
