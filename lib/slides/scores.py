"""Scores of slides: evaluations, and the table with and without open-set prompting."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.record import Record
from lib.report import statistics
from lib.report.evaluation import evaluate_probs
from lib.report.format import differences, insert_columns, score_cells
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
KIND = ["method", "pooling", "variant"]


def evaluate_slides(
    studies: Mapping[str, "SlideStudy"],
    test: pd.DataFrame,
    quality: Mapping[str, Mapping[str, float | None]],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Score what studies found, by variant, as evaluations for `Run.record`.

    test: the slides of the fold, columns slide, label and group; quality: of each variant which
    tiles were dropped, see `open_set_quality`; empty where the truth is unknown.
    """
    common = {"unit": "slide", "network": "frozen"} | fields
    return [
        evaluate_probs(
            method,
            probs[test.slide.values],
            test,
            variant=variant,
            params={"pooling": pooling},
            labels=quality.get(variant),
            **common,
        )
        for variant, study in studies.items()
        for (method, pooling), probs in study.probs.items()
    ]


def slides(some: Record) -> Record:
    """The evaluations of slides in the order of the tables."""
    facts = some.facts[some.facts.unit == "slide"]
    order = facts.assign(
        method=facts.method.map(list(METHODS).index),
        j=facts.pooling.str.extract(r"top-(\d+)")[0].fillna("0").astype(int),  # of top-j
    )
    order = order.sort_values(["method", "j", "pooling", "seed", "fold"], kind="stable")
    return Record(facts.loc[order.index], some.counts)


def slides_table(some: Record) -> pd.DataFrame:
    """One line per way to learn and pooling: scores with open-set prompting and on all tissue.

    Pooled over folds, accuracies with intervals. A column says by how much either way to leave
    tiles out is better than none (p by Holm over the lines).
    """
    some = slides(some)
    groups = statistics.grouped(some, KIND)
    variants = [v for v in (ALL_TISSUE, OPEN_SET, LEARNT) if v in set(some.facts.variant)]
    lines: list[dict[str, Any]] = []
    better: dict[str, list] = {name: [] for name in variants if name != ALL_TISSUE}
    for (method, pooling), facts in some.facts.groupby(KIND[:2], sort=False):
        line = {"method": METHODS[method], "pooling": pooling}
        for variant in variants:
            line[variant] = _accuracies(facts[facts.variant == variant], groups)
        for variant, column in better.items():
            pair = [(method, pooling, name) for name in (variant, ALL_TISSUE)]
            column.append(statistics.differences(groups, *pair).get("accuracy"))
        lines.append(line | statistics.runs(facts))
    table = pd.DataFrame(lines)
    if len(table):
        columns = {f"{variant}: better by": differences(cells) for variant, cells in better.items()}
        insert_columns(table, "folds", columns)
    return table


def _accuracies(facts: pd.DataFrame, groups: statistics.Groups) -> str:
    """Accuracy with its interval, and balanced accuracy; empty without lines."""
    if facts.empty:
        return ""
    kind = tuple(facts[KIND].iloc[0])
    cells = score_cells(facts, groups, kind, {"accuracy": "accuracy"})
    return f"{cells['accuracy']} / {statistics.pooled_score(facts, 'balanced_accuracy'):.3f}"
