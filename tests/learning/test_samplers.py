"""Inputs of the networks: views that depend on tile, network, step and seed alone; plain tiles."""

import numpy as np
import pytest
import torch

from lib.learning import samplers
from lib.vlm import views

TILES = np.array([12, 3, 7, 20, 5])


@pytest.fixture
def features(tmp_path):
    """Features [4 views, 24 tiles, 6] whose value says which view and tile they are of."""
    values = np.add.outer(100 * np.arange(4), np.arange(24))[..., None] + np.zeros(6)
    file = tmp_path / "view_features.npy"
    np.save(file, values.astype(np.float16))
    return file


@pytest.fixture
def store(tmp_path):
    file = tmp_path / "37px.npy"
    np.save(file, np.random.default_rng(0).integers(256, size=(24, 37, 37, 3), dtype=np.uint8))
    return file


def test_features_are_those_of_the_tile_asked_for_in_one_of_its_views(features):
    sampler = samplers.FeatureViews(features, np.arange(24), seed=0)
    wanted = np.array([20, 3, 20, 12])
    found = sampler(wanted, 0, 5)
    assert found.shape == (4, 6) and found.dtype == torch.float32
    assert (found[:, 0].numpy() % 100 == wanted).all()
    assert (found[0] == found[2]).all()


def test_views_depend_on_network_step_and_seed_but_not_on_the_batch(features):
    sampler = samplers.FeatureViews(features, np.arange(24), seed=0)
    whole = sampler(TILES, 1, 3)
    parts = torch.cat([sampler(TILES[:2], 1, 3), sampler(TILES[2:], 1, 3)])
    assert torch.equal(whole, parts) and torch.equal(whole, sampler(TILES, 1, 3))
    other_seed = samplers.FeatureViews(features, np.arange(24), seed=1)

    def sequence(sampler, network):
        return torch.stack([sampler(TILES, network, step) for step in range(20)])

    a, b, c = sequence(sampler, 0), sequence(sampler, 1), sequence(other_seed, 0)
    for one, other in ((a, b), (a, c), (a[1:], b[:-1]), (a[1:], a[:-1])):
        assert (one == other).float().mean() == pytest.approx(1 / 4, abs=0.15)


def test_every_view_is_drawn_as_often(features):
    sampler = samplers.FeatureViews(features, np.arange(24), seed=0)
    views_of = torch.stack([sampler(TILES, 0, step)[:, 0] // 100 for step in range(400)]).int()
    np.testing.assert_allclose(np.bincount(views_of.ravel()) / 2000, 0.25, atol=0.04)


def test_statistics_are_those_of_all_views_of_the_tiles_even_far_from_zero():
    values = np.random.default_rng(0).normal(1000, 2, (3, 50, 7)).astype(np.float32)
    values[..., 4] = 5
    mean, std = samplers.feature_statistics(values, np.arange(40), chunk=11)
    rows = values[:, :40].reshape(-1, 7).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.delete(std, 4), np.delete(rows.std(0), 4), rtol=1e-5)
    assert std[4] == 1


@pytest.mark.parametrize("in_memory", [True, False])
def test_heads_see_the_same_views_standardised_on_principal_components(
    tmp_path, monkeypatch, in_memory
):
    values = np.random.default_rng(0).normal(3, 2, (4, 24, 6)) @ np.diag([9, 1, 5, 1, 1, 0])
    np.save(tmp_path / "views.npy", values.astype(np.float16))
    monkeypatch.setattr(samplers, "N_COMPONENTS", 3)
    monkeypatch.setattr(samplers, "IN_MEMORY", 10**6 * in_memory)
    trained_on = np.arange(4, 24)
    sampler = samplers.FeatureViews(tmp_path / "views.npy", trained_on, seed=in_memory)
    raw = sampler(TILES[:, None] + 1, np.arange(2), 7).numpy()
    found = sampler.standardised(TILES[:, None] + 1, np.arange(2), 7).numpy()
    rows = values[:, trained_on].astype(np.float16).reshape(-1, 6).astype(float)
    mean, std = rows.mean(0), np.where(rows.std(0) > 0, rows.std(0), 1)
    _, _, axes = np.linalg.svd((rows - mean) / std)
    expected = (raw - mean) / std @ axes[:3].T
    assert found.shape == (5, 2, 3)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    basis = sampler.inputs.basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-5)


def test_plain_features_are_rows_of_the_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float16)
    np.save(tmp_path / "backbone_features.npy", values)
    found = samplers.plain_features(tmp_path / "backbone_features.npy")(TILES)
    np.testing.assert_array_equal(found.numpy(), values[TILES].astype(np.float32))


def test_pixel_views_differ_between_networks_and_steps_and_can_be_had_again(store):
    sampler = samplers.pixel_views(store, 32, seed=0)
    seen = [sampler(TILES, network, step) for step in (0, 1) for network in (0, 1)]
    assert all(pixels.shape == (5, 3, 32, 32) for pixels in seen)
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not torch.equal(one, other)
    assert torch.equal(seen[3], samplers.pixel_views(store, 32, seed=0)(TILES, 1, 1))


def test_plain_pixels_are_the_plain_view(store):
    images = torch.from_numpy(np.load(store)[TILES])
    found = samplers.plain_pixels(store, 32)(TILES)
    assert torch.equal(found, views.plain_view(images, 32))
