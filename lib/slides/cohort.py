"""The slides of a dataset: their table, and one file of features for each of them."""

import errno
import os
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch
from openslide import OpenSlide, OpenSlideError

from apps.slide_viewer.annotations import write_geojson
from data.prepare import synthetic_slides
from lib import paths
from lib.artefacts import digest_of
from lib.csv_tables import number, path_key, read_table, refuse
from lib.data.cards import Card
from lib.slides.features_file import read_made_from, write_features
from lib.slides.grid import read_tiles, tile_grid
from lib.slides.reading import MPP_RANGE, Slide, companions, identity_of, open_slide, series_of
from lib.slides.tissue import TISSUE_MPP, mask_to_geojson, tissue_of
from lib.vlm.inference import VLM, encode_images, weights_digest
from lib.vlm.views import plain_view

COLUMNS = ("path", "label")  # of a slide table; case, mpp and fold may be there too
TISSUE = ".tissue.geojson"
ALGORITHM = 1  # one more where the same slide is to have other tissue, tiles or pixels than before


def read_slide_table(card: Card, folder: Path) -> pd.DataFrame:
    """All slides of a dataset, in the order of their paths.

    Columns: slide (int64, 0 … S−1), name (see `_names`), path (below `folder`), label (int64, index
    of the class; a class's `folder` is its label in the file), group (the case, or the slide
    itself), mpp (float, µm per pixel of level 0, NaN where the file says it), tissue (see
    `with_tissue`), and fold where the file gives it. Raises ValueError naming the file and the
    column that is missing, or all lines that are wrong and why.
    """
    assert card.slides is not None
    file = folder / card.slides["table"]
    if not file.is_file():
        raise ValueError(f"{card.name}: the table of slides {file} is missing")
    listed = read_table(file, COLUMNS, ("case", "mpp", "fold"))
    label_of = {c.folder: n for n, c in enumerate(card.classes)}
    on_disk = {path: _on_disk(folder, path) for path in listed.path}
    problems = []
    for line, path, label in zip(listed.line, listed.path, listed.label, strict=True):
        if label not in label_of:
            known = ", ".join(label_of)
            problems.append(f"line {line}: {path} has the unknown label {label!r}. Known: {known}")
        if not on_disk[path]:
            problems.append(
                f"line {line}: names the absent slide {path!r}; paths begin in {folder}"
            )
    if "fold" in listed:
        wrong = listed[~listed.fold.str.fullmatch("[0-9]{1,9}")]
        problems += [f"line {line}: {fold!r} is no fold"
                     for line, fold in zip(wrong.line, wrong.fold, strict=True)]  # fmt: skip
    mpp = _mpp_by_path(file, listed, problems)
    listed["path"] = listed.path.map(on_disk)
    listed = listed.sort_values("path", ignore_index=True)
    table = _numbered(listed.path, mpp).assign(label=listed.label.map(label_of).astype(np.int64))
    if "case" in listed:
        table["group"] = listed["case"].where(listed["case"] != "", table.name)
    return table.assign(fold=listed.fold.astype(int)) if "fold" in listed else table


def list_slides(folder: Path, listed: Path | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """The slides below a folder, of unknown class, and why each other file below it is left out.

    The table is as of `read_slide_table`, with label −1. Whatever OpenSlide can read counts, but
    hidden files; one of several files counts once, and its parts are not left out. listed: a CSV
    with columns path and mpp, for slides that do not say their µm per pixel. Raises
    FileNotFoundError without the folder, ValueError without a slide in it or naming all lines of
    `listed` that are wrong.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    below = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*"))}
    below = {p: f for p, f in below.items() if not any(n[0] == "." for n in p.split("/"))}
    files = {p: f for p, f in below.items() if not f.is_dir() or f.is_symlink()}
    reasons = {path: _why_no_slide(path, file) for path, file in files.items()}
    first: dict[tuple[Path, str], str] = {}  # of each DICOM series
    parts: set[str] = set()
    for path in [path for path, reason in reasons.items() if not reason]:
        series = series_of(files[path])
        if series and first.setdefault((files[path].parent, series), path) != path:
            parts.add(path)
        parts.update(p.relative_to(folder).as_posix() for p in companions(files[path]))
    slides = [path for path in files if path not in parts and not reasons[path]]
    left_out = {_shown(p): reason for p, reason in reasons.items() if reason and p not in parts}
    if not slides:
        raise ValueError(f"{folder} holds {len(files)} files, and none is a slide")
    mpp: dict[str, float] = {}
    if listed:
        lines = read_table(listed, ("path", "mpp"))
        known = {path_key(path) for path in [*slides, *left_out]}
        strange = lines[~lines.path.map(path_key).isin(known)]
        mpp = _mpp_by_path(listed, lines, [
            f"line {line}: names {path!r}, which is no slide in {folder}"
            for line, path in zip(strange.line, strange.path, strict=True)
        ])  # fmt: skip
    return _numbered(pd.Series(slides), mpp).assign(label=-1), left_out


def _why_no_slide(path: str, file: Path) -> str:
    if file.is_dir():
        return "a link to a folder is not followed"
    try:
        path.encode()
        if file.is_file() and OpenSlide.detect_format(file):
            return ""
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return str(error)
    return "no slide that OpenSlide reads: empty, cut, or of another format"


def _on_disk(folder: Path, path: str) -> str | None:
    """The path of a table as the disk spells it; None where it is not there or leads elsewhere."""
    key = path_key(path)
    if key.startswith(("/", "../")):
        return None
    spelled = (key, unicodedata.normalize("NFD", key), path)
    return next((p for p in spelled if os.path.isfile(folder / p)), None)


def _mpp_by_path(file: Path, listed: pd.DataFrame, problems: Sequence[str]) -> dict[str, float]:
    """The µm per pixel in a table, by `path_key`, without empty cells.

    problems: of its lines so far. Raises ValueError naming these, each line whose µm per pixel no
    slide has, and each that names a slide for the second time.
    """
    problems, mpp, (low, high) = [*problems], {}, MPP_RANGE
    for row in listed[listed.path.map(path_key).duplicated()].itertuples():
        problems.append(f"line {row.line}: {row.path!r} is listed twice")
    for row in listed[listed["mpp"] != ""].itertuples() if "mpp" in listed else ():
        try:
            mpp[path_key(row.path)] = number(row.mpp, f"line {row.line}: mpp")
            if not low <= mpp[path_key(row.path)] <= high:
                problems.append(f"line {row.line}: mpp is {row.mpp}, not in {low} … {high} µm/px")
        except ValueError as error:
            problems.append(str(error))
    refuse(str(file), problems)
    return mpp


def _numbered(paths_: pd.Series, mpp: Mapping[str, float]) -> pd.DataFrame:
    names = _names(paths_)
    return pd.DataFrame(
        {
            "slide": np.arange(len(paths_)),
            "name": names,
            "path": paths_,
            "group": names,
            "mpp": paths_.map(path_key).map(mpp).astype(float),
            "tissue": "",
        }
    )


def _names(paths_: pd.Series) -> pd.Series:
    """What the files of each slide are called: as the slide, where no other is called so.

    Else, and where the name would not do for a file, it ends in a digest of the path. Capitals make
    no other name, as on some disks they do not; and tiles of `a.tissue` would be tissue of `a`.
    """
    names = paths_.map(lambda path: paths.file_name(PurePosixPath(path).stem))
    folded = names.str.casefold()
    alike = folded.duplicated(keep=False) | folded.str.endswith(".tissue")
    return names.mask(alike, paths_.map(lambda path: paths.file_name(f"./{path}")))


def with_tissue(table: pd.DataFrame, tissue: str, left_out: Iterable[str] = ()) -> pd.DataFrame:
    """The table with the column tissue: for each slide its file in the folder `tissue`, or "".

    Such a file, `<name>.tissue.geojson`, drawn or corrected in QuPath, stands for the tissue that
    would be found. left_out: paths of slides that are not in the table. Raises FileNotFoundError
    without the folder, and ValueError naming files that are of no slide, or if there are none.
    """
    if not tissue:
        return table.assign(tissue="")
    folder = Path(tissue).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with corrected tissue")
    files = {f.name.removesuffix(TISSUE): str(f) for f in folder.glob(f"*{TISSUE}")}
    expected = {*table.name, *_names(pd.Series([*left_out], dtype=str))}
    if not files:
        raise ValueError(f"{folder} holds no *{TISSUE}")
    if strange := sorted(files.keys() - expected):
        refuse(str(folder), [f"{name}{TISSUE} is of no slide" for name in strange])
    return table.assign(tissue=table.name.map(files).fillna(""))


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
    for of, of_slide in tiles.groupby("slide"):
        with open_listed(folder, table.iloc[int(of)]) as slide:
            for row, x, y in of_slide[["x", "y"]].itertuples():
                into[places[row]] = slide.read(x, y, pixels, mpp)
    return into


def tissue_listed(slide: Slide, line: Any) -> tuple[np.ndarray, str]:
    """`tissue_of` a slide of the table, from its file of corrected tissue if it has one."""
    return tissue_of(slide, Path(line["tissue"]) if line["tissue"] else None)


def embed_slides(
    vlm: VLM,
    folder: Path,
    table: pd.DataFrame,
    out: Path,
    *,
    mpp: float,
    workers: int = 2,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Tissue, grid and features of each slide: `<name>.h5` and `<name>.tissue.geojson` in `out`.

    folder, table: of `read_slide_table`, or some of its lines; mpp: µm per pixel of the tiles,
    whose side in pixels is the VLM's. A slide is passed over if its features are there and were
    made from the same slide, tissue, model and settings; one that cannot be read or has no tissue
    stops no other. Returns a line per slide: name, tiles, waiting (seconds for tiles to be read),
    encoding (seconds), anew (what has changed since features that were there, "" if there were
    none) and error, "" if none. Raises OSError when the disk is full.
    """
    lines = []
    towers = [(member.mean, member.std, repr(member.model.visual)) for member in vlm.members]
    of_all = {
        "vlm": f"{vlm.name} {weights_digest(vlm)} {digest_of({'towers': towers})}",
        "tile": f"{vlm.image_size} px, {mpp} µm/px",
    }
    for _, line in table.iterrows():
        report = {"name": line["name"], "tiles": 0, "waiting": 0.0, "encoding": 0.0, "anew": ""}
        try:
            made_from = of_all | _made_from(folder, line)
            changed = _changed(out, line, made_from)
            if changed is not None:
                report["anew"] = changed
                report |= _embed(vlm, folder, line, out, made_from, mpp, (workers, batch_size))
            report["error"] = ""
        except (ValueError, OSError, OpenSlideError, BrokenExecutor) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            report["error"] = str(error)
        lines.append(report)
    return pd.DataFrame(lines)


def _made_from(folder: Path, line: Any) -> dict[str, str]:
    """What the features of a slide depend on beside the model. Errors as in `open_slide`."""
    with open_listed(folder, line) as slide:
        of_slide = {"slide": identity_of(slide.path), "µm/px": f"{slide.mpp}"}
    tissue = digest_of({}, Path(line["tissue"])) if line["tissue"] else "found"
    return of_slide | {"tissue": tissue, "algorithm": str(ALGORITHM)}


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


@torch.inference_mode()
def _embed(
    vlm: VLM,
    folder: Path,
    line: Any,
    out: Path,
    made_from: Mapping[str, str],
    mpp: float,
    reading: tuple[int, int],
) -> dict[str, float]:
    """Write one slide. Its features appear last, so a slide with them is complete.

    In the file: the backbone features [N, E] and as `image_embeds` [N, D] those that meet the
    prompts, both float16. reading: see `read_tiles`.
    """
    file, outlines = out / f"{line['name']}.h5", out / f"{line['name']}{TISSUE}"
    found: dict[int, list[np.ndarray]] = {}
    seconds = {"waiting": 0.0, "encoding": 0.0}
    with open_listed(folder, line) as slide:
        mask, _ = tissue_listed(slide, line)
        coords = tile_grid(slide, mask, TISSUE_MPP, vlm.image_size, mpp)
        if not len(coords):
            raise ValueError(
                f"{slide.name}: no tile of {vlm.image_size} px at {mpp} µm/px in tissue"
            )
        clock = time.perf_counter()
        for rows, images in read_tiles(slide, coords, vlm.image_size, mpp, *reading):
            read = time.perf_counter()
            pixels = plain_view(torch.from_numpy(images).to(vlm.device), vlm.image_size)
            found[rows.start] = [f.half().cpu().numpy() for f in encode_images(vlm, pixels)]
            seconds["waiting"] += read - clock
            clock = time.perf_counter()
            seconds["encoding"] += clock - read
    file.unlink(missing_ok=True)  # made from something else
    if not (outlines.is_file() and line["tissue"] and outlines.samefile(line["tissue"])):
        write_geojson(outlines, mask_to_geojson(mask, TISSUE_MPP, slide))
    in_order = zip(*(found[start] for start in sorted(found)), strict=True)
    backbone_features, image_embeds = map(np.concatenate, in_order)
    write_features(
        file, coords, backbone_features, slide=slide, pixels=vlm.image_size, mpp=mpp,
        extra={"image_embeds": image_embeds},
        made_from={**made_from, "outlines": digest_of({}, outlines)},
    )  # fmt: skip
    return {"tiles": len(coords), **seconds}


def left_out_lines(left_out: Mapping[str, str], most: int = 20) -> str:
    """A line for each file that is left out and why, or for the first and how many more."""
    lines = [f"left out: {path}: {reason}" for path, reason in left_out.items()][:most]
    if len(left_out) > most:
        lines.append(f"left out: {len(left_out) - most} files more")
    return "\n".join(map(_shown, lines))


def _shown(text: str) -> str:
    """A text that stays a line of letters, whatever a file is called."""
    return "".join(c if c.isprintable() else "�" for c in text)


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
        kinds = synthetic_slides.kinds_of_tiles(
            folder, line["name"], of_slide[["x", "y"]].values, float(of_slide.side.iloc[0])
        )
        relevant[of_slide.index] = kinds == card.classes[line["label"]].folder
    return relevant
