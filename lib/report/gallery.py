"""What a pathologist looks at: tiles of each class, sure, unsure and rejected, on one HTML page."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from PIL import Image

from lib.artefacts import atomic

ROWS = ("surest", "least sure", "rejected")
PER_ROW = 12
MOST_GROUPS = 200  # lines of the table of groups


def choose(tiles: pd.DataFrame, names: Sequence[str], n: int = PER_ROW) -> dict[str, pd.DataFrame]:
    """Tiles to show of each class, up to `n` of each of `ROWS` (column `row`).

    The surest and the least sure of those predicted as the class, and of those that the prompts
    gave to the class but the consensus did not keep the most disputed. tiles: one row per tile with
    class, confidence, prompt_class, kept, vote_entropy, view_entropy. A tile is shown as surest or
    as least sure, not as both.
    """
    chosen = {}
    for name in names:
        said = tiles[tiles["class"] == name].sort_values("confidence", ascending=False)
        half = min(n, -(-len(said) // 2))
        dropped = tiles[(tiles.prompt_class == name) & ~tiles.kept]
        disputed = dropped.sort_values(["vote_entropy", "view_entropy"], ascending=False)
        parts = said[:half], said[half:][::-1][:n], disputed[:n]
        named = [part.assign(row=row) for row, part in zip(ROWS, parts, strict=True)]
        chosen[name] = pd.concat(named)
    return chosen


def overview(tiles: pd.DataFrame, prompts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A line per class: tiles that the prompts gave to it, those of them that were kept, tiles that
    are predicted as it and their mean confidence, its prompts.

    tiles: as in `choose`.
    """
    labelled = tiles.prompt_class.value_counts()
    kept = tiles.prompt_class[tiles.kept].value_counts()
    predicted = tiles["class"].value_counts()
    confidence = tiles.groupby("class").confidence.mean().round(3)
    lines = [
        {
            "class": name,
            "labelled by prompts": labelled.get(name, 0),
            "kept": kept.get(name, 0),
            "predicted": predicted.get(name, 0),
            "mean confidence": confidence.get(name, ""),
            "prompts": " · ".join(of),
        }
        for name, of in prompts.items()
    ]
    return pd.DataFrame(lines)


def write_page(
    file: Path,
    *,
    title: str,
    facts: Sequence[str],
    classes: pd.DataFrame,
    groups: pd.DataFrame | None,
    chosen: Mapping[str, pd.DataFrame],
    decoded: np.ndarray,
) -> None:
    """One HTML file with every picture in it, to be opened in any browser.

    facts: sentences at its head; classes: one row per class, shown as a table; groups: likewise, or
    None; chosen: from `choose`; decoded: uint8 [tiles, S, S, 3], by tile number.
    """
    galleries = {
        name: {
            row: [
                {
                    "path": tile.path,
                    "picture": _picture(decoded[tile.tile]),
                    "confidence": tile.confidence,
                    "said": tile.said,
                }
                for tile in part[part.row == row].rename(columns={"class": "said"}).itertuples()
            ]
            for row in ROWS
        }
        for name, part in chosen.items()
    }
    tables = {"Classes": _cells(classes)}
    if groups is not None:
        tables["Groups"] = _cells(groups[:MOST_GROUPS].round(3))
    page = _template().render(
        title=title,
        facts=facts,
        galleries=galleries,
        tables=tables,
        left_out=0 if groups is None else max(0, len(groups) - MOST_GROUPS),
    )
    with atomic(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _cells(table: pd.DataFrame) -> dict[str, Any]:
    return {"head": list(table.columns), "rows": table.astype(str).values.tolist()}


def _picture(tile: np.ndarray) -> str:
    """A tile as a JPEG in a data URI."""
    buffer = BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _template() -> Any:
    text = Path(__file__).with_name("gallery.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
