"""Rows of many tiles: read when they are looked at, in blocks, of length one, a draw of some."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLED = 10_000  # of more tiles, what is not linear in their number sees so many, by chance
BLOCK = 8192  # rows that are in memory at a time


@dataclass(frozen=True)
class Rows:
    """An array [N, ...] whose rows are read when it is indexed, and no earlier.

    read: tile numbers → their rows; tiles: [N]. `np.asarray` reads them all.
    """

    read: Callable[[np.ndarray], np.ndarray]
    tiles: np.ndarray

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.read(self.tiles[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self[:1].shape[1:]


def blocks(n: int, size: int = BLOCK) -> list[slice]:
    """Slices of n rows, of `size` each but the last."""
    return [slice(start, start + size) for start in range(0, n, size)]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, E] of length one, in their own precision; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def draw(n: int, most: int, seed: int) -> np.ndarray:
    """Positions of at most `most` of n rows, drawn by chance, sorted; all where there are fewer."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, n]).choice(n, most, replace=False))
