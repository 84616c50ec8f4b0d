"""The slides of a dataset: their table, and one file of features for each of them."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd
import torch

from lib import paths
from lib.data import datasets
from lib.data.cards import Card
from lib.slides import made_slides
from lib.slides.annotations import write_geojson
from lib.slides.features_file import write_features
from lib.slides.grid import read_tiles, tile_grid
from lib.slides.reading import Slide, open_slide
from lib.slides.tissue import TISSUE_MPP, mask_to_geojson, tissue_of
from lib.vlm.inference import VLM, encode_images
from lib.vlm.views import plain_view

COLUMNS = ("path", "label")  # of a slide table; case and mpp may be there too


def prepare(card: Card) -> Path:
    """The folder of a dataset's slides; those drawn or composed are made by the first call.

    Raises FileNotFoundError as `datasets.locate` does.
    """
    assert card.slides is not None
    folder, targets = paths.raw_folders()[0] / card.folder, [c.folder for c in card.classes]
    for kind, write in (
        ("drawn", made_slides.write_drawn_slides),
        ("composed", made_slides.write_composed_slides),
    ):
        if kind in card.slides:
            return datasets.made(folder, {**card.slides[kind], "targets": targets}, write)
    return datasets.locate(card)


def read_slide_table(card: Card, folder: Path) -> pd.DataFrame:
    """All slides of a dataset, in the order of their paths.

    Columns: slide (int64, 0 … S−1), name (the file's without its ending), path (below `folder`),
    label (int64, index of the class; a class's `folder` is its label in the file), group (the case,
    or the slide itself), mpp (float, µm per pixel of level 0, NaN where the file says it), and fold
    where the file gives it. Raises ValueError naming the column, the slide or the label that is
    missing or unknown.
    """
    assert card.slides is not None
    file = folder / card.slides["table"]
    if not file.is_file():
        raise ValueError(f"{card.name}: the table of slides {file} is missing")
    listed = pd.read_csv(file, dtype={"label": str, "case": str})
    for column in COLUMNS:
        if column not in listed:
            raise ValueError(f"{file} has no column {column!r}")
    listed = listed.sort_values("path", ignore_index=True)
    label_of = {c.folder: n for n, c in enumerate(card.classes)}
    for path, label in zip(listed.path, listed.label, strict=True):
        if label not in label_of:
            known = ", ".join(label_of)
            raise ValueError(f"{file}: {path} has the unknown label {label!r}. Known: {known}")
        if not (folder / path).is_file():
            raise ValueError(f"{file} names the absent slide {path!r}")
    names = listed.path.map(lambda path: Path(path).stem)
    if names.duplicated().any():
        raise ValueError(f"{file}: two slides are called {names[names.duplicated()].iloc[0]!r}")
    cases = listed["case"] if "case" in listed else names
    table = pd.DataFrame(
        {
            "slide": np.arange(len(listed)),
            "name": names,
            "path": listed.path,
            "label": listed.label.map(label_of).astype(np.int64),
            "group": cases.fillna(names),
            "mpp": listed["mpp"].astype(float) if "mpp" in listed else np.nan,
        }
    )
    return table.assign(fold=listed.fold) if "fold" in listed else table


def list_slides(folder: Path, listed: Path | None = None) -> pd.DataFrame:
    """The slides below a folder, of unknown class: as `read_slide_table`, with label −1.

    Whatever OpenSlide can read counts, in the order of the paths. listed: a CSV with columns path
    and mpp, for slides that do not say their µm per pixel. Raises FileNotFoundError without the
    folder, ValueError without a slide in it or naming a path that is listed and not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    paths_ = [str(f.relative_to(folder)) for f in files if openslide.OpenSlide.detect_format(f)]
    if not paths_:
        raise ValueError(f"{folder} holds {len(files)} files, and none is a slide")
    table = pd.DataFrame({"slide": np.arange(len(paths_)), "path": paths_, "label": -1})
    names = [paths.file_name(str(Path(path).with_suffix(""))) for path in paths_]
    table = table.assign(name=names, group=names, mpp=np.nan)
    if listed:
        given = pd.read_csv(listed).set_index("path").mpp.astype(float)
        for path in given.index.difference(pd.Index(paths_)):
            raise ValueError(f"{listed} names {path!r}, which is no slide in {folder}")
        table["mpp"] = table.path.map(given)
    return table


def open_listed(folder: Path, line: Any) -> Slide:
    """The slide of a line of `read_slide_table`. Errors as in `open_slide`."""
    return open_slide(folder / line["path"], None if np.isnan(line["mpp"]) else line["mpp"])


def read_listed(
    folder: Path,
    table: pd.DataFrame,
    tiles: pd.DataFrame,
    pixels: int,
    mpp: float,
    into: np.ndarray,
) -> np.ndarray:
    """Read some tiles into an array [n, pixels, pixels, 3] and return it; a slide is opened once.

    folder, table: of `read_slide_table`; tiles: a line per tile with columns slide, x and y (top
    left, pixels of level 0); mpp: µm per pixel. Errors as in `open_slide`.
    """
    places = pd.Series(np.arange(len(tiles)), tiles.index)
    for number, of_slide in tiles.groupby("slide"):
        with open_listed(folder, table.iloc[int(number)]) as slide:
            for row, x, y in of_slide[["x", "y"]].itertuples():
                into[places[row]] = slide.read(x, y, pixels, mpp)
    return into


def tissue_listed(slide: Slide, edited: Path | None, name: str) -> tuple[np.ndarray, str]:
    """`tissue_of`, from `<name>.tissue.geojson` in the folder `edited` if it is there."""
    own = edited / f"{name}.tissue.geojson" if edited else None
    return tissue_of(slide, own if own and own.is_file() else None)


def embed_slides(
    vlm: VLM,
    folder: Path,
    table: pd.DataFrame,
    out: Path,
    *,
    mpp: float,
    edited: Path | None = None,
    workers: int = 2,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Tissue, grid and features of each slide: `<name>.h5` and `<name>.tissue.geojson` in `out`.

    folder, table: of `read_slide_table`, or some of its lines; mpp: µm per pixel of the tiles,
    whose side in pixels is the VLM's; edited: a folder in which `<name>.tissue.geojson`, drawn or
    corrected in QuPath, stands for the tissue that would be found. A slide whose file is there is
    passed over; one that cannot be read or has no tissue stops no other. Returns a line per slide:
    name, tiles, waiting (seconds for tiles to be read), encoding (seconds) and error, "" if none.
    """
    lines = []
    for _, line in table.iterrows():
        done = out / f"{line['name']}.h5"
        report = {"name": line["name"], "tiles": 0, "waiting": 0.0, "encoding": 0.0, "error": ""}
        try:
            if not done.is_file():
                with open_listed(folder, line) as slide:
                    mask, _ = tissue_listed(slide, edited, line["name"])
                    report |= _embed(vlm, slide, mask, done, mpp, workers, batch_size)
        except (ValueError, FileNotFoundError) as error:
            report["error"] = str(error)
        lines.append(report)
    return pd.DataFrame(lines)


@torch.inference_mode()
def _embed(
    vlm: VLM, slide: Slide, mask: np.ndarray, file: Path, mpp: float, workers: int, batch_size: int
) -> dict[str, float]:
    """Write one slide. Its features appear last, so a slide with them is complete.

    In the file: the unprojected features [N, E] and as `projected` [N, D] those that meet the
    prompts, both float16.
    """
    coords = tile_grid(slide, mask, TISSUE_MPP, vlm.image_size, mpp)
    if not len(coords):
        raise ValueError(f"{slide.name}: no tile of {vlm.image_size} px at {mpp} µm/px in tissue")
    found: dict[int, list[np.ndarray]] = {}
    seconds = {"waiting": 0.0, "encoding": 0.0}
    clock = time.perf_counter()
    for rows, images in read_tiles(slide, coords, vlm.image_size, mpp, workers, batch_size):
        read = time.perf_counter()
        pixels = plain_view(torch.from_numpy(images).to(vlm.device), vlm.image_size)
        found[rows.start] = [f.half().cpu().numpy() for f in encode_images(vlm, pixels)]
        seconds["waiting"] += read - clock
        clock = time.perf_counter()
        seconds["encoding"] += clock - read
    outlines = file.with_name(f"{file.stem}.tissue.geojson")
    write_geojson(outlines, mask_to_geojson(mask, TISSUE_MPP, slide))
    in_order = zip(*(found[start] for start in sorted(found)), strict=True)
    unprojected, projected = map(np.concatenate, in_order)
    write_features(
        file, coords, unprojected, slide=slide, pixels=vlm.image_size, mpp=mpp,
        extra={"projected": projected},
    )  # fmt: skip
    return {"tiles": len(coords), **seconds}


def relevant_tissue(
    card: Card, folder: Path, table: pd.DataFrame, tiles: pd.DataFrame
) -> np.ndarray | None:
    """Tiles that show mostly what gives their slide its label, bool [N]; None where unknown.

    Known of slides that were made here; it judges open-set prompting and decides nothing. tiles: a
    line per tile with columns slide, x, y and side, the last three in pixels of level 0.
    """
    if not (folder / "kinds.json").is_file():
        return None
    relevant = np.zeros(len(tiles), bool)
    for slide, of_slide in tiles.groupby("slide"):
        line = table.iloc[int(slide)]
        kinds = made_slides.kinds_of_tiles(
            folder, line["name"], of_slide[["x", "y"]].values, float(of_slide.side.iloc[0])
        )
        relevant[of_slide.index] = kinds == card.classes[line["label"]].folder
    return relevant
