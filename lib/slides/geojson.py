"""GeoJSON as QuPath (0.4 and later) writes and opens it.

Coordinates are level-0 pixels. QuPath crops a slide to the part that was scanned, so positions
count from the top left of OpenSlide's bounds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from lib.artefacts import atomic
from lib.json_files import read_json

MAX_BYTES = 64 * 2**20  # of outlines by hand; those of a slide's tissue stay far below
MAX_COORDINATE = 1e8  # level-0 pixels


def feature(
    identity: UUID,
    rings: Sequence[Any],
    object_type: str,
    *,
    class_name: str,
    colour: Sequence[int],
    **properties: Any,
) -> dict[str, Any]:
    """Make an object of QuPath: a polygon with a class.

    Parameters
    ----------
    identity : the same for the same object
    rings : closed rings of x, y; the outer one first, then holes
    object_type : as QuPath calls it, such as "annotation" or "tile"
    class_name, colour : of the class, three of 0 … 255
    properties : more of them by name, such as measurements

    """
    classification = {"name": class_name, "color": list(colour)}
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": object_type, "classification": classification, **properties},
    }


def write_geojson(file: Path, features: Sequence[Mapping[str, Any]]) -> None:
    """Write a collection of features; the file appears when it is complete."""
    collection = {"type": "FeatureCollection", "features": features}
    text = json.dumps(collection, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    with atomic(Path(file)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_geojson(file: Path, max_bytes: float = np.inf) -> list[Any]:
    """Read the features of a file: of a collection, of a list, or a single one.

    Raises ValueError naming the file where it holds no features or is larger than `max_bytes`.
    """
    if file.stat().st_size > max_bytes:
        raise ValueError(f"{file}: larger than {max_bytes / 2**20:g} MB; simplify it in QuPath")
    content = features = read_json(file, "GeoJSON")
    if isinstance(content, dict):
        features = [content] if content.get("type") == "Feature" else content.get("features")
    if not isinstance(features, list):
        raise ValueError(f"{file} is no GeoJSON: it holds no features")
    return features


def polygons(item: Any) -> list[list[np.ndarray]]:
    """Read the polygons of a feature, Polygon or MultiPolygon: rings [K, 2], the outer one first.

    Raises ValueError saying why it has none.
    """
    geometry: Any = item.get("geometry") if isinstance(item, dict) else None
    kind = geometry.get("type") if isinstance(geometry, dict) else "feature without geometry"
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {kind} is no area")
    try:
        coordinates = geometry["coordinates"]
        areas = [coordinates] if kind == "Polygon" else coordinates
        read = [[np.array([p[:2] for p in ring], np.float64) for ring in area] for area in areas]
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise ValueError("a polygon whose coordinates are no pairs of numbers") from error
    rings = [ring for area in read for ring in area]
    if not all(area for area in read) or any(r.ndim != 2 or r.shape[1] != 2 for r in rings):
        raise ValueError("a polygon whose coordinates are no pairs of numbers")
    if not all(len(r) > 2 and (np.abs(r) <= MAX_COORDINATE).all() for r in rings):
        raise ValueError("a polygon of fewer than three points, or of infinite ones")
    return read


def class_of(item: Mapping[str, Any]) -> str:
    """Read the class of a feature, "" without one; of a derived class the names joined by ": "."""
    properties = item.get("properties")
    classification = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(classification, dict):
        names = classification.get("names") or classification.get("name") or ""
        return ": ".join(map(str, names)) if isinstance(names, list) else str(names)
    return str(classification or "")
