"""Pooled scores, intervals and paired differences over folds and groups; one array layout.

The unit is the group (slide, case, source tile): it is tested in one fold, by every seed. Seeds are
averaged inside a group, so they narrow what training adds by chance and multiply no group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

SCORES = ("accuracy", "balanced_accuracy")
# Fixed beforehand: by how much a method may be worse than full supervision and still be as good.
MARGINS = {"accuracy": 0.01, "balanced_accuracy": 0.02}
DRAWS, LEVEL = 2000, 0.95
UNIT = ["fold", "group", "label"]


@dataclass(frozen=True)
class Groups:
    """What was right in U groups, sorted by fold, of C classes, by M methods on the same tiles.

    folds: [U]; n: tiles of each true class [U, C]; right: how many of them were right, mean over
    seeds [M, U, C]; seeds: how many of them the fold with the fewest has.
    """

    folds: np.ndarray
    n: np.ndarray
    right: np.ndarray
    seeds: int


@dataclass(frozen=True)
class Estimate:
    """A pooled value with its interval (NaN with fewer than two groups) and the p of a difference.

    p: None where there is none, as with a single seed.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float | None = None


def tested_groups(*methods: pd.DataFrame) -> Groups | None:
    """The groups that all methods were tested on, with the same seeds; None if there is none.

    methods: one frame each, columns seed, fold, group, label (true class), n and right.
    """
    keys = ["seed", *UNIT]
    counted = [frame.groupby(keys)[["n", "right"]].sum() for frame in methods]
    common = counted[0].index
    for frame in counted[1:]:
        common = common.intersection(frame.index)
    if not len(common):
        return None
    means = [frame.loc[common].groupby(UNIT).mean() for frame in counted]
    table = pd.concat([means[0].n, *(mean.right for mean in means)], axis=1).unstack("label")
    counts = table.fillna(0).values.reshape(len(table), 1 + len(methods), -1).swapaxes(0, 1)
    seeds = common.to_frame(index=False).groupby("fold").seed.nunique().min()
    folds = table.index.get_level_values("fold").values
    return Groups(folds, counts[0], counts[1:], int(seeds))


def pooled(right: np.ndarray, n: np.ndarray, score: str) -> np.ndarray:
    """Accuracy Σ right / Σ n, or the mean of right / n over the classes that have tiles [...].

    right, n: counts per class, summed over all folds [..., C].
    """
    if score == "accuracy":
        return right.sum(-1) / n.sum(-1)
    tested = n > 0
    recall = np.divide(right, n, out=np.zeros(np.broadcast(right, n).shape), where=tested)
    return recall.sum(-1) / tested.sum(-1)


@lru_cache(maxsize=16)
def bootstrap_weights(sizes: tuple[int, ...], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each group is in each draw [draws, U]: folds, then groups in each drawn fold.

    sizes: groups of each fold. A fold that is drawn k times gives k draws of its groups. With
    one fold its groups alone are drawn. Where folds are alike both levels hold the chance of the
    groups, so that intervals are wider than they need be, and never too narrow for that.
    """
    chance = np.random.default_rng(seed)
    n_folds = len(sizes)
    drawn = chance.multinomial(n_folds, np.full(n_folds, 1 / n_folds), size=draws)
    weights = [
        chance.multinomial(drawn[:, fold] * size, np.full(size, 1 / size))
        for fold, size in enumerate(sizes)
    ]
    return np.concatenate(weights, axis=1).astype(float)


def drawn_scores(groups: Groups, score: str, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Pooled score of each method in each draw [M, draws]; all methods see the same draws."""
    sizes = np.unique(groups.folds, return_counts=True)[1]
    weights = bootstrap_weights(tuple(sizes.tolist()), draws, seed)
    return pooled(weights @ groups.right, weights @ groups.n, score)


def estimate(groups: Groups, score: str = "accuracy") -> Estimate:
    """Pooled score of the first method with its interval of 95 %."""
    value = float(pooled(groups.right[0].sum(0), groups.n.sum(0), score))
    if len(groups.folds) < 2:
        return Estimate(value)
    return Estimate(value, *_interval(drawn_scores(groups, score)[0]))


def difference(groups: Groups, score: str = "accuracy") -> Estimate:
    """Pooled score of the first method minus that of the second, with interval and two-sided p.

    p is twice the smaller share of draws on one side of zero, one draw added to both counts; None
    with a single seed, which says nothing about another training, and with a single group.
    """
    mine, other = pooled(groups.right.sum(1), groups.n.sum(0), score)
    if len(groups.folds) < 2:
        return Estimate(float(mine - other))
    drawn = drawn_scores(groups, score)
    differences = drawn[0] - drawn[1]
    p = tail_p(differences) if groups.seeds > 1 else None
    return Estimate(float(mine - other), *_interval(differences), p)


def tail_p(differences: np.ndarray) -> float:
    """Two-sided p of drawn differences [draws] being of one sign by chance."""
    tails = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    return float(min(1.0, 2 * tails / (len(differences) + 1)))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def holm(ps: Sequence[float]) -> np.ndarray:
    """Values of p corrected for their number by Holm's step-down rule (1979) [P]."""
    order = np.argsort(ps, kind="stable")
    stepped = np.asarray(ps, float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def holm_corrected(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """The lines of one table, with the p of those that have one corrected together."""
    tested = [idx for idx, line in enumerate(estimates) if line is not None and line.p is not None]
    ps = dict(zip(tested, holm([_p(estimates[idx]) for idx in tested]).tolist(), strict=True))
    return [
        line if line is None else Estimate(line.value, line.low, line.high, ps.get(idx))
        for idx, line in enumerate(estimates)
    ]


def _p(line: Estimate | None) -> float:
    assert line is not None and line.p is not None
    return line.p


def non_inferior(minus_full: Estimate, score: str) -> bool:
    """Whether a method is as good as full supervision: its interval ends above minus the margin.

    minus_full: `difference` of the method and full supervision.
    """
    return bool(minus_full.low > -MARGINS[score])  # False without an interval


# --- from rows -----------------------------------------------------------------------------------


def pooled_rows(frame: pd.DataFrame, score: str = "accuracy") -> float:
    """Pooled score of the rows of one method; what `estimate` gives from its groups.

    frame: a line per run, columns fold, n, the score, and for balanced accuracy recall and support
    (class → recall, tiles). Seeds are averaged in each fold. Without support every fold counts for
    what it holds: the mean over folds of the balanced accuracy.
    """
    by_fold = frame.groupby("fold")
    if score == "accuracy":
        return float(np.average(by_fold.accuracy.mean(), weights=by_fold.n.mean()))
    if score != "balanced_accuracy" or not has_support(frame):
        return float(by_fold[score].mean().mean())
    recall, support = (pd.DataFrame(frame[c].tolist(), index=frame.fold).astype(float)
                       for c in ("recall", "support"))  # fmt: skip
    n = support.groupby("fold").mean().sum()
    right = (recall.fillna(0) * support).groupby("fold").mean().sum()
    return float((right[n > 0] / n[n > 0]).mean())


def has_support(frame: pd.DataFrame) -> bool:
    """Whether every row says how many tiles of each class it was tested on."""
    known = "support" in frame and frame.support.map(lambda value: isinstance(value, dict)).all()
    return bool(known)


def runs(frame: pd.DataFrame) -> dict[str, str]:
    """How many folds and seeds are behind a line of a table."""
    return {"folds": str(frame.fold.nunique()), "seeds": str(frame.seed.nunique())}


def same_runs(frame: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Lines of frame of a run (fold and seed) that is among the chosen lines, bool."""
    keys = ["fold", "seed"]
    return frame[keys].apply(tuple, axis=1).isin({*chosen[keys].apply(tuple, axis=1)})


def fold_of(row: Mapping[str, Any]) -> int:
    """Fold of a row of the record; 0 where there is no division into folds."""
    return row.get("fold") or 0
