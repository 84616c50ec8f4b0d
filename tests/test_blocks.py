"""Rows that are read late are those of the array, and blocks are all of them."""

import numpy as np

from lib.blocks import Rows, blocks, draw


def test_rows_are_read_when_they_are_indexed_and_are_those_of_the_array():
    array, asked = np.arange(60.0).reshape(20, 3), []

    def read(tiles):
        asked.append(len(tiles))
        return array[tiles]

    tiles = np.array([7, 3, 3, 19, 0])
    rows, plain = Rows(read, tiles), array[tiles]
    assert len(rows) == 5 and not asked
    assert rows.shape == plain.shape and asked == [1]
    for some in (slice(1, 4), slice(None), np.array([4, 0]), plain[:, 0] > 5):
        assert np.array_equal(rows[some], plain[some])
    assert np.array_equal(np.asarray(rows, np.float32), plain)
    assert np.array_equal(Rows(rows.__getitem__, np.array([2, 3]))[:], plain[2:4])


def test_blocks_hold_every_row_once():
    for n in (0, 1, 7, 8, 9):
        seen = [i for block in blocks(n, 4) for i in range(n)[block]]
        assert seen == list(range(n)), n


def test_a_draw_is_of_all_rows_where_they_are_few_and_else_of_different_ones():
    assert draw(5, 5, 0).tolist() == [0, 1, 2, 3, 4] and not len(draw(0, 5, 0))
    drawn = draw(1000, 50, 3)
    assert len(drawn) == 50 and (np.diff(drawn) > 0).all() and drawn.max() < 1000
    assert drawn.tolist() == draw(1000, 50, 3).tolist() != draw(1000, 50, 4).tolist()
