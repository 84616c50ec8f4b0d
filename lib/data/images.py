"""Image files of every common kind as square RGB tiles of 8 bits."""

from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


def read_square(file: Path, size: int) -> tuple[np.ndarray, str]:
    """A tile, uint8 [size, size, 3], and what had to be converted ("" for 8-bit RGB).

    Shorter side resized to `size` (bicubic), centre crop. Transparent images are laid on white, the
    colour of the empty slide; grey is copied to three channels; of 16 bits the upper eight are
    taken; of several pages the first. Raises OSError, SyntaxError or ValueError (as Pillow does)
    for a file that is not a whole image, and ValueError for pixels of more than 16 bits.
    """
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (size, size))  # JPEG: decode near the wanted size
            image, notes = _as_rgb(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large for a tile: {error}") from error
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))), ", ".join(notes)


def _as_rgb(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    notes = ["the first of several pages"] if getattr(opened, "n_frames", 1) > 1 else []
    is_16_bit = ";16" in f"{getattr(opened, 'tile', '')} {opened.mode}"
    if is_16_bit:
        notes.append("16 bits reduced to 8")
    if opened.mode[0] in "IF":
        if not is_16_bit:
            raise ValueError("pixels of more than 16 bits, or fractions; save it with 8 or 16 bits")
        return _reduced(opened).convert("RGB"), [*notes, "grey"]
    if opened.mode == "RGB" and "transparency" not in opened.info:
        return opened.convert("RGB"), notes
    if opened.has_transparency_data:
        laid = opened.convert("RGBA")
        white = Image.new("RGBA", laid.size, "white")
        return Image.alpha_composite(white, laid).convert("RGB"), [*notes, "transparency on white"]
    kind = "grey" if opened.mode in ("1", "L") else f"{opened.mode} to RGB"
    return opened.convert("RGB"), [*notes, kind]


def _reduced(opened: Image.Image) -> Image.Image:
    """8-bit grey from 16-bit grey, which Pillow would clip at 255."""
    values = np.asarray(opened)
    if values.min() < 0:
        raise ValueError("pixels below zero; save it with 8 or 16 bits without a sign")
    return Image.fromarray((values // 256).astype(np.uint8))
