"""Random views: every tile its own draw, and colours as torchvision makes them."""

import numpy as np
import pytest
import references
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from lib.data.tiles import stored_size
from lib.random_draws import tile_draws
from lib.vlm.views import DRAWS, LUMA, adjust_colours, picture_views, plain_view, random_view

SIZE = 14
STORED = stored_size(SIZE)  # 16: three crop offsets each way


def noise(n, size=STORED, seed=0, low=0, high=256):
    pixels = np.random.default_rng(seed).integers(low, high, (n, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def view(images, size=SIZE, *, tiles=None, number=0, seed=0, **options):
    tiles = np.arange(len(images)) if tiles is None else tiles
    return random_view(images, size, tiles=tiles, view=number, seed=seed, **options)


def as_bytes(pixels):
    """Float [B, 3, H, W] in 0 … 1 back to bytes [B, H, W, 3]."""
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


# --- crop, turn, flip ----------------------------------------------------------------------------


def geometry(n, **options):
    """(top, left, turns, flip) of `n` tiles' views without jitter, found by comparison."""
    image = noise(1)
    known = references.orientations(image[0].numpy(), SIZE)
    seen = as_bytes(view(image.expand(n, -1, -1, -1), jitter=0, hue=0, **options))
    return np.array([known[one.tobytes()] for one in seen])  # KeyError: not a crop of the tile


def test_without_jitter_a_view_is_a_crop_of_the_turned_or_flipped_tile():
    for images in (noise(200), noise(50, SIZE)):  # the second leaves turns and flips
        for image, seen in zip(images, as_bytes(view(images, jitter=0, hue=0)), strict=True):
            assert seen.tobytes() in references.orientations(image.numpy(), SIZE)


def test_every_orientation_and_offset_occurs_about_equally_often():
    n = 7200
    found = geometry(n)
    kinds, counts = np.unique(found, axis=0, return_counts=True)
    assert len(kinds) == 9 * 8
    expected = n / len(kinds)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 71 + 4.5 * np.sqrt(2 * 71)


def test_an_odd_margin_uses_the_full_range_of_offsets():
    image = noise(1, 11)
    known = references.orientations(image[0].numpy(), 8)
    seen = as_bytes(view(image.expand(600, -1, -1, -1), 8, jitter=0, hue=0))
    offsets = np.array([known[one.tobytes()][:2] for one in seen])
    assert {tuple(o) for o in offsets} == {(t, s) for t in range(4) for s in range(4)}


# --- draws ---------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_views_and_another_seed_or_view_others():
    images = noise(20)
    assert torch.equal(view(images, seed=3, number=4), view(images, seed=3, number=4))
    for other in ({"seed": 4, "number": 4}, {"seed": 3, "number": 5}, {"seed": 4, "number": 3}):
        changed = (view(images, seed=3, number=4) != view(images, **other)).flatten(1).any(1)
        assert changed.sum() > 15


def test_views_do_not_depend_on_the_batch_or_its_order():
    images, tiles = noise(37), np.random.default_rng(1).permutation(1000)[:37]
    whole = view(images, tiles=tiles)
    order = np.random.default_rng(2).permutation(37)
    torch.testing.assert_close(view(images[order], tiles=tiles[order]), whole[order])
    parts = [view(images[at : at + 5], tiles=tiles[at : at + 5]) for at in range(0, 37, 5)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_views_of_a_tile_are_uncorrelated():
    draws = np.stack([geometry(400, number=number) for number in range(3)])
    for column in range(4):
        one, two, three = draws[:, :, column]
        for a, b in ((one, two), (two, three), (one, three)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


# --- colours -------------------------------------------------------------------------------------


def test_a_view_matches_torchvision_tile_by_tile():
    """The same geometry and factors, but torchvision's operations on one tile at a time."""
    images, tiles = noise(60, low=50, high=150), np.arange(5, 65)
    found = view(images, tiles=tiles, number=2, seed=9, hue=0)
    flat = view(images, tiles=tiles, number=2, seed=9, jitter=0, hue=0)
    draws = tile_draws(tiles, DRAWS, 9, stream=2)
    changed = 0
    for tile, draw, before in zip(found, draws, flat, strict=True):
        factors = 1 + 0.2 * (2 * draw[6:9] - 1) if draw[5] < 0.5 else np.ones(3)
        torch.testing.assert_close(
            tile, references.jittered(before, *factors), atol=5e-5, rtol=0
        )  # torchvision's grey weights add up to 0.9999
        changed += bool((tile - before).abs().max() > 1e-5)
    assert 15 < changed < 45


def test_the_jitter_reaches_its_bounds_and_no_further_with_its_probability():
    grey = torch.full((3000, STORED, STORED, 3), 100, dtype=torch.uint8)
    level = view(grey, jitter_probability=1)[:, 0, 0, 0] * 2.55  # only brightness shows
    assert 0.8 <= level.min() < 0.81 and 1.19 < level.max() <= 1.2
    assert level.mean() == pytest.approx(1, abs=0.01)
    for probability in (0, 0.2, 0.5, 0.8):
        same = (view(grey, jitter_probability=probability)[:, 0, 0, 0] - 100 / 255).abs() < 1e-6
        assert 1 - same.float().mean() == pytest.approx(probability, abs=0.03)


def test_views_stay_in_range_and_keep_the_mean_brightness():
    images = noise(1, seed=5).expand(2000, -1, -1, -1)
    seen = view(images)
    assert seen.min() >= 0 and seen.max() <= 1
    assert seen.mean().item() == pytest.approx(images[0].float().mean().item() / 255, abs=0.01)
    assert seen.dtype == torch.float32 and seen.shape == (2000, 3, SIZE, SIZE)


def mild(n=6):
    """Colours that no factor below brings out of range."""
    return 0.3 + 0.25 * torch.rand(n, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def factors(low=0.75, high=1.25, n=6):
    return torch.linspace(low, high, n)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_one_factor_is_torchvisions(name):
    pixels, ones = mild(), torch.ones(6)
    given = {"brightness": ones, "contrast": ones, "saturation": ones, name: factors()}
    found = adjust_colours(pixels, **given, hue=torch.zeros(6))
    torchvisions = getattr(TF, f"adjust_{name}")
    for tile, before, factor in zip(found, pixels, factors(), strict=True):
        # torchvision's grey is darker by 1e-4 of the red: 0.299 as 0.2989
        grey = 1e-4 * 0.55 * abs(1 - factor.item())
        expected = torchvisions(before, factor.item())
        torch.testing.assert_close(tile, expected, atol=1e-6 + grey, rtol=0)
        assert (tile - before).abs().max() > 0.005


def turned(pixels, turns):
    ones = torch.ones(len(pixels))
    return adjust_colours(pixels, ones, ones, ones, torch.full((len(pixels),), turns))


def luma(pixels):
    return torch.einsum("bchw,c->bhw", pixels, torch.tensor(LUMA))


@pytest.mark.parametrize("turns", [-0.5, -0.05, 0.02, 1 / 3, 0.5])
def test_hue_leaves_grey_and_luma_as_they_are(turns):
    grey = mild()[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(turned(grey, turns), grey, atol=2e-6, rtol=0)
    pale = 0.45 + 0.2 * (mild() - 0.45)
    after = turned(pale, turns)
    torch.testing.assert_close(luma(after), luma(pale), atol=2e-6, rtol=0)
    assert (after - pale).abs().max() > 0.003
    thrice = turned(turned(turned(pale, 1 / 3), 1 / 3), 1 / 3)
    torch.testing.assert_close(thrice, pale, atol=5e-6, rtol=0)


def test_colours_are_clipped_once_at_the_end():
    pixels = torch.full((1, 3, 2, 2), 0.8)
    one = torch.ones(1)
    found = adjust_colours(pixels, 2 * one, one, one, 0 * one)
    assert torch.equal(found, torch.ones_like(pixels))
    darker = adjust_colours(pixels, 2 * one, 0 * one, one, 0 * one)  # 1.6 in between, then clipped
    assert torch.equal(darker, torch.ones_like(pixels))


# --- plain view ----------------------------------------------------------------------------------


def test_plain_view_shrinks_as_pillow_does():
    rough = noise(3, 6, seed=2, low=60, high=190).permute(0, 3, 1, 2)
    images = torch.nn.functional.interpolate(rough, (64, 64)).permute(0, 2, 3, 1)
    assert np.array_equal(as_bytes(plain_view(images, 64)), images.round().numpy())
    found = plain_view(images, 56)
    assert 0 <= found.min() and found.max() <= 1
    for tile, image in zip(as_bytes(found), images.numpy(), strict=True):
        expected = Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC)
        assert np.abs(tile.astype(int) - np.asarray(expected).astype(int)).max() <= 2


def test_pictures_of_views_are_the_views():
    images, tiles = noise(3), np.array([4, 0, 9])
    pictures = picture_views(images.numpy(), SIZE, n_views=2, tiles=tiles, seed=1, hue=0.1)
    for v in range(2):
        expected = random_view(images, SIZE, tiles=tiles, view=v, seed=1, hue=0.1)
        assert np.array_equal(pictures[:, v], expected.permute(0, 2, 3, 1).numpy())
