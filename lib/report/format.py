"""What tables share: cells, Markdown, the place in a file."""

import re
from pathlib import Path

import pandas as pd

from lib.artefacts import atomic
from lib.report.metrics import paired_test


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation of values, three decimals; a single value stands alone."""
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"


def difference(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """Accuracy of one method minus that of another, with the p of the paired test; may be empty.

    Both: tiles `n` and right predictions `right`, indexed by seed and group.
    """
    both = mine.merge(other.right, left_index=True, right_index=True, suffixes=("", "_other"))
    if both.empty:
        return ""
    differences = (both.right - both.right_other).values
    p = paired_test(differences)
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{differences.sum() / both.n.sum():+.3f} ({shown})"


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
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
