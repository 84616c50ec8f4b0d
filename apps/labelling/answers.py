"""Answers of people, tile by tile, in a file of JSON lines that is only ever added to.

    {"tile": digest, "label": "adipose", "who": "anna", "when": "2026-01-31T09:15:00.000+00:00",
     "seconds": 2.1, "suggestion": false, "action": "label", "ask": "query"}

`tile` is the digest of the file's bytes (`data.tiles.digest`), so that an answer belongs to the
picture, whatever loop, strategy or run asks for it. The last line of a person for a tile counts.
"""

import codecs
import fcntl
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lib.labels import NONE_OF_THESE, REFUSED, UNANSWERED

COLUMNS = ("line", "tile", "label", "who", "when", "seconds", "suggestion", "action", "ask")


def _iso_time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


Name = Annotated[str, Field(pattern=r"\S")]
Seconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Answer:
    """What a person says of a tile. Raises ValueError for a value of another form.

    label: a class name, or None for "none of these, or cannot be judged"; when: ISO time, "" for
    the time of writing; suggestion: whether the model's suggestion was shown; action: skip passes a
    tile over without a label, undo takes the answer of this person to this tile back; ask: what the
    tile was shown for.
    """

    tile: Name
    label: str | None
    who: Name
    when: Annotated[str, AfterValidator(_iso_time)] = ""
    seconds: Seconds | None = None
    suggestion: bool = False
    action: Literal["label", "skip", "undo"] = "label"
    ask: Literal["query", "second", "disputed", "audit"] = "query"

    def __post_init__(self) -> None:
        if self.label is not None and self.action != "label":
            raise ValueError(f"label is {self.label!r}, action {self.action!r}")


JSON_LINE = TypeAdapter(Answer)


class Answers(NamedTuple):
    """What a file holds: a row of `COLUMNS` per answer, and in words the lines that are none."""

    lines: pd.DataFrame
    problems: list[str]


class Problems(list[str]):
    """What is wrong with which line or task of a file, in words."""

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Note what is wrong with one line instead of raising it."""
        try:
            yield
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = " ".join(map(str, first["loc"]))
            self.append(f"{where}: {name} {first['input']!r:.80}: {first['msg']}"[:500])
        except ValueError as error:
            self.append(f"{where}: {error}"[:500])
        except (AttributeError, LookupError, TypeError):  # another form than a task's
            self.append(f"{where}: it is no task as it is exported")


def class_called(label: str, class_names: Sequence[str]) -> str | None:
    """Return the class of that name, accents composed or not, None for `NONE_OF_THESE`.

    Raises ValueError for another name.
    """
    text = unicodedata.normalize("NFC", label)
    if text == NONE_OF_THESE:
        return None
    for name in class_names:
        if unicodedata.normalize("NFC", name) == text:
            return name
    raise ValueError(f"the class {label!r} is none of {', '.join(class_names)}")


# --- the file ------------------------------------------------------------------------------------


def append(file: Path, answers: Iterable[Answer]) -> None:
    """Add lines and wait until they are on the disk; several processes may do so at once.

    A line that was cut off when a process was killed is ended first, so that it spoils no other.
    Raises OSError naming the file where the disk takes none.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = [JSON_LINE.dump_json(replace(a, when=a.when or now)) + b"\n" for a in answers]
    if not lines:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("ab+") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            if opened.seek(0, os.SEEK_END):
                opened.seek(-1, os.SEEK_END)
                if opened.read(1) != b"\n":
                    opened.write(b"\n")
            opened.write(b"".join(lines))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, no answer was kept", str(file)) from error


def add_new(file: Path, answers: Sequence[Answer]) -> int:
    """Append the answers that the file does not hold yet and return their number.

    An answer without a time is new unless it is what the person says of the tile already.
    """
    lines = read(file).lines
    before = pd.concat([lines, standing(lines).assign(when="")])
    keys = ["tile", "who", "when", "label", "action"]
    held = set(before[keys].itertuples(index=False, name=None))
    new = [a for a in answers if tuple(getattr(a, key) for key in keys) not in held]
    append(file, new)
    return len(new)


def read(
    file: Path, class_names: Sequence[str] | None = None, digests: Iterable[str] | None = None
) -> Answers:
    """Read all lines of a file; there are none where there is no file yet.

    A line that is no `Answer`, or of a class or tile that is not among class_names and digests
    (where these are given), is left out and named by file and line. So is a last line that was cut
    off. The file itself is never changed. Raises ValueError for a file in UTF-16.
    """
    content = file.read_bytes() if file.is_file() else b""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{file} is UTF-16: save it as UTF-8")
    *lines, end = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    tiles = None if digests is None else set(digests)
    read_answers, problems = dict[int, Answer](), Problems()
    for number, line in enumerate([*lines, end], 1):
        if not line.strip():
            continue
        with problems.at(f"{file}, line {number}"):
            try:
                answer = JSON_LINE.validate_json(line)
            except ValidationError as error:
                if error.errors()[0]["type"] != "json_invalid":
                    raise
                cut = line is end
                what = "cut off while it was written" if cut else "no whole line of JSON in UTF-8"
                raise ValueError(what) from None
            if tiles is not None and answer.tile not in tiles:
                raise ValueError(f"no tile here has the digest {answer.tile!r}")
            if class_names is not None and answer.label is not None:
                answer = replace(answer, label=class_called(answer.label, class_names))
            read_answers[number] = answer
    return Answers(table_of(list(read_answers.values()), list(read_answers)), list(problems))


def table_of(answers: Sequence[Answer], numbers: Sequence[int] | None = None) -> pd.DataFrame:
    """Make a table with `COLUMNS` of answers; a label that is None stays None."""
    rows = [vars(answer) for answer in answers]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    table["line"] = np.arange(1, len(table) + 1) if numbers is None else np.array(numbers, int)
    return table.astype({"seconds": float, "suggestion": bool})


# --- what counts ---------------------------------------------------------------------------------


def standing(lines: pd.DataFrame) -> pd.DataFrame:
    """Take the last line of each person for each tile, in file order; undone ones are out."""
    last = lines.drop_duplicates(["tile", "who"], keep="last")
    return last[last.action != "undo"].reset_index(drop=True)


def resolve(lines: pd.DataFrame, class_names: Sequence[str]) -> dict[str, int]:
    """Reduce the lines to one answer per tile, by digest.

    A class index or `REFUSED` where all who judged the tile say the same; `UNANSWERED` where they
    differ, until they agree, and where it was only skipped or all was taken back.
    """
    index = {name: k for k, name in enumerate(class_names)}
    resolved = dict.fromkeys(lines.tile, UNANSWERED)
    for tile, labels in standing(lines).query("action == 'label'").groupby("tile").label:
        said = {index[label] if isinstance(label, str) else REFUSED for label in labels}
        resolved[str(tile)] = said.pop() if len(said) == 1 else UNANSWERED
    return resolved


class AnswersOracle:
    """An `Oracle` that answers what people have written to a file.

    tiles, digests: [N], numbers and digests of all tiles that may be asked for; withheld: returns
    the digests whose answers do not count yet, as those of an audit (`audit.withheld`). Reads the
    file at each call. Of a query that nobody has gone through to the end it is `Waiting`. A tile
    that is skipped, or that people see differently, is left out. none: the label of a tile that
    shows no class, where other tissue is learnt.
    """

    def __init__(
        self,
        file: Path,
        class_names: Sequence[str],
        tiles: np.ndarray,
        digests: Sequence[str],
        withheld: Callable[[], set[str]] = set,
        *,
        none: int = REFUSED,
    ):
        self.file, self.class_names, self.none = file, list(class_names), none
        self.withheld = withheld
        self.digest = dict(zip(tiles.tolist(), digests, strict=True))

    def read(self) -> Answers:
        return read(self.file, self.class_names, self.digest.values())

    def known(self) -> dict[int, int]:
        """Look up answers by tile number, `UNANSWERED` where the answers do not count."""
        resolved = self._resolved(self.read().lines)
        return {tile: resolved[d] for tile, d in self.digest.items() if d in resolved}

    def _resolved(self, lines: pd.DataFrame) -> dict[str, int]:
        resolved = resolve(lines, self.class_names)
        resolved |= dict.fromkeys(self.withheld() & resolved.keys(), UNANSWERED)
        return {d: self.none if label == REFUSED else label for d, label in resolved.items()}

    def label(self, tiles: np.ndarray) -> dict[int, int]:
        from lib.active.loop import Waiting  # PyTorch, which reading answers does not need

        lines = self.read().lines
        seen, resolved = set(standing(lines).tile), self._resolved(lines)
        n_open = sum(self.digest[tile] not in seen for tile in tiles.tolist())
        if n_open:
            raise Waiting(f"{n_open} of {len(tiles)} tiles wait for a label")
        answers = {tile: resolved[self.digest[tile]] for tile in tiles.tolist()}
        return {tile: label for tile, label in answers.items() if label != UNANSWERED}
