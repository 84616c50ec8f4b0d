"""Where a slide has tissue: found by colour, or drawn and corrected by hand in QuPath.

The picture is always looked at in the same µm/px, so that the result does not depend on the levels
of the file or on the machine.
"""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from contourpy import FillType, contour_generator
from scipy import ndimage

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
# Of outlines that are drawn; those of a slide's tissue stay far below.
MOST_BYTES = 64 * 2**20
MOST_ROWS = 10_000_000  # of the mask that all edges cross, one at a time
FARTHEST = 1e9  # level-0 pixels


# --- found ---------------------------------------------------------------------------------------


def tissue_mask(slide: Slide, mpp: float = TISSUE_MPP) -> np.ndarray:
    """Tissue at `mpp` µm/px, bool, of `slide.shape_at(mpp)`.

    Tissue is what has colour beside the glass, which may be grey. Blue, green and black ink is left
    out with a margin, and so are specks and neutral dirt; small holes are filled. Folds stay: they
    are tissue, and dense lymphocytes are as dark. Red ink looks like eosin and stays, and so does
    tissue that shows through thin ink. Fat of large cells may be lost: it is mostly glass.
    """
    density = _optical_density(slide.thumbnail(mpp), SMOOTHING / mpp)
    colour = density.max(2) - density.min(2)
    pen = _large(_ink(density), SMALLEST_PEN / mpp**2)
    clean = ~pen
    if pen.any():
        clean = ndimage.distance_transform_edt(clean) > PEN_MARGIN / mpp
    tissue = _closed((colour > TISSUE_COLOUR) & clean, CLOSING / mpp) & clean
    tissue = _large(tissue, SMALLEST_TISSUE / mpp**2)
    return ~_large(~tissue, LARGEST_HOLE / mpp**2) & clean


def _optical_density(image: np.ndarray, sigma: float) -> np.ndarray:
    """−ln(intensity / glass) of the smoothed image, float32 [H, W, 3], at least zero."""
    glass = _glass(image)
    density = np.empty(image.shape, np.float32)
    for channel in range(3):
        smooth = ndimage.gaussian_filter(image[..., channel].astype(np.float32), sigma)
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
    padded = np.pad(mask, reach)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(np.pad(grown, reach, mode="edge")) > radius
    cut = 2 * reach
    return closed[cut : -cut or None, cut : -cut or None] | mask


def _large(mask: np.ndarray, area: float) -> np.ndarray:
    """The connected parts of a mask that have at least so many pixels."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= area
    large[0] = False
    return large[labels]


def tissue_of(slide: Slide, edited: Path | None = None) -> tuple[np.ndarray, str]:
    """Mask at `TISSUE_MPP` and where it is from: "found", or "edited" for a GeoJSON file.

    Raises ValueError naming the slide without tissue, or what is wrong with the edited file.
    """
    if edited is None:
        mask = tissue_mask(slide)
        if not mask.any():
            raise ValueError(
                f"no tissue found in {slide.name}: draw it in QuPath and give it as GeoJSON, or "
                "take the slide out of the table"
            )
        return mask, "found"
    try:
        if edited.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES >> 20} MB; simplify its outlines in QuPath")
        geojson = json.loads(edited.read_text(encoding="utf-8"))
        mask = geojson_to_mask(geojson, slide.shape_at(TISSUE_MPP), TISSUE_MPP, slide)
    except (ValueError, RecursionError) as error:  # json's and Unicode's are ValueErrors too
        raise ValueError(f"{edited}: {error}") from error
    if not mask.any():
        raise ValueError(f"{edited}: no tissue of {slide.name} lies in what is drawn")
    return mask, "edited"


# --- drawn ---------------------------------------------------------------------------------------


def mask_to_geojson(mask: np.ndarray, mpp: float, slide: Slide) -> dict[str, Any]:
    """Outlines of a mask as QuPath reads them: annotations, polygons with holes.

    mask: bool [H, W] at `mpp` µm/px. Coordinates are level-0 pixels within `slide.bounds`, which
    is all that QuPath shows. Corners are cut, `geojson_to_mask` gives back the same mask.
    """
    generator = contour_generator(
        z=np.pad(mask, 1).astype(np.float32), fill_type=FillType.OuterOffset
    )
    filled: Any = generator.filled(0.5, math.inf)  # a union of all its fill types
    scale = np.array([mpp / slide.mpp[0], mpp / slide.mpp[1]])
    features = []
    for number, (points, offset) in enumerate(zip(*filled, strict=True)):
        placed = (points - 0.5) * scale - slide.bounds[:2]  # a pixel's middle is at + 0.5, less pad
        rings = [placed[start:end] for start, end in pairwise(offset)]
        rounded = [np.round(_corners(ring), 2).tolist() for ring in rings]
        features.append(
            {
                "type": "Feature",
                "id": str(uuid5(NAMESPACE_URL, f"{slide.name}/tissue/{number}")),
                "geometry": {"type": "Polygon", "coordinates": rounded},
                "properties": {
                    "objectType": "annotation",
                    "isLocked": False,
                    "classification": {"name": NAME, "color": list(COLOUR)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring [K, 2] without the points on straight lines; the first and last stay."""
    before, after = np.diff(ring[:-1], axis=0), np.diff(ring[1:], axis=0)
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6
    return ring[np.concatenate([[True], turns, [True]])]


def geojson_to_mask(geojson: Any, shape: tuple[int, int], mpp: float, slide: Slide) -> np.ndarray:
    """Mask, bool of `shape`, of the polygons in a GeoJSON object that QuPath wrote or can read.

    A feature, a list or a collection of features that are Polygons or MultiPolygons, with or
    without holes, of the class "Tissue" or none; coordinates as in `mask_to_geojson`. What lies
    beside the slide is cut off. Raises ValueError saying what else was found.
    """
    mask, rows = np.zeros(shape, bool), 0.0
    scale = np.array([slide.mpp[0] / mpp, slide.mpp[1] / mpp])
    for rings in _polygons(geojson):
        # The middle of a pixel is at whole numbers from here on.
        placed = [(ring + slide.bounds[:2]) * scale - 0.5 for ring in rings]
        rows += sum(np.abs(np.diff(np.clip(ring[:, 1], 0, shape[0]))).sum() for ring in placed)
        if rows > MOST_ROWS:
            raise ValueError("its outlines wind too much; simplify them in QuPath")
        low = np.clip(np.ceil(placed[0].min(0)), 0, shape[::-1]).astype(int)
        high = np.clip(np.floor(placed[0].max(0)) + 1, 0, shape[::-1]).astype(int)
        if (high > low).all():
            inside = _inside([ring - low for ring in placed], *(high - low)[::-1])
            mask[low[1] : high[1], low[0] : high[0]] |= inside
    return mask


def _inside(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pixels whose middle an odd number of outlines surrounds, bool [height, width].

    Along a row a pixel is inside if edges cross an odd number of times on its left; bytes that
    overflow keep what is odd.
    """
    crossings = np.zeros((height, width + 1), np.uint8)
    for ring in rings:
        x, y = ring.T
        across, down = np.roll(x, -1) - x, np.roll(y, -1) - y
        first, last = (
            np.clip(np.ceil(end), 0, height).astype(int)
            for end in (np.minimum(y, y + down), np.maximum(y, y + down))
        )
        edge = np.repeat(np.arange(len(ring)), last - first)
        row = np.arange(len(edge)) - np.searchsorted(edge, edge) + first[edge]
        column = np.ceil(x[edge] + (row - y[edge]) / down[edge] * across[edge])
        np.add.at(crossings, (row, np.clip(column, 0, width).astype(int)), 1)
    return np.cumsum(crossings[:, :width], axis=1, dtype=np.uint8) % 2 == 1


def _polygons(geojson: Any) -> Iterator[list[np.ndarray]]:
    """Rings [K, 2] of each polygon, the outer one first."""
    for feature in _features(geojson):
        geometry = _object(feature.get("geometry"))
        kind = geometry.get("type")
        if kind not in ("Polygon", "MultiPolygon"):
            raise ValueError(f"a {kind or 'feature without geometry'} is no area of tissue")
        named = _object(feature.get("properties")).get("classification")
        if named and _object(named).get("name") != NAME:
            raise ValueError(f"an area has the class {named}: only {NAME!r} or none is tissue")
        polygons = geometry.get("coordinates") or []
        one = kind == "Polygon" or not isinstance(polygons, list)
        for polygon in [polygons] if one else polygons:
            yield _rings(polygon)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _features(geojson: Any) -> list[dict[str, Any]]:
    if isinstance(geojson, dict) and geojson.get("type") == "Feature":
        geojson = [geojson]
    if isinstance(geojson, dict) and geojson.get("type") == "FeatureCollection":
        geojson = geojson.get("features")
    if not isinstance(geojson, list) or not all(isinstance(f, dict) for f in geojson):
        kind = geojson.get("type") if isinstance(geojson, dict) else type(geojson).__name__
        raise ValueError(f"a {kind} is no collection of GeoJSON features")
    return geojson


def _rings(polygon: Any) -> list[np.ndarray]:
    try:
        rings = [np.asarray(ring, np.float64)[:, :2] for ring in polygon]
        if any(ring.ndim != 2 or ring.shape[1] != 2 for ring in rings):
            raise ValueError
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError("a polygon whose coordinates are no pairs of numbers") from error
    if not rings or not all(len(r) > 2 and (np.abs(r) <= FARTHEST).all() for r in rings):
        raise ValueError("a polygon of fewer than three points, or of infinite ones")
    return rings
