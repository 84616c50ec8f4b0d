"""Baselines that are no loss: confident learning, transduction and corrected priors."""

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


def test_transduction_of_too_many_tiles_is_refused_and_says_what_is_linear(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_NEIGHBOURED", 59)
    features, truth = blobs(60)
    with pytest.raises(ValueError, match=r"take 59, or a method that is linear.*sinkhorn-clusters"):
        baselines.transductive_probabilities(features, unsure(truth, 3, 0))


def test_probabilities_about_the_centre_are_the_same_in_blocks():
    """More rows than a block, against the plain form."""
    chance = np.random.default_rng(0)
    features, text = chance.normal(size=(9000, 4)).astype(np.float16), chance.normal(size=(3, 4))
    plain = np.asarray(features, np.float64)
    plain = baselines._unit(plain - plain.mean(0)) @ baselines._unit(text - text.mean(0)).T
    expected = np.exp(5 * plain) / np.exp(5 * plain).sum(1, keepdims=True)
    np.testing.assert_allclose(baselines.centred_probabilities(features, text, 5.0), expected)


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


# --- a corrected prior ---------------------------------------------------------------------------


def uneven(n=400, prior=(0.8, 0.15, 0.05), noise=0.8, seed=0):
    """Calibrated probabilities for equal classes, of tiles whose classes are not."""
    chance = np.random.default_rng(seed)
    truth = chance.choice(len(prior), n, p=prior)
    points = np.eye(len(prior))[truth] + noise * chance.normal(size=(n, len(prior)))
    logits = points / noise**2
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probs, truth


def test_centring_is_the_equation():
    for seed in range(10):
        chance = np.random.default_rng(seed)
        features, text = chance.normal(size=(15, 4)) + 1, chance.normal(size=(3, 4)) - 1
        found = baselines.centred_probabilities(features, text, 5.0)
        np.testing.assert_allclose(found, references.centred(features, text, 5.0), err_msg=seed)


def test_centring_gives_a_neglected_class_its_tiles():
    features, truth = blobs(300, size=16, spread=0.2)
    centres = np.array([features[truth == c].mean(0) for c in range(3)])
    shifted = features + 3 * np.eye(16)[0]  # what all tiles have, one prompt lacks
    text = centres + np.outer([0.5, 0.5, 0.0], np.eye(16)[0])
    plain = (shifted @ text.T).argmax(1)
    assert not (plain == 2).any()
    found = baselines.centred_probabilities(shifted, text, 20.0).argmax(1)
    assert (found == truth).mean() > (plain == truth).mean() + 0.1


def test_sinkhorn_meets_its_prior_and_changes_no_odds_within_a_class():
    for seed in range(5):
        probs, _ = uneven(seed=seed)
        for prior in (None, [0.5, 0.3, 0.2]):
            q = baselines.sinkhorn_probabilities(probs, prior)
            np.testing.assert_allclose(q.sum(1), 1)
            np.testing.assert_allclose(q.mean(0), prior or [1 / 3] * 3, atol=1e-6)
            odds = q / probs  # u_i v_c: of rank one
            np.testing.assert_allclose(odds / odds[:, :1], (odds / odds[:, :1])[:1].repeat(400, 0))


def test_sinkhorn_to_the_mean_changes_nothing_and_to_the_prior_of_em_is_em():
    probs, _ = uneven()
    np.testing.assert_allclose(baselines.sinkhorn_probabilities(probs, probs.mean(0)), probs)
    prior, q = baselines.prior_by_em(probs, rounds=5000)
    np.testing.assert_allclose(baselines.sinkhorn_probabilities(probs, prior), q, atol=1e-4)


def test_the_prior_by_em_is_the_loop_and_near_the_true_one():
    probs, truth = uneven(60)
    expected = references.prior_by_em(probs, 7)
    np.testing.assert_allclose(baselines.prior_by_em(probs, rounds=7)[0], expected)
    for seed in range(5):
        probs, truth = uneven(2000, seed=seed)
        prior, q = baselines.prior_by_em(probs)
        counted = np.bincount(truth, minlength=3) / 2000
        assert np.abs(prior - counted).max() < 0.06, seed
        assert np.abs(prior - counted).max() < np.abs(probs.mean(0) - counted).max(), seed
        assert (q.argmax(1) == truth).mean() > (probs.argmax(1) == truth).mean(), seed


@pytest.mark.parametrize(("n", "n_classes", "anchor"), [(12, 2, 1.0), (25, 3, 4.0)])
def test_anchored_transduction_is_the_equation(n, n_classes, anchor):
    features, truth = blobs(n, n_classes, size=5)
    text, _ = blobs(n_classes, n_classes, size=5, seed=4)
    probs = unsure(truth, n_classes, 0.3)
    found = baselines.anchored_probabilities(features, text, probs, anchor=anchor)
    expected = references.anchored(features, text, probs, 3, 50.0, anchor)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)


def test_anchored_transduction_helps_and_a_class_without_tiles_stays_empty():
    features, truth = blobs(300, n_classes=3, size=256, spread=1)
    text = np.array([features[truth == c].mean(0) for c in range(3)])
    text = np.vstack([text, -text.mean(0)])
    probs = np.pad(unsure(truth, 3, 0.3), ((0, 0), (0, 1)), constant_values=0.01)
    found = baselines.anchored_probabilities(features, text, probs).argmax(1)
    assert (found == truth).mean() > (probs.argmax(1) == truth).mean() + 0.1
    assert not (found == 3).any()


def test_no_correction_depends_on_the_order_or_changes_its_arguments():
    features, truth = blobs(80)
    text, _ = blobs(3, 3, seed=4)
    probs = unsure(truth, 3, 0.3)
    order = np.random.default_rng(3).permutation(80)
    before = features.copy(), text.copy(), probs.copy()
    for method in (
        lambda f, p: baselines.centred_probabilities(f, text, 10.0),
        lambda f, p: baselines.sinkhorn_probabilities(p),
        lambda f, p: baselines.prior_by_em(p)[1],
        lambda f, p: baselines.anchored_probabilities(f, text, p),
    ):
        found, moved = method(features, probs), method(features[order], probs[order])
        np.testing.assert_allclose(found[order], moved, atol=1e-9)
    assert all((a == b).all() for a, b in zip((features, text, probs), before, strict=True))
