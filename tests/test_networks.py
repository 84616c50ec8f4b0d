"""Networks and what they are given: shapes, statistics, views that depend on nothing but names."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from lib.learning import networks, samplers
from lib.vlm import stand_in, views

TILES = np.array([12, 3, 7, 20, 5])


@pytest.fixture
def features(tmp_path):
    """Features [4 views, 5 tiles, 6] whose value says which view and tile they are of."""
    values = np.add.outer(100 * np.arange(4), TILES)[..., None] + np.zeros(6)
    file = tmp_path / "view_features.npy"
    np.save(file, values.astype(np.float16))
    return file


@pytest.fixture
def store(tmp_path):
    file = tmp_path / "37px.npy"
    np.save(file, np.random.default_rng(0).integers(256, size=(24, 37, 37, 3), dtype=np.uint8))
    return file


# --- networks ------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_views_even_far_from_zero():
    values = np.random.default_rng(0).normal(1000, 2, (3, 50, 7)).astype(np.float32)
    values[..., 4] = 5
    mean, std = networks.feature_statistics(values, chunk=11)
    rows = values.reshape(-1, 7).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.delete(std, 4), np.delete(rows.std(0), 4), rtol=1e-5)
    assert std[4] == 1


def test_a_frozen_head_sees_standardised_features_and_learns_no_statistics():
    mean, std = np.arange(6.0), np.arange(1.0, 7)
    head = networks.frozen_head(mean, std, 3, hidden=8)
    plain = networks.frozen_head(np.zeros(6), np.ones(6), 3, hidden=8)
    plain.load_state_dict(head.state_dict() | {"mean": torch.zeros(6), "std": torch.ones(6)})
    rows = torch.randn(5, 6)
    scaled = rows * torch.tensor(std).float() + torch.tensor(mean).float()
    torch.testing.assert_close(head(scaled), plain(rows))
    assert not {"mean", "std"} & {name for name, _ in head.named_parameters()}


def test_a_frozen_head_survives_its_file(tmp_path):
    head = networks.frozen_head(np.arange(6.0), np.arange(1.0, 7), 3)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    again = networks.frozen_head(np.zeros(6), np.ones(6), 3)
    again.load_state_dict(load_file(tmp_path / "head.safetensors"))
    rows = torch.randn(5, 6)
    assert torch.equal(head(rows), again(rows))


def test_the_fine_tune_network_starts_from_the_packaged_weights_and_normalises():
    network = networks.fine_tune_network(4).eval()
    bare = timm.create_model(stand_in.IMAGE_TOWER, num_classes=0).eval()
    bare.load_state_dict(stand_in.packaged_image_weights(bare))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.head(bare((pixels - 0.5) / 0.5))
        assert network(pixels).shape == (2, 4)
        torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "no_such_backbone"])
def test_a_backbone_out_of_reach_is_named(name):
    with pytest.raises(RuntimeError, match=f"{name}.*out of reach"):
        networks.fine_tune_network(2, name)


# --- predictions ---------------------------------------------------------------------------------


def two_heads(projection):
    torch.manual_seed(0)
    mean, std = np.arange(6.0), np.arange(1.0, 7)
    return [networks.frozen_head(mean, std, 3, hidden=5, projection=projection) for _ in "ab"]


def random_rows(tiles):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(30, 6))).float()[tiles]


def test_with_a_projection_the_output_is_a_pair_and_the_logits_are_as_without():
    (head, _), rows = two_heads(projection=4), random_rows(TILES)
    logits, projected = head(rows)
    assert (logits.shape, projected.shape) == ((5, 3), (5, 4))
    assert head.projector.bias is None
    bare = networks.frozen_head(np.zeros(6), np.ones(6), 3, hidden=5)
    bare.load_state_dict({k: v for k, v in head.state_dict().items() if "projector" not in k})
    features = head.body((rows - head.mean) / head.std)
    assert torch.equal(bare(rows), logits) and torch.equal(features, bare.forward_features(rows)[1])
    torch.testing.assert_close(projected, features @ head.projector.weight.T)


def test_a_whole_network_can_have_a_projection_as_well():
    network = networks.fine_tune_network(4, projection=8).eval()
    with torch.no_grad():
        logits, projected = network(torch.rand(2, 3, 32, 32))
    assert (logits.shape, projected.shape) == ((2, 4), (2, 8)) and network.projector.bias is None


@pytest.mark.parametrize("projection", [0, 4])
def test_each_network_says_its_softmax_and_batches_do_not_matter(projection):
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


def test_the_features_of_tiles_are_the_mean_of_the_projections():
    heads = two_heads(projection=4)
    _, features = networks.predict_members(heads, random_rows, TILES)
    first, second = (head(random_rows(TILES))[1].detach().numpy() for head in heads)
    np.testing.assert_allclose(features, (first + second) / 2, atol=1e-6)


def test_without_projectors_they_are_those_of_both_bodies_side_by_side():
    heads = two_heads(projection=0)
    _, features = networks.predict_members(heads, random_rows, TILES)
    bodies = [head.forward_features(random_rows(TILES))[1].detach().numpy() for head in heads]
    assert features.shape == (5, 10)
    np.testing.assert_allclose(features, np.hstack(bodies), atol=1e-6)


@pytest.mark.parametrize("projection", [0, 4])
def test_a_prediction_is_the_mean_of_the_softmaxes(projection):
    heads = two_heads(projection)
    found = networks.predict(heads, random_rows, TILES)
    each = [
        torch.softmax(head.forward_features(random_rows(TILES))[0], 1).detach().numpy()
        for head in heads
    ]
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-6)
    assert found.dtype == np.float32 and found.shape == (5, 3)


def test_predictions_are_made_without_gradients():
    heads = two_heads(projection=4)
    networks.predict(heads, random_rows, TILES)
    assert all(p.grad is None for head in heads for p in head.parameters())


# --- inputs --------------------------------------------------------------------------------------


def test_features_are_those_of_the_tile_asked_for_in_one_of_its_views(features):
    draw = samplers.feature_views(features, TILES, seed=0)
    wanted = np.array([20, 3, 20, 12])
    found = draw(wanted, 0, 5)
    assert found.shape == (4, 6) and found.dtype == torch.float32
    assert (found[:, 0].numpy() % 100 == wanted).all()
    assert (found[0] == found[2]).all()


def test_views_depend_on_network_step_and_seed_but_not_on_the_batch(features):
    draw = samplers.feature_views(features, TILES, seed=0)
    whole = draw(TILES, 1, 3)
    parts = torch.cat([draw(TILES[:2], 1, 3), draw(TILES[2:], 1, 3)])
    assert torch.equal(whole, parts) and torch.equal(whole, draw(TILES, 1, 3))
    other_seed = samplers.feature_views(features, TILES, seed=1)

    def sequence(draw, network):
        return torch.stack([draw(TILES, network, step) for step in range(20)])

    a, b, c = sequence(draw, 0), sequence(draw, 1), sequence(other_seed, 0)
    for one, other in ((a, b), (a, c), (a[1:], b[:-1]), (a[1:], a[:-1])):
        assert (one == other).float().mean() == pytest.approx(1 / 4, abs=0.15)


def test_every_view_is_drawn_as_often(features):
    draw = samplers.feature_views(features, TILES, seed=0)
    views_of = torch.stack([draw(TILES, 0, step)[:, 0] // 100 for step in range(400)]).int()
    np.testing.assert_allclose(np.bincount(views_of.ravel()) / 2000, 0.25, atol=0.04)


def test_a_tile_without_views_is_an_error(features):
    draw = samplers.feature_views(features, TILES, seed=0)
    for absent in (0, 4, 21):
        with pytest.raises(ValueError, match="holds no views"):
            draw(np.array([3, absent]), 0, 0)


def test_plain_features_are_rows_of_the_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float16)
    np.save(tmp_path / "unprojected.npy", values)
    found = samplers.plain_features(tmp_path / "unprojected.npy")(TILES)
    np.testing.assert_array_equal(found.numpy(), values[TILES].astype(np.float32))


def test_pixel_views_differ_between_networks_and_steps_and_can_be_had_again(store):
    draw = samplers.pixel_views(store, 32, seed=0)
    seen = [draw(TILES, network, step) for step in (0, 1) for network in (0, 1)]
    assert all(pixels.shape == (5, 3, 32, 32) for pixels in seen)
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not torch.equal(one, other)
    assert torch.equal(seen[3], samplers.pixel_views(store, 32, seed=0)(TILES, 1, 1))


def test_plain_pixels_are_the_plain_view(store):
    images = torch.from_numpy(np.load(store)[TILES])
    found = samplers.plain_pixels(store, 32)(TILES)
    assert torch.equal(found, views.plain_view(images, 32))
