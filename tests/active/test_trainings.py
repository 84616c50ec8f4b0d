"""Trainings by name, and what the labels of a loop say about the pool."""

from functools import partial

import numpy as np
import pytest
import references
from torch import nn

from lib.active import trainings
from lib.labels import UNLABELLED
from lib.learning import losses
from lib.learning.setups import TrainingSetup
from lib.learning.trainer import Schedule


def test_the_published_training_is_that_of_the_paper_and_leaves_the_plan_alone():
    objective, changes = trainings.training_by_name("dual-view")
    assert repr(objective) == repr(losses.DualViewTraining()) and not changes


def test_the_aligned_training_differs_in_the_alignment_alone():
    settings = {"threshold": 0.6, "cross_weight": 0.3, "contrast": 0.2}
    published, _ = trainings.training_by_name("dual-view", **settings)
    objective, changes = trainings.training_by_name("dual-view-aligned", **settings)
    assert not changes and 0 < objective.alignment < 1
    full, _ = trainings.training_by_name("dual-view-aligned", alignment=1.0)
    assert full.alignment == 1
    assert repr(objective).startswith(repr(published)[:-1])
    assert (published.threshold, published.weight, published.contrast) == (0.6, 0.3, 0.2)


def test_an_unknown_training_is_refused_and_the_known_are_named():
    with pytest.raises(ValueError, match=f"'dual'.*{', '.join(trainings.TRAININGS)}"):
        trainings.training_by_name("dual")


def test_a_setup_has_the_plan_of_its_training_and_projectors_where_it_contrasts():
    def make_setup(steps, projection):
        return TrainingSetup(partial(nn.Linear, 2, projection), None, None, Schedule(steps=steps))

    for name, size, balance in (
        ("dual-view", 128, True), ("dual-view-aligned", 128, True), ("supervised", 0, True),
    ):  # fmt: skip
        setup = trainings.training_setup(name, partial(make_setup, 7))
        assert setup.make_network.args == (2, size), name
        assert setup.schedule == Schedule(steps=7, balance_classes=balance), name
    ablated = trainings.training_setup("dual-view", partial(make_setup, 7), balance_classes=False)
    assert not ablated.schedule.balance_classes


def test_a_label_weighs_the_tiles_that_lie_nearest_to_it():
    """Six tiles on a circle: 0, 10, 20 degrees are nearest to the label at 0, 180 … to that at 180.

    Weights 3, 2 and 1 make (3 + 2 + 1)² / (9 + 4 + 1) effective labels.
    """
    angle = np.radians([0, 10, 20, 180, 190, 90])
    features = np.stack([np.cos(angle), np.sin(angle)], 1)
    labels = np.array([2, -1, -1, 0, -1, 2])
    effective = 36 / 14
    found = trainings.voronoi_counts(features - features.mean(0), labels, 4)
    assert found.tolist() == pytest.approx([effective * 2 / 6, 0, effective * 4 / 6, 0])


def test_matched_counts_are_those_of_a_loop_over_tiles(monkeypatch):
    monkeypatch.setattr(trainings, "CHUNK", 7)
    for seed in range(3):
        chance = np.random.default_rng(seed)
        features = chance.normal(size=(50, 4)) * [1, 5, 1, 0] + 3
        labels = np.where(chance.random(50) < 0.3, chance.integers(3, size=50), UNLABELLED)
        found = trainings.voronoi_counts(features, labels, 3)
        assert found == pytest.approx(references.voronoi_counts(features, labels, 3)), seed


def test_of_labels_from_one_corner_of_the_pool_the_weights_make_a_fairer_marginal():
    """Half of the tiles are of each class; nine of ten labels were asked of the first."""
    gains = []
    for seed in range(10):
        chance = np.random.default_rng(seed)
        truth = np.repeat([0, 1], 100)
        features = chance.normal(size=(200, 3)) + 3 * truth[:, None]
        labels = np.full(200, UNLABELLED)
        rows = np.append(chance.choice(100, 27, replace=False), 100 + chance.choice(100, 3))
        labels[rows] = truth[rows]
        counts = trainings.voronoi_counts(features, labels, 2)
        gains.append(counts[1] / counts.sum())
        assert counts.sum() <= 30
    assert 0.4 < np.mean(gains) < 0.6


def test_where_every_tile_is_labelled_the_counts_are_plain():
    features = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.arange(20) % 3
    assert trainings.voronoi_counts(features, labels, 3) == pytest.approx([7, 7, 6])


def test_labels_stand_for_all_tiles_and_without_features_for_themselves():
    features = np.random.default_rng(1).normal(size=(20, 3))
    labels = np.where(np.arange(20) % 4 == 0, 1, UNLABELLED)
    cells = trainings.voronoi_weights(features, labels)
    assert cells.sum() == 20 and not cells[labels == UNLABELLED].any()
    assert trainings.voronoi_weights(None, labels).tolist() == (labels == 1).astype(float).tolist()
    assert not trainings.voronoi_weights(features, np.full(20, UNLABELLED)).any()


def test_only_labels_that_chance_drew_are_counted():
    labels = np.array([0, 2, 2, -2, -3, 1, 1, 1, 1])  # five of the first query, two without label
    assert trainings.chance_counts(labels, 5, "margin", 4).tolist() == [1, 0, 2, 0]
    assert trainings.chance_counts(labels, 5, "random", 4).tolist() == [1, 4, 2, 0]
    assert trainings.chance_counts(labels[:0], 5, "unisal", 2).tolist() == [0, 0]
