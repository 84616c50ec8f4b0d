"""Figures of one step of UniSAL: threshold and pairs of a batch, clusters and chosen tiles."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from lib.figures.plots import OTHER, RIGHT, WRONG, closed
from lib.labels import UNLABELLED

NO_PAIR, REPELLED, ATTRACTED = range(3)  # of two tiles in the contrastive loss
PAIR_COLOURS = ("#f2f2f2", "#f3c9a8", "#0072B2")


def threshold_mask(probs: Mapping[str, np.ndarray], truth: np.ndarray, threshold: float) -> Figure:
    """Confidence of both networks for unlabelled tiles of a batch, and which pass the threshold.

    A bar is a tile, at the same place for both networks. probs: title → [2, U, C], a column of
    panels each; truth: [U], for the colours alone.
    """
    figure, axes = plt.subplots(
        2, len(probs), figsize=(3.5 * len(probs), 3.7), sharex=True, sharey=True, squeeze=False
    )
    for column, (title, both) in enumerate(probs.items()):
        order = np.argsort(-both.max(2).mean(0), kind="stable")
        for ax, own, name in zip(axes[:, column], both[:, order], "AB", strict=True):
            confidence, right = own.max(1), own.argmax(1) == truth[order]
            colours = np.where(confidence > threshold, np.where(right, RIGHT, WRONG), OTHER)
            ax.bar(range(len(order)), confidence, width=1, color=colours, ec="white", lw=0.4)
            ax.axhline(threshold, color="black", lw=1, ls="--")
            ax.set(ylim=(0, 1.02), title=title if name == "A" else "")
            ax.set_ylabel(f"confidence of {name}" if column == 0 else "")
            ax.grid(visible=False)
        axes[1, column].set(xlabel="unlabelled tiles of the batch", xticks=[])
    entries = (RIGHT, "pseudo label, right"), (WRONG, "pseudo label, wrong"), (OTHER, "not used")
    handles: list[Artist] = [Patch(color=colour, label=label) for colour, label in entries]
    handles.append(Line2D([], [], color="black", lw=1, ls="--", label=f"τ = {threshold:g}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return closed(figure)


def pair_kinds(known: np.ndarray) -> np.ndarray:
    """What the contrastive loss makes of each pair of tiles: int [B, B].

    known: [B], labels and agreed pseudo labels, else `UNLABELLED`. A tile is attracted to its own
    other view if it has a label and one of another class to be told from.
    """
    has_label = known != UNLABELLED
    repelled = has_label[:, None] & has_label[None] & (known[:, None] != known[None])
    kinds = np.where(repelled, REPELLED, NO_PAIR)
    np.fill_diagonal(kinds, np.where(repelled.any(1), ATTRACTED, NO_PAIR))
    return kinds


def contrast_pairs(
    known: np.ndarray,
    labelled: np.ndarray,
    class_names: Sequence[str],
    cosines: Mapping[str, np.ndarray],
) -> Figure:
    """The pairs of one batch as a B × B picture, and how alike the projections of each pair are.

    Tiles are sorted by class, those without any last; a strip on the left has the colour of the
    class, strong for labels and pale for pseudo labels. known: see `pair_kinds`; labelled: bool
    [B]; cosines: title → [B, B], drawn beside the kinds of the pairs.
    """
    group = np.where(known == UNLABELLED, len(class_names), known)
    order = np.lexsort((~labelled, group))
    starts = np.searchsorted(group[order], range(len(class_names) + 2))
    figure, axes = plt.subplots(1, 1 + len(cosines), figsize=(3.5 * (1 + len(cosines)) + 1.4, 3.9))
    axes = np.atleast_1d(axes)
    axes[0].imshow(pair_kinds(known[order]), cmap=ListedColormap(PAIR_COLOURS), vmin=0, vmax=2)
    axes[0].set_title("pairs of the contrastive loss")
    for ax, (title, values) in zip(axes[1:], cosines.items(), strict=True):
        image = ax.imshow(values[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_title(title)
    for ax in axes:
        for start in starts[1:-1]:
            ax.axhline(start - 0.5, color="black", lw=0.5)
            ax.axvline(start - 0.5, color="black", lw=0.5)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    _class_strip(axes[0], known[order], labelled[order], len(class_names))
    sizes = np.diff(starts)
    names = [f"{name} ({n})" for name, n in zip([*class_names, "no label"], sizes, strict=True)]
    middles = [start + (n - 1) / 2 for start, n in zip(starts, sizes, strict=False) if n]
    axes[0].set_yticks(middles, [name for name, n in zip(names, sizes, strict=True) if n])
    axes[0].tick_params(axis="y", length=0, pad=14, labelsize=8)
    if cosines:
        figure.colorbar(image, ax=axes[-1], shrink=0.75, label="cosine of projections")
    entries = zip(PAIR_COLOURS[::-1], ("two views of a tile: attracted",
                  "tiles of two classes: repelled", "no part"), strict=True)  # fmt: skip
    handles = [Patch(facecolor=colour, edgecolor="#999999", label=name) for colour, name in entries]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return closed(figure)


def _class_strip(ax: plt.Axes, known: np.ndarray, labelled: np.ndarray, n_classes: int) -> None:
    colours = sns.color_palette("colorblind", n_classes)
    width = max(1.5, len(known) / 40)
    for row, (c, has_label) in enumerate(zip(known, labelled, strict=True)):
        if c != UNLABELLED:
            ax.add_patch(
                Rectangle(
                    (-0.5 - 1.2 * width, row - 0.5), width, 1, color=colours[c],
                    alpha=1 if has_label else 0.4, lw=0, clip_on=False,
                )
            )  # fmt: skip


def cluster_sheet(rows: Mapping[str, np.ndarray], columns: int = 10) -> Figure:
    """A row of tiles per cluster: framed the one that is queried, then those that it stands for.

    rows: title → uint8 [k, S, S, 3], the queried tile first.
    """
    figure, axes = plt.subplots(
        max(1, len(rows)), columns, figsize=(0.8 * columns + 1.6, 0.85 * max(1, len(rows))),
        squeeze=False,
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (title, tiles) in zip(axes, rows.items(), strict=False):
        for ax, tile in zip(line, tiles, strict=False):
            ax.imshow(tile)
        frame = Rectangle((0, 0), 1, 1, transform=line[0].transAxes, fill=False, lw=3.5,
                          edgecolor="black", clip_on=False)  # fmt: skip
        line[0].add_patch(frame)
        line[0].text(-0.15, 0.5, title, transform=line[0].transAxes, ha="right", va="center",
                     fontsize=8)  # fmt: skip
    return closed(figure)


def disagreement_clusters(
    points: np.ndarray,
    disagree: np.ndarray,
    set_points: np.ndarray,
    cluster: np.ndarray,
    chosen: np.ndarray,
) -> Figure:
    """The pool with its disagreement set, and the clusters of that set with the chosen tiles.

    points: [N, 2], NaN for tiles that are not shown; disagree: bool [N]; set_points: [D, 2], the
    tiles of the disagreement set by themselves; cluster: [D]; chosen: rows of the set, one for each
    cluster.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.3))
    left.scatter(*points[~disagree].T, s=5, lw=0, color=OTHER, label="networks agree")
    left.scatter(*points[disagree].T, s=12, lw=0, color="#0072B2", label="disagreement set")
    left.set_title("the pool")
    colours = sns.color_palette("colorblind", max(1, len(chosen)))
    for colour, centre in zip(colours, chosen, strict=False):
        members = set_points[cluster == cluster[centre]]
        for x, y in members:
            right.plot([set_points[centre, 0], x], [set_points[centre, 1], y], color=colour, lw=0.8)
        right.scatter(*members.T, s=22, lw=0, color=colour, zorder=2)
    right.scatter(*set_points[chosen].T, s=70, lw=1.4, facecolors="none", edgecolors="black",
                  zorder=3, label="queried: nearest to its cluster's centre")  # fmt: skip
    right.set_title("the disagreement set alone, in clusters")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, markerscale=1.2)
    return closed(figure)
