"""The slides of a run: their tissue and tiles, and one file of features for each of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from openslide import OpenSlideError

from lib.artefacts import NO_ROOM, atomic, digest_of, new_array
from lib.slides.features_file import (
    GivenFeatures,
    read_features,
    read_given,
    read_made_from,
    write_features,
)
from lib.slides.geojson import write_geojson
from lib.slides.grid import read_tiles, tile_grid
from lib.slides.reading import Slide, open_slide
from lib.slides.slide_table import TISSUE
from lib.slides.tissue import (
    TISSUE_MPP,
    mask_to_outlines,
    optical_density,
    stained_mask,
    tissue_of,
)
from lib.vlm.inference import VLM, encode_images, weights_digest
from lib.vlm.views import plain_view

COARSEST = 2.0  # µm/px of a slide by those of its tiles; more is enlarged to a blur
ALGORITHM = 1  # one more where the same slide is to have other tissue, tiles or pixels than before


@dataclass(frozen=True)
class Cohort:
    """The slides of a run, the size of their tiles and the folder of their features.

    folder: that the paths in the table begin in; table: of `read_slide_table` or `list_slides`, or
    some of its lines; out: folder of `<name>.h5` and `<name>.tissue.geojson`; pixels, mpp: side of
    a tile in pixels, which is the model's, and µm per pixel; min_stained: share of a tile that has
    to have colour, for holes in tissue belong to it and may be as large as a tile; given: a folder
    of features of others, see `read_given`. Then its tiles stand for tissue and grid, each as large
    as it is there and shown to the model at its own size, and its features for the model's.
    """

    folder: Path
    table: pd.DataFrame
    out: Path
    pixels: int
    mpp: float
    min_stained: float = 0.0
    given: Path | None = None

    def given_of(self, slide: Slide) -> GivenFeatures | None:
        """Features of others for a slide, where the cohort has any. Errors as in `read_given`."""
        return read_given(self.given, slide) if self.given else None

    def mpp_of(self, slide: Slide, side: float = 0.0) -> float:
        """µm per pixel of its tiles; side: in level-0 pixels, where they are those of others."""
        return float(side * np.mean(slide.mpp) / self.pixels) if side else self.mpp

    def open(self, line: Any) -> Slide:
        """Open the slide of a line of the table.

        Errors as in `open_slide`, and ValueError for one that would have to be enlarged by more
        than `COARSEST`.
        """
        slide = open_slide(
            self.folder / line["path"], None if np.isnan(line["mpp"]) else line["mpp"]
        )
        if not self.given and max(slide.mpp) > COARSEST * self.mpp:
            slide.close()
            raise ValueError(
                f"{slide.path} has {max(slide.mpp):.4g} µm/px, coarser than the tiles, of "
                f"{self.mpp:.4g} µm/px: at most {COARSEST:g} times these are enlarged"
            )
        return slide

    def tissue(self, slide: Slide, line: Any) -> tuple[np.ndarray, np.ndarray, str]:
        """Find a slide's tissue at `TISSUE_MPP`, the tiles in it, and where the tissue is from.

        Tiles are the top left corners, int64 [N, 2]. Errors as in `tissue_of`, and ValueError where
        no tile fits in.
        """
        if given := self.given_of(slide):
            return given.area(slide, TISSUE_MPP), given.coords, given.file.name
        density = optical_density(slide) if self.min_stained or not line["tissue"] else None
        edited = Path(line["tissue"]) if line["tissue"] else None
        mask, source = tissue_of(slide, edited, density)
        coords = tile_grid(slide, mask, TISSUE_MPP, self.pixels, mpp=self.mpp)
        if density is not None and self.min_stained:
            size = {"mpp": self.mpp, "min_tissue": self.min_stained}
            stained = tile_grid(slide, stained_mask(density), TISSUE_MPP, self.pixels, **size)
            corners = {*map(tuple, stained.tolist())}
            coords = coords[[tuple(corner) in corners for corner in coords.tolist()]]
        if not len(coords):
            shown = f"{self.pixels} px at {self.mpp} µm/px"
            raise ValueError(f"{slide.name}: no tile of {shown} in tissue")
        return mask, coords, source

    def read(
        self, tiles: pd.DataFrame, pixels: int = 0, into: np.ndarray | None = None
    ) -> np.ndarray:
        """Read some tiles, uint8 [n, pixels, pixels, 3], in their order; a slide is opened once.

        tiles: a line per tile with columns slide, x and y (top left, pixels of level 0), and side
        for features of others; pixels: of their side, where it is not that of the cohort; into: an
        array to fill and return.
        """
        pixels = pixels or self.pixels
        pictures = np.empty((len(tiles), pixels, pixels, 3), np.uint8) if into is None else into
        table = self.table.set_index("slide")
        for number, rows in tiles.groupby("slide").indices.items():
            with self.open(table.loc[number]) as slide:
                mpp = self.mpp_of(slide, tiles.side.values[rows[0]] if self.given else 0)
                mpp = mpp if pixels == self.pixels else self.pixels * mpp / pixels
                for row, (x, y) in zip(rows, tiles[["x", "y"]].values[rows].tolist(), strict=True):
                    pictures[row] = slide.read(x, y, pixels, mpp)
        return pictures

    def gather_tiles(self) -> pd.DataFrame:
        """Put the features of all slides side by side: arrays of all tiles in `out`.

        These are backbone_features.npy and image_embeds.npy. Returns a line per tile, in the order
        of the rows: slide, x, y (top left, pixels of level 0) and side (float, likewise). Raises
        ValueError naming slides that have no features, a file that is not of `embed_slides`, and
        one whose features have another length than those before.
        """
        files = [self.out / f"{name}.h5" for name in self.table.name]
        if missing := [file.stem for file in files if not file.is_file()]:
            raise ValueError(
                f"{len(missing)} of {len(files)} slides have no features, the first: {missing[0]}. "
                "Run 02_slide_features again, or take their lines out of the table of slides"
            )
        lines, length = [], 0
        for number, file in zip(self.table.slide, files, strict=True):
            arrays, attributes = read_features(file)
            if "image_embeds" not in arrays or "made_from" not in attributes:
                raise ValueError(f"{file} is of another program: remove it")
            own = arrays["features"].shape[1]
            length = length or own
            if own != length:
                raise ValueError(f"{file}: its features have {own} numbers, others {length}")
            side = attributes["patch_size_level0_exact"]
            corners = pd.DataFrame(arrays["coords"], columns=["x", "y"])
            lines.append(corners.assign(slide=number, side=side))
        ends = np.cumsum([len(corners) for corners in lines])
        # Read once more, to know the sizes first: those of all slides would not fit in memory.
        for stored, name in {
            "features": "backbone_features",
            "image_embeds": "image_embeds",
        }.items():
            like = arrays[stored]
            with atomic(self.out / f"{name}.npy") as temporary:
                joined = new_array(temporary, (int(ends[-1]), *like.shape[1:]), like.dtype)
                for file, end in zip(files, ends, strict=True):
                    own = read_features(file)[0][stored]
                    joined[end - len(own) : end] = own
        return pd.concat(lines, ignore_index=True)


def embed_slides(
    vlm: VLM, cohort: Cohort, *, workers: int = 2, batch_size: int = 64
) -> pd.DataFrame:
    """Write tissue, grid and features of each slide.

    A slide is passed over if its features are there and were made from the same slide, tissue,
    model and settings; one that cannot be read or has no tissue stops no other. In its file are
    `features` [N, E], before the projection, and `image_embeds` [N, D], which meet the prompts,
    both float16; the former are those of others where the cohort has them.

    Returns a line per slide: name, tiles, waiting (seconds for tiles to be read), encoding
    (seconds), anew (what has changed since features that were there, "" if there were none),
    without (what of corrected tissue is left out) and error, "" if none. Raises OSError when the
    disk is full.

    """
    lines = []
    towers = [(member.mean, member.std, repr(member.model.visual)) for member in vlm.members]
    of_all = {
        "vlm": f"{vlm.name} {weights_digest(vlm)} {digest_of({'towers': towers})}",
        "tile": f"{cohort.pixels} px, {cohort.mpp} µm/px, {cohort.min_stained:g} stained",
        "algorithm": str(ALGORITHM),
    }
    for _, line in cohort.table.iterrows():
        report = {"name": line["name"], "tiles": 0, "waiting": 0.0, "encoding": 0.0, "anew": ""}
        report["without"] = ""
        try:
            with cohort.open(line) as slide:
                tissue = digest_of({}, Path(line["tissue"])) if line["tissue"] else "detected"
                made_from = of_all | {"slide": slide.identity(), "µm/px": f"{slide.mpp}"}
                made_from |= {"tissue": tissue}
                if given := cohort.given_of(slide):
                    made_from["tile"] += f", of {given.file.name} {digest_of({}, given.file)}"
                changed = _changed(cohort.out, line, made_from)
                if changed is not None:
                    report["anew"] = changed
                    reading = {"workers": workers, "batch": batch_size}
                    report |= _embed(vlm, cohort, slide, line, made_from=made_from, reading=reading)
            report["error"] = ""
        except Exception as error:  # one slide ends no other, whatever a library raises for it
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            if full or isinstance(error, MemoryError):
                raise
            expected = isinstance(error, ValueError | OSError | OpenSlideError)
            report["error"] = str(error) if expected else f"{type(error).__name__}: {error}"
        lines.append(report)
    return pd.DataFrame(lines)


def _changed(out: Path, line: Any, made_from: Mapping[str, str]) -> str | None:
    """What differs from what the features that are there were made from; None if nothing does.

    Raises ValueError when the tissue beside them was drawn anew there, which would be lost.
    """
    file, outlines = out / f"{line['name']}.h5", out / f"{line['name']}{TISSUE}"
    before = read_made_from(file)
    if before and outlines.is_file():
        shown = digest_of({}, outlines)
        if shown not in (before.get("outlines"), made_from["tissue"]):
            raise ValueError(
                f"{outlines} was changed: put it into another folder, and name that folder as the "
                "one with corrected tissue; or remove it"
            )
    differing = [name for name, value in made_from.items() if before.get(name) != value]
    if not differing and outlines.is_file():
        return None
    return ", ".join(differing) if file.is_file() else ""


@torch.no_grad()
def _embed(
    vlm: VLM,
    cohort: Cohort,
    slide: Slide,
    line: Any,
    *,
    made_from: Mapping[str, str],
    reading: Mapping[str, int],
) -> dict[str, Any]:
    """Write one slide. Its features appear last, so a slide with them is complete."""
    file, outlines = (cohort.out / f"{line['name']}{end}" for end in (".h5", TISSUE))
    given = cohort.given_of(slide)
    mask, coords, source = cohort.tissue(slide, line)
    mpp = cohort.mpp_of(slide, given.side if given else 0)
    encoded: dict[int, list[np.ndarray]] = {}
    seconds = {"waiting": 0.0, "encoding": 0.0}
    clock = time.perf_counter()
    for numbers, images in read_tiles(slide, coords, cohort.pixels, mpp, **reading):
        read = time.perf_counter()
        pixels = plain_view(images.to(vlm.device), cohort.pixels)
        encoded[numbers[0]] = [f.half().cpu().numpy() for f in encode_images(vlm, pixels)]
        seconds["waiting"] += read - clock
        clock = time.perf_counter()
        seconds["encoding"] += clock - read
    file.unlink(missing_ok=True)  # made from something else
    if not (outlines.is_file() and line["tissue"] and outlines.samefile(line["tissue"])):
        write_geojson(outlines, mask_to_outlines(mask, slide, TISSUE_MPP))
    in_order = zip(*(encoded[first] for first in sorted(encoded)), strict=True)
    backbone_features, image_embeds = map(np.concatenate, in_order)
    if given:
        backbone_features = given.features
    arrays = {"coords": coords, "features": backbone_features, "image_embeds": image_embeds}
    made_from = {**made_from, "outlines": digest_of({}, outlines)}
    write_features(file, arrays, slide, pixels=cohort.pixels, mpp=mpp, made_from=made_from)
    return {"tiles": len(coords), "without": source.partition(", without ")[2], **seconds}
