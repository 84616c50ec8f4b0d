"""Scores against scikit-learn, loops and cases worked by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import references
from cases import case
from sklearn import metrics as sk

from lib import record
from lib.report import evaluation, metrics

ABC = ["a", "b", "c"]


def predictions(seed, n=80, n_classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    probs = rng.dirichlet(np.ones(n_classes), n) + np.eye(n_classes)[labels] * rng.random((n, 1))
    return probs / probs.sum(1, keepdims=True), labels


def scored(probs, labels):
    """All scores of predictions, as the record gives them."""
    test = pd.DataFrame({"label": labels})
    facts = record.make([evaluation.evaluate_probs("m", probs, test)]).facts
    return facts[["accuracy", "balanced_accuracy", *record.SCORES]].iloc[0].to_dict()


def test_scores_are_scikit_learns():
    for seed, n_classes in product(range(8), (3, 6)):
        with case(seed, n_classes):
            probs, labels = predictions(seed, n_classes=n_classes)
            predicted = probs.argmax(1)
            assert scored(probs, labels) == pytest.approx(
                {
                    "accuracy": sk.accuracy_score(labels, predicted),
                    "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
                    "macro_f1": sk.f1_score(labels, predicted, average="macro"),
                    "auroc": sk.roc_auc_score(labels, probs, multi_class="ovr"),
                    "ece": metrics.calibration_error(probs, labels),
                }
            )


def test_counts_are_of_every_group_and_class():
    test = pd.DataFrame({"label": [0, 1, 1, 1], "group": [7, 7, 8, 8]})
    counts = metrics.counts(np.array([1, 0, 1, 0.5]), test)
    assert counts.values.tolist() == [[0, "7", 1, 1], [1, "7", 1, 0], [1, "8", 2, 1.5]]
    assert metrics.counts(np.ones(4), test[["label"]]).group.tolist() == ["", ""]


def test_calibration_error_matches_the_loop():
    for seed, bins in product(range(10), (1, 4, 15)):
        probs, labels = predictions(seed, n=60)
        probs[:5] = np.eye(3)[labels[:5]]  # an edge belongs to the bin below it
        probs[5:15], probs[15:25] = [0.5, 0.25, 0.25], [0.125, 0.75, 0.125]
        with case(seed, bins):
            error = metrics.calibration_error(probs, labels, bins)
            expected = references.calibration_error(probs, labels, bins)
            assert error == pytest.approx(expected, abs=1e-12)


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
            "a": {"kept": 2, "correct": 1},
            "b": {"kept": 1, "correct": 1},
            "c": {"kept": 2, "correct": 0},
        },
        "lost_classes": ["c"],
    }


def test_nothing_kept_has_no_precision_and_a_class_without_tiles_cannot_be_lost():
    quality = metrics.label_quality(np.zeros(3, int), np.zeros(3, bool), np.arange(3), ABC)
    assert quality["precision"] is None and quality["kept"] == 0 and quality["share"] == 0
    assert quality["lost_classes"] == ABC
    labels = np.array([0, 1])
    assert not metrics.label_quality(labels, np.ones(2, bool), labels, ABC)["lost_classes"]


def test_scores_worked_by_hand_and_an_absent_class_has_no_say():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    # AUROC: of four pairs, only (0.6, 0.8) is ranked wrongly; a tile in each of four bins, with
    # gaps 0.1, 0.4, 0.3 and 0.8
    expected = {"accuracy": 0.75, "balanced_accuracy": 0.75, "macro_f1": (0.8 + 2 / 3) / 2}
    expected |= {"auroc": 0.75, "ece": 0.4}
    assert scored(probs, np.array([0, 0, 1, 1])) == pytest.approx(expected)
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    scores = scored(probs, np.array([0, 1, 1, 0]))
    assert scores["balanced_accuracy"] == 0.5 and np.isnan(scores["auroc"])
    assert scores["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2)
