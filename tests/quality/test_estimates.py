"""Estimates are what their equations say, and are wrong where their docstrings say so."""

import numpy as np
import pytest
from cleanlab.count import estimate_joint
from made_up_sources import C, noisy, softmax_of, sources

from lib.quality import estimates


def test_agreements_count_tiles():
    predicted = np.array([0, 1, 2, 0])
    assert estimates.agreement(predicted, np.array([0, 1, 1, 1])) == 0.5
    members = np.stack([softmax_of(predicted), softmax_of(np.array([0, 1, 2, 2]))])
    assert estimates.network_agreement(members) == 0.75
    views = np.stack([softmax_of(np.array(v)) for v in ([0, 1, 2, 0], [0, 0, 0, 0])])
    assert estimates.view_agreement(predicted, views) == 6 / 8
    with pytest.raises(ValueError, match="two networks, not of 3"):
        estimates.network_agreement(np.concatenate([members, members[:1]]))


def test_confidence_is_that_of_the_mean():
    members = np.array([[[0.9, 0.1, 0.0]], [[0.3, 0.6, 0.1]]])
    assert estimates.mean_confidence(members) == pytest.approx(0.6)


def test_the_joint_is_the_trace_of_cleanlab_and_finds_noise_that_depends_on_the_class():
    chance = np.random.default_rng(0)
    truth = chance.integers(C, size=3000)
    for accuracy in (0.6, 0.8, 0.95):
        predicted, probs = noisy(truth, accuracy, chance), softmax_of(truth, 0.9)
        found = estimates.joint_accuracy(predicted, probs)
        assert found == pytest.approx(np.trace(estimate_joint(predicted, probs)))
        assert found == pytest.approx((predicted == truth).mean(), abs=0.02)


def test_the_joint_of_few_classes_and_of_a_classifier_with_the_same_errors():
    truth = np.arange(300) % C
    predicted = np.where(truth == 2, 0, truth)  # one class is lost
    assert estimates.joint_accuracy(predicted, softmax_of(predicted)) == pytest.approx(1)
    assert estimates.joint_accuracy(np.zeros(5, int), softmax_of(np.zeros(5, int))) == 1.0
    assert 0 <= estimates.joint_accuracy(predicted, softmax_of(predicted, 1.0)) <= 1


def test_dawid_skene_finds_the_accuracy_of_independent_labellers_and_is_fooled_by_others():
    chance = np.random.default_rng(1)
    truth = chance.integers(C, size=2000)
    predicted = noisy(truth, 0.85, chance)
    workers = {f"{a}": noisy(truth, a, chance) for a in (0.9, 0.7, 0.8, 0.6)}
    found = estimates.dawid_skene_accuracy(predicted, workers | {"network": predicted})
    assert found == pytest.approx((predicted == truth).mean(), abs=0.02)
    shared = dict.fromkeys("abc", predicted) | {"d": noisy(truth, 0.8, chance)}
    assert estimates.dawid_skene_accuracy(predicted, shared) > 0.95


def test_each_source_goes_into_its_estimate_and_they_are_named_in_the_order_of_the_tables():
    truth = np.arange(60) % C
    off = np.where(np.arange(60) < 15, (truth + 1) % C, truth)
    base = estimates.label_free_estimates(sources(truth, truth))
    assert [*base] == [name for name in estimates.ESTIMATES if name != "vlms"]
    assert all(isinstance(value, float) and 0 <= value <= 1 + 1e-9 for value in base.values())
    for source, name in (("prompts", "prompts"), ("second", "networks"), ("views", "views")):
        given = {source: [off] if source == "views" else off}
        found = estimates.label_free_estimates(sources(truth, truth, **given))
        assert found[name] == 0.75 and base[name] == 1.0
    found = estimates.label_free_estimates(sources(truth, truth), np.roll(truth, 1))
    assert [*found] == [*estimates.ESTIMATES] and found["vlms"] == 0.0
    assert estimates.low_estimates(found | {"views": 0.66, "prompts": 0.67}) == ["views", "vlms"]
