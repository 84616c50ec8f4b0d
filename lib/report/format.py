"""What tables share: cells, Markdown, the place in a file."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.artefacts import atomic
from lib.report.statistics import Estimate, holm_corrected, pooled_rows


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation of values, three decimals; a single value stands alone."""
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"


def pooled_spread(frame: pd.DataFrame, score: str = "accuracy") -> str:
    """Score pooled over folds ± standard deviation over runs; that of a single run stands alone.

    frame: see `statistics.pooled_rows`.
    """
    value = f"{pooled_rows(frame, score):.3f}"
    return value if len(frame) == 1 else f"{value} ± {frame[score].std():.3f}"


def with_interval(value: Estimate) -> str:
    """A score with its interval, as in "0.987 [0.981, 0.992]"."""
    interval = "" if np.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{interval}"


def differences(lines: Sequence[Estimate | None]) -> list[str]:
    """Cells of one column of differences, p corrected by Holm over its lines; empty for None."""
    return [_difference(line) if line else "" for line in holm_corrected(lines)]


def _difference(line: Estimate) -> str:
    interval = "" if np.isnan(line.low) else f" [{line.low:+.3f}, {line.high:+.3f}]"
    if line.p is None:
        return f"{line.value:+.3f}{interval}"
    p = "p < 0.001" if line.p < 0.001 else f"p = {line.p:.3f}"
    return f"{line.value:+.3f}{interval}, {p}"


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; nothing for a table without columns."""
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
