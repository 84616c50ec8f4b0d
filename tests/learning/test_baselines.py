"""Baselines that are no loss: confident learning and transduction."""

import numpy as np
import pytest
import references

from lib.learning import baselines


def blobs(n=60, n_classes=3, size=8, spread=0.6, seed=0):
    chance = np.random.default_rng(seed)
    truth = np.arange(n) % n_classes
    features = chance.normal(size=(n_classes, size))[truth] + spread * chance.normal(size=(n, size))
    return features / np.linalg.norm(features, axis=1, keepdims=True), truth


def unsure(truth, n_classes, wrong, seed=1):
    """Probabilities that lean towards the truth, or towards another class for the share `wrong`."""
    chance = np.random.default_rng(seed)
    labels = np.where(chance.random(len(truth)) < wrong, (truth + 1) % n_classes, truth)
    logits = 1.5 * np.eye(n_classes)[labels] + 0.3 * chance.normal(size=(len(truth), n_classes))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize(("n", "n_classes"), [(12, 2), (25, 3)])
def test_transduction_is_the_equation(n, n_classes):
    features, truth = blobs(n, n_classes, size=5)
    probs = unsure(truth, n_classes, 0.3)
    found = baselines.transductive_probabilities(features, probs)
    expected = references.transductive(features, probs, 3, 8, 50.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)


def test_transduction_helps_where_classes_are_clusters():
    features, truth = blobs(300, size=256, spread=1)
    probs = unsure(truth, 3, 0.3)
    found = baselines.transductive_probabilities(features, probs).argmax(1)
    assert (found == truth).mean() > (probs.argmax(1) == truth).mean() + 0.15


def test_transduction_does_not_depend_on_the_order_and_leaves_its_arguments_alone():
    features, truth = blobs(80)
    probs = unsure(truth, 3, 0.3)
    order = np.random.default_rng(3).permutation(80)
    before = features.copy(), probs.copy()
    found = baselines.transductive_probabilities(features, probs)
    shuffled = baselines.transductive_probabilities(features[order], probs[order])
    np.testing.assert_allclose(found[order], shuffled, atol=1e-9)
    assert (features == before[0]).all() and (probs == before[1]).all()


def test_transduction_needs_neighbours():
    features, truth = blobs(3)
    with pytest.raises(ValueError, match="more than 3 tiles"):
        baselines.transductive_probabilities(features, unsure(truth, 3, 0))


@pytest.mark.parametrize("names", [(0, 1, 2), (0, 2, 4)])
def test_confident_learning_suspects_the_wrong_labels(names):
    features, truth = blobs(300, spread=0.3)
    chance = np.random.default_rng(0)
    wrong = chance.random(300) < 0.15
    labels = np.array(names)[np.where(wrong, (truth + 1) % 3, truth)]
    found = baselines.suspected_labels(features, labels, np.arange(300) // 3)
    assert found.dtype == bool and found.shape == (300,)
    assert found[wrong].mean() > 0.9 and found[~wrong].mean() < 0.05


def test_confident_learning_makes_do_with_few_groups_but_not_with_one():
    features, truth = blobs(30, spread=0.1)
    groups = np.arange(30) // 10
    assert not baselines.suspected_labels(features, truth, groups).any()
    assert not baselines.suspected_labels(features, np.zeros(30, int), groups).any()
    with pytest.raises(ValueError, match="at least one"):
        baselines.suspected_labels(features, truth, np.zeros(30))
