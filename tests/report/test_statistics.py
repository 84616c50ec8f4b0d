"""Pooling, bootstrap, paired differences and corrections against slow loops and known truths."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
import references
from cases import case

from lib import record
from lib.report import statistics
from lib.report.statistics import SCORES, Estimate


def frame(seed=0, n_folds=3, n_groups=6, n_classes=3, seeds=(0, 1), skill=0.7):
    """Groups of one or two classes, each in one fold, tested by every seed."""
    chance = np.random.default_rng(seed)
    lines = []
    for fold in range(n_folds):
        for group in range(n_groups):
            for label in chance.choice(n_classes, chance.integers(1, 3), replace=False):
                n = chance.integers(1, 6)
                lines += [
                    (s, fold, f"g{fold}.{group}", label, n, chance.binomial(n, skill))
                    for s in seeds
                ]
    return pd.DataFrame(lines, columns=["seed", "fold", "group", "label", "n", "correct"])


def by_fold(groups):
    """(class, tiles, right) of each group of each fold, seeds averaged."""
    mean = groups.groupby(["fold", "group", "label"])[["n", "correct"]].mean().reset_index()
    return [
        [
            list(g[["label", "n", "correct"]].itertuples(index=False, name=None))
            for _, g in fold.groupby("group")
        ]
        for _, fold in mean.groupby("fold")
    ]


def of(groups, **more):
    """The layout of one method, or of several."""
    each = []
    for method, frame in ({"m": groups} | more).items():
        for (seed, fold), counts in frame.groupby(["seed", "fold"]):
            each.append({"method": method, "seed": seed, "fold": fold, "counts": counts})
            each[-1] |= {"split": "test", "n": counts.n.sum()}
    return statistics.grouped(record.make(each), ["method"])


def estimate(groups, score="accuracy"):
    return statistics.estimates(of(groups), ("m",))[score]


def drawn(groups, score):
    layout = of(groups)
    n, correct = statistics.drawn_sums(layout, ("m",), layout.tested(("m",)))
    return statistics.pooled(correct, n, score)[1:]


def in_one(folds):
    return [count for fold in folds for group in fold for count in group]


def test_pooled_scores_are_those_of_the_loop_and_the_mean_over_seeds():
    for seed in range(4):
        groups = frame(seed)
        for score in SCORES:
            value = estimate(groups, score).value
            each = [
                references.pooled_score(in_one(by_fold(df)), score)
                for _, df in groups.groupby("seed")
            ]
            with case(seed, score):
                assert value == pytest.approx(
                    references.pooled_score(in_one(by_fold(groups)), score)
                )
                assert value == pytest.approx(np.mean(each))


def test_facts_give_the_same_pooled_scores_as_groups():
    for seed in range(4):
        groups = frame(seed)
        counted = groups.groupby(["seed", "fold"])
        some = record.make(
            [{"seed": s, "fold": f, "n": g.n.sum(), "counts": g} for (s, f), g in counted]
        )
        for score in SCORES:
            with case(seed, score):
                expected = estimate(groups, score).value
                assert statistics.pooled_score(some.facts, score) == pytest.approx(expected)
                by_seed = statistics.pooled_scores(some.facts, ["seed"], score)
                each = [statistics.pooled_score(f, score) for _, f in some.facts.groupby("seed")]
                assert by_seed.tolist() == pytest.approx(each)


# --- intervals -----------------------------------------------------------------------------------


def test_draws_are_of_whole_folds_and_then_of_their_groups():
    weights = statistics.bootstrap_weights((4, 2, 7), 500, 0)
    folds = np.repeat([0, 1, 2], [4, 2, 7])
    drawn = np.stack([weights[:, folds == f].sum(1) / (folds == f).sum() for f in range(3)])
    assert (drawn == drawn.round()).all() and (drawn.sum(0) == 3).all()
    assert weights.mean(0) == pytest.approx(np.ones(13), abs=0.25)
    assert (statistics.bootstrap_weights((5,), 50).sum(1) == 5).all()


def test_a_drawn_score_is_the_score_of_the_drawn_groups_by_the_drawn_seeds():
    groups = frame(3, seeds=(0, 1, 2))
    units = [
        {seed: own for seed, own in unit.groupby("seed")} for _, unit in groups.groupby("group")
    ]
    weights, seeds = statistics.bootstrap_weights((6, 6, 6)), statistics.seed_weights(3)
    for score in SCORES:
        for value, repeats, share in list(zip(drawn(groups, score), weights, seeds, strict=True))[
            :20
        ]:
            counts = [
                count
                for unit, k in zip(units, repeats, strict=True)
                for seed in range(3)
                for _ in range(int(k) * round(3 * share[seed]))
                for count in unit[seed][["label", "n", "correct"]].itertuples(
                    index=False, name=None
                )
            ]
            assert value == pytest.approx(references.pooled_score(counts, score), rel=1e-5), score


def test_seeds_multiply_no_group_and_one_group_has_no_interval():
    once = frame(seeds=(0,))
    copied = pd.concat([once.assign(seed=s) for s in range(5)])
    one, many = (estimate(groups) for groups in (once, copied))
    assert astuple(one)[:3] == pytest.approx(astuple(many)[:3], rel=1e-5)
    assert one.low < one.value < one.high
    within = estimate(frame(n_folds=1, n_groups=40))
    assert within.low < within.value < within.high, "with one fold its groups are drawn"
    alone = once[once.group == once.group.iloc[0]]
    assert np.isnan(estimate(alone).low) and compared(alone, alone).p is None


def test_seeds_that_differ_widen_the_interval_and_end_a_small_p():
    groups = frame(n_folds=5, n_groups=20, seeds=(0, 1, 2))
    lucky = groups.assign(correct=np.where(groups.seed == 1, groups.n, groups.correct))
    steady = groups.assign(correct=np.minimum(groups.correct + (groups.index % 5 == 0), groups.n))
    found, same = compared(lucky, groups), compared(steady, groups)
    assert found.value > same.value and found.low <= 0 < same.low, "one seed of three gains all"
    assert found.p > 0.05 > same.p and same.at_most and not found.at_most


@pytest.mark.slow
def test_the_interval_contains_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(50):
        found = estimate(frame(seed, n_folds=5, n_groups=20, skill=0.7))
        hits += found.low <= 0.7 <= found.high
    assert hits >= 43


# --- differences ---------------------------------------------------------------------------------


def compared(better, other, score="accuracy"):
    return statistics.differences(of(better, other=other), ("m",), ("other",)).get(score)


def test_a_difference_is_paired_and_changes_its_sign_with_the_order():
    groups = frame(n_folds=5, n_groups=20)
    wrong = groups.assign(correct=np.maximum(groups.correct - (groups.index % 3 == 0), 0))
    for score in SCORES:
        up, down = compared(groups, wrong, score), compared(wrong, groups, score)
        assert (up.value, up.low, up.high) == pytest.approx((-down.value, -down.high, -down.low))
        assert up.p == down.p and up.p < 0.001 and up.low > 0, score
        single = estimate(groups, score)
        assert up.high - up.low < single.high - single.low, score
    same = compared(groups, groups)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_mean_of_two_datasets_is_as_uncertain_as_independent_ones():
    drawn = []
    for seed in (0, 1):
        groups = of(frame(seed, n_folds=5), other=frame(seed + 2, n_folds=5))
        drawn.append(statistics.drawn_differences(groups, ("m",), ("other",), "accuracy"))
    mean = statistics.mean_difference(drawn)
    assert mean.value == pytest.approx((drawn[0][0] + drawn[1][0]) / 2) and mean.p is None
    deviation = np.sqrt(sum(values[1:].var() for values in drawn)) / 2
    assert (mean.high - mean.low) / (2 * 1.96) == pytest.approx(deviation, rel=0.06)
    alone = statistics.mean_difference(drawn[:1])
    assert alone.low == pytest.approx(np.quantile(drawn[0][1:], 0.025))
    assert not len(statistics.drawn_differences(of(frame()), ("m",), ("none",), "accuracy"))


def test_p_is_twice_the_smaller_tail():
    drawn = np.array([-1.0, 0.0, 0.5, 1, 1, 1, 1, 1, 1])
    assert (
        statistics.bootstrap_p(drawn) == statistics.bootstrap_p(-drawn) == pytest.approx(2 * 3 / 10)
    )
    assert statistics.bootstrap_p(np.zeros(9)) == 1 and statistics.bootstrap_p(np.ones(99)) == 0.02


def test_a_single_seed_has_no_p_and_only_common_runs_are_compared():
    groups = frame(n_folds=2)
    one_seed = groups[groups.seed == 1].assign(correct=0)
    found = compared(groups, one_seed)
    assert found.p is None and not np.isnan(found.low)
    assert found.value == estimate(groups[groups.seed == 1]).value
    one_fold_only = groups[(groups.seed == 0) | (groups.fold == 0)]
    assert compared(groups, one_fold_only).p is None
    assert compared(groups, groups.assign(seed=9)) is None


@pytest.mark.slow
def test_p_is_not_small_more_often_than_it_may_be_where_nothing_differs():
    ps = []
    for seed in range(40):
        groups, chance = frame(seed, n_folds=5, n_groups=20), np.random.default_rng(seed + 1000)
        ps.append(compared(groups, groups.assign(correct=chance.binomial(groups.n, 0.7))).p)
    assert np.mean(np.array(ps) < 0.05) <= 0.1 and np.mean(ps) > 0.35


def test_holm_is_the_loop_and_keeps_the_order():
    for seed in range(10):
        ps = np.random.default_rng(seed).random(seed) ** 2
        with case(seed):
            corrected = statistics.holm(ps)
            assert corrected.tolist() == pytest.approx(references.holm(ps.tolist()))
            assert (corrected >= ps).all() and (np.diff(corrected[np.argsort(ps)]) >= 0).all()
    assert statistics.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_lines_without_a_p_are_no_part_of_the_correction():
    lines = [Estimate(0.1, p=0.01), None, Estimate(0.2), Estimate(0.3, p=0.04)]
    corrected = statistics.holm_corrected(lines)
    assert corrected[1] is None
    assert [line.p for line in corrected if line] == [0.02, None, 0.04]
