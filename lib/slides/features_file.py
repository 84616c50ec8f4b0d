"""Features of a slide's tiles in one HDF5 file, in the layout of TRIDENT.

Viewers and pooling models of others read it: `coords` [N, 2] with attributes, `features` [N, D].
Magnifications are in it for them; here µm/px are what counts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.artefacts import atomic
from lib.slides.reading import Slide

MADE_FROM = "made_from"  # an attribute of `coords`


def write_features(
    file: Path,
    arrays: Mapping[str, np.ndarray],
    slide: Slide,
    *,
    pixels: int,
    mpp: float,
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Write the features of a slide's tiles; the file appears when complete.

    Besides TRIDENT's attributes there are the µm/px of the tiles and of level 0 (x, y), the source
    of the latter, and the side of a tile in level-0 pixels before it is rounded (the mean of x, y).

    Parameters
    ----------
    arrays : coords, int64 [N, 2]; features, float16 or float32 [N, D]; others by name, [N, …]
    pixels, mpp : side of a tile in pixels and µm per pixel
    made_from : what `read_made_from` is to tell
    """
    side, mpp_0 = float(np.mean(slide.side(pixels, mpp))), float(np.mean(slide.mpp))
    attributes = {
        "patch_size": pixels,
        "patch_size_level0": round(side),
        "level0_magnification": max(1, round(10 / mpp_0)),
        "target_magnification": max(1, round(10 / mpp)),
        "overlap": 0,
        "name": slide.name,
        "savetodir": Path(file).parent.name,
        "level0_width": slide.size[0],
        "level0_height": slide.size[1],
        "mpp": float(mpp),
        "mpp_source": slide.mpp_source,
        "level0_mpp": np.array(slide.mpp),
        "patch_size_level0_exact": side,
        MADE_FROM: json.dumps(made_from or {}),
    }
    with atomic(Path(file)) as temporary, h5py.File(temporary, "w") as opened:
        for name, array in arrays.items():
            opened.create_dataset(name, data=array)
        opened["coords"].attrs.update(attributes)


def read_made_from(file: Path) -> dict[str, str]:
    """Read what the features of a file were made from, by name; empty where nothing tells."""
    try:
        return json.loads(read_features(file)[1][MADE_FROM])
    except (FileNotFoundError, KeyError, ValueError):
        return {}


def read_features(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays of a file by name, and the attributes of `coords`.

    Raises ValueError naming the file when it is no HDF5, lacks one of the two arrays or has them of
    different lengths.
    """
    try:
        with h5py.File(file, "r") as opened:
            arrays = {name: item[()] for name, item in opened.items()}
            attributes = dict(opened["coords"].attrs) if "coords" in arrays else {}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{file} is damaged or no HDF5 file: {error}") from error
    if lacking := {"coords", "features"} - arrays.keys():
        raise ValueError(f"{file} has no array {min(lacking)!r}")
    coords, features = arrays["coords"], arrays["features"]
    if features.ndim != 2 or coords.shape != (len(features), 2):
        shapes = f"{list(coords.shape)} and {list(features.shape)}"
        raise ValueError(f"{file}: coords and features are {shapes}, not [N, 2] and [N, D]")
    return arrays, attributes
