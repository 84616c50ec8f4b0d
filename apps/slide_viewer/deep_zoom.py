"""Pictures of a slide for a viewer in a browser: a pyramid of JPEGs, values of tiles over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from lib.artefacts import atomic
from lib.slides.reading import Slide

TILE_SIZE, OVERLAP = 254, 1  # 256 with its borders, as OpenSlide's own viewer has it
READ_SIZE = 4096  # side of what is read of the slide at once, in pixels of its level
QUALITY = 80  # of the JPEGs


def write_deep_zoom(slide: Slide, folder: Path, max_pixels: int = 4096) -> dict[str, Any]:
    """Write a slide as `<level>/<column>_<row>.jpeg`; returns what a viewer has to know of it.

    The slide is halved until its longer side is at most `max_pixels`; of that and of each half of
    it, down to a single JPEG, there are tiles of at most 256 pixels: for 4096 a few hundred.

    Returned: width, height of the picture in pixels; tile_size, overlap, format, min_level,
    max_level as of Deep Zoom; downsample, level-0 pixels per pixel; x, y, slide_width,
    slide_height: the part of the slide that was scanned and is shown, in level-0 pixels.
    The folder appears when it is complete. Raises ValueError naming a slide that cannot be read.
    """
    try:
        picture, downsample = _picture(slide.opened, max_pixels)
    except openslide.OpenSlideError as error:
        slide.close()
        raise ValueError(f"{slide.path} cannot be read: {error}") from error
    tiles = DeepZoomGenerator(openslide.ImageSlide(picture), TILE_SIZE, OVERLAP)
    min_level = max(k for k, count in enumerate(tiles.level_tiles) if count == (1, 1))
    with atomic(folder) as temporary:
        for level in range(min_level, tiles.level_count):
            (temporary / str(level)).mkdir(parents=True)
            for column, row in np.ndindex(*tiles.level_tiles[level]):
                file = temporary / str(level) / f"{column}_{row}.jpeg"
                tiles.get_tile(level, (column, row)).save(file, quality=QUALITY)
    x, y, width, height = slide.bounds
    sizes = {"width": picture.width, "height": picture.height, "downsample": downsample}
    form = {"tile_size": TILE_SIZE, "overlap": OVERLAP, "format": "jpeg"}
    levels = {"min_level": min_level, "max_level": tiles.level_count - 1}
    shown = {"x": x, "y": y, "slide_width": width, "slide_height": height}
    return sizes | form | levels | shown


def _picture(slide: openslide.AbstractSlide, max_pixels: int) -> tuple[Image.Image, int]:
    """The finest power of two of a slide that fits, and its downsample.

    Read piece by piece: the smaller levels are then made from it, for of a slide without a pyramid
    they would each read all of level 0 at once.
    """
    sizes = DeepZoomGenerator(slide, READ_SIZE, overlap=0, limit_bounds=True).level_dimensions
    level = max(k for k, size in enumerate(sizes) if max(size) <= max_pixels or k == 0)
    downsample = 2 ** (len(sizes) - 1 - level)
    read_at = slide.level_downsamples[slide.get_best_level_for_downsample(downsample)]
    side = max(1, int(READ_SIZE * read_at / downsample))
    generator = DeepZoomGenerator(slide, side, overlap=0, limit_bounds=True)
    picture = Image.new("RGB", sizes[level], "white")
    for column, row in np.ndindex(*generator.level_tiles[level]):
        picture.paste(generator.get_tile(level, (column, row)), (column * side, row * side))
    return picture, downsample


def write_overlay(
    file: Path,
    coords: np.ndarray,
    side: float,
    values: np.ndarray,
    *,
    size: tuple[int, int],
    colour_map: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Write values of tiles as a PNG, transparent where there is no tile.

    A tile has eight pixels, or fewer where the PNG of a large slide would pass 4096.

    Parameters
    ----------
    file : of the PNG
    coords : [N, 2], top left of the tiles in level-0 pixels
    side : of a tile, likewise
    values : [N], in 0 … 1, NaN for a tile without a value
    size : of the slide, likewise
    colour_map : RGBA in 0 … 1, [N, 4], from values, such as a colour map of matplotlib

    Returns
    -------
    x, y, width, height of the PNG on the slide, which it does not cover beyond its tiles

    """
    scale = min(8 / side, 4096 / max(size))
    known = np.isfinite(values)
    coords, values = coords[known].astype(float), values[known]
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
