"""Scores of slides with and without open-set prompting, and the page that a person opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.artefacts import atomic
from lib.report import statistics
from lib.report.evaluation import evaluate_probs
from lib.report.format import differences, with_interval
from lib.slides.annotations import tiles_geojson, write_geojson
from lib.slides.cohort import open_listed
from lib.slides.page import SlideView, write_slides_page
from lib.slides.study import ALL_TISSUE, LEARNT, OPEN_SET, SlideOutcome, SlideStudy

METHODS = {
    "zero-shot": "zero-shot tiles",
    "ce-kept": "MVC → PFC, CE",
    "vlm-cpl": "MVC → PFC, HCS",
    "vlm-cpl-slides": "HCS, then attention",
    "full-supervision": "true labels of slides, attention",
}
KIND = ["method", "pooling", "setting"]
SPLIT = "slides"  # of the rows: of test slides, never of tiles


def evaluate_slides(
    outcomes: Sequence[SlideOutcome],
    tested: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Outcomes as evaluations for `Run.record`. tested: [S], slides of the fold; labels: [S]."""
    return [
        evaluate_probs(
            outcome.method, outcome.probs[tested], labels, class_names, setting=outcome.setting,
            split=SPLIT, network="frozen", params={"pooling": outcome.pooling}, **fields,
        )
        for outcome in outcomes
    ]  # fmt: skip


def right_per_slide(
    outcomes: Sequence[SlideOutcome], test: pd.DataFrame, **of_run: Any
) -> pd.DataFrame:
    """Whether each outcome is right on each slide of the fold, for `statistics.grouped`.

    test: columns slide, label, group. of_run: vlm, seed, fold.
    """
    lines = [
        test[["group", "label"]].assign(
            method=o.method, pooling=o.pooling, setting=o.setting, n=1,
            right=o.probs[test.slide].argmax(1) == test.label.values, **of_run,
        )
        for o in outcomes
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True).astype({"right": int})


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """`right_per_slide` of every fold and seed below a folder of runs; empty without slides."""
    files = sorted(runs.glob("seed*/fold*/slides.parquet"))
    return pd.concat(map(pd.read_parquet, files)) if files else pd.DataFrame()


def slide_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of slides, a line per run: dataset, fold, seed, n, method, pooling, setting, scores."""
    lines = [
        {name: row[name] for name in ("dataset", "seed", "n", "method", "setting")}
        | {"fold": statistics.fold_of(row), "pooling": row["params"]["pooling"]}
        | row["scores"]
        for row in rows
        if row["split"] == SPLIT
    ]
    frame = pd.DataFrame(lines)
    if len(frame):
        frame["place"] = frame.method.map(list(METHODS).index)
        frame = frame.sort_values(["place", "seed", "fold"], kind="stable", ignore_index=True)
    return frame


def slides_table(
    rows: Sequence[Mapping[str, Any]], groups: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One line per way to learn and pooling: scores with open-set prompting and on all tissue.

    Pooled over folds. groups: `right_per_slide` of the same runs, with which accuracies have
    intervals, and a column says by how much either way to leave tiles out is better than none (p by
    Holm over the lines).
    """
    frame = slide_frame(rows)
    if frame.empty:
        return frame
    counted = None if groups is None or groups.empty else statistics.grouped(groups, KIND)
    settings = [name for name in (ALL_TISSUE, OPEN_SET, LEARNT) if name in set(frame.setting)]
    lines: list[dict[str, Any]] = []
    better: dict[str, list] = {name: [] for name in settings if name != ALL_TISSUE}
    for (method, pooling), df in frame.groupby(KIND[:2], sort=False):
        line = {"method": METHODS[method], "pooling": pooling}
        for setting in settings:
            line[setting] = _accuracies(df[df.setting == setting], counted, setting)
        for setting, differing in better.items():
            pair = [(method, pooling, name) for name in (setting, ALL_TISSUE)]
            compared = statistics.differences(counted, *pair) if counted else {}
            differing.append(compared.get("accuracy"))
        lines.append(line | statistics.runs(df))
    table = pd.DataFrame(lines)
    for setting, differing in better.items() if counted else ():
        place = table.columns.get_loc("folds")
        table.insert(place, f"{setting}: better by", differences(differing))
    return table


def _accuracies(df: pd.DataFrame, counted: statistics.Groups | None, setting: str) -> str:
    """Accuracy with its interval, and balanced accuracy; empty without rows."""
    if df.empty:
        return ""
    accuracy, balanced = (statistics.pooled_rows(df, score) for score in statistics.SCORES)
    kind = (df.method.iloc[0], df.pooling.iloc[0], setting)
    known = statistics.estimates(counted, kind) if counted else {}
    shown = with_interval(known["accuracy"]) if known else f"{accuracy:.3f}"
    return f"{shown} / {balanced:.3f}"


# --- what a person opens -------------------------------------------------------------------------


def write_page(
    out: Path,
    folder: Path,
    table: pd.DataFrame,
    tiles: pd.DataFrame,
    found: SlideStudy,
    prompted: np.ndarray,
    class_names: Sequence[str],
    other_tissue: Sequence[str],
    *,
    title: str,
) -> Path:
    """Write the page of some slides (`page.write_slides_page`) to `out`; returns its index.html.

    folder, table: of `read_slide_table`, or some of its lines; tiles: of `gather`; prompted:
    [N, C + K], of `tile_probabilities`; other_tissue: [K].
    """
    probs, attention = found.of_tiles(len(tiles))
    counts, n_classes = np.isfinite(probs[:, 0]), len(class_names)
    other = np.array(other_tissue, object)[prompted[:, n_classes:].argmax(1)]
    colours = [f"C{k}" for k in range(n_classes)]
    pooled, views, lines = found.probs("vlm-cpl", "mean"), [], []
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
        of_slide = pooled[line.slide]
        named = {f"prob {name}": p for name, p in zip(class_names, of_slide, strict=True)}
        lines.append({
            "slide": view.name, "class": class_names[of_slide.argmax()], "tiles": own.sum(),
            "irrelevant": 1 - counts[own].mean(), **named,
            "label": class_names[line.label] if line.label >= 0 else None,
        })  # fmt: skip
    facts = [
        f"{len(table)} slides, labelled by words alone: {', '.join(class_names)}.",
        f"Tiles of other tissue were left out: {', '.join(other_tissue)}.",
    ]
    write_slides_page(
        out / "page", title=title, facts=facts, slides=pd.DataFrame(lines), views=views,
        class_names=class_names, colours=colours,
    )  # fmt: skip
    return out / "page" / "index.html"


def slides_csv(
    file: Path, table: pd.DataFrame, found: SlideStudy, class_names: Sequence[str]
) -> pd.DataFrame:
    """Write a line per slide: path, class and the probability of each class; returns the table."""
    probs = found.probs("vlm-cpl", "mean")
    lines = pd.DataFrame({"path": table.path, "class": np.array(class_names)[probs.argmax(1)]})
    for name, column in zip(class_names, probs.T, strict=True):
        lines[f"prob {name}"] = column
    with atomic(file) as temporary:
        lines.to_csv(temporary, index=False)
    return lines
