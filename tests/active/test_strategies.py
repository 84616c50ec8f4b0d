"""Which tiles are queried: hand-worked cases, slow loops, and what holds for every strategy."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import references
from cases import case
from sklearn.cluster import KMeans

from lib.active import activeml, strategies
from lib.active.strategies import Pool, select
from lib.blocks import Rows, draw
from lib.labels import UNLABELLED

OTHERS = ["QueryByCommittee", "Clue", "MaxHerding"]  # by their names in scikit-activeml
EVERY = [*strategies.STRATEGIES, *OTHERS]


def random_pool(n=40, n_classes=3, size=4, queried=10, seed=0):
    chance = np.random.default_rng(seed)
    probs = chance.dirichlet(np.ones(n_classes), (2, n)).astype(np.float32)
    labels, mask = np.full(n, UNLABELLED), np.ones(n, bool)
    rows = chance.choice(n, queried, replace=False)
    labels[rows], mask[rows] = chance.integers(n_classes, size=queried), False
    features = chance.normal(size=(n, size)).astype(np.float32)
    more = chance.dirichlet(np.ones(n_classes), (7, n)).astype(np.float32)
    views = {"per_view_probs": more[:4], "dropout_probs": more[4:]}
    return Pool(probs, features, labels, mask, **views, called=chance.random(n) < 0.6)


def pool_on_a_line(places, first, second):
    """Tiles at points of a line; two networks give the probability of the second class."""
    probs = np.stack([np.stack([1 - np.array(p), p], 1) for p in (first, second)])
    features, n = np.array(places, float)[:, None], len(places)
    return Pool(probs, features, np.full(n, UNLABELLED), np.ones(n, bool), dropout_probs=probs)


def pool_on_a_circle(degrees, first, second):
    at = np.radians(degrees)
    features = np.stack([np.cos(at), np.sin(at)], 1)
    return replace(pool_on_a_line(at, first, second), features=features)


def rows_of(strategy, pool, n, seed=0):
    return select(strategy, pool, n, seed).rows.tolist()


# --- UniSAL by hand ------------------------------------------------------------------------------


def test_networks_disagree_where_they_predict_different_classes():
    first = [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]]
    second = [[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.3, 0.4, 0.3]]
    assert strategies.disagreement(np.array([first, second])).tolist() == [False, True, True]


def test_the_middle_of_each_cluster_is_chosen_the_largest_first():
    at = np.array([20, 0, 1, 2, 3, 4, 10, 11, 12], float)[:, None]
    for seed in range(5):
        assert strategies.compact(at, 3, seed).tolist() == [3, 7, 0]
        members = [rows.tolist() for rows in strategies.cluster_members(at, 3, seed)]
        assert members == [[3, 2, 4, 1, 5], [7, 6, 8], [0]], "nearest to the centre first"
    assert len(strategies.compact(np.zeros((0, 3)), 5, 0)) == 0


def test_only_the_disagreement_set_is_clustered():
    """The networks disagree on 0, 1, 2, 10, 11, 12, and on 30, which is labelled."""
    second = [0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]
    pool = pool_on_a_line([0, 1, 2, 3, 4, 10, 11, 12, 30], [0.9] * 9, second)
    pool.unlabelled_mask[8] = False
    query = select("unisal", pool, 2, 0)
    assert sorted(query.rows.tolist()) == [1, 6] and (query.disagreeing, query.filled) == (6, 0)


def test_compactness_alone_asks_where_the_networks_agree_as_well():
    query = select("cs", pool_on_a_line([0, 1, 2, 10, 11, 12], [0.9] * 6, [0.9] * 6), 2, 0)
    assert sorted(query.rows.tolist()) == [1, 4]
    assert query.disagreeing is None and query.filled is None


def test_disagreement_alone_draws_in_the_disagreement_set_by_chance():
    pool = random_pool(400, queried=100)
    disagreeing = np.flatnonzero(pool.unlabelled_mask & strategies.disagreement(pool.probs))
    drawn = [rows_of("dus", pool, 10, seed) for seed in range(40)]
    assert np.isin(drawn, disagreeing).all()
    counts = np.bincount(np.concatenate(drawn), minlength=400)[disagreeing]
    assert counts.max() < 4 * counts.mean() and (counts > 0).mean() > 0.7


@pytest.mark.parametrize("strategy", ["unisal", "dus"])
@pytest.mark.parametrize(
    ("first", "second", "n", "rows", "sizes"),
    [  # each part by falling entropy: first those on which the networks disagree, then others
        ([0.6, 0.9, 0.8, 0.55, 0.7, 0.1], [0.6, 0.4, 0.8, 0.55, 0.7, 0.8], 4, [5, 1, 3, 0], (2, 2)),
        ([0.9, 0.9, 0.6, 0.6], [0.1, 0.1, 0.6, 0.6], 2, [0, 1], (2, 0)),
        ([0.6, 0.9, 0.5, 0.8, 0.7], [0.6, 0.9, 0.5, 0.8, 0.7], 3, [2, 0, 4], (0, 3)),
    ],
)
def test_a_small_disagreement_set_is_queried_whole_and_then_the_least_certain(
    strategy, first, second, n, rows, sizes
):
    query = select(strategy, pool_on_a_line(range(len(first)), first, second), n, 0)
    assert query.rows.tolist() == rows and (query.disagreeing, query.filled) == sizes


def test_a_small_disagreement_set_is_widened_by_the_smallest_margins_and_no_larger_one():
    """The networks disagree on one of 30 tiles; ten of all others have a small margin."""
    at = np.concatenate([np.arange(10) + start for start in (0, 100, 200)]).astype(float)
    probs = np.array([0.51] * 10 + [0.9] * 20)
    pool = pool_on_a_line(at, probs, probs)
    pool.probs[1, 15] = [0.8, 0.2]
    query = select("unisal-wide", pool, 1, 0)
    assert query.disagreeing == 1 and query.filled == 0
    # Ten candidates: the tile at 105, and the first nine at 0 … 8; the mean of all ten is 14.1.
    assert query.rows.tolist() == [8] and rows_of("unisal", pool, 1) == [15]
    wide = select("unisal-wide", pool, 2, 0)  # 20 candidates, two clusters
    assert wide.disagreeing == 1 and wide.filled == 0 and 0 <= wide.rows.min() < 10
    pool = random_pool(400, queried=100)
    assert select("unisal-wide", pool, 5, 0).disagreeing > 50
    assert rows_of("unisal-wide", pool, 5) == rows_of("unisal", pool, 5)


# --- ours and others by hand ---------------------------------------------------------------------


def test_divergent_views_make_candidates_although_both_networks_agree():
    """Of 40 tiles on a line the views of 10 … 13 contradict each other: four candidates."""
    pool = pool_on_a_line(np.arange(40.0), np.full(40, 0.8), np.full(40, 0.8))
    views = np.repeat(pool.probs, 2, axis=0)
    views[::2, 10:14] = [0.1, 0.9]
    pool = replace(pool, per_view_probs=views)
    assert rows_of("unisal-jsd", pool, 1)[0] in (11, 12)
    assert sorted(row // 2 for row in rows_of("unisal-jsd", pool, 2)) == [5, 6]


def test_candidates_are_a_tenth_of_the_unlabelled_tiles_and_at_least_two_for_each_query():
    pool = random_pool(440, queried=40)
    rows = np.flatnonzero(pool.unlabelled_mask)
    members = np.concatenate([pool.probs, pool.per_view_probs])[:, rows]
    score = [references.divergence(members[:, i].tolist()) for i in range(400)]
    order = rows[np.argsort(-np.array(score))]
    for n, size in ((3, 40), (20, 40), (30, 60)):
        candidates = order[:size]
        expected = candidates[strategies.compact(pool.features[candidates], n, 5)]
        assert rows_of("unisal-jsd", pool, n, 5) == expected.tolist()


def test_ppal_spreads_over_the_smallest_margins():
    """The eight smallest margins are at 0 … 3 and at 20 … 23; the others are certain."""
    at = [0, 1, 2, 3, 20, 21, 22, 23, 50, 51, 52, 53, 54, 55]
    probs = [0.5, 0.52, 0.54, 0.56, 0.51, 0.53, 0.55, 0.57] + [0.9] * 6
    pool = pool_on_a_line(at, probs, probs)
    assert sorted(row // 4 for row in rows_of("ppal", pool, 2)) == [0, 1]
    assert rows_of("margin", pool, 2) == [0, 4]


def test_dropquery_clusters_where_most_predictions_with_dropout_change():
    """Of ten tiles those at 0, 1, 2 and 20, 21, 22 change in two of three predictions."""
    pool = pool_on_a_line([0, 1, 2, 20, 21, 22, 40, 41, 42, 43], [0.9] * 10, [0.9] * 10)
    dropped = np.repeat(pool.probs.mean(0)[None], 3, axis=0)
    dropped[:2, :6] = [0.9, 0.1]
    dropped[2, 6:9] = [0.9, 0.1]  # in one of three: half is not passed
    pool = replace(pool, dropout_probs=dropped)
    assert sorted(rows_of("dropquery", pool, 2)) == [1, 4]
    pool.probs[:, 7] = [0.4, 0.6]
    assert sorted(rows_of("dropquery", pool, 7)) == [0, 1, 2, 3, 4, 5, 7], "and the smallest margin"
    with pytest.raises(ValueError, match="dropout_probs"):
        select("dropquery", replace(pool, dropout_probs=None), 3, 0)


def test_uherding_passes_over_what_the_networks_are_sure_of():
    """Two clumps of tiles; the networks are sure of the larger one."""
    probs = [1.0] * 6 + [0.6] * 3
    pool = pool_on_a_circle([0, 1, 2, 3, 4, 5, 90, 91, 92], probs, probs)
    assert rows_of("maxherding", pool, 1)[0] < 6 and rows_of("uherding", pool, 1) == [7]


def test_half_of_a_query_is_unisals_and_the_other_covers_what_is_left():
    """The networks disagree on the first clump, and are sure of two that have no label."""
    degrees = [0, 1, 2, 3, 90, 91, 92, 180, 181, 182, 183, 184]
    pool = pool_on_a_circle(degrees, [0.9] * 12, [0.1] * 4 + [0.9] * 8)
    assert set(rows_of("unisal", pool, 3)) < {0, 1, 2, 3}
    query = select("unisal-coverage", pool, 3, 0)
    assert (query.disagreeing, query.filled) == (4, 0)
    assert query.rows[:2].tolist() == rows_of("unisal", pool, 2) and query.rows[2] in range(7, 12)
    _, _, larger, smaller = rows_of("unisal-coverage", pool, 4)
    assert larger in range(7, 12) and smaller in range(4, 7)
    pool.labels[larger], pool.unlabelled_mask[larger] = 1, False
    assert rows_of("unisal-coverage", pool, 3)[2] in range(4, 7)


# --- pools with tiles of no class ----------------------------------------------------------------


def test_openpath_begins_with_the_middles_of_what_the_prompts_call_a_target():
    called = np.array([True] * 7 + [False] * 5)
    pool = pool_on_a_line([0, 1, 2, 10, 11, 12, 50, 20, 21, 22, 23, 24], [0.9] * 12, [0.9] * 12)
    pool = replace(pool, called=called)
    assert sorted(rows_of("openpath", pool, 3)) == [1, 4, 6]
    assert set(rows_of("openpath", pool, 9)) > set(range(7)), "too few: the least certain as well"
    assert set(rows_of("random-open", pool, 4)) < set(range(7))
    assert sorted(rows_of("unisal-coverage-open", pool, 7)) == list(range(7))
    for strategy in strategies.OPEN_SET:
        with pytest.raises(ValueError, match=r"Pool\.called"):
            select(strategy, replace(pool, called=None), 3, 0)


@pytest.mark.parametrize("seed", range(3))
def test_openpath_then_takes_the_highest_entropies_among_the_nearest_to_a_prototype(seed):
    """A quarter of the unlabelled tiles, by the cosine to the nearest mean of a class's labels."""
    pool = random_pool(n=200, queried=20, seed=seed)
    pool.labels[np.flatnonzero(pool.labels == 2)] = UNLABELLED  # refused: they make no prototype
    rows, distance = np.flatnonzero(pool.unlabelled_mask).tolist(), {}
    for row in rows:
        z = pool.features[row].astype(float)
        means = [pool.features[pool.labels == c].mean(0).astype(float) for c in (0, 1)]
        distance[row] = min(1 - z @ m / np.linalg.norm(z) / np.linalg.norm(m) for m in means)
    nearest = sorted(rows, key=distance.get)[:45]
    assert sorted(rows_of("openpath", pool, 45)) == sorted(nearest)
    one = strategies.open_path(pool, 6, seed, n_batches=1).rows.tolist()
    assert one == sorted(nearest, key=lambda row: -strategies.entropy(pool.probs)[row])[:6]
    drawn = [rows_of("openpath", pool, 10, draw) for draw in range(20)]
    assert set(np.concatenate(drawn)) <= set(nearest) and len({tuple(d) for d in drawn}) > 10
    means = [strategies.entropy(pool.probs)[d].mean() for d in (np.concatenate(drawn), nearest)]
    assert means[0] > means[1], "of each batch the least certain"


# --- against slow versions -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_divergence_is_that_of_the_equation(seed):
    members = np.random.default_rng(seed).dirichlet(np.ones(4), (5, 30))
    members[:, 0] = [1, 0, 0, 0]
    slow = [references.divergence(members[:, i].tolist()) for i in range(30)]
    fast = strategies.divergence(members)
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    assert fast[0] == 0


def coverage_of(pool, strategy):
    """The sum that a herding strategy raises, as a function of the rows that it chose."""
    labelled, rows = (
        np.flatnonzero(mask).tolist() for mask in (pool.labels != UNLABELLED, pool.unlabelled_mask)
    )
    weights, sigma = np.ones(len(pool.labels)), 1.0
    if strategy == "uherding":
        unit = pool.features[labelled].astype(float)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        apart = [np.linalg.norm(a - b) for i, a in enumerate(unit) for b in unit[:i]]
        weights, sigma = 1 - strategies.margin(pool.probs), min(apart, default=1.0)
    return lambda chosen: references.coverage(
        pool.features, weights, rows, labelled + chosen, sigma
    )


@pytest.mark.slow
@pytest.mark.parametrize("queried", [0, 1, 10])
@pytest.mark.parametrize("strategy", ["maxherding", "uherding"])
def test_herding_is_the_plain_greedy_choice_whatever_the_chunk(strategy, queried):
    """No other tile would have raised the sum more, at any step; two may do so equally."""
    for seed in range(2):
        pool = random_pool(queried=queried, seed=seed)
        coverage, uncertain = coverage_of(pool, strategy), strategy == "uherding"
        small = strategies.herding(pool, 6, 0, uncertain=uncertain, chunk=3).rows.tolist()
        for chosen in (rows_of(strategy, pool, 6), small):
            for step, row in enumerate(chosen):
                left = set(np.flatnonzero(pool.unlabelled_mask).tolist()) - set(chosen[:step])
                best = max(coverage([*chosen[:step], other]) for other in left)
                assert coverage([*chosen[:step], row]) == pytest.approx(best, abs=1e-9), step


@pytest.mark.parametrize("seed", range(3))
def test_maxherding_covers_as_much_as_that_of_scikit_activeml(seed):
    pool = random_pool(seed=seed)
    coverage = coverage_of(pool, "maxherding")
    theirs = strategies._activeml("MaxHerding", pool, 4, seed, metric_dict={"gamma": 1.0}).rows
    ours = coverage(rows_of("maxherding", pool, 4, seed))
    assert ours == pytest.approx(coverage(theirs.tolist()), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_compact_tiles_are_those_nearest_to_the_centres_of_k_means(seed):
    features = np.random.default_rng(seed).normal(size=(60, 3))
    clusters = KMeans(7, n_init=1, random_state=seed).fit(features).labels_
    rows = strategies.compact(features, 7, seed)
    assert set(rows.tolist()) == set(references.nearest_to_centres(features, clusters))
    sizes = np.bincount(clusters)[clusters[rows]]
    assert len(set(clusters[rows])) == 7 and (np.diff(sizes) <= 0).all()


def test_a_draw_of_a_large_pool_is_covered_nearly_as_well(monkeypatch):
    pool = random_pool(n=600, queried=10)
    coverage, whole = coverage_of(pool, "maxherding"), rows_of("maxherding", pool, 10)
    monkeypatch.setattr(strategies, "SAMPLED", 200)
    drawn = rows_of("maxherding", pool, 10)
    start, by_chance = coverage([]), coverage(rows_of("random", pool, 10))
    assert coverage(drawn) - start > 0.85 * (coverage(whole) - start)
    assert coverage(drawn) > by_chance


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["badge", "coreset", "typiclust", *OTHERS])
def test_strategies_of_scikit_activeml_are_offered_a_draw_of_many_tiles(monkeypatch, strategy):
    monkeypatch.setattr(activeml, "SAMPLED", 30)
    pool, unlabelled = random_pool(n=400), np.flatnonzero(random_pool(n=400).unlabelled_mask)
    query = select(strategy, pool, 5, 0)
    assert_proper(query, pool, 5)
    assert np.isin(query.rows, unlabelled[draw(len(unlabelled), 30, 0)]).all()


@pytest.mark.parametrize("seed", range(2))
def test_compact_tiles_are_the_same_in_blocks(seed):
    """More rows than a block, read late: what the plain form takes at once."""
    features = np.random.default_rng(seed).normal(size=(9000, 3)).astype(np.float32)
    cluster, centres = strategies.k_means(features, 6, n_init=1, seed=seed)
    away = ((features - centres[cluster]) ** 2).sum(1)
    plain = [int(np.where(cluster == k, away, np.inf).argmin()) for k in range(6)]
    late = strategies.compact(Rows(features.__getitem__, np.arange(9000)), 6, seed)
    assert sorted(late.tolist()) == sorted(plain)


def test_entropy_and_margin_are_those_of_the_mean_prediction():
    pool = random_pool()
    slow = [references.entropy(mean) for mean in pool.probs.mean(0, dtype=float).tolist()]
    np.testing.assert_allclose(strategies.entropy(pool.probs), slow, atol=1e-12)
    mean = np.sort(pool.probs.mean(0, dtype=float), axis=1)
    for strategy, score in (("entropy", np.array(slow)), ("margin", mean[:, -2] - mean[:, -1])):
        score[~pool.unlabelled_mask] = -np.inf
        assert rows_of(strategy, pool, 8) == np.argsort(-score)[:8].tolist()


def test_coreset_queries_the_tile_farthest_from_all_that_were_queried():
    pool = random_pool()
    covered = np.flatnonzero(~pool.unlabelled_mask).tolist()
    for row in rows_of("coreset", pool, 8):
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
@pytest.mark.parametrize("strategy", EVERY)
def test_a_query_is_of_unlabelled_tiles_without_repetition(strategy):
    for n, queried in ((1, 1), (7, 10), (29, 10), (5, 0)):
        for seed in range(2):
            with case(n, queried, seed):
                pool = random_pool(queried=queried, seed=seed)
                assert_proper(select(strategy, pool, n, seed), pool, n)
    pool, left = random_pool(), np.flatnonzero(random_pool().unlabelled_mask).tolist()
    for n in (30, 31, 1000):
        assert sorted(rows_of(strategy, pool, n)) == left, (
            "a query larger than the pool is the pool"
        )
    assert not rows_of(strategy, replace(pool, unlabelled_mask=np.zeros(40, bool)), 5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", EVERY)
def test_tiles_that_were_queried_in_vain_are_not_chosen_again(strategy):
    """Refused tiles have no label and may not be queried: here they are clusters of their own."""
    for seed in range(3):
        pool = random_pool(seed=seed)
        refused = np.flatnonzero(pool.unlabelled_mask)[:20]
        pool.unlabelled_mask[refused] = False
        pool.features[refused] = 50 + 20 * np.arange(20)[:, None]
        assert_proper(select(strategy, pool, 9, seed), pool, 9)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", EVERY)
def test_the_same_seed_gives_the_same_query_and_leaves_the_pool_alone(strategy):
    pool, before = random_pool(), random_pool()
    first = rows_of(strategy, pool, 7)
    np.random.seed(3)  # noqa: NPY002 - the session's own random numbers do not matter
    assert first == rows_of(strategy, random_pool(), 7)
    assert all(np.array_equal(getattr(pool, name), getattr(before, name)) for name in vars(pool))
    assert rows_of("random", pool, 7, 0) != rows_of("random", pool, 7, 1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", EVERY)
def test_tiles_that_are_all_alike_and_networks_that_are_certain_can_be_asked(strategy):
    pool = random_pool()
    same_features = replace(pool, features=np.ones_like(pool.features))
    same_probs = {"probs": np.full_like(pool.probs, 1 / 3)}
    certain = np.zeros_like(pool.probs)
    certain[..., 0] = 1
    for alike in (
        same_features,
        replace(pool, **same_probs),
        replace(same_features, **same_probs),
        replace(pool, probs=certain),
    ):
        assert_proper(select(strategy, alike, 7, 0), alike, 7)


@pytest.mark.parametrize("name", ["unsal", "", "Query", "check_array", "SingleAnnotatorWrapper"])
def test_an_unknown_strategy_is_refused_and_the_known_are_named(name):
    with pytest.raises(ValueError, match=f"'{name}'.*{', '.join(strategies.STRATEGIES)}.*Clue"):
        select(name, random_pool(), 7, 0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["cs", "uherding"])
def test_memory_grows_with_the_number_of_tiles_and_not_with_its_square(strategy):
    peaks = []
    for n in (1000, 4000):
        pool = random_pool(n)
        tracemalloc.start()
        select(strategy, pool, 20, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]


def test_margin_and_coverage_share_a_query_and_cover_what_the_margin_leaves():
    pool = random_pool()
    found = strategies.select("margin-coverage", pool, 7, seed=0).rows
    by_margin = strategies.select("margin", pool, 4, seed=0).rows
    assert found[:4].tolist() == by_margin.tolist() and len(set(found)) == 7
    labels = pool.labels.copy()
    labels[by_margin] = 0
    left = replace(pool, labels=labels, unlabelled_mask=pool.unlabelled_mask & (labels < 0))
    assert np.array_equal(found[4:], strategies.herding(left, 3, seed=0).rows)
