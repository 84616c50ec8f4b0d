"""Pooled scores, intervals and paired differences over folds and groups; one array layout.

The unit is the group (slide, case, source tile): it is tested in one fold, by every seed. Seeds
multiply no group; they are drawn too, each for all folds, so that an interval holds what another
seed would have given, as far as a few seeds can tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from lib.record import Record

SCORES = ("accuracy", "balanced_accuracy")
# Fixed beforehand: by how much a method may be worse than full supervision and still be as good.
# Where classes are even both scores are the same, and so is the margin.
MARGINS = {"accuracy": 0.01, "balanced_accuracy": 0.02}
EVEN = 1.1  # tiles of the most frequent class ÷ tiles of the rarest, at most
DRAWS, LEVEL = 20_000, 0.95
Kind = tuple[str, ...]  # what names a method, such as (training, strategy)


@dataclass(frozen=True)
class Estimate:
    """A pooled value with its interval (NaN with fewer than two groups) and the p of a difference.

    p: None where there is none, as with a single seed; at_most: whether it is the smallest that so
    many draws can give.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float | None = None
    at_most: bool = False


@dataclass(frozen=True, eq=False)
class Groups:
    """Counts of M methods in U groups, sorted by fold, of C classes, with S seeds.

    kinds: name of a method → its number; folds: [U]; n, correct: tiles and correct ones per true
    class [M, S, U, C], zero where a method was not tested. Sums over draws are kept for the next
    line of a table.
    """

    kinds: Mapping[Kind, int]
    folds: np.ndarray
    n: np.ndarray
    correct: np.ndarray
    sums: dict[Any, Any] = field(default_factory=dict, repr=False)

    def tested(self, kind: Kind) -> np.ndarray:
        """In which groups a method was tested by which seeds, bool [S, U]."""
        if kind not in self.kinds:
            return np.zeros(self.n.shape[1:3], bool)
        return self.n[self.kinds[kind]].any(-1)


def grouped(some: Record, columns: Sequence[str]) -> Groups:
    """Lay out the counts of evaluations whose groups are known; columns: what names a method."""
    counts = some.counts[some.counts.group != ""]
    frame = counts.join(some.facts[[*columns, "seed", "fold"]], on="evaluation", how="inner")
    names = list(frame[columns].drop_duplicates().itertuples(index=False, name=None))
    kinds = {name: number for number, name in enumerate(sorted(names))}
    units = frame[["fold", "group"]].drop_duplicates().sort_values(["fold", "group"])
    axes = [
        frame.groupby(list(columns), sort=True).ngroup().values,
        np.unique(frame.seed, return_inverse=True)[1],
        frame.groupby(["fold", "group"], sort=True).ngroup().values,
        np.unique(frame.label, return_inverse=True)[1],
    ]
    shape = [int(axis.max(initial=-1)) + 1 for axis in axes]
    n, correct = np.zeros(shape), np.zeros(shape)
    np.add.at(n, tuple(axes), frame.n.values.astype(float))
    np.add.at(correct, tuple(axes), frame.correct.values.astype(float))
    return Groups(kinds, units.fold.values, n, correct)


def margins(groups: Groups) -> dict[str, float]:
    """`MARGINS`; that of accuracy alone where the classes of the test sets are even."""
    tiles = groups.n.max((0, 1)).sum(0)
    even = tiles.max() <= EVEN * tiles.min()
    return dict.fromkeys(SCORES, MARGINS["accuracy"]) if even else MARGINS


def pooled(correct: np.ndarray, n: np.ndarray, score: str) -> np.ndarray:
    """Accuracy Σ correct / Σ n, or the mean of correct / n over the classes that have tiles [...].

    correct, n: counts per class, summed over all folds [..., C].
    """
    if score == "accuracy":
        return correct.sum(-1) / n.sum(-1)
    tested = n > 0
    recall = np.divide(correct, n, out=np.zeros(np.broadcast(correct, n).shape), where=tested)
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
    return np.concatenate(weights, axis=1).astype(np.float32)


@lru_cache(maxsize=16)
def seed_weights(n_seeds: int, draws: int = DRAWS, seed: int = 1) -> np.ndarray:
    """Share of each seed in each draw [draws, S], drawn with replacement."""
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws)
    return drawn.astype(np.float32) / n_seeds


def drawn_sums(groups: Groups, kind: Kind, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tiles and correct ones per class of a method, first of all groups, then of each draw [·, C].

    tested: bool [S, U], the groups and seeds that count; a seed that did not test a group stands
    for the mean of those that did. Two methods with the same `tested` see the same draws. With
    fewer than two groups nothing is drawn.
    """
    key = kind, tested.tobytes()
    if key not in groups.sums:
        seeds, used = tested.any(1), tested.any(0)
        by = tested[np.ix_(seeds, used)][..., None]
        of_groups, of_seeds = np.ones((1, used.sum())), np.full((1, len(by)), 1 / len(by))
        if used.sum() > 1:
            sizes = np.unique(groups.folds[used], return_counts=True)[1]
            of_groups = np.concatenate([of_groups, bootstrap_weights(tuple(sizes.tolist()))])
            of_seeds = np.concatenate([of_seeds, seed_weights(len(by))])

        def sums(counts: np.ndarray) -> np.ndarray:
            own = counts[groups.kinds[kind]][np.ix_(seeds, used)]
            own = np.where(by, own, own.mean(0, where=by))
            return sum(of_seeds[:, s, None] * (of_groups @ each) for s, each in enumerate(own))

        groups.sums[key] = sums(groups.n), sums(groups.correct)
    return groups.sums[key]


def estimates(groups: Groups, kind: Kind) -> dict[str, Estimate]:
    """Pooled scores of a method with their intervals of 95 %; empty where it was not tested."""
    tested = groups.tested(kind)
    if not tested.any():
        return {}
    n, correct = drawn_sums(groups, kind, tested)
    return {score: _estimate(pooled(correct, n, score)) for score in SCORES}


def differences(groups: Groups, mine: Kind, other: Kind) -> dict[str, Estimate]:
    """Pooled scores of one method minus those of another, with interval and two-sided p.

    Over the groups and seeds that both have; empty where there is none. p is None with a single
    seed, which says nothing about another training, and with a single group.
    """
    tested = groups.tested(mine) & groups.tested(other)
    if not tested.any():
        return {}
    several = fewest_seeds(groups, tested) > 1
    estimated = {}
    for score in SCORES:
        values = drawn_differences(groups, mine, other, score)
        drawn = values[1:]
        p = bootstrap_p(drawn) if several and len(drawn) else None
        at_most = p is not None and p <= 2 / (len(drawn) + 1)
        estimated[score] = replace(_estimate(values), p=p, at_most=at_most)
    return estimated


def drawn_differences(groups: Groups, mine: Kind, other: Kind, score: str) -> np.ndarray:
    """What `differences` estimates, of all groups, then of each draw; empty where it is."""
    tested = groups.tested(mine) & groups.tested(other)
    if not tested.any():
        return np.zeros(0)
    a, b = (pooled(*drawn_sums(groups, kind, tested)[::-1], score) for kind in (mine, other))
    # Equal scores differ in the last bit, as processors add up differently; p must not.
    return (a - b).round(12)


def mean_difference(drawn: Sequence[np.ndarray]) -> Estimate:
    """The mean of differences of several datasets, each with its draws (`drawn_differences`).

    The draws are shuffled first: those of two datasets begin with the same folds, which have
    nothing to do with each other.
    """
    shuffle = np.random.default_rng(0).permutation
    shuffled = [np.concatenate([values[:1], shuffle(values[1:])]) for values in drawn]
    return _estimate(np.mean(shuffled, axis=0))


def fewest_seeds(groups: Groups, tested: np.ndarray) -> int:
    """How many seeds the fold with the fewest has."""
    folds = np.unique(groups.folds[tested.any(0)])
    return min(int(tested[:, groups.folds == fold].any(1).sum()) for fold in folds)


def _estimate(values: np.ndarray) -> Estimate:
    """values: the value of all groups, then those of the draws."""
    return Estimate(float(values[0]), *_interval(values[1:]))


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of drawn differences [draws]: twice the smaller share on one side of zero.

    One draw is added to both counts, so that no p is zero.
    """
    tails = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    return float(min(1.0, 2 * tails / (len(differences) + 1)))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    if not len(drawn):
        return np.nan, np.nan
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
    corrected = iter(holm([line.p for line in estimates if line and line.p is not None]))
    return [
        replace(line, p=float(next(corrected))) if line and line.p is not None else line
        for line in estimates
    ]


# --- from lines of facts -------------------------------------------------------------------------


def pooled_scores(facts: pd.DataFrame, by: Sequence[str], score: str = "accuracy") -> pd.Series:
    """Pool a score over the folds for each value of some columns, seeds averaged in each fold."""
    if score == "accuracy":
        means = facts.groupby([*by, "fold"])[["accuracy", "n"]].mean()
        means["correct"] = means.accuracy * means.n
        sums = means.groupby(list(by))[["correct", "n"]].sum()
        return sums.correct / sums.n
    n, correct = (
        pd.DataFrame(np.stack(facts[name].tolist()), facts.index)
        .groupby([*(facts[column] for column in by), facts.fold])
        .mean()
        .groupby(level=list(range(len(by))))
        .sum()
        for name in ("class_n", "class_correct")
    )
    return pd.Series(pooled(correct.values, n.values, score), n.index)


def pooled_score(facts: pd.DataFrame, score: str = "accuracy") -> float:
    """Pool a score of one method; what `estimates` gives from its groups."""
    if score == "accuracy":  # added up as ever: a goal of `labels_needed` may be met exactly
        by_fold = facts.groupby("fold")
        return float(np.average(by_fold.accuracy.mean(), weights=by_fold.n.mean()))
    return float(pooled_scores(facts.assign(all=""), ["all"], score).iloc[0])


def runs(facts: pd.DataFrame) -> dict[str, str]:
    """How many folds and seeds are behind a line of a table."""
    return {"folds": str(facts.fold.nunique()), "seeds": str(facts.seed.nunique())}


def same_runs(facts: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Whether each line is of a run (dataset, VLM, fold and seed) that the chosen lines have."""
    keys = ["dataset", "vlm", "fold", "seed"]
    same = pd.MultiIndex.from_frame(facts[keys]).isin(pd.MultiIndex.from_frame(chosen[keys]))
    return pd.Series(same, facts.index)
