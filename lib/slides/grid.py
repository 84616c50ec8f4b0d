"""Tiles of a slide: where they lie, and reading them with several processes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lib.slides.reading import Slide

MAX_TILES = 20_000_000  # of a slide, in tissue or not


def tile_grid(
    slide: Slide,
    mask: np.ndarray,
    mask_mpp: float,
    pixels: int,
    *,
    mpp: float,
    min_tissue: float = 0.5,
) -> np.ndarray:
    """Lay a grid over a slide and keep the tiles that lie in tissue.

    Tiles lie side by side in the slide's bounds, row by row, and have a side of exactly
    pixels · mpp µm: the k-th begins at the rounded k-fold side, so that errors do not add up, and
    one that would end outside (by more than rounding) is left out.

    Parameters
    ----------
    slide : whose bounds and µm per pixel count
    mask, mask_mpp : the tissue, bool of `slide.shape_at(mask_mpp)`
    pixels, mpp : side of a tile in pixels and µm per pixel
    min_tissue : share of a tile's area that has to lie in the mask

    Returns
    -------
    x and y of the tiles' top left corners in level-0 pixels, int64 [N, 2]

    Raises
    ------
    ValueError : naming the slide, for a mask of another shape or more than `MAX_TILES`

    """
    if mask.shape != slide.shape_at(mask_mpp):
        raise ValueError(
            f"{slide.name}: a mask at {mask_mpp} µm/px has the shape {slide.shape_at(mask_mpp)}, "
            f"not {mask.shape}"
        )
    left, top, width, height = slide.bounds
    side_x, side_y = slide.side(pixels, mpp)
    if not (width / side_x) * (height / side_y) <= MAX_TILES:
        raise ValueError(f"{slide.name}: more than {MAX_TILES} tiles of {pixels} px at {mpp} µm/px")
    x, y = left + _starts(width, side_x), top + _starts(height, side_y)
    if not len(x) or not len(y):
        return np.empty((0, 2), np.int64)
    scale_x, scale_y = slide.mpp[0] / mask_mpp, slide.mpp[1] / mask_mpp
    areas = _areas(mask, np.stack([y, y + side_y]) * scale_y, np.stack([x, x + side_x]) * scale_x)
    share = areas / (side_x * scale_x * side_y * scale_y)
    rows, columns = np.nonzero(share >= min_tissue - 1e-9)
    return np.stack([x[columns], y[rows]], axis=1)


def _starts(length: int, side: float) -> np.ndarray:
    """Where tiles of a side begin within a length, int64."""
    count = int((length + 1e-6) // side)
    return np.rint(np.arange(count) * side).astype(np.int64)


def _areas(mask: np.ndarray, edges_y: np.ndarray, edges_x: np.ndarray) -> np.ndarray:
    """Area of the mask within rectangles, float64 [R, C]; edges: [2, R] and [2, C], in its pixels.

    The integral image is linear within a pixel along each axis, so that fractions are exact.
    """
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int32), axis=1, out=integral[1:, 1:])
    rows = [_interpolated(integral, edge) for edge in edges_y]
    strips = (rows[1] - rows[0]).T
    columns = [_interpolated(strips, edge) for edge in edges_x]
    return (columns[1] - columns[0]).T


def _interpolated(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of an array at fractional positions, linear between and constant beyond."""
    at = np.clip(at, 0, len(values) - 1)
    below = np.minimum(at.astype(np.int64), len(values) - 2)
    share = (at - below)[:, None]
    return values[below] * (1 - share) + values[below + 1] * share


class _Tiles(Dataset):
    """The tiles of a slide by number; each process opens the slide when it first reads."""

    def __init__(self, slide: Slide, coords: np.ndarray, pixels: int, mpp: float):
        self.slide, self.coords, self.pixels, self.mpp = slide, coords.tolist(), pixels, mpp

    def __getitem__(self, number: int) -> tuple[int, np.ndarray]:
        x, y = self.coords[number]
        return number, self.slide.read(x, y, self.pixels, self.mpp)


def read_tiles(
    slide: Slide, coords: np.ndarray, pixels: int, mpp: float, *, workers: int = 2, batch: int = 64
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Read the tiles at `coords` in batches: their numbers, and uint8 [B, pixels, pixels, 3].

    Neighbours share blocks of the file, which a process keeps for a while: so each of the workers,
    which are processes, reads one run of the rows, and the batches come from these runs in turn.
    Without workers this process reads. Closing the iterator ends the workers.

    Parameters
    ----------
    slide : to read
    coords : int [N, 2], top left corners, see `tile_grid`
    pixels, mpp : side of a tile in pixels and µm per pixel
    workers, batch : number of processes, and of tiles that come at once

    Raises
    ------
    ValueError : naming the slide when it is damaged, also where a worker read it

    """
    batches = [range(k, min(k + batch, len(coords))) for k in range(0, len(coords), batch)]
    workers = min(workers, len(batches)) if len(batches) > 1 else 0
    runs = np.array_split(np.arange(len(batches)), max(1, workers))
    # The loader deals batches to its workers in turn, and the first runs are the longer ones.
    turns = [run[k] for k in range(len(runs[0])) for run in runs if k < len(run)]
    loader = DataLoader(
        _Tiles(slide, coords, pixels, mpp),
        batch_sampler=[batches[turn] for turn in turns],
        num_workers=workers,
    )
    try:
        for numbers, tiles in loader:
            yield numbers.numpy(), tiles
    except ValueError as error:  # a worker's traceback stands before its message
        raise ValueError(str(error).strip().rpartition("ValueError: ")[2]) from error
    except RuntimeError as error:
        raise ChildProcessError(f"{slide.path}: reading broke off: {error}") from error
