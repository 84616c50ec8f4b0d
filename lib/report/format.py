"""Cells of tables: scores, intervals, differences; and tables as Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.artefacts import atomic
from lib.report import statistics
from lib.report.statistics import Estimate, Groups, Kind, pooled_score

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
}


def mean_std(values: pd.Series) -> str:
    """Show mean ± standard deviation, three decimals; a single value stands alone."""
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"


def pooled_std(facts: pd.DataFrame, score: str = "accuracy") -> str:
    """Show a score pooled over folds ± standard deviation over runs; see `pooled_score`."""
    value = f"{pooled_score(facts, score):.3f}"
    return value if len(facts) == 1 else f"{value} ± {facts[score].std():.3f}"


def with_interval(value: Estimate) -> str:
    """Show a score with its interval, as in "0.987 [0.981, 0.992]"."""
    interval = "" if np.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{interval}"


def score_cells(
    facts: pd.DataFrame, groups: Groups, kind: Kind, titles: Mapping[str, str]
) -> dict[str, str]:
    """Cells of the scores of one method, by title.

    Accuracy and balanced accuracy are pooled over folds, with intervals where the groups of the
    method are known; the others are means over runs. facts: its lines; titles: score → title.
    """
    estimates = statistics.estimates(groups, kind)
    cells = {}
    for score, title in titles.items():
        if score in estimates:
            cells[title] = with_interval(estimates[score])
        elif score in statistics.SCORES:
            cells[title] = f"{pooled_score(facts, score):.3f}"
        else:
            cells[title] = f"{facts[score].astype(float).mean():.3f}"
    return cells


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
    lines: list[Estimate | None] = []
    for kind in kinds:
        mine = reference(kind)
        both = {} if mine in (None, kind) else statistics.differences(groups, mine, kind)
        lines.append(both.get(score))
    return differences(lines)


def differences(lines: Sequence[Estimate | None]) -> list[str]:
    """Cells of one column of differences, p corrected by Holm over its lines; empty for None."""
    return [_difference(line) if line else "" for line in statistics.holm_corrected(lines)]


def _difference(line: Estimate) -> str:
    interval = "" if np.isnan(line.low) else f" [{line.low:+.3f}, {line.high:+.3f}]"
    if line.p is None:
        return f"{line.value:+.3f}{interval}"
    p = "p < 0.001" if line.p < 0.001 else f"p = {line.p:.3f}"
    return f"{line.value:+.3f}{interval}, {p}"


def insert_columns(table: pd.DataFrame, before: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Insert columns before another one; the cells of lines that they lack are empty."""
    place = table.columns.get_loc(before)
    for name, cells in reversed(list(columns.items())):
        table.insert(place, name, [*cells, *[""] * (len(table) - len(cells))])


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; nothing for a table without columns."""
    if not len(table.columns):
        return ""
    head = [table.columns.tolist(), ["---"] * len(table.columns)]
    lines = head + table.astype(str).values.tolist()
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def replace_block(file: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- name -->` and `<!-- /name -->` of a file, if it has them."""
    old = file.read_text()
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    new = pattern.sub(lambda match: match[1] + text + match[2], old)
    if new != old:
        with atomic(file) as temporary:
            temporary.write_text(new)
