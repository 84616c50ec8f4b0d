"""The interval of an audit covers, exactly and by simulation; limits and draws are as stated."""

import numpy as np
import pandas as pd
import pytest
from references import pivotal_distribution
from scipy import stats

from lib.labels import REFUSED, UNANSWERED
from lib.quality import audit

LEVEL = 0.95


def strata(sizes):
    """Predicted classes of tiles, in no order."""
    predicted = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(predicted)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (0, 7), (7, 7), (3, 8), (47, 50)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_limits_are_those_of_scipy(correct, n, level):
    low, high = audit.clopper_pearson(correct, n, level)
    expected = stats.binomtest(correct, n).proportion_ci(level, method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert [float(limit) for limit in audit.clopper_pearson(0, 0)] == [0.0, 1.0]
    for impossible in ((n + 1, n), (-1, n)):
        with pytest.raises(ValueError, match="between none and n"):
            audit.clopper_pearson(*impossible)


# --- the draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(200, 90, 10), (37, 1, 1, 300), (50,), (3, 3, 3)])
@pytest.mark.parametrize("share", [0.02, 0.31, 1.0])
def test_each_class_is_drawn_in_proportion(sizes, share):
    predicted = strata(sizes)
    n = max(1, int(share * len(predicted)))
    for seed in range(20):
        sample = audit.draw_audit(np.arange(len(predicted)), predicted, n, seed=seed)
        assert len(sample) == n and sample.counted.all() and sample.tile.is_unique
        assert (predicted[sample.tile] == sample.predicted).all()
        drawn = np.bincount(sample.predicted, minlength=len(sizes))
        assert (np.abs(drawn - n * np.array(sizes) / sum(sizes)) < 2).all()


def test_the_draw_depends_on_the_tile_numbers_not_on_their_order():
    tiles, predicted = np.arange(100, 190), strata((60, 30))
    other = np.random.default_rng(1).permutation(90)
    first = audit.draw_audit(tiles, predicted, 20, seed=3, at_least=8)
    again = audit.draw_audit(tiles[other], predicted[other], 20, seed=3, at_least=8)
    assert sorted(first.tile[first.counted]) == sorted(again.tile[again.counted])
    assert sorted(first.tile) == sorted(again.tile)
    assert set(first.tile) != set(audit.draw_audit(tiles, predicted, 20, seed=4).tile)


def test_rare_classes_get_a_few_that_do_not_count():
    predicted = strata((190, 8, 2))
    sample = audit.draw_audit(np.arange(200), predicted, 40, seed=0, at_least=4)
    assert np.bincount(sample.predicted)[1:].tolist() == [4, 2] and sample.tile.is_unique
    assert sample.counted.sum() == 40 and sample.counted.values[:40].all()
    with pytest.raises(ValueError, match="between 1 and all"):
        audit.draw_audit(np.arange(5), np.zeros(5, int), 6, seed=0)


# --- the interval --------------------------------------------------------------------------------


def exact_coverage(right_in_line, n):
    """Share of draws from a line whose limits hold the accuracy, computed without drawing."""
    probabilities = pivotal_distribution(right_in_line, n)
    low, high = audit.clopper_pearson(np.arange(n + 1), n)
    truth = np.mean(right_in_line)
    return probabilities[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum()


def test_the_reference_is_the_distribution_of_the_draw():
    line = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0], bool)  # as lined up, without chance
    n, draws, found = 5, 4000, np.zeros(6)
    for seed in range(draws):
        chance = np.random.default_rng(seed).random(len(line))
        found[line[audit._pivotal(chance, n)].sum()] += 1
    expected = pivotal_distribution(line, n)
    assert expected @ np.arange(6) == pytest.approx(n * line.mean())  # each tile equally often
    assert np.abs(found / draws - expected).max() < 0.03


@pytest.mark.parametrize("n", [5, 20, 50])
@pytest.mark.parametrize("sizes", [(120,), (100, 20), (60, 40, 15, 4, 1)])
def test_the_interval_covers_at_every_accuracy(n, sizes):
    chance = np.random.default_rng(n)
    worst = 1.0
    for accuracy in (0.0, 0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 1.0):
        for spread in (0.0, 0.3, 1.0):  # classes that are alike, or one right and one wrong
            precisions = np.clip(accuracy + spread * chance.uniform(-1, 1, len(sizes)), 0, 1)
            line = [chance.random(size) < p for size, p in zip(sizes, precisions, strict=True)]
            worst = min(worst, exact_coverage(np.concatenate(line), n))
    assert worst >= LEVEL - 1e-9


def labelled(predicted, wrong):
    """Labels by tile, of which every so-manieth is another class."""
    off = np.arange(len(predicted)) % wrong == 0
    return dict(enumerate(np.where(off, 1 - predicted, predicted).tolist()))


def test_audits_add_up_and_with_all_tiles_labelled_the_interval_is_a_point():
    predicted = strata((300, 100))
    answers, tiles = labelled(predicted, 6), np.arange(400)
    truth = np.mean(predicted == [*answers.values()])
    covered = 0
    for seed in range(0, 400, 2):
        both = [audit.draw_audit(tiles, predicted, 20, seed=s) for s in (seed, seed + 1)]
        found = audit.audited_accuracy(audit.label_audit(pd.concat(both), answers), 400)
        covered += found.low <= truth <= found.high
    assert covered / 200 >= LEVEL - 0.02
    whole = audit.label_audit(audit.draw_audit(tiles, predicted, 400, seed=0), answers)
    found = audit.audited_accuracy(whole, 400)
    assert (found.value, found.low, found.high) == pytest.approx([truth] * 3)


def made_up(labels, predicted=1, counted=True):
    return pd.DataFrame(
        {"tile": range(len(labels)), "predicted": predicted, "counted": counted, "label": labels}
    )


def test_open_tiles_widen_the_interval_both_ways_and_refused_ones_are_wrong():
    sample = made_up([1] * 7 + [0] + [UNANSWERED] * 2)
    found = audit.audited_accuracy(sample, 10**6)
    assert found.value == 7 / 8
    right, refused = made_up([1] * 8 + [0] * 2), made_up([1] * 8 + [REFUSED] * 2)
    assert audit.audited_accuracy(refused, 1000) == audit.audited_accuracy(right, 1000)
    assert found.low == pytest.approx(stats.binomtest(7, 10).proportion_ci(method="exact").low)
    assert found.high == pytest.approx(stats.binomtest(9, 10).proportion_ci(method="exact").high)
    with pytest.raises(ValueError, match="no tile of the audit has an answer"):
        audit.audited_accuracy(made_up([UNANSWERED] * 3), 10)


def test_labels_that_do_not_count_say_what_is_certain_and_no_more():
    sample = pd.concat([made_up([1] * 4), made_up([0] * 3, counted=False).assign(tile=[7, 8, 9])])
    found = audit.audited_accuracy(sample, 1000)
    assert found.value == pytest.approx(0.997) and found.high == pytest.approx(0.997)
    expected = stats.binomtest(4, 4).proportion_ci(method="exact").low
    assert found.low == pytest.approx(expected)


def test_precisions_of_classes_have_their_own_limits():
    sample = pd.concat([made_up([1] * 3 + [0]), made_up([0], predicted=0).assign(tile=9)])
    table = audit.class_precisions(sample, np.array([1] * 50 + [0] * 5), ["a", "b", "c"])
    assert table.labelled.tolist() == [1, 4, 0] and table.correct.tolist() == [1, 3, 0]
    assert table.predicted.tolist() == [5, 50, 0] and np.isnan(table.precision[2])
    expected = stats.binomtest(3, 4).proportion_ci(method="exact")
    assert (table.low[1], table.high[1]) == pytest.approx((expected.low, expected.high))
    assert (table.low[2], table.high[2]) == (0, 1)


# --- how many more -------------------------------------------------------------------------------


@pytest.mark.parametrize(("accuracy", "half_width"), [(0.5, 0.1), (0.9, 0.05), (1.0, 0.03)])
def test_so_many_labels_are_needed_and_fewer_are_not_enough(accuracy, half_width):
    n = audit.labels_needed(accuracy, half_width)

    def width(n):
        low, high = audit.clopper_pearson(round(n * accuracy), n)
        return high - low

    assert all(width(more) <= 2 * half_width for more in range(n, n + 300))
    assert width(n - 1) > 2 * half_width
    with pytest.raises(ValueError, match="takes more than"):
        audit.labels_needed(0.5, 1e-4)


def test_the_sentence_says_what_was_seen_and_what_it_takes():
    sample = made_up([1] * 45 + [0] * 5)
    text = audit.audit_sentence(sample, 5000, (0.2, 0.05))
    assert "45 of 50 tiles are correct: between 78.2% and 96.7% of all 5000" in text
    more = audit.labels_needed(0.9, 0.05) - 50
    assert "That is ± 20 points or better." in text and f"Label {more} more for ± 5 p" in text
    assert "For ± 5 points, label them all." in audit.audit_sentence(sample, 100, (0.05,))


def test_the_sentence_says_how_many_have_no_answer():
    text = audit.audit_sentence(made_up([1] * 6 + [0] + [UNANSWERED] * 3), 50, what="slides")
    assert text.startswith("6 of 10 slides are correct, 3 have no answer: between ")
