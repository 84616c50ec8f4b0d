"""Features of a slide's tiles in one HDF5 file, in the layout of TRIDENT.

Viewers and pooling models of others read it: `coords` [N, 2] with attributes, `features` [N, D].
Magnifications are in it for them; here µm/px are what counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.artefacts import atomic
from lib.slides.reading import Slide

LAYOUT = ("coords", "features")


@dataclass(frozen=True)
class FeaturesFile:
    """coords: int64 [N, 2], x and y of the top left in level-0 pixels; features: float [N, D].

    attributes: of `coords`, as Python values; extra: all other arrays of the file by name.
    """

    coords: np.ndarray
    features: np.ndarray
    attributes: dict[str, Any]
    extra: dict[str, np.ndarray]


def write_features(
    file: Path,
    coords: np.ndarray,
    features: np.ndarray,
    *,
    slide: Slide,
    pixels: int,
    mpp: float,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the features of tiles of `pixels` at `mpp` µm/px; the file appears when complete.

    coords: int [N, 2]; features: float16 or float32 [N, D]; extra: more arrays by name. Besides
    TRIDENT's attributes there are the µm/px of the tiles and of level 0 (x, y), the source of the
    latter, and the side of a tile in level-0 pixels before it is rounded (its mean where x and y
    differ). Raises ValueError for arrays that do not go together.
    """
    extra = extra or {}
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iu":
        raise ValueError(f"coords are int [N, 2], not {coords.dtype} {list(coords.shape)}")
    if features.dtype not in (np.float16, np.float32) or features.ndim != 2:
        kind = f"{features.dtype} {list(features.shape)}"
        raise ValueError(f"features are float16 or float32 [N, D], not {kind}")
    if len(coords) != len(features):
        raise ValueError(f"{len(features)} rows of features for {len(coords)} tiles")
    if taken := [name for name in LAYOUT if name in extra]:
        raise ValueError(f"an extra array cannot be called {taken[0]!r}")
    with atomic(Path(file)) as temporary, h5py.File(temporary, "w") as opened:
        dataset = opened.create_dataset("coords", data=coords.astype(np.int64))
        dataset.attrs.update(_attributes(Path(file), slide, pixels, mpp))
        opened.create_dataset("features", data=features)
        for name, array in extra.items():
            opened.create_dataset(name, data=array)


def _attributes(file: Path, slide: Slide, pixels: int, mpp: float) -> dict[str, Any]:
    side = float(np.mean(slide.side(pixels, mpp)))
    width, height = slide.size
    return {
        "patch_size": pixels,
        "patch_size_level0": round(side),
        "level0_magnification": _magnification(float(np.mean(slide.mpp))),
        "target_magnification": _magnification(mpp),
        "overlap": 0,
        "name": slide.name,
        "savetodir": file.parent.name,
        "level0_width": width,
        "level0_height": height,
        "mpp": float(mpp),
        "mpp_source": slide.mpp_source,
        "level0_mpp": np.array(slide.mpp),
        "patch_size_level0_exact": side,
    }


def _magnification(mpp: float) -> int:
    return max(1, round(10 / mpp))


def read_features(file: Path) -> FeaturesFile:
    """Read a file of `write_features` or one of a peer, which may have no attributes.

    Features of shape [1, N, D] are taken as [N, D]. Raises ValueError naming the file when it is no
    HDF5, lacks one of the two arrays, or has them of different lengths.
    """
    try:
        opened = h5py.File(file, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{file} is damaged or no HDF5 file: {error}") from error
    with opened:
        for name in LAYOUT:
            if not isinstance(opened.get(name), h5py.Dataset):
                raise ValueError(f"{file} has no array {name!r}")
        arrays = {name: item[()] for name, item in opened.items() if isinstance(item, h5py.Dataset)}
        attributes = {name: _plain(value) for name, value in opened["coords"].attrs.items()}
    coords, features = arrays.pop("coords"), arrays.pop("features")
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if features.ndim != 2 or coords.shape != (len(features), 2):
        shapes = f"{list(coords.shape)} and {list(features.shape)}"
        raise ValueError(f"{file}: coords and features are {shapes}, not [N, 2] and [N, D]")
    return FeaturesFile(coords.astype(np.int64), features, attributes, arrays)


def _plain(value: Any) -> Any:
    """A number, text or list instead of NumPy's."""
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
