"""Inputs of the networks: a random view of each tile to train on, the plain tile to predict.

A `ViewSampler` is called as `sampler(tiles, network, step)`. Its views depend on these and the seed
alone: two networks see two views, and a run that was interrupted sees the same ones again. A
`PlainReader` is called as `reader(tiles)`. Both give a tensor on the device, one row per tile.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.random_draws import TRAINING_VIEWS, tile_draws
from lib.vlm.views import plain_view, random_view

ViewSampler = Callable[[np.ndarray, Any, int], Tensor]
PlainReader = Callable[[np.ndarray], Tensor]


def _stream(network: Any, step: int) -> Any:
    return TRAINING_VIEWS + 2 * step + network


def feature_views(file: Path, *, seed: int, device: torch.device | str = "cpu") -> ViewSampler:
    """Features of a random one of the V views of each tile that the consensus computed.

    file: [V, all tiles, E] (`view_features.npy`). Tiles and networks broadcast: tiles [P, 1, B] and
    networks [2, 1] give [P, 2, B, E].
    """

    def sampler(tiles: np.ndarray, network: Any, step: int) -> Tensor:
        features = mapped(file)
        draws = tile_draws(tiles, 1, seed, _stream(network, step))[..., 0]
        return _floats(features[(draws * len(features)).astype(int), tiles], device)

    return sampler


def plain_features(file: Path, *, device: torch.device | str = "cpu") -> PlainReader:
    """Features of the plain tiles. file: [all tiles, E] (`backbone_features.npy`)."""
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
    state = file.stat()
    return _opened(file, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=8)
def _opened(file: Path, *state: int) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _floats(rows: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows)).to(device, non_blocking=True).float()
