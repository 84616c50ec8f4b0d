"""Colour deconvolution undoes staining; re-staining moves the colours and keeps the tissue."""

import numpy as np
import pytest

from lib.data.staining import HE, OTHER_HE, restain, separate_stains


def stained(amounts):
    """Light through haematoxylin and eosin, amounts [2, S, S] in decadic optical density."""
    density = np.einsum("khw,kc->hwc", amounts, HE)
    return np.clip(256 * 10**-density - 1, 0, 255).round().astype(np.uint8)


def test_the_amounts_of_both_stains_come_back():
    amounts = np.random.default_rng(0).uniform(0.05, 0.7, (2, 20, 20))
    assert separate_stains(stained(amounts)) == pytest.approx(amounts, abs=0.03)


def test_white_holds_no_stain_and_amounts_are_never_negative():
    assert not separate_stains(np.full((4, 4, 3), 255, np.uint8)).any()
    noise = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert (separate_stains(noise) >= 0).all()


def tissue():
    return stained(np.random.default_rng(0).uniform(0.05, 0.5, (2, 20, 20)))


def test_no_shift_changes_nothing():
    anything = np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    assert np.array_equal(restain(anything, 0.0), anything)


def test_restaining_moves_the_colours_further_the_larger_the_shift():
    tile = tissue()
    for shift in (-2.0, -0.5, 0.5, 1.0, 2.0):
        near, far = restain(tile, shift), restain(tile, 1.5 * shift)
        moved, further = (np.abs(moved.astype(int) - tile).mean() for moved in (near, far))
        assert 2 < moved < further, shift
        assert near.dtype == np.uint8 and near.shape == tile.shape, shift


def test_a_shift_of_one_stains_like_the_other_laboratory_and_keeps_what_is_where():
    amounts = np.zeros((2, 20, 20))
    amounts[0, :, :10], amounts[1, :, 10:] = 0.4, 0.4
    density = -np.log10((restain(stained(amounts), 1.0).astype(float) + 1) / 256)
    lengths = np.linalg.norm(OTHER_HE, axis=1)
    for stain, half in ((0, density[:, :10]), (1, density[:, 10:])):
        white = -np.log10(np.array([0.94, 0.96, 0.97]))
        direction = (half - white).mean((0, 1))
        cosine = direction @ OTHER_HE[stain] / np.linalg.norm(direction) / lengths[stain]
        assert cosine > 0.995


def test_restaining_is_the_same_for_each_pixel_whatever_its_neighbours():
    tile = tissue()
    alone, among_others = restain(tile[:7, 3:9], 1.0), restain(tile, 1.0)[:7, 3:9]
    assert (
        np.abs(alone.astype(int) - among_others).max() <= 1
    )  # a product of another size may round otherwise
