"""Which tiles to ask labels for: disagreement and compactness (UniSAL), and other strategies."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import skactiveml.pool
from skactiveml.base import SkactivemlClassifier
from sklearn.cluster import KMeans

from lib import consensus
from lib.labels import UNLABELLED


@dataclass(frozen=True)
class Pool:
    """What a strategy may look at: predictions, features and the labels given so far.

    probs: softmaxes of two networks [2, N, C]; features: [N, P] (`networks.predict_members`); labels:
    [N], `UNLABELLED` where none was given; unlabelled_mask: bool [N], the tiles that may be chosen.
    """

    probs: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    unlabelled_mask: np.ndarray


@dataclass(frozen=True)
class Query:
    """Rows of the pool to ask for, in order; with UniSAL's selector also how it came to them.

    disagreeing: unlabelled_mask tiles on which the networks disagree; filled: how many of the query had to
    be taken elsewhere, as fewer disagree than are asked for.
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

    features: [N, P]; weights: [N], of the tiles in the clustering. Memory O(N · P).
    """
    n = min(n, len(np.unique(features, axis=0)))
    found = KMeans(n, n_init=1, random_state=seed).fit(features, sample_weight=weights)
    return found.labels_, found.cluster_centers_


def compact(
    features: np.ndarray, n: int, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Of each of n `clusters` the tile nearest to its centre, that of the largest first (CS)."""
    if not len(features):
        return np.zeros(0, int)
    cluster, centres = clusters(features, n, seed, weights)
    away = ((features - centres[cluster]) ** 2).sum(1)
    by_distance = np.lexsort((np.arange(len(away)), away))
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

    Among the unlabelled_mask tiles on which the networks disagree, one of each of n compact clusters of
    features. If no more than n disagree, all of them, and the rest by the highest entropy of the
    mean prediction (the authors' public code raises an error there). Each selector can be left out:
    without the first all unlabelled_mask tiles are candidates, without the second n are drawn by chance.

    widen (ours): if fewer than `widen` · n tiles disagree, that many are candidates, the further
    ones by the smallest margin of the mean prediction. `unisal-wide` takes 10, a value of diverse
    mini-batch active learning (Zhdanov, arXiv 1901.05954).
    """
    dispute = pool.unlabelled_mask & (disagreement(pool.probs) | (not disagreeing))
    candidates = np.flatnonzero(dispute)
    if len(candidates) < widen * n:
        order = np.lexsort((margin(pool.probs), ~dispute, ~pool.unlabelled_mask))
        candidates = order[: min(widen * n, pool.unlabelled_mask.sum())]
    if len(candidates) <= n:
        chosen = candidates[np.argsort(-entropy(pool.probs)[candidates], kind="stable")]
    elif compactly:
        chosen = candidates[compact(pool.features[candidates], n, seed)]
    else:
        chosen = np.random.default_rng(seed).choice(candidates, n, replace=False)
    filled = _most_uncertain(pool, n - len(chosen), chosen)
    rows = np.concatenate([chosen, filled])
    return Query(rows, int(dispute.sum()), len(filled)) if disagreeing else Query(rows)


def _most_uncertain(pool: Pool, n: int, without: np.ndarray) -> np.ndarray:
    left = pool.unlabelled_mask.copy()
    left[without] = False
    left = np.flatnonzero(left)
    return left[np.argsort(-entropy(pool.probs)[left], kind="stable")[:n]]


def weighted_unisal(pool: Pool, n: int, seed: int) -> Query:
    """Compact clusters of all unlabelled_mask tiles, each with the weight of its disagreement (ours).

    Instead of UniSAL's all or nothing the weight is the Jensen-Shannon divergence of the two
    predictions, H(mean) − mean of H, divided by the share of the unlabelled_mask tiles that are predicted
    to be of the same class, so that rare classes are not outweighed. Needs no fall-back.
    """
    rows = np.flatnonzero(pool.unlabelled_mask)
    probs = pool.probs[:, rows].astype(np.float64)
    divergence = entropy(probs) - np.mean([entropy(p[None]) for p in probs], axis=0)
    predicted = probs.mean(0).argmax(1)
    weights = np.maximum(divergence, 1e-6) / np.bincount(predicted)[predicted]
    chosen = rows[compact(pool.features[rows], n, seed, weights)]
    return Query(np.concatenate([chosen, _most_uncertain(pool, n - len(chosen), chosen)]))


# --- others --------------------------------------------------------------------------------------


class Known(SkactivemlClassifier):
    """A classifier for scikit-activeml that knows its answers: predictions by row of features."""

    def __init__(self, features: np.ndarray, probs: np.ndarray):
        super().__init__(classes=range(probs.shape[1]), missing_label=np.nan)
        self.features, self.probs = features, probs
        self.row = {of.tobytes(): row for row, of in enumerate(features)}
        self.classes_ = np.arange(probs.shape[1])

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> "Known":
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.probs[[self.row[of.tobytes()] for of in np.ascontiguousarray(X)]]


def activeml(name: str, pool: Pool, n: int, seed: int, **arguments: object) -> Query:
    """A pool strategy of scikit-activeml on the same features and predictions.

    Strategies that want a classifier get the mean prediction, those that want an ensemble the two
    networks.
    """
    kind: Any = getattr(skactiveml.pool, name)
    rows = np.flatnonzero(
        pool.unlabelled_mask | (pool.labels != UNLABELLED)
    )  # TypiClust stumbles over others
    features, probs = _distinct(pool.features[rows]), pool.probs[:, rows].astype(np.float64)
    given = np.where(pool.labels == UNLABELLED, np.nan, pool.labels.astype(float))[rows]
    each, mean = [Known(features, of) for of in probs], Known(features, probs.mean(0))
    offered = {"clf": mean, "estimator": mean, "ensemble": each, "discriminator": mean}
    offered |= {"fit_clf": False, "fit_estimator": False, "fit_ensemble": False}
    wanted = inspect.signature(kind.query).parameters
    if "cluster_algo_dict" in inspect.signature(kind).parameters:
        arguments = {"cluster_algo_dict": {"random_state": seed}} | arguments  # Clue forgets it
    query = kind(random_state=seed, **arguments).query(
        features,
        given,
        candidates=np.flatnonzero(pool.unlabelled_mask[rows]),
        batch_size=n,
        **{key: value for key, value in offered.items() if key in wanted},
    )
    return Query(rows[query])


def _distinct(features: np.ndarray) -> np.ndarray:
    """Features [N, P] as float64; where two rows are equal, all with a noise that parts them."""
    features = np.ascontiguousarray(features, dtype=np.float64)
    if len(np.unique(features, axis=0)) == len(features):
        return features
    noise = np.random.default_rng(0).normal(size=features.shape)
    return features + 1e-6 * (features.std() or 1) * noise


STRATEGIES: dict[str, Strategy] = {
    "unisal": unisal,
    "unisal-weighted": weighted_unisal,
    "unisal-wide": partial(unisal, widen=10),
    "dus": partial(unisal, compactly=False),
    "cs": partial(unisal, disagreeing=False),
    "random": partial(activeml, "RandomSampling"),
    "entropy": partial(activeml, "UncertaintySampling", method="entropy"),
    "margin": partial(activeml, "UncertaintySampling", method="margin_sampling"),
    "coreset": partial(activeml, "CoreSet"),
    "badge": partial(activeml, "Badge"),
    "typiclust": partial(activeml, "TypiClust"),
}


def strategy_by_name(strategy: str) -> Strategy:
    """A strategy by its name in `STRATEGIES`, or by its class name in scikit-activeml.

    Raises ValueError, naming those that there are, for an unknown one.
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    if not hasattr(getattr(skactiveml.pool, strategy, None), "query"):
        raise ValueError(
            f"unknown strategy {strategy!r}. Ours: {', '.join(STRATEGIES)}; or the class name of a "
            "pool strategy of scikit-activeml, as Clue or MaxHerding"
        )
    return partial(activeml, strategy)


def select(strategy: str, pool: Pool, n: int, seed: int) -> Query:
    """The n tiles that a strategy asks for; see `strategy_by_name`. All unlabelled_mask ones if there are no more."""
    chosen = strategy_by_name(strategy)
    unlabelled_mask = np.flatnonzero(pool.unlabelled_mask)
    return chosen(pool, n, seed) if len(unlabelled_mask) > n else Query(unlabelled_mask)
