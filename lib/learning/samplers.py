"""Inputs of the networks: a random view of each tile to train on; what is read to predict.

A `ViewSampler` is called as `sampler(tiles, network, step)`. Its views depend on these and the seed
alone: two networks see two views, and a run that was interrupted sees the same ones again. A
`PlainReader` is called as `reader(tiles)`. Both give a tensor on the device, one row per tile.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.blocks import SAMPLED, blocks, draw
from lib.random_draws import TRAINING_VIEWS, tile_draws
from lib.vlm.views import plain_view, random_view

ViewSampler = Callable[[np.ndarray, Any, int], Tensor]
PlainReader = Callable[[np.ndarray], Tensor]


N_COMPONENTS = 256  # D at most
IN_MEMORY = 2**29  # bytes of all views of some tiles; four such are kept


def _stream(network: Any, step: int) -> Any:
    return TRAINING_VIEWS + 2 * step + network


class FeatureViews:
    """Features of a random one of the V views of each tile that the consensus computed.

    Tiles and networks broadcast: tiles [P, 1, B] and networks [2, 1] give [P, 2, B, E].

    Parameters
    ----------
    file : [V, all tiles, E] (`view_features.npy`)
    tiles : [N], those that are trained on: their features standardise all
    seed : of the views
    """

    def __init__(self, file: Path, tiles: np.ndarray, *, seed: int):
        self.file, self.seed = file, seed
        self.inputs = _inputs(file, _state(file), np.ascontiguousarray(tiles, np.int64).tobytes())

    def _drawn(self, tiles: np.ndarray, network: Any, step: int) -> np.ndarray:
        draws = tile_draws(tiles, 1, self.seed, _stream(network, step))[..., 0]
        return (draws * len(mapped(self.file))).astype(int)

    def __call__(self, tiles: np.ndarray, network: Any, step: int) -> Tensor:
        return _floats(mapped(self.file)[self._drawn(tiles, network, step), tiles], "cpu")

    def standardised(self, tiles: np.ndarray, network: Any, step: int) -> Tensor:
        """The same as heads see them, [..., D], of tiles that are trained on."""
        return self.inputs(self._drawn(tiles, network, step), tiles)


class _HeadInputs:
    """Views of the training tiles on the principal components of the standardised features.

    mean, std: [E]; basis: [E, D]. As long as all views take no more than `IN_MEMORY` they are
    computed once, else at every step.
    """

    def __init__(self, file: Path, tiles: np.ndarray):
        views = mapped(file)
        self.file = file
        self.mean, self.std = feature_statistics(views, tiles)
        self.basis = principal_components(views, tiles, self.mean, self.std)
        self.row = np.full(views.shape[1], -1)
        self.row[tiles] = np.arange(len(tiles))
        shape = len(views), len(tiles), self.basis.shape[1]
        self.stored = None
        if 4 * math.prod(shape) <= IN_MEMORY:
            self.stored = torch.empty(shape)
            for view, own in enumerate(self.stored):
                for block in blocks(len(tiles)):
                    own[block] = self._computed(np.array(view), tiles[block])

    def _computed(self, view: np.ndarray, tiles: np.ndarray) -> Tensor:
        rows = mapped(self.file)[view, tiles].astype(np.float32)
        return torch.from_numpy((rows - self.mean) / self.std) @ torch.from_numpy(self.basis)

    def __call__(self, view: np.ndarray, tiles: np.ndarray) -> Tensor:
        """Views and tiles: [...]; returns [..., D]."""
        if self.stored is None:
            return self._computed(view, tiles)
        rows = torch.from_numpy(view * self.stored.shape[1] + self.row[tiles])
        return F.embedding(rows, self.stored.flatten(0, 1))


@lru_cache(maxsize=4)
def _inputs(file: Path, state: tuple[int, ...], tiles: bytes) -> _HeadInputs:
    return _HeadInputs(file, np.frombuffer(tiles, np.int64))


def plain_features(file: Path, *, device: torch.device | str = "cpu") -> PlainReader:
    """Features of the tiles, one row each.

    file: [all tiles, E], `mean_features.npy` of the views or `backbone_features.npy`.
    """
    return lambda tiles: _floats(mapped(file)[tiles], device)


def pixel_views(
    file: Path, size: int, *, seed: int, hue: float = 0.05, device: torch.device | str = "cpu"
) -> ViewSampler:
    """A new random view of each tile, float [B, 3, size, size].

    file: the decoded tiles, see `tiles.decode_tiles`.
    """

    def sampler(tiles: np.ndarray, network: int, step: int) -> Tensor:
        view = _stream(network, step)
        return random_view(
            _read_pixels(file, tiles, device), size, tiles=tiles, view=view, seed=seed, hue=hue
        )

    return sampler


def plain_pixels(file: Path, size: int, *, device: torch.device | str = "cpu") -> PlainReader:
    """The plain tiles, float [B, 3, size, size]."""
    return lambda tiles: plain_view(_read_pixels(file, tiles, device), size)


def _read_pixels(file: Path, tiles: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(mapped(file)[tiles]).to(device, non_blocking=True)


def mapped(file: Path) -> np.ndarray:
    """The array of a file, mapped; opened again when the file has changed."""
    return _opened(file, _state(file))


def _state(file: Path) -> tuple[int, ...]:
    state = file.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino


@lru_cache(maxsize=8)
def _opened(file: Path, state: tuple[int, ...]) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _floats(rows: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows)).to(device, non_blocking=True).float()


def feature_statistics(
    features: np.ndarray, tiles: np.ndarray, chunk: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [E] of the views of some tiles, float32, a chunk at a time.

    features: [V, all tiles, E]; tiles: [N]. A feature that never changes gets the standard
    deviation 1.
    """
    # Shifted by the first row: sums of squares about a far-off origin lose their digits.
    shift = features[0, tiles[0]].astype(np.float64)
    total, squares = np.zeros_like(shift), np.zeros_like(shift)
    for view in features:
        for start in range(0, len(tiles), chunk):
            shifted = view[tiles[start : start + chunk]] - shift
            total += shifted.sum(0)
            squares += (shifted**2).sum(0)
    n_rows = len(features) * len(tiles)
    mean = total / n_rows
    std = np.sqrt(np.maximum(squares / n_rows - mean**2, 0))
    std[std < 1e-6] = 1
    return (shift + mean).astype(np.float32), std.astype(np.float32)


def principal_components(
    features: np.ndarray, tiles: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """Directions [E, D] along which the standardised views vary most, D ≤ `N_COMPONENTS`.

    features: [V, all tiles, E]; tiles: [N]. Of more than `SAMPLED` views a draw is looked at.
    """
    from sklearn.decomposition import PCA

    some = draw(len(features) * len(tiles), SAMPLED, 0)
    rows = features[some // len(tiles), tiles[some % len(tiles)]].astype(np.float32)
    n_components = min(N_COMPONENTS, *rows.shape)
    pca = PCA(n_components, svd_solver="covariance_eigh").fit((rows - mean) / std)
    return np.ascontiguousarray(pca.components_.T, np.float32)
