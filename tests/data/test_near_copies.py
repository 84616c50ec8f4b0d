"""A picture is found again turned, mirrored and enlarged; others are not."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from lib.data.near_copies import log_polar, near_copies, similarities

SIZE = 96


def picture(seed, size=3 * SIZE):
    noise = np.random.default_rng(seed).normal(size=(size, size, 3))
    smooth = gaussian_filter(noise, (6, 6, 0))
    return Image.fromarray(np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8))


def augmented(image, angle, mirrored=False, zoom=1.0):
    """The middle of a picture that is larger than the tile, so that no corner is empty."""
    image = image.rotate(angle, resample=Image.Resampling.BICUBIC)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    half = round(SIZE / zoom)
    middle = image.size[0] // 2
    box = (middle - half, middle - half, middle + half, middle + half)
    return np.asarray(image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def test_a_picture_is_found_again_however_turned_mirrored_and_enlarged():
    for seed in range(2):
        plain, other = (augmented(picture(s), 0) for s in (seed, 100 + seed))
        for angle, mirrored, zoom in ((0, True, 1), (90, False, 1), (17, True, 1.2), (203, False, 0.8)):
            copy = augmented(picture(seed), angle, mirrored, zoom)
            alike, unlike = similarities(np.stack([copy]), np.stack([plain, other]))[0]
            assert alike > 0.85 and unlike < 0.6, (seed, angle, mirrored, zoom)


def test_a_tile_is_wholly_like_itself_and_an_empty_one_like_none():
    tiles = np.stack([augmented(picture(0), 0), np.full((SIZE, SIZE, 3), 255, np.uint8)])
    alike = similarities(tiles, tiles)
    assert alike[0, 0] == pytest.approx(1, abs=0.05) and np.isfinite(alike).all()
    assert np.abs(alike[1]).max() < 0.1 and log_polar(tiles).dtype == np.float32


def test_pairs_are_of_different_groups_one_for_each_two_groups():
    tiles = np.stack([augmented(picture(s), angle) for s in (0, 1) for angle in (0, 40, 80)])
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    pairs = near_copies(tiles, groups, 0.85)
    assert len(pairs) == 1 and {pairs["first"][0], pairs["second"][0]} in ({0, 2}, {1, 2})
    assert pairs.similarity[0] > 0.85 and near_copies(tiles, groups, 1.5).empty
