"""Slides as files: tiled, pyramidal TIFFs that OpenSlide reads."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lib.artefacts import atomic

SMALLEST_LEVEL = 512  # longer side in pixels


def write_pyramid(
    file: Path,
    image: np.ndarray,
    mpp: float | tuple[float, float] | None,
    *,
    lossless: bool = False,
) -> None:
    """Write an image as a tiled, pyramidal TIFF that OpenSlide reads with its µm/px.

    image: uint8 [H, W, 3]; each level is half the one before until the longer side is at most
    `SMALLEST_LEVEL`. JPEG of quality 90, or deflate if `lossless`. mpp: x and y, or one for both;
    None writes no resolution. Raises ValueError for any other kind of image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a slide is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    picture = Image.fromarray(image)
    level = 0
    with atomic(Path(file)) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as tiff:
        while True:
            scale = 1e4 / 2**level  # pixels per centimetre at one µm/px
            tiff.write(
                np.asarray(picture),
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate" if lossless else "jpeg",
                compressionargs={} if lossless else {"level": 90},
                metadata=None,
                software=False,
                subfiletype=int(level > 0),  # without it OpenSlide sees one level
                resolution=(scale / x, scale / y) if x and y else None,
                resolutionunit="CENTIMETER" if x else "NONE",
            )
            if max(picture.size) <= SMALLEST_LEVEL:
                break
            picture, level = picture.reduce(2), level + 1
