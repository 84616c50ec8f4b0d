"""Methods to compare with that are no loss (those are in `losses`)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lib.blocks import blocks, unit_rows

if TYPE_CHECKING:
    from scipy import sparse

NEIGHBOURS = 3
MOST_NEIGHBOURED = 50_000  # tiles; a minute for these, and hours for twenty times as many
TEMPER = 50.0  # divides the log-likelihood, as in the authors' code; the text does not have it
START_TILES = 8  # the surest tiles of a class, whose mean is its first centre
ROUNDS, INNER_ROUNDS = 10, 5


def logistic_regression() -> Any:
    """Logistic regression on standardised features, regularised as so many features want it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def suspected_labels(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Labels that confident learning considers wrong (Northcutt et al., JAIR 2021), bool [N].

    cleanlab's `find_label_issues` in its default setting, given the probabilities of a logistic
    regression on standardised features, predicted for each fifth of the groups by the others (with
    fewer groups, for each by the others). features: [N, E]; labels, groups: [N]. Labels that are
    all the same are not suspected. Raises ValueError for a single group.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.model_selection import GroupKFold, cross_val_predict

    positions = np.unique(labels, return_inverse=True)[1]  # cleanlab wants every class to occur
    if not positions.any():
        return np.zeros(len(labels), bool)
    folds = GroupKFold(min(5, len(np.unique(groups))))
    probs = cross_val_predict(
        logistic_regression(), features, positions, groups=groups, cv=folds, method="predict_proba"
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
    Time O(N²·D). Raises ValueError for fewer tiles than neighbours, or over `MOST_NEIGHBOURED`.
    """
    features, probs = _unit(features), np.asarray(probs, np.float64)
    affinity = _affinity(features)
    z = probs
    surest = np.argsort(-probs, axis=0, kind="stable")[:START_TILES]
    centres = features[surest].mean(0)
    variances = np.full(features.shape[1], 1 / features.shape[1])
    for last in [False] * ROUNDS + [True]:
        likelihood = _log_likelihood(features, centres, variances)
        z = _assigned(probs, likelihood, affinity, z)
        if not last:
            weights = z / np.maximum(z.sum(0), 1e-12)
            centres = weights.T @ features
            variances = _variances(features, centres, z)
    return z


def anchored_probabilities(
    features: np.ndarray, text: np.ndarray, probs: np.ndarray, *, anchor: float = 1.0
) -> np.ndarray:
    """Class probabilities of all tiles at once, held to the prompts, after StatA (Zanella et al.,
    Realistic Test-Time Adaptation of Vision-Language Models, CVPR 2025).

    As `transductive_probabilities`, but with a diagonal covariance per class and a statistical
    anchor: α · Σ_k KL( N(m_k, S) ‖ N(μ_k, Σ_k) ) is added to the objective, m_k = g(T_k) the text
    feature and S = 1/N Σ_ik ŷ_ik (f_i − m_k)² the spread of the zero-shot classes about it. Setting
    the derivatives to zero makes the anchor α tiles beside the n_k = Σ_i z_ik of the class:

        μ_k = β_k v_k + (1 − β_k) m_k,   β_k = n_k / (n_k + α),   v_k = Σ_i z_ik f_i / n_k
        Σ_k = β_k Σ_i z_ik (f_i − μ_k)² / n_k + (1 − β_k) (S + (m_k − μ_k)²)

    so a class that no tile belongs to stays where its prompt is. Only the abstract of the paper and
    reviews of it were at hand: the updates are derived here from the divergence, α = 1 (one tile)
    and the other constants, those of TransCLIP, are ours. features: [N, D], text: [C, D], both
    L2-normalised; probs: ŷ [N, C]; returns float64 [N, C]. Raises ValueError for as few or as many
    tiles as `transductive_probabilities`.
    """
    features, text, probs = _unit(features), _unit(text), np.asarray(probs, np.float64)
    affinity = _affinity(features)
    spread = _variances(features, text, probs)
    z, centres, variances = probs, text, np.tile(spread, (len(text), 1))
    squares = features**2
    for last in [False] * ROUNDS + [True]:
        likelihood = _log_likelihoods(features, centres, variances)
        z = _assigned(probs, likelihood, affinity, z)
        if not last:
            counts = z.sum(0)[:, None]
            share = counts / (counts + anchor)
            means = z.T @ features / np.maximum(counts, 1e-12)
            seconds = z.T @ squares / np.maximum(counts, 1e-12)
            centres = share * means + (1 - share) * text
            own = seconds - 2 * means * centres + centres**2
            variances = share * own + (1 - share) * (spread + (text - centres) ** 2)
            variances = np.maximum(variances, 1e-12)
    return z


def centred_probabilities(features: np.ndarray, text: np.ndarray, scale: float) -> np.ndarray:
    """Zero-shot probabilities about the centres of images and prompts, float64 [N, C].

    f' = (f − f̄) / ‖f − f̄‖ with f̄ the mean over all tiles, g' likewise over the classes' prompts,
    p = softmax_c(s · f'ᵀ g'_c). It removes the gap between images and texts (Liang et al., Mind the
    Gap, NeurIPS 2022) and what all prompts share, so a class that they neglect is chosen as readily
    as the others. features: [N, D]; text: [C, D]; scale: s, the model's own logit scale.
    """
    text = np.asarray(text, np.float64)
    prompts, every = _unit(text - text.mean(0)), blocks(len(features))
    sums = [np.asarray(features[block], np.float64).sum(0) for block in every]
    mean = np.sum(sums, axis=0) / len(features)
    logits = [scale * _unit(features[block] - mean) @ prompts.T for block in every]
    return np.concatenate([_normalised(np.ones_like(own), own) for own in logits])


def sinkhorn_probabilities(
    probs: np.ndarray, prior: np.ndarray | None = None, *, rounds: int = 200
) -> np.ndarray:
    """Probabilities scaled to a prior π of the classes, float64 [N, C] (Cuturi, NeurIPS 2013).

    q_ic = u_i p_ic v_c with Σ_c q_ic = 1 and (1/N) Σ_i q_ic = π_c: columns and rows are scaled in
    turn, rows last. prior: [C], by default equal. The mean of `probs` itself as the prior changes
    nothing, and the prior of `prior_by_em` gives the probabilities that it leads to: an estimate
    must come from elsewhere, such as the shares of clusters. A class of π_c = 0 gets none.
    """
    q = np.maximum(np.asarray(probs, np.float64), 1e-300)
    n, n_classes = q.shape
    prior = np.full(n_classes, 1 / n_classes) if prior is None else np.asarray(prior, np.float64)
    for _ in range(rounds):
        q = q * (n * prior / np.maximum(q.sum(0), 1e-300))
        q = q / np.maximum(q.sum(1, keepdims=True), 1e-300)
    return q


def prior_by_em(probs: np.ndarray, *, rounds: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Prior of the classes, float64 [C], and probabilities under it, float64 [N, C].

    Saerens, Latinne & Decaestecker (Neural Computation 14, 2002): from π = 1/C,

        q_ic ∝ p_ic · π_c / π⁰_c,   π_c = (1/N) Σ_i q_ic

    until nothing changes. π⁰ is the prior that the classifier was trained with; prompts have none,
    so it is equal here. probs: [N, C].
    """
    probs = np.asarray(probs, np.float64)
    prior = np.full(probs.shape[1], 1 / probs.shape[1])
    for _ in range(rounds):
        before = prior
        weighted = probs * prior
        q = weighted / np.maximum(weighted.sum(1, keepdims=True), 1e-300)
        prior = q.mean(0)
        if np.abs(prior - before).max() < 1e-9:
            break
    return prior, q


def _assigned(
    probs: np.ndarray, likelihood: np.ndarray, affinity: "sparse.csr_array", z: np.ndarray
) -> np.ndarray:
    """The update of z, `INNER_ROUNDS` times."""
    for _ in range(INNER_ROUNDS):
        z = _normalised(probs, likelihood / TEMPER + affinity @ z / (2 * NEIGHBOURS))
    return z


def _unit(rows: np.ndarray) -> np.ndarray:
    return unit_rows(np.asarray(rows, np.float64))


def _affinity(features: np.ndarray) -> "sparse.csr_array":
    """The matrix w + wᵀ, N × N with a few entries per row."""
    from scipy import sparse
    from sklearn.neighbors import NearestNeighbors

    n = len(features)
    if n <= NEIGHBOURS:
        raise ValueError(f"more than {NEIGHBOURS} tiles are needed, not {n}")
    if n > MOST_NEIGHBOURED:
        raise ValueError(
            f"{n} tiles are compared with each other, which takes hours: take {MOST_NEIGHBOURED}, "
            "or a method that is linear in their number: lift, centred or sinkhorn-clusters"
        )
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


def _log_likelihoods(
    features: np.ndarray, centres: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Each tile under each class up to a constant, [N, C]; variances: [C, D], one per class."""
    away = features**2 @ (1 / variances).T - 2 * features @ (centres / variances).T
    away += (centres**2 / variances).sum(1)
    return -0.5 * (away + np.log(variances).sum(1))


def _variances(features: np.ndarray, centres: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Σ_ik z_ik (f_i − μ_k)² / N without the array [N, C, D]: the rows of z add up to one."""
    mixed = (z.sum(0)[:, None] * centres**2).sum(0) - 2 * ((z.T @ features) * centres).sum(0)
    return np.maximum(((features**2).sum(0) + mixed) / len(features), 1e-12)


def _normalised(probs: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    z = probs * np.exp(exponent - exponent.max(1, keepdims=True))
    return z / np.maximum(z.sum(1, keepdims=True), 1e-300)
