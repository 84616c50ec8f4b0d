"""Tiles of a slide: where they are, and the same bytes however they are read."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cases import case
from processes import alive, wait_for
from slides.made_up_slides import textured_slide

from lib import paths
from lib.slides.grid import read_tiles, tile_grid

MASK_MPP = 8.0


@pytest.fixture
def slide(tmp_path):
    return textured_slide(tmp_path)[0]


def grid(slide, pixels, mpp, mask=None, min_tissue=0.0):
    mask = np.ones(slide.shape_at(MASK_MPP), bool) if mask is None else mask
    return tile_grid(slide, mask, MASK_MPP, pixels, mpp=mpp, min_tissue=min_tissue)


def test_tiles_lie_side_by_side_row_by_row(slide):
    coords, side = grid(slide, 64, 0.5026), 64 * 0.5026 / 0.2513
    columns, rows = int(1801 // side), int(1403 // side)
    expected = [[round(c * side), round(r * side)] for r in range(rows) for c in range(columns)]
    assert coords.dtype == np.int64 and coords.tolist() == expected


def test_errors_of_rounding_do_not_add_up(slide):
    wide = replace(slide, size=(100_000, 2_000), bounds=(0, 0, 100_000, 2_000))
    side = 224 * 0.2653 / 0.2513
    x = np.unique(grid(wide, 224, 0.2653)[:, 0])
    assert len(x) == int(100_000 // side) and x[-1] + side <= 100_000.5
    assert abs(x - np.arange(len(x)) * side).max() <= 0.5 + 1e-9


def test_tiles_stay_in_the_bounds_and_are_square_where_pixels_are_not(slide):
    bounded = replace(slide, bounds=(333, 222, 1000, 800))
    coords = grid(bounded, 50, 0.2513)
    assert coords.min(0).tolist() == [333, 222] and len(coords) == 20 * 16
    assert (coords.max(0) + 50 <= (1333, 1022)).all()
    coords = grid(replace(slide, mpp=(0.25, 0.5)), 100, 0.5)
    assert coords[:, 0].tolist()[:3] == [0, 200, 400] and np.unique(coords[:, 1])[1] == 100


def test_the_share_of_tissue_is_that_of_the_area(slide):
    for seed in range(3):
        mask = np.random.default_rng(seed).random(slide.shape_at(MASK_MPP)) < 0.5
        everything, side = grid(slide, 40, 0.7, mask), 40 * 0.7 / MASK_MPP
        share = []
        for x, y in everything * 0.2513 / MASK_MPP:
            in_x, in_y = (
                [max(0, min(k + 1, start + side) - max(k, start)) for k in range(length)]
                for start, length in zip((x, y), mask.shape[::-1], strict=True)
            )
            share.append(in_y @ mask @ in_x / side**2)
        for least in (0.3, 0.5, 0.6):
            kept = grid(slide, 40, 0.7, mask, least)
            with case(seed, least):
                assert kept.tolist() == everything[np.array(share) >= least].tolist()
                assert 0 < len(kept) < len(everything)


def test_without_tissue_or_room_there_is_no_tile_and_what_cannot_be_is_refused(slide):
    assert grid(slide, 64, 0.5, np.zeros(slide.shape_at(8.0), bool), 0.5).shape == (0, 2)
    assert grid(slide, 5000, 0.5).shape == (0, 2)
    for mpp, message in ((1e-6, "textured: more than"), (0, "cannot read at"), (np.nan, "cannot")):
        with case(mpp), pytest.raises(ValueError, match=message):
            grid(slide, 16, mpp)
    with pytest.raises(ValueError, match=r"textured: a mask at 8\.0 µm/px has the shape"):
        grid(slide, 64, 0.5, np.ones((9, 9), bool))


# --- reading -------------------------------------------------------------------------------------


def test_tiles_come_in_order_as_the_slide_reads_them(slide):
    coords = grid(slide, 32, 0.6)[:21]
    read = list(read_tiles(slide, coords, 32, 0.6, workers=0, batch=8))
    assert [n for numbers, _ in read for n in numbers] == [*range(21)] and len(read) == 3
    for numbers, tiles in read:
        expected = [slide.read(x, y, 32, 0.6) for x, y in coords[numbers].tolist()]
        assert np.array_equal(tiles.numpy(), expected)
    assert not list(read_tiles(slide, coords[:0], 32, 0.6))


@pytest.mark.slow
def test_workers_read_runs_of_the_rows_in_turn_give_the_same_bytes_and_end(slide):
    coords = grid(slide, 32, 0.6)
    alone, shared = (
        {n[0]: tiles for n, tiles in read_tiles(slide, coords, 32, 0.6, workers=w, batch=8)}
        for w in (0, 2)
    )
    starts = [*shared]
    assert len(starts) == len(alone) > 8
    assert sorted(starts[::2] + starts[1::2]) == starts[::2] + starts[1::2], "two runs, in turn"
    assert all(np.array_equal(shared[first], tiles) for first, tiles in alone.items())
    reading = read_tiles(slide, np.zeros((1000, 2), np.int64), 32, 0.6, workers=2, batch=8)
    next(reading)
    assert len(multiprocessing.active_children()) == 2
    reading.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_slide_that_cannot_be_read_is_refused_by_name_from_a_worker(slide, monkeypatch):
    coords = np.zeros((20, 2), np.int64)
    slide.path.write_bytes(slide.path.read_bytes()[:2000])
    for workers in (0, 2):
        with pytest.raises(ValueError, match=r"^[^\n]*textured\.tif is damaged[^\n]*$"):
            list(read_tiles(slide, coords, 32, 0.6, workers=workers, batch=8))
    monkeypatch.setattr(type(slide), "read", lambda *_: os._exit(1))
    with pytest.raises(ChildProcessError, match=r"textured\.tif: reading broke off"):
        list(read_tiles(slide, coords, 32, 0.6, workers=2, batch=8))


KILLED = """
import multiprocessing, sys, time
import numpy as np
from lib.slides.grid import read_tiles
from lib.slides.reading import open_slide

if __name__ == "__main__":
    coords = np.zeros((1000, 2), np.int64)
    reading = read_tiles(open_slide(sys.argv[1]), coords, 32, 0.6, workers=2, batch=8)
    next(reading)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(slide, tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, tmp_path / "script.py", slide.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        workers = [int(number) for number in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    # They look after their parent every few seconds.
    assert wait_for(lambda: not any(map(alive, workers)), 60), "a worker is still there"
