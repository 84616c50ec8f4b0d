"""A fault as data: what is on the disk before, what a user does, what is said, what is left."""

import contextlib
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

SCREEN = 24, 100  # lines of so many letters
ENDED = (ValueError, RuntimeError, OSError)  # what `command_line.exit_status` makes a message of
# The words of errors that nobody wrote for a user.
RAW = re.compile(r"Traceback|object has no attribute|NoneType|codec can't|KeyError|TypeError")


@dataclass(frozen=True)
class Fault:
    """One fault by name.

    given: puts files into an empty folder; does: what the user does there, whose answer counts as
    said; says: texts that must be said; refused: whether it ends there, or else goes on; leaves:
    patterns of the files that may be there afterwards, beside those that were, unchanged.
    """

    area: str
    name: str
    given: Callable[[Path], Any]
    does: Callable[[Path], Any]
    says: Sequence[str]
    refused: bool = True
    leaves: Sequence[str] = ()


def problems(fault: Fault, folder: Path) -> list[str]:
    """What is wrong with how a fault is met, in an empty folder; nothing if it is met well."""
    fault.given(folder)
    before, output = _files(folder), folder / "results"
    named = {"OUTPUT_ROOT": str(output), "TMPDIR": str(folder.parent), "HF_HUB_OFFLINE": "1"}
    error, text = None, io.StringIO()
    with (
        mock.patch.dict(os.environ, named),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            answer = fault.does(folder)
            print(*answer if isinstance(answer, list) else [answer or ""], sep="\n")
        except ENDED as caught:
            error = caught
        except BaseException as caught:
            return [f"ends by {caught!r}"]
    told = [text.getvalue(), *(str(w.message) for w in warned), str(error or "")]
    said, found = "\n".join(part for part in told if part.strip()), []
    if fault.refused != (error is not None):
        found.append("goes on" if fault.refused else f"ends by {error!r}")
    found += [f"does not say {words!r}" for words in fault.says if words not in said]
    n_lines = sum(max(1, math.ceil(len(line) / SCREEN[1])) for line in said.splitlines())
    if n_lines > SCREEN[0]:
        found.append(f"says {n_lines} lines")
    if RAW.search(said):
        found.append(f"says {RAW.search(said)[0]!r}")
    after = _files(folder)
    found += [f"changed {name}" for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before]
    found += [f"leaves {n}" for n in new if not any(fnmatch(n, p) for p in fault.leaves)]
    return [*found, f"said: {said[:600]}"] if found else []


def _files(folder: Path) -> dict[str, Any]:
    """Files below a folder with size and time, and folders that are empty."""
    found: dict[str, Any] = {}
    for parent, folders, names in os.walk(os.fsencode(folder)):
        for name in names if names or folders else [b""]:
            path = os.path.join(parent, name)
            stat = os.lstat(path)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            found[key] = (stat.st_size, stat.st_mtime_ns) if name else ()
    found.pop(".", None)
    return found


def nothing(_: Path) -> None:
    """Nothing is on the disk."""


def put(contents: dict[str, Any]) -> Callable[[Path], None]:
    """Files by path of bytes, text, or what a function of the path writes."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(file)
            else:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write
