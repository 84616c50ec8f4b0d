"""Labels from the features alone: K-means clusters, and the class of each cluster.

Two rules: Hungarian matching with the prompt labels (VLM-CPL, arXiv 2403.15836), and the lift of
the classes in each cluster, which is ours and leaves no class without a cluster. No label of a tile
is seen, and no result depends on the order of the rows.
"""

import warnings

import numpy as np

from lib.blocks import SAMPLED, Rows, blocks, draw
from lib.labels import UNLABELLED


def k_means(
    features: np.ndarray | Rows, n_clusters: int, *, n_init: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of each tile [N] and centres [K, D] by K-means.

    Of more than `SAMPLED` tiles (20 a cluster, if that is more) a draw is clustered, and each other
    one goes to its nearest centre: of 10⁵ made-up tiles the same clusters as of all (adjusted Rand
    index 1.000), and on lc25k as near to them as those of another seed (.984 to .995).
    features: [N, D]; fewer clusters where fewer rows differ.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    sampled = draw(len(features), max(SAMPLED, 20 * n_clusters), seed)
    kmeans = KMeans(min(n_clusters, len(sampled)), n_init=n_init, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        kmeans.fit(features[sampled])
    if len(sampled) == len(features):
        return kmeans.labels_, kmeans.cluster_centers_
    nearest = [kmeans.predict(features[block]) for block in blocks(len(features))]
    return np.concatenate(nearest), kmeans.cluster_centers_


def cluster_features(
    features: np.ndarray | Rows,
    n_clusters: int,
    *,
    seed: int = 0,
    tiles: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Cluster of each tile by K-means, int [N], `UNLABELLED` outside `candidates`.

    features: [N, D]; tiles: [N] tile numbers; candidates: bool [N]. With fewer tiles than
    clusters each tile is one, and of tiles that are alike there are fewer: every cluster has
    one. Raises ValueError when `candidates` leaves no tile.
    """
    tiles = np.arange(len(features)) if tiles is None else np.asarray(tiles)
    candidates = np.ones(len(features), bool) if candidates is None else candidates
    rows = np.flatnonzero(candidates)
    if not len(rows):
        raise ValueError("no tile is left to cluster")
    rows = rows[np.argsort(tiles[rows])]  # the start of K-means depends on the order of its rows
    clusters = np.full(len(features), UNLABELLED)
    chosen = Rows(lambda some: features[some].astype(np.float32), rows)
    found, _ = k_means(chosen, n_clusters, n_init=10, seed=seed)
    clusters[rows] = np.unique(found, return_inverse=True)[1]
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
