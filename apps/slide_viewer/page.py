"""What a pathologist opens: a table of slides and a deep-zoom view of each, in one folder.

The folder needs no server and no network; it can be copied and sent. Layout: `index.html`; for each
slide a folder with its page, pictures, overlays and GeoJSON; `viewer`, with OpenSeadragon.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import to_hex, to_rgb
from scipy.stats import rankdata

from apps.slide_viewer.annotations import tiles_geojson, write_geojson
from apps.slide_viewer.deep_zoom import overlay_scale, write_deep_zoom, write_overlay
from lib import paths
from lib.alarm import Alarm
from lib.artefacts import atomic
from lib.slides.cohort import open_listed

if TYPE_CHECKING:
    from lib.slides.study import SlideStudy

HERE = Path(__file__).parent
VIEWER = ("page.css", "slide.js", "table.js", "openseadragon/openseadragon.min.js",
          "openseadragon/LICENSE.txt")  # fmt: skip
ATTENTION, IRRELEVANT = "#ffd400", "#505050"
COLUMNS = ("slide", "class", "tiles", "irrelevant")


@dataclass
class SlideView:
    """A slide and what was predicted for its tiles.

    name: as in the table; path: of the file that OpenSlide reads; mpp: micrometres per pixel, x and
    y or one for both, None where unknown; coords: [N, 2], top left of the tiles; side: width and
    height of a tile, or one for both; all at level 0. probs: [N, C];
    attention: [N] or None, NaN for tiles that have none; relevant: bool [N], tiles that count;
    other: [N], the best prompt of other tissue for each tile that does not count, or None;
    geojson: a file to hand on for QuPath, which is copied into the page's folder, or None.
    """

    name: str
    path: Path
    mpp: float | tuple[float, float] | None
    coords: np.ndarray
    side: float | tuple[float, float]
    probs: np.ndarray
    attention: np.ndarray | None
    relevant: np.ndarray
    other: Sequence[str] | None = None
    geojson: Path | None = None


def write_slides_page(
    folder: Path,
    *,
    title: str,
    facts: Sequence[str],
    slides: pd.DataFrame,
    views: Sequence[SlideView],
    class_names: Sequence[str],
    colours: Sequence[str],
    alarms: Sequence[Alarm] = (),
    left_out: Mapping[str, str] | None = None,
    max_pixels: int = 4096,
) -> None:
    """Write the page; `folder` is replaced when all is written. To be opened: its `index.html`.

    facts: sentences at its head; slides: a line per slide with slide (name), class (predicted, ""
    if none), tiles (of tissue), irrelevant (share of them, 0 ... 1), "prob <class>" for each class
    (NaN without one), and label where it is known (a column that may be missing); views: of all of
    the slides or of some; colours: of class_names; alarms, left_out (file and reason): shown at the
    head; max_pixels: see `write_deep_zoom`. A slide that can no longer be read has no view, and the
    head says so. Raises ValueError naming what does not fit together.
    """
    _check(slides, views, class_names, colours)
    left_out = {**(left_out or {})}
    places = {v.name: f"{n:03d}-{paths.file_name(v.name)}" for n, v in enumerate(views, 1)}
    hexes = [to_hex(colour) for colour in colours]
    lines = _lines(slides, class_names, hexes)
    classes = list(zip(class_names, hexes, strict=True))
    with atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / "viewer").mkdir()
        for name in VIEWER:
            shutil.copyfile(HERE / name, temporary / "viewer" / Path(name).name)
        shown = {}
        for view in views:
            place = temporary / places[view.name]
            try:
                shown[view.name] = _write_view(place, view, class_names, hexes, max_pixels)
            except ValueError as error:  # of a slide that is damaged where it has no tile
                left_out[f"the view of {view.name}"] = str(error)
                shutil.rmtree(place)
        viewed = [view for view in views if view.name in shown]
        thumbnails = {
            name: f"{places[name]}/tiles/{known['picture']['min_level']}/0_0.jpeg"
            for name, known in shown.items()
        }
        for number, view in enumerate(viewed):
            around = {
                key: (other.name, places[other.name]) if other else None
                for key, other in zip(
                    ("previous", "next"), _neighbours(viewed, number), strict=True
                )
            }
            line = next(line for line in lines if line["slide"] == view.name)
            _render(
                temporary / places[view.name] / "index.html", "slide.html.jinja", title=title,
                line=line, view=view, around=around, classes=classes, alarms=alarms,
                **shown[view.name],
            )  # fmt: skip
        _render(
            temporary / "index.html", "slides.html.jinja", title=title, facts=facts, lines=lines,
            classes=classes, places={name: places[name] for name in shown}, thumbnails=thumbnails,
            alarms=alarms, left_out=left_out,
        )  # fmt: skip


def _check(
    slides: pd.DataFrame,
    views: Sequence[SlideView],
    class_names: Sequence[str],
    colours: Sequence[str],
) -> None:
    if len(colours) != len(class_names):
        raise ValueError(f"{len(class_names)} classes, but {len(colours)} colours")
    missing = {*COLUMNS, *(f"prob {name}" for name in class_names)} - {*slides.columns}
    if missing:
        raise ValueError(f"the table of slides has no column {', '.join(sorted(missing))}")
    for names in (slides.slide.tolist(), [view.name for view in views]):
        if len({*names}) != len(names):
            raise ValueError("two slides have the same name")
    for view in views:
        if view.name not in set(slides.slide):
            raise ValueError(f"{view.name} is no slide of the table")
        n = len(view.coords)
        given = (view.probs, view.relevant, view.attention, view.other)
        if any(len(values) != n for values in given if values is not None):
            raise ValueError(f"{view.name}: what was predicted does not fit its {n} tiles")
        if view.probs.shape[1] != len(class_names):
            raise ValueError(f"{view.name}: probabilities of {view.probs.shape[1]} classes")


def _neighbours(
    views: Sequence[SlideView], number: int
) -> tuple[SlideView | None, SlideView | None]:
    before = views[number - 1] if number else None
    return before, views[number + 1] if number + 1 < len(views) else None


def _lines(
    slides: pd.DataFrame, class_names: Sequence[str], hexes: Sequence[str]
) -> list[dict[str, Any]]:
    """The table as the templates show it; `differs` is None where the label is not known."""
    colour_of = dict(zip(class_names, hexes, strict=True))
    lines = []
    for row in slides.to_dict("records"):
        label = row.get("label")
        label = None if label is None or pd.isna(label) else str(label)
        lines.append(
            {
                "slide": row["slide"],
                "class": row["class"],
                "colour": colour_of.get(row["class"], "#999999"),
                "probs": [
                    None if pd.isna(p := row[f"prob {name}"]) else float(p) for name in class_names
                ],
                "tiles": int(row["tiles"]),
                "irrelevant": float(row["irrelevant"]),
                "label": label,
                "label_colour": colour_of.get(label or "", "#999999"),
                "differs": None if label is None or not row["class"] else label != row["class"],
            }
        )
    return lines


def _write_view(
    place: Path, view: SlideView, class_names: Sequence[str], hexes: Sequence[str], max_pixels: int
) -> dict[str, Any]:
    """Pictures, overlays and GeoJSON of a slide; what its page has to know of them."""
    place.mkdir()
    picture = write_deep_zoom(view.path, place / "tiles", max_pixels)
    shift = np.array([picture["x"], picture["y"]])
    size = picture["slide_width"], picture["slide_height"]
    width, height = view.side if isinstance(view.side, tuple) else (view.side, view.side)
    coords = np.asarray(view.coords).reshape(-1, 2) - shift
    overlays = {}
    for key, (values, colour_map) in _overlays(view, hexes).items():
        file = place / "overlays" / f"{key}.png"
        where = write_overlay(
            file, coords, (width, height), values, size, colour_map=colour_map,
            scale=overlay_scale((width, height), size),
        )  # fmt: skip
        overlays[key] = {"file": f"overlays/{file.name}", **where}
    if view.geojson:
        shutil.copyfile(view.geojson, place / f"{place.name.partition('-')[2]}.geojson")
    mpp = view.mpp if isinstance(view.mpp, tuple) or view.mpp is None else (view.mpp, view.mpp)
    data = {
        "picture": picture,
        "mpp": mpp[0] if mpp else None,
        "overlays": overlays,
        "classes": [list(pair) for pair in zip(class_names, hexes, strict=True)],
        "tiles": _tiles(view, coords, width, height),
    }
    return {
        "data": data,
        "picture": picture,
        "mpp": mpp,
        "counts": np.bincount(_best(view), minlength=len(class_names) + 1)[:-1].tolist(),
        "n_irrelevant": int((~view.relevant).sum()),
        "geojson": f"{place.name.partition('-')[2]}.geojson" if view.geojson else None,
        "attention_colour": ATTENTION,
        "irrelevant_colour": IRRELEVANT,
    }


def _best(view: SlideView) -> np.ndarray:
    """Most probable class of each tile, the number of classes for one that does not count."""
    n_classes = view.probs.shape[1]
    return np.where(view.relevant, view.probs.argmax(1), n_classes).astype(int)


def _overlays(
    view: SlideView, hexes: Sequence[str]
) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """Values in 0 ... 1 and colour map of each overlay; NaN for the tiles that it leaves out."""
    counts = view.relevant
    palette = np.array([(*to_rgb(colour), 1) for colour in hexes])
    best = np.where(counts, _best(view) / len(hexes), np.nan)
    overlays = {"class": (best, lambda v: palette[np.round(v * len(hexes)).astype(int)])}
    for k, colour in enumerate(hexes):
        shown = np.where(counts, np.clip(view.probs[:, k], 0, 1), np.nan)
        overlays[f"prob-{k + 1}"] = shown, _fading(colour)
    if view.attention is not None:
        overlays["attention"] = _rank(np.where(counts, view.attention, np.nan)), _fading(ATTENTION)
    overlays["irrelevant"] = np.where(counts, np.nan, 1.0), _fading(IRRELEVANT)
    return overlays


def _fading(colour: str) -> Callable[[np.ndarray], np.ndarray]:
    """From transparent at zero to the colour at one."""

    def colours(values: np.ndarray) -> np.ndarray:
        return np.column_stack([np.tile(to_rgb(colour), (len(values), 1)), values])

    return colours


def _rank(values: np.ndarray) -> np.ndarray:
    """Ranks in 0 ... 1, the highest value nearest to 1; equal values have equal ones, NaN stays."""
    known = np.isfinite(values)
    ranks = np.full(len(values), np.nan)
    ranks[known] = (rankdata(values[known]) - 0.5) / max(1, known.sum())
    return ranks


def _tiles(view: SlideView, coords: np.ndarray, width: float, height: float) -> dict[str, Any]:
    """Tiles for the read-out: positions on the picture, per cent, attention per mean attention."""
    attention = None
    if view.attention is not None:
        shown = np.where(view.relevant, view.attention, np.nan).astype(float)
        known = np.isfinite(shown)
        mean = shown[known].mean() if known.any() else 1
        attention = [
            round(a / mean, 2) if ok and mean else None for a, ok in zip(shown, known, strict=True)
        ]
    return {
        "width": width,
        "height": height,
        "coords": np.round(coords).astype(int).tolist(),
        "percent": np.round(100 * np.nan_to_num(view.probs)).astype(int).tolist(),
        "relevant": view.relevant.astype(int).tolist(),
        "attention": attention,
        "other": None if view.other is None else [str(name) for name in view.other],
    }


def _render(file: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    file.write_text(environment.get_template(template).render(values), encoding="utf-8")


# --- of a study ----------------------------------------------------------------------------------


def write_study_page(
    out: Path,
    folder: Path,
    table: pd.DataFrame,
    tiles: pd.DataFrame,
    found: "SlideStudy",
    prompted: np.ndarray,
    class_names: Sequence[str],
    other_tissue: Sequence[str],
    *,
    title: str,
    left_out: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of some slides (`write_slides_page`) to `out`; returns its index.html.

    folder, table: of `read_slide_table`, or some of its lines; tiles: of `gather`; prompted:
    [N, C + K], of `tile_probabilities`; other_tissue: [K]; left_out: files that are no part of the
    table, and why. The alarms of the study stand at its head.
    """
    probs, attention = found.of_tiles(len(tiles))
    counts, n_classes = np.isfinite(probs[:, 0]), len(class_names)
    other = np.array(other_tissue, object)[prompted[:, n_classes:].argmax(1)]
    colours = [f"C{k}" for k in range(n_classes)]
    (of_slides, pooled), views, lines = found.classes(class_names), [], []
    out.mkdir(parents=True, exist_ok=True)
    for _, line in table.iterrows():
        own = (tiles.slide == line.slide).values
        geojson = out / f"{line['name']}.geojson"
        with open_listed(folder, line) as slide:
            mpp, bounds = slide.mpp, slide.bounds[:2]
        view = SlideView(
            line["name"], folder / line.path, mpp, tiles.loc[own, ["x", "y"]].values,
            float(tiles.side[own].iloc[0]), probs[own], attention[own], counts[own], other[own],
            geojson,
        )  # fmt: skip
        best = np.where(counts[own], np.nan_to_num(probs[own]).argmax(1), n_classes)
        write_geojson(geojson, tiles_geojson(
            view.name, view.coords, view.side, best, view.probs, [*class_names, "other tissue"],
            [*colours, "#505050"], bounds, {"attention": attention[own]},
        ))  # fmt: skip
        views.append(view)
        named = {f"prob {k}": p for k, p in zip(class_names, pooled[line.slide], strict=True)}
        lines.append({
            "slide": view.name, "class": of_slides[line.slide], "tiles": own.sum(),
            "irrelevant": 1 - counts[own].mean(), **named,
            "label": class_names[line.label] if line.label >= 0 else None,
        })  # fmt: skip
    labelled = sum(line["class"] != "" for line in lines)
    several = "s" * (len(table) != 1)
    facts = [
        f"{labelled} of {len(table)} slide{several} labelled, by words alone: "
        f"{', '.join(class_names)}.",
        f"Tiles of other tissue were left out: {', '.join(other_tissue)}.",
    ]
    write_slides_page(
        out / "page", title=title, facts=facts, slides=pd.DataFrame(lines), views=views,
        class_names=class_names, colours=colours, alarms=found.alarms, left_out=left_out,
    )  # fmt: skip
    return out / "page" / "index.html"


def slides_csv(
    file: Path, table: pd.DataFrame, found: "SlideStudy", class_names: Sequence[str]
) -> pd.DataFrame:
    """Write a line per slide: path, class and the probability of each class; returns the table.

    Of a slide without a class (see `SlideStudy.classes`) these are empty.
    """
    classes, probs = found.classes(class_names)
    lines = pd.DataFrame({"path": table.path, "class": classes})
    for name, column in zip(class_names, probs.T, strict=True):
        lines[f"prob {name}"] = column
    with atomic(file) as temporary:
        lines.to_csv(temporary, index=False)
    return lines
