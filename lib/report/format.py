"""Cells of tables: scores, intervals, differences; a line per group."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.report import statistics
from lib.report.statistics import Estimate, Groups, Kind, pooled_score

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
}


def line_per_group(
    facts: pd.DataFrame,
    by: Mapping[str, str],
    cells: Callable[[pd.DataFrame], Mapping[str, str]],
    *,
    sort: bool = True,
) -> pd.DataFrame:
    """Make a table: a line per value of some columns, with the cells of its facts and its runs.

    by: column → title; sort: by these values, else in the order of the facts.
    """
    groups = facts.groupby(list(by), sort=sort) if len(facts) else ()
    return pd.DataFrame(
        dict(zip(by.values(), values, strict=True)) | dict(cells(some)) | statistics.runs(some)
        for values, some in groups
    )


def mean_std(values: pd.Series) -> str:
    """Show mean ± standard deviation, three decimals; a single value stands alone."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def pooled_std(facts: pd.DataFrame, score: str = "accuracy") -> str:
    """Show a score pooled over folds ± standard deviation over runs; see `pooled_score`."""
    deviation = f" ± {facts[score].std():.3f}" if len(facts) > 1 else ""
    return f"{pooled_score(facts, score):.3f}{deviation}"


def with_interval(value: Estimate, sign: str = "") -> str:
    """Show a score with its interval, as in "0.987 [0.981, 0.992]"; sign: "+" for a difference."""
    interval = "" if np.isnan(value.low) else f" [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
    return f"{value.value:{sign}.3f}{interval}"


def score_cells(
    facts: pd.DataFrame, groups: Groups, kind: Kind, titles: Mapping[str, str]
) -> dict[str, str]:
    """Cells of the scores of one method, by title.

    Accuracy and balanced accuracy are pooled over folds, with intervals where the groups of the
    method are known; the others are means over runs. facts: its lines; titles: score → title.
    """
    estimates = statistics.estimates(groups, kind)
    pooled = {name: Estimate(pooled_score(facts, name)) for name in statistics.SCORES} | estimates
    return {
        title: with_interval(pooled.get(name) or Estimate(facts[name].astype(float).mean()))
        for name, title in titles.items()
    }


def difference_cells(
    groups: Groups,
    kinds: Sequence[Kind],
    reference: Callable[[Kind], Kind | None],
    score: str = "accuracy",
) -> list[str]:
    """Cells of a column: by how much a reference is better than each line; empty if unknown.

    kinds: what the lines are; reference: of a line what it is compared with, itself or None for no
    comparison. p is corrected by Holm over the lines.
    """
    pairs = [(reference(kind), kind) for kind in kinds]
    return differences(
        [
            statistics.differences(groups, mine, kind).get(score)
            if mine not in (None, kind)
            else None
            for mine, kind in pairs
        ]
    )


def differences(lines: Sequence[Estimate | None]) -> list[str]:
    """Cells of one column of differences, p corrected by Holm over its lines; empty for None."""
    return [_difference(line) if line else "" for line in statistics.holm_corrected(lines)]


def _difference(line: Estimate) -> str:
    if line.p is None:
        return with_interval(line, "+")
    p = "< 0.001" if line.p < 0.001 else f"{'≤' if line.at_most else '='} {line.p:.3f}"
    return f"{with_interval(line, '+')}, p {p}"


def insert_columns(table: pd.DataFrame, before: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Insert columns before another one; the cells of lines that they lack are empty."""
    position = table.columns.get_loc(before)
    for name, cells in reversed(list(columns.items())):
        table.insert(position, name, [*cells, *[""] * (len(table) - len(cells))])
