"""Colours of H&E tiles: the deconvolution of Ruifrok and Johnston, and other laboratories' stains.

Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23:291.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Optical densities in R, G, B of haematoxylin and eosin, as published.
HE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
# Another laboratory, one unit of shift away (our choice): bluer and stronger haematoxylin, paler
# and more orange eosin, a less warm white.
OTHER_HE = np.array([[0.780, 0.560, 0.200], [0.200, 0.860, 0.380]])
OTHER_STRENGTHS = np.array([1.35, 0.75])
OTHER_WHITE = np.array([0.94, 0.96, 0.97])


def restain(tile: Array, shift: float) -> Array:
    """A tile as another laboratory would have stained it: uint8 [S, S, 3] from uint8 [S, S, 3].

    The amounts of both stains (`separate_stains`, not cut off at 0) are kept, and what they do not
    explain of the optical density; the stains' colours, strengths and the white move by `shift`
    times the way from the other laboratory: −1 leads to it, 0 changes nothing.
    """
    density = -np.log10((tile.astype(np.float32) + 1) / 256).reshape(-1, 3)
    amounts = np.linalg.lstsq(HE.T, density.T, rcond=None)[0].T.astype(np.float32)
    stains = HE + shift * (HE - OTHER_HE)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True) / np.linalg.norm(HE, axis=1)[:, None]
    change = OTHER_STRENGTHS[:, None] ** -shift * stains - HE
    density += amounts @ change.astype(np.float32)
    light = 256 * OTHER_WHITE.astype(np.float32) ** -shift * 10**-density - 1
    return np.clip(light + 0.5, 0, 255).astype(np.uint8).reshape(tile.shape)


def scale_stains(tile: Array, haematoxylin: float, eosin: float) -> Array:
    """A tile with more or less of each stain, factors of their amounts: uint8 [S, S, 3] from such.

    What both stains do not explain of the optical density is kept; factors of 1 change nothing.
    """
    amounts = separate_stains(tile).reshape(2, -1)
    density = -np.log10((tile.astype(np.float64) + 1) / 256).reshape(-1, 3)
    density += amounts.T @ (np.array([[haematoxylin - 1], [eosin - 1]]) * HE)
    light = 256 * 10**-density - 1
    return np.clip(light + 0.5, 0, 255).astype(np.uint8).reshape(tile.shape)


def separate_stains(tile: Array) -> Array:
    """Amounts of haematoxylin and eosin, [2, S, S], by colour deconvolution.

    tile: uint8 [S, S, 3]. Least squares on the optical densities −log10(I / 255); below 0 is none.
    """
    density = -np.log10((tile.astype(np.float64) + 1) / 256)
    amounts = np.linalg.lstsq(HE.T, density.reshape(-1, 3).T, rcond=None)[0]
    return np.maximum(amounts, 0).reshape(2, *tile.shape[:2])
