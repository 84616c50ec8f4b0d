"""Where a slide has tissue: detected by colour, or outlined and corrected by hand in QuPath.

The picture is always looked at in the same µm/px, so that the result does not depend on the levels
of the file or on the machine.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.slides.geojson import MAX_BYTES, class_of, feature, polygons, read_geojson
from lib.slides.reading import Slide

TISSUE_MPP = 8.0  # µm/px of a mask
SMOOTHING = 8.0  # µm, standard deviation
CLOSING = 24.0  # µm, radius: joins the membranes of fat
SMALLEST_TISSUE = 25_000.0  # µm²
LARGEST_HOLE = 50_000.0  # µm², filled
SMALLEST_PEN = 3_000.0  # µm²
PEN_MARGIN = 32.0  # µm around a stroke, in which ink fades

# Optical density, −ln(intensity / glass), and differences between the colours of a pixel in it.
TISSUE_COLOUR = 0.06  # glass and JPEG noise stay below, eosin of fat above
# Ratios of densities: of ink on glass, and of ink on tissue where it touches the former.
COLOURED_INK = (1.15, 0.95)  # red to green; of H&E at most 0.85, of blue scanners 1
BLACK_INK = (0.8, 0.75)  # lightest to darkest; haematoxylin lets blue through, at most 0.73
PEN_DENSITY = (0.3, 0.5)  # in red of coloured ink, in the lightest of black

NAME, COLOUR = "Tissue", (0, 160, 80)
SHOWN = 5  # features that are left out
MAX_WORK = 1e10  # corners of outlines times rows of the mask; those of a slide's tissue: 1e8


# --- detected ------------------------------------------------------------------------------------


def tissue_mask(slide: Slide, density: np.ndarray | None = None) -> np.ndarray:
    """Detect tissue: bool, of `slide.shape_at(TISSUE_MPP)`. density: of `optical_density`.

    Tissue is what has colour beside the glass, which may be grey. Blue, green and black ink is left
    out with a margin, and so are specks and neutral dirt; small holes are filled. Folds stay: they
    are tissue, and dense lymphocytes are as dark. Red ink looks like eosin and stays, and so does
    tissue that shows through thin ink. Fat of large cells may be lost: it is mostly glass.
    """
    density = optical_density(slide) if density is None else density
    clean = ~_large(_ink(density), SMALLEST_PEN)
    if not clean.all():
        clean = ndimage.distance_transform_edt(clean) > PEN_MARGIN / TISSUE_MPP
    tissue = _closed(stained_mask(density) & clean, CLOSING / TISSUE_MPP) & clean
    tissue = _large(tissue, SMALLEST_TISSUE)
    return ~_large(~tissue, LARGEST_HOLE) & clean


def stained_mask(density: np.ndarray) -> np.ndarray:
    """Detect what has colour: tissue without the gaps and holes that belong to it."""
    return density.max(2) - density.min(2) > TISSUE_COLOUR


def optical_density(slide: Slide) -> np.ndarray:
    """−ln(intensity / glass) of the smoothed slide, float32 [H, W, 3], at least zero."""
    image = slide.thumbnail(TISSUE_MPP)
    glass = _glass(image)
    density = np.empty(image.shape, np.float32)
    for channel in range(3):
        smooth = image[..., channel].astype(np.float32)
        smooth = ndimage.gaussian_filter(smooth, SMOOTHING / TISSUE_MPP)
        # Below 10 of 255 a difference of colours is noise.
        np.log(glass[channel] / np.maximum(smooth, 10), out=density[..., channel])
    return np.maximum(density, 0, out=density)


def _glass(image: np.ndarray) -> np.ndarray:
    """Colour of the empty glass, [3]: median of the brightest quarter of nearly neutral pixels.

    White where hardly a pixel is light and neutral.
    """
    pixels = image.reshape(-1, 3)
    darkest, brightest = pixels.min(1), pixels.max(1)
    neutral = pixels[(darkest >= 150) & (brightest - darkest <= 20)]
    if len(neutral) < 0.002 * len(pixels):
        return np.full(3, 255.0)
    brightness = neutral.min(1)
    return np.median(neutral[brightness >= np.quantile(brightness, 0.75)], axis=0)


def _ink(density: np.ndarray) -> np.ndarray:
    """Blue and green ink, which absorb more red than green, and black; bool [H, W]."""
    red, green, _ = np.moveaxis(density, 2, 0)
    lightest, darkest = density.min(2), density.max(2)
    sure, likely = (
        ((red > coloured * green) & (red > PEN_DENSITY[0]))
        | ((lightest > black * darkest) & (lightest > PEN_DENSITY[1]))
        for coloured, black in zip(COLOURED_INK, BLACK_INK, strict=True)
    )
    return ndimage.binary_propagation(sure, mask=likely)


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Gaps narrower than twice the radius, in pixels, are closed; the borders change nothing."""
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    closed = ndimage.binary_closing(np.pad(mask, reach), x**2 + y**2 <= radius**2)
    return closed[reach:-reach, reach:-reach] | mask


def _large(mask: np.ndarray, area: float) -> np.ndarray:
    """The connected parts of a mask that have at least so many µm²."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= area / TISSUE_MPP**2
    large[0] = False
    return large[labels]


def tissue_of(
    slide: Slide, edited: Path | None = None, density: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Detect the tissue of a slide, or read it from a GeoJSON file that was corrected in QuPath.

    Returns the mask at `TISSUE_MPP` µm/px and where it is from, "detected" or "edited", and of an
    edited file what in it is no outline of tissue and is left out. Raises ValueError naming the
    slide without tissue, or what is wrong with the edited file.
    """
    if edited is None:
        mask = tissue_mask(slide, density)
        if not mask.any():
            raise ValueError(
                f"no tissue detected in {slide.name}: draw it in QuPath and give it as GeoJSON, or "
                "take the slide out of the table"
            )
        return mask, "detected"
    features = read_geojson(edited, MAX_BYTES)
    outlines, problems = [], []
    for number, item in enumerate(features):
        try:
            _check_outline(item)
            outlines.append(item)
        except ValueError as error:
            problems.append(f"feature {number}: {error}")
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    without = "; ".join(problems[:SHOWN]) + more
    try:
        mask = outlines_to_mask(outlines, slide, TISSUE_MPP)
    except ValueError as error:
        raise ValueError(f"{edited}: {error}") from error
    if not mask.any():
        also = f". Left out: {without}" if problems else ""
        raise ValueError(f"{edited}: no tissue of {slide.name} lies in what is outlined{also}")
    return mask, f"edited, without {without}" if problems else "edited"


def _check_outline(item: Any) -> None:
    """Raise ValueError saying why a feature is no outline of tissue."""
    polygons(item)
    if class_of(item) not in ("", NAME):
        raise ValueError(f"an area has the class {class_of(item)!r}: only {NAME!r} or none is")


# --- outlines ------------------------------------------------------------------------------------


def mask_to_outlines(mask: np.ndarray, slide: Slide, mpp: float) -> list[dict[str, Any]]:
    """Outline a mask, bool [H, W] at `mpp` µm/px: annotations of QuPath, polygons with holes.

    Coordinates are level-0 pixels within `slide.bounds`, which is all that QuPath shows. Corners
    are cut; `outlines_to_mask` gives back the same mask.
    """
    generator = contour_generator(
        z=np.pad(mask, 1).astype(np.float32), fill_type=FillType.OuterOffset
    )
    filled: Any = generator.filled(0.5, math.inf)  # a union of all its fill types
    scale = mpp / np.array(slide.mpp)
    features = []
    for number, (points, offset) in enumerate(zip(*filled, strict=True)):
        placed = (points - 0.5) * scale - slide.bounds[:2]  # a pixel's middle is at + 0.5, less pad
        rings = [_corners(placed[start:end]).round(2).tolist() for start, end in pairwise(offset)]
        identity = uuid5(NAMESPACE_URL, f"{slide.name}/tissue/{number}")
        features.append(
            feature(identity, rings, "annotation", class_name=NAME, colour=COLOUR, isLocked=False)
        )
    return features


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring [K, 2] without the points on straight lines; the first and last stay."""
    before, after = np.diff(ring[:-1], axis=0), np.diff(ring[1:], axis=0)
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6
    return ring[np.concatenate([[True], turns, [True]])]


def outlines_to_mask(features: Sequence[Any], slide: Slide, mpp: float) -> np.ndarray:
    """Fill outlines of tissue that QuPath wrote: bool, of `slide.shape_at(mpp)`.

    features: Polygons or MultiPolygons, with or without holes, of the class "Tissue" or none;
    coordinates as in `mask_to_outlines`. What lies beside the slide is cut off. Raises ValueError
    saying what else is there.
    """
    mask = np.zeros(slide.shape_at(mpp), bool)
    height, width = mask.shape
    scale = np.array(slide.mpp) / mpp
    work = 0
    for item in features:
        _check_outline(item)
        for rings in polygons(item):
            # In half pixels, whose middles are at even numbers: Pillow fills up to an edge and
            # includes it, and outlines of a mask cross the rows of middles at odd numbers.
            placed = [np.rint(2 * ((ring + slide.bounds[:2]) * scale - 0.5)) for ring in rings]
            low = np.clip(placed[0].min(0) // 2, 0, (width, height)).astype(int)
            high = np.clip(placed[0].max(0) // 2 + 2, 0, (width, height)).astype(int)
            work += sum(map(len, rings)) * 2 * int((high - low)[1])
            if work > MAX_WORK:
                raise ValueError("its outlines wind too much; simplify them in QuPath")
            if (high > low).all():
                picture = Image.new("1", tuple((2 * (high - low)).tolist()))
                pen = ImageDraw.Draw(picture)
                for number, ring in enumerate(placed):
                    pen.polygon((ring - 2 * low).ravel().tolist(), fill=int(number == 0))
                inside = np.asarray(picture)[::2, ::2]
                mask[low[1] : high[1], low[0] : high[0]] |= inside
    return mask
