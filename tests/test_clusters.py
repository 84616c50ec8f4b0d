"""Clusters by lift against loops, and that no class is left without a cluster."""

import numpy as np
import pytest
import references
from cases import case
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lib import clusters
from lib.blocks import Rows


def random_lift(seed, neglected=0):
    """Lifts of a random clustering; the first classes are the most probable nowhere."""
    rng = np.random.default_rng([seed, 23])
    n_classes = int(rng.integers(2, 6))
    n_clusters = n_classes + int(rng.integers(0, 3))
    lift = rng.lognormal(size=(n_clusters, n_classes))
    lift[:, : min(neglected, n_classes - 1)] *= 0.05
    return lift


def two_kinds(seed, n=90, rare=12):
    """Features of a common and a rare class, and probabilities that neglect the rare one."""
    rng = np.random.default_rng([seed, 29])
    truth = (np.arange(n) < rare).astype(int)
    features = 6.0 * truth[:, None] + rng.normal(size=(n, 3))
    # The rare class gets at most 0.45: no prompt label is right, yet its tiles stand out.
    second = np.where(truth, rng.uniform(0.3, 0.45, n), rng.uniform(0.05, 0.2, n))
    return features, np.stack([1 - second, second], 1), truth


def test_lift_matches_the_loop():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, n_classes, n_clusters = rng.integers(20, 80), rng.integers(2, 6), rng.integers(1, 6)
        of_tile = np.append(np.arange(n_clusters), rng.integers(-1, n_clusters, n - n_clusters))
        probs = rng.dirichlet(np.ones(n_classes), n)
        expected = references.cluster_lift(of_tile.tolist(), probs)
        assert clusters.cluster_lift(of_tile, probs) == pytest.approx(np.array(expected)), seed


def test_lifts_weighted_by_the_overall_means_add_up_to_one():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([5, 1, 0.2], 60)
    lift = clusters.cluster_lift(np.arange(60) % 7, probs)
    assert lift @ probs.mean(0) == pytest.approx(np.ones(7))


def test_a_class_of_no_probability_has_lift_zero():
    lift = clusters.cluster_lift(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert lift.tolist() == [[1, 0], [1, 0]]


def test_classes_by_lift_is_the_best_of_all_ways_to_leave_no_class_out():
    for seed in range(60):
        lift = random_lift(seed, neglected=seed % 4)
        with case(seed):
            found = clusters.classes_by_lift(lift)
            assert found.tolist() == references.classes_by_lift(lift)
            assert set(found.tolist()) == set(range(lift.shape[1]))


def test_a_cluster_keeps_the_class_of_its_highest_lift_where_none_is_missing():
    lift = np.array([[3.0, 4.0], [2.0, 1.0], [0.1, 5.0]])  # class 0 is higher in cluster 0, and yet
    assert clusters.classes_by_lift(lift).tolist() == [1, 0, 1]


def test_a_missing_class_takes_no_class_its_last_cluster():
    lift = np.array([[5.0, 1.0, 4.0], [1.0, 3.0, 0.5], [2.0, 4.0, 1.0]])
    assert clusters.classes_by_lift(lift).tolist() == [0, 1, 2]  # 4.0 lies in the only one of 0


def test_fewer_clusters_than_classes_follow_their_highest_lift():
    assert clusters.classes_by_lift(np.array([[0.5, 2.0, 1.0]])).tolist() == [1]


def test_a_class_that_no_prompt_predicts_has_a_cluster_where_it_stands_out():
    for seed in range(10):
        features, probs, truth = two_kinds(seed)
        assert not probs.argmax(1).any()
        of_tile = clusters.cluster_features(features, 6, seed=seed)
        found = clusters.classes_by_lift(clusters.cluster_lift(of_tile, probs))[of_tile]
        assert np.array_equal(found, truth), seed


def test_of_many_tiles_a_draw_is_clustered_and_all_go_to_their_nearest_centre(monkeypatch):
    """More rows than a block: in blocks they go where they would go at once."""
    monkeypatch.setattr(clusters, "SAMPLED", 500)
    chance = np.random.default_rng(2)
    truth = chance.integers(4, size=9000)
    features = (chance.normal(size=(4, 5))[truth] * 6 + chance.normal(size=(9000, 5))).astype("f4")
    of_tile, centres = clusters.k_means(features, 4, n_init=3, seed=0)
    away = ((features[:, None] - centres) ** 2).sum(2)
    assert (away[np.arange(9000), of_tile] <= away.min(1) + 1e-4).all()
    whole = KMeans(4, n_init=3, random_state=0).fit_predict(features)
    assert adjusted_rand_score(of_tile, whole) > 0.99


def test_features_that_are_read_late_give_the_same_clusters(monkeypatch):
    features = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float16)
    tiles, some = np.random.default_rng(1).permutation(300), np.arange(300) % 3 > 0
    for sampled in (10_000, 100):
        monkeypatch.setattr(clusters, "SAMPLED", sampled)
        given = {"seed": 3, "tiles": tiles, "candidates": some}
        late = clusters.cluster_features(Rows(features.__getitem__, np.arange(300)), 5, **given)
        assert np.array_equal(late, clusters.cluster_features(features, 5, **given))


def test_of_tiles_that_are_alike_every_cluster_has_one():
    """K-means leaves clusters empty then, and a mean of none is no number."""
    for seed in range(5):
        features = np.random.default_rng(seed).normal(size=(3, 4))[[0, 1, 2, 0, 1, 0]]
        found = clusters.cluster_features(features, 5, seed=seed)
        assert sorted({*found}) == [*range(len({*found}))] and len({*found}) <= 3
        lift = clusters.cluster_lift(found, np.full((6, 5), 0.2))
        assert np.isfinite(lift).all() and clusters.classes_by_lift(lift).shape == (len(lift),)
