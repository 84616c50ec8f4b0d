"""What people answered, tile by tile: a file of lines that is only ever added to.

Each line is a JSON object:

    {"tile": digest, "action": "label", "label": "adipose", "who": "anna",
     "when": "2026-01-31T09:15:00.000+00:00", "seconds": 2.1, "suggestion": false}

`tile` is the digest of the file's bytes (`data.tiles.digests`), so that an answer belongs to the
picture, whatever loop, strategy or run asks for it. `label` is a class name, or null for "none of
these, or cannot be judged". `action` is label, skip (passed over without a label) or undo (takes
back the answer of this person for this tile). The last line of a person for a tile counts.
"""

import codecs
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.active.loop import Waiting
from lib.artefacts import locked
from lib.labels import REFUSED, UNANSWERED

ACTIONS = ("label", "skip", "undo")
COLUMNS = ("line", "tile", "action", "label", "who", "when", "seconds", "suggestion")


@dataclass(frozen=True)
class Answer:
    """One line. suggestion: whether the model's suggestion was shown when it was given."""

    tile: str
    label: str | None
    who: str
    when: str = ""
    seconds: float | None = None
    suggestion: bool = False
    action: str = "label"


@dataclass(frozen=True)
class Answers:
    """What a file holds. lines: a row per good line (`COLUMNS`); problems: the others, in words."""

    lines: pd.DataFrame
    problems: list[str]


def now() -> str:
    """Time in UTC, as the lines have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# --- the file ------------------------------------------------------------------------------------


def append(file: Path, answers: Iterable[Answer]) -> None:
    """Add lines and wait until they are on the disk; several processes may do so at once.

    A line that was cut off when a process was killed is ended first, so that it spoils no other.
    """
    lines = [line_of(answer) for answer in answers]
    if not lines:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f".{file.name}.lock")), file.open("ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) != b"\n":
                opened.write(b"\n")
        opened.write(b"".join(lines))
        opened.flush()
        os.fsync(opened.fileno())


def line_of(answer: Answer) -> bytes:
    """The line of an answer, whose time is now if it has none. Raises ValueError if it is none."""
    values = asdict(answer) | {"when": answer.when or now()}
    if problem := _problem(values):
        raise ValueError(f"this is no answer, {problem}")
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def add_new(file: Path, answers: Sequence[Answer]) -> int:
    """Append those that the file does not hold yet; returns how many. To import a file twice.

    An answer without a time is new unless it is what the person says of the tile already.
    """
    lines = read(file).lines
    known = pd.concat([lines, standing(lines).assign(when="")])
    held = set(zip(known.tile, known.who, known.when, known.label, known.action, strict=True))
    new = [a for a in answers if (a.tile, a.who, a.when, a.label, a.action) not in held]
    append(file, new)
    return len(new)


def read(
    file: Path, class_names: Sequence[str] | None = None, digests: Iterable[str] | None = None
) -> Answers:
    """All lines of a file; none where there is no file yet.

    A line that is no answer is left out and named in `problems` by file and line: no JSON object in
    UTF-8, a field that is missing, unknown or of the wrong kind, a class that is none of
    class_names, a tile that is none of digests (where these are given). A last line without an end
    that is no JSON was cut off while it was written, which `problems` says. The file itself is
    never changed. Raises ValueError for a file in UTF-16.
    """
    if not file.is_file():
        return Answers(table_of([]), [])
    known = None if digests is None else set(digests)
    rows, problems = [], []
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ValueError(f"{file} is UTF-16: save it as UTF-8")
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode())
                problem = _problem(values, class_names, known)
            except (ValueError, RecursionError):
                problem = "no whole line of JSON in UTF-8"
                if not line.endswith(b"\n"):
                    problem = "cut off while it was written"
            if problem:
                problems.append(f"{file}, line {number}: {problem[:300]}")
                continue
            if values["label"] is not None and class_names is not None:
                values["label"] = matching_class(values["label"], class_names)
            rows.append({"line": number} | values)
    return Answers(table_of(rows), problems)


def matching_class(label: str, class_names: Sequence[str]) -> str | None:
    """The class that is called so, whether accents are composed or not; None if none is."""
    text = unicodedata.normalize("NFC", label)
    return next((n for n in class_names if unicodedata.normalize("NFC", n) == text), None)


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Lines as a table with `COLUMNS`; a label that is None stays None."""
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    return table.astype({"seconds": float, "suggestion": bool})


def _problem(
    given: Any, class_names: Sequence[str] | None = None, digests: set[str] | None = None
) -> str:
    """What is wrong with a line; empty if nothing is."""
    if not isinstance(given, Mapping):
        return "no JSON object"
    names = [field.name for field in fields(Answer)]
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        return f"without {', '.join(missing)}" if missing else f"unknown field {unknown[0]!r}"
    for name in ("tile", "who"):
        if not isinstance(given[name], str) or not given[name].strip():
            return f"{name} is {given[name]!r}"
        given[name].encode()  # a lone surrogate, which JSON can escape, could not be written again
    label, action, seconds = given["label"], given["action"], given["seconds"]
    if action not in ACTIONS:
        return f"action is {action!r}, none of {', '.join(ACTIONS)}"
    if label is not None and (not isinstance(label, str) or action != "label"):
        return f"label is {label!r}, action {action!r}"
    if label is not None and class_names is not None and not matching_class(label, class_names):
        return f"the class {label!r} is none of {', '.join(class_names)}"
    if seconds is not None and not _is_duration(seconds):
        return f"seconds is {seconds!r}"
    if not isinstance(given["suggestion"], bool):
        return f"suggestion is {given['suggestion']!r}"
    try:
        datetime.fromisoformat(given["when"])
    except (TypeError, ValueError):
        return f"when is {given['when']!r}, no ISO time"
    if digests is not None and given["tile"] not in digests:
        return f"no tile here has the digest {given['tile']!r}"
    return ""


def _is_duration(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < 1e9  # a whole number in JSON can be too large for a float


# --- what counts ---------------------------------------------------------------------------------


def standing(lines: pd.DataFrame) -> pd.DataFrame:
    """The last line of each person for each tile, in the order of the file; undone ones are out."""
    last = lines.drop_duplicates(["tile", "who"], keep="last")
    return last[last.action != "undo"].reset_index(drop=True)


def resolve(lines: pd.DataFrame, class_names: Sequence[str]) -> dict[str, int]:
    """One answer for every tile in the file, by digest.

    A class index or `REFUSED` where all who judged the tile say the same; `UNANSWERED` where they
    differ, until they agree, and where it was only skipped or all was taken back.
    """
    number = {name: k for k, name in enumerate(class_names)}
    resolved = dict.fromkeys(lines.tile, UNANSWERED)
    judged = standing(lines).query("action == 'label'")
    for tile, labels in judged.groupby("tile").label:
        given = {number[label] if isinstance(label, str) else REFUSED for label in labels}
        resolved[str(tile)] = given.pop() if len(given) == 1 else UNANSWERED
    return resolved


class AnswersOracle:
    """An `Oracle` that answers what people have written to a file.

    tiles, digests: [N], numbers and digests of all tiles that may be asked for. Reads the file at
    each call. Of a query that nobody has gone through to the end it is `Waiting`. A tile that is
    skipped, or that people see differently, is left out.
    """

    def __init__(
        self, file: Path, class_names: Sequence[str], tiles: np.ndarray, digests: Sequence[str]
    ):
        self.file, self.class_names = file, list(class_names)
        self.digest = dict(zip(tiles.tolist(), digests, strict=True))

    def read(self) -> Answers:
        return read(self.file, self.class_names, self.digest.values())

    def known(self) -> dict[int, int]:
        """Answers by tile number, `UNANSWERED` where the answers do not count."""
        resolved = resolve(self.read().lines, self.class_names)
        return {tile: resolved[d] for tile, d in self.digest.items() if d in resolved}

    def label(self, tiles: np.ndarray) -> dict[int, int]:
        lines = self.read().lines
        seen, resolved = set(standing(lines).tile), resolve(lines, self.class_names)
        open_tiles = [tile for tile in tiles.tolist() if self.digest[tile] not in seen]
        if open_tiles:
            raise Waiting(f"{len(open_tiles)} of {len(tiles)} tiles wait for a label")
        answers = {tile: resolved[self.digest[tile]] for tile in tiles.tolist()}
        return {tile: label for tile, label in answers.items() if label != UNANSWERED}
