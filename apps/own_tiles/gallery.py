"""Tiles of each class for a pathologist to check (sure, unsure, rejected): sheets and one page."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from apps.own_tiles.tile_folder import TileFolder
from lib import paths
from lib.alarm import Alarm
from lib.artefacts import atomic
from lib.labels import OTHER_TISSUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = ("surest", "least sure", "rejected")
PER_ROW = 12
CASES = (
    "A case is a subfolder, its slides are the folders with tiles in it. It has the mean of the "
    "probabilities of its tiles."
)
MAX_LINES, FEW_LINES = 200, 20  # of each table of the page; more are folded up
QUALITY = "<!-- how good is it -->", "<!-- /how good is it -->"  # around that part of the page


class Quality(NamedTuple):
    """How good the predictions are, as far as is known: sentences, and perhaps a table.

    sets: bool [N, C], classes of each tile after an audit.
    """

    sentences: Sequence[str]
    table: pd.DataFrame | None = None
    sets: np.ndarray | None = None


def facts(
    tiles: TileFolder, kept: np.ndarray, vlm: str, n_views: int, other: np.ndarray | None = None
) -> list[str]:
    """Write the sentences at the head of the page.

    kept: bool [unique tiles]; other: bool [unique tiles], those predicted as other tissue, where
    there are words for it.
    """
    n, n_left = len(tiles.table), len(tiles.left_out)
    left = f"{n_left} of {n + n_left} files were left out: see below and left_out.csv."
    return [
        f"{n} image files, {n - len(tiles.unique)} of them copies of others. Nobody "
        f"labelled them: {vlm} did, from the prompts below.",
        *[left] * (n_left > 0),
        *[f"Some were {line}." for line in tiles.converted_lines()],
        f"Of its labels {kept.sum()} ({kept.mean():.0%}) were kept: those that {n_views} views of "
        "a tile agree on most and that clusters of similar tiles confirm. Two networks learned "
        "from these and predicted all tiles.",
        *([] if other is None else [_other_tissue(other)]),
        *[CASES] * bool((tiles.table.group != tiles.table.path).any()),
        "A confidence is the networks' own opinion. How often they are correct is only known once "
        "somebody has labelled some of these tiles. Not for diagnosis.",
    ]


def _other_tissue(other: np.ndarray) -> str:
    return (
        f"{other.sum()} tiles ({other.mean():.0%}) were predicted as other tissue, and are none of "
        "the classes: the words that took them stand below, and their pictures at the end."
    )


def choose(
    tiles: pd.DataFrame, names: Sequence[str], n: int = PER_ROW, others: Sequence[str] = ()
) -> dict[str, pd.DataFrame]:
    """Choose tiles of each class to show, up to `n` for each of `ROWS` (column `row`).

    Of those predicted as the class the surest and the least sure; of those that the prompts gave to
    the class but the consensus did not keep the ones that the views agree on least. tiles: one row
    per tile with class, confidence, prompt_class, kept, vote_entropy, view_entropy. A tile is shown
    as surest or as least sure, not as both. others: names of other tissue, which together come
    last, as `OTHER_TISSUE`: the surest of each, and of all of it the least sure. The categories of
    `row` are all rows, in order.
    """
    chosen = {}
    for name in names:
        predicted = tiles[tiles["class"] == name].sort_values("confidence", ascending=False)
        half = min(n, -(-len(predicted) // 2))
        rejected = tiles[(tiles.prompt_class == name) & ~tiles.kept]
        rejected = rejected.sort_values(["vote_entropy", "view_entropy"], ascending=False)
        subsets = predicted[:half], predicted[half:][::-1][:n], rejected[:n]
        chosen[name] = _in_rows(dict(zip(ROWS, subsets, strict=True)))
    if others:
        dropped = tiles[tiles["class"].isin(list(others))].sort_values("confidence")
        rows = {name: dropped[dropped["class"] == name][::-1][:n] for name in others}
        surest = pd.concat(rows.values())
        rows[ROWS[1]] = dropped.drop(surest.index)[:n]
        chosen[OTHER_TISSUE] = _in_rows(rows)
    return chosen


def _in_rows(subsets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join tiles by row, with a column of the rows."""
    rows = pd.CategoricalDtype(list(subsets))
    return pd.concat([s.assign(row=row).astype({"row": rows}) for row, s in subsets.items()])


def write_sheets(
    folder: Path, chosen: Mapping[str, pd.DataFrame], pixels: np.ndarray
) -> dict[str, "Figure"]:
    """Draw the chosen tiles of each class; the folder appears when all are written.

    chosen: from `choose`; pixels: uint8 [tiles, S, S, 3], by tile number. Returns the figures.
    """
    from lib.figures.step_plots import tile_sheet

    sheets = {}
    with atomic(folder) as temporary:
        temporary.mkdir()
        for n, (name, tiles) in enumerate(chosen.items(), 1):
            rows = {row: pixels[tiles.tile[tiles.row == row]] for row in tiles.row.cat.categories}
            sheets[name] = tile_sheet(rows, columns=PER_ROW)
            sheets[name].savefig(temporary / f"{n:02d}-{paths.file_name(name)[:60]}.png")
    return sheets


def overview(tiles: pd.DataFrame, prompts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Count the tiles that the prompts gave to each class, those kept, and those predicted as it.

    tiles: as for `choose`. With the mean confidence of the last, and the prompts.
    """
    names = list(prompts)
    by_prompts, predicted = tiles.groupby("prompt_class"), tiles.groupby("class")
    counts = {
        "labelled by prompts": by_prompts.size(),
        "kept": by_prompts.kept.sum(),
        "predicted": predicted.size(),
    }
    table = pd.DataFrame({"class": names})
    for title, n in counts.items():
        table[title] = n.reindex(names, fill_value=0).to_numpy(int)
    confidence = predicted.confidence.mean().astype(float).round(3).reindex(names)
    table["mean confidence"] = confidence.astype(object).where(confidence.notna(), "").to_numpy()
    return table.assign(prompts=[" · ".join(texts) for texts in prompts.values()])


def write_page(
    file: Path,
    *,
    title: str,
    facts: Sequence[str],
    alarms: Sequence[Alarm],
    tables: Mapping[str, pd.DataFrame | None],
    chosen: Mapping[str, pd.DataFrame],
    pixels: np.ndarray,
) -> None:
    """Write one HTML file with all pictures in it, to be opened in any browser.

    Parameters
    ----------
    file : the page
    title, facts : its head and the sentences below
    alarms : what is suspicious
    tables : by their headings, their first `MAX_LINES` lines; None and empty ones are left out
    chosen : from `choose`
    pixels : uint8 [tiles, S, S, 3], by tile number

    """
    render(
        file,
        "gallery.html.jinja",
        pixels,
        title=title,
        quality=QUALITY,
        facts=facts,
        alarms=alarms,
        tables={name: _cells(t) for name, t in tables.items() if t is not None and len(t)},
        chosen={name: tiles.rename(columns={"class": "name"}) for name, tiles in chosen.items()},
    )


def render(file: Path, template: str, pixels: np.ndarray, **values: Any) -> None:
    """Write a page by a template of this folder, with the pictures of tiles in it."""

    def picture(tile: int) -> str:
        buffer = BytesIO()
        Image.fromarray(pixels[tile]).save(buffer, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

    lines = {"max_lines": MAX_LINES, "few_lines": FEW_LINES}
    page = _template(template).render(picture=picture, **lines, **values)
    with atomic(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """Round floats, of any width, to three digits; what is missing is left empty."""
    wide = table.astype(dict.fromkeys(table.select_dtypes("float"), float))
    return wide.round(3).astype(object).where(wide.notna(), "")


def quality_html(quality: Quality) -> str:
    """Make the part of the page that says how good the predictions are."""
    table = None if quality.table is None else _cells(quality.table)
    return _template("quality.html.jinja").render(sentences=quality.sentences, table=table)


def write_quality(file: Path, quality: Quality) -> None:
    """Put how good the predictions are into a page of `write_page`, in the place of what it said.

    Raises ValueError for a page without that place, which was made before there was one.
    """
    before, opened, rest = file.read_text(encoding="utf-8").partition(QUALITY[0])
    _, closed, after = rest.partition(QUALITY[1])
    if not closed:
        raise ValueError(f"{file} has no place for what an audit says: run 90_your_own_tiles again")
    with atomic(file) as temporary:
        text = before + opened + quality_html(quality) + closed + after
        temporary.write_text(text, encoding="utf-8")


def _template(name: str) -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name)
