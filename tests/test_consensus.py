"""The filters against loops written from the equations, and what must hold for any input."""

import inspect
from dataclasses import asdict, fields, replace
from itertools import cycle, pairwise, product

import numpy as np
import pytest
import references
from cases import case

from lib import consensus
from lib.clusters import cluster_agreement, match_clusters
from lib.consensus import ORDERS, VARIANTS, FilterInputs, FilterRules, filter_tiles, tile_lift
from lib.labels import UNLABELLED
from lib.random_draws import TIES, tile_draws

SEEDS = range(40)
PUBLISHED, OURS = VARIANTS.values()
SURE = FilterRules(tie_break="probability", quota="class")
RANKINGS = [
    FilterRules(tie_break=tie, quota=quota)
    for tie, quota in product(consensus.TIE_BREAKS, consensus.QUOTAS)
]
EACH_RULE = [
    *RANKINGS,
    *(replace(rules, cluster_on="unprojected") for rules in RANKINGS),
    *(replace(rules, cluster_rule="lift", clusters_per_class=2) for rules in RANKINGS),
    OURS,
]


def random_inputs(seed, n_views=None, n_tiles=None, n_classes=None, **changes):
    """Random tiles, all of them candidates; the sizes cover V 1 … 30, N 1 … 200 and C 2 … 20."""
    rng = np.random.default_rng([seed, 17])
    n_views = n_views or int(rng.integers(1, 31))
    n_tiles = n_tiles or int(rng.integers(1, 201))
    n_classes = n_classes or int(rng.integers(2, 21))
    truth = rng.integers(n_classes, size=n_tiles)
    logits = rng.normal(size=(n_views, n_tiles, n_classes))
    logits[:, np.arange(n_tiles), truth] += rng.uniform(0, 4, size=n_tiles)
    probs = np.exp(2 * logits)
    probs /= probs.sum(2, keepdims=True)
    view_probs = probs.mean(0).astype(np.float32)
    wrong = rng.random(n_tiles) < 0.2
    prompts = np.where(wrong, rng.integers(n_classes, size=n_tiles), view_probs.argmax(1))
    features = [
        2 * rng.normal(size=(n_classes, size))[truth] + rng.normal(size=(n_tiles, size))
        for size in (6, 9)
    ]
    made = FilterInputs(
        tiles=rng.permutation(10 * n_tiles)[:n_tiles],
        prompt_labels=prompts,
        confidence=view_probs.max(1),
        votes=probs.argmax(2),
        view_probs=view_probs,
        candidates=np.ones(n_tiles, bool),
        image_embeds=features[0].astype(np.float16),
        backbone_features=features[1].astype(np.float16),
        seed=seed,
    )
    return replace(made, **changes)


def some(inputs, share=0.7):
    """The same tiles, of which a share may be kept."""
    chance = np.random.default_rng([inputs.seed, 3]).random(len(inputs.tiles))
    return replace(inputs, candidates=chance < share)


def at_rows(inputs, rows):
    """Some of the tiles, or all in another order."""
    arrays = {
        field.name: getattr(inputs, field.name)[rows]
        for field in fields(inputs)
        if field.name not in ("votes", "keep_ratio", "seed", "_clusters")
    }
    return replace(inputs, votes=inputs.votes[:, rows], **arrays)


def keep(inputs, order, rules=PUBLISHED):
    return filter_tiles(inputs, rules, order).kept.values


def ties(inputs, tie_break):
    """What tiles of equal vote entropy are sorted by."""
    chance = list(tile_draws(inputs.tiles, 1, inputs.seed, TIES)[:, 0])
    if tie_break == "random":
        return chance
    return list(zip(consensus.entropy(inputs.view_probs), chance, strict=True))


# --- vote entropy --------------------------------------------------------------------------------


def test_vote_entropy_matches_the_loop_whatever_the_names_of_views_and_classes():
    for seed in SEEDS:
        inputs = random_inputs(seed)
        n_classes, rng = inputs.n_classes, np.random.default_rng(seed)
        expected = references.vote_entropy(inputs.votes, n_classes)
        renamed = rng.permutation(n_classes)[rng.permutation(inputs.votes)]
        for votes in (inputs.votes, renamed):
            found = consensus.vote_entropy(votes, n_classes)
            assert found == pytest.approx(expected, abs=1e-12), seed


def test_vote_histogram_is_the_share_of_views():
    votes = np.array([[0, 2], [0, 1], [1, 2], [0, 2]])
    assert consensus.vote_histogram(votes, 3).tolist() == [[0.75, 0.25, 0], [0, 0.25, 0.75]]


def test_entropy_is_zero_for_certainty_and_log_c_for_none():
    found = consensus.entropy(np.vstack([np.eye(7)[3], np.full(7, 1 / 7)]))
    assert found[0] == 0 and not np.signbit(found[0])
    assert found[1] == pytest.approx(np.log(7))


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([[0, 3]], r"0 … 2"),
        ([[-1, 0]], r"0 … 2"),
        (np.zeros(4, int), "at least one view"),
        (np.zeros((0, 4), int), "at least one view"),
    ],
)
def test_votes_that_are_none_are_refused(votes, message):
    with pytest.raises(ValueError, match=message):
        consensus.vote_entropy(np.array(votes), 3)


# --- multi-view consensus ------------------------------------------------------------------------


@pytest.mark.parametrize("tie_break", consensus.TIE_BREAKS)
def test_ranking_matches_the_exact_one(tie_break):
    for seed in SEEDS:
        inputs = random_inputs(seed)
        found = consensus.rank_by_consensus(inputs, tie_break)
        by = ties(inputs, tie_break)
        assert found.tolist() == references.consensus_ranking(inputs.votes, by, inputs.n_classes)


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


def agreed(n, **changes):
    """Tiles on which all of ten views agree, with nothing to tell them apart."""
    made = random_inputs(0, 10, n, 2, votes=np.zeros((10, n), int), prompt_labels=np.zeros(n, int))
    return replace(made, view_probs=np.full((n, 2), 0.5), **changes)


def test_random_ties_are_random_over_seeds_and_blind_to_the_row():
    n, seeds, ratio = 100, 600, 0.3
    inputs = agreed(n, keep_ratio=ratio, tiles=np.arange(n))
    kept = np.array([keep(replace(inputs, seed=seed), "mvc") for seed in range(seeds)])
    assert (kept.sum(1) == 30).all()
    rate, spread = kept.mean(0), np.sqrt(ratio * (1 - ratio) / seeds)
    assert np.abs(rate - ratio).max() < 4.5 * spread
    assert 0.7 * spread < rate.std() < 1.3 * spread  # neither fixed nor dealt out in turn
    assert abs(np.corrcoef(rate, np.arange(n))[0, 1]) < 0.4
    assert len({row.tobytes() for row in kept}) == seeds


def test_probability_ties_go_to_the_surest_mean_and_equal_ones_to_chance():
    votes = np.array([[0, 0, 1, 0], [0, 0, 1, 1]])
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.99, 0.01]])
    for seed in range(5):
        inputs = replace(random_inputs(seed, 2, 4, 2), votes=votes, view_probs=probs)
        found = consensus.rank_by_consensus(inputs, "probability")
        assert found.tolist() == [1, 2, 0, 3]  # the last tile's votes differ: surest, yet last
    tied = agreed(8, tiles=np.arange(8))
    first = {
        consensus.rank_by_consensus(replace(tied, seed=s), "probability")[0] for s in range(80)
    }
    assert first == set(range(8))


@pytest.mark.parametrize("rules", RANKINGS, ids=lambda r: f"{r.tie_break}-{r.quota}")
def test_multi_view_consensus_matches_the_walk_down_the_ranking(rules):
    for seed in SEEDS:
        ratio = float(np.random.default_rng(seed).choice([0.05, 0.1, 0.3, 0.7, 1.0]))
        inputs = some(random_inputs(seed, keep_ratio=ratio))
        expected = references.multi_view_consensus(
            inputs.votes,
            ties(inputs, rules.tie_break),
            inputs.prompt_labels,
            inputs.n_classes,
            ratio,
            rules.quota,
            inputs.candidates,
        )
        assert np.array_equal(keep(inputs, "mvc", rules), expected), seed


def test_the_global_quota_is_the_keep_ratio_rounded_down():
    for ratio, n in product([0.1, 0.3, 0.7, 0.07, 0.29], range(1, 101)):
        labels, candidates = np.zeros(n, int), np.ones(n, bool)
        kept = consensus.keep_lowest(np.arange(n), labels, ratio, "global", candidates=candidates)
        assert kept.sum() == max(1, round(ratio * 100) * n // 100), (ratio, n)


def test_the_class_quota_keeps_its_ratio_of_every_predicted_class():
    for seed in range(10):
        inputs = random_inputs(seed)
        kept = keep(inputs, "mvc", SURE)
        for c in np.unique(inputs.prompt_labels):
            in_class = inputs.prompt_labels == c
            assert kept[in_class].sum() == max(1, 3 * in_class.sum() // 10), (seed, c)


@pytest.mark.parametrize("quota", consensus.QUOTAS)
def test_a_keep_ratio_of_one_keeps_all_candidates_and_no_candidate_none(quota):
    inputs, rules = some(random_inputs(5, keep_ratio=1)), FilterRules(quota=quota)
    assert np.array_equal(keep(inputs, "mvc", rules), inputs.candidates)
    assert not keep(some(inputs, 0), "mvc", rules).any()


# --- clusters ------------------------------------------------------------------------------------


def test_matching_reaches_the_best_agreement_of_all_assignments():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        n_classes = int(rng.integers(2, 6))
        clusters = rng.integers(rng.integers(1, n_classes + 1), size=rng.integers(1, 120))
        labels = rng.integers(rng.integers(1, n_classes + 1), size=len(clusters))
        matched = match_clusters(cluster_agreement(clusters, labels, n_classes))
        assert len(set(matched.tolist())) == len(matched), seed
        found = (matched[clusters] == labels).sum()
        assert found == references.best_agreement(clusters, labels, n_classes)[0], seed


def blobs(seed, n_classes, n_tiles, prompts=None):
    """Tiles in well separated clusters, and the cluster of each; prompts: of cluster and rng."""
    rng = np.random.default_rng([seed, 5])
    clusters = rng.permutation(np.arange(n_tiles) % n_classes)
    centres = 40 * np.eye(n_classes, n_classes + 2)
    features = centres[clusters] + rng.normal(size=(n_tiles, n_classes + 2))
    labels = clusters if prompts is None else prompts(clusters, rng)
    inputs = random_inputs(seed, 2, n_tiles, n_classes)
    return replace(inputs, image_embeds=features, prompt_labels=labels), clusters


def test_prompt_feature_consensus_matches_the_loop_on_separated_clusters():
    def renamed(clusters, rng):
        labels = rng.permutation(clusters.max() + 1)[clusters]
        return np.where(rng.random(len(labels)) < 0.3, rng.integers(labels.max() + 1), labels)

    for seed in range(25):
        n_classes = 2 + seed % 4
        inputs, clusters = blobs(seed, n_classes, 20 + 7 * seed, renamed)
        expected = references.prompt_feature_consensus(clusters, inputs.prompt_labels, n_classes)
        if expected is not None:
            assert np.array_equal(keep(inputs, "pfc"), expected), seed


def test_a_class_without_a_prompt_label_does_not_break_the_matching():
    inputs, clusters = blobs(1, 4, 80, lambda k, _: np.where(k == 3, 2, k))
    kept = keep(inputs, "pfc")
    assert kept[clusters < 2].all()
    assert kept[clusters >= 2].sum() == 20  # one of the two clusters is class 2, the other 3


def test_one_predicted_class_keeps_its_largest_cluster():
    inputs, clusters = blobs(1, 3, 50, lambda k, _: np.full(len(k), 2))
    assert keep(inputs, "pfc").sum() == np.bincount(clusters).max()


def test_identical_features_keep_the_most_frequent_prompt_label():
    prompts = np.array([0, 1, 1, 2, 1, 0])
    inputs = random_inputs(0, 2, 6, 3, prompt_labels=prompts, image_embeds=np.ones((6, 3)))
    assert np.array_equal(keep(inputs, "pfc"), prompts == 1)


@pytest.mark.parametrize(("n_tiles", "n_classes"), [(1, 2), (2, 20), (7, 20), (200, 20), (40, 2)])
def test_few_tiles_and_many_classes_work(n_tiles, n_classes):
    inputs = random_inputs(9, n_tiles=n_tiles, n_classes=n_classes)
    for order in ORDERS:
        assert 0 < keep(inputs, order, FilterRules(quota="class")).sum() <= n_tiles


def test_no_candidate_is_refused_by_clustering():
    with pytest.raises(ValueError, match="no tile is left"):
        keep(some(random_inputs(0), 0), "pfc")


def test_more_clusters_than_classes_go_to_the_class_of_most_of_their_tiles():
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 3, UNLABELLED])
    labels = np.array([1, 1, 0, 0, 0, 1, 0, 1, 0])
    agreement = cluster_agreement(clusters, labels, 2)
    assert agreement.tolist() == [[1, 2], [2, 0], [1, 1], [0, 1]]
    assert match_clusters(agreement).tolist() == [1, 0, 0, 1]


def test_several_clusters_per_class_follow_a_class_of_two_kinds():
    """Class 0 is two far-off groups: one cluster a class cannot hold both, two can."""
    kind = np.repeat([0, 1, 2], 40)
    centres = np.array([[0, 0], [10, 0], [5, 1]])
    features = centres[kind] + 0.3 * np.random.default_rng(0).normal(size=(120, 2))
    inputs = random_inputs(
        0, 2, 120, 2, image_embeds=features, prompt_labels=np.where(kind == 2, 1, 0)
    )
    one, two = (keep(inputs, "pfc", FilterRules(clusters_per_class=k)) for k in (1, 2))
    assert one.mean() < 0.9 and two.all()


# --- both filters --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_no_label_depends_on_the_order_of_the_rows_nor_on_tiles_that_are_no_candidates(order):
    """So the others are chosen as if the tiles that VLMs disagree on were not there."""
    for rules, seed in zip(EACH_RULE, cycle((0, 1, 1))):
        inputs = some(random_inputs(seed, 5, 120, 3 + 4 * seed))
        table = filter_tiles(inputs, rules, order)
        rows = np.random.default_rng(seed).permutation(120)
        left = np.flatnonzero(inputs.candidates)
        with case(rules, seed):
            assert table.kept.any() and not (table.kept & ~inputs.candidates).any()
            for chosen in (rows, left):
                again = filter_tiles(at_rows(inputs, chosen), rules, order)
                assert np.array_equal(again.training_label, table.training_label[chosen])


def test_each_order_is_its_filters_one_after_the_other():
    for rules in EACH_RULE:
        inputs = some(random_inputs(4, 8, 150, 5, keep_ratio=0.4))
        first = consensus.label_tiles(inputs, rules)

        def mvc(kept, inputs=inputs, rules=rules, first=first):
            return consensus.multi_view_consensus(inputs, rules, first, kept)

        def pfc(kept, inputs=inputs, rules=rules, first=first):
            return kept & (consensus.cluster_labels(inputs, rules, first, kept) == first)

        all_of = inputs.candidates
        by_hand = {
            "mvc": mvc(all_of),
            "pfc": pfc(all_of),
            "mvc+pfc": pfc(mvc(all_of)),
            "pfc+mvc": mvc(pfc(all_of)),
        }
        for order, kept in by_hand.items():
            table = filter_tiles(inputs, rules, order)
            with case(rules, order):
                assert np.array_equal(table.kept, kept) and np.array_equal(table.label, first)
                labels = np.where(kept, first, UNLABELLED)
                assert np.array_equal(table.training_label, labels)
        saved = filter_tiles(inputs, rules, kept_by_views=by_hand["mvc"])
        assert np.array_equal(saved.kept, by_hand["mvc+pfc"])
        assert np.array_equal(saved.kept_by_views, by_hand["mvc"])
        assert filter_tiles(inputs, rules, "").kept.all()


def test_what_the_views_keep_is_taken_as_it_was_saved():
    inputs = random_inputs(2, 8, 100, 3)
    saved = np.arange(100) < 30
    table = filter_tiles(inputs, kept_by_views=saved)
    assert np.array_equal(table.kept_by_views, saved) and not table.kept[30:].any()


def test_our_clusters_are_of_all_candidates_and_computed_once(monkeypatch):
    inputs, calls = some(random_inputs(6, n_tiles=100, n_classes=4)), []
    original = consensus.clusters.cluster_features
    monkeypatch.setattr(
        consensus.clusters, "cluster_features", lambda *a, **k: calls.append(k) or original(*a, **k)
    )
    for _ in range(2):
        filter_tiles(inputs, OURS)
        clusters, lift = inputs.lift_clusters()
    assert len(calls) == 1 and len(lift) == 12
    assert np.array_equal(clusters != UNLABELLED, inputs.candidates)


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
    inputs = random_inputs(11, 10, 200, 3)
    believed = inputs.view_probs * [1, 1, 1e-3]
    believed /= believed.sum(1, keepdims=True)
    inputs = replace(inputs, view_probs=believed, prompt_labels=believed.argmax(1))
    published, ours = (
        (filter_tiles(inputs, rules, "mvc").training_label == 2).sum() for rules in (SURE, OURS)
    )
    assert published == 0 < 3 < ours


def test_ours_keeps_a_class_that_the_global_ranking_loses():
    votes = np.zeros((10, 40), int)
    votes[:, 30:] = 1
    votes[0, 30:] = 0  # every tile of class 1 has one dissenting view
    probs = np.where(votes[-1:].T == [[0, 1]], 0.9, 0.1)
    inputs = random_inputs(0, 10, 40, 2, votes=votes, view_probs=probs, prompt_labels=votes[-1])
    published, kept = (keep(inputs, "mvc", rules) for rules in (PUBLISHED, SURE))
    assert published.sum() == 12 and not published[30:].any()
    assert kept[:30].sum() == 9 and kept[30:].sum() == 3


@pytest.mark.parametrize(("name", "rules"), VARIANTS.items())
def test_rules_are_called_by_the_variant_that_they_are(name, rules):
    rules, (other,) = asdict(rules), [asdict(v) for n, v in VARIANTS.items() if n != name]
    for ratio in (0.3, 0.5):  # is no part of a variant
        assert consensus.variant_of(rules | {"keep_ratio": ratio}) == name
    for rule in rules:
        assert consensus.variant_of(rules | {rule: other[rule]}) is None
        assert consensus.variant_of({rule: rules[rule]}) == name


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("quota", consensus.QUOTAS)
def test_views_that_all_agree_and_one_predicted_class_work(order, quota):
    inputs = random_inputs(8, 6, 50, 3, votes=np.ones((6, 50), int), prompt_labels=np.ones(50, int))
    assert 0 < keep(inputs, order, FilterRules(quota=quota)).sum() <= (50 if order == "pfc" else 15)


@pytest.mark.parametrize("rule", ["label_rule", "tie_break", "quota", "cluster_on", "cluster_rule"])
def test_a_rule_that_there_is_not_is_named(rule):
    with pytest.raises(ValueError, match=rf"{rule} must be one of .*'nearest'"):
        FilterRules(**{rule: "nearest"})


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan")])
def test_a_keep_ratio_outside_its_range_and_an_unknown_order_are_named(ratio):
    with pytest.raises(ValueError, match=f"keep_ratio.*{ratio}"):
        keep(random_inputs(0, keep_ratio=ratio), "mvc")
    with pytest.raises(ValueError, match="mvc,pfc"):
        keep(random_inputs(0), "mvc,pfc")


@pytest.mark.parametrize("wrong", ["prompt_labels", "image_embeds", "tiles", "view_probs"])
@pytest.mark.parametrize("change", [-1, 1])
def test_arrays_of_different_tiles_are_refused(wrong, change):
    inputs = random_inputs(1, n_tiles=30, n_classes=3)
    array = getattr(inputs, wrong)
    longer = np.concatenate([array, array])[: 30 + change]
    for order in ("pfc+mvc", "mvc+pfc"):
        with pytest.raises((ValueError, IndexError)):
            keep(replace(inputs, **{wrong: longer}), order)


def test_inputs_are_left_as_they_are():
    inputs = some(random_inputs(3, n_tiles=60, n_classes=4))
    arrays = [v for v in vars(inputs).values() if isinstance(v, np.ndarray)]
    before = [array.copy() for array in arrays]
    for order, rules in product(ORDERS, VARIANTS.values()):
        filter_tiles(inputs, rules, order)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_no_filter_takes_true_labels():
    filters = (FilterInputs, FilterInputs.load, consensus.rank_by_consensus, filter_tiles)
    arguments = {name for each in filters for name in inspect.signature(each).parameters}
    assert {name for name in arguments if "label" in name} == {"prompt_labels"}
