"""Open-set prompting: what is in, what took the rest, and how rightly."""

import numpy as np
import pytest

from lib.slides import open_set

LOGITS = np.random.default_rng(0).normal(size=(200, 5)) * 3
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
NAMES = ["fat", "muscle", "mucus"]


def test_a_tile_is_in_if_no_other_tissue_is_more_probable():
    expected = [max(row[:2]) >= max(row[2:]) for row in PROBS]
    assert open_set.relevant_tiles(PROBS, 2).tolist() == expected
    assert open_set.relevant_tiles(np.full((1, 5), 0.2), 2).all(), "a tie is a target's"


def test_target_probabilities_are_the_softmax_over_targets_alone():
    targets = np.exp(LOGITS[:, :2])
    expected = targets / targets.sum(1, keepdims=True)
    assert np.allclose(open_set.target_probabilities(PROBS, 2), expected)
    certain = np.array([[0.0, 0.0, 1.0]])
    assert open_set.target_probabilities(certain, 2).tolist() == [[0.5, 0.5]]


def test_each_dropped_tile_was_taken_by_one_other_tissue():
    relevant = np.arange(200) % 2 == 0
    table = open_set.dropped_tiles(PROBS, NAMES, relevant)
    kept = open_set.relevant_tiles(PROBS, 2)
    assert set(table["other tissue"]) == set(NAMES) and table.tiles.sum() == (~kept).sum()
    assert table.wrongly.sum() == (~kept & relevant).sum() and table.tiles.is_monotonic_decreasing
    assert table.share.sum() == pytest.approx((~kept).mean())
    assert "wrongly" not in open_set.dropped_tiles(PROBS, NAMES)


def test_quality_is_the_share_of_each_kind_that_was_dropped():
    kept, relevant = np.array([True, False, False, True]), np.array([True, True, False, False])
    expected = {"irrelevant": 0.5, "irrelevant_dropped": 0.5, "relevant_dropped": 0.5}
    assert open_set.open_set_quality(kept, relevant) == expected
    assert open_set.open_set_quality(kept, np.ones(4, bool))["irrelevant_dropped"] is None


def test_other_tissue_as_one_class_leaves_every_tile_its_class():
    probs = np.random.default_rng(0).dirichlet(np.ones(6), 500)
    probs[0] = 0.3, 0.1, 0.2, 0.2, 0.1, 0.1  # together more than the best target
    joined = open_set.others_as_one(probs, 2)
    assert joined.shape == (500, 3) and joined.sum(1) == pytest.approx(1)
    np.testing.assert_array_equal(joined.argmax(1), np.minimum(probs.argmax(1), 2))
    np.testing.assert_allclose(open_set.others_as_one(joined, 2), joined)
