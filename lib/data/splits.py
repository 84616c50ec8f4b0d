"""Folds: a division of a dataset, made once, in which every group is tested exactly once."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.artefacts import atomic
from lib.csv_tables import path_key, read_table
from lib.data.cards import Card

FOLDS = 5  # one of five is tested: the papers' 4:1
SEED = 0  # of the division, whatever the seed of a run
NEVER_TESTED = -1


def assign_folds(card: Card, table: pd.DataFrame) -> np.ndarray:
    """The fold in which each tile is tested, int64 [N], `NEVER_TESTED` for tiles that never are.

    A dataset that comes with a test set has one fold, 0. Folds in the table of its slides are used
    as they are. All other datasets use five folds, stored in `data/splits/<dataset>.csv` (path,
    fold); without that file they are made and written there. A file that does not list all tiles,
    as one made from a part of the dataset, is not used: `divide` divides them, with a warning.

    table: from `tiles.read_tile_table` or `cohort.read_slide_table`. Raises ValueError as `divide`
    and `own_division` do, and naming the file when its folds divide a group, and its line that is
    there twice or gives no fold.
    """
    if card.splits:
        return own_division(table)
    if "fold" in table:
        _refuse_divided_groups(table.fold.values, table.group.values, f"the table of {card.name}")
        return table.fold.values.astype(np.int64)
    file = splits_file(card.name)
    if not file.is_file():
        folds = divide(table.label.values, table.group.values)
        with atomic(paths.output_root() / "data" / "splits" / file.name) as temporary:
            pd.DataFrame({"path": table.path, "fold": folds}).to_csv(temporary, index=False)
        return folds
    rows = read_table(file, ["path", "fold"])
    rows["path"] = rows.path.map(path_key)
    wrong = rows[rows.path.duplicated() | ~rows.fold.isin([str(fold) for fold in range(FOLDS)])]
    for row in wrong[:1].itertuples():
        raise ValueError(
            f"{file}, line {row.line}: {row.path!r} is there twice, or {row.fold!r} is no fold"
        )
    listed = table.path.map(path_key).map(rows.set_index("path").fold.astype(int))
    if listed.isna().any():
        warnings.warn(
            f"{file} has no fold for {listed.isna().sum()} of {len(table)} tiles: all are divided "
            "without it, so results cannot be compared with those of that division",
            stacklevel=2,
        )
        return divide(table.label.values, table.group.values)
    _refuse_divided_groups(listed.values, table.group.values, str(file))
    return listed.values.astype(np.int64)


def splits_file(dataset: str) -> Path:
    """Where the folds of a dataset are listed: below `OUTPUT_ROOT` if they are there."""
    own, tracked = (
        root / "data" / "splits" / f"{dataset}.csv" for root in (paths.output_root(), paths.ROOT)
    )
    return own if own.is_file() else tracked


def own_division(table: pd.DataFrame) -> np.ndarray:
    """Folds of a dataset that comes with a test set, int64 [N]: 0 there, else `NEVER_TESTED`.

    table: columns part and group. Raises ValueError naming a group that is in both parts, and when
    one of them is empty.
    """
    tested = (table.part == "test").values
    if tested.all() or not tested.any():
        raise ValueError("the dataset's own division leaves nothing to test or to train on")
    folds = np.where(tested, 0, NEVER_TESTED)
    _refuse_divided_groups(folds, table.group.values, "the dataset's own division")
    return folds


def divide(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Five folds, stratified by class, that divide no group: int64 [N].

    labels, groups: [N]. Depends on these alone. Raises ValueError for fewer than five groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_groups = len(np.unique(groups))
    if n_groups < FOLDS:
        raise ValueError(f"{FOLDS} grouped folds need {FOLDS} groups, there are {n_groups}")
    # Placing groups one by one takes minutes where each of 100,000 tiles is its own.
    alone = n_groups == len(groups)
    kind, by = (StratifiedKFold, None) if alone else (StratifiedGroupKFold, groups)
    splitter = kind(FOLDS, shuffle=True, random_state=SEED)
    folds = np.full(len(labels), NEVER_TESTED)
    for fold, (_, tested) in enumerate(splitter.split(labels, labels, by)):
        folds[tested] = fold
    return folds


def _refuse_divided_groups(folds: np.ndarray, groups: np.ndarray, where: str) -> None:
    n_folds = pd.Series(folds).groupby(groups).nunique()
    divided = n_folds.index[n_folds > 1]
    if len(divided):
        raise ValueError(f"{where} divides {len(divided)} groups, the first: {divided[0]!r}")
