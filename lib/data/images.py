"""Image files of every common kind as square RGB tiles of 8 bits."""

from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "TIFF", "WEBP")  # of all others, EPS would start a program
MOST_PIXELS, MOST_BYTES = 80_000_000, 2**30
MOST_OBLONG = 20  # the longer side by the shorter
LARGE = 4_000_000  # pixels; images of more are decoded one after the other, for the memory
_one_large = Lock()
MPP = 0.05, 5.0  # µm per pixel of a microscope; the rest, as 72 per inch, is meant for printers


def open_image(file: Path) -> Image.Image:
    """An image as Pillow opens it: its size is known, its pixels are not yet read.

    Its content must be JPEG, PNG, TIFF or WebP, whatever its name. Raises OSError as opening does,
    and ValueError for what is no regular file (a pipe would never end), for another format, a
    damaged file, and more than `MOST_BYTES`, `MOST_PIXELS` or `MOST_OBLONG`.
    """
    if not file.is_file():
        raise ValueError("no regular file")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"too large: more than {MOST_BYTES >> 20} MiB")
    try:
        opened = Image.open(file, formats=DECODERS)
        tags = getattr(opened, "tag_v2", {})  # a TIFF is decoded by tiles of its own, of any size
        inner = int(tags.get(322, 1)) * int(tags.get(323, 1))
    except UnidentifiedImageError:
        raise ValueError(f"no whole image in {', '.join(DECODERS)}") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of a damaged file Pillow raises every type that there is
        raise ValueError(f"damaged or too large: {error!r}") from error
    wrong = ""
    if max(opened.width * opened.height, inner) > MOST_PIXELS:
        wrong = f"too large: more than {MOST_PIXELS // 10**6} million pixels"
    elif max(opened.size) > MOST_OBLONG * min(opened.size):
        wrong = f"too long: {opened.width} × {opened.height} pixels, of {MOST_OBLONG} to 1 at most"
    if wrong:
        opened.close()
        raise ValueError(wrong)
    return opened


def tagged_mpp(opened: Image.Image) -> float | None:
    """Return the µm per pixel that the resolution tag of a JPEG, PNG or TIFF says, or None."""
    per_inch = float(opened.info.get("dpi", (0,))[0] or 0)
    mpp = 25_400 / per_inch if per_inch > 0 else 0.0
    return mpp if MPP[0] <= mpp <= MPP[1] else None


def read_square(file: Path, size: int) -> tuple[np.ndarray, str]:
    """A tile, uint8 [size, size, 3], and what had to be converted ("" for 8-bit RGB).

    Shorter side resized to `size` (bicubic), centre crop. Transparent images are laid on white, the
    colour of the empty slide; grey is copied to three channels; of 16 bits the upper eight are
    taken; of several pages the first. How a camera was held (EXIF) is not looked at. Raises OSError
    or ValueError for a file that `open_image` refuses or that is not a whole image, and ValueError
    for pixels of more than 16 bits.
    """
    try:
        with open_image(file) as opened:
            large = opened.width * opened.height > LARGE
            with _one_large if large else nullcontext():
                opened.draft("RGB", (size, size))  # JPEG: decode near the wanted size
                image, notes = _as_rgb(opened)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # likewise
        raise ValueError(f"not a whole image: {error!r}") from error
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))), ", ".join(notes)


def _as_rgb(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    notes = ["the first of several pages"] if getattr(opened, "is_animated", False) else []
    is_16_bit = ";16" in f"{getattr(opened, 'tile', '')} {opened.mode}"
    if is_16_bit:
        notes.append("16 bits reduced to 8")
    if opened.mode[0] in "IF":
        if not is_16_bit:
            raise ValueError("pixels of more than 16 bits, or fractions; save it with 8 or 16 bits")
        values = np.asarray(opened)
        if values.min() < 0:
            raise ValueError("pixels below zero; save it with 8 or 16 bits without a sign")
        upper = Image.fromarray((values // 256).astype(np.uint8))  # Pillow would clip at 255
        return upper.convert("RGB"), [*notes, "grey"]
    if opened.mode == "RGB" and "transparency" not in opened.info:
        return opened.convert("RGB"), notes
    if opened.has_transparency_data:
        laid = opened.convert("RGBA")
        white = Image.new("RGBA", laid.size, "white")
        return Image.alpha_composite(white, laid).convert("RGB"), [*notes, "transparency on white"]
    kind = "grey" if opened.mode in ("1", "L") else f"{opened.mode} to RGB"
    return opened.convert("RGB"), [*notes, kind]
