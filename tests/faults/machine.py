"""Disks, limits, interruptions and environments."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from made_up_results import made, scored
from processes import wait_for

from apps.labelling import answers
from apps.labelling.exchange import write_image_folder
from apps.own_tiles.tile_folder import list_tiles
from data.prepare import download
from lib import paths
from lib.artefacts import atomic, new_array, scratch_folder
from lib.command_line import exit_status
from lib.run_folder import Run
from lib.slides.geojson import write_geojson

from .fault import Fault, nothing, put
from .tiles import PLAIN

NEW_USER, NEW_MOUNTS, PRIVATE, READ_ONLY = 0x10000000, 0x20000, 0x44000, 1
TILES = {f"tiles/{name}": content for name, content in PLAIN.items()}


def forked(work, folder, before=lambda folder: None):
    """Do something in a process of its own; what it said, and what it left in the folder `disk`."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stdout = sys.stderr = open(2, "w", closefd=False)
            before(folder)
            status = exit_status(lambda: work(folder))
            left = sorted(f.relative_to(folder / "disk") for f in (folder / "disk").rglob("*"))
            os.write(2, f"status {status}, left: {', '.join(map(str, left))}\n".encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    os.waitpid(child, 0)
    if "status 0" not in said:
        raise ValueError(said)
    return said


def mounted(options, flags=0):
    """A disk of memory at `disk`, for this process alone."""

    def mount(folder):
        libc = ctypes.CDLL(None, use_errno=True)
        names = NEW_MOUNTS | (0 if os.getuid() == 0 else NEW_USER)
        disk = os.fsencode(folder / "disk")
        if (
            libc.unshare(names)
            or libc.mount(b"none", b"/", None, PRIVATE, None)
            or libc.mount(b"none", disk, b"tmpfs", flags, options)
        ):
            raise OSError(ctypes.get_errno(), "no disk of memory")
        os.environ["OUTPUT_ROOT"] = str(folder / "disk")

    return mount


def can_mount():
    """Whether this system lets a process have a disk of its own."""
    with scratch_folder() as folder:
        (folder / "disk").mkdir()
        try:
            return "status 0" in forked(lambda _: None, folder, mounted(b"size=4k"))
        except ValueError:
            return False


def write(folder):
    with atomic(folder / "disk" / "x.txt") as file:
        file.write_bytes(b"x" * 10**6)


def write_folder(folder):
    with atomic(folder / "disk" / "many") as new:
        new.mkdir()
        for n in range(40):
            (new / f"{n}").write_bytes(b"x" * 20_000)


def map_array(folder):
    with atomic(folder / "disk" / "x.npy") as file:
        new_array(file, (10**6,), np.uint8)


def save(folder):
    run = Run("10_zero_shot_inference", "toy", "v", 0)
    run.save(votes=np.zeros(10**6, np.uint8))


def save_table(folder):
    table = pd.DataFrame({"x": np.random.default_rng(0).random(10**5)})
    Run("10_zero_shot_inference", "toy", "v", 0).save(table=table)


def decide(folder):
    Run("10_zero_shot_inference", "toy", "v", 0, prompts=["x" * 1000] * 1000)


def record(folder):
    made(scored("zero-shot", 0.5, params={"x": os.urandom(10**6).hex()})).write(
        folder / "disk" / "r"
    )


def answer(folder):
    many = [answers.Answer(f"{n}", "fat", "anna") for n in range(10_000)]
    answers.append(folder / "disk" / "answers.jsonl", many)


def geojson(folder):
    write_geojson(folder / "disk" / "x.geojson", [{"x": "y" * 10**6}])


def decode(folder):
    list_tiles(folder / "tiles").decode("own", 224)


def copy(folder):
    found = list_tiles(folder / "tiles").table.path
    write_image_folder(folder / "disk" / "target", folder / "tiles", dict.fromkeys(found, "fat"))


FULL = "the disk or a quota is full, nothing was written to"
# What is written, which message, and the size of the disk.
WRITES = [
    ("a file", write, FULL, "x.txt"),
    ("a folder", write_folder, FULL, "many"),
    ("an array", map_array, FULL, "x.npy"),
    ("an array of a run", save, FULL, "votes.npy"),
    ("a table of a run", save_table, FULL, "table.parquet"),
    ("settings", decide, FULL, "settings.json"),
    ("the record", record, FULL, "/disk/r."),
    ("outlines", geojson, FULL, "x.geojson"),
    ("decoded tiles", decode, FULL, ".npy"),
    ("answers", answer, "answers.jsonl", "No space left"),
]
READ_ONLIES = [
    ("a file", write, "Read-only file system", "/disk"),
    ("settings", decide, "Read-only file system", "/disk"),
    ("decoded tiles", decode, "Read-only file system", "/disk"),
    ("answers", answer, "Read-only file system", "/disk"),
    ("labelled tiles", copy, "Read-only file system", "/disk"),
]


def full(work):
    return lambda folder: forked(work, folder, mounted(b"size=128k"))


def read_only(work):
    return lambda folder: forked(work, folder, mounted(b"", READ_ONLY))


def limited(kind, amount):
    """A limit of the shell that the user works in."""

    def limit(_):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = amount + (now if kind == resource.RLIMIT_AS else 0)
        resource.setrlimit(kind, (most, most))

    return limit


def large(_):
    np.ones(2**28)


def many_files(folder):
    list_tiles(folder / "tiles").decode("own", 32)


# --- interruptions and environments ---------------------------------------------------------------


def command(*words, **environment):
    """A command of this repository in a process of its own: what it said."""

    def run(folder):
        named = {"OUTPUT_ROOT": str(folder / "results"), **environment}
        named = {name: value.format(folder=folder) for name, value in named.items()}
        line = [sys.executable, "-m", *words]
        ended = subprocess.run(
            line, cwd=paths.ROOT, env=os.environ | named, capture_output=True, text=True
        )
        if ended.returncode:
            raise ValueError(ended.stdout + ended.stderr)
        return ended.stdout + ended.stderr

    return run


def interrupted(*words):
    """A command that gets Ctrl-C while it imports."""

    def run(folder):
        line = [sys.executable, "-m", *words]
        pipe = subprocess.PIPE
        named = os.environ | {"OUTPUT_ROOT": str(folder / "results")}
        with subprocess.Popen(
            line, cwd=paths.ROOT, env=named, text=True, stdout=pipe, stderr=pipe
        ) as process:
            mapped = Path(f"/proc/{process.pid}/maps")
            wait_for(lambda: process.poll() is not None or "/numpy/" in mapped.read_text(), 120)
            process.send_signal(signal.SIGINT)
            said = "".join(process.communicate())
        raise ValueError(f"status {process.returncode}: {said}")

    return run


OWN = ("lib.runner", str(paths.notebook_file("90_your_own_tiles")), "-p", "folder", "/nowhere")
OWN += ("-p", "classes", "fat; muscle")
MODULES = {
    "make own": ("lib.runner", str(paths.notebook_file("90_your_own_tiles"))),
    "make data": ("data.prepare", "demo"),
    "make figures": ("figures.publish",),
    "make label": ("apps.labelling.start", "-p", "folder", "/nowhere"),
}
KERNEL = '{{"argv": ["/bin/false"], "display_name": "x", "language": "python"}}'
REFUSED = "no such folder of tiles: /nowhere"
LEAVES = ["results/data/runs/*"]


def hangs(folder):
    """A server that takes a connection and never answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        mock.patch.multiple(download, TIMEOUT=(0.2, 0.2), PAUSE=0.0),
    ):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/s.zip"
        download.download(url, folder / "got" / "s.zip")


# Without UTF-8 mode this is ASCII, which has less than Latin-1 and is on every machine.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
DISK = put(TILES | {"disk/.keep": ""})
FAULTS = []
if can_mount():
    FAULTS += [
        Fault("machine", f"a full disk: {n}", DISK, full(work), says) for n, work, *says in WRITES
    ]
    FAULTS += [
        Fault("machine", f"a read-only disk: {n}", DISK, read_only(work), says)
        for n, work, *says in READ_ONLIES
    ]
FAULTS += [
    Fault(
        "machine",
        f"a limit of file sizes: {n}",
        DISK,
        lambda folder, work=work: forked(work, folder, limited(resource.RLIMIT_FSIZE, 10_000)),
        [FULL, where],
    )
    for n, work, where in (("a file", write, "x.txt"), ("a folder", write_folder, "many"))
]
FAULTS += [
    Fault(
        "machine",
        "a limit of memory",
        DISK,
        lambda folder: forked(large, folder, limited(resource.RLIMIT_AS, 2**29)),
        ["there is too little memory"],
    ),
]
FAULTS += [
    Fault(
        "machine",
        f"Ctrl-C while {title} imports",
        nothing,
        interrupted(*words),
        ["status 130: interrupted"],
        leaves=["results/*"],
    )
    for title, words in MODULES.items()
]
FAULTS += [
    Fault(
        "machine",
        "a long TMPDIR",
        lambda folder: (folder / ("t" * 100)).mkdir(),
        command(*OWN, TMPDIR="{folder}/" + "t" * 100),
        [REFUSED],
        leaves=LEAVES,
    ),
    Fault(
        "machine",
        "another kernel in JUPYTER_PATH",
        put({"j/kernels/python3/kernel.json": KERNEL.replace("{{", "{").replace("}}", "}")}),
        command(*OWN, JUPYTER_PATH="{folder}/j"),
        [REFUSED],
        leaves=LEAVES,
    ),
    Fault(
        "machine",
        "a language without UTF-8",
        nothing,
        command(*OWN[:-1], "Drüse ≥ 2; Drüse ≥ 2", **ASCII),
        ["Drüse ≥ 2"],
        leaves=LEAVES,
    ),
    Fault(
        "machine",
        "an output in Latin-1",
        nothing,
        command("data.prepare", "demoo", PYTHONIOENCODING="latin-1", LC_ALL="C"),
        ["there is no dataset 'demoo': did you mean demo"],
    ),
    Fault(
        "machine",
        "a server that hangs",
        nothing,
        hangs,
        ["waiting for http://127.0.0.1", "try 5 of 5", "could not be downloaded in 5 tries"],
        leaves=["got"],
    ),
]
