"""A notebook that is forked from a warm process runs, fails and ends as one that starts alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alive, wait_for

from lib import paths, warm
from lib.command_line import INTERRUPTED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment():
    """What a job of the chain has in its environment, beside a warm process."""
    with warm.started() as named:
        if not named:
            pytest.skip("no process is forked on this system")
        yield os.environ | named | {"OMP_NUM_THREADS": "2"}


def start(notebook, environment, *words):
    command = [sys.executable, "-m", "lib.runner", str(notebook), *words]
    environment = environment | {"OUTPUT_ROOT": os.environ["OUTPUT_ROOT"]}
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(
        command, cwd=paths.ROOT, env=environment, text=True, stdout=null, stderr=pipe
    )


def run(notebook, environment, *words):
    process = start(notebook, environment, *words)
    return process.communicate(timeout=300)[1], process.returncode


SEEN = """
import os, sys
from pathlib import Path

Path(os.environ["OUTPUT_ROOT"], "warm").write_text(str("seaborn" in sys.modules));

import matplotlib.pyplot as plt
import pandas as pd
import torch

print(note, os.getcwd(), sys.path[0], torch.get_num_threads(), os.environ["OMP_NUM_THREADS"])

print("to the terminal", file=sys.stderr)

os.system("echo from a child");

plt.plot([1, 3, 2]);

pd.DataFrame({"a": [1, 2]})
"""


def outputs(error):
    """What the cells of the one executed notebook below a folder gave; whether it was forked."""
    root = Path(os.environ["OUTPUT_ROOT"])
    content = json.loads(next(root.rglob("executed/10_toy.ipynb")).read_text())
    cells = [(cell["source"], cell.get("outputs")) for cell in content["cells"]]
    return cells, error.splitlines()[0], (root / "warm").read_text()


def test_the_executed_copy_is_the_one_of_a_notebook_that_starts_alone(write_notebook, environment):
    notebook, found = write_notebook(SEEN), {}
    alone = {name: value for name, value in environment.items() if name != warm.ADDRESS}
    for name, own in (
        ("True", environment),
        ("False", alone),
        ("another variable", environment | {"HF_HUB_CACHE": "elsewhere"}),
        ("no server", environment | {warm.ADDRESS: "/nowhere/socket"}),
    ):
        error, status = run(notebook, own, "-p", "note", "-x")
        assert status == 0, error
        found[name] = outputs(error)
        assert found[name][2] == str(name == "True"), name
    assert len({json.dumps(cells[:2]) for cells in found.values()}) == 1
    text = json.dumps(found["True"])
    assert "image/png" in text and "from a child" in text and f"-x {paths.ROOT}" in text


def test_what_fails_fails_as_alone(write_notebook, environment):
    error, status = run(write_notebook("raise SystemExit"), environment, "-p", "sede", "1")
    assert status == 1 and error.startswith("error: ") and "did you mean seed?" in error
    killed = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    error, status = run(write_notebook(killed), environment)
    assert status == 1 and "for lack of memory: close" in error and "Traceback" not in error


SLOW = """
import os, subprocess, threading
from lib import paths
from lib.artefacts import atomic

folder = paths.run_folder(dataset, vlm, seed)
child = subprocess.Popen(["sleep", "100"])
with atomic(folder / "votes.npy") as part:
    part.write_text("half")
    pids = os.getpid(), os.getppid(), child.pid
    (folder / "pids").write_text(" ".join(map(str, pids)) + " .")
    threading.Event().wait(100)
"""


@pytest.mark.parametrize(
    "how, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_an_ended_caller_leaves_no_process(how, status, write_notebook, environment):
    folder = paths.run_folder("toy", "none/at all", 0)
    file = folder / "pids"
    process = start(write_notebook(SLOW), environment)
    try:
        assert wait_for(lambda: file.is_file() and file.read_text().endswith("."), 200)
        pids = [int(pid) for pid in file.read_text().split()[:-1]]
        assert process.pid not in pids and all(map(alive, pids))
        process.send_signal(how)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == status and "Traceback" not in error
        assert (INTERRUPTED in error) == (how == signal.SIGINT)
        assert wait_for(lambda: not any(map(alive, pids)), 20)
        named = {file.name for file in folder.iterdir() if ".part-" not in file.name}
        assert named == {"executed", "pids"}
    finally:
        process.kill()
        process.wait()


def test_a_runner_that_is_killed_is_an_error_of_its_caller(write_notebook, environment):
    file = paths.run_folder("toy", "none/at all", 0) / "pids"
    process = start(write_notebook(SLOW), environment)
    assert wait_for(lambda: file.is_file() and file.read_text().endswith("."), 200)
    kernel, runner, child = (int(pid) for pid in file.read_text().split()[:-1])
    os.kill(runner, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == warm.KILLED
    assert wait_for(lambda: not alive(kernel), 20)
    os.kill(child, signal.SIGKILL)  # as alone: of a kernel that loses its runner


def test_the_warm_process_ends_with_the_one_that_started_it():
    code = "from lib import warm\nwith warm.started() as n: print(n, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=paths.ROOT, stdin=pipe, stdout=pipe
    ) as process:
        process.stdout.readline()
        (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert alive(int(server))
        process.kill()
    assert wait_for(lambda: not alive(int(server)), 200)
