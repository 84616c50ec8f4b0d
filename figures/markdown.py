"""Tables as Markdown, and the blocks of a page that hold them."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lib.artefacts import atomic


def markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown; nothing for a table without columns."""
    if not len(table.columns):
        return ""
    head = [table.columns.tolist(), ["---"] * len(table.columns)]
    lines = head + table.astype(str).values.tolist()
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_blocks(file: Path, blocks: Mapping[str, pd.DataFrame]) -> None:
    """Put tables into the blocks of a page that bear their names; without the page do nothing.

    A block stands between `<!-- name -->` and `<!-- /name -->`.
    """
    if not file.is_file():
        return
    old = new = file.read_text()
    for name, table in blocks.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = new.partition(begin)
        if end in rest:
            new = before + begin + markdown(table) + end + rest.partition(end)[2]
    if new != old:
        with atomic(file) as temporary:
            temporary.write_text(new)
