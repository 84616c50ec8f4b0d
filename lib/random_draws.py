"""Random numbers that belong to a tile, whatever the batch or the order."""

import numpy as np

# Streams of draws, far enough apart for a number per view or step to be added. The views of a tile
# have those from 0 on.
TIES = 1_000_003
TRAINING_VIEWS = 2_000_003
AUDIT = 3_000_017
BAGS = 4_000_037
SLIDE_TILES = 5_000_011


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def tile_draws(tiles: np.ndarray, n: int, seed: int, stream: int | np.ndarray = 0) -> np.ndarray:
    """Uniform random numbers in [0, 1), float64 [..., n], fixed by seed, stream and tile.

    tiles: tile numbers [...]; stream: one, or several that broadcast against them. A tile's numbers
    depend neither on the other tiles nor on their order, so results do not change with batch size
    or row order. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a hash of a counter.
    """
    with np.errstate(over="ignore"):
        start = _mix(_mix(np.array([seed], np.uint64)) + np.asarray(stream, np.uint64)[..., None])
        first = np.asarray(tiles, np.uint64)[..., None] * np.uint64(n)
        counter = first + np.arange(n, dtype=np.uint64)
        bits = _mix(_mix(start + counter))
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
