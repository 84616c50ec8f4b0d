"""Trainings by name, and what the labels of a loop say about the pool."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import references
from torch import nn

from lib.active import trainings
from lib.blocks import Rows
from lib.labels import UNLABELLED
from lib.learning import losses
from lib.learning.batches import Schedule
from lib.learning.setups import TrainingSetup


def test_the_published_training_is_that_of_the_paper_and_the_aligned_one_adds_alignment():
    assert repr(trainings.training_by_name("dual-view")) == repr(losses.DualViewTraining())
    weights = {"threshold": 0.6, "cross_weight": 0.3, "own_weight": 0.05, "contrast": 0.2}
    published = trainings.training_by_name("dual-view", **weights)
    aligned = trainings.training_by_name("dual-view-aligned", **weights)
    assert (published.threshold, published.weight, published.contrast) == (0.6, 0.3, 0.2)
    assert published.alignment == 0 < aligned.alignment < 1
    assert aligned.weight == 0.05 < trainings.OWN_WEIGHT < losses.DualViewTraining().weight
    assert replace(aligned, alignment=0.0, weight=0.3) == published
    assert trainings.training_by_name("dual-view-aligned", alignment=1.0).alignment == 1
    with pytest.raises(ValueError, match=f"'dual'.*{', '.join(trainings.TRAININGS)}"):
        trainings.training_by_name("dual")


@pytest.mark.parametrize(
    ("name", "size"), [("dual-view", 128), ("dual-view-aligned", 128), ("supervised", 0)]
)
def test_a_setup_has_projectors_where_its_training_contrasts(name, size):
    def make_setup(projection):
        return TrainingSetup(partial(nn.Linear, 2, projection), None, None, Schedule(steps=7))

    setup = trainings.training_setup(name, make_setup)
    assert setup.make_network.args == (2, size) and setup.schedule == Schedule(steps=7)
    ablated = trainings.training_setup(name, make_setup, balance_classes=False)
    assert ablated.schedule == Schedule(steps=7, balance_classes=False)


def test_a_label_weighs_the_tiles_that_lie_nearest_to_it():
    """Six tiles on a circle: 0, 10, 20 degrees are nearest to the label at 0, 180 … to that at 180.

    Weights 3, 2 and 1 make (3 + 2 + 1)² / (9 + 4 + 1) effective labels.
    """
    angle = np.radians([0, 10, 20, 180, 190, 90])
    features = np.stack([np.cos(angle), np.sin(angle)], 1)
    labels = np.array([2, -1, -1, 0, -1, 2])
    effective = 36 / 14
    counts = trainings.voronoi_counts(features - features.mean(0), labels, 4)
    assert counts.tolist() == pytest.approx([effective * 2 / 6, 0, effective * 4 / 6, 0])


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_a_loop_over_tiles(monkeypatch, seed):
    monkeypatch.setattr(trainings, "CHUNK", 7)
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(50, 4)) * [1, 5, 1, 0] + 3
    labels = np.where(chance.random(50) < 0.3, chance.integers(3, size=50), UNLABELLED)
    counts = trainings.voronoi_counts(features, labels, 3)
    assert counts == pytest.approx(references.voronoi_counts(features, labels, 3))
    everywhere = trainings.voronoi_counts(features, np.arange(50) % 3, 3)
    assert everywhere == pytest.approx([17, 17, 16]), "with all tiles labelled they are plain"


def test_of_labels_from_one_corner_of_the_pool_the_weights_make_a_fairer_marginal():
    """Half of the tiles are of each class; nine of ten labels were asked of the first."""
    shares, truth = [], np.repeat([0, 1], 100)
    for seed in range(10):
        chance = np.random.default_rng(seed)
        features = chance.normal(size=(200, 3)) + 3 * truth[:, None]
        labels = np.full(200, UNLABELLED)
        rows = np.append(chance.choice(100, 27, replace=False), 100 + chance.choice(100, 3))
        labels[rows] = truth[rows]
        counts = trainings.voronoi_counts(features, labels, 2)
        shares.append(counts[1] / counts.sum())
        assert counts.sum() <= 30
    assert 0.4 < np.mean(shares) < 0.6


def test_labels_stand_for_all_tiles_and_without_features_for_themselves():
    features = np.random.default_rng(1).normal(size=(20, 3))
    labels = np.where(np.arange(20) % 4 == 0, 1, UNLABELLED)
    weights = trainings.voronoi_weights(features, labels)
    assert weights.sum() == 20 and not weights[labels == UNLABELLED].any()
    assert trainings.voronoi_weights(None, labels).tolist() == (labels == 1).astype(float).tolist()
    assert not trainings.voronoi_weights(features, np.full(20, UNLABELLED)).any()


def test_of_many_tiles_pseudo_labels_are_counted_in_a_draw(monkeypatch):
    """Classes of 0.6, 0.3 and 0.1 of the tiles; half have a pseudo label."""
    chance = np.random.default_rng(0)
    truth = chance.choice(3, 3000, p=[0.6, 0.3, 0.1])
    features = chance.normal(size=(3, 4))[truth] * 3 + chance.normal(size=(3000, 4))
    labels = np.where(np.arange(3000) < 30, truth, UNLABELLED)
    learnt = np.where((np.arange(3000) < 30) | (chance.random(3000) < 0.5), truth, UNLABELLED)
    given = Rows(features.__getitem__, np.arange(3000)), labels, learnt, np.full(3000, 0.1)
    whole = trainings.training_label_counts(*given, n_classes=3)
    monkeypatch.setattr(trainings, "SAMPLED", 600)
    drawn = trainings.training_label_counts(*given, n_classes=3)
    np.testing.assert_allclose(drawn / drawn.sum(), whole / whole.sum(), atol=0.03)
    assert drawn.sum() == pytest.approx(whole.sum(), rel=0.05)
