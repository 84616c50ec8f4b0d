"""Figures of the consensus filters: views and their votes, vote entropy, clusters and classes.

Each function takes arrays and returns a closed figure.
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle

from lib.consensus import vote_entropy, vote_histogram
from lib.figures.plots import OTHER, RIGHT, WRONG, closed, plain_names
from lib.figures.step_plots import frame


def stains_and_views(tile: np.ndarray, stains: np.ndarray, views: np.ndarray) -> Figure:
    """A tile, its two stains and its random views.

    tile: uint8 [S, S, 3]; stains: [2, S, S] optical densities; views: [V, s, s, 3] in 0 … 1.
    """
    columns = 3 + (len(views) + 1) // 2
    figure = plt.figure(figsize=(1.15 * columns, 2.5))
    grid = figure.add_gridspec(2, columns)
    panels = [("tile", tile, None)] + [
        (name, stain, colour)
        for name, stain, colour in zip(
            ("haematoxylin", "eosin"), stains, ("Purples", "RdPu"), strict=True
        )
    ]
    for column, (title, image, colours) in enumerate(panels):
        ax = figure.add_subplot(grid[:, column])
        limits = (0, np.quantile(image, 0.99)) if colours else (None, None)
        ax.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1])
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    for v, view in enumerate(views):
        ax = figure.add_subplot(grid[v % 2, 3 + v // 2])
        ax.imshow(view)
        ax.set_title(f"view {v + 1}", fontsize=8)
        ax.set_axis_off()
    return closed(figure)


def tile_votes(
    tiles: Mapping[str, np.ndarray],
    views: np.ndarray,
    votes: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Tiles with their views, the vote of each view, and the vote histogram with its entropy.

    tiles: title → uint8 [S, S, 3], k of them; views: [k, v, s, s, 3] in 0 … 1, the first ten are
    shown; votes: [V, k] of all V views.
    """
    figure = plt.figure(figsize=(10.5, 2.9 * len(tiles)))
    rows = figure.add_gridspec(len(tiles), 1, hspace=0.08)
    colours = sns.color_palette("colorblind", len(class_names))
    shares = vote_histogram(votes, len(class_names))
    entropies = vote_entropy(votes, len(class_names))
    for row, (title, tile) in enumerate(tiles.items()):
        band = figure.add_subfigure(rows[row, 0])
        grid = band.add_gridspec(1, 3, width_ratios=[1.5, 5, 2])
        picture = band.add_subplot(grid[0])
        picture.imshow(tile)
        picture.set_title(title, fontsize=9)
        picture.set_axis_off()
        _voting_views(band, grid[1], views[row], votes[:, row], class_names)
        bars = band.add_subplot(grid[2])
        bars.barh(range(len(class_names)), shares[row], color=colours)
        bars.set_yticks(range(len(class_names)), class_names, fontsize=8)
        bars.set(xlim=(0, 1), xlabel="share of the votes, h")
        bars.set_title(f"H = {entropies[row]:.2f} nats", fontsize=9)
        bars.grid(axis="y", visible=False)
        bars.invert_yaxis()
    return closed(figure)


def _voting_views(
    figure: FigureBase,
    place: SubplotSpec,
    views: np.ndarray,
    votes: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Up to ten views in two lines, each framed in the colour of the class that it votes for."""
    colours = sns.color_palette("colorblind", len(class_names))
    cells = place.subgridspec(2, 5)
    for v, (view, vote) in enumerate(zip(views[:10], votes, strict=False)):
        ax = figure.add_subplot(cells[v // 5, v % 5])
        ax.imshow(view)
        frame(ax, colours[vote])
        ax.set_xlabel(textwrap.fill(class_names[vote], 14), fontsize=8, labelpad=2)


def vote_entropy_histogram(
    votes: np.ndarray, n_classes: int, right: np.ndarray, keep_ratio: float
) -> Figure:
    """Vote entropy of right and wrong prompt labels, with the cut at the keep ratio.

    votes: [V, N]; right: bool [N]. Tiles left of the cut are kept; those in the cut's own bar tie.
    """
    entropies = vote_entropy(votes, n_classes)
    values, bar_of = np.unique(entropies.round(6), return_inverse=True)
    finest = max(values[-1], 0.1) / 30
    if len(values) > 1 and np.diff(values).min() < finest:
        bar_of = (entropies / finest).astype(int)
        values = np.arange(bar_of.max() + 1) * finest
    counts = [np.bincount(bar_of[m], minlength=len(values)) for m in (right, ~right)]
    width = 0.85 * (np.diff(values).min() if len(values) > 1 else finest)
    figure, ax = plt.subplots(figsize=(6, 3))
    ax.bar(values, counts[0], width, color=RIGHT, label="prompt label right")
    ax.bar(values, counts[1], width, bottom=counts[0], color=WRONG, label="wrong")
    cut = np.quantile(entropies, keep_ratio, method="inverted_cdf")
    ties = (entropies.round(6) == round(float(cut), 6)).mean()
    ax.axvline(cut, color="black", linewidth=1, linestyle=":")
    ax.annotate(
        f"lowest {keep_ratio:.0%} ends here; {ties:.0%} of all tiles tie",
        (cut, ax.get_ylim()[1]),
        xytext=(6, -4),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
    ax.set(xlabel="vote entropy (nats)", ylabel="tiles")
    ax.legend(loc="center right")
    return closed(figure)


@plain_names()
def cluster_matrix(
    agreement: np.ndarray, class_of_cluster: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Tiles of each cluster by prompt label; the cells of matched clusters and classes are framed.

    agreement: [K, C] counts; class_of_cluster: [K]. The clusters are in the order of their classes.
    """
    order = np.argsort(class_of_cluster, kind="stable")
    n_clusters, n_classes = agreement.shape
    figure, ax = plt.subplots(figsize=(2.2 + 0.75 * n_classes, 1.5 + 0.45 * n_clusters))
    sns.heatmap(
        agreement[order],
        annot=True,
        fmt="d",
        cmap="Greys",
        vmax=1.6 * agreement.max(),
        cbar=False,
        xticklabels=class_names,
        yticklabels=[f"cluster {k + 1}" for k in order],
        ax=ax,
    )
    _frame_cells(ax, class_of_cluster[order])
    ax.set(xlabel="prompt label")
    return closed(figure)


@plain_names()
def lift_matrix(
    lift: np.ndarray,
    class_of_cluster: np.ndarray,
    n_tiles: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Lift of every class in every cluster; the cells of clusters and their classes are framed.

    lift: [K, C], see `clusters.cluster_lift`; class_of_cluster, n_tiles: [K]. Colours are log2 of
    the lift, orange above one and violet below; the clusters are in the order of their classes,
    within a class by its lift.
    """
    order = np.lexsort([-lift[np.arange(len(lift)), class_of_cluster], class_of_cluster])
    n_clusters, n_classes = lift.shape
    figure, ax = plt.subplots(figsize=(2.8 + 0.85 * n_classes, 1.6 + 0.36 * n_clusters))
    sns.heatmap(
        np.log2(np.maximum(lift[order], 1 / 16)), annot=lift[order], fmt=".2f", cmap="PuOr_r",
        center=0, vmin=-3, vmax=3, xticklabels=class_names,
        yticklabels=[f"cluster {k + 1}, {n_tiles[k]} tiles" for k in order],
        cbar_kws={"label": "log2 of the lift"}, ax=ax,
    )  # fmt: skip
    borders = np.flatnonzero(np.diff(class_of_cluster[order])) + 1
    ax.hlines(borders, 0, n_classes, color="white", linewidth=3)
    _frame_cells(ax, class_of_cluster[order])
    ax.set(xlabel="class")
    return closed(figure)


def _frame_cells(ax: Axes, columns: np.ndarray) -> None:
    """Frame one cell in each row of a heat map, and turn its labels so that they can be read."""
    for row, column in enumerate(columns):
        cell = (column, row)
        ax.add_patch(
            Rectangle(cell, 1, 1, fill=False, edgecolor=RIGHT, linewidth=3, clip_on=False, zorder=3)
        )
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=30)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")


def cluster_map(
    points: np.ndarray,
    pseudo_labels: np.ndarray,
    feature_labels: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Features in two dimensions, coloured by true class, by cluster's class and by agreement.

    points: [N, 2]; the three label arrays: [N].
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), sharex=True, sharey=True)
    colours = sns.color_palette("colorblind", len(class_names))
    titled = ((axes[0], labels, "true class"), (axes[1], feature_labels, "cluster's class"))
    for ax, shown, title in titled:
        for c, name in enumerate(class_names):
            ax.scatter(*points[shown == c].T, s=11, lw=0, color=colours[c], label=name)
        ax.set_title(title)
    agree = pseudo_labels == feature_labels
    right = pseudo_labels == labels
    for mask, colour, name in (
        (~agree, OTHER, "disagree: dropped"),
        (agree & right, RIGHT, "agree, right"),
        (agree & ~right, WRONG, "agree, wrong"),
    ):
        axes[2].scatter(*points[mask].T, s=11, lw=0, color=colour, label=f"{name} ({mask.sum()})")
    axes[2].set_title("prompt and cluster")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, markerscale=2, fontsize=8)
    return closed(figure)
