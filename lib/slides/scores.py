"""Scores of slides: rows of the record, and the table with and without open-set prompting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.report import statistics
from lib.report.evaluation import evaluate_probs
from lib.report.format import differences, with_interval
from lib.slides.open_set import ALL_TISSUE, LEARNT, OPEN_SET

if TYPE_CHECKING:  # making tables needs no torch
    from lib.slides.study import SlideStudy

METHODS = {
    "zero-shot": "zero-shot tiles",
    "ce-kept": "MVC → PFC, CE",
    "vlm-cpl": "MVC → PFC, HCS",
    "vlm-cpl-slides": "HCS, then attention",
    "full-supervision": "true labels of slides, attention",
}
KIND = ["method", "pooling", "setting"]
SHARES = ("irrelevant", "irrelevant_dropped", "relevant_dropped")  # of tiles
SPLIT = "slides"  # of the rows: of test slides, never of tiles


def evaluate_slides(
    studies: Mapping[str, "SlideStudy"],
    test: pd.DataFrame,
    class_names: Sequence[str],
    quality: Mapping[str, Mapping[str, float | None]],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Score what studies found, by setting, as evaluations for `Run.record`.

    test: the slides of the fold, columns slide and label; quality: of each setting which tiles were
    dropped, see `open_set_quality`; empty where the truth is unknown.
    """
    slides, labels = test.slide.values, test.label.values
    return [
        evaluate_probs(
            method,
            probs[slides],
            labels,
            class_names,
            setting=setting,
            split=SPLIT,
            network="frozen",
            params={"pooling": pooling},
            labels=quality.get(setting),
            **fields,
        )
        for setting, study in studies.items()
        for (method, pooling), probs in study.probs.items()
    ]


def right_per_slide(
    studies: Mapping[str, "SlideStudy"], test: pd.DataFrame, **of_run: Any
) -> pd.DataFrame:
    """Tell whether each outcome is right on each slide of the fold, for `statistics.grouped`.

    studies: by setting; test: columns slide, label, group. of_run: vlm, seed, fold.
    """
    lines = []
    for setting, study in studies.items():
        for (method, pooling), probs in study.probs.items():
            right = (probs[test.slide].argmax(1) == test.label.values).astype(int)
            kind = {"method": method, "pooling": pooling, "setting": setting}
            lines.append(test[["group", "label"]].assign(**kind, n=1, right=right, **of_run))
    return pd.concat(lines, ignore_index=True)


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """`right_per_slide` of every fold and seed below a folder of runs; empty without slides."""
    files = sorted(runs.glob("seed*/fold*/slides.parquet"))
    return pd.concat(map(pd.read_parquet, files)) if files else pd.DataFrame()


def slide_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of slides, a line per run: dataset, fold, seed, n, method, pooling, setting, scores.

    Where the truth of tiles is known also the shares of `open_set_quality`.
    """
    lines = [
        {name: row[name] for name in ("dataset", "seed", "n", "method", "setting")}
        | {"fold": statistics.fold_of(row), "pooling": row["params"]["pooling"]}
        | row["scores"]
        | (row["labels"] or {})
        for row in rows
        if row["split"] == SPLIT
    ]
    frame = pd.DataFrame(lines)
    if len(frame):
        frame["place"] = frame.method.map(list(METHODS).index)
        frame["j"] = frame.pooling.str.extract(r"top-(\d+)")[0].fillna("0").astype(int)  # of top-j
        by = ["place", "j", "pooling", "seed", "fold"]
        frame = frame.sort_values(by, kind="stable", ignore_index=True)
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


def share_frame(
    rows: Sequence[Mapping[str, Any]], groups: Mapping[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Where the truth of tiles is known: a line per dataset and setting, by rising share.

    Of VLM-CPL by the mean of the tile probabilities. Columns: dataset, setting, those of `SHARES`
    (mean over runs), accuracy (`Estimate`), better (`Estimate` of the difference to all tissue, or
    None), folds and seeds. groups: dataset → `right_per_slide`, for intervals.
    """
    frame = slide_frame(rows)
    if frame.empty or SHARES[0] not in frame:
        return pd.DataFrame()
    frame = frame[(frame.method == "vlm-cpl") & (frame.pooling == "mean")]
    lines = []
    for (dataset, setting), df in frame.dropna(subset=SHARES[0]).groupby(["dataset", "setting"]):
        own = (groups or {}).get(dataset)
        counted = None if own is None or own.empty else statistics.grouped(own, KIND)
        kinds = [("vlm-cpl", "mean", name) for name in (setting, ALL_TISSUE)]
        known = statistics.estimates(counted, kinds[0]) if counted else {}
        accuracy = known.get("accuracy") or statistics.Estimate(statistics.pooled_rows(df))
        compared = statistics.differences(counted, *kinds) if counted else {}
        better = None if setting == ALL_TISSUE else compared.get("accuracy")
        line = {"dataset": dataset, "setting": setting, "accuracy": accuracy, "better": better}
        shares = {name: df[name].astype(float).mean() for name in SHARES}
        lines.append(line | shares | statistics.runs(df))
    return pd.DataFrame(lines).sort_values(["irrelevant", "setting"], ignore_index=True)


def share_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`share_frame` as it is shown."""
    shares = frame[list(SHARES)].map(lambda share: "" if np.isnan(share) else f"{share:.2f}")
    shares.columns = [name.replace("_", " ") for name in SHARES]
    shown = frame[["dataset", "setting"]].join(shares)
    shown["accuracy"] = [with_interval(e) for e in frame.accuracy]
    shown["better by"] = differences(list(frame.better))
    return shown.join(frame[["folds", "seeds"]])
