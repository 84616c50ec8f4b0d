"""Which tiles to ask labels for: disagreement and compactness (UniSAL), and other strategies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lib import consensus


@dataclass(frozen=True)
class Pool:
    """What a strategy may look at: predictions, features and the labels given so far.

    probs: softmaxes of two networks [2, N, C]; features: [N, P] (`networks.predict_members`);
    labels: [N], `UNLABELLED` where none was given; unlabelled_mask: bool [N], the tiles that may be
    chosen, which those without an answer to an earlier query are not.
    """

    probs: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    unlabelled_mask: np.ndarray


@dataclass(frozen=True)
class Query:
    """Rows of the pool to ask for, in order; with UniSAL's selector also how it came to them.

    disagreeing: the size of the disagreement set; filled: how many of the query had to be taken
    elsewhere, as fewer tiles disagree than are asked for.
    """

    rows: np.ndarray
    disagreeing: int | None = None
    filled: int | None = None


Strategy = Callable[[Pool, int, int], Query]


# --- UniSAL --------------------------------------------------------------------------------------


def disagreement(probs: np.ndarray) -> np.ndarray:
    """Where the two networks predict different classes: bool [N] from [2, N, C] (DUS)."""
    first, second = probs.argmax(2)
    return first != second


def clusters(
    features: np.ndarray, n: int, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """K-means with n clusters, fewer if fewer tiles differ: cluster of each tile [N], centres.

    features: [N, P], of no tile as well; weights: [N], of the tiles in the clustering. Memory
    O(N · P).
    """
    from sklearn.cluster import KMeans

    if not len(features):
        return np.zeros(0, int), features
    n = min(n, len(np.unique(features, axis=0)))
    kmeans = KMeans(n, n_init=1, random_state=seed).fit(features, sample_weight=weights)
    return kmeans.labels_, kmeans.cluster_centers_


def compact(
    features: np.ndarray, n: int, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Of each of n `clusters` the tile nearest to its centre, that of the largest first (CS)."""
    if not len(features):
        return np.zeros(0, int)
    cluster, centres = clusters(features, n, seed, weights)
    distance = ((features - centres[cluster]) ** 2).sum(1)
    by_distance = np.lexsort((np.arange(len(distance)), distance))
    _, first, sizes = np.unique(cluster[by_distance], return_index=True, return_counts=True)
    return by_distance[first[np.argsort(-sizes, kind="stable")]]


def entropy(probs: np.ndarray) -> np.ndarray:
    """Of the mean prediction, in nats: [N] from [2, N, C]."""
    return consensus.entropy(probs.mean(0, dtype=np.float64))


def margin(probs: np.ndarray) -> np.ndarray:
    """Between the two likeliest classes of the mean prediction: [N] from [2, N, C]."""
    *_, second, first = np.sort(probs.mean(0, dtype=np.float64), axis=1).T
    return first - second


def unisal(
    pool: Pool,
    n: int,
    seed: int,
    *,
    disagreeing: bool = True,
    compactly: bool = True,
    widen: int = 0,
) -> Query:
    """Disagreement-aware uncertainty selector, then compact selector (UniSAL).

    Of the disagreement set, the unlabelled tiles for which the networks predict different classes,
    one of each of n compact clusters of features. If no more than n disagree, all of them, and the
    rest by the highest entropy of the mean prediction (the authors' public code raises an error
    there). Each selector can be left out: without the first all unlabelled tiles are candidates,
    without the second n are drawn by chance.

    widen (ours): if fewer than `widen` · n tiles disagree, that many are candidates, the further
    ones by the smallest margin of the mean prediction. `unisal-wide` takes 10, a value of diverse
    mini-batch active learning (Zhdanov, arXiv 1901.05954).
    """
    candidate = pool.unlabelled_mask & (disagreement(pool.probs) | (not disagreeing))
    candidates = np.flatnonzero(candidate)
    if len(candidates) < widen * n:
        order = np.lexsort((margin(pool.probs), ~candidate, ~pool.unlabelled_mask))
        candidates = order[: min(widen * n, pool.unlabelled_mask.sum())]
    if len(candidates) <= n:
        chosen = candidates[np.argsort(-entropy(pool.probs)[candidates], kind="stable")]
    elif compactly:
        chosen = candidates[compact(pool.features[candidates], n, seed)]
    else:
        chosen = np.random.default_rng(seed).choice(candidates, n, replace=False)
    filled = _most_uncertain(pool, n - len(chosen), chosen)
    rows = np.concatenate([chosen, filled])
    return Query(rows, int(candidate.sum()), len(filled)) if disagreeing else Query(rows)


def _most_uncertain(pool: Pool, n: int, without: np.ndarray) -> np.ndarray:
    left = pool.unlabelled_mask.copy()
    left[without] = False
    rows = np.flatnonzero(left)
    return rows[np.argsort(-entropy(pool.probs)[rows], kind="stable")[:n]]


def weighted_unisal(pool: Pool, n: int, seed: int) -> Query:
    """Compact clusters of all unlabelled tiles, each with the weight of its disagreement (ours).

    Instead of UniSAL's all or nothing the weight is the Jensen-Shannon divergence of the two
    predictions, H(mean) − mean of H, divided by the share of the unlabelled tiles that are
    predicted to be of the same class, so that rare classes are not outweighed. Needs no fall-back.
    """
    rows = np.flatnonzero(pool.unlabelled_mask)
    probs = pool.probs[:, rows].astype(np.float64)
    divergence = entropy(probs) - np.mean([entropy(p[None]) for p in probs], axis=0)
    predicted = probs.mean(0).argmax(1)
    weights = np.maximum(divergence, 1e-6) / np.bincount(predicted)[predicted]
    chosen = rows[compact(pool.features[rows], n, seed, weights)]
    return Query(np.concatenate([chosen, _most_uncertain(pool, n - len(chosen), chosen)]))


# --- others --------------------------------------------------------------------------------------


def _activeml(class_name: str, pool: Pool, n: int, seed: int, **arguments: object) -> Query:
    """A pool strategy of scikit-activeml, which takes seconds to import."""
    from lib.active import activeml

    given: dict[str, Any] = vars(pool) | arguments
    return Query(activeml.query(class_name, n, seed, **given))


STRATEGIES: dict[str, Strategy] = {
    "unisal": unisal,
    "unisal-weighted": weighted_unisal,
    "unisal-wide": partial(unisal, widen=10),
    "dus": partial(unisal, compactly=False),
    "cs": partial(unisal, disagreeing=False),
    "random": partial(_activeml, "RandomSampling"),
    "entropy": partial(_activeml, "UncertaintySampling", method="entropy"),
    "margin": partial(_activeml, "UncertaintySampling", method="margin_sampling"),
    "coreset": partial(_activeml, "CoreSet"),
    "badge": partial(_activeml, "Badge"),
    "typiclust": partial(_activeml, "TypiClust"),
}


def strategy_by_name(strategy: str) -> Strategy:
    """A strategy by its name in `STRATEGIES`, or by its class name in scikit-activeml.

    Raises ValueError, naming those that there are, for an unknown one.
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    from lib.active import activeml

    if not activeml.is_strategy(strategy):
        raise ValueError(
            f"unknown strategy {strategy!r}. Ours: {', '.join(STRATEGIES)}; or the class name of a "
            "pool strategy of scikit-activeml, as Clue or MaxHerding"
        )
    return partial(_activeml, strategy)


def select(strategy: str, pool: Pool, n: int, seed: int) -> Query:
    """The n tiles that a strategy asks for; all that may be chosen if there are no more.

    strategy: see `strategy_by_name`.
    """
    choose = strategy_by_name(strategy)
    unlabelled = np.flatnonzero(pool.unlabelled_mask)
    return choose(pool, n, seed) if len(unlabelled) > n else Query(unlabelled)
