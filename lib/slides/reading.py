"""Slides read at exact micrometres per pixel, whatever levels their files have.

Coordinates are level-0 pixels, lengths of the picture micrometres: magnifications are not used, for
"40x" is 0.23 µm/px on one scanner and 0.265 on another.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

MPP_RANGE = (0.05, 10.0)  # µm/px of a microscope; 72 dpi, which programs write unasked, is 353
SUPPORT = 2  # pixels that the bicubic filter reaches to each side, at its coarser grid
BLOCK = 4096  # side of what is read at once for a thumbnail, in pixels of the level
MAX_PIXELS = 150e6  # of a picture of a whole slide; of tissue at 8 µm/px that is 96 cm²


@dataclass
class Slide:
    """A slide, opened by each process when it first reads; it can be pickled.

    size: width and height at level 0. mpp: micrometres per level-0 pixel, x and y; mpp_source: who
    says so, "file" or "table". bounds: x, y, width and height of the part that was scanned, in
    level-0 pixels. levels: downsample of each level, as its size shows and as OpenSlide states.
    quickhash: OpenSlide's hash of the slide, which for DICOM is of the series.
    """

    path: Path
    size: tuple[int, int]
    mpp: tuple[float, float]
    mpp_source: str
    bounds: tuple[int, int, int, int]
    levels: tuple[tuple[float, float], ...]
    quickhash: str = ""
    _opened: tuple[int, openslide.OpenSlide] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def opened(self) -> openslide.OpenSlide:
        """OpenSlide's view of the file, of this process: a fork must not share it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(self.path)
        return self._opened[1]

    def close(self) -> None:
        """Free the file and its cache; the next read opens it again."""
        if self._opened and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def identity(self) -> str:
        """Digest what tells the slide from another, or from an earlier scan, of the same name."""
        status = [(f.name, f.stat()) for f in (self.path, *companions(self.path))]
        told = [(name, s.st_size, s.st_mtime_ns) for name, s in status]
        text = repr([self.quickhash, *told]).encode(errors="surrogateescape")
        return blake2b(text, digest_size=16).hexdigest()

    def shape_at(self, mpp: float) -> tuple[int, int]:
        """Count the rows and columns of the whole slide at `mpp` µm/px, at least one.

        Raises ValueError naming the slide where these are more than `MAX_PIXELS`.
        """
        sides = zip(self.size, self.mpp, strict=True)
        width, height = (max(1, round(side * mpp_0 / mpp)) for side, mpp_0 in sides)
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{self.path} claims {self.size[0]} × {self.size[1]} pixels of {self.mpp[0]:.4g} × "
                f"{self.mpp[1]:.4g} µm, more than a slide has: at {mpp:.4g} µm/px at most "
                f"{MAX_PIXELS:.0f} pixels are looked at"
            )
        return height, width

    def side(self, pixels: int, mpp: float) -> tuple[float, float]:
        """Width and height in level-0 pixels of a square tile of `pixels` at `mpp` µm/px.

        Raises ValueError for µm/px that are none.
        """
        if not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"cannot read at {mpp} µm/px")
        return pixels * mpp / self.mpp[0], pixels * mpp / self.mpp[1]

    def read(self, x: int, y: int, pixels: int, mpp: float) -> np.ndarray:
        """Read the square with its top left at level-0 pixel (x, y), uint8 [pixels, pixels, 3].

        Its side is exactly pixels · mpp micrometres: read from the coarsest level that is as fine,
        and resampled (bicubic, antialiased). White where the slide is transparent or ends. Raises
        ValueError naming the slide when it is damaged there.
        """
        return np.array(self._resampled(x, y, (pixels, pixels), mpp))

    def thumbnail(self, mpp: float) -> np.ndarray:
        """Read the whole slide, uint8 [H, W, 3] of `shape_at`; pixel (i, j) begins at (i, j) · mpp.

        Read block by block, so that memory does not grow with the slide. Errors as in `read`.
        """
        height, width = self.shape_at(mpp)
        thumbnail = np.empty((height, width, 3), np.uint8)
        level = self.levels[self._level(mpp)][0]
        block = max(1, int(BLOCK * level * min(self.mpp) / mpp))
        for top in range(0, height, block):
            for left in range(0, width, block):
                size = min(block, width - left), min(block, height - top)
                x, y = left * mpp / self.mpp[0], top * mpp / self.mpp[1]
                part = self._resampled(x, y, size, mpp)
                thumbnail[top : top + size[1], left : left + size[0]] = np.asarray(part)
        return thumbnail

    def _level(self, mpp: float) -> int:
        """The coarsest level that is as fine as `mpp` µm/px; level 0 where none is."""
        if not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"cannot read at {mpp} µm/px")
        finest = [factor * max(self.mpp) <= mpp * (1 + 1e-6) for factor, _ in self.levels]
        return max((level for level, fine in enumerate(finest) if fine), default=0)

    def _resampled(self, x: float, y: float, size: tuple[int, int], mpp: float) -> Image.Image:
        """RGB picture of `size` at `mpp` whose top left is at level-0 position (x, y)."""
        level = self._level(mpp)
        factor, stated = self.levels[level]
        axes = [
            _window(position / factor, length, mpp / (factor * mpp_0), stated, int(whole / factor))
            for position, length, mpp_0, whole in zip(
                (x, y), size, self.mpp, self.size, strict=True
            )
        ]
        location, read = (axes[0][0], axes[1][0]), (axes[0][1], axes[1][1])
        if math.prod(read) > MAX_PIXELS:
            raise ValueError(f"{self.path} has no level for {size[0]} pixels at {mpp} µm/px")
        region = self._region(location, level, read)
        if read == size:
            return region
        (left, right), (top, bottom) = axes[0][2], axes[1][2]
        return region.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))

    def _region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        try:
            region = self.opened.read_region(location, level, size)
        except (openslide.OpenSlideError, OSError) as error:
            self.close()  # OpenSlide answers nothing more after an error
            x, y = location
            raise ValueError(f"{self.path} is damaged near pixel ({x}, {y}): {error}") from error
        opacity = region.getchannel("A")
        if opacity.getextrema()[0] == 255:
            return region.convert("RGB")
        white = Image.new("RGB", size, "white")
        white.paste(region, mask=opacity)
        return white


def _window(
    position: float, length: int, scale: float, stated: float, whole: int
) -> tuple[int, int, tuple[float, float]]:
    """What to read along one axis: level-0 location, pixels of the level, and the box in them.

    position: where the picture begins, in pixels of the level, of which there are `whole`; scale:
    how many there are per pixel of the picture, of which there are `length`. A picture on the
    level's own grid is read as it is, any other with a margin for the filter, but not beyond the
    slide, whose last pixels would pale.
    """
    location = round(round(position) * stated)
    shift = position - location / stated
    if abs(shift) < 1e-3 and abs(scale - 1) * length < 1e-3:
        return location, length, (0.0, float(length))
    margin = math.ceil(SUPPORT * max(scale, 1)) + 1
    last = position + length * scale
    first = max(math.floor(position) - margin, 0 if position >= 0 else -math.inf)
    end = min(math.ceil(last) + margin, whole if last <= whole else math.inf)
    location = round(first * stated)
    begin = location / stated
    return location, math.ceil(end - begin), (position - begin, last - begin)


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide that OpenSlide can read. mpp: µm per level-0 pixel, if the file's is not right.

    Raises FileNotFoundError, and ValueError naming the file when it cannot be read, has no µm/px
    and none is named, or one that no microscope has (outside `MPP_RANGE`).
    """
    path = Path(path)
    with _open(path) as opened:
        properties = opened.properties
        sizes, stated = opened.level_dimensions, opened.level_downsamples
        levels = [
            (_factor(sizes[0], *level), level[1]) for level in zip(sizes, stated, strict=True)
        ]
        bounds = [
            properties.get(f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")
        ]
        return Slide(
            path,
            sizes[0],
            _micrometres_per_pixel(path, properties, mpp),
            "file" if mpp is None else "table",
            (0, 0, *sizes[0]) if None in bounds else _bounds(path, bounds, sizes[0]),
            tuple(levels),
            properties.get("openslide.quickhash-1", ""),
        )


def _open(path: Path) -> openslide.OpenSlide:
    if not path.is_file():
        raise FileNotFoundError(f"the slide {path} is missing")
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no slide that OpenSlide reads, such as a tiled TIFF: {error}"
        ) from error


def _bounds(path: Path, values: Sequence[Any], size: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = map(int, values)
    if not (0 <= x < size[0] and 0 <= y < size[1] and min(width, height) > 0):
        raise ValueError(f"{path}: what was scanned, {values}, is not in its {size} pixels")
    return x, y, min(width, size[0] - x), min(height, size[1] - y)


def companions(path: Path) -> list[Path]:
    """List the other files of a slide: a MIRAX slide's folder, or what a VMS or VMU file names."""
    if path.suffix.lower() == ".mrxs":
        return sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    with path.open(errors="replace") as opened:
        named = {line.partition("=")[2].strip() for line in opened.read(2**16).splitlines()}
    return sorted(file for file in path.parent.iterdir() if file.name in named)


def _micrometres_per_pixel(
    path: Path, properties: Mapping[str, str], listed: float | None
) -> tuple[float, float]:
    way_out = "write its µm/px at level 0 into the column `mpp` of the slide table"
    stated = [properties.get(f"openslide.mpp-{axis}", "") for axis in "xy"]
    if listed is not None:
        stated = [str(float(listed))] * 2
    if "" in stated:
        raise ValueError(f"{path} does not say how large its pixels are: {way_out}")
    try:
        x, y = map(float, stated)
    except ValueError:
        raise ValueError(f"{path}: its µm/px are no numbers, {stated}: {way_out}") from None
    low, high = MPP_RANGE
    if not (low <= x <= high and low <= y <= high):
        source = "the file says" if listed is None else "the slide table says"
        raise ValueError(
            f"{path}: {source} {x:.4g} × {y:.4g} µm/px, and no slide is outside {low} … {high}: "
            + way_out
        )
    return x, y


def _factor(size: tuple[int, int], level: tuple[int, int], stated: float) -> float:
    """Downsample of a level: whole where its size is that of a whole one, rounded up or down.

    OpenSlide divides the sizes: half of 4443 × 3567 pixels is 2221 × 1783 at a "downsample" of
    2.0005, by which positions drift and the level seems coarser than twice level 0.
    """
    whole = round(stated)
    fits = [side // whole <= at <= -(-side // whole) for side, at in zip(size, level, strict=True)]
    return float(whole) if all(fits) else stated
