"""Tiles of a slide: where they lie, and reading them with several processes."""

import math
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import numpy as np

from lib.slides.reading import Slide
from lib.workers import worker_pool

AHEAD = 2  # batches in flight per worker
MOST_TILES = 20_000_000  # of a slide, in tissue or not

_slide: Slide  # of a worker, as is the next
_places: np.ndarray


def tile_grid(
    slide: Slide,
    mask: np.ndarray,
    mask_mpp: float,
    pixels: int,
    mpp: float,
    min_tissue: float = 0.5,
) -> np.ndarray:
    """Top left corners of the tiles in tissue, int64 [N, 2]: x and y in level-0 pixels.

    Tiles lie side by side in the slide's bounds, row by row, and have a side of exactly
    pixels · mpp µm: the k-th begins at the rounded k-fold side, so that errors do not add up, and
    one that would end outside (by more than rounding) is left out. mask: bool, of
    `slide.shape_at(mask_mpp)`; min_tissue: share of a tile's area in it. Raises ValueError for a
    mask of another shape, and naming the slide for more than `MOST_TILES`.
    """
    if mask.shape != slide.shape_at(mask_mpp):
        raise ValueError(
            f"{slide.name}: a mask at {mask_mpp} µm/px has the shape {slide.shape_at(mask_mpp)}, "
            f"not {mask.shape}"
        )
    left, top, width, height = slide.bounds
    side_x, side_y = slide.side(pixels, mpp)
    if not (width / side_x) * (height / side_y) <= MOST_TILES:
        raise ValueError(
            f"{slide.name}: more than {MOST_TILES} tiles of {pixels} px at {mpp} µm/px"
        )
    x, y = left + _starts(width, side_x), top + _starts(height, side_y)
    if not len(x) or not len(y):
        return np.empty((0, 2), np.int64)
    to_mask = slide.mpp[0] / mask_mpp, slide.mpp[1] / mask_mpp
    edges_x = np.stack([x, x + side_x]) * to_mask[0]
    edges_y = np.stack([y, y + side_y]) * to_mask[1]
    area = side_x * to_mask[0] * side_y * to_mask[1]
    share = _sums(mask, edges_y, edges_x) / area
    rows, columns = np.nonzero(share >= min_tissue - 1e-9)
    return np.stack([x[columns], y[rows]], axis=1)


def _starts(length: int, side: float) -> np.ndarray:
    """Where tiles of a side begin within a length, int64."""
    count = int((length + 1e-6) // side)
    return np.rint(np.arange(count) * side).astype(np.int64)


def _sums(mask: np.ndarray, edges_y: np.ndarray, edges_x: np.ndarray) -> np.ndarray:
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


def read_tiles(
    slide: Slide,
    coords: np.ndarray,
    pixels: int,
    mpp: float,
    workers: int = 2,
    batch: int = 64,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The tiles at `coords`: slices of the rows, and uint8 [B, pixels, pixels, 3].

    coords: int [N, 2], see `tile_grid`. Each of the workers is a process that opens the slide
    itself, with at most `AHEAD` batches under way; without workers this process reads. Neighbours
    share blocks of the file, which a process keeps for a while: so each worker reads one run of the
    rows, and the slices come from these runs in turn. Closing the iterator ends the workers. Raises
    ValueError as `Slide.read` does.
    """
    parts = [slice(k, min(k + batch, len(coords))) for k in range(0, len(coords), batch)]
    if workers and len(parts) > 1:
        yield from _in_workers(slide, coords, pixels, mpp, min(workers, len(parts)), parts)
        return
    for part in parts:
        tiles = np.empty((part.stop - part.start, pixels, pixels, 3), np.uint8)
        yield part, _read(slide, coords[part], mpp, tiles)


def _in_workers(
    slide: Slide, coords: np.ndarray, pixels: int, mpp: float, workers: int, parts: list[slice]
) -> Iterator[tuple[slice, np.ndarray]]:
    """`read_tiles` with processes that leave the pixels in shared memory: pipes are slow."""
    places = AHEAD * workers
    shape = (places, parts[0].stop, pixels, pixels, 3)
    runs = np.array_split(np.arange(len(parts)), workers)
    turns = [(w, run[k]) for k in range(len(runs[0])) for w, run in enumerate(runs) if k < len(run)]
    waiting: deque[tuple[int, slice, Future[None]]] = deque()
    shared = multiprocessing.get_context("spawn").RawArray("B", math.prod(shape))
    tiles = np.frombuffer(shared, np.uint8).reshape(shape)
    with ExitStack() as pools:
        started = [worker_pool(1, _start, (slide, shared, shape)) for _ in runs]
        for pool in started:
            pools.callback(pool.shutdown, cancel_futures=True)

        def next_done() -> tuple[slice, np.ndarray]:
            place, part, done = waiting.popleft()
            done.result()
            return part, np.array(tiles[place, : part.stop - part.start])

        for turn, (worker, number) in enumerate(turns):
            if len(waiting) == places:
                yield next_done()
            part, place = parts[number], turn % places
            work = started[worker].submit(_read_in_worker, coords[part], mpp, place)
            waiting.append((place, part, work))
        while waiting:
            yield next_done()


def _read(slide: Slide, coords: np.ndarray, mpp: float, tiles: np.ndarray) -> np.ndarray:
    """Fill the tiles, uint8 [B, pixels, pixels, 3]."""
    for tile, (x, y) in zip(tiles, coords.tolist(), strict=True):
        tile[:] = slide.read(x, y, len(tile), mpp)
    return tiles


def _read_in_worker(coords: np.ndarray, mpp: float, place: int) -> None:
    _read(_slide, coords, mpp, _places[place, : len(coords)])


def _start(slide: Slide, shared: Any, shape: tuple[int, ...]) -> None:
    global _slide, _places
    _slide, _places = slide, np.frombuffer(shared, np.uint8).reshape(shape)
