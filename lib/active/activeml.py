"""Pool strategies of scikit-activeml on the predictions and features of our networks."""

import inspect
from typing import Any

import numpy as np
import skactiveml.pool
from skactiveml.base import SkactivemlClassifier

from lib.blocks import SAMPLED, draw
from lib.labels import UNLABELLED


class PrecomputedClassifier(SkactivemlClassifier):
    """A classifier that looks its predictions up by the row of features it is given."""

    def __init__(self, features: np.ndarray, probs: np.ndarray):
        super().__init__(classes=range(probs.shape[1]), missing_label=np.nan)
        self.features, self.probs = features, probs
        self.row_by_bytes = {row.tobytes(): idx for idx, row in enumerate(features)}
        self.classes_ = np.arange(probs.shape[1])

    def fit(
        self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> "PrecomputedClassifier":
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.probs[[self.row_by_bytes[row.tobytes()] for row in np.ascontiguousarray(X)]]


def query(class_name: str, pool: Any, n: int, seed: int, **arguments: object) -> np.ndarray:
    """Choose n tiles with a strategy of scikit-activeml: rows of the pool [n].

    Strategies that want a classifier get the mean prediction, those that want an ensemble the two
    networks. Of more than `SAMPLED` unlabelled tiles they see a draw, as they copy or compare too
    many: of 20,000 made-up tiles BADGE, CoreSet and TypiClust then chose 100 that cover the others
    as well (98 to 102 % in the sum of `strategies.herding`; CoreSet's farthest is 8 % farther).
    SubSamplingWrapper of scikit-activeml would draw after the copies. pool: a `pool.Pool`;
    arguments: of the strategy's class.
    """
    strategy: Any = getattr(skactiveml.pool, class_name)
    # TypiClust stumbles over tiles that have no label and may not be chosen.
    unlabelled = np.flatnonzero(pool.unlabelled_mask)
    offered_mask = pool.labels != UNLABELLED
    offered_mask[unlabelled[draw(len(unlabelled), max(SAMPLED, 4 * n), seed)]] = True
    rows = np.flatnonzero(offered_mask)
    features, probs = _distinct(pool.features[rows]), pool.probs[:, rows].astype(np.float64)
    labels = np.where(pool.labels == UNLABELLED, np.nan, pool.labels.astype(float))[rows]
    members = [PrecomputedClassifier(features, member_probs) for member_probs in probs]
    mean = PrecomputedClassifier(features, probs.mean(0))
    offered = {"clf": mean, "estimator": mean, "ensemble": members, "discriminator": mean}
    offered |= {"fit_clf": False, "fit_estimator": False, "fit_ensemble": False}
    wanted = inspect.signature(strategy.query).parameters
    if "cluster_algo_dict" in inspect.signature(strategy).parameters:
        arguments = {"cluster_algo_dict": {"random_state": seed}} | arguments  # Clue forgets it
    chosen = strategy(random_state=seed, **arguments).query(
        features,
        labels,
        candidates=np.flatnonzero(pool.unlabelled_mask[rows]),
        batch_size=n,
        **{key: value for key, value in offered.items() if key in wanted},
    )
    return rows[chosen]


def _distinct(features: np.ndarray) -> np.ndarray:
    """Features [N, P] as float64; where two rows are equal, all with a noise that parts them."""
    features = np.ascontiguousarray(features, dtype=np.float64)
    if len(np.unique(features, axis=0)) == len(features):
        return features
    noise = np.random.default_rng(0).normal(size=features.shape)
    return features + 1e-6 * (features.std() or 1) * noise
