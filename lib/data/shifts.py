"""Named shifts of a tile: the same tissue as another stain, focus or file would show it.

A name is a direction and a strength. `haematoxylin` and `eosin` with a sign: the amount of that
stain is multiplied by 2 to that power, "haematoxylin-1.0" halves it, "eosin+1.0" doubles it.
`stain` with a sign: `staining.restain` by that number, so that "stain+1.0" leads away from the
other laboratory, from which the stand-in of `lc25k` has learnt, and "stain-1.0" to it. `blur`: the
standard deviation of a Gaussian, in pixels of the tile. `jpeg`: the quality, 1 to 95.
"""

import io
import re

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from lib.data import staining

STAINS = ("haematoxylin", "eosin", "stain")
DIRECTIONS = (*(stain + sign for stain in STAINS for sign in "-+"), "blur", "jpeg")


def parse(name: str) -> tuple[str, float]:
    """Direction (of `DIRECTIONS`) and strength (above 0); ValueError naming what is no shift."""
    found = re.fullmatch(r"([a-z]+[+-]?)(\d+(?:\.\d+)?)", name)
    direction, strength = (found[1], float(found[2])) if found else ("", 0.0)
    if direction not in DIRECTIONS or not strength or (direction == "jpeg" and strength > 95):
        examples = ", ".join(f"{d}1" if d != "jpeg" else "jpeg20" for d in DIRECTIONS)
        raise ValueError(f"{name!r} is no shift; shifts are named like {examples}")
    return direction, strength


def parse_list(names: str) -> list[str]:
    """Shifts from a text like "eosin+1.0,blur2". Raises ValueError for none, or one twice."""
    shifts = [name.strip() for name in names.split(",")]
    if len({parse(name) for name in shifts}) < len(shifts):
        raise ValueError(f"shifts={names!r} must differ")
    return shifts


def shift(tile: np.ndarray, name: str) -> np.ndarray:
    """A tile under a shift: uint8 [S, S, 3] from uint8 [S, S, 3]; the name "" changes nothing."""
    if not name:
        return tile
    direction, strength = parse(name)
    if direction == "blur":
        return gaussian_filter(tile, (strength, strength, 0))
    if direction == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, "JPEG", quality=round(strength))
        return np.asarray(Image.open(buffer))
    signed, stain = -strength if direction.endswith("-") else strength, direction[:-1]
    if stain == "stain":
        return staining.restain(tile, signed)
    factors = [2.0**signed if stain == name else 1.0 for name in STAINS[:2]]
    return staining.scale_stains(tile, *factors)
