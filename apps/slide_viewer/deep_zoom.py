"""Pictures of a slide for a viewer in a browser: a pyramid of JPEGs, values of tiles over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from lib.artefacts import atomic

TILE_SIZE, OVERLAP = 254, 1  # 256 with its borders, as OpenSlide's own viewer has it
READ_SIZE = 4096  # side of what is read of the slide at once, in pixels of its level
QUALITY = 80  # of the JPEGs


def write_deep_zoom(slide_path: Path, folder: Path, max_pixels: int = 4096) -> dict[str, Any]:
    """Write a slide as `<level>/<column>_<row>.jpeg`; returns what a viewer has to know of it.

    The slide is halved until its longer side is at most `max_pixels`; of that and of each half of
    it, down to a single JPEG, there are tiles of at most 256 pixels: for 4096 a few hundred.

    Returned: width, height of the picture in pixels; tile_size, overlap, format, min_level,
    max_level as of Deep Zoom; downsample, level-0 pixels per pixel; x, y, slide_width,
    slide_height: the part of the slide that was scanned and is shown, in level-0 pixels.
    The folder appears when it is complete. Raises ValueError naming a slide that cannot be read.
    """
    try:
        with openslide.OpenSlide(slide_path) as slide:
            picture, downsample = _picture(slide, max_pixels)
            properties = slide.properties
            x, y = (int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
            width, height = _generator(slide).level_dimensions[-1]
    except openslide.OpenSlideError as error:
        raise ValueError(f"{slide_path} cannot be read: {error}") from error
    min_level, max_level = _write_tiles(picture, folder)
    return {
        "width": picture.width,
        "height": picture.height,
        "tile_size": TILE_SIZE,
        "overlap": OVERLAP,
        "format": "jpeg",
        "min_level": min_level,
        "max_level": max_level,
        "downsample": downsample,
        "x": x,
        "y": y,
        "slide_width": width,
        "slide_height": height,
    }


def _generator(slide: openslide.AbstractSlide, side: int = READ_SIZE) -> DeepZoomGenerator:
    return DeepZoomGenerator(slide, side, overlap=0, limit_bounds=True)


def _picture(slide: openslide.AbstractSlide, max_pixels: int) -> tuple[Image.Image, int]:
    """The finest power of two of a slide that fits, and its downsample.

    Read piece by piece: the smaller levels are then made from it, for of a slide without a pyramid
    they would each read all of level 0 at once.
    """
    generator = _generator(slide)
    sizes = generator.level_dimensions
    level = max(k for k, size in enumerate(sizes) if max(size) <= max_pixels or k == 0)
    downsample = 2 ** (len(sizes) - 1 - level)
    at = slide.level_downsamples[slide.get_best_level_for_downsample(downsample)]
    side = max(1, int(READ_SIZE * at / downsample))
    generator = _generator(slide, side)
    picture = Image.new("RGB", sizes[level], "white")
    columns, rows = generator.level_tiles[level]
    for column in range(columns):
        for row in range(rows):
            piece = generator.get_tile(level, (column, row))
            picture.paste(piece, (column * side, row * side))
    return picture, downsample


def _write_tiles(picture: Image.Image, folder: Path) -> tuple[int, int]:
    """Deep Zoom's levels of a picture from the largest of a single tile up, first and last."""
    tiles = DeepZoomGenerator(openslide.ImageSlide(picture), TILE_SIZE, OVERLAP)
    min_level = max(k for k, count in enumerate(tiles.level_tiles) if count == (1, 1))
    with atomic(folder) as temporary:
        for level in range(min_level, tiles.level_count):
            (temporary / str(level)).mkdir(parents=True)
            columns, rows = tiles.level_tiles[level]
            for column in range(columns):
                for row in range(rows):
                    file = temporary / str(level) / f"{column}_{row}.jpeg"
                    tiles.get_tile(level, (column, row)).save(file, quality=QUALITY)
    return min_level, tiles.level_count - 1


def write_overlay(
    file: Path,
    coords: np.ndarray,
    side: float | tuple[float, float],
    values: np.ndarray,
    size: tuple[int, int],
    *,
    colour_map: Callable[[np.ndarray], np.ndarray],
    scale: float,
) -> dict[str, float]:
    """Write values of tiles as a PNG, transparent where there is no tile; returns where it lies.

    coords: [N, 2], top left of the tiles; side: width and height of a tile, or one for both;
    values: [N], in 0 ... 1, NaN for a tile without a value; size: of the slide; all in level-0
    pixels. colour_map: RGBA in 0 ... 1, [N, 4], from values, such as a colour map of matplotlib;
    scale: pixels of the PNG per level-0 pixel: a tile should have some, for its borders are
    rounded to them. Returned: x, y, width, height of the PNG on the slide, which it does not cover
    beyond its tiles. Raises ValueError when a tile begins outside of the slide or a value is not in
    0 ... 1.
    """
    coords, values = np.asarray(coords, float).reshape(-1, 2), np.asarray(values, float)
    if len(coords) and ((coords < 0).any() or (coords >= size).any()):
        raise ValueError(f"{file.name}: a tile begins outside of the slide of {size} pixels")
    known = np.isfinite(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError(f"{file.name}: values are in 0 ... 1")
    coords, values = coords[known], values[known]
    origin = coords.min(0) if len(coords) else np.zeros(2)
    begins = np.round((coords - origin) * scale).astype(int)
    ends = np.round((coords - origin + side) * scale).astype(int)
    columns, rows = np.maximum(ends.max(0, initial=1), 1).tolist()
    colours = np.round(255 * np.asarray(colour_map(values))).astype(np.uint8)
    image = np.zeros((rows, columns, 4), np.uint8)
    for (left, top), (right, bottom), colour in zip(begins, ends, colours, strict=True):
        image[top:bottom, left:right] = colour
    with atomic(file) as temporary:
        Image.fromarray(image).save(temporary, "PNG")
    x, y = origin.tolist()
    return {"x": x, "y": y, "width": columns / scale, "height": rows / scale}


def overlay_scale(side: float | tuple[float, float], size: tuple[int, int]) -> float:
    """Eight pixels per tile, or fewer where the PNG of a large slide would pass 4096."""
    shorter = min(side) if isinstance(side, tuple) else side
    return min(8 / shorter, 4096 / max(size))
