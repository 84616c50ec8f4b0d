"""Scores of slides: rows of the record, and the table with and without open-set prompting."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.report import statistics
from lib.report.evaluation import evaluate_probs
from lib.report.format import differences, with_interval
from lib.slides.study import ALL_TISSUE, OPEN_SET, SlideOutcome

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
    """One line per way to learn, pooling and setting, pooled over folds.

    groups: `right_per_slide` of the same runs, with which scores have intervals and a table says by
    how much open-set prompting is better than all tissue with the same method and pooling (p by
    Holm over the lines).
    """
    frame = slide_frame(rows)
    counted = None if groups is None else statistics.grouped(groups, KIND)
    lines, better = [], []
    for kind, of_kind in frame.groupby(KIND, sort=False) if len(frame) else ():
        method, pooling, setting = map(str, kind)
        line = {"method": METHODS[method], "pooling": pooling, "tiles": setting}
        known = statistics.estimates(counted, (method, pooling, setting)) if counted else {}
        for score, title in zip(statistics.SCORES, ("accuracy", "balanced accuracy"), strict=True):
            pooled = statistics.pooled_rows(of_kind, score)
            line[title] = with_interval(known[score]) if known else f"{pooled:.3f}"
        pair = [(method, pooling, tiles) for tiles in (OPEN_SET, ALL_TISSUE)]
        compared = statistics.differences(counted, *pair) if counted else {}
        better.append(compared.get("accuracy") if setting == OPEN_SET else None)
        lines.append(line | statistics.runs(of_kind))
    table = pd.DataFrame(lines)
    if counted is not None and len(table):
        place = table.columns.get_loc("folds")
        table.insert(place, "open set is better by", differences(better))
    return table
