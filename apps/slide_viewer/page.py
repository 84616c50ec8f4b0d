"""What a pathologist opens: a table of slides and a deep-zoom view of each, in one folder.

The folder needs no server and no network; it can be copied and sent. Layout: `index.html`; for each
slide a folder with its page, pictures, overlays and GeoJSON; `viewer`, with OpenSeadragon.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import to_hex, to_rgb

from apps.own_tiles.results import per_case
from apps.slide_viewer.annotations import write_tiles_geojson
from apps.slide_viewer.deep_zoom import write_deep_zoom, write_overlay
from lib import paths
from lib.artefacts import atomic
from lib.slides.reading import Slide
from lib.slides.study import FEW_SLIDES, CohortTiles, SlideStudy

HERE = Path(__file__).parent
OPENSEADRAGON = ("openseadragon/openseadragon.min.js", "openseadragon/LICENSE.txt")
VIEWER = ("page.css", "slide.js", "table.js", *OPENSEADRAGON)
ATTENTION, IRRELEVANT = "#ffd400", "#505050"
OTHER = "other tissue"  # the class of tiles that show no target


@dataclass
class SlideView:
    """A slide as its page shows it.

    name: as in the table; slide: open or not; tiles: a line per tile with x, y, side (level-0
    pixels), class (`OTHER` if the tile does not count), other (the best prompt of other tissue),
    attention (NaN without one) and "prob <class>"; line: of the table of slides; geojson: a file
    for QuPath, which is copied into the page's folder.
    """

    name: str
    slide: Slide
    tiles: pd.DataFrame
    line: Mapping[str, Any]
    geojson: Path


def write_study_page(
    out: Path,
    tiles: CohortTiles,
    study: SlideStudy,
    *,
    title: str,
    slides: pd.DataFrame,
    left_out: Mapping[str, str] | None = None,
    quality: Sequence[str] = (),
) -> Path:
    """Write the page of a study and a GeoJSON of the tiles of each slide to a folder.

    Parameters
    ----------
    out : folder, which may be there
    tiles, study : of `prompted_tiles` and `label_slides`
    title : of the page
    slides : lines of the cohort's table, of the slides to show
    left_out : by file, why it is no part of the cohort
    quality : what is known of how good the classes are, in sentences

    Returns
    -------
    Path of the page's index.html

    """
    colours = {name: to_hex(f"C{k}") for k, name in enumerate(tiles.targets)}
    table, (classes, pooled) = _tile_table(tiles, study), study.classes(tiles.targets)
    cases = case_table(tiles, study, slides)
    out.mkdir(parents=True, exist_ok=True)
    views = []
    for _, line in slides.iterrows():
        of_slide = table[table.slide == line.slide].drop(columns="slide")
        slide, geojson = tiles.cohort.open(line), out / f"{line['name']}.geojson"
        measured = of_slide.drop(columns="other")
        write_tiles_geojson(
            geojson, measured, line["name"], {**colours, OTHER: IRRELEVANT}, slide.bounds[:2]
        )
        shown = {
            "slide": line["name"],
            "case": None if cases is None else line["group"],
            "class": classes[line.slide],
            "probs": [None if np.isnan(p) else float(p) for p in pooled[line.slide]],
            "tiles": len(of_slide),
            "irrelevant": float((of_slide["class"] == OTHER).mean()),
            "label": tiles.targets[line.label] if line.label >= 0 else None,
        }
        views.append(SlideView(line["name"], slide, of_slide, shown, geojson))
    labelled = sum(view.line["class"] != "" for view in views)
    facts = [
        f"{labelled} of {len(views)} slide{'s' * (len(views) != 1)} labelled, by words alone: "
        f"{', '.join(tiles.targets)}.",
        f"Tiles of other tissue were left out: {', '.join(tiles.others)}.",
    ]
    if study.few_slides:
        facts.append(
            f"With fewer than {FEW_SLIDES} slides no attention is learnt: all tiles of a slide "
            "that count weigh the same."
        )
    facts += quality
    of_case = [] if cases is None else [_case(row, colours) for row in cases.values]
    head = {"title": title, "facts": facts, "alarms": study.alarms, "cases": of_case}
    write_slides_page(out / "page", views, colours, head, left_out or {})
    return out / "page" / "index.html"


def case_table(tiles: CohortTiles, study: SlideStudy, slides: pd.DataFrame) -> pd.DataFrame | None:
    """Table of `results.per_case`, or None where no slide has a case other than itself.

    slides: lines of the cohort's table; their column group is the case.
    """
    if slides.group.isin([*slides.path, *slides.name]).all():
        return None
    probs = pd.DataFrame(study.of_tiles(len(tiles.table))[0])
    probs.columns = [f"prob {name}" for name in tiles.targets]
    _, pooled = study.classes(tiles.targets)
    probs[np.isnan(pooled).any(1)[tiles.slide_of]] = np.nan  # what has no class counts for no case
    shown = np.isin(tiles.slide_of, slides.slide)
    of_case = slides.set_index("slide").group
    return per_case(of_case, tiles.slide_of[shown], probs[shown], tiles.targets)


def _tile_table(tiles: CohortTiles, study: SlideStudy) -> pd.DataFrame:
    """A line per tile of the cohort: slide, and the columns of `SlideView.tiles`."""
    probs, attention = study.of_tiles(len(tiles.table))
    counts, n_targets = np.isfinite(probs[:, 0]), len(tiles.targets)
    best = np.where(counts, np.nan_to_num(probs).argmax(1), n_targets)
    table = tiles.table[["slide", "x", "y", "side"]].copy()
    table["class"] = np.array([*tiles.targets, OTHER], object)[best]
    table["other"] = np.array(tiles.others, object)[tiles.probs[:, n_targets:].argmax(1)]
    for name, column in zip(tiles.targets, probs.T, strict=True):
        table[f"prob {name}"] = column
    return table.assign(attention=attention)


def write_slides_page(
    folder: Path,
    views: Sequence[SlideView],
    colours: Mapping[str, str],
    head: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> None:
    """Write the page; `folder` is replaced when all is written.

    A slide that can no longer be read has no view, and the head says so. colours: of the classes;
    head: title, facts, alarms, cases (of `_case`).
    """
    left_out, shown = {**left_out}, {}
    places = {v.name: f"{n:03d}-{paths.file_name(v.name)}" for n, v in enumerate(views, 1)}
    lines = [_line(view.line, colours) for view in views]
    told = {**head, "classes": list(colours.items())}
    with atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / "viewer").mkdir()
        for name in VIEWER:
            shutil.copyfile(HERE / name, temporary / "viewer" / Path(name).name)
        for view in views:
            try:
                shown[view.name] = _write_view(temporary / places[view.name], view, colours)
            except ValueError as error:  # of a slide that is damaged where it has no tile
                left_out[f"the view of {view.name}"] = str(error)
                shutil.rmtree(temporary / places[view.name])
            view.slide.close()
        names = list(shown)
        for before, name, after in zip([None, *names], names, [*names[1:], None], strict=False):
            beside = {"previous": before, "next": after}
            around = {key: (n, places[n]) if n else None for key, n in beside.items()}
            line = lines[[view.name for view in views].index(name)]
            known = {**told, **shown[name], "line": line, "around": around}
            _render(temporary / places[name] / "index.html", "slide.html.jinja", known)
        thumbnails = {
            name: f"{places[name]}/tiles/{known['picture']['min_level']}/0_0.jpeg"
            for name, known in shown.items()
        }
        listed = {"lines": lines, "left_out": left_out, "thumbnails": thumbnails}
        listed["places"] = {name: places[name] for name in shown}
        _render(temporary / "index.html", "slides.html.jinja", {**told, **listed})


def _line(line: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """A line of the table for the templates; `differs` is None where the label is not known."""
    label, predicted = line["label"], line["class"]
    differs = None if label is None or not predicted else label != predicted
    shades = {"colour": colours.get(predicted, "#999999")}
    shades["label_colour"] = colours.get(label or "", "#999999")
    return {**line, **shades, "differs": differs}


def _case(row: np.ndarray, colours: Mapping[str, str]) -> dict[str, Any]:
    """A row of `case_table` for the template."""
    name, predicted, slides, tiles, *probs = row
    line = {"case": name, "class": predicted, "slides": slides, "tiles": tiles}
    line["probs"] = [None if np.isnan(p) else p for p in probs]
    return {**line, "colour": colours.get(predicted, "#999999")}


def _write_view(place: Path, view: SlideView, colours: Mapping[str, str]) -> dict[str, Any]:
    """Write pictures, overlays and GeoJSON of a slide; returns what its page has to know."""
    place.mkdir()
    picture = write_deep_zoom(view.slide, place / "tiles")
    tiles, side = view.tiles, float(view.tiles.side.iloc[0])
    coords = tiles[["x", "y"]].values - [picture["x"], picture["y"]]
    size = picture["slide_width"], picture["slide_height"]
    overlays = {}
    for key, (values, colour_map) in _overlays(tiles, colours).items():
        file = place / "overlays" / f"{key}.png"
        where = write_overlay(file, coords, side, values, size=size, colour_map=colour_map)
        overlays[key] = {"file": f"overlays/{file.name}", **where}
    geojson = f"{place.name.partition('-')[2]}.geojson"
    shutil.copyfile(view.geojson, place / geojson)
    counts = tiles["class"].value_counts()
    percent = 100 * tiles[[f"prob {name}" for name in colours]].fillna(0).values
    mean = tiles.attention.mean()
    relative = tiles.attention / mean if mean else tiles.attention * np.nan
    read_out = {
        "width": side,
        "height": side,
        "coords": np.round(coords).astype(int).tolist(),
        "percent": np.round(percent).astype(int).tolist(),
        "relevant": (tiles["class"] != OTHER).astype(int).tolist(),
        "attention": [None if np.isnan(a) else round(a, 2) for a in relative],
        "other": list(tiles.other),
    }
    data = {"picture": picture, "mpp": view.slide.mpp[0], "overlays": overlays}
    return {
        "data": {**data, "classes": [list(pair) for pair in colours.items()], "tiles": read_out},
        "picture": picture,
        "mpp": view.slide.mpp,
        "counts": [int(counts.get(name, 0)) for name in colours],
        "n_irrelevant": int(counts.get(OTHER, 0)),
        "geojson": geojson,
        "attention_colour": ATTENTION,
        "irrelevant_colour": IRRELEVANT,
    }


def _overlays(
    tiles: pd.DataFrame, colours: Mapping[str, str]
) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """Values in 0 … 1 and colour map of each overlay; NaN for the tiles that it leaves out."""
    names, irrelevant = list(colours), (tiles["class"] == OTHER).values
    palette = np.array([(*to_rgb(colour), 1) for colour in colours.values()])
    best = tiles["class"].map({name: k / len(names) for k, name in enumerate(names)})
    overlays = {"class": (best.values, lambda v: palette[np.round(v * len(names)).astype(int)])}
    for k, (name, colour) in enumerate(colours.items()):
        values = np.where(irrelevant, np.nan, tiles[f"prob {name}"].clip(0, 1))
        overlays[f"prob-{k + 1}"] = values, _fading(colour)
    looked = tiles.attention.where(~irrelevant)
    ranks = (looked.rank() - 0.5) / max(1, looked.notna().sum())
    overlays["attention"] = ranks.values, _fading(ATTENTION)
    overlays["irrelevant"] = np.where(irrelevant, 1.0, np.nan), _fading(IRRELEVANT)
    return overlays


def _fading(colour: str) -> Callable[[np.ndarray], np.ndarray]:
    """From transparent at zero to the colour at one."""
    return lambda values: np.column_stack([np.tile(to_rgb(colour), (len(values), 1)), values])


def _render(file: Path, template: str, values: Mapping[str, Any]) -> None:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    file.write_text(environment.get_template(template).render(values), encoding="utf-8")


def write_slides_csv(
    file: Path, slides: pd.DataFrame, study: SlideStudy, class_names: Sequence[str]
) -> pd.DataFrame:
    """Write a line per slide: path, class and the probability of each class; returns the table.

    Of a slide without a class (see `SlideStudy.classes`) these are empty.
    """
    classes, probs = study.classes(class_names)
    lines = pd.DataFrame({"path": slides.path, "class": classes})
    for name, column in zip(class_names, probs.T, strict=True):
        lines[f"prob {name}"] = column
    with atomic(file) as temporary:
        lines.to_csv(temporary, index=False)
    return lines
