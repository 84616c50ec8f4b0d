"""Which tiles are queried: hand-worked cases, slow loops, and what holds for every strategy."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import references
from cases import case
from sklearn.cluster import KMeans

from lib.active import strategies
from lib.active.strategies import Pool, select
from lib.labels import UNLABELLED

OTHERS = ["QueryByCommittee", "Clue", "MaxHerding"]  # by their names in scikit-activeml
EVERY = [*strategies.STRATEGIES, *OTHERS]


def random_pool(n=40, n_classes=3, size=4, queried=10, seed=0):
    chance = np.random.default_rng(seed)
    probs = chance.dirichlet(np.ones(n_classes), (2, n)).astype(np.float32)
    labels, unlabelled_mask = np.full(n, UNLABELLED), np.ones(n, bool)
    rows = chance.choice(n, queried, replace=False)
    labels[rows], unlabelled_mask[rows] = chance.integers(n_classes, size=queried), False
    features = chance.normal(size=(n, size)).astype(np.float32)
    more = chance.dirichlet(np.ones(n_classes), (7, n)).astype(np.float32)
    return Pool(
        probs, features, labels, unlabelled_mask, per_view_probs=more[:4], dropout_probs=more[4:]
    )


def pool_on_a_line(places, first, second):
    """Tiles at points of a line; two networks give the probability of the second class."""
    probs = np.stack([np.stack([1 - np.array(p), p], 1) for p in (first, second)])
    features = np.array(places, float)[:, None]
    n = len(places)
    return Pool(probs, features, np.full(n, UNLABELLED), np.ones(n, bool), dropout_probs=probs)


# --- UniSAL by hand ------------------------------------------------------------------------------


def test_networks_disagree_where_they_predict_different_classes():
    probs = np.array(
        [
            [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]],
            [[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.3, 0.4, 0.3]],
        ]
    )
    assert strategies.disagreement(probs).tolist() == [False, True, True]


def test_the_middle_of_each_cluster_is_chosen_the_largest_first():
    at = np.array([20, 0, 1, 2, 3, 4, 10, 11, 12], float)[:, None]
    for seed in range(5):
        assert strategies.compact(at, 3, seed).tolist() == [3, 7, 0]


def test_only_the_disagreement_set_is_clustered():
    """The networks disagree on 0, 1, 2, 10, 11, 12, and on 30, which is labelled."""
    at = [0, 1, 2, 3, 4, 10, 11, 12, 30]
    first = [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    second = [0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]
    pool = pool_on_a_line(at, first, second)
    pool.unlabelled_mask[8] = False
    query = select("unisal", pool, 2, 0)
    assert sorted(query.rows.tolist()) == [1, 6]
    assert (query.disagreeing, query.filled) == (6, 0)


def test_compactness_alone_asks_where_the_networks_agree_as_well():
    pool = pool_on_a_line([0, 1, 2, 10, 11, 12], [0.9] * 6, [0.9] * 6)
    query = select("cs", pool, 2, 0)
    assert sorted(query.rows.tolist()) == [1, 4]
    assert query.disagreeing is None and query.filled is None


def test_disagreement_alone_draws_in_the_disagreement_set_by_chance():
    pool = random_pool(400, queried=100)
    disagreeing = np.flatnonzero(pool.unlabelled_mask & strategies.disagreement(pool.probs))
    drawn = [select("dus", pool, 10, seed).rows for seed in range(40)]
    assert np.isin(drawn, disagreeing).all()
    counts = np.bincount(np.concatenate(drawn), minlength=400)[disagreeing]
    assert counts.max() < 4 * counts.mean() and (counts > 0).mean() > 0.7


def test_a_small_disagreement_set_is_queried_whole_and_then_the_least_certain():
    at = np.arange(6)
    pool = pool_on_a_line(at, [0.6, 0.9, 0.8, 0.55, 0.7, 0.1], [0.6, 0.4, 0.8, 0.55, 0.7, 0.8])
    query = select("unisal", pool, 4, 0)
    assert query.rows.tolist() == [5, 1, 3, 0]  # each part by falling entropy
    assert (query.disagreeing, query.filled) == (2, 2)
    assert select("dus", pool, 4, 0).rows.tolist() == [5, 1, 3, 0]


def test_a_disagreement_set_of_the_size_of_the_query_needs_no_others():
    pool = pool_on_a_line(range(4), [0.9, 0.9, 0.6, 0.6], [0.1, 0.1, 0.6, 0.6])
    query = select("unisal", pool, 2, 0)
    assert query.rows.tolist() == [0, 1] and (query.disagreeing, query.filled) == (2, 0)


def test_a_small_disagreement_set_is_widened_by_the_smallest_margins():
    """The networks disagree on one of 30 tiles; ten of all others have a small margin."""
    at = np.concatenate([np.arange(10) + start for start in (0, 100, 200)]).astype(float)
    probs = np.array([0.51] * 10 + [0.9] * 20)
    pool = pool_on_a_line(at, probs, probs)
    pool.probs[1, 15] = [0.8, 0.2]
    query = select("unisal-wide", pool, 1, 0)
    # Ten candidates: the tile at 105, and the first nine at 0 … 8, whose middle is 4.
    assert query.disagreeing == 1 and query.filled == 0
    assert query.rows.tolist() == [8]  # the mean of all ten is 14.1
    assert select("unisal", pool, 1, 0).rows.tolist() == [15]
    wide = select("unisal-wide", pool, 2, 0)  # 20 candidates, two clusters
    assert wide.disagreeing == 1 and wide.filled == 0 and 0 <= wide.rows.min() < 10


def test_a_disagreement_set_that_is_large_enough_is_not_widened():
    pool = random_pool(400, queried=100)
    wide, plain = (select(strategy, pool, 5, 0) for strategy in ("unisal-wide", "unisal"))
    assert wide.disagreeing > 50 and wide.rows.tolist() == plain.rows.tolist()


def test_without_any_disagreement_the_least_certain_tiles_are_queried():
    pool = pool_on_a_line(range(5), [0.6, 0.9, 0.5, 0.8, 0.7], [0.6, 0.9, 0.5, 0.8, 0.7])
    for strategy in ("unisal", "dus"):
        query = select(strategy, pool, 3, 0)
        assert query.rows.tolist() == [2, 0, 4], strategy
        assert (query.disagreeing, query.filled) == (0, 3), strategy


def test_no_tile_makes_no_cluster():
    cluster, centres = strategies.clusters(np.zeros((0, 3)), 5, 0)
    assert len(cluster) == len(centres) == len(strategies.compact(np.zeros((0, 3)), 5, 0)) == 0


# --- ours and others by hand ---------------------------------------------------------------------


def test_divergent_views_make_candidates_although_both_networks_agree():
    """Of 40 tiles on a line the views of 10 … 13 contradict each other: four candidates."""
    probs = np.full(40, 0.8)
    pool = pool_on_a_line(np.arange(40.0), probs, probs)
    views = np.repeat(pool.probs, 2, axis=0)
    views[::2, 10:14] = [0.1, 0.9]
    pool = replace(pool, per_view_probs=views)
    assert select("unisal-jsd", pool, 1, 0).rows[0] in (11, 12)
    assert sorted(row // 2 for row in select("unisal-jsd", pool, 2, 0).rows) == [5, 6]


def test_candidates_are_a_tenth_of_the_unlabelled_tiles_and_at_least_two_for_each_query():
    pool = random_pool(440, queried=40)
    rows = np.flatnonzero(pool.unlabelled_mask)
    members = np.concatenate([pool.probs, pool.per_view_probs])[:, rows]
    score = [references.divergence(members[:, i].tolist()) for i in range(400)]
    order = rows[np.argsort(-np.array(score))]
    for n, floor in ((3, 40), (20, 40), (30, 60)):
        candidates = order[:floor]
        expected = candidates[strategies.compact(pool.features[candidates], n, 5)]
        assert select("unisal-jsd", pool, n, 5).rows.tolist() == expected.tolist()


def test_ppal_spreads_over_the_smallest_margins():
    """The eight smallest margins are at 0 … 3 and at 20 … 23; the others are certain."""
    at = np.array([0, 1, 2, 3, 20, 21, 22, 23, 50, 51, 52, 53, 54, 55], float)
    probs = [0.5, 0.52, 0.54, 0.56, 0.51, 0.53, 0.55, 0.57] + [0.9] * 6
    pool = pool_on_a_line(at, probs, probs)
    assert sorted(row // 4 for row in select("ppal", pool, 2, 0).rows) == [0, 1]
    assert select("margin", pool, 2, 0).rows.tolist() == [0, 4]


def test_dropquery_clusters_where_most_predictions_with_dropout_change():
    """Of ten tiles those at 0, 1, 2 and 20, 21, 22 change in two of three predictions."""
    at = [0, 1, 2, 20, 21, 22, 40, 41, 42, 43]
    pool = pool_on_a_line(at, [0.9] * 10, [0.9] * 10)
    dropped = np.repeat(pool.probs.mean(0)[None], 3, axis=0)
    dropped[:2, :6] = [0.9, 0.1]
    dropped[2, 6:9] = [0.9, 0.1]  # in one of three: half is not passed
    pool = replace(pool, dropout_probs=dropped)
    assert sorted(select("dropquery", pool, 2, 0).rows.tolist()) == [1, 4]
    pool.probs[:, 7] = [0.4, 0.6]
    query = select("dropquery", pool, 7, 0).rows.tolist()
    assert sorted(query) == [0, 1, 2, 3, 4, 5, 7]  # six that change, and the smallest margin


def test_dropquery_without_its_predictions_is_refused():
    with pytest.raises(ValueError, match="dropout_probs"):
        select("dropquery", replace(random_pool(), dropout_probs=None), 3, 0)


# --- against slow versions -----------------------------------------------------------------------


def test_the_divergence_is_that_of_the_equation():
    for seed in range(3):
        members = np.random.default_rng(seed).dirichlet(np.ones(4), (5, 30))
        members[:, 0] = [1, 0, 0, 0]
        slow = [references.divergence(members[:, i].tolist()) for i in range(30)]
        found = strategies.divergence(members)
        np.testing.assert_allclose(found, slow, atol=1e-12)
        assert found[0] == 0


def coverage_of(pool, strategy):
    """The sum that a herding strategy raises, as a function of the rows that it chose."""
    labelled, rows = (
        np.flatnonzero(mask).tolist() for mask in (pool.labels != UNLABELLED, pool.unlabelled_mask)
    )
    if strategy == "maxherding":
        weights, sigma = np.ones(len(pool.labels)), 1.0
    else:
        unit = pool.features[labelled].astype(float)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        apart = [np.linalg.norm(a - b) for i, a in enumerate(unit) for b in unit[:i]]
        weights, sigma = 1 - strategies.margin(pool.probs), min(apart, default=1.0)
    return lambda chosen: references.coverage(
        pool.features, weights, rows, labelled + chosen, sigma
    )


def assert_greedy(chosen, pool, strategy):
    """No other tile would have raised the sum more, at any step; two may do so equally."""
    coverage = coverage_of(pool, strategy)
    for step, row in enumerate(chosen):
        left = set(np.flatnonzero(pool.unlabelled_mask).tolist()) - set(chosen[:step])
        best = max(coverage([*chosen[:step], other]) for other in left)
        assert coverage([*chosen[:step], row]) == pytest.approx(best, abs=1e-9), (strategy, step)


@pytest.mark.slow
def test_herding_is_the_plain_greedy_choice_whatever_the_chunk():
    for seed in range(2):
        for queried in (0, 1, 10):
            for strategy in ("maxherding", "uherding"):
                with case(seed, queried, strategy):
                    pool = random_pool(queried=queried, seed=seed)
                    assert_greedy(select(strategy, pool, 6, 0).rows.tolist(), pool, strategy)
                    uncertain = strategy == "uherding"
                    small = strategies.herding(pool, 6, 0, uncertain=uncertain, chunk=3)
                    assert_greedy(small.rows.tolist(), pool, strategy)


def test_maxherding_covers_as_much_as_that_of_scikit_activeml():
    for seed in range(3):
        pool = random_pool(seed=seed)
        coverage = coverage_of(pool, "maxherding")
        theirs = strategies._activeml("MaxHerding", pool, 4, seed, metric_dict={"gamma": 1.0})
        ours = select("maxherding", pool, 4, seed)
        assert coverage(ours.rows.tolist()) == pytest.approx(
            coverage(theirs.rows.tolist()), rel=1e-3
        ), seed


def test_uherding_passes_over_what_the_networks_are_sure_of():
    """Two clumps of tiles; the networks are sure of the larger one."""
    at = np.radians([0, 1, 2, 3, 4, 5, 90, 91, 92])
    pool = pool_on_a_line(at, [1.0] * 6 + [0.6] * 3, [1.0] * 6 + [0.6] * 3)
    pool = replace(pool, features=np.stack([np.cos(at), np.sin(at)], 1))
    assert select("maxherding", pool, 1, 0).rows[0] < 6
    assert select("uherding", pool, 1, 0).rows.tolist() == [7]


def test_half_of_a_query_is_unisals_and_the_other_covers_what_is_left():
    """The networks disagree on the first clump, and are sure of two that have no label."""
    at = np.radians([0, 1, 2, 3, 90, 91, 92, 180, 181, 182, 183, 184])
    features = np.stack([np.cos(at), np.sin(at)], 1)
    second = [0.1] * 4 + [0.9] * 8
    pool = replace(pool_on_a_line(at, [0.9] * 12, second), features=features)
    assert set(select("unisal", pool, 3, 0).rows) < {0, 1, 2, 3}
    query = select("unisal-coverage", pool, 3, 0)
    assert (query.disagreeing, query.filled) == (4, 0)
    assert query.rows[:2].tolist() == select("unisal", pool, 2, 0).rows.tolist()
    assert query.rows[2] in range(7, 12)
    _, _, larger, smaller = select("unisal-coverage", pool, 4, 0).rows
    assert larger in range(7, 12) and smaller in range(4, 7)
    pool.labels[larger], pool.unlabelled_mask[larger] = 1, False
    assert select("unisal-coverage", pool, 3, 0).rows[2] in range(4, 7)


def test_compact_tiles_are_those_nearest_to_the_centres_of_k_means():
    for seed in range(4):
        with case(seed):
            features = np.random.default_rng(seed).normal(size=(60, 3))
            clusters = KMeans(7, n_init=1, random_state=seed).fit(features).labels_
            rows = strategies.compact(features, 7, seed)
            assert set(rows.tolist()) == set(references.nearest_to_centres(features, clusters))
            sizes = np.bincount(clusters)[clusters[rows]]
            assert len(set(clusters[rows])) == 7 and (np.diff(sizes) <= 0).all()


def test_the_entropy_is_that_of_the_mean_prediction():
    probs = random_pool().probs
    probs[:, 0] = [1, 0, 0]
    slow = [references.entropy(mean) for mean in probs.mean(0, dtype=float).tolist()]
    np.testing.assert_allclose(strategies.entropy(probs), slow, atol=1e-12)


def test_entropy_and_margin_are_those_of_plain_numpy():
    pool = random_pool()
    mean = np.sort(pool.probs.mean(0, dtype=float), axis=1)
    scores = {"entropy": -(mean * np.log(mean)).sum(1), "margin": mean[:, -2] - mean[:, -1]}
    for strategy, score in scores.items():
        score[~pool.unlabelled_mask] = -np.inf
        expected = np.argsort(-score)[:8]
        assert select(strategy, pool, 8, 0).rows.tolist() == expected.tolist()


def test_coreset_queries_the_tile_farthest_from_all_that_were_queried():
    pool = random_pool()
    covered = np.flatnonzero(~pool.unlabelled_mask).tolist()
    for row in select("coreset", pool, 8, 0).rows.tolist():
        distance = [
            min(((f - pool.features[c]) ** 2).sum() for c in covered) for f in pool.features
        ]
        assert distance[row] == pytest.approx(max(distance))
        covered.append(row)


# --- every strategy ------------------------------------------------------------------------------


def assert_proper(query, pool, n):
    """n different rows, all of which may be queried."""
    assert query.rows.dtype.kind == "i" and len(query.rows) == n
    assert len(set(query.rows.tolist())) == n and pool.unlabelled_mask[query.rows].all()


@pytest.mark.slow
def test_a_query_is_of_unlabelled_tiles_without_repetition():
    for strategy in EVERY:
        for n, queried in ((1, 1), (7, 10), (29, 10), (5, 0)):
            for seed in range(2):
                with case(strategy, n, queried, seed):
                    pool = random_pool(queried=queried, seed=seed)
                    assert_proper(select(strategy, pool, n, seed), pool, n)


@pytest.mark.slow
def test_tiles_that_were_queried_in_vain_are_not_chosen_again():
    """Refused tiles have no label and may not be queried: here they are clusters of their own."""
    for strategy in EVERY:
        for seed in range(3):
            with case(strategy, seed):
                pool = random_pool(seed=seed)
                refused = np.flatnonzero(pool.unlabelled_mask)[:20]
                pool.unlabelled_mask[refused] = False
                pool.features[refused] = 50 + 20 * np.arange(20)[:, None]
                assert_proper(select(strategy, pool, 9, seed), pool, 9)


def test_a_query_larger_than_the_pool_is_the_pool():
    pool = random_pool()
    left = np.flatnonzero(pool.unlabelled_mask).tolist()
    nothing = replace(pool, unlabelled_mask=np.zeros(40, bool))
    for strategy in EVERY:
        with case(strategy):
            for n in (30, 31, 1000):
                assert sorted(select(strategy, pool, n, 0).rows.tolist()) == left
            assert len(select(strategy, nothing, 5, 0).rows) == 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_query():
    for strategy in EVERY:
        with case(strategy):
            first, other = (select(strategy, random_pool(), 7, 0) for _ in "ab")
            np.random.seed(3)  # noqa: NPY002 - the session's own random numbers do not matter
            third = select(strategy, random_pool(), 7, 0)
            assert first.rows.tolist() == other.rows.tolist() == third.rows.tolist()


def test_chance_is_the_seeds():
    first, other = (select("random", random_pool(), 7, seed).rows.tolist() for seed in (0, 1))
    assert first != other


def test_a_choice_leaves_the_pool_alone():
    for strategy in EVERY:
        pool, before = random_pool(), random_pool()
        select(strategy, pool, 7, 0)
        for name in vars(pool):
            assert np.array_equal(getattr(pool, name), getattr(before, name)), (strategy, name)


@pytest.mark.slow
def test_tiles_that_are_all_alike_can_be_queried():
    for strategy in EVERY:
        for alike in ("features", "probs", "both"):
            pool = random_pool()
            if alike != "probs":
                pool = replace(pool, features=np.ones_like(pool.features))
            if alike != "features":
                pool = replace(pool, probs=np.full_like(pool.probs, 1 / 3))
            with case(strategy, alike):
                assert_proper(select(strategy, pool, 7, 0), pool, 7)


def test_networks_that_are_certain_of_one_class_can_be_asked():
    pool = random_pool()
    pool.probs[:] = [1, 0, 0]
    for strategy in EVERY:
        with case(strategy):
            assert_proper(select(strategy, pool, 7, 0), pool, 7)


def test_an_unknown_strategy_is_refused_and_the_known_are_named():
    for name in ("unsal", "", "Query", "check_array", "SingleAnnotatorWrapper"):
        with pytest.raises(ValueError, match=f"'{name}'.*{', '.join(strategies.STRATEGIES)}.*Clue"):
            select(name, random_pool(), 7, 0)


def peak_memory(call, *arguments):
    tracemalloc.start()
    call(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_grows_with_the_number_of_tiles_and_not_with_its_square():
    for strategy in ("cs", "uherding"):
        peaks = [peak_memory(select, strategy, random_pool(n), 20, 0) for n in (2000, 8000)]
        assert peaks[1] < 5 * peaks[0], strategy
