"""The filters against loops written from the equations, and what must hold for any input."""

import inspect
from itertools import pairwise, product

import numpy as np
import pytest
import references

from lib import consensus
from lib.clusters import (
    cluster_agreement,
    feature_labels,
    labels_by_clusters,
    lift_labels,
    match_clusters,
)
from lib.consensus import ORDERS, TIE_STREAM, VARIANTS, tile_lift
from lib.labels import UNLABELLED
from lib.random_draws import tile_draws

SEEDS = range(40)


class RandomTiles:
    """Votes, probabilities, prompt labels, features and tile numbers of random tiles.

    The sizes cover V 1 … 30, N 1 … 200 and C 2 … 20.
    """

    def __init__(self, seed, n_views=None, n_tiles=None, n_classes=None):
        rng = np.random.default_rng([seed, 17])
        self.rng, self.seed = rng, seed
        self.n_views = n_views or int(rng.integers(1, 31))
        self.n_tiles = n_tiles or int(rng.integers(1, 201))
        self.n_classes = n_classes or int(rng.integers(2, 21))
        truth = rng.integers(self.n_classes, size=self.n_tiles)
        logits = rng.normal(size=(self.n_views, self.n_tiles, self.n_classes))
        logits[:, np.arange(self.n_tiles), truth] += rng.uniform(0, 4, size=self.n_tiles)
        probs = np.exp(2 * logits)
        probs /= probs.sum(2, keepdims=True)
        self.votes = probs.argmax(2)
        self.view_probs = probs.mean(0).astype(np.float32)
        self.prompt_labels = self.view_probs.argmax(1)
        wrong = rng.random(self.n_tiles) < 0.2
        self.prompt_labels[wrong] = rng.integers(self.n_classes, size=wrong.sum())
        self.features = {
            name: (rng.normal(size=(self.n_classes, size))[truth] * 2
                   + rng.normal(size=(self.n_tiles, size))).astype(np.float16)
            for name, size in (("projected", 6), ("unprojected", 9))
        }  # fmt: skip
        self.tiles = rng.permutation(10 * self.n_tiles)[: self.n_tiles]
        self.candidates = rng.random(self.n_tiles) < 0.7

    def rows(self, order):
        """The same tiles in another order of the rows."""
        tiles = object.__new__(RandomTiles)
        tiles.__dict__ |= self.__dict__ | {
            "votes": self.votes[:, order],
            "view_probs": self.view_probs[order],
            "prompt_labels": self.prompt_labels[order],
            "features": {name: f[order] for name, f in self.features.items()},
            "tiles": self.tiles[order],
            "candidates": self.candidates[order],
        }
        return tiles

    def ties(self, tie_break):
        """What tiles of equal vote entropy are sorted by."""
        chance = tile_draws(self.tiles, 1, self.seed, TIE_STREAM)[:, 0]
        if tie_break == "random":
            return list(chance)
        spread = consensus.entropy(self.view_probs)
        return list(zip(spread, chance, strict=True))

    def mvc(self, **options):
        options = {"seed": self.seed, "tiles": self.tiles} | options
        return consensus.multi_view_consensus(
            self.votes, self.view_probs, self.prompt_labels, **options
        )

    def label(self, order, **options):
        options = {"seed": self.seed, "tiles": self.tiles} | options
        return consensus.label_by_consensus(
            order, self.votes, self.view_probs, self.features, self.prompt_labels, **options
        )

    def keep(self, order, **options):
        return self.label(order, **options) != UNLABELLED


def confirmed_by_clusters(features, prompt_labels, n_classes, **options):
    """PFC as published, of all tiles or some."""
    return feature_labels(features, prompt_labels, n_classes, **options) == prompt_labels


# --- vote entropy --------------------------------------------------------------------------------


def test_vote_entropy_matches_the_loop():
    for seed in SEEDS:
        tiles = RandomTiles(seed)
        found = consensus.vote_entropy(tiles.votes, tiles.n_classes)
        expected = references.vote_entropy(tiles.votes, tiles.n_classes)
        assert found == pytest.approx(expected, abs=1e-12), seed


def test_vote_histogram_is_the_share_of_views():
    votes = np.array([[0, 2], [0, 1], [1, 2], [0, 2]])
    assert consensus.vote_histogram(votes, 3).tolist() == [[0.75, 0.25, 0], [0, 0.25, 0.75]]


def test_entropy_is_zero_for_certainty_and_log_c_for_none():
    found = consensus.entropy(np.vstack([np.eye(7)[3], np.full(7, 1 / 7)]))
    assert found[0] == 0 and not np.signbit(found[0])
    assert found[1] == pytest.approx(np.log(7))


def test_vote_entropy_does_not_depend_on_which_view_or_class_it_is():
    tiles = RandomTiles(3, n_views=12, n_classes=5)
    renamed = tiles.rng.permutation(5)[tiles.rng.permutation(tiles.votes)]
    expected = consensus.vote_entropy(tiles.votes, 5)
    assert consensus.vote_entropy(renamed, 5) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("votes", [[[0, 3]], [[-1, 0]]])
def test_a_vote_outside_the_classes_is_refused(votes):
    with pytest.raises(ValueError, match=r"0 … 2"):
        consensus.vote_entropy(np.array(votes), 3)


@pytest.mark.parametrize("votes", [np.zeros(4, int), np.zeros((0, 4), int)])
def test_votes_without_views_are_refused(votes):
    with pytest.raises(ValueError, match="at least one view"):
        consensus.vote_entropy(votes, 2)


# --- ranking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_break", ["random", "probability"])
def test_ranking_matches_the_exact_one(tie_break):
    for seed in SEEDS:
        tiles = RandomTiles(seed)
        found = consensus.rank_by_consensus(
            tiles.votes, tiles.view_probs, tie_break=tie_break, seed=seed, tiles=tiles.tiles
        )
        ties = tiles.ties(tie_break)
        expected = references.consensus_ranking(tiles.votes, ties, tiles.n_classes)
        assert found.tolist() == expected, seed


def partitions(n, largest):
    if n == 0:
        yield ()
    for part in range(min(n, largest), 0, -1):
        for rest in partitions(n - part, part):
            yield part, *rest


@pytest.mark.parametrize("n_views", [2, 10, 30])
def test_rounding_ties_only_what_is_tied(n_views):
    """Every histogram of V votes: floats separate what whole numbers separate, and no more."""
    counts = [c for c in partitions(n_views, n_views) if len(c) <= 20]
    exact = np.array([float(np.log(float(references.certainty(c)))) for c in counts])
    order = np.argsort(-exact, kind="stable")
    shares = np.zeros((len(counts), 20))
    for row, idx in enumerate(order):
        shares[row, : len(counts[idx])] = np.divide(counts[idx], n_views)
    rounded = consensus.entropy(shares).round(9)
    for (a, b), (left, right) in zip(pairwise(order), pairwise(rounded), strict=True):
        tied = references.certainty(counts[a]) == references.certainty(counts[b])
        assert (left == right) if tied else (left < right)


def test_random_ties_are_random_over_seeds_and_blind_to_the_row():
    n, seeds, ratio = 100, 600, 0.3
    votes, probs = np.zeros((10, n), int), np.full((n, 2), 0.5)
    kept = np.array([
        consensus.multi_view_consensus(votes, probs, votes[0], keep_ratio=ratio, seed=s)
        for s in range(seeds)
    ])  # fmt: skip
    assert (kept.sum(1) == 30).all()
    rate, spread = kept.mean(0), np.sqrt(ratio * (1 - ratio) / seeds)
    assert np.abs(rate - ratio).max() < 4.5 * spread
    assert 0.7 * spread < rate.std() < 1.3 * spread  # neither fixed nor dealt out in turn
    assert abs(np.corrcoef(rate, np.arange(n))[0, 1]) < 0.4
    assert len({row.tobytes() for row in kept}) == seeds


def test_probability_ties_go_to_the_surest_mean():
    votes = np.array([[0, 0, 1, 0], [0, 0, 1, 1]])
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.99, 0.01]])
    for seed in range(5):
        found = consensus.rank_by_consensus(votes, probs, tie_break="probability", seed=seed)
        assert found.tolist() == [1, 2, 0, 3]  # the last tile's votes differ: surest, yet last


def test_equal_probabilities_are_tied_at_random_too():
    votes, probs = np.zeros((3, 8), int), np.full((8, 2), 0.5)
    first = {
        int(consensus.rank_by_consensus(votes, probs, tie_break="probability", seed=s)[0])
        for s in range(80)
    }
    assert first == set(range(8))


def test_an_unknown_tie_break_is_named():
    with pytest.raises(ValueError, match="'first'"):
        RandomTiles(0).mvc(tie_break="first")


def test_votes_and_probabilities_of_different_tiles_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 9\).*\(8, 3\)"):
        consensus.rank_by_consensus(np.zeros((5, 9), int), np.zeros((8, 3)))


# --- quota ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", ["global", "class"])
@pytest.mark.parametrize("tie_break", ["random", "probability"])
def test_multi_view_consensus_matches_the_walk_down_the_ranking(tie_break, quota):
    for seed in SEEDS:
        tiles = RandomTiles(seed)
        ratio = float(tiles.rng.choice([0.05, 0.1, 0.3, 0.7, 1.0]))
        found = tiles.mvc(
            keep_ratio=ratio, tie_break=tie_break, quota=quota, candidates=tiles.candidates
        )
        expected = references.multi_view_consensus(
            tiles.votes, tiles.ties(tie_break), tiles.prompt_labels, tiles.n_classes, ratio, quota,
            tiles.candidates,
        )  # fmt: skip
        assert np.array_equal(found, expected), seed


def test_the_global_quota_is_the_keep_ratio_rounded_down():
    for ratio, n in product([0.1, 0.3, 0.7, 0.07, 0.29], range(1, 101)):
        kept = consensus.keep_lowest(np.arange(n), np.zeros(n, int), keep_ratio=ratio)
        assert kept.sum() == max(1, round(ratio * 100) * n // 100), (ratio, n)


def test_the_class_quota_keeps_its_ratio_of_every_predicted_class():
    for seed in range(10):
        tiles = RandomTiles(seed)
        kept = tiles.mvc(keep_ratio=0.3, quota="class")
        for c in np.unique(tiles.prompt_labels):
            in_class = tiles.prompt_labels == c
            assert kept[in_class].sum() == max(1, 3 * in_class.sum() // 10), (seed, c)


@pytest.mark.parametrize("quota", ["global", "class"])
def test_a_keep_ratio_of_one_keeps_all_of_among_and_nothing_else(quota):
    tiles = RandomTiles(5)
    assert tiles.mvc(keep_ratio=1, quota=quota).all()
    assert np.array_equal(
        tiles.mvc(keep_ratio=1.0, quota=quota, candidates=tiles.candidates), tiles.candidates
    )


@pytest.mark.parametrize("quota", ["global", "class"])
def test_nothing_to_choose_from_keeps_nothing(quota):
    tiles = RandomTiles(5)
    assert not tiles.mvc(quota=quota, candidates=np.zeros(tiles.n_tiles, bool)).any()


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan")])
def test_a_keep_ratio_outside_its_range_is_named(ratio):
    with pytest.raises(ValueError, match=f"keep_ratio.*{ratio}"):
        RandomTiles(0).mvc(keep_ratio=ratio)


def test_an_unknown_quota_is_named():
    with pytest.raises(ValueError, match="'local'"):
        RandomTiles(0).mvc(quota="local")


# --- matching and clusters -----------------------------------------------------------------------


def test_matching_reaches_the_best_agreement_of_all_assignments():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        n_classes = int(rng.integers(2, 6))
        clusters = rng.integers(rng.integers(1, n_classes + 1), size=rng.integers(1, 120))
        labels = rng.integers(rng.integers(1, n_classes + 1), size=len(clusters))
        agreement = cluster_agreement(clusters, labels, n_classes)
        matched = match_clusters(agreement)
        assert len(set(matched.tolist())) == len(matched), seed
        found = (matched[clusters] == labels).sum()
        assert found == references.best_agreement(clusters, labels, n_classes)[0], seed


def blobs(seed, n_classes, n_tiles):
    """Features in well separated clusters, and the cluster of each tile."""
    rng = np.random.default_rng([seed, 5])
    clusters = rng.permutation(np.arange(n_tiles) % n_classes)
    centres = 40 * np.eye(n_classes, n_classes + 2)
    return centres[clusters] + rng.normal(size=(n_tiles, n_classes + 2)), clusters, rng


def test_prompt_feature_consensus_matches_the_loop_on_known_clusters():
    for seed in range(25):
        n_classes = 2 + seed % 4
        features, clusters, rng = blobs(seed, n_classes, 20 + 7 * seed)
        prompts = rng.permutation(n_classes)[clusters]
        wrong = rng.random(len(prompts)) < 0.3
        prompts[wrong] = rng.integers(n_classes, size=wrong.sum())
        expected = references.prompt_feature_consensus(clusters, prompts, n_classes)
        found = confirmed_by_clusters(features, prompts, n_classes, seed=seed)
        assert expected is not None and np.array_equal(found, expected), seed


def test_feature_labels_are_none_outside_among():
    tiles = RandomTiles(2, n_tiles=90, n_classes=4)
    found = feature_labels(
        tiles.features["projected"], tiles.prompt_labels, 4, candidates=tiles.candidates
    )
    assert (found[~tiles.candidates] == UNLABELLED).all()
    assert set(found[tiles.candidates].tolist()) <= set(range(4))


def test_tiles_outside_among_have_no_say_in_the_clusters():
    tiles = RandomTiles(2, n_tiles=90, n_classes=4)
    features, prompts = tiles.features["projected"].copy(), tiles.prompt_labels.copy()
    before = feature_labels(features, prompts, 4, tiles=tiles.tiles, candidates=tiles.candidates)
    features[~tiles.candidates], prompts[~tiles.candidates] = 99, 0
    after = feature_labels(features, prompts, 4, tiles=tiles.tiles, candidates=tiles.candidates)
    assert np.array_equal(before, after)


def test_a_class_without_a_prompt_label_does_not_break_the_matching():
    features, clusters, _ = blobs(1, 4, 80)
    prompts = np.where(clusters == 3, 2, clusters)  # no tile is predicted as class 3
    kept = confirmed_by_clusters(features, prompts, 4)
    assert kept[clusters < 2].all()
    assert kept[clusters >= 2].sum() == 20  # one of the two clusters is class 2, the other 3


def test_one_predicted_class_keeps_its_largest_cluster():
    features, clusters, rng = blobs(1, 3, 60)
    rows = rng.permutation(60)[:50]
    largest = np.bincount(clusters[rows]).max()
    prompts = np.full(50, 2)
    assert confirmed_by_clusters(features[rows], prompts, 3).sum() == largest


@pytest.mark.parametrize(("n_tiles", "n_classes"), [(1, 2), (2, 20), (7, 20), (200, 20), (40, 2)])
def test_few_tiles_and_many_classes_work(n_tiles, n_classes):
    tiles = RandomTiles(9, n_tiles=n_tiles, n_classes=n_classes)
    found = feature_labels(tiles.features["projected"], tiles.prompt_labels, n_classes)
    assert found.min() >= 0 and found.max() < n_classes
    for order in ORDERS:
        assert 0 < tiles.keep(order, quota="class").sum() <= n_tiles


def test_identical_features_keep_the_most_frequent_prompt_label():
    prompts = np.array([0, 1, 1, 2, 1, 0])
    kept = confirmed_by_clusters(np.ones((6, 3)), prompts, 3)
    assert np.array_equal(kept, prompts == 1)


def test_an_empty_among_is_refused_by_clustering():
    with pytest.raises(ValueError, match="no tile is left"):
        feature_labels(np.ones((4, 2)), np.zeros(4, int), 2, candidates=np.zeros(4, bool))


# --- both filters --------------------------------------------------------------------------------


OPTIONS = [
    {"tie_break": t, "quota": q, "cluster_on": f}
    for t, q, f in product(
        ["random", "probability"], ["global", "class"], ["projected", "unprojected"]
    )
]
LIFT = [
    options | {"cluster_rule": c, "label_rule": label}
    for options, (c, label) in zip(
        OPTIONS[::2], product(["lift", "matched"], ["lift", "prompt"]), strict=True
    )
]


@pytest.mark.parametrize("order", ORDERS)
def test_ties_do_not_depend_on_row_order(order):
    for options, seed in product(OPTIONS + LIFT, range(2)):
        tiles = RandomTiles(seed, n_views=5, n_tiles=120, n_classes=3 + 4 * seed)
        rows = tiles.rng.permutation(tiles.n_tiles)
        moved = tiles.rows(rows).label(order, **options)
        assert np.array_equal(moved, tiles.label(order, **options)[rows]), (options, seed)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_each_order_is_its_filters_one_after_the_other(options):
    tiles = RandomTiles(4, n_views=8, n_tiles=150, n_classes=5)
    features = tiles.features[options["cluster_on"]]
    to_mvc = {name: options[name] for name in ("tie_break", "quota")} | {"keep_ratio": 0.4}

    def pfc(**more):
        return confirmed_by_clusters(
            features, tiles.prompt_labels, 5, seed=tiles.seed, tiles=tiles.tiles, **more
        )

    mvc_first, pfc_first = tiles.mvc(**to_mvc), pfc()
    by_hand = {
        "mvc": mvc_first,
        "pfc": pfc_first,
        "mvc+pfc": pfc(candidates=mvc_first),
        "pfc+mvc": tiles.mvc(**to_mvc, candidates=pfc_first),
    }
    for order in ORDERS:
        assert np.array_equal(tiles.keep(order, keep_ratio=0.4, **options), by_hand[order]), order
    assert not (by_hand["mvc+pfc"] & ~mvc_first).any()
    assert not (by_hand["pfc+mvc"] & ~pfc_first).any()


def test_the_published_setting_matches_clusters_of_what_the_views_keep():
    tiles = RandomTiles(6, n_tiles=100, n_classes=4)
    chosen = VARIANTS["published filters"]
    expected = confirmed_by_clusters(
        tiles.features["projected"], tiles.prompt_labels, 4,
        seed=tiles.seed, tiles=tiles.tiles, candidates=tiles.mvc(),
    )  # fmt: skip
    assert np.array_equal(tiles.keep("mvc+pfc", **chosen), expected)


def test_our_setting_keeps_what_the_views_keep_and_lift_clusters_of_all_tiles_confirm():
    for seed in range(5):
        tiles = RandomTiles(seed, n_tiles=100, n_classes=4)
        second = lift_labels(
            tiles.features["unprojected"], tiles.view_probs, clusters_per_class=3, seed=seed,
            tiles=tiles.tiles, candidates=tiles.candidates,
        )  # fmt: skip
        first, prompts = (
            tile_lift(tiles.view_probs, tiles.candidates).argmax(1),
            tiles.prompt_labels,
        )
        tiles.prompt_labels, confirmed = first, second == first
        ranked = {"tie_break": "probability", "quota": "class"}
        by_views = tiles.mvc(**ranked, candidates=tiles.candidates)
        kept = {
            "": np.ones(100, bool), "mvc": by_views, "pfc": confirmed,
            "mvc+pfc": by_views & confirmed, "pfc+mvc": tiles.mvc(**ranked, candidates=confirmed),
        }  # fmt: skip
        tiles.prompt_labels = prompts
        for order, expected in kept.items():
            found = tiles.label(order, **VARIANTS["ours"], candidates=tiles.candidates)
            assert np.array_equal(found, np.where(expected, first, UNLABELLED)), (order, seed)


def test_lift_is_the_gain_of_a_class_on_its_mean():
    probs = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.8, 0.2, 0.0]])
    lift = tile_lift(probs)
    expected = probs[:, :2] / probs[:, :2].mean(0)
    assert lift[:, :2] == pytest.approx(expected / expected.sum(1, keepdims=True))
    assert (lift[:, 2] == 0).all()  # a class of no probability anywhere has none
    assert lift.argmax(1).tolist() == [0, 1, 0]  # row 2 is tied on the mean; the first class wins
    two = tile_lift(probs, np.array([True, True, False]))
    assert two[0] == pytest.approx(np.array([0.9 / 0.8, 0.1 / 0.2, 0]) / (0.9 / 0.8 + 0.1 / 0.2))


def test_lift_finds_most_of_a_class_that_the_prompts_believe_to_be_rare():
    chance = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 5000)
    likelihood = chance.gamma(1, size=(20000, 4)) + 4 * np.eye(4)[truth] * chance.random((20000, 1))
    likelihood = likelihood / likelihood.sum(1, keepdims=True)
    believed = likelihood * [0.005, 0.2, 0.3, 0.495]
    believed /= believed.sum(1, keepdims=True)
    lost = (believed.argmax(1) == 0)[truth == 0].mean()
    found = (tile_lift(believed).argmax(1) == 0)[truth == 0].mean()
    fair = (likelihood.argmax(1) == 0)[truth == 0].mean()
    assert lost < 0.01 and found > 0.6 * fair


def test_labels_by_lift_give_a_class_that_no_prompt_names_its_tiles():
    """A model that believes class 2 to be rare: published filters lose it, our rules do not."""
    tiles = RandomTiles(11, n_views=10, n_tiles=200, n_classes=3)
    tiles.view_probs = tiles.view_probs * [1, 1, 1e-3]
    tiles.view_probs /= tiles.view_probs.sum(1, keepdims=True)
    tiles.prompt_labels = tiles.view_probs.argmax(1)
    counts = {
        name: np.bincount(tiles.label("mvc", **rules)[tiles.keep("mvc", **rules)], minlength=3)
        for name, rules in (
            ("published", {"tie_break": "probability", "quota": "class"}),
            ("ours", {n: VARIANTS["ours"][n] for n in ("label_rule", "tie_break", "quota")}),
        )
    }
    assert counts["published"][2] == 0 < 3 < counts["ours"][2]


def test_clusters_follow_their_rule():
    tiles = RandomTiles(3, n_tiles=80, n_classes=3)
    features, options = tiles.features["unprojected"], {"seed": 0, "tiles": tiles.tiles}
    kept = tiles.candidates & (np.arange(80) % 2 == 0)
    given = features, tiles.prompt_labels, tiles.view_probs
    matched = labels_by_clusters(
        "matched", *given, candidates=tiles.candidates, kept=kept, **options
    )
    expected = feature_labels(features, tiles.prompt_labels, 3, candidates=kept, **options)
    assert np.array_equal(matched, expected)
    by_lift = labels_by_clusters("lift", *given, candidates=tiles.candidates, kept=kept, **options)
    expected = lift_labels(features, tiles.view_probs, candidates=tiles.candidates, **options)
    assert np.array_equal(by_lift, expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_rules_are_called_by_the_setting_that_they_are(name):
    rules = VARIANTS[name]
    assert consensus.setting_of(rules) == name
    for ratio in (0.3, 0.5):  # is no part of a setting
        assert consensus.setting_of(rules | {"keep_ratio": ratio}) == name
    other = next(VARIANTS[n] for n in VARIANTS if n != name)
    for rule in rules:
        assert consensus.setting_of(rules | {rule: other[rule]}) is None
        assert consensus.setting_of({rule: rules[rule]}) == name


def test_the_defaults_are_the_published_setting():
    tiles = RandomTiles(7, n_tiles=100, n_classes=4)
    for order in ORDERS:
        assert np.array_equal(tiles.keep(order), tiles.keep(order, **VARIANTS["published filters"]))


def test_ours_keeps_a_class_that_the_global_ranking_loses():
    votes = np.zeros((10, 40), int)
    votes[:, 30:] = 1
    votes[0, 30:] = 0  # every tile of class 1 has one dissenting view
    probs = np.where(votes[-1:].T == [[0, 1]], 0.9, 0.1)
    published = consensus.multi_view_consensus(votes, probs, votes[-1])
    kept = consensus.multi_view_consensus(
        votes, probs, votes[-1], tie_break="probability", quota="class"
    )
    assert published.sum() == 12 and not published[30:].any()
    assert kept[:30].sum() == 9 and kept[30:].sum() == 3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("quota", ["global", "class"])
def test_views_that_all_agree_and_one_predicted_class_work(order, quota):
    tiles = RandomTiles(8, n_views=6, n_tiles=50, n_classes=3)
    tiles.votes[:] = 1
    tiles.prompt_labels[:] = 1
    kept = tiles.keep(order, quota=quota)
    assert 0 < kept.sum() <= (50 if order == "pfc" else 15)


@pytest.mark.parametrize(
    ("order", "options", "named"),
    [
        ("mvc,pfc", {}, "mvc,pfc"),
        ("mvc", {"cluster_on": "pixels"}, "pixels"),
        ("mvc", {"cluster_rule": "nearest"}, "nearest"),
        ("", {"label_rule": "best"}, "best"),
        ("pfc+mvc", {"tie_break": "first"}, "first"),
        ("pfc+mvc", {"quota": "local"}, "local"),
        ("mvc+pfc", {"keep_ratio": 2}, "keep_ratio"),
    ],
)
def test_a_wrong_choice_is_named(order, options, named):
    with pytest.raises(ValueError, match=named):
        RandomTiles(0).keep(order, **options)


@pytest.mark.parametrize("wrong", ["prompt_labels", "features", "tiles"])
@pytest.mark.parametrize("change", [-1, 1])
def test_arrays_of_different_tiles_are_refused(wrong, change):
    tiles = RandomTiles(1, n_tiles=30, n_classes=3)
    n = 30 + change
    if wrong == "features":
        tiles.features = {name: np.ones((n, 4)) for name in tiles.features}
    else:
        setattr(tiles, wrong, np.zeros(n, int))
    for order in ORDERS if wrong == "prompt_labels" else ("pfc+mvc", "mvc+pfc"):
        with pytest.raises((ValueError, IndexError)):
            tiles.keep(order)


def test_inputs_are_left_as_they_are():
    tiles = RandomTiles(3, n_tiles=60, n_classes=4)
    given = [
        tiles.votes,
        tiles.view_probs,
        tiles.prompt_labels,
        *tiles.features.values(),
        tiles.tiles,
    ]
    before = [array.copy() for array in given]
    for order in ORDERS:
        tiles.keep(order, **VARIANTS["ours"])
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


def test_no_filter_takes_true_labels():
    arguments = set()
    for filter_ in (
        consensus.rank_by_consensus, consensus.keep_lowest, consensus.multi_view_consensus,
        feature_labels, lift_labels, consensus.label_by_consensus, consensus.labels_by_rule,
    ):  # fmt: skip
        arguments |= set(inspect.signature(filter_).parameters)
    assert {name for name in arguments if "label" in name or "class" in name} == {
        "prompt_labels", "n_classes", "clusters_per_class", "label_rule",
    }  # fmt: skip


def test_more_clusters_than_classes_go_to_the_class_of_most_of_their_tiles():
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    labels = np.array([1, 1, 0, 0, 0, 1, 0, 1])
    agreement = cluster_agreement(clusters, labels, 2)
    assert agreement.tolist() == [[1, 2], [2, 0], [1, 1], [0, 1]]
    assert match_clusters(agreement).tolist() == [1, 0, 0, 1]


def test_several_clusters_per_class_follow_a_class_of_two_kinds():
    """Class 0 is two far-off groups: one cluster a class cannot hold both, two can."""
    chance = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [5, 1]])
    kind = np.repeat([0, 1, 2], 40)
    features = centres[kind] + 0.3 * chance.normal(size=(120, 2))
    labels = np.where(kind == 2, 1, 0)
    one, two = (feature_labels(features, labels, 2, clusters_per_class=k) == labels for k in (1, 2))
    assert one.mean() < 0.9 and two.all()


# --- the tables that notebooks pass on -----------------------------------------------------------


def test_the_table_holds_what_the_filters_keep_in_each_setting():
    """Also that both filters in turn keep what the one call of `label_by_consensus` keeps."""
    for seed in range(5):
        case = RandomTiles(seed, n_tiles=80, n_classes=4)
        pseudo = consensus.pseudo_label_table(
            case.tiles, case.votes, case.view_probs, case.features, case.prompt_labels,
            keep_ratio=0.4, seed=seed, candidates=case.candidates,
        )  # fmt: skip
        assert list(pseudo.setting.unique()) == list(VARIANTS), seed
        for name, rules in VARIANTS.items():
            subset = pseudo[pseudo.setting == name]
            ratio = {"keep_ratio": 0.4, "candidates": case.candidates}
            assert np.array_equal(subset.tile, case.tiles), seed
            assert np.array_equal(subset.label, case.label("", **rules, **ratio)), seed
            labels = np.where(subset.kept, subset.label, UNLABELLED)
            assert np.array_equal(labels, case.label("mvc+pfc", **rules, **ratio)), seed
            assert np.array_equal(subset.kept_by_views, case.keep("mvc", **rules, **ratio)), seed
            assert np.array_equal(subset.vote_entropy, consensus.vote_entropy(case.votes, 4)), seed
            assert (subset.label[subset.kept] == subset.feature_label[subset.kept]).all()


def test_tiles_without_a_cluster_do_not_count_as_agreement():
    clusters, labels = np.array([0, -1, 1, 1]), np.array([1, 1, 0, 0])
    assert cluster_agreement(clusters, labels, 2).tolist() == [[0, 1], [2, 0]]
