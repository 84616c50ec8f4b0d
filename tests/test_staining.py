"""Colour deconvolution undoes staining."""

import numpy as np
import pytest

from lib.staining import HE, separate_stains


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
