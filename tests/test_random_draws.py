"""The random numbers of a tile: its own, uniform, whatever the batch or the order."""

import numpy as np
import pytest
import references
from scipy import stats

from lib.random_draws import tile_draws


def test_tile_draws_match_the_whole_number_version():
    numbers = np.array([0, 1, 7, 10**6, 3])
    for seed in (0, 1, 12345):
        draws = tile_draws(numbers, 9, seed, stream=4)
        expected = [
            [references.tile_draw(int(t), k, 9, seed, 4) for k in range(9)] for t in numbers
        ]
        assert draws.tolist() == expected, seed  # whole numbers: equal on every machine


def test_tile_draws_are_uniform_in_every_column():
    for seed in range(4):
        draws = tile_draws(np.arange(20_000), 9, seed, stream=seed)
        assert draws.min() >= 0 and draws.max() < 1 and draws.dtype == np.float64, seed
        assert draws.mean() == pytest.approx(1 / 2, abs=0.005), seed
        assert draws.var() == pytest.approx(1 / 12, abs=0.002), seed
        for column in draws.T:
            assert stats.kstest(column, "uniform").pvalue > 1e-4, seed
        off_diagonal = np.corrcoef(draws.T) - np.eye(9)
        assert np.abs(off_diagonal).max() < 0.04, seed


def test_tile_draws_do_not_depend_on_the_other_tiles_or_their_order():
    numbers = np.random.default_rng(0).permutation(500)
    whole = tile_draws(np.arange(500), 3, 1)
    assert np.array_equal(tile_draws(numbers, 3, 1), whole[numbers])
    assert np.array_equal(tile_draws(np.array([42]), 3, 1), whole[[42]])


def test_seeds_streams_and_tiles_have_numbers_of_their_own():
    drawn = [
        tile_draws(np.arange(200), 9, seed, stream)
        for seed in (0, 1, 2, 1000)
        for stream in (0, 1, 2, 29, 1_000_003)
    ]
    flat = np.concatenate([d.ravel() for d in drawn])
    assert len(np.unique(flat)) == len(flat)
    first = np.stack([d[:, 0] for d in drawn])
    assert np.abs(np.corrcoef(first) - np.eye(len(first))).max() < 0.35
