"""Answers in and out: CSV, QuPath's GeoJSON, and the labelled set as an image folder."""

import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from apps.labelling import answers, audit
from apps.labelling.answers import Answer, Problems, class_called
from apps.own_tiles.results import predictions, write_tables
from apps.slide_viewer.annotations import read_tiles_geojson
from lib import paths
from lib.artefacts import atomic
from lib.csv_tables import number, path_key, read_table
from lib.labels import NONE_OF_THESE, OTHER_TISSUE, REFUSED, UNLABELLED

if TYPE_CHECKING:
    from apps.labelling.session import OwnTiles


class _OneLabelEach(dict[tuple[str, str], tuple[Answer, str]]):
    """Answers by tile and person, with the line of each; two different ones are none."""

    def __init__(self) -> None:
        super().__init__()
        self.twofold: set[tuple[str, str]] = set()

    def add(self, answer: Answer, where: str) -> None:
        """Raises ValueError for another label by the same person for the same tile."""
        key = (answer.tile, answer.who)
        first, line = self.setdefault(key, (answer, where))
        if first.label != answer.label:
            self.twofold.add(key)
            raise ValueError(
                f"{answer.who} gives this tile two classes, the first in {line}: neither counts"
            )

    def answers(self) -> list[Answer]:
        return [answer for key, (answer, _) in self.items() if key not in self.twofold]


# --- CSV -----------------------------------------------------------------------------------------


def write_csv(file: Path, lines: pd.DataFrame, unique: pd.DataFrame) -> None:
    """Write what each person says of each tile: path, label, who, when, seconds, suggestion, tile.

    unique: path and digest of the tiles; answers to others have an empty path. `NONE_OF_THESE`
    stands where a tile shows no class.
    """
    latest = answers.standing(lines).query("action == 'label'")
    path_of = dict(zip(unique.digest, unique.path, strict=True))
    latest = latest.assign(label=latest.label.fillna(NONE_OF_THESE), path=latest.tile.map(path_of))
    columns = ["path", "label", "who", "when", "seconds", "suggestion", "tile"]
    with atomic(file) as temporary:
        latest[columns].to_csv(temporary, index=False)


def read_csv(
    file: Path, table: pd.DataFrame, class_names: Sequence[str], who: str = "csv"
) -> tuple[list[Answer], list[str]]:
    """Read answers from a CSV with the columns path and label, and perhaps who, when and seconds.

    table: path and digest of every file, whose paths count from the folder of the tiles. Lines
    without a label are passed over. Second, in words, the lines that are left out: those with an
    unknown path or class, a value that is none, another number of cells than the header, or a
    second label of one person for a tile or a copy of it. Raises ValueError as `read_table` does.
    """
    said, problems = _OneLabelEach(), Problems()
    rows = read_table(file, ("path", "label"), ("who", "when", "seconds"), problems)
    digests = table.groupby(table.path.map(path_key)).digest.unique()
    for row in rows[rows.label != ""].to_dict("records"):
        with problems.at(where := f"line {row['line']}"):
            tiles = digests.get(path_key(row["path"]), ())
            if len(tiles) != 1:
                what = "several tiles are" if len(tiles) else "there is no tile"
                raise ValueError(f"{what} called {row['path']!r} in the folder of the tiles")
            label = class_called(row["label"], class_names)
            seconds = number(row["seconds"], "seconds") if row.get("seconds") else None
            by, when = row.get("who") or who, row.get("when", "")
            said.add(Answer(tiles[0], label, by, when=when, seconds=seconds), where)
    return said.answers(), [f"{file}, {problem}" for problem in problems]


def read_labels(
    file: Path, table: pd.DataFrame, class_names: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Read labels by digest, as `answers.resolve` has them, from a file of answers or a CSV.

    table: path and digest of every file. Second, in words, the lines that are left out, as are
    answers of an audit with open tiles. Raises ValueError for a CSV that `read_csv` refuses, for
    another format, and where no answer is left.
    """
    if not file.is_file():
        raise ValueError(f"there is no file of labels {file}")
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{file}: labels are read from .csv and .jsonl")
    if file.suffix.lower() == ".jsonl":
        lines, problems = answers.read(file, class_names, table.digest)
        waiting = audit.withheld(file, class_names, table.digest)
        lines = lines[~lines.tile.isin(waiting)]
        problems += [f"{file}: {len(waiting)} tiles of an audit wait for its end"] * bool(waiting)
    else:
        read, problems = read_csv(file, table, class_names)
        lines = answers.table_of(read)
    if not len(lines):
        more = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"{file} holds no answer for these tiles and classes{more}")
    return answers.resolve(lines, class_names), problems


def overrule(labels: np.ndarray, digests: Sequence[str], said: Mapping[str, int]) -> np.ndarray:
    """Put what people say in the place of pseudo labels, int64 [N].

    said: from `read_labels`. A class replaces the pseudo label; a tile that shows no class, or that
    people see differently, loses it.
    """
    by_people = pd.Series(digests).map(said)
    new = by_people.where(by_people >= 0, UNLABELLED).where(by_people.notna(), labels)
    return new.to_numpy(np.int64)


def write_results(
    own: "OwnTiles",
    probs: np.ndarray,
    lines: pd.DataFrame,
    *,
    version: str,
    sets: np.ndarray | None = None,
) -> pd.DataFrame:
    """Write `predictions_labelled.csv`, `labels.csv` and `label_studio/` beside the result.

    probs: [N, C], of the loop; lines: answers; version: what Label Studio calls the predictions;
    sets: bool [N, C], of an audit. Returns the predictions of all files with a column `label`: what
    people agree on, "" without an answer; and with sets a column of the classes in them, by
    semicolon.
    """
    from apps.labelling.label_studio import write_project

    others = [OTHER_TISSUE] * bool(own.others)
    predicted = predictions(own.table, probs, [*own.class_names, *others], others)
    names = dict(enumerate(own.class_names)) | {REFUSED: NONE_OF_THESE}
    resolved = own.table.digest.map(answers.resolve(lines, own.class_names))
    predicted["label"] = resolved.map(names).fillna("")
    if sets is not None:
        classes = np.array(own.learnt_names, object)
        predicted[audit.SETS] = ["; ".join(classes[chosen]) for chosen in sets[own.table.tile]]
    write_tables(own.out, {"predictions_labelled": predicted})
    write_csv(own.out / "labels.csv", lines, own.unique)
    root = own.folder.resolve().name  # below Label Studio's document root
    project = own.out / "label_studio", own.unique, probs, own.class_names
    write_project(*project, version=version, root=root)
    return predicted


# --- QuPath --------------------------------------------------------------------------------------


def read_qupath(
    file: Path,
    table: pd.DataFrame,
    class_names: Sequence[str],
    who: str = "qupath",
    *,
    unchanged: bool = False,
) -> tuple[list[Answer], list[str]]:
    """Read tiles that somebody gave another class in QuPath, and in words what was left out.

    QuPath does not say which tiles a person has looked at: taken are those whose class is not the
    one that `annotations.write_tiles_geojson` wrote. Tiles of which the file does not say what was
    written are left out, and so are objects that are no tiles, and those of these tiles that have
    an unknown class or two, or are not in the table.

    Parameters
    ----------
    file : GeoJSON
    table : x, y (top left, level-0 pixels, from the bounds) and digest of the slide's tiles
    class_names : C names
    who : the name that the answers get
    unchanged : whether to take all tiles that have a class

    Raises
    ------
    ValueError : naming a file that is no GeoJSON

    """
    objects, problems = read_tiles_geojson(file), Problems()
    objects = objects[objects["class"] != ""]
    if not unchanged:
        unknown = objects.written == ""
        if unknown.any():
            problems.append(
                f"it does not say which class {unknown.sum()} tiles had before somebody could "
                "change it: they are left out. unchanged=True takes each as a label"
            )
        changed = objects["class"].map(_in_qupath) != objects.written.map(_in_qupath)
        objects = objects[changed & ~unknown]
    corners = zip(table.x.round(), table.y.round(), table.digest, strict=True)
    digest_at = {(x, y): digest for x, y, digest in corners}
    names = {_in_qupath(name): name for name in (OTHER_TISSUE, NONE_OF_THESE, *class_names)}
    said = _OneLabelEach()
    for tile in objects.to_dict("records"):
        with problems.at(where := f"tile at ({tile['x']:g}, {tile['y']:g})"):
            digest = digest_at.get((round(tile["x"]), round(tile["y"])))
            if digest is None:
                raise ValueError("there is no such tile")
            name = names.get(_in_qupath(tile["class"]), tile["class"])
            other = name == OTHER_TISSUE and name not in class_names
            label = None if other else class_called(name, class_names)
            said.add(Answer(digest, label, who), where)
    return said.answers(), [f"{file}: {problem}" for problem in problems]


def _in_qupath(name: str) -> str:
    """Spell a class name as QuPath does, which takes a colon for a step to a finer class."""
    steps = unicodedata.normalize("NFC", name).split(":")
    return ": ".join(step.strip() for step in steps)


# --- image folder --------------------------------------------------------------------------------


def write_image_folder(
    target: Path, folder: Path, label_of: Mapping[str, str], *, link: bool = False
) -> int:
    """Copy or link the labelled tiles to a folder for each class; returns their number.

    folder: of the tiles; label_of: class name by path, of which "" and `NONE_OF_THESE` are left
    out. A tile keeps its path below its class. The folder appears when it is complete. Raises
    ValueError where there is something already, and where two classes have the same folder name.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already: remove it, or name a new folder")
    labels = {path: name for path, name in label_of.items() if name not in ("", NONE_OF_THESE)}
    folder_of = {name: paths.file_name(name) for name in labels.values()}
    if len({name.casefold() for name in folder_of.values()}) < len(folder_of):
        raise ValueError(f"two classes have the same folder name: {', '.join(sorted(folder_of))}")
    with atomic(target) as temporary:
        temporary.mkdir()
        for path, name in labels.items():
            copied = temporary / folder_of[name] / path
            copied.parent.mkdir(parents=True, exist_ok=True)
            if link:
                os.symlink((folder / path).resolve(), copied)
            else:
                shutil.copy2(folder / path, copied)
    return len(labels)
