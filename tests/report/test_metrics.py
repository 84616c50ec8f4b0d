"""Scores against scikit-learn, loops and cases worked by hand."""

from itertools import product

import numpy as np
import pytest
import references
from cases import case
from sklearn import metrics as sk

from lib.report import metrics

ABC = ["a", "b", "c"]


def predictions(seed, n=80, n_classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    probs = rng.dirichlet(np.ones(n_classes), n) + np.eye(n_classes)[labels] * rng.random((n, 1))
    return probs / probs.sum(1, keepdims=True), labels


def test_scores_are_scikit_learns():
    for seed, n_classes in product(range(8), (3, 6)):
        with case(seed, n_classes):
            probs, labels = predictions(seed, n_classes=n_classes)
            predicted = probs.argmax(1)
            names = [f"class {c}" for c in range(n_classes)]
            recall = sk.recall_score(labels, predicted, average=None)
            scores = metrics.scores(probs, labels, names)
            assert scores.pop("recall") == pytest.approx(dict(zip(names, recall, strict=True)))
            support = dict(zip(names, np.bincount(labels).tolist(), strict=True))
            assert scores.pop("support") == support
            assert scores.pop("ece") == metrics.calibration_error(probs, labels)
            assert scores == pytest.approx(
                {
                    "accuracy": sk.accuracy_score(labels, predicted),
                    "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
                    "macro_f1": sk.f1_score(labels, predicted, average="macro"),
                    "auroc": sk.roc_auc_score(labels, probs, multi_class="ovr"),
                }
            )


def test_scores_of_a_small_case_worked_by_hand():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    scores = metrics.scores(probs, np.array([0, 0, 1, 1]), ["a", "b"])
    assert scores["accuracy"] == 0.75
    assert scores["recall"] == {"a": 1.0, "b": 0.5}
    assert scores["balanced_accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["auroc"] == 0.75  # of four pairs, only (0.6, 0.8) is ranked wrongly
    # one tile in each of four bins: gaps 0.1, 0.4, 0.3 and 0.8
    assert scores["ece"] == pytest.approx(0.4)


def test_an_absent_class_has_no_recall_and_no_say():
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    scores = metrics.scores(probs, np.array([0, 1, 1, 0]), ABC)
    assert scores["recall"] == {"a": 0.5, "b": 0.5, "c": None}
    assert scores["balanced_accuracy"] == 0.5
    assert scores["auroc"] is None
    assert scores["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2)


def test_scores_are_plain_numbers_for_the_record():
    scores = metrics.scores(*predictions(0), ABC)
    assert {type(count) for count in scores.pop("support").values()} == {int}
    values = [*scores.pop("recall").values(), *scores.values()]
    assert {type(value) for value in values} == {float}


def test_calibration_error_matches_the_loop():
    for seed, bins in product(range(10), (1, 4, 15)):
        probs, labels = predictions(seed, n=60)
        probs[:5] = np.eye(3)[labels[:5]]  # an edge belongs to the bin below it
        probs[5:15], probs[15:25] = [0.5, 0.25, 0.25], [0.125, 0.75, 0.125]
        with case(seed, bins):
            error = metrics.calibration_error(probs, labels, bins)
            expected = references.calibration_error(probs, labels, bins)
            assert error == pytest.approx(expected, abs=1e-12)


def test_calibration_error_is_zero_when_confidence_is_right_and_one_when_sure_and_wrong():
    sure = np.eye(2)[np.zeros(10, int)]
    assert metrics.calibration_error(sure, np.zeros(10, int)) == 0
    assert metrics.calibration_error(sure, np.ones(10, int)) == 1
    three_of_four = np.full((8, 2), [0.75, 0.25])
    assert metrics.calibration_error(three_of_four, np.array([0, 0, 0, 1] * 2)) == 0


# --- intervals -----------------------------------------------------------------------------------


def mean_of(values):
    return lambda rows: float(values[rows].mean())


@pytest.mark.slow
def test_the_interval_contains_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        values = np.random.default_rng(seed).random(40) < 0.7
        low, high = metrics.grouped_interval(mean_of(values), np.arange(40), seed=seed, draws=200)
        hits += low <= 0.7 <= high
    assert 50 <= hits


def test_the_interval_of_independent_tiles_has_the_known_width():
    values = np.random.default_rng(0).normal(size=400)
    low, high = metrics.grouped_interval(mean_of(values), np.arange(400), draws=2000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_single_group_has_no_width():
    values = np.random.default_rng(0).random(30)
    low, high = metrics.grouped_interval(mean_of(values), np.zeros(30), draws=50)
    assert low == high == pytest.approx(values.mean())


def test_groups_of_alike_tiles_widen_the_interval():
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(20), 25)
    values = rng.normal(size=20)[slides] + 0.1 * rng.normal(size=500)

    def width(groups):
        low, high = metrics.grouped_interval(mean_of(values), groups, draws=400)
        return high - low

    assert 3 < width(slides) / width(np.arange(500)) < 7  # √25 for copies


def test_a_group_is_drawn_whole_whatever_its_name_and_place():
    groups = np.array(["s2", "s1", "s2", "s10", "s1", "s2"])
    drawn = []
    metrics.grouped_interval(lambda rows: drawn.append(rows) or 0.0, groups, draws=100)
    for rows in drawn:
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[2] == counts[5] and counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3


def test_the_interval_is_fixed_by_its_seed():
    values, groups = np.random.default_rng(0).random(50), np.arange(50) // 5
    one, again, other = (
        metrics.grouped_interval(mean_of(values), groups, seed=s, draws=100) for s in (1, 1, 2)
    )
    assert one == again != other


def test_a_lower_level_gives_a_narrower_interval():
    values = np.random.default_rng(0).random(50)
    (low, high), (lower, higher) = (
        metrics.grouped_interval(mean_of(values), np.arange(50), level=level)
        for level in (0.5, 0.99)
    )
    assert lower < low < values.mean() < high < higher


# --- pseudo labels -------------------------------------------------------------------------------


def test_label_quality_worked_by_hand():
    pseudo = np.array([0, 0, 1, 2, 2, 1, -1, 2])
    labels = np.array([0, 1, 1, 0, 1, 1, 2, 2])
    kept = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
    assert metrics.label_quality(pseudo, kept, labels, ABC) == {
        "kept": 5,
        "share": 5 / 8,
        "precision": 2 / 5,
        "per_class": {
            "a": {"kept": 2, "right": 1},
            "b": {"kept": 1, "right": 1},
            "c": {"kept": 2, "right": 0},
        },
        "lost_classes": ["c"],
    }


def test_nothing_kept_has_no_precision_and_loses_every_class():
    quality = metrics.label_quality(np.zeros(3, int), np.zeros(3, bool), np.arange(3), ABC)
    assert quality["precision"] is None and quality["kept"] == 0 and quality["share"] == 0
    assert quality["lost_classes"] == ABC


def test_a_class_that_has_no_tile_cannot_be_lost():
    labels = np.array([0, 1])
    quality = metrics.label_quality(labels, np.ones(2, bool), labels, ABC)
    assert quality["lost_classes"] == []
