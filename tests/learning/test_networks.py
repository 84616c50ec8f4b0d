"""Heads on features, and the predictions of several networks: shapes, statistics, softmaxes."""

import numpy as np
import pytest
import torch

from lib.learning import networks

TILES = np.array([12, 3, 7, 20, 5])
BASIS = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 4)))[0]


# --- networks ------------------------------------------------------------------------------------


def test_a_frozen_head_sees_standardised_features_and_learns_no_statistics():
    mean, std = np.arange(6.0), np.arange(1.0, 7)
    head = networks.frozen_head(mean, std, np.eye(6), 3)
    plain = networks.frozen_head(np.zeros(6), np.ones(6), np.eye(6), 3)
    plain.load_state_dict(head.state_dict() | {"mean": torch.zeros(6), "std": torch.ones(6)})
    rows = torch.randn(5, 6)
    scaled = rows * torch.tensor(std).float() + torch.tensor(mean).float()
    torch.testing.assert_close(head(scaled), plain(rows))
    assert not {"mean", "std"} & {name for name, _ in head.named_parameters()}


# --- predictions ---------------------------------------------------------------------------------


def two_heads(projection):
    torch.manual_seed(0)
    mean, std = np.arange(6.0), np.arange(1.0, 7)
    return [networks.frozen_head(mean, std, BASIS, 3, projection=projection) for _ in "ab"]


def random_rows(tiles):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(30, 6))).float()[tiles]


def test_with_a_projection_the_output_is_a_pair_and_the_logits_are_as_without():
    (head, _), rows = two_heads(projection=4), random_rows(TILES)
    logits, projected = head(rows)
    assert (logits.shape, projected.shape) == ((5, 3), (5, 4))
    assert head.projector.bias is None
    bare = networks.frozen_head(np.zeros(6), np.ones(6), np.eye(6)[:, :4], 3)
    bare.load_state_dict({k: v for k, v in head.state_dict().items() if "projector" not in k})
    features = head.body((rows - head.mean) / head.std @ head.basis)
    torch.testing.assert_close(bare(rows), logits)
    torch.testing.assert_close(features, bare.forward_features(rows)[1])
    torch.testing.assert_close(projected, features @ head.projector.weight.T)


@pytest.mark.parametrize("projection", [0, 4])
def test_each_network_gives_its_softmax_and_batches_do_not_matter(projection):
    heads, tiles = two_heads(projection), np.arange(30)
    probs, features = networks.predict_members(heads, random_rows, tiles)
    assert probs.shape == (2, 30, 3) and probs.dtype == features.dtype == np.float32
    for head, found in zip(heads, probs, strict=True):
        logits = head.forward_features(random_rows(tiles))[0].detach().numpy().astype(float)
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for size in (1, 7, 30, 100):
        again, seen = networks.predict_members(heads, random_rows, tiles, batch_size=size)
        np.testing.assert_allclose(again, probs, atol=1e-6)
        np.testing.assert_allclose(seen, features, atol=1e-5)


@pytest.mark.parametrize("projection", [0, 4])
def test_a_prediction_is_the_mean_of_the_softmaxes_and_features_are_those_of_both(projection):
    """The mean of the projections; without projectors both bodies side by side."""
    heads = two_heads(projection)
    each = [torch.softmax(head.forward_features(random_rows(TILES))[0], 1) for head in heads]
    found = networks.predict(heads, random_rows, TILES)
    np.testing.assert_allclose(found, (each[0] + each[1]).detach() / 2, atol=1e-6)
    assert found.dtype == np.float32 and found.shape == (5, 3)
    _, features = networks.predict_members(heads, random_rows, TILES)
    if projection:
        first, second = (head(random_rows(TILES))[1].detach().numpy() for head in heads)
        expected = (first + second) / 2
    else:
        bodies = [head.forward_features(random_rows(TILES))[1].detach().numpy() for head in heads]
        expected = np.hstack(bodies)
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_predictions_are_made_without_gradients():
    heads = two_heads(projection=4)
    networks.predict(heads, random_rows, TILES)
    assert all(p.grad is None for head in heads for p in head.parameters())
