"""Answers in and out: CSV, QuPath's GeoJSON, and the labelled set as an image folder."""

import os
import shutil
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from apps.labelling import answers
from apps.labelling.answers import Answer
from apps.labelling.session import OwnTiles
from apps.slide_viewer.annotations import read_tiles_geojson
from lib import paths
from lib.artefacts import atomic
from lib.csv_tables import number, path_key, read_table, refuse
from lib.labels import NONE_OF_THESE, REFUSED, UNLABELLED

OTHER_TISSUE = "other tissue"  # the class of a slide's tiles that show none of its classes

# --- CSV -----------------------------------------------------------------------------------------


def write_csv(file: Path, lines: pd.DataFrame, unique: pd.DataFrame) -> None:
    """What each person says of each tile: path, label, who, when, seconds, suggestion, tile.

    unique: path and digest of the tiles; answers to others have an empty path. `NONE_OF_THESE`
    stands where a tile shows no class.
    """
    latest = answers.standing(lines).query("action == 'label'")
    latest = latest.assign(
        label=latest.label.fillna(NONE_OF_THESE),
        path=latest.tile.map(dict(zip(unique.digest, unique.path, strict=True))),
    )
    columns = ["path", "label", "who", "when", "seconds", "suggestion", "tile"]
    with atomic(file) as temporary:
        latest[columns].to_csv(temporary, index=False)


def read_csv(
    file: Path, table: pd.DataFrame, class_names: Sequence[str], who: str = "csv"
) -> list[Answer]:
    """Answers of a CSV with the columns path and label, and perhaps who, when and seconds.

    table: path and digest of every file, whose paths count from the folder of the tiles. Lines
    without a label are passed over. Raises ValueError as `read_table` does, and naming every line
    with an unknown path or class, a value that is none, or a second label of one person for a tile
    or a copy of it.
    """
    rows = read_table(file, ("path", "label"), ("who", "when", "seconds"))
    digests = table.groupby(table.path.map(path_key)).digest.unique()
    said: dict[tuple[str, str], tuple[Answer, int]] = {}
    problems = []
    for row in rows[rows.label != ""].to_dict("records"):
        where = f"line {row['line']}"
        try:
            answer = _csv_answer(row, digests, class_names, who)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        first, line = said.setdefault((answer.tile, answer.who), (answer, row["line"]))
        if first.label != answer.label:
            two = f"{answer.who} gives {row['path']!r} two labels"
            problems.append(f"{where}: {two}, the first in line {line}")
    refuse(str(file), problems)
    return [answer for answer, _ in said.values()]


def _csv_answer(
    row: Mapping[str, str], digests: pd.Series, class_names: Sequence[str], who: str
) -> Answer:
    tiles = digests.get(path_key(row["path"]), ())
    if len(tiles) != 1:
        what = "there is no tile" if not len(tiles) else "not one but several tiles are called"
        raise ValueError(f"{what} {row['path']!r} in the folder of the tiles")
    label = checked_class(row["label"], class_names)
    seconds = number(row["seconds"], "seconds") if row.get("seconds") else None
    answer = Answer(tiles[0], label, row.get("who") or who, row.get("when", ""), seconds)
    answers.line_of(answer)  # raises for what is no answer
    return answer


def checked_class(label: str, class_names: Sequence[str]) -> str | None:
    """A class name, or None for `NONE_OF_THESE`. Raises ValueError for another."""
    if NONE_OF_THESE in class_names:
        raise ValueError(f"rename the class {NONE_OF_THESE!r}: it says that a tile shows no class")
    if label == NONE_OF_THESE:
        return None
    name = answers.matching_class(label, class_names)
    if name is None:
        raise ValueError(f"the class {label!r} is none of {', '.join(class_names)}")
    return name


def read_labels(
    file: Path, table: pd.DataFrame, class_names: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Labels by digest as `answers.resolve` has them, of a file of answers or a CSV; and problems.

    table: path and digest of every file. Of a file of answers, lines that are none are problems, in
    words, and left out. Raises ValueError for a CSV that `read_csv` refuses, for another kind of
    file, and where no answer is left.
    """
    if not file.is_file():
        raise ValueError(f"there is no file of labels {file}")
    if file.suffix.lower() == ".jsonl":
        read = answers.read(file, class_names, table.digest)
        lines, problems = read.lines, read.problems
    elif file.suffix.lower() == ".csv":
        given = read_csv(file, table, class_names)
        lines, problems = answers.table_of([vars(a) for a in given]), []
    else:
        raise ValueError(f"{file}: labels are read from .csv and .jsonl")
    if not len(lines):
        more = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"{file} holds no answer for these tiles and classes{more}")
    return answers.resolve(lines, class_names), problems


def overrule(labels: np.ndarray, digests: Sequence[str], given: Mapping[str, int]) -> np.ndarray:
    """Pseudo labels with what people say in their place, int64 [N].

    given: from `read_labels`. A class replaces the pseudo label; a tile that shows no class, or
    that people see differently, loses it.
    """
    answered = (given.get(digest) for digest in digests)
    pairs = zip(answered, labels.tolist(), strict=True)
    new = [label if g is None else g if g >= 0 else UNLABELLED for g, label in pairs]
    return np.array(new, np.int64)


def with_labels(predicted: pd.DataFrame, own: OwnTiles, lines: pd.DataFrame) -> pd.DataFrame:
    """The table of predictions with a column `label`: what people agree on, else empty."""
    resolved = answers.resolve(lines, own.class_names)
    names = {k: name for k, name in enumerate(own.class_names)} | {REFUSED: NONE_OF_THESE}
    label = own.table.digest.map(resolved).map(names).fillna("")
    return predicted.assign(label=label.values)


# --- QuPath --------------------------------------------------------------------------------------


def read_qupath(
    file: Path,
    table: pd.DataFrame,
    class_names: Sequence[str],
    who: str = "qupath",
    *,
    every: bool = False,
) -> list[Answer]:
    """Tiles that somebody gave another class in QuPath, from its GeoJSON.

    table: x, y (top left, level-0 pixels, from the bounds) and digest of the slide's tiles. QuPath
    does not say which tiles a person has looked at: taken are those whose class is not the one that
    `annotations.tiles_geojson` wrote, or with `every` all that have a class. Tiles of which the
    file does not say what was written are left out, with a warning. Raises ValueError naming the
    file and every taken tile that has an unknown class or two, or is not in the table.
    """
    objects = read_tiles_geojson(file)
    objects = objects[objects["class"] != ""]
    if not every:
        unknown = objects.written == ""
        if unknown.any():
            warnings.warn(
                f"{file} does not say which class {unknown.sum()} tiles had before somebody could "
                "change it: they are left out. every=True takes each as a label",
                stacklevel=2,
            )
        changed = objects["class"].map(_in_qupath) != objects.written.map(_in_qupath)
        objects = objects[changed & ~unknown]
    corners = zip(table.x, table.y, table.digest, strict=True)
    places = {(round(x), round(y)): digest for x, y, digest in corners}
    names = {_in_qupath(name): name for name in (NONE_OF_THESE, OTHER_TISSUE, *class_names)}
    said: dict[str, Answer] = {}
    problems = []
    for tile in objects.to_dict("records"):
        where = f"tile at ({tile['x']:g}, {tile['y']:g})"
        digest = places.get((round(tile["x"]), round(tile["y"])))
        name = names.get(_in_qupath(tile["class"]))
        if digest is None:
            problems.append(f"{where}: there is no such tile")
        elif name is None:
            known = ", ".join(class_names)
            problems.append(f"{where}: the class {tile['class']!r} is none of {known}")
        else:
            answer = Answer(digest, name if name in class_names else None, who)
            if said.setdefault(digest, answer) != answer:
                problems.append(f"{where}: it has two classes")
    refuse(str(file), problems)
    return list(said.values())


def _in_qupath(name: str) -> str:
    """A class name as QuPath writes it, which takes a colon for a step to a finer class."""
    steps = unicodedata.normalize("NFC", name).split(":")
    return ": ".join(step.strip() for step in steps)


# --- image folder --------------------------------------------------------------------------------


def write_image_folder(
    target: Path,
    folder: Path,
    unique: pd.DataFrame,
    labels: Mapping[str, int],
    class_names: Sequence[str],
    *,
    link: bool = False,
) -> int:
    """The labelled tiles in a folder for each class, copied or linked; returns how many.

    folder: of the tiles; unique: path and digest; labels: by digest, as `answers.resolve` has them.
    A tile keeps its path below its class. The folder appears when it is complete. Raises ValueError
    where there is something already, and where two classes have the same folder name.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already: remove it, or name a new folder")
    named = [paths.file_name(name) for name in class_names]
    if len({name.casefold() for name in named}) < len(named):
        raise ValueError(f"two classes have the same folder name: {', '.join(sorted(named))}")
    n = 0
    with atomic(target) as temporary:
        temporary.mkdir()
        for path, digest in zip(unique.path, unique.digest, strict=True):
            label = labels.get(digest, UNLABELLED)
            if label < 0:
                continue
            goal = temporary / named[label] / path
            goal.parent.mkdir(parents=True, exist_ok=True)
            if link:
                os.symlink((folder / path).resolve(), goal)
            else:
                shutil.copy2(folder / path, goal)
            n += 1
    return n
