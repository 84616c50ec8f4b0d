"""Figures of active learning: learning curves; threshold, pairs and clusters of one round."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lib.figures import style
from lib.figures.style import CORRECT, INCORRECT, OTHER, bare, closed, panels
from lib.labels import UNLABELLED
from lib.report import active_learning
from lib.report.active_learning import (
    COLD_STARTS,
    OURS,
    PROBE,
    PUBLISHED,
    STRATEGIES,
    TRAININGS,
    in_order,
    of_loop,
)
from lib.report.statistics import pooled_score, pooled_scores

_plain, _dark = sns.color_palette("colorblind"), sns.color_palette("dark")
_named = {PUBLISHED[1]: style.PUBLISHED, OURS[1]: style.OURS, "random": OTHER}
_others = iter([*_plain[1:7], _plain[8], *_dark[4:], *sns.color_palette("pastel")])
COLOURS = {name: _named.get(name) or next(_others) for name in STRATEGIES}
# Begun by chance is our setting of UniSAL, in its colour.
_starts = ("#CC79A7", "#E69F00", "#009E73", "#D55E00", style.OURS)
COLD_START_COLOURS = dict(zip(COLD_STARTS, _starts, strict=True))
# What the contrastive loss makes of a pair of tiles.
PAIRS = {
    "two views of a tile: attracted": style.OURS,
    "tiles of two classes: repelled": "#f3c9a8",
    "no part": "#f2f2f2",
}


def _of_seeds(name: str, has: int, n_seeds: int) -> str:
    """Name what `has` of `n_seeds` seeds have run."""
    return f"{name} ({has} of {n_seeds} seeds)" if has < n_seeds else name


def _draw_curve(ax: Axes, curve: pd.DataFrame, name: str, n_seeds: int, **look: Any) -> None:
    """Draw pooled accuracy against labels; dashed, and named so, where fewer seeds have run."""
    labels, accuracy = curve.groupby("round").budget.mean(), pooled_scores(curve, ["round"])
    has = curve.seed.nunique()
    ls = "--" if has < n_seeds else "-"
    ax.plot(labels, accuracy, label=_of_seeds(name, has, n_seeds), ls=ls, **look)


def _draw_level(ax: Axes, rows: pd.DataFrame, name: str, ls: str) -> None:
    """Draw the pooled accuracy of rows of one budget, if there are any, as a horizontal line."""
    if len(rows):
        ax.axhline(pooled_score(rows), color="black", lw=1, ls=ls, label=name)


def learning_curves(curves: pd.DataFrame, title: str = "") -> Figure:
    """Draw accuracy against labels for each strategy, a panel per training, pooled over folds.

    curves: `active_learning.rounds` of one dataset and network. Bands of UniSAL
    and of chance: range over seeds, where there are several. Dashed: strategies that fewer seeds
    have run, which the legend says; one seed can be ten points above another.
    """
    n_seeds, rounds = curves.seed.nunique(), curves[curves["round"].notna()]
    trainings = [t for t in (*TRAININGS, PROBE) if t in set(rounds.training)]
    size = {"width": 3 + 2.5 * len(trainings), "height": 3.4}
    figure, axes = panels(1, len(trainings), **size, sharex=True, sharey=True)
    for ax, training in zip(axes[0], trainings, strict=True):
        for kind in [kind for kind in in_order(rounds) if kind[0] == training]:
            chosen, method = of_loop(rounds, kind), kind[1]
            main, colour = method in (PUBLISHED[1], OURS[1]), COLOURS.get(method, "black")
            look = {"color": colour, "lw": 2.4 if main else 1.2, "zorder": 2 + main}
            _draw_curve(ax, chosen, STRATEGIES.get(method, method), n_seeds, **look)
            if (main or method == "random") and chosen.seed.nunique() > 1:
                seeds = pooled_scores(chosen, ["round", "seed"]).groupby("round")
                labels, band = chosen.groupby("round").budget.mean(), {"alpha": 0.15, "lw": 0}
                ax.fill_between(labels, seeds.min(), seeds.max(), color=colour, **band)
        _draw_level(ax, curves[curves.method == "full-supervision"], "all labels", ":")
        ax.set(xlabel="labels", title=training)
    axes[0, 0].set_ylabel("accuracy on the test set")
    return closed(figure, title, legend=True)


def cold_start_curves(curves: pd.DataFrame, title: str = "") -> Figure:
    """Draw accuracy from zero labels on, a panel per shift of the tiles, pooled over folds.

    curves: loops, cold starts among them, of one dataset. Dotted: all
    labels. Dashed, black: VLM-CPL without a label. Dashed, coloured: of fewer seeds than others of
    the panel, as the legend says; a panel of fewer than others says it in its title.
    """
    by_shift = {
        shift: active_learning.rounds(facts)
        for shift, facts in active_learning.cold_start_curves(curves)
    }
    seeds = {shift: lines.seed.nunique() for shift, lines in by_shift.items()}
    width = 3.5 + 3 * len(by_shift)
    figure, axes = panels(1, len(by_shift), width=width, height=3.6, sharex=True, sharey=True)
    for ax, (shift, lines) in zip(axes[0], by_shift.items(), strict=True):
        for method, name in COLD_STARTS.items():
            chosen, main = lines[lines.method == method], method == "cold-start"
            if len(chosen):  # the main one on top, and thin: others may be the same
                look = {"lw": 1.2 if main else 2.6, "zorder": 2 + main, "marker": "o", "ms": 3}
                look["color"] = COLD_START_COLOURS[method]
                _draw_curve(ax, chosen, name, seeds[shift], **look)
        zero = (lines["round"] < 0) & lines.method.eq("cold-start")
        _draw_level(ax, lines[zero], "VLM-CPL alone", "--")
        _draw_level(ax, lines[lines.method == "full-supervision"], "all labels", ":")
        ax.set(xlabel="labels")
        ax.set_title(_of_seeds(shift or "no shift", seeds[shift], max(seeds.values())))
    axes[0, 0].set_ylabel("accuracy on the test set")
    shown: dict[str, Any] = {}
    for line in [line for ax in axes[0] for line in ax.lines]:
        shown.setdefault(str(line.get_label()).partition(" (")[0], line)
    order = [*COLD_STARTS.values(), "VLM-CPL alone", "all labels"]
    legend = [shown[name] for name in order if name in shown]
    return closed(figure, title, legend=legend, names="UniSAL begins with")


def threshold_mask(probs: Mapping[str, np.ndarray], truth: np.ndarray, threshold: float) -> Figure:
    """Draw the confidence of both networks for unlabelled tiles, and which pass the threshold.

    A bar is a tile, at the same place for both networks. probs: title → [2, U, C], a column of
    panels each; truth: [U], for the colours alone.
    """
    figure, axes = panels(2, len(probs), height=4.2, sharex=True, sharey=True)
    for column, (title, both) in enumerate(probs.items()):
        order = np.argsort(-both.max(2).mean(0), kind="stable")
        for ax, predicted, name in zip(axes[:, column], both[:, order], "AB", strict=True):
            confidence, correct = predicted.max(1), predicted.argmax(1) == truth[order]
            colours = np.where(correct, CORRECT, INCORRECT)
            colours = np.where(confidence > threshold, colours, OTHER)
            ax.bar(range(len(order)), confidence, width=1, color=colours, ec="white", lw=0.4)
            ax.axhline(threshold, color="black", lw=1, ls="--")
            ax.set(ylim=(0, 1.02), title=title if name == "A" else "")
            ax.set_ylabel(f"confidence of {name}" if column == 0 else "")
            ax.grid(visible=False)
        axes[1, column].set(xlabel="unlabelled tiles of the batch", xticks=[])
    judged = {"pseudo label, correct": CORRECT, "pseudo label, incorrect": INCORRECT}
    judged["not used"] = OTHER
    legend = [Patch(color=colour, label=name) for name, colour in judged.items()]
    line = Line2D([], [], color="black", lw=1, ls="--", label=f"τ = {threshold:g}")
    return closed(figure, legend=[*legend, line])


def contrast_pairs(
    apart: np.ndarray,
    known: np.ndarray,
    labelled: np.ndarray,
    class_names: Sequence[str],
    cosines: Mapping[str, np.ndarray],
) -> Figure:
    """Draw the pairs of one batch as B × B pictures: their part in the loss, and their cosines.

    Tiles are sorted by class, those without any last.

    Parameters
    ----------
    apart : bool [B, B], tiles of different classes, which the contrastive loss pushes apart
    known : [B], labels and agreed pseudo labels, else `UNLABELLED`
    labelled : bool [B]
    class_names : [C]
    cosines : title → [B, B], of the projections
    """
    group = np.where(known == UNLABELLED, len(class_names), known)
    order = np.lexsort((~labelled, group))
    sizes = np.bincount(group, minlength=len(class_names) + 1)
    ends = np.cumsum(sizes) - 0.5
    figure, axes = panels(1, 1 + len(cosines), height=2.9)
    # The two views of a tile attract each other where there is a tile to be told from.
    kinds = np.where(np.diag(apart.any(1)), 0, np.where(apart, 1, 2))
    pictures = {"pairs of the loss": kinds, **cosines}
    for ax, (title, values) in zip(axes[0], pictures.items(), strict=True):
        look = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
        if values is kinds:
            look = {"cmap": ListedColormap([*PAIRS.values()]), "vmin": 0, "vmax": 2}
        image = ax.imshow(values[np.ix_(order, order)], **look)
        bare(ax, title)
        for end in ends[:-1]:
            ax.axhline(end, color="black", lw=0.5)
            ax.axvline(end, color="black", lw=0.5)
    names = [f"{name} ({n})" for name, n in zip([*class_names, "no label"], sizes, strict=True)]
    shown = np.flatnonzero(sizes)
    axes[0, 0].set_yticks((ends - sizes / 2)[shown], np.array(names)[shown])
    axes[0, 0].tick_params(axis="y", length=0)
    if cosines:
        figure.colorbar(image, ax=axes[0, -1], shrink=0.75, label="cosine of projections")
    legend = [Patch(facecolor=c, edgecolor="#999999", label=name) for name, c in PAIRS.items()]
    return closed(figure, legend=legend)


def disagreement_clusters(points: np.ndarray, cluster: np.ndarray, chosen: np.ndarray) -> Figure:
    """Draw the disagreement set in its clusters, with a line from each tile to the chosen one.

    points: [D, 2]; cluster: [D]; chosen: rows of the set, one for each cluster.
    """
    figure, axes = panels(width=6.0, height=4.6)
    ax = axes[0, 0]
    for colour, centre in zip(sns.color_palette("husl", len(chosen)), chosen, strict=True):
        members = points[cluster == cluster[centre]]
        for end in members:
            ax.plot(*np.stack([points[centre], end]).T, color=colour, lw=0.8)
        ax.scatter(*members.T, s=22, lw=0, color=colour, zorder=2)
    rings = {"s": 70, "lw": 1.4, "fc": "none", "ec": "black", "zorder": 3}
    ax.scatter(*points[chosen].T, label="queried: nearest to the centre of its cluster", **rings)
    bare(ax, "the disagreement set in clusters")
    return closed(figure, legend=True)
