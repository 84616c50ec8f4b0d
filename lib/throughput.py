"""Time and memory of the parts of both methods against the number of tiles; needs Linux."""

import ctypes
import multiprocessing
import re
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.artefacts import new_array
from lib.blocks import blocks


def make_up_tiles(
    folder: Path, n_tiles: int, n_classes: int, n_features: int, *, n_views: int, seed: int
) -> Path:
    """Write what the VLM would give for tiles that there are not, and their classes.

    The files are those of `inference.embed_tiles` and `embed_views`, and truth.npy, int64 [N].
    Each class is a cloud about a centre of its own, near enough to others for networks that learn
    from a few labels to disagree, and prompts are right more often than not.
    """
    n, v, c, e = n_tiles, n_views, n_classes, n_features
    of_file: dict[str, tuple[tuple[int, ...], str]] = {
        "image_embeds": ((n, e), "f2"),
        "backbone_features": ((n, e), "f2"),
        "view_features": ((v, n, e), "f2"),
        "mean_features": ((n, e), "f2"),
        "probs": ((n, c), "f4"),
        "view_probs": ((n, c), "f4"),
        "votes": ((v, n), "i2"),
        "agree": ((n,), "?"),
        "truth": ((n,), "i8"),
    }
    folder.mkdir(parents=True)
    files = {name: new_array(folder / f"{name}.npy", *kind) for name, kind in of_file.items()}
    chance = np.random.default_rng(seed)
    centres = 0.3 * chance.standard_normal((c, e), np.float32)
    for block in blocks(n):
        truth = chance.integers(c, size=len(range(n)[block]))
        noise = chance.standard_normal((v + 2, len(truth), e), np.float32)
        looks = centres[truth] + 2 * noise[0]
        votes = 2 * np.eye(c)[truth] + 1.2 * chance.standard_normal((v + 1, len(truth), c))
        probs = np.exp(votes) / np.exp(votes).sum(2, keepdims=True)
        unit = looks + noise[1]
        files["image_embeds"][block] = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        files["backbone_features"][block], files["truth"][block] = looks, truth
        files["view_features"][:, block] = looks + noise[2:]
        files["mean_features"][block] = looks + noise[2:].mean(0)
        files["probs"][block], files["view_probs"][block] = probs[0], probs[1:].mean(0)
        files["votes"][:, block], files["agree"][block] = probs[1:].argmax(2), True
    return folder


def measure(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Call a function in a forked process; its seconds, CPU seconds and peak memory in MB.

    The memory is what is anonymous, above that at the start: pages of mapped files, which the
    system may take back, count in `ru_maxrss` and not here. Numbers by name that the function
    returns are added. Raises RuntimeError where it ends by an error.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_timed, args=(function, arguments, theirs))
    process.start()
    theirs.close()
    peaks = [0.0]
    try:
        start = ours.recv()
        while not ours.poll(0.005):
            peaks.append(_anonymous(process.pid) - start)
        measured = ours.recv()
    except (EOFError, OSError):
        measured = "the process ended, most often for lack of memory"
    process.join()
    if isinstance(measured, str):
        raise RuntimeError(measured)
    return {**measured, "memory_mb": max(peaks)}


def _timed(function: Callable[..., Any], arguments: Any, pipe: Connection) -> None:
    try:
        # What the parent has freed and kept would be taken again, and not be counted.
        ctypes.CDLL(None).malloc_trim(0)
        pipe.send(_anonymous("self"))
        wall, cpu = time.perf_counter(), time.process_time()
        found = function(*arguments)
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        more = found if isinstance(found, dict) else {}
        pipe.send({"seconds": seconds[0], "cpu_seconds": seconds[1], **more})
    except BaseException:
        pipe.send(traceback.format_exc())


def _anonymous(process: int | str | None) -> float:
    """MB of a process that belong to no file."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0  # none of a process that has just ended


def exponents(table: pd.DataFrame, column: str) -> pd.Series:
    """The exponent a of N^a between the two largest N of each part; NaN of what is nothing.

    table: a line per part and n_tiles; column: what grows, such as cpu_seconds.
    """
    grown = table.pivot(index="part", columns="n_tiles", values=column)
    grown = grown.where(grown > 0)
    before, last = grown.columns[-2:]
    return np.log(grown[last] / grown[before]) / np.log(last / before)
