"""Tiles of a slide with what was predicted for them, as GeoJSON that QuPath (0.4 and later) opens.

Coordinates are level-0 pixels. QuPath crops a slide to the part that was scanned, so positions
count from the top left of OpenSlide's bounds.
"""

import json
import math
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from lib.artefacts import atomic

OBJECT_TYPES = ("annotation", "detection", "tile", "cell", "tmaCore")
DIGITS = 4  # of every number


def tiles_geojson(
    name: str,
    coords: np.ndarray,
    side: float | tuple[float, float],
    classes: np.ndarray,
    probs: np.ndarray,
    class_names: Sequence[str],
    colours: Sequence[str],
    bounds: tuple[float, float] = (0, 0),
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """A FeatureCollection with a square and its measurements for each tile.

    name: of the slide; coords: [N, 2], x and y of the tiles' top left; side: width and height of a
    tile, or one for both; classes: int [N], into class_names; probs: [N, C], of the first C
    class_names, the others being classes without probabilities, such as irrelevant tissue;
    colours: of class_names, as matplotlib names them; bounds: x and y of the scanned part; extra:
    more measurements by name, [N] each. Lengths are level-0 pixels. A measurement that is not
    finite is left out. The same tiles have the same ids at every call. Raises ValueError where
    the sizes do not agree or a class has no name.
    """
    extra = extra or {}
    _check_sizes(coords, classes, probs, class_names, colours, extra)
    width, height = side if isinstance(side, tuple) else (side, side)
    colour = [[round(255 * part) for part in to_rgb(c)] for c in colours]
    titles = [f"prob {title}" for title in class_names[: probs.shape[1]]] + list(extra)
    values = np.column_stack([probs, *extra.values()]).astype(float)
    features = []
    for (x, y), k, measured in zip(coords.tolist(), classes.tolist(), values.tolist(), strict=True):
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{name}\n{x:.{DIGITS}f} {y:.{DIGITS}f}")
        left, top = x - bounds[0], y - bounds[1]
        properties = {
            "objectType": "tile",
            "name": f"{class_names[k]} ({round(x)}, {round(y)})",
            "isLocked": True,
            "classification": {"name": class_names[k], "color": colour[k]},
            "measurements": _finite(titles, measured),
        }
        features.append(
            {
                "type": "Feature",
                "id": str(identity),
                "geometry": _square(left, top, left + width, top + height),
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _check_sizes(
    coords: np.ndarray,
    classes: np.ndarray,
    probs: np.ndarray,
    class_names: Sequence[str],
    colours: Sequence[str],
    extra: Mapping[str, np.ndarray],
) -> None:
    n = len(coords)
    shapes = {"coords": coords.shape[1:], "classes": classes.shape, "probs": probs.shape[:1]}
    wanted: dict[str, tuple[int, ...]] = {"coords": (2,), "classes": (n,), "probs": (n,)}
    shapes |= {title: values.shape for title, values in extra.items()}
    wanted |= {title: (n,) for title in extra}
    wrong = [title for title, shape in shapes.items() if shape != wanted[title]]
    if wrong or probs.ndim != 2:
        raise ValueError(f"{', '.join(wrong) or 'probs'} do not fit {n} tiles")
    if len(colours) != len(class_names) or probs.shape[1] > len(class_names):
        raise ValueError(
            f"{len(class_names)} class names, {len(colours)} colours and probabilities of "
            f"{probs.shape[1]} classes"
        )
    if n and not (0 <= classes.min() and classes.max() < len(class_names)):
        raise ValueError(f"a tile is of a class that is none of {list(class_names)}")


def _finite(titles: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Measurements without NaN and infinity, which break QuPath's import."""
    pairs = zip(titles, values, strict=True)
    return {title: round(value, DIGITS) for title, value in pairs if math.isfinite(value)}


def _square(left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    rounded = [[round(x, DIGITS), round(y, DIGITS)] for x, y in ring]
    return {"type": "Polygon", "coordinates": [rounded]}


def check_geojson(collection: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first feature that QuPath would refuse or misread.

    Polygons and multipolygons with closed rings; a known objectType; a classification with name
    and colour; finite measurements.
    """
    if collection.get("type") != "FeatureCollection":
        raise ValueError(f"a FeatureCollection is needed, not {collection.get('type')!r}")
    for number, feature in enumerate(collection["features"]):
        for problem in _problems(feature):
            raise ValueError(f"feature {number} ({feature.get('id')}): {problem}")


def _problems(feature: Mapping[str, Any]) -> Iterator[str]:
    if feature.get("type") != "Feature":
        yield f"its type is {feature.get('type')!r}"
    try:
        uuid.UUID(feature.get("id"))
    except (ValueError, TypeError, AttributeError):
        yield "its id is no UUID"
    yield from _geometry_problems(feature.get("geometry") or {})
    properties = feature.get("properties") or {}
    if properties.get("objectType") not in OBJECT_TYPES:
        yield f"objectType is {properties.get('objectType')!r}, none of {', '.join(OBJECT_TYPES)}"
    if "classification" in properties:
        yield from _classification_problems(properties["classification"])
    measurements = properties.get("measurements", {})
    if not isinstance(measurements, Mapping):
        yield "measurements are no object"
    for title, value in dict(measurements).items():
        if not _is_number(value):
            yield f"measurement {title!r} is {value!r}"


def _geometry_problems(geometry: Mapping[str, Any]) -> Iterator[str]:
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        yield f"its geometry is {geometry.get('type')!r}, no Polygon or MultiPolygon"
        return
    coordinates = geometry["coordinates"]
    polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
    rings = [ring for polygon in polygons for ring in polygon]
    if not rings:
        yield "its geometry is empty"
    for ring in rings:
        if len(ring) < 4 or ring[0] != ring[-1]:
            yield "a ring is not closed"
        if not all(len(point) == 2 and all(map(_is_number, point)) for point in ring):
            yield "a coordinate is not a pair of finite numbers"


def _classification_problems(classification: Any) -> Iterator[str]:
    if not isinstance(classification, Mapping) or not classification.get("name"):
        yield "its classification has no name"
        return
    colour = classification.get("color")
    if colour is None:
        yield f"the classification {classification['name']!r} has no color"
    elif len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
        yield f"color is {colour!r}, not three whole numbers up to 255"


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value)


def write_geojson(file: Path, collection: Mapping[str, Any]) -> None:
    """Write what `check_geojson` accepts; the file appears when it is complete."""
    check_geojson(collection)
    text = json.dumps(collection, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    with atomic(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_tiles_geojson(file: Path) -> pd.DataFrame:
    """The tiles of a file that `write_geojson` or QuPath wrote: their measurements, and as follows.

    x, y: top left, from the bounds, and side: width, all in level-0 pixels; class, "" without one;
    written: the class that `tiles_geojson` wrote, which the name of a tile keeps when its class is
    changed, "" where it does not say. A measurement that a tile lacks is NaN. A collection, a list
    of features or a single one is read. Whatever is no tile, a polygon with finite corners, is left
    out with a warning. Raises ValueError naming a file that is no JSON.
    """
    try:
        content = json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no GeoJSON: {error}") from error
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise ValueError(f"{file} is no GeoJSON: it holds no features")
    lines, others = [], []
    for number, feature in enumerate(features):
        try:
            lines.append(_tile_of(feature))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            others.append(str(number))
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        warnings.warn(
            f"{file}: {len(others)} of {len(features)} objects are no tiles and are left out: "
            f"features {', '.join(others[:10])}{more}, counted from 0",
            stacklevel=2,
        )
    return pd.DataFrame(lines, columns=None if lines else ["x", "y", "side", "class", "written"])


def _tile_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `read_tiles_geojson`. Raises one of several errors for what is no tile."""
    properties, geometry = feature["properties"], feature["geometry"]
    if properties["objectType"] != "tile" or geometry["type"] != "Polygon":
        raise ValueError
    ring = np.array([point[:2] for point in geometry["coordinates"][0]], dtype=float)
    if not np.isfinite(ring).all():
        raise ValueError
    (x, y), (right, _) = ring.min(0), ring.max(0)
    named = properties.get("classification") or ""
    if isinstance(named, Mapping):
        named = ": ".join(named.get("names") or [named.get("name") or ""])
    name = re.fullmatch(r"(.+) \(-?\d+, -?\d+\)", str(properties.get("name")), re.DOTALL)
    measured = properties.get("measurements")
    numbers = {
        title: float(value) if _is_number(value) else math.nan
        for title, value in (measured.items() if isinstance(measured, Mapping) else ())
    }
    line = {"x": x, "y": y, "side": round(right - x, DIGITS)}
    return numbers | line | {"class": str(named), "written": name[1] if name else ""}
