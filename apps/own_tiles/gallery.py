"""Tiles of each class for a pathologist to check (sure, unsure, rejected): sheets and one page."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from lib import consensus, paths
from lib.alarm import Alarm
from lib.artefacts import atomic
from lib.figures import step_plots

ROWS = ("surest", "least sure", "rejected")
PER_ROW = 12
MOST_LINES = 200  # of each table of the page


def consensus_columns(
    unique: pd.DataFrame,
    names: Sequence[str],
    labels: np.ndarray,
    kept: np.ndarray,
    votes: np.ndarray,
    view_probs: np.ndarray,
) -> pd.DataFrame:
    """The tiles with columns prompt_class, kept, vote_entropy and view_entropy.

    unique: a row per tile; labels: [N], what the prompts say; kept: bool [N]; votes: [V, N];
    view_probs: [N, C].
    """
    return unique.assign(
        prompt_class=np.array(names)[labels],
        kept=kept,
        vote_entropy=consensus.vote_entropy(votes, len(names)),
        view_entropy=consensus.entropy(view_probs),
    )


def per_file(table: pd.DataFrame, unique: pd.DataFrame) -> pd.DataFrame:
    """A row per file with the `consensus_columns` of its tile, copies included."""
    columns = unique.drop(columns=["path", "group", "digest"])
    return table[["path", "group", "tile"]].merge(columns).drop(columns="tile")


def facts(
    table: pd.DataFrame,
    unique: pd.DataFrame,
    kept: np.ndarray,
    vlm: str,
    n_views: int,
    left: pd.DataFrame,
) -> list[str]:
    """Sentences for the head of the page.

    table: a row per file; unique: a row per tile; left: from `classifier.left_out`.
    """
    n_files, rest = len(table) + len(left), "were left out: see below and left_out.csv."
    return [
        f"{len(table)} image files, {len(table) - len(unique)} of them copies of others. Nobody "
        f"labelled them: {vlm} did, from the prompts below.",
        *([f"{len(left)} of {n_files} files {rest}"] if len(left) else []),
        f"Of its labels {kept.sum()} ({kept.mean():.0%}) were kept: those that {n_views} views of "
        "a tile agree on most and that clusters of alike tiles confirm. Two networks learnt from "
        "these and predicted every tile.",
        "A confidence is the networks' own opinion. How often they are right is only known once "
        "somebody has labelled some of these tiles. Not for diagnosis.",
    ]


def choose(tiles: pd.DataFrame, names: Sequence[str], n: int = PER_ROW) -> dict[str, pd.DataFrame]:
    """Tiles to show of each class, up to `n` of each of `ROWS` (column `row`).

    Of those predicted as the class the surest and the least sure; of those that the prompts gave to
    the class but the consensus did not keep the ones that the views agree on least. tiles: one row
    per tile with class, confidence, prompt_class, kept, vote_entropy, view_entropy. A tile is shown
    as surest or as least sure, not as both.
    """
    chosen = {}
    for name in names:
        predicted = tiles[tiles["class"] == name].sort_values("confidence", ascending=False)
        half = min(n, -(-len(predicted) // 2))
        rejected = tiles[(tiles.prompt_class == name) & ~tiles.kept]
        rejected = rejected.sort_values(["vote_entropy", "view_entropy"], ascending=False)
        subsets = predicted[:half], predicted[half:][::-1][:n], rejected[:n]
        rows = [subset.assign(row=row) for row, subset in zip(ROWS, subsets, strict=True)]
        chosen[name] = pd.concat(rows)
    return chosen


def write_sheets(
    folder: Path, chosen: Mapping[str, pd.DataFrame], decoded: np.ndarray
) -> dict[str, Figure]:
    """A picture of the chosen tiles of each class; the folder appears when all are written.

    chosen: from `choose`; decoded: uint8 [tiles, S, S, 3], by tile number. Returns the figures.
    """
    sheets = {}
    with atomic(folder) as temporary:
        temporary.mkdir()
        for n, (name, tiles) in enumerate(chosen.items(), 1):
            rows = {row: decoded[tiles.tile[tiles.row == row]] for row in ROWS}
            sheets[name] = step_plots.tile_sheet(rows, columns=PER_ROW)
            sheets[name].savefig(temporary / f"{n:02d}-{paths.file_name(name)[:60]}.png")
    return sheets


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
            "prompts": " · ".join(class_prompts),
        }
        for name, class_prompts in prompts.items()
    ]
    return pd.DataFrame(lines)


def write_page(
    file: Path,
    *,
    title: str,
    facts: Sequence[str],
    alarms: Sequence[Alarm],
    tables: Mapping[str, pd.DataFrame | None],
    chosen: Mapping[str, pd.DataFrame],
    decoded: np.ndarray,
) -> None:
    """One HTML file with every picture in it, to be opened in any browser.

    facts: sentences at its head; alarms: what is suspicious, below them; tables: by their headings,
    their first `MOST_LINES` lines, those that are None or empty not at all; chosen: from `choose`;
    decoded: uint8 [tiles, S, S, 3], by tile number.
    """
    renamed = {name: tiles.rename(columns={"class": "predicted"}) for name, tiles in chosen.items()}
    galleries = {
        name: {
            row: [
                {
                    "path": tile.path,
                    "picture": _picture(decoded[tile.tile]),
                    "confidence": tile.confidence,
                    "predicted": tile.predicted,
                }
                for tile in tiles[tiles.row == row].itertuples()
            ]
            for row in ROWS
        }
        for name, tiles in renamed.items()
    }
    shown = {name: table for name, table in tables.items() if table is not None and len(table)}
    page = _template().render(
        title=title,
        facts=facts,
        alarms=alarms,
        galleries=galleries,
        tables={name: _cells(table[:MOST_LINES].round(3)) for name, table in shown.items()},
        more={name: max(0, len(table) - MOST_LINES) for name, table in shown.items()},
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
