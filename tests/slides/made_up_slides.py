"""Small slides, written as pyramids, whose pixels are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lib import paths
from lib.slides.reading import open_slide, write_pyramid

GLASS = (243, 242, 244)
PINK, PURPLE = (215, 140, 185), (120, 70, 150)


def texture(width, height, seed=0):
    """Smooth random colours, uint8 [height, width, 3]."""
    small = np.random.default_rng(seed).integers(
        0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8
    )
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def textured_slide(folder, mpp=0.2513, width=1801, height=1403, **kwargs):
    """An open slide of three levels and its picture."""
    image = texture(width, height)
    write_pyramid(folder / "textured.tif", image, mpp, lossless=True, **kwargs)
    return open_slide(folder / "textured.tif"), image


def tissue_slide(file, draw=lambda pen: None, *, glass=GLASS, mpp=4.0, side=600):
    """An open slide of noisy glass on which `draw` draws with an `ImageDraw` in level-0 pixels."""
    image = Image.new("RGB", (side, side), glass)
    draw(ImageDraw.Draw(image))
    noise = np.random.default_rng(0).normal(0, 2, (side, side, 3))
    write_pyramid(file, np.clip(image + noise, 0, 255).astype(np.uint8), mpp)
    return open_slide(file)


def piece(pen, box, colour=PINK):
    """A piece of tissue with speckles of nuclei."""
    pen.ellipse(box, fill=colour)
    for x in range(int(box[0]) + 30, int(box[2]) - 30, 9):
        middle = (box[1] + box[3]) / 2
        pen.ellipse((x, middle, x + 3, middle + 3), fill=PURPLE)


def real_slide(name):
    for folder in paths.raw_folders():
        if (folder / "slides" / name).is_file():
            return folder / "slides" / name
    pytest.skip(f"{name} is not in DATA_ROOT")
