"""Small slides, written as pyramids, whose pixels are known."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.prepare.pyramids import write_pyramid
from lib import paths
from lib.slides.reading import open_slide

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


def write_dicom(file, series, tiles):
    """A level of `tiles` × `tiles` pink tiles of 256 px, of a slide of 4096 µm: least that is read.

    One of 4 tiles a side is level 0.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), PINK).save(buffer, "JPEG")
    frame = buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2)
    count, spacing = tiles * tiles, str(4.096 / (256 * tiles))

    def element(group, number, kind, value):
        if isinstance(value, int):
            value = struct.pack("<L" if kind == "UL" else "<H", value)
        if isinstance(value, str):
            value = value.encode()
        value += (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
        tag = struct.pack("<HH2s", group, number, kind.encode())
        long = kind in ("OB", "SQ")
        return tag + struct.pack("<HL" if long else "<H", *([0] * long), len(value)) + value

    def item(value, number=0xE000):
        return struct.pack("<HHL", 0xFFFE, number, len(value)) + value

    storage, uid = "1.2.840.10008.5.1.4.1.1.77.1.6", f"{series}.{tiles}"
    meta = element(2, 0x02, "UI", storage) + element(2, 0x03, "UI", uid)
    meta += element(2, 0x10, "UI", "1.2.840.10008.1.2.4.50")
    kind = (
        "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if tiles == 4 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    )
    spaced = item(element(0x28, 0x30, "DS", f"{spacing}\\{spacing}"))
    measures = item(element(0x28, 0x9110, "SQ", spaced))
    frames = item(b"") + item(frame) * count + item(b"", 0xE0DD)
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + frames
    elements = [
        (0x08, 0x08, "CS", kind),
        (0x08, 0x16, "UI", storage),
        (0x08, 0x18, "UI", uid),
        (0x08, 0x60, "CS", "SM"),
        (0x20, 0x0D, "UI", "1.9"),
        (0x20, 0x0E, "UI", series),
        (0x20, 0x52, "UI", "1.8"),
        (0x20, 0x9311, "CS", "TILED_FULL"),
        (0x28, 0x02, "US", 3),
        (0x28, 0x04, "CS", "YBR_FULL_422"),
        (0x28, 0x06, "US", 0),
        (0x28, 0x08, "IS", str(count)),
        (0x28, 0x10, "US", 256),
        (0x28, 0x11, "US", 256),
        (0x28, 0x100, "US", 8),
        (0x28, 0x101, "US", 8),
        (0x28, 0x102, "US", 7),
        (0x28, 0x103, "US", 0),
        (0x48, 0x06, "UL", 256 * tiles),
        (0x48, 0x07, "UL", 256 * tiles),
        (0x5200, 0x9229, "SQ", measures),
    ]
    content = b"".join(element(*e) for e in elements) + pixels
    length = element(2, 0, "UL", len(meta))
    file.write_bytes(b"\0" * 128 + b"DICM" + length + meta + content)
