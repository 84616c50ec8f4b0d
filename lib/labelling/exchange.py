"""Answers in and out: CSV, QuPath's GeoJSON, and the labelled set as an image folder."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.artefacts import atomic
from lib.labelling import answers
from lib.labelling.answers import NONE_OF_THESE, Answer
from lib.labelling.session import OwnTiles
from lib.labels import UNLABELLED
from lib.slides.annotations import read_tiles_geojson

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

    table: path and digest of every file. Lines without a label are passed over. Raises ValueError
    naming file and line for a missing column, an unknown path or class, and two labels of one
    person for a tile.
    """
    given = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in ("path", "label"):
        if column not in given:
            raise ValueError(f"{file} has no column {column!r}")
    digest = dict(zip(table.path, table.digest, strict=True))
    found: dict[tuple[str, str], Answer] = {}
    for number, row in enumerate(given.to_dict("records"), 2):
        if not row["label"].strip():
            continue
        where = f"{file}, line {number}"
        if row["path"] not in digest:
            raise ValueError(f"{where}: there is no tile {row['path']!r}")
        label = checked_class(row["label"].strip(), class_names, where)
        person, tile = row.get("who") or who, digest[row["path"]]
        seconds = float(row["seconds"]) if row.get("seconds") else None
        answer = Answer(tile, label, person, row.get("when", ""), seconds)
        if found.setdefault((tile, person), answer).label != label:
            raise ValueError(f"{where}: {person} gives {row['path']!r} two labels")
    return list(found.values())


def checked_class(label: str, class_names: Sequence[str], where: str) -> str | None:
    """A class name, or None for `NONE_OF_THESE`. Raises ValueError for another."""
    if label == NONE_OF_THESE:
        return None
    if label not in class_names:
        raise ValueError(f"{where}: the class {label!r} is none of {', '.join(class_names)}")
    return label


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
    if file.suffix == ".jsonl":
        read = answers.read(file, class_names, table.digest)
        lines, problems = read.lines, read.problems
    elif file.suffix == ".csv":
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
    names = {k: name for k, name in enumerate(own.class_names)} | {answers.REFUSED: NONE_OF_THESE}
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

    table: x, y (top left, level-0 pixels) and digest of the slide's tiles. QuPath does not say
    which tiles a person has looked at: taken are those whose class is not the one with the highest
    `prob <class>` among their measurements, or with `every` all that have a class. Raises
    ValueError naming the file for an unknown class or a tile that is not in the table.
    """
    objects = read_tiles_geojson(file)
    place = {
        (round(x), round(y)): d for x, y, d in zip(table.x, table.y, table.digest, strict=True)
    }
    measured = [f"prob {name}" for name in class_names if f"prob {name}" in objects]
    found = []
    for tile in objects.to_dict("records"):
        if tile["class"] is None or pd.isna(tile["class"]):
            continue
        probs = {name.removeprefix("prob "): tile[name] for name in measured}
        predicted = max(probs, key=lambda name: probs[name]) if probs else None
        if tile["class"] == predicted and not every:
            continue
        where = f"{file}, tile at ({tile['x']:g}, {tile['y']:g})"
        corner = (round(tile["x"]), round(tile["y"]))
        if corner not in place:
            raise ValueError(f"{where}: there is no such tile")
        label = checked_class(tile["class"], class_names, where)
        found.append(Answer(place[corner], label, who))
    return found


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
    A tile keeps its path below its class. The folder appears when it is complete; one that is there
    already is replaced. Raises ValueError where two classes have the same folder name.
    """
    named = [paths.file_name(name) or f"class {k}" for k, name in enumerate(class_names)]
    if len(set(named)) < len(named):
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
