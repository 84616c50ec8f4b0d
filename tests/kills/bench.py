"""A job that is killed at moments of chance and taken up again, beside the same one undisturbed."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from processes import wait_for

from lib import paths

# What is killed: all processes at once, as by a power cut, their first group, or the first alone,
# as by a system that is short of memory. Whatever lives on must end by itself.
HOW = ("all", "group", "first")
MOST = 40  # kills before a job may end in peace
PATIENCE = 60  # seconds until what lives on has ended
SUBREAPER = 36  # of prctl(2): whose parent was killed becomes a child of this process
Work = Callable[[Path], Any]


@dataclass(frozen=True)
class Job:
    """What a user does, again and again until it has ended.

    given: puts files into an empty folder; work: what is done there, in a process of its own;
    kills: of a whole bench; longest: before a kill, as a share of the undisturbed time.
    """

    name: str
    given: Work
    work: Work
    kills: int
    longest: float = 1.2


@dataclass
class Outcome:
    """Kills that met a running job, passages to its end, those that ended equal; what was wrong."""

    kills: Counter
    passages: int = 0
    equal: int = 0
    seconds: float = 0.0  # undisturbed
    problems: Sequence[str] = ()


class Place:
    """A folder for a job, `here`, with a home, a folder for temporaries and a log beside it."""

    def __init__(self, given: Work):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
        self.root = Path(tempfile.mkdtemp(prefix="kill-"))
        self.here, self.log, self.kept = (self.root / n for n in ("here", "log", "given"))
        for name in ("home", "t", "here"):  # short: sockets lie below
            (self.root / name).mkdir()
        self.before = self.beside = {process.pid for process in _children()}
        self.undisturbed(given)
        self.beside = {process.pid for process in _children()}  # a server, if one is given
        shutil.copytree(self.here, self.kept)

    def fresh(self) -> None:
        """Begin anew with what is given."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.kept, self.here)

    def start(self, work: Work) -> int:
        """Do something in a process, and a group, of its own."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.setsid()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(file, number)
            named = {"OUTPUT_ROOT": self.here, "TMPDIR": self.root / "t"}
            os.environ |= {n: str(p) for n, p in (named | {"HOME": self.root / "home"}).items()}
            tempfile.tempdir = None  # of the environment
            os.chdir(paths.ROOT)
            status = int(work(self.here) or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def running(self) -> list[psutil.Process]:
        """Processes of the job, those that lost their parent among them."""
        return [p for p in _children() if p.pid not in self.beside]

    def kill(self, process: int, how: str) -> bool:
        """Kill a job; whether it was still running."""
        if how == "all":
            self.kill_all()
        elif how == "group" and os.getpgid(process) == process:
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(process, 0)[1])

    def around(self) -> set[str]:
        """Files beside the job's own: in temporaries, home, shared memory and the checkout."""
        found = set()
        for folder in (self.root / "t", self.root / "home", "/dev/shm", paths.ROOT):
            for parent, inner, names in os.walk(folder):
                inner[:] = [n for n in inner if n not in (".git", ".venv") and "cache" not in n]
                found |= {os.path.join(parent, name) for name in [*names, *inner]}
        return found

    def undisturbed(self, *works: Work) -> float:
        """Do things one after the other; the seconds that they took."""
        started = time.monotonic()
        for work in works:
            assert os.waitpid(self.start(work), 0)[1] == 0, self.said()
        return time.monotonic() - started

    def state(self) -> tuple[dict[str, str], set[str]]:
        """What is there and around once nothing runs any more."""
        wait_for(lambda: not self.running(), PATIENCE)
        return contents(self.here) | {f"{p}": "runs" for p in self.running()}, self.around()

    def wrong(self, expected: tuple[dict[str, str], set[str]]) -> list[str]:
        """What is missing, more or different, here or around, from an earlier state."""
        before, (found, around) = expected[0], self.state()
        words = {(True, True): "differs", (True, False): "lacks", (False, True): "leaves"}
        problems = [
            f"{words[name in before, name in found]} {name}"
            for name in sorted({*before, *found})
            if before.get(name) != found.get(name)
        ]
        problems += [f"leaves {name}" for name in sorted(around - expected[1])]
        return [*problems, f"said: {self.said()}"] if problems else []

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def remove(self) -> None:
        self.beside = self.before
        self.kill_all()
        shutil.rmtree(self.root)

    def kill_all(self) -> None:
        while left := self.running():
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def _children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# --- what is compared ----------------------------------------------------------------------------

TIMES = rb"[0-9.]+ (s|seconds|minutes)\b|\"\w*seconds\": [0-9.e-]+"
DRAWN = rb"(T_|cell-id=|ipykernel_|at 0x|\.part-)[0-9a-f-]+"  # names of tables, processes, objects
UNLIKE = re.compile(TIMES + b"|" + DRAWN)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder by a digest of what it holds, without times; folders; links."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if ".snakemake" in name:  # its own notes of what ran when
            continue
        if file.is_symlink() or file.is_dir():
            found[name] = os.readlink(file) if file.is_symlink() else "folder"
        else:
            found[name] = hashlib.sha256(_without_times(file)).hexdigest()
    return found


def _without_times(file: Path) -> bytes:
    """What a file holds but seconds and names by chance, in notebooks, pages, rounds and facts.

    The lines of several people are sorted.
    """
    content = file.read_bytes()
    if file.name.endswith(".facts.parquet"):
        return pd.read_parquet(file).drop(columns="seconds").to_csv().encode()
    if file.suffix == ".ipynb":
        cells = json.loads(content)["cells"]
        content = json.dumps([[c["source"], c.get("outputs")] for c in cells]).encode()
    if file.suffix in (".ipynb", ".html", ".json"):
        return UNLIKE.sub(b"", content)
    if file.suffix == ".jsonl" or file.name == "labels.csv":
        return b"\n".join(sorted(content.splitlines()))
    return content


# --- passages ------------------------------------------------------------------------------------


def killed(job: Job, n_kills: int, draw: np.random.Generator) -> Outcome:
    """Do a job undisturbed, then kill it so many times, taking it up again each time."""
    place, outcome = Place(job.given), Outcome(Counter())
    try:
        outcome.seconds = place.undisturbed(job.work)
        expected = place.state()
        while outcome.kills.total() < n_kills:
            place.fresh()
            status = _passage(place, job, outcome, n_kills, draw)
            problems = [f"ends with status {status}"] * bool(status) + place.wrong(expected)
            outcome.passages += 1
            outcome.equal += not problems
            outcome.problems = outcome.problems or problems
    finally:
        place.remove()
    return outcome


def _passage(place: Place, job: Job, outcome: Outcome, n_kills: int, draw: Any) -> int:
    """Kill a job until it has ended before its time; its status then."""
    for n in range(MOST + 1):
        process = place.start(job.work)
        enough = outcome.kills.total() == n_kills or n == MOST
        end = time.monotonic() + draw.uniform(0, job.longest) * outcome.seconds
        ended = 0
        while not ended and (enough or time.monotonic() < end):
            ended, status = os.waitpid(process, 0 if enough else os.WNOHANG)
            time.sleep(0.002)
        if ended:
            return os.waitstatus_to_exitcode(status)
        how = HOW[draw.integers(len(HOW))]
        outcome.kills[how] += place.kill(process, how)
    raise AssertionError


def together(given: Work, works: Sequence[Work], after: Sequence[Work]) -> list[str]:
    """What differs where things are done at once, and others after, from one by one."""
    place = Place(given)
    try:
        place.undisturbed(*works, *after)
        expected = place.state()
        place.fresh()
        started = [place.start(work) for work in works]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in started]
        place.undisturbed(*after)
        return [f"end with {statuses}"] * any(statuses) + place.wrong(expected)
    finally:
        place.remove()
