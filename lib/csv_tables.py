"""The one reader of tables that people give: every cell is text, and what is wrong has a line.

CSV with commas, semicolons or tabs, in UTF-8 or, with its byte-order mark, UTF-16, as spreadsheets
write it. No word stands for a missing value, and no type is guessed.
"""

import csv
import io
import math
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

MAX_BYTES = 100 * 2**20
SHOWN = 10  # problems that a message names


def read_table(
    file: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    problems: list[str] | None = None,
) -> pd.DataFrame:
    """The columns of a table that are asked for, as text, and `line`, the line of each row.

    Columns are found whatever their capitals; an optional one that is not there is left out, and so
    are all others. Spaces around a cell, empty rows and the line `sep=;` of a spreadsheet do not
    count. Raises ValueError naming the file, and line or column, for another encoding, a file above
    100 MB, a missing column, two columns with one name, a quote that is not closed, and all rows
    with fewer or more cells than the header; with `problems` these are left out and added to it.
    """
    text = _text(file)
    wanted = list(dict.fromkeys([*required, *optional]))
    if "line" in wanted:
        raise ValueError(f"{file}: rename its column 'line', which counts the lines here")
    header, rows = _header(file, text, required, wanted)
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{file} has two columns {name!r}")
    columns = {name: header.index(name) for name in wanted if name in header}
    made, ragged = [], []
    for line, cells in rows:
        if len(cells) < len(header) or any(cells[len(header) :]):
            ragged.append(f"line {line}: {len(cells)} cells, where the header has {len(header)}")
        else:
            made.append([*(cells[place] for place in columns.values()), line])
    if problems is None:
        refuse(str(file), ragged)
    else:
        problems += ragged
    table = pd.DataFrame(made, columns=[*columns, "line"], dtype=object)
    return table.astype(dict.fromkeys(columns, str) | {"line": int})


def _header(
    file: Path, text: str, required: Sequence[str], wanted: Sequence[str]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The first row, by the delimiter with which it has all required columns; and those after."""
    spelled = {_folded(name): name for name in wanted}
    headers = []
    for delimiter in ",;\t":
        rows = _rows(file, text, delimiter)
        try:
            header = [spelled.get(_folded(c), c) for c in next(rows, (1, []))[1]]
        except ValueError as error:  # quoted cells with another delimiter after them
            unreadable = error
            continue
        if header and not set(required) - set(header):
            return header, rows
        headers.append(header)
    if not headers:
        raise unreadable
    header = max(headers, key=len)
    missing = ", ".join(repr(name) for name in required if name not in header)
    columns = ", ".join(header[:SHOWN]) or "none"
    raise ValueError(f"{file} has no column {missing}; its columns: {columns}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file} is larger than {MAX_BYTES >> 20} MB")
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ValueError(f"{file} is a workbook or an archive: save the table as CSV in UTF-8")
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise UnicodeDecodeError(encoding, content, content.index(b"\0"), 0, "")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: the byte 0x{content[error.start]:02x} is no text in UTF-8. Save "
            "the table as UTF-8; from a spreadsheet it often is cp1252 (Windows) or UTF-16"
        ) from error
    return text


def _rows(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not (line == 1 and cells[0].startswith("sep=")):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: {error}; is a quote not closed?") from error


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raise ValueError with the first ten problems and the number of the others, if any."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{where}, {'; '.join(problems[:SHOWN])}{more}")


def number(text: str, where: str) -> float:
    """A finite number, with a decimal point or comma. Raises ValueError beginning with where."""
    if re.fullmatch(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?", text):
        value = float(text.replace(",", "."))
        if math.isfinite(value):
            return value
    raise ValueError(f"{where}: {text!r} is no number")


def path_key(path: str) -> str:
    """One text for all spellings of a relative path, by which tables and folders are compared.

    Accents composed or not (NFC, NFD), Windows' backslashes, `./`, `//` and spaces around it.
    A `~` is a letter like any other.
    """
    text = unicodedata.normalize("NFC", path).replace("\\", "/").strip()
    return posixpath.normpath(text) if text else ""
