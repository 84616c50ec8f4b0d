"""Benchmarks of reading slides, not tests: python tests/bench_slides.py reading, size or number.

reading: tiles per second by one process and by two, once they have started, beside OpenSlide's own
reads of the same regions. size: peak memory of embedding a slide of 10,000 and of 100,000 pixels a
side, with the same tissue. number: peak memory of 1 and of 50 slides in one process.
"""

import itertools
import multiprocessing
import re
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pandas as pd
import tifffile
from small_models import write_model

from lib.slides.cohort import Cohort, embed_slides
from lib.slides.grid import read_tiles, tile_grid
from lib.slides.reading import open_slide
from lib.slides.tissue import TISSUE_MPP, tissue_mask
from lib.vlm.loading import load_vlm

MPP, TILE = 0.25, 256
VIT = {"image_size": 224, "layers": 1, "width": 48, "head_width": 16, "patch_size": 16}


def tissue(side: int) -> np.ndarray:
    """Pink noise with dark specks, uint8 [side, side, 3]."""
    rng = np.random.default_rng(0)
    picture = rng.integers((185, 110, 155), (225, 150, 195), (1024, 1024, 3), dtype=np.uint8)
    picture[rng.random((1024, 1024)) < 0.1] = (110, 60, 140)
    return np.tile(picture, (side // 1024, side // 1024, 1))


def write_large(file: Path, side: int, island: int) -> None:
    """A square pyramid of glass with one square of tissue in the middle, written tile by tile."""
    picture = tissue(island)
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        for level in itertools.count():
            now, own = side >> level, picture[:: 1 << level, :: 1 << level]
            first = (now - len(own)) // 2
            blank = np.full((TILE, TILE, 3), 243, np.uint8)
            glass = imagecodecs.jpeg8_encode(blank, level=90)

            def tiles(now=now, own=own, first=first, blank=blank, glass=glass):
                for y, x in itertools.product(range(0, now, TILE), repeat=2):
                    inside = y + TILE > first < x + TILE  # the island begins before they end
                    part = own[max(0, y - first) :, max(0, x - first) :]
                    if not inside or not part.size:
                        yield glass
                        continue
                    top, left = max(0, first - y), max(0, first - x)
                    part = part[: TILE - top, : TILE - left]
                    tile = blank.copy()
                    tile[top : top + part.shape[0], left : left + part.shape[1]] = part
                    yield imagecodecs.jpeg8_encode(tile, level=90)

            scale = 1e4 / 2**level / MPP
            tiff.write(
                tiles(),
                shape=(now, now, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                metadata=None,
                software=False,
                subfiletype=int(level > 0),
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
            )
            if now <= 512:
                break


def embed(folder: Path, names: list[str], model: Path, out) -> None:
    """Embed slides in this process and report its peak memory in MiB."""
    vlm = load_vlm(f"local-dir:{model}", seed=0)
    table = pd.DataFrame({"name": names, "mpp": np.nan, "tissue": ""})
    table["path"] = table.name + ".tif"
    report = embed_slides(vlm, Cohort(folder, table, folder / "out", vlm.image_size, 0.5))
    assert (report.error == "").all(), report.error.tolist()
    status = Path("/proc/self/status").read_text()
    out.put((int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024, int(report.tiles.sum())))


def peak(folder: Path, names: list[str], model: Path) -> tuple[float, int]:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=embed, args=(folder, names, model, found))
    process.start()
    result = found.get()
    process.join()
    return result


def size(folder: Path, model: Path) -> None:
    for side in (10_000, 100_000):
        write_large(folder / f"side{side}.tif", side, 8192)
        memory, tiles = peak(folder, [f"side{side}"], model)
        print(f"{side:,} px a side: {tiles} tiles, {memory:,.0f} MiB at most", flush=True)


def number(folder: Path, model: Path) -> None:
    for n in range(50):
        write_large(folder / f"n{n}.tif", 6000, 3072)
    for n in (1, 50):
        memory, tiles = peak(folder, [f"n{k}" for k in range(50 - n, 50)], model)
        print(f"{n} slides: {tiles} tiles, {memory:,.0f} MiB at most", flush=True)


def reading(folder: Path, model: Path) -> None:
    write_large(folder / "slide.tif", 16_384, 12_288)
    with open_slide(folder / "slide.tif") as slide:
        mask = tissue_mask(slide)
        for mpp in (MPP, 0.5, 0.2653 * 2):
            coords = tile_grid(slide, mask, TISSUE_MPP, 224, mpp=mpp)[:2800]
            rates = {"bare": bare(folder / "slide.tif", coords, mpp)}
            for workers in (1, 2):
                batches = read_tiles(slide, coords, 224, mpp, workers=workers)
                for _ in range(2 * workers + 1):  # until all have started, and what waits is read
                    next(batches)
                started, rest = time.perf_counter(), 0
                for _, tiles in batches:
                    rest += len(tiles)
                    ended = time.perf_counter()  # before the workers are ended
                rates[f"{workers} workers"] = rest / (ended - started)
            print(f"{mpp} µm/px:", {name: round(rate) for name, rate in rates.items()}, flush=True)


def bare(file: Path, coords: np.ndarray, mpp: float) -> float:
    """Tiles per second of OpenSlide alone: the same regions, next finer level, one process."""
    slide = openslide.OpenSlide(str(file))
    level = slide.get_best_level_for_downsample(mpp / MPP + 1e-6)
    pixels = round(224 * mpp / MPP / slide.level_downsamples[level])
    started = time.perf_counter()
    for x, y in coords:
        np.asarray(slide.read_region((int(x), int(y)), level, (pixels, pixels)).convert("RGB"))
    return len(coords) / (time.perf_counter() - started)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        write_model(model, VIT)
        {"reading": reading, "size": size, "number": number}[sys.argv[1]](Path(scratch), model)
