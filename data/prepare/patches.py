"""Cut images with masks into labelled tiles."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from lib.data import images

STAINED = 15  # of 255: saturation above which a pixel is tissue
MAX_PIXELS = 4 * 10**8  # of one image, 1.2 GB; other limits are below the largest of DigestPath
JPEG_QUALITY = 95
COLUMNS = ["path", "class", "image", "left", "top", "tissue", "mask"]


def count(source: Path, recipe: Mapping[str, Any]) -> int:
    """Number of images that a recipe cuts; files that are masks of others are not among them."""
    return len(_list_images(source, recipe["images"]))


@dataclass(frozen=True)
class Rule:
    """Which tiles an image gives, and of which class.

    Tiles of `size` px overlap by `overlap` px, from the upper left; what remains at the right and
    lower edge, smaller than a tile, is left out. A tile with a smaller `tissue_share` than `tissue`
    is dropped. A mask pixel counts if its value is above `above` (0–255); the tile is of the second
    class if more than `share` of its mask counts. VLM-CPL's rule for HPH, any tumour pixel, is a
    share of 0. Raises ValueError for an overlap that no grid has.
    """

    size: int
    overlap: int
    tissue: float
    above: int
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"tiles of {self.size} px cannot overlap by {self.overlap} px")


def cut_images(
    source: Path,
    folder: Path,
    *,
    kinds: Sequence[str],
    images: Sequence[Mapping[str, Any]],
    **rule: Any,
) -> None:
    """Cut images into square tiles in two class folders, labelled by their masks.

    Writes `folder/<class>/<image's name>_<left>_<top>` (PNG of PNG, else JPEG of quality 95) and
    `folder/tiles.csv`: path, class, image, left, top, tissue, mask (the shares). The same images
    give the same bytes. Images are decoded one at a time.

    Parameters
    ----------
    kinds : names of the two class folders
    images : `{images, masks}`, a file pattern below `source` and the path of the mask, with
        `{stem}` for the image's name; without `masks` all tiles are of the first class
    rule : the fields of `Rule`

    Raises
    ------
    ValueError
        naming the mask that is missing or not of its image's size, the image that cannot be read,
        and two images with one name
    """
    by = Rule(**rule)
    listed = _list_images(source, images)
    _check_names(listed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with _larger_images(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, mask in tqdm(listed, "cutting images", unit="image"):
            image, marked = _read(file, mask, by.above)
            patches = _tiles(image, marked, by)
            for row in patches:
                kind = kinds[int(row["mask"] > by.share)]
                name = f"{file.stem}_{row['left']}_{row['top']}{_ending(file)}"
                row |= {"path": f"{kind}/{name}", "class": kind}
                row |= {"image": file.relative_to(source).as_posix()}
            list(pool.map(lambda row: _save(image, row, by.size, folder), patches))  # noqa: B023
            rows += patches
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "tiles.csv", index=False)


def tissue_share(image: Image.Image) -> float:
    """Share of an image's pixels, 0 to 1, that are tissue: saturation above 15 of 255.

    Glass is grey whatever its brightness, stained tissue is not: CLAM (Lu et al., Nature Biomedical
    Engineering 2021) segments slides on the saturation of HSV, with this threshold in its preset
    for biopsies. Unlike there, the picture is full size and not smoothed before.
    """
    saturation = np.asarray(image.convert("HSV"))[:, :, 1]
    return float((saturation > STAINED).mean())


def _list_images(
    source: Path, images: Sequence[Mapping[str, Any]]
) -> list[tuple[Path, Path | None]]:
    """Every image, ordered by path in each entry, with the place of its mask."""
    listed: list[tuple[Path, Path | None]] = []
    for entry in images:
        files = sorted(f for f in source.glob(entry["images"]) if not f.name.startswith("."))
        pattern = entry.get("masks")
        masks = [source / pattern.replace("{stem}", f.stem) if pattern else None for f in files]
        listed += [(f, m) for f, m in zip(files, masks, strict=True) if f not in masks]
    return listed


def _check_names(listed: Sequence[tuple[Path, Path | None]]) -> None:
    """Two images of one name would overwrite each other's tiles; a mask may be missing."""
    named: dict[str, Path] = {}
    for file, mask in listed:
        if file.stem in named:
            raise ValueError(f"two images have one name: {named[file.stem]} and {file}")
        named[file.stem] = file
        if mask is not None and not mask.is_file():
            raise ValueError(f"{file} has no mask: {mask} is missing")


@contextmanager
def _larger_images() -> Iterator[None]:
    limits = Image.MAX_IMAGE_PIXELS, images.MOST_PIXELS
    Image.MAX_IMAGE_PIXELS = images.MOST_PIXELS = MAX_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, images.MOST_PIXELS = limits


def _read(file: Path, mask_file: Path | None, above: int) -> tuple[Image.Image, np.ndarray]:
    """An image, and which of its pixels [height, width] its mask marks."""
    image = _decode(file, "RGB")
    if mask_file is None:
        return image, np.zeros((image.height, image.width), bool)
    mask = _decode(mask_file, "L")
    if mask.size != image.size:
        raise ValueError(f"the mask {mask_file} is {mask.size} px, its image {image.size} px")
    return image, np.asarray(mask) > above


def _decode(file: Path, mode: str) -> Image.Image:
    try:
        with images.open_image(file) as opened:
            return opened.convert(mode)
    except Exception as error:  # of a damaged file Pillow raises every type that there is
        raise ValueError(f"{file} cannot be read; remove or replace it ({error})") from error


def _tiles(image: Image.Image, marked: np.ndarray, rule: Rule) -> list[dict[str, Any]]:
    """Position and shares of every tile of the grid that holds enough tissue."""
    tiles, size, step = [], rule.size, rule.size - rule.overlap
    for top in range(0, image.height - size + 1, step):
        for left in range(0, image.width - size + 1, step):
            stained = tissue_share(image.crop((left, top, left + size, top + size)))
            if stained >= rule.tissue:
                mask = float(marked[top : top + size, left : left + size].mean())
                tiles.append({"left": left, "top": top, "tissue": stained, "mask": mask})
    return tiles


def _ending(file: Path) -> str:
    return ".png" if file.suffix.lower() == ".png" else ".jpg"


def _save(image: Image.Image, row: Mapping[str, Any], size: int, folder: Path) -> None:
    left, top = row["left"], row["top"]
    tile = image.crop((left, top, left + size, top + size))
    tile.save(folder / row["path"], quality=JPEG_QUALITY)
