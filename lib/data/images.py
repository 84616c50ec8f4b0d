"""Image files of every common kind as square RGB tiles of 8 bits."""

from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "TIFF", "WEBP")  # of all others, EPS would start a program
MOST_PIXELS, MOST_BYTES = 80_000_000, 2**30
MOST_OBLONG = 20  # the longer side by the shorter
LEAST = 8  # pixels of a side
BITS, PLANES, SIGN, TURN = 258, 284, 339, 274  # tags of TIFF; the last of EXIF too
DARK = 64  # what 14 bits reach of 256 when they are written as 16
LARGE = 4_000_000  # pixels; images of more are decoded one after the other, for the memory
_one_large = Lock()
MPP = 0.05, 5.0  # µm per pixel of a microscope; the rest, as 72 per inch, is meant for printers


def open_image(file: Path) -> Image.Image:
    """An image as Pillow opens it: its size is known, its pixels are not yet read.

    Its content must be JPEG, PNG, TIFF or WebP, whatever its name. Raises OSError as opening does,
    and ValueError for what is no regular file (a pipe would never end), for another format, a
    damaged file, more than `MOST_BYTES`, `MOST_PIXELS` or `MOST_OBLONG`, and less than `LEAST`.
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
    elif min(opened.size) < LEAST:
        wrong = f"too small: {opened.width} × {opened.height} pixels, at least {LEAST} a side"
    if wrong:
        opened.close()
        raise ValueError(wrong)
    return opened


def tagged_mpp(opened: Image.Image) -> float | None:
    """Return the µm per pixel that the resolution tag of a JPEG, PNG or TIFF says, or None."""
    per_inch = float(opened.info.get("dpi", (0,))[0] or 0)
    mpp = 25_400 / per_inch if per_inch > 0 else 0.0
    return mpp if MPP[0] <= mpp <= MPP[1] else None


def conversions(opened: Image.Image) -> list[str]:
    """What has to be converted of an image to make a tile of it, in words; seen without its pixels.

    Raises ValueError for pixels that would be misread: of more than 16 bits, of fractions, of 16
    bits with a sign or in planes, and pages of grey, one for each colour.
    """
    several, is_16_bit = getattr(opened, "is_animated", False), _is_16_bit(opened)
    grey = opened.mode in ("1", "L") or opened.mode[0] in "IF"
    if opened.mode[0] in "IF" and not is_16_bit:
        raise ValueError("pixels of more than 16 bits, or fractions; save it with 8 or 16 bits")
    if _tag(opened, SIGN, 1) > 1:
        raise ValueError("pixels with a sign, or fractions; save it with 8 bits")
    if is_16_bit and _tag(opened, PLANES, 1) == 2:
        raise ValueError("16 bits, in planes of one colour; save it with 8 bits")
    if several and grey and opened.format == "TIFF":
        raise ValueError(
            "several pages of grey, perhaps one for each colour; save it as one of RGB"
        )
    notes = ["the first of several pages"] if several else []
    notes += ["16 bits reduced to 8"] if is_16_bit else []
    if opened.format != "PNG" or "exif" in opened.info:  # else Pillow decodes a PNG to look for it
        notes += ["turned as its camera says"] if opened.getexif().get(TURN, 1) != 1 else []
    profile = opened.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile.replace(b"\0", b""):
        notes.append("its colour profile is not applied")
    if max(opened.size) > 2 * min(opened.size):
        notes.append("the middle of an oblong")
    if opened.mode == "RGB" and "transparency" not in opened.info:
        return notes
    if opened.has_transparency_data:
        return [*notes, "transparency on white"]
    return [*notes, "grey" if grey else f"{opened.mode} to RGB"]


def read_square(file: Path, size: int) -> tuple[np.ndarray, str]:
    """A tile, uint8 [size, size, 3], and what had to be converted ("" for 8-bit RGB).

    Shorter side resized to `size` (bicubic), centre crop. Transparent images are laid on white, the
    colour of the empty slide; grey is copied to three channels; of 16 bits the upper eight are
    taken; of several pages the first; it is turned as its camera was held (EXIF). Raises OSError or
    ValueError for a file that `open_image` or `conversions` refuses or that is not a whole image,
    and ValueError for 16 bits of which fewer are used, which would be black.
    """
    try:
        with open_image(file) as opened:
            large = opened.width * opened.height > LARGE
            with _one_large if large else nullcontext():
                notes = conversions(opened)
                opened.draft("RGB", (size, size))  # JPEG: decode near the wanted size
                image = _as_rgb(opened)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # likewise
        raise ValueError(f"not a whole image: {error!r}") from error
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))), ", ".join(notes)


def _is_16_bit(opened: Image.Image) -> bool:
    return ";16" in f"{getattr(opened, 'tile', '')} {opened.mode}" or _tag(opened, BITS, 8) == 16


def _tag(opened: Image.Image, number: int, without: int) -> int:
    """The largest value of a tag of a TIFF."""
    values = getattr(opened, "tag_v2", {}).get(number, without)
    try:
        return max(map(int, values if isinstance(values, tuple) else (values,)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"damaged: its tag {number} is {values!r:.40}") from error


def _as_rgb(opened: Image.Image) -> Image.Image:
    is_16_bit = _is_16_bit(opened)
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode[0] == "I":
        upper = np.asarray(image) // 256  # Pillow would clip at 255
        image = Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        laid = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", laid.size, "white"), laid).convert("RGB")
    else:
        image = image.convert("RGB")
    if is_16_bit and max(high for _, high in image.getextrema()) < DARK:  # type: ignore[misc]
        raise ValueError("16 bits of which fewer bits are used, by 12 perhaps; save it with 8 bits")
    return image
