"""Tiles of a slide with what was predicted for them, as GeoJSON that QuPath (0.4 and later) opens.

A table of tiles has a line per tile: x, y (top left) and side, in level-0 pixels; class, "" without
one; and measurements, which are all other columns.
"""

import math
import re
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.colors import to_rgb

from lib.slides.geojson import class_of, feature, polygons, read_geojson, write_geojson

DIGITS = 4  # of all numbers
POSITION = ("x", "y", "side", "class")


def write_tiles_geojson(
    file: Path,
    tiles: pd.DataFrame,
    name: str,
    colours: Mapping[str, str],
    bounds: tuple[float, float] = (0, 0),
) -> None:
    """Write a square with its measurements for each tile; the same tiles have the same ids.

    Parameters
    ----------
    file : of GeoJSON
    tiles : see the module; what is not finite is left out, as it breaks QuPath's import
    name : of the slide
    colours : of the classes, as matplotlib names them
    bounds : x and y of the part that was scanned, from which QuPath counts

    """
    rgb = {c: [round(255 * part) for part in to_rgb(colour)] for c, colour in colours.items()}
    features = []
    for row in tiles.to_dict("records"):
        x, y, side, class_name = (row.pop(column) for column in POSITION)
        left, top = x - bounds[0], y - bounds[1]
        right, bottom = left + side, top + side
        ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        position = f"{name}\n{x:.{DIGITS}f} {y:.{DIGITS}f}"
        features.append(
            feature(
                uuid.uuid5(uuid.NAMESPACE_OID, position),
                [[[round(float(end), DIGITS) for end in point] for point in ring]],
                "tile",
                class_name=class_name,
                colour=rgb[class_name],
                name=f"{class_name} ({round(x)}, {round(y)})",
                isLocked=True,
                measurements={k: round(v, DIGITS) for k, v in row.items() if math.isfinite(v)},
            )
        )
    write_geojson(file, features)


def read_tiles_geojson(file: Path) -> pd.DataFrame:
    """Read the tiles of a file that was written here or by QuPath; positions are from the bounds.

    A further column, written, is the class that `write_tiles_geojson` wrote, which the name of a
    tile keeps when its class is changed, "" where it does not say. A measurement that a tile lacks
    is NaN.
    Whatever is no tile, a polygon with finite corners, is left out with a warning. Raises
    ValueError naming a file that is no GeoJSON.
    """
    lines, others = [], []
    features = read_geojson(Path(file))
    for number, item in enumerate(features):
        try:
            lines.append(_tile_of(item))
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError):
            others.append(str(number))
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        warnings.warn(
            f"{file}: {len(others)} of {len(features)} objects are no tiles and are left out: "
            f"features {', '.join(others[:10])}{more}, counted from 0",
            stacklevel=2,
        )
    return pd.DataFrame(lines, columns=None if lines else [*POSITION, "written"])


def _tile_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `read_tiles_geojson`. Raises one of several errors for what is no tile."""
    properties = item["properties"]
    if properties["objectType"] != "tile" or item["geometry"]["type"] != "Polygon":
        raise ValueError
    ring = polygons(item)[0][0]
    (x, y), (right, _) = ring.min(0), ring.max(0)
    name = re.fullmatch(r"(.+) \(-?\d+, -?\d+\)", str(properties.get("name")), re.DOTALL)
    measured = properties.get("measurements")
    numbers = {
        title: float(value) if type(value) in (int, float) and math.isfinite(value) else math.nan
        for title, value in (measured.items() if isinstance(measured, Mapping) else ())
    }
    line = {"x": x, "y": y, "side": round(right - x, DIGITS), "class": class_of(item)}
    return numbers | line | {"written": name[1] if name else ""}
