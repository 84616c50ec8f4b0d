"""Features of a slide's tiles in one HDF5 file, in the layout of TRIDENT.

Viewers and pooling models of others read it: `coords` [N, 2] with attributes, `features` [N, D].
Magnifications are in it for them; here µm/px are what counts.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.artefacts import atomic
from lib.slides.reading import Slide

MADE_FROM = "made_from"  # an attribute of `coords`
FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, checksum, LZF: HDF5 loads others as libraries
MAX_GAIN = 100  # by compression; features gain little, what fills memory much


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
    of the latter, and the side of a tile in level-0 pixels before it is rounded (its mean where x
    and y differ).

    Parameters
    ----------
    file : of HDF5
    arrays : coords, int64 [N, 2]; features, float16 or float32 [N, D]; others by name, [N, …]
    slide : that the tiles are of
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
        with _opened(file) as opened:
            return dict(json.loads(opened["coords"].attrs[MADE_FROM]))
    except (FileNotFoundError, ValueError):
        return {}


def read_features(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays of a file by name, and the attributes of `coords`.

    Raises ValueError naming the file when it is no HDF5, lacks one of the two arrays, has them of
    different lengths, or has an array that is not of numbers, does not lie in the file itself or
    would take far more memory than the file.
    """
    with _opened(file) as opened:
        datasets = {name: item for name, item in opened.items() if isinstance(item, h5py.Dataset)}
        if lacking := {"coords", "features"} - datasets.keys():
            raise ValueError(f"{file} has no array {min(lacking)!r}")
        needed = [_bytes_needed(d, f"{file}: the array {name!r}") for name, d in datasets.items()]
        if sum(needed) > MAX_GAIN * (file.stat().st_blocks * 512 or file.stat().st_size):
            raise ValueError(f"{file}: its arrays claim far more bytes than the file has")
        arrays = {name: item[()] for name, item in datasets.items()}
        attributes = dict(datasets["coords"].attrs)
    coords, features = arrays["coords"], arrays["features"]
    if features.ndim != 2 or coords.shape != (len(features), 2):
        shapes = f"{list(coords.shape)} and {list(features.shape)}"
        raise ValueError(f"{file}: coords and features are {shapes}, not [N, 2] and [N, D]")
    return arrays, attributes


@contextmanager
def _opened(file: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(file, "r") as opened:
            for name in opened:
                if opened.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                    raise ValueError(f"{file}: {name!r} is a link to somewhere else")
            yield opened
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged or no HDF5 file: {error}") from error


def _bytes_needed(dataset: h5py.Dataset, where: str) -> int:
    """Memory to read an array. Raises ValueError for one whose numbers are not in the file."""
    plan = dataset.id.get_create_plist()
    filters = {plan.get_filter(k)[0] for k in range(plan.get_nfilters())}
    if dataset.dtype.kind not in "iufb":
        raise ValueError(f"{where} is of {dataset.dtype}, not of numbers")
    if dataset.external or dataset.is_virtual or filters - FILTERS:
        raise ValueError(f"{where} needs another file or a library to be read")
    cells = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
    return cells * dataset.dtype.itemsize
