"""Near-copies: tiles that show one picture, turned by any angle, mirrored or enlarged.

Around the centre of a tile, turning is a shift of the angle and enlarging a shift of the logarithm of
the radius (log-polar registration: Reddy and Chatterji 1996, IEEE Trans. Image Process. 5:1266, here
on the pixels). What is found is to be looked at: two round glands are alike too. Pictures whose
centres lie apart are not found. `data/cards/lc25000_copies.csv` holds what was found so in a sample of
4,000 tiles (its first two pairs), and overlapping fields: of each two groups of a class the nearest
tiles by features, correlated at every displacement and a few turns. Each pair was looked at.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.fft
from scipy.ndimage import gaussian_filter, map_coordinates

RADII, ANGLES, FREQUENCIES = 24, 96, 16
SMOOTHING = 2.0  # standard deviation in pixels, so that centres may lie a little apart
INNERMOST = 8.0  # pixels
BLOCK = 100


def near_copies(tiles: np.ndarray, groups: np.ndarray, threshold: float) -> pd.DataFrame:
    """Pairs of tiles of different groups that are alike, the likest of each two groups.

    tiles: uint8 [N, S, S, 3], S of about 128; groups: [N]. Columns: first, second (numbers of
    tiles), similarity; from the likest down to the threshold.
    """
    alike = np.triu(similarities(tiles, tiles), 1)
    first, second = np.nonzero((alike >= threshold) & (groups[:, None] != groups))
    pairs = pd.DataFrame({"first": first, "second": second, "similarity": alike[first, second]})
    pairs = pairs.sort_values("similarity", ascending=False)
    both = [tuple(sorted(pair)) for pair in zip(groups[pairs["first"]], groups[pairs["second"]])]
    return pairs[~pd.Series(both, pairs.index, dtype=object).duplicated()].reset_index(drop=True)


def similarities(tiles: np.ndarray, others: np.ndarray, zoom_steps: int = 8) -> np.ndarray:
    """Highest correlation over all turns, both sides and zooms from 0.5 to 2: [N, M], up to 1.

    tiles, others: uint8 [N, S, S, 3], [M, S, S, 3]; zoom_steps: each way, of about 9 %.
    """
    first, second = log_polar(tiles), log_polar(others)
    best = np.full((len(tiles), len(others)), -1, np.float32)
    for side in (second, second[:, :, -np.arange(ANGLES)]):
        for zoom in range(-zoom_steps, zoom_steps + 1):
            inner, outer = max(0, zoom), RADII + min(0, zoom)
            a = _spectra(first[:, inner:outer])
            b = _spectra(side[:, inner - zoom : outer - zoom])
            for start, correlation in _turned(a, b):
                block = best[start : start + BLOCK]
                np.maximum(block, correlation.max(2), out=block)
    return best


def log_polar(tiles: np.ndarray) -> np.ndarray:
    """Tiles [N, S, S, 3] around their centres: float32 [N, RADII, ANGLES, 3]."""
    centre = (tiles.shape[1] - 1) / 2
    radii = np.geomspace(INNERMOST, centre, RADII)[:, None]
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    places = np.stack([centre + radii * np.sin(angles), centre + radii * np.cos(angles)])
    polar = np.empty((len(tiles), RADII, ANGLES, 3), np.float32)
    for n, tile in enumerate(tiles):
        for channel in range(3):
            smooth = gaussian_filter(tile[..., channel].astype(np.float32), SMOOTHING)
            polar[n, ..., channel] = map_coordinates(smooth, places, order=1)
    return polar


def _spectra(polar: np.ndarray) -> np.ndarray:
    """Spectra along the angle of rings [N, r, A, 3], each tile centred and of length 1.

    Wider rings count by their length, so that an area counts alike wherever it lies.
    """
    ring = np.geomspace(INNERMOST, 64, RADII)[: polar.shape[1], None, None]
    mean = (polar * ring).mean((1, 2), keepdims=True) / ring.mean()
    centred = (polar - mean) * np.sqrt(ring).astype(np.float32)
    centred /= np.linalg.norm(centred.reshape(len(polar), -1), axis=1)[:, None, None, None] + 1e-6
    spectra = scipy.fft.rfft(centred, axis=2)[:, :, :FREQUENCIES]
    return spectra.transpose(2, 0, 1, 3).reshape(FREQUENCIES, len(polar), -1)


def _turned(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Correlation at every turn, in blocks of a's tiles: start, [BLOCK, M, A]."""
    for start in range(0, a.shape[1], BLOCK):
        product = a[:, start : start + BLOCK] @ b.conj().transpose(0, 2, 1)
        yield start, scipy.fft.irfft(product.transpose(1, 2, 0), n=ANGLES, axis=2)
