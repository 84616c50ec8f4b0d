"""Features of a slide's tiles in one HDF5 file, in the layout of TRIDENT.

Viewers and pooling models of others read it: `coords` [N, 2] with attributes, `features` [N, D].
Magnifications are in it for them; here µm/px are what counts. `read_given` reads theirs.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    different lengths or without a tile, or has an array that is not of finite numbers, does not lie
    in the file itself or would take far more memory than the file.
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
    if not len(features):
        raise ValueError(f"{file} holds no tile")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{file}: the array {name!r} has numbers that are not finite")
    return arrays, attributes


# --- features of others --------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenFeatures:
    """Features that another program gave to its own tiles of a slide.

    file: that they are from; coords: int64 [N, 2], top left corners of the tiles, and side, both in
    level-0 pixels; features: [N, D].
    """

    file: Path
    coords: np.ndarray
    side: float
    features: np.ndarray

    def area(self, slide: Slide, mpp: float) -> np.ndarray:
        """Where its tiles lie, bool of `slide.shape_at(mpp)`."""
        mask = np.zeros(slide.shape_at(mpp), bool)
        corners = self.coords[:, None] + np.array([[0.0], [self.side]])  # [N, first and last, x y]
        ends = np.rint(corners * np.array(slide.mpp) / mpp).astype(int)
        for (left, top), (right, bottom) in ends:
            mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        return mask


def read_given(folder: Path, slide: Slide) -> GivenFeatures:
    """Read `<slide>.h5` of TRIDENT, of CLAM or of `write_features`.

    Its `coords` have the attribute patch_size_level0 (TRIDENT), or patch_size, patch_level and
    downsample (CLAM). CLAM writes features into a folder `h5_files`, without these: they are then
    read from the file of that name in a folder `patches`, in `folder` or beside it.

    Raises FileNotFoundError where there is no such file, and ValueError naming the file for an
    attribute that is missing, for values that are no numbers, for tiles that are not on the slide
    or not those of `patches`, and as `read_features`.
    """
    files = [folder / below / f"{slide.name}.h5" for below in ("", "h5_files")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there is no {slide.name}.h5 in {folder} or its h5_files")
    arrays, attributes = read_features(file)
    coords, features, source = arrays["coords"].astype(np.int64), arrays["features"], file
    patches = (where / "patches" / file.name for where in (folder, folder.parent))
    if not {"patch_size", "patch_size_level0"} & attributes.keys():
        for source in filter(Path.is_file, patches):
            with _opened(source) as opened:
                attributes = dict(opened["coords"].attrs)
                if not np.array_equal(opened["coords"][()], arrays["coords"]):
                    raise ValueError(f"{file}: its tiles are not those of {source}")
            break
    side = _side_of(attributes, source)
    stated = [attributes.get(f"level0_{axis}") for axis in ("width", "height")]
    other = any(s not in (None, own) for s, own in zip(stated, slide.size, strict=True))
    if other or not ((coords >= 0) & (coords < slide.size)).all():
        raise ValueError(f"{file}: its tiles are of another slide than {slide.path}")
    return GivenFeatures(file, coords, side, features)


def _side_of(attributes: Mapping[str, Any], file: Path) -> float:
    """Side of the tiles in level-0 pixels, by what the attributes of their coords say."""

    def number(name: str) -> float:
        value: Any = attributes.get(name)
        try:
            found = float(np.mean(value))
        except TypeError:
            found = math.nan
        if not (math.isfinite(found) and found > 0):
            problem = "is missing" if value is None else f"is {value!r}"
            raise ValueError(
                f"{file}: the attribute {name!r} of coords {problem}. TRIDENT writes "
                "patch_size_level0; CLAM patch_size, patch_level and downsample, into the folder "
                "patches, which has to lie beside the features"
            )
        return found

    if "patch_level" in attributes:
        return number("patch_size") * number("downsample")
    exact = "patch_size_level0_exact"
    return number(exact if exact in attributes else "patch_size_level0")


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
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeError) as error:
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
