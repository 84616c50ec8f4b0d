"""Processes as tests start and watch them."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make(*arguments: str, seconds: int = 60, **named: str) -> subprocess.CompletedProcess:
    """Run make as from a fresh shell, not as the child of the make that may run the tests."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | named
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def snakemake(
    folder: Path, *words: str, root: Path = ROOT, start=subprocess.run, **told: str
) -> subprocess.CompletedProcess:
    """The chain of notebooks in a folder, told as make tells it; `start` is run or Popen."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--cores", "2", "--nolock", "--rerun-incomplete", *words]
    environment = os.environ | {"OUTPUT_ROOT": str(folder), "PYTHONPATH": str(root)}
    environment |= {"SEEDS": "0", "FOLDS": "0", "VLM": "", "METHOD": "", "PARTS": ""} | told
    if start is subprocess.run:
        return start(command, cwd=folder, env=environment, capture_output=True, text=True)
    log = (folder / "chain.log").open("a")
    return start(
        command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds):
    """Ask until it is so or the time is over; returns whether it is so."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()
