"""The look of all figures and tables: width, colours, legends, titles.

A figure is nine inches wide at most, at which a notebook shows it pixel by pixel, so that its text
has one size wherever it stands.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas.io.formats.style import Styler

plt.style.use(Path(__file__).with_name("style.mplstyle"))

WIDTH = 9.0  # inches
CORRECT, INCORRECT, OTHER = "#009E73", "#D55E00", "#BBBBBB"
# Blue is ours, light blue a method as published; other methods have other hues.
PUBLISHED, OURS = "#56B4E9", "#0072B2"
SETTING_COLOURS = {"published filters": PUBLISHED, "ours": OURS, "": "#777777"}
# Of seaborn's lines: a band from the lowest to the highest.
BAND: dict[str, Any] = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.15, "lw": 0}}


def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 3.0, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes [rows, columns], in inches and no wider than a page.

    The height is without that of a legend below.
    """
    size = min(width, WIDTH), height
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def panel_list(
    n: int, most: int, *, width: float = WIDTH, height: float = 2.3, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make n panels in rows of at most `most`; height: of a row."""
    rows = -(-n // most)
    figure, axes = panels(rows, min(most, n), width=width, height=height * rows + 0.3, **options)
    for unused in axes.flat[n:]:
        unused.remove()
    return figure, list(axes.flat[:n])


def closed(
    figure: Figure, title: str = "", *, legend: Sequence[Artist] | bool = False, names: str = ""
) -> Figure:
    """Take a finished figure from pyplot, so that a notebook shows it once, as the cell's value.

    legend: the artists of a legend below all panels, True for those with a label; names: its title.
    Names are shown as they are: a `$` in one begins no formula. Ticks of numbers have no text yet.
    """
    if title:
        figure.suptitle(title)
    if legend:
        _legend_below(figure, legend, names)
    for text in figure.findobj(Text):
        if text.get_text():
            text.set_parse_math(False)
    plt.close(figure)
    return figure


def _legend_below(figure: Figure, legend: Sequence[Artist] | bool, title: str) -> None:
    """Add one legend for all panels below them: each label once, in the columns that have room."""
    artists = [] if isinstance(legend, bool) else [(a, str(a.get_label())) for a in legend]
    for ax in figure.axes if legend is True else ():
        artists += zip(*ax.get_legend_handles_labels(), strict=True)
        if own := ax.get_legend():
            own.remove()
    shown = {label: artist for artist, label in artists}
    if shown:
        room = figure.get_figwidth() / (0.45 + 0.078 * max(map(len, shown)))
        columns = min(len(shown), max(1, int(room)))
        lines = -(-len(shown) // columns) + bool(title)
        figure.set_figheight(figure.get_figheight() + 0.21 * lines)
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
        figure.legend([*shown.values()], [*shown], title=title or None, markerscale=1.4, **place)


@contextmanager
def plain_names() -> Iterator[None]:
    """Take names as they are in figures that are drawn before they are `closed`: heat maps."""
    with plt.rc_context({"text.parse_math": False}):
        yield


def bare(ax: Axes, title: str = "", *, frame: Any = None) -> None:
    """Leave out ticks and grid, and the spines too if the panel gets no frame of some colour."""
    ax.set(xticks=[], yticks=[], title=title)
    ax.grid(visible=False)
    ax.spines[:].set(visible=frame is not None, color=frame or "none", linewidth=2.5)


def below_tile(ax: Axes, class_name: str, more: str = "") -> None:
    """Write the name of a class below a tile, in lines no wider than it."""
    lines = textwrap.wrap(class_name, 14)
    ax.set_xlabel("\n".join([*lines, more] if more else lines), labelpad=2, fontsize=8)


def name_matrix(ax: Axes, xlabel: str, ylabel: str = "", title: str = "") -> None:
    """Name a heat map, and turn the names below it so that they can be read."""
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=30)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")


def show_table(table: pd.DataFrame, title: str = "", columns: Sequence[str] = ()) -> Styler:
    """Show a table in a notebook: a title above, whole names and numbers, no empty columns.

    columns: those to show, of which a page has room for eight; without any, all.
    """
    shown = table[[name for name in columns if name in table]] if columns else table
    shown = shown.replace("", None).dropna(axis=1, how="all").convert_dtypes()
    if shown.index.inferred_type == "floating" and (shown.index % 1 == 0).all():
        shown.index = shown.index.astype(int)
    styled = shown.style.format(precision=3, na_rep="", escape="html")
    for axis in (0, 1):
        styled.format_index(escape="html", axis=axis)
    caption = "caption-side: top; text-align: left; font-weight: bold; padding: 0.5em 0"
    texts = [shown.iloc[:, n].astype(str) for n in range(shown.shape[1])]
    numbers = [n for n, column in enumerate(texts) if column.str.match(r"[-+]?\d").any()]
    styled.set_caption(escape(title)).set_table_styles(
        [
            {"selector": "caption", "props": caption},
            *({"selector": f"td.col{n}", "props": "white-space: nowrap"} for n in numbers),
        ]
    )
    for side, names in (("index", table.index), ("columns", table.columns)):
        styled = styled.hide(axis=side) if isinstance(names, pd.RangeIndex) else styled
    return styled
