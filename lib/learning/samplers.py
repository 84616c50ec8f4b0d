"""What the networks are given: a view of each tile, or the tile as it is.

A view is asked for as `draw(tiles, network, step)` and depends on these and the seed alone: two
networks see two views, and a run that was interrupted sees the same ones again. Tiles as they are,
for predictions, are asked for as `read(tiles)`. Both give a tensor on the device, one row per tile.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.random_draws import tile_draws
from lib.vlm.views import plain_view, random_view

ViewSampler = Callable[[np.ndarray, int, int], Tensor]
PlainReader = Callable[[np.ndarray], Tensor]
MAX_NETWORKS = 2
VIEW_STREAM = 2_000_003  # keeps these draws apart from those of the consensus


def _stream(network: int, step: int) -> int:
    return VIEW_STREAM + MAX_NETWORKS * step + network


def feature_views(
    file: Path, tiles: np.ndarray, *, seed: int, device: torch.device | str = "cpu"
) -> ViewSampler:
    """Of each tile the features of one of the V views that the consensus computed, by chance.

    file: [V, N, E] (`view_features.npy`); tiles: [N] tile numbers, one per row of the file.
    The function that is returned raises ValueError when it is asked for another tile.
    """
    order = np.argsort(tiles)

    def draw(wanted: np.ndarray, network: int, step: int) -> Tensor:
        features = np.load(file, mmap_mode="r", allow_pickle=False)
        rows = order[np.searchsorted(tiles, wanted, sorter=order).clip(max=len(order) - 1)]
        if not np.array_equal(tiles[rows], wanted):
            raise ValueError(f"{file} holds no views of some of the tiles asked for")
        chance = tile_draws(wanted, 1, seed, _stream(network, step))[:, 0]
        views = (chance * len(features)).astype(int)
        return _floats(features[views, rows], device)

    return draw


def plain_features(file: Path, *, device: torch.device | str = "cpu") -> PlainReader:
    """Features of the tiles as they are. file: [all tiles, E] (`unprojected.npy`)."""
    return lambda tiles: _floats(np.load(file, mmap_mode="r", allow_pickle=False)[tiles], device)


def pixel_views(
    store: Path, size: int, *, seed: int, hue: float = 0.05, device: torch.device | str = "cpu"
) -> ViewSampler:
    """A new random view of each tile, float [B, 3, size, size]. store: see `tiles.decode_tiles`."""

    def draw(tiles: np.ndarray, network: int, step: int) -> Tensor:
        view = _stream(network, step)
        return random_view(
            _stored(store, tiles, device), size, tiles=tiles, view=view, seed=seed, hue=hue
        )

    return draw


def plain_pixels(store: Path, size: int, *, device: torch.device | str = "cpu") -> PlainReader:
    """The tiles as they are, float [B, 3, size, size]."""
    return lambda tiles: plain_view(_stored(store, tiles, device), size)


def _stored(store: Path, tiles: np.ndarray, device: torch.device | str) -> Tensor:
    images = np.load(store, mmap_mode="r", allow_pickle=False)[tiles]
    return torch.from_numpy(images).to(device, non_blocking=True)


def _floats(rows: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows)).to(device, non_blocking=True).float()
