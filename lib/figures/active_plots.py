"""Figures of active learning: learning curves, maps of the pool, ablations."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures.plots import OTHER, RIGHT, SETTING_COLOURS, WRONG, closed
from lib.report import active_learning
from lib.report.active_learning import (
    COLD_STARTS,
    OURS,
    PUBLISHED,
    STRATEGIES,
    TRAININGS,
    in_order,
)
from lib.report.statistics import pooled_accuracies, pooled_rows

# Blue is UniSAL's, light blue its selection in our setting, and grey is chance's.
_plain, _dark = sns.color_palette("colorblind"), sns.color_palette("dark")
_own_hues = {PUBLISHED[1]: SETTING_COLOURS["ours"], OURS[1]: "#56B4E9", "random": OTHER}
_hues = iter([*_plain[1:7], _plain[8], *_dark[4:], *sns.color_palette("pastel")])
COLOURS = {name: _own_hues.get(name) or next(_hues) for name in STRATEGIES}

_cold_hues = (SETTING_COLOURS["ours"], "#56B4E9", "#CC79A7", "#E69F00", OTHER)
COLD_START_COLOURS = dict(zip(COLD_STARTS, _cold_hues, strict=True))


def _of_seeds(name: str, has: int, n_seeds: int) -> str:
    """What to call what `has` of `n_seeds` seeds have run."""
    return f"{name} ({has} of {n_seeds} seeds)" if has < n_seeds else name


def _curve(ax: Axes, curve: pd.DataFrame, name: str, n_seeds: int, **style: Any) -> Line2D:
    """Pooled accuracy against labels; dashed, and named so, where fewer than `n_seeds` have run."""
    labels, accuracy = curve.groupby("round").budget.mean(), pooled_accuracies(curve, ["round"])
    has = curve.seed.nunique()
    style |= {"label": _of_seeds(name, has, n_seeds), "ls": "--" if has < n_seeds else "-"}
    return ax.plot(labels, accuracy, **style)[0]


def learning_curves(curves: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against labels for each strategy, a panel per training, pooled over folds.

    curves: lines of `active_learning.rounds_frame` of one dataset and way to train. Bands of UniSAL
    and of chance: range over seeds, where there are several. Dashed: strategies that fewer seeds
    have run, which the legend says; one seed can be ten points above another.
    """
    n_seeds, order = curves.seed.nunique(), {"all labels": len(STRATEGIES) + 1}
    full = curves[curves.method == "full-supervision"]
    trainings = [t for t in TRAININGS if t in set(curves.training[curves["round"].notna()])]
    figure, axes = plt.subplots(
        1, len(trainings), figsize=(4.3 * len(trainings) + 1.6, 3.4), sharey=True, squeeze=False
    )
    for ax, training in zip(axes[0], trainings, strict=True):
        for method in [m for t, m in in_order(curves) if t == training]:
            chosen = curves[(curves.training == training) & (curves.method == method)]
            mine, colour = method in (PUBLISHED[1], OURS[1]), COLOURS.get(method, "black")
            line = _curve(ax, chosen, STRATEGIES.get(method, method), n_seeds,
                          color=colour, lw=2.4 if mine else 1.2, zorder=2 + mine)  # fmt: skip
            order[str(line.get_label())] = [*STRATEGIES, method].index(method)
            if (mine or method == "random") and chosen.seed.nunique() > 1:
                seeds = (
                    pooled_accuracies(chosen, ["round", "seed"])
                    .groupby("round")
                    .agg(["min", "max"])
                )
                band = {"color": colour, "alpha": 0.15, "lw": 0}
                ax.fill_between(line.get_xdata(), seeds["min"], seeds["max"], **band)
        if len(full):
            ax.axhline(pooled_rows(full), color="black", lw=1, ls=":", label="all labels")
        ax.set(xlabel="labels", title=training)
    axes[0, 0].set_ylabel("accuracy on the test set")
    shown = {label: line for ax in axes[0]
             for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}  # fmt: skip
    names = sorted(shown, key=order.__getitem__)
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes[0, -1].legend([shown[name] for name in names], names, **place)
    figure.suptitle(title)
    return closed(figure)


def cold_start_curves(curves: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy from zero labels on, a panel per shift of the tiles, pooled over folds.

    curves: lines of `active_learning.rounds_frame` with `cold_starts`, of one dataset. Dotted: all
    labels. Dashed, black: VLM-CPL without a label. Dashed, coloured: of fewer seeds than others of
    the panel, as the legend says; a panel of fewer than others says it in its title.
    """
    panels = dict(active_learning.cold_start_curves(curves))
    size = 4.3 * len(panels) + 3.6, 3.4
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    shown: dict[str, Line2D] = {}
    seeds = {shift: own.seed.nunique() for shift, own in panels.items()}
    for ax, (shift, own) in zip(axes[0], panels.items(), strict=True):
        for method, name in COLD_STARTS.items():
            chosen = own[own.method == method]
            if len(chosen):
                main = method == "cold-start"  # on top, and thin: others may be the same
                style = {"marker": "o", "ms": 3, "color": COLD_START_COLOURS[method]}
                line = _curve(ax, chosen, name, seeds[shift],
                              lw=1.2 if main else 2.6, zorder=2 + main, **style)  # fmt: skip
                shown.setdefault(method, line)
        zero, full = (
            (own["round"] < 0) & own.method.eq("cold-start"),
            own.method.eq("full-supervision"),
        )
        ends = (own[zero], "--", "VLM-CPL alone"), (own[full], ":", "all labels")
        for rows, dashes, label in ends:
            if len(rows):
                line = ax.axhline(pooled_rows(rows), color="black", lw=1, ls=dashes, label=label)
                shown.setdefault(label, line)
        panel = _of_seeds(shift or "no shift", seeds[shift], max(seeds.values()))
        ax.set(xlabel="labels", title=panel)
    axes[0, 0].set_ylabel("accuracy on the test set")
    lines = [shown[name] for name in (*COLD_STARTS, "VLM-CPL alone", "all labels") if name in shown]
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes[0, -1].legend(handles=lines, title="begins with", **place)
    figure.suptitle(title)
    return closed(figure)


def pseudo_label_curves(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Loss, share of tiles with a pseudo label and pseudo-label precision, per training.

    curves: name → curve of `trainer.train`; running means.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.9))
    titles = {
        "loss_a": "loss of network A",
        "confident": f"unlabelled tiles above {threshold:g}",
        "precision": "pseudo-label precision",
    }
    for idx, (name, curve) in enumerate(curves.items()):
        smooth = curve.rolling(max(1, len(curve) // 20), min_periods=1).mean()
        for ax, column in zip(axes, titles, strict=True):
            ax.plot(smooth.step, smooth[column], color=f"C{idx}", label=name)
    for ax, title in zip(axes, titles.values(), strict=True):
        ax.set(xlabel="step", title=title)
    axes[0].set_yscale("log")
    axes[0].legend()
    return closed(figure)


def feature_maps(
    points: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Tiles in two dimensions, coloured by class. points: title → [N, 2]; labels: [N]."""
    figure, axes = plt.subplots(1, len(points), figsize=(4.2 * len(points) + 1, 3.8))
    colours = sns.color_palette("colorblind", len(class_names))
    for ax, (title, xy) in zip(np.atleast_1d(axes), points.items(), strict=True):
        for c, name in enumerate(class_names):
            ax.scatter(*xy[labels == c].T, s=9, lw=0, color=colours[c], label=name)
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
    np.atleast_1d(axes)[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    return closed(figure)


def selection_map(
    points: np.ndarray, disagree: np.ndarray, right: np.ndarray, chosen: Mapping[str, np.ndarray]
) -> Figure:
    """The pool in two dimensions: where the networks disagree, and what each strategy chooses.

    points: [N, 2]; disagree, right (the mean prediction): bool [N]; chosen: strategy → rows.
    """
    figure, axes = plt.subplots(1, len(chosen), figsize=(3.6 * len(chosen), 3.9), squeeze=False)
    for ax, (title, rows) in zip(axes[0], chosen.items(), strict=True):
        for mask, colour, size, label in (
            (~disagree, OTHER, 4, "networks agree"),
            (disagree & right, RIGHT, 9, "disagree, mean is right"),
            (disagree & ~right, WRONG, 9, "disagree, mean is wrong"),
        ):
            ax.scatter(*points[mask].T, s=size, lw=0, color=colour, label=label)
        ax.scatter(*points[rows].T, s=34, lw=1.2, facecolors="none", edgecolors="black",
                   label="chosen")  # fmt: skip
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, markerscale=1.5)
    return closed(figure)


def ablation_curves(lines: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """AULC and accuracy of the last round against one rule at a time.

    lines: see `active_ablations.ablation_lines`. Mean and range over runs; dotted is unchanged.
    """
    figure, axes = plt.subplots(1, len(lines), figsize=(2.5 * len(lines) + 1.2, 2.7), sharey=True)
    for ax, (name, ends) in zip(np.atleast_1d(axes), lines.items(), strict=True):
        values = sorted(ends.x.unique())
        shown = {"aulc": "AULC", "accuracy": "at the end"}
        for (column, label), colour in zip(
            shown.items(), (SETTING_COLOURS["ours"], "#777777"), strict=True
        ):
            curve = ends.groupby("x")[column].agg(["mean", "min", "max"])
            ax.plot(range(len(values)), curve["mean"], color=colour, marker="o", ms=3, label=label)
            ax.fill_between(
                range(len(values)), curve["min"], curve["max"], color=colour, alpha=0.15, lw=0
            )
        ax.axvline(values.index(ends.own.iloc[0]), color="black", linewidth=1, linestyle=":")
        ax.set_xticks(range(len(values)), [f"{x:g}" for x in values], fontsize=8)
        ax.set(xlabel=name)
    np.atleast_1d(axes)[0].set_ylabel("accuracy on the test set")
    handles, names = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return closed(figure)
