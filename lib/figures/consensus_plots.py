"""Figures of the consensus filters: views and their votes, vote entropy, clusters and classes.

Each function takes arrays and returns a closed figure.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.consensus import vote_entropy, vote_histogram
from lib.figures import style
from lib.figures.step_plots import tile_sheet
from lib.figures.style import CORRECT, WIDTH, bare, below_tile, closed, panels


def stains_and_views(tile: np.ndarray, stains: np.ndarray, views: np.ndarray) -> Figure:
    """Show a tile, its two stains and its random views.

    tile: uint8 [S, S, 3]; stains: [2, S, S] optical densities; views: [V, s, s, 3] in 0 … 1.
    """
    pictures = [tile / 255]
    for stain, colours in zip(stains, ("Purples", "RdPu"), strict=True):
        pictures.append(plt.get_cmap(colours)(stain / np.quantile(stain, 0.99))[..., :3])
    rows = {"tile, haema-\ntoxylin, eosin": np.stack(pictures), "views": views}
    return tile_sheet(rows, columns=8)


def tile_votes(
    tiles: Mapping[str, np.ndarray],
    views: np.ndarray,
    votes: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Show tiles with their views, the vote of each view, and the histogram with its entropy.

    tiles: title → uint8 [S, S, 3], k of them; views: [k, v, s, s, 3] in 0 … 1, the first ten are
    shown, each framed in the colour of the class that it votes for; votes: [V, k] of all V views.
    """
    figure = plt.figure(figsize=(WIDTH, 2.8 * len(tiles)))
    colours = sns.color_palette("colorblind", len(class_names))
    shares = vote_histogram(votes, len(class_names))
    entropies = vote_entropy(votes, len(class_names))
    bands = figure.subfigures(len(tiles), 1, squeeze=False)[:, 0]
    for row, (band, (title, tile)) in enumerate(zip(bands, tiles.items(), strict=True)):
        grid = band.add_gridspec(2, 7, width_ratios=[1.5, *[1] * 5, 1.3])
        picture = band.add_subplot(grid[:, 0])
        picture.imshow(tile)
        picture.set_title(title)
        picture.set_axis_off()
        for v, (view, vote) in enumerate(zip(views[row][:10], votes[:, row], strict=False)):
            ax = band.add_subplot(grid[v // 5, 1 + v % 5])
            ax.imshow(view)
            bare(ax, frame=colours[vote])
            below_tile(ax, class_names[vote])
        bars = band.add_subplot(grid[:, 6])
        bars.barh(range(len(class_names)), shares[row], color=colours)
        bars.set_yticks(range(len(class_names)), class_names)
        bars.set(xlim=(0, 1), xlabel="share of the votes, h")
        bars.set_title(f"H = {entropies[row]:.2f} nats")
        bars.grid(axis="y", visible=False)
        bars.invert_yaxis()
    return closed(figure)


@style.plain_names()
def cluster_matrix(
    values: np.ndarray,
    class_of_cluster: np.ndarray,
    class_names: Sequence[str],
    *,
    n_tiles: np.ndarray | None = None,
) -> Figure:
    """Draw clusters by classes, the cell of each cluster's class framed.

    Parameters
    ----------
    values : [K, C], tiles of a cluster by prompt label, or with `n_tiles` lifts
    class_of_cluster : [K]; rows are in the order of these, within a class by its value
    class_names : [C]
    n_tiles : [K], tiles of each cluster; values are lifts then (`clusters.cluster_lift`), and
        colours their log2, orange above one and violet below

    """
    order = np.lexsort([-values[np.arange(len(values)), class_of_cluster], class_of_cluster])
    shown, framed, n_classes = values[order], class_of_cluster[order], len(class_names)
    sizes = (values.sum(1) if n_tiles is None else n_tiles)[order]
    names = [f"cluster {k + 1} ({n})" for k, n in zip(order, sizes, strict=True)]
    width, height = 2.6 + 0.85 * n_classes, 1.6 + 0.33 * len(values)
    figure, axes = panels(width=width, height=height)
    ax = axes[0, 0]
    named = {"xticklabels": class_names, "yticklabels": names, "ax": ax}
    if n_tiles is None:
        colours = {"cmap": "Greys", "vmax": 1.6 * values.max(), "cbar": False}
        sns.heatmap(shown, annot=True, fmt="d", **colours, **named)
    else:
        bar = {"label": "log2 of the lift"}
        colours = {"cmap": "PuOr_r", "vmin": -3, "vmax": 3, "cbar_kws": bar}
        sns.heatmap(np.log2(np.maximum(shown, 1 / 16)), annot=shown, fmt=".2f", **colours, **named)
    borders = np.flatnonzero(np.diff(framed)) + 1
    ax.hlines(borders, 0, n_classes, color="white", lw=3)
    for row, column in enumerate(framed):
        cell = Rectangle((column, row), 1, 1, fill=False, edgecolor=CORRECT, lw=3, clip_on=False)
        ax.add_patch(cell).set_zorder(3)
    xlabel = "prompt label" if n_tiles is None else "class"
    style.name_matrix(ax, xlabel, "cluster (tiles)")
    return closed(figure)
