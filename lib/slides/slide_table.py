"""Tables of slides: the lines of a file, what the slides are called, their corrected tissue."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lib import paths
from lib.csv_tables import number, path_key, read_table, refuse
from lib.data.cards import Card
from lib.slides.reading import MPP_RANGE

COLUMNS = ("path", "label")  # of a file; case, mpp and fold may be there too
TISSUE = ".tissue.geojson"


def read_slide_table(card: Card, folder: Path) -> pd.DataFrame:
    """Read all slides of a dataset, in the order of their paths.

    Columns: slide (int64, 0 … S−1), name (see `_names`), path (below `folder`), label (int64, index
    of the class; a class's `folder` is its label in the file), group (the case, or the slide
    itself), mpp (float, µm per pixel of level 0, NaN where the file says it), tissue (see
    `with_tissue`), and fold where the file has it. Raises ValueError naming the file and the
    column that is missing, or all lines that are wrong and why.
    """
    assert card.slides is not None
    file = folder / card.slides["table"]
    if not file.is_file():
        raise ValueError(f"{card.name}: the table of slides {file} is missing")
    listed = read_table(file, COLUMNS, ("case", "mpp", "fold"))
    label_of = {c.folder: n for n, c in enumerate(card.classes)}
    on_disk = {path: _on_disk(folder, path) for path in listed.path}
    problems = []
    for row in listed.itertuples():
        at = f"line {row.line}:"
        if row.label not in label_of:
            known = ", ".join(label_of)
            problems.append(f"{at} {row.path} has the unknown label {row.label!r}. Known: {known}")
        if not on_disk[row.path]:
            problems.append(f"{at} names the absent slide {row.path!r}; paths begin in {folder}")
        if not re.fullmatch("[0-9]{1,9}", getattr(row, "fold", "0")):
            problems.append(f"{at} {row.fold!r} is no fold")
    mpp = mpp_by_path(file, listed, problems)
    listed["path"] = listed.path.map(on_disk)
    listed = listed.sort_values("path", ignore_index=True)
    table = number_slides(listed.path, mpp).assign(
        label=listed.label.map(label_of).astype(np.int64)
    )
    if "case" in listed:
        table["group"] = listed["case"].where(listed["case"] != "", table.name)
    return table.assign(fold=listed.fold.astype(int)) if "fold" in listed else table


def _on_disk(folder: Path, path: str) -> str | None:
    """The path of a table as the disk spells it; None where it is not there or leads elsewhere."""
    key = path_key(path)
    if key.startswith(("/", "../")):
        return None
    spelled = (key, unicodedata.normalize("NFD", key), path)
    return next((p for p in spelled if os.path.isfile(folder / p)), None)


def mpp_by_path(file: Path, listed: pd.DataFrame, problems: Sequence[str]) -> dict[str, float]:
    """Read the µm per pixel in a table, by `path_key`, without empty cells.

    problems: of its lines so far. Raises ValueError naming these, each line whose µm per pixel no
    slide has, and each that names a slide for the second time.
    """
    problems, mpp, (low, high) = [*problems], {}, MPP_RANGE
    for row in listed[listed.path.map(path_key).duplicated()].itertuples():
        problems.append(f"line {row.line}: {row.path!r} is listed twice")
    for row in listed[listed["mpp"] != ""].itertuples() if "mpp" in listed else ():
        try:
            mpp[path_key(row.path)] = value = number(row.mpp, f"line {row.line}: mpp")
            if not low <= value <= high:
                problems.append(f"line {row.line}: mpp is {row.mpp}, not in {low} … {high} µm/px")
        except ValueError as error:
            problems.append(str(error))
    refuse(str(file), problems)
    return mpp


def number_slides(paths_: pd.Series, mpp: Mapping[str, float]) -> pd.DataFrame:
    """Number and name the slides at some paths; mpp: of `mpp_by_path`."""
    names = _names(paths_)
    columns = {"slide": np.arange(len(paths_)), "name": names, "path": paths_, "group": names}
    sizes = paths_.map(path_key).map(mpp).astype(float)
    return pd.DataFrame({**columns, "mpp": sizes, "tissue": ""})


def _names(paths_: pd.Series) -> pd.Series:
    """What the files of each slide are called: as the slide, where no other is called so.

    Else, and where the name would not do for a file, it ends in a digest of the path. Capitals make
    no other name, as on some disks they do not; and tiles of `a.tissue` would be tissue of `a`.
    """
    names = paths_.map(lambda path: paths.file_name(PurePosixPath(path).stem))
    folded = names.str.casefold()
    alike = folded.duplicated(keep=False) | folded.str.endswith(".tissue")
    return names.mask(alike, paths_.map(lambda path: paths.file_name(f"./{path}")))


def with_tissue(table: pd.DataFrame, tissue: str, left_out: Iterable[str] = ()) -> pd.DataFrame:
    """Add the column tissue: for each slide its file in the folder `tissue`, or "".

    Such a file, `<name>.tissue.geojson`, drawn or corrected in QuPath, stands for the tissue that
    would be detected. left_out: paths of slides that are not in the table. Raises FileNotFoundError
    without the folder, and ValueError naming files that are of no slide, or if there are none.
    """
    if not tissue:
        return table.assign(tissue="")
    folder = Path(tissue).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with corrected tissue")
    files = {f.name.removesuffix(TISSUE): str(f) for f in folder.glob(f"*{TISSUE}")}
    expected = {*table.name, *_names(pd.Series([*left_out], dtype=str))}
    if not files:
        raise ValueError(f"{folder} holds no *{TISSUE}")
    strange = sorted(files.keys() - expected)
    refuse(str(folder), [f"{name}{TISSUE} is of no slide" for name in strange])
    return table.assign(tissue=table.name.map(files).fillna(""))
