"""Figures of whole slides: tissue and grid, tiles that a prompt took, heat maps, a scale bar."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.figures.step_plots import tile_sheet
from lib.figures.style import CORRECT, closed, panels
from lib.slides.cohort import Cohort
from lib.slides.reading import Slide
from lib.slides.study import CohortTiles

PICTURE = 900  # pixels of a slide's longer side in a figure
BARS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # µm


def tissue_and_grid(cohort: Cohort, line: Any) -> Figure:
    """Draw a slide's tissue and the tiles in it side by side. line: of the table of slides."""
    with cohort.open(line) as slide:
        mask, coords, source = cohort.tissue(slide, line)
        picture, scale = _picture(slide)
        figure, (axes,) = panels(1, 2, height=3.6)
        for ax, title in zip(
            axes, (f"tissue, {source.partition(',')[0]}", f"{len(coords)} tiles"), strict=True
        ):
            _show(ax, picture, scale)
            ax.set_title(title)
        extent = (0, slide.size[0], slide.size[1], 0)
        axes[0].contour(
            mask, [0.5], colors=[CORRECT], linewidths=1.2, extent=extent, origin="upper"
        )
        given = cohort.given_of(slide)
        side = slide.side(cohort.pixels, cohort.mpp_of(slide, given.side if given else 0))[0]
        axes[1].add_collection(_squares(coords, side, edgecolor=CORRECT))
        _scale_bar(axes[0], slide)
    return closed(figure)


def taken_tiles(tiles: CohortTiles, columns: int = 8) -> Figure:
    """Show the surest tiles of each prompt, those of the targets first, where it has any."""
    best, sure = tiles.probs.argmax(1), tiles.probs.max(1)
    names = [*tiles.targets, *(f"dropped: {name}" for name in tiles.others)]
    rows = {}
    for k, name in enumerate(names):
        of_prompt = np.flatnonzero(best == k)
        surest = of_prompt[np.argsort(-sure[of_prompt], kind="stable")][:columns]
        if len(surest):
            pictures = tiles.cohort.read(tiles.table.loc[surest])
            rows[f"{name} ({len(of_prompt)})"] = pictures
    return tile_sheet(rows, columns=columns)


def heat_maps(
    cohort: Cohort, line: Any, tiles: pd.DataFrame, values: Mapping[str, np.ndarray]
) -> Figure:
    """Draw a slide beside its tiles coloured by some values in 0 … 1, with a scale bar.

    line: of the table of slides; tiles: of it, with x, y and side in pixels of level 0; values: by
    title [N], NaN for a tile that is not coloured.
    """
    coords, side = tiles[["x", "y"]].values, tiles.side.iloc[0]
    with cohort.open(line) as slide:
        picture, scale = _picture(slide)
        figure, (axes,) = panels(1, 1 + len(values), height=3.2)
        for ax, title in zip(axes, ("", *values), strict=True):
            _show(ax, picture, scale)
            ax.set_title(title)
        _scale_bar(axes[0], slide)
        for ax, shown in zip(axes[1:], values.values(), strict=True):
            inside = np.isfinite(shown)
            squares = _squares(coords[inside], side, alpha=0.75, cmap="viridis")
            squares.set_array(shown[inside])
            squares.set_clim(0, 1)
            ax.add_collection(squares)
        figure.colorbar(squares, ax=axes, shrink=0.8)
    return closed(figure)


def _picture(slide: Slide) -> tuple[np.ndarray, float]:
    """The whole slide, small, and how many pixels of level 0 are one of it."""
    scale = max(1.0, max(slide.size) / PICTURE)
    return slide.thumbnail(scale * max(slide.mpp)), scale


def _show(ax: Axes, picture: np.ndarray, scale: float) -> None:
    height, width = picture.shape[:2]
    ax.imshow(picture, extent=(0, width * scale, height * scale, 0))
    ax.set_axis_off()


def _squares(coords: np.ndarray, side: float, **style: Any) -> PatchCollection:
    # Squares with values must not be given a face colour: it would stand against theirs.
    outline = {"facecolor": "none", "linewidth": 0.8}
    style = (outline if "edgecolor" in style else {"linewidth": 0}) | style
    return PatchCollection([Rectangle((x, y), side, side) for x, y in coords], **style)


def _scale_bar(ax: Axes, slide: Slide) -> None:
    """A bar of a round length, about a fifth of the slide's width, at its lower left."""
    width, height = slide.size
    length = max((um for um in BARS if um <= width * slide.mpp[0] / 4), default=BARS[0])
    x, y = 0.03 * width, 0.97 * height
    ax.plot([x, x + length / slide.mpp[0]], [y, y], color="black", lw=3, solid_capstyle="butt")
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} µm"
    ax.text(x, y - 0.02 * height, text, va="bottom")
