"""Methods to compare with that are no loss (those are in `losses`)."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

NEIGHBOURS = 3
TEMPER = 50.0  # divides the log-likelihood, as in the authors' code; the text does not have it
START_TILES = 8  # the surest tiles of a class, whose mean is its first centre
ROUNDS, INNER_ROUNDS = 10, 5


def suspected_labels(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Labels that confident learning considers wrong (Northcutt et al., JAIR 2021), bool [N].

    cleanlab's `find_label_issues` in its default setting, given the probabilities of a logistic
    regression on standardised features, predicted for each fifth of the groups by the others (with
    fewer groups, for each by the others). features: [N, E]; labels, groups: [N]. Labels that are
    all the same are not suspected. Raises ValueError for a single group.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    positions = np.unique(labels, return_inverse=True)[1]  # cleanlab wants every class to occur
    if not positions.any():
        return np.zeros(len(labels), bool)
    folds = GroupKFold(min(5, len(np.unique(groups))))
    probs = cross_val_predict(
        classifier, features, positions, groups=groups, cv=folds, method="predict_proba"
    )
    return find_label_issues(positions, probs, n_jobs=1)


def transductive_probabilities(features: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Class probabilities of all tiles at once, zero-shot TransCLIP (Zanella et al., NeurIPS 2024).

    A Gaussian per class with one diagonal covariance, tiles pulled towards their nearest
    neighbours, both held to the zero-shot probabilities ŷ. In turns, z from the others:

        z_i ∝ ŷ_i · exp( log p_i / 50 + Σ_j (w_ij + w_ji) z_j / (2 · 3) )
        μ_k = Σ_i z_ik f_i / Σ_i z_ik,   σ² = 1/N Σ_i Σ_k z_ik (f_i − μ_k)²

    with log p_ik = −½ Σ_d (f_id − μ_kd)² / σ²_d and w_ij = f_i · f_j for the three nearest
    neighbours j of i, else 0. Every constant is that of the authors' code for zero-shot use (no
    label, λ = 1). features: [N, D], L2-normalised; probs: ŷ [N, C]; returns float64 [N, C].
    Memory O(N·D). Raises ValueError for fewer tiles than neighbours.
    """
    features = np.asarray(features, np.float64)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    probs = np.asarray(probs, np.float64)
    affinity = _affinity(features)
    z = probs
    surest = np.argsort(-probs, axis=0, kind="stable")[:START_TILES]
    centres = features[surest].mean(0)
    variances = np.full(features.shape[1], 1 / features.shape[1])
    for last in [False] * ROUNDS + [True]:
        likelihood = _log_likelihood(features, centres, variances)
        for _ in range(INNER_ROUNDS):
            z = _normalised(probs, likelihood / TEMPER + affinity @ z / (2 * NEIGHBOURS))
        if not last:
            weights = z / np.maximum(z.sum(0), 1e-12)
            centres = weights.T @ features
            variances = _variances(features, centres, z)
    return z


def _affinity(features: np.ndarray) -> "sparse.csr_array":
    """The matrix w + wᵀ, N × N with a few entries per row."""
    from scipy import sparse
    from sklearn.neighbors import NearestNeighbors

    n = len(features)
    if n <= NEIGHBOURS:
        raise ValueError(f"more than {NEIGHBOURS} tiles are needed, not {n}")
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(features)
    others = nearest.kneighbors(return_distance=False)  # a tile is not its own neighbour
    rows = np.repeat(np.arange(n), NEIGHBOURS)
    cosines = np.einsum("nd,nkd->nk", features, features[others]).ravel()
    w = sparse.csr_array((np.maximum(cosines, 0), (rows, others.ravel())), shape=(n, n))
    return w + w.T


def _log_likelihood(features: np.ndarray, centres: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Up to a term that all classes share: [N, C]."""
    points, means = features / np.sqrt(variances), centres / np.sqrt(variances)
    return points @ means.T - 0.5 * (means**2).sum(1)


def _variances(features: np.ndarray, centres: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Σ_ik z_ik (f_i − μ_k)² / N without the array [N, C, D]: the rows of z add up to one."""
    mixed = (z.sum(0)[:, None] * centres**2).sum(0) - 2 * ((z.T @ features) * centres).sum(0)
    return np.maximum(((features**2).sum(0) + mixed) / len(features), 1e-12)


def _normalised(probs: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    z = probs * np.exp(exponent - exponent.max(1, keepdims=True))
    return z / np.maximum(z.sum(1, keepdims=True), 1e-300)
