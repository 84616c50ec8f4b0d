"""Labels from the features alone: K-means clusters, and the class of each cluster.

Two rules: Hungarian matching with the prompt labels (VLM-CPL, arXiv 2403.15836), and the lift of
the classes in each cluster, which is ours and leaves no class without a cluster. No label of a tile
is seen, and no result depends on the order of the rows.
"""

import warnings
from typing import Any

import numpy as np

from lib.labels import UNLABELLED


def cluster_features(
    features: np.ndarray,
    n_clusters: int,
    *,
    seed: int = 0,
    tiles: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Cluster of each tile by K-means, int [N], `UNLABELLED` outside `candidates`.

    features: [N, D]; tiles: [N] tile numbers; candidates: bool [N]. With fewer tiles than
    clusters each tile is one. Raises ValueError when `candidates` leaves no tile.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    tiles = np.arange(len(features)) if tiles is None else np.asarray(tiles)
    candidates = np.ones(len(features), bool) if candidates is None else candidates
    rows = np.flatnonzero(candidates)
    if not len(rows):
        raise ValueError("no tile is left to cluster")
    rows = rows[np.argsort(tiles[rows])]  # the start of K-means depends on the order of its rows
    chosen = np.asarray(features[rows], np.float32)
    kmeans = KMeans(min(n_clusters, len(rows)), n_init=10, random_state=seed)
    clusters = np.full(len(features), UNLABELLED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        clusters[rows] = kmeans.fit_predict(chosen)
    return clusters


def cluster_agreement(clusters: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """How many tiles of each cluster bear each label, int64 [K, C].

    clusters, labels: int [N]; tiles without a cluster (`UNLABELLED`) do not count.
    """
    inside = clusters != UNLABELLED
    agreement = np.zeros((int(clusters.max()) + 1, n_classes), np.int64)
    np.add.at(agreement, (clusters[inside], np.asarray(labels)[inside]), 1)
    return agreement


def match_clusters(agreement: np.ndarray) -> np.ndarray:
    """Class of each cluster, int64 [K], so that most tiles' cluster class equals their label.

    agreement: [K, C], see `cluster_agreement`. K ≤ C clusters: Hungarian matching, one cluster to
    one class; a class that no tile bears can still be matched, it then costs nothing. K > C (not in
    the paper): many to one, each cluster to the class that most of its tiles bear.
    """
    from scipy.optimize import linear_sum_assignment

    n_clusters, n_classes = agreement.shape
    if n_clusters > n_classes:
        return agreement.argmax(1)
    return linear_sum_assignment(agreement, maximize=True)[1]


def feature_labels(
    features: np.ndarray,
    prompt_labels: np.ndarray,
    n_classes: int,
    *,
    clusters_per_class: int = 1,
    seed: int = 0,
    tiles: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Labels from the features alone, int64 [N], `UNLABELLED` outside `candidates`.

    K-means with C clusters (times `clusters_per_class`) on the image features, then
    `match_clusters` to the prompt labels. features: [N, D]; prompt_labels: [N]; see
    `cluster_features` for tiles, candidates and errors.
    """
    n_clusters = clusters_per_class * n_classes
    clusters = cluster_features(features, n_clusters, seed=seed, tiles=tiles, candidates=candidates)
    class_of_cluster = match_clusters(cluster_agreement(clusters, prompt_labels, n_classes))
    return np.where(clusters == UNLABELLED, UNLABELLED, class_of_cluster[clusters])


def cluster_lift(clusters: np.ndarray, view_probs: np.ndarray) -> np.ndarray:
    """How much more probable each class is in a cluster than in all tiles, float64 [K, C].

    lift_kc = (mean of p_c over the tiles of cluster k) / (mean of p_c over all tiles with a
    cluster); 1 says nothing, and the lifts of a cluster weighted by the overall means add up to
    one. Not in the paper. A class of no probability anywhere has lift 0. clusters: int [N], those
    0 … K−1 with a tile each; view_probs: [N, C], mean over the views.
    """
    inside = clusters != UNLABELLED
    clusters, probs = clusters[inside], np.asarray(view_probs, np.float64)[inside]
    sums = np.zeros((int(clusters.max()) + 1, probs.shape[1]))
    np.add.at(sums, clusters, probs)
    means = sums / np.bincount(clusters)[:, None]
    overall = probs.mean(0)
    lift = np.divide(means, overall, out=np.zeros_like(means), where=overall > 0)
    return lift.round(9)  # the order of the rows changes the last bits of a sum


def classes_by_lift(lift: np.ndarray) -> np.ndarray:
    """Class of each cluster, int64 [K]: that of its highest lift, and every class has a cluster.

    A class that is the highest nowhere takes the cluster in which its own lift is highest, among
    those of classes that keep another one. Where several classes lack a cluster, the sum of the
    logarithms of their lifts decides. With fewer clusters than classes nothing is taken.
    lift: [K, C], see `cluster_lift`.
    """
    from scipy.optimize import linear_sum_assignment

    n_clusters, n_classes = lift.shape
    class_of_cluster = lift.argmax(1)
    missing = np.setdiff1d(np.arange(n_classes), class_of_cluster)
    if not len(missing) or n_clusters < n_classes:
        return class_of_cluster
    # One cluster for every class: a class that has some keeps any of its own, at no gain.
    own = class_of_cluster[:, None] == np.arange(n_classes)
    gain = np.where(own, 0.0, -1e6)
    gain[:, missing] = np.log(np.maximum(lift[:, missing], 1e-12))
    rows, columns = linear_sum_assignment(gain, maximize=True)
    taken = np.isin(columns, missing)
    class_of_cluster[rows[taken]] = columns[taken]
    return class_of_cluster


def lift_clusters(
    features: np.ndarray, view_probs: np.ndarray, *, clusters_per_class: int = 3, **kwargs: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of all tiles, int [N], and the lift of every class in each of them, [K, C].

    K-means with `clusters_per_class` · C clusters. features: [N, D]; view_probs: [N, C]; see
    `cluster_features` for seed, tiles, candidates and errors.
    """
    n_clusters = clusters_per_class * view_probs.shape[1]
    clusters = cluster_features(features, n_clusters, **kwargs)
    return clusters, cluster_lift(clusters, view_probs)


def lift_labels(features: np.ndarray, view_probs: np.ndarray, **kwargs: Any) -> np.ndarray:
    """Labels from the lift clusters, int64 [N], `UNLABELLED` outside `candidates`.

    Ours: the clusters are of all tiles and not of those that the views agree on, so a class of
    which few are kept still has its clusters. See `lift_clusters` for the arguments.
    """
    clusters, lift = lift_clusters(features, view_probs, **kwargs)
    return np.where(clusters == UNLABELLED, UNLABELLED, classes_by_lift(lift)[clusters])


def labels_by_clusters(
    cluster_rule: str,
    features: np.ndarray,
    labels: np.ndarray,
    view_probs: np.ndarray,
    *,
    candidates: np.ndarray,
    kept: np.ndarray,
    **clustering: Any,
) -> np.ndarray:
    """Labels from the features by a rule, int64 [N], `UNLABELLED` elsewhere.

    "matched": clusters of the kept tiles, matched to the labels that they bear (`feature_labels`,
    published); "lift": clusters of all tiles in `candidates` (`lift_labels`). labels: [N];
    view_probs: [N, C]; candidates, kept: bool [N]; clustering: seed, tiles and clusters_per_class.
    """
    if cluster_rule == "lift":
        return lift_labels(features, view_probs, **clustering, candidates=candidates)
    return feature_labels(features, labels, view_probs.shape[1], **clustering, candidates=kept)
