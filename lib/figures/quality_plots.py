"""Figures of quality: audits, label-free estimates against the truth, and what rounds change."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.plots import OTHER, RIGHT, SETTING_COLOURS, WRONG, closed
from lib.quality.estimate_tables import AUDIT, TOLERANCE
from lib.quality.estimates import ESTIMATES

MARKERS = "osD^vP*X<>"  # of datasets, where colours alone would not do


def repeated_audits(audits: pd.DataFrame, truth: float, shown: int = 60) -> Figure:
    """Intervals of audits of the same predictions, one above the other, and the true accuracy.

    audits: of `audit.repeat_audits`, of which the first `shown` are drawn.
    """
    some = audits.iloc[:shown]
    figure, ax = plt.subplots(figsize=(6.4, 3.2))
    for covers, group in some.groupby("covers"):
        colour = RIGHT if covers else WRONG
        ax.hlines(group.index, group.low, group.high, color=colour, lw=1.3)
        ax.plot(group.value, group.index, "o", ms=2.5, color=colour)
    ax.axvline(truth, color="black", lw=1.2, ls=":", label="true accuracy")
    ax.set(xlabel="accuracy", ylabel="audit", yticks=[], title=f"{audits.covers.mean():.1%} of "
           f"{len(audits)} intervals hold the true accuracy")  # fmt: skip
    ax.legend(loc="lower left")
    return closed(figure)


def estimate_against_truth(frame: pd.DataFrame, title: str = "") -> Figure:
    """Each estimate against the true accuracy, a panel per estimate and a point per run.

    frame: of `tables.quality_frame`. Colour and marker: dataset; hollow: shifted tiles. Inside the
    grey band an estimate is within ± 3 points. Lines of the audit are its intervals.
    """
    names = [name for name in (AUDIT, *ESTIMATES) if (frame.estimate == name).any()]
    columns = min(4, len(names))
    size = 2.35 * columns + 1.6, 2.5 * -(-len(names) // columns)
    figure, axes = plt.subplots(
        -(-len(names) // columns), columns, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    datasets = sorted(frame.dataset.unique())
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    ends = np.array([min(frame.truth.min(), frame.value.min()) - 0.03, 1.02])
    for ax, name in zip(axes.flat, names, strict=False):
        ax.fill_between(ends, ends - TOLERANCE, ends + TOLERANCE, color=OTHER, alpha=0.4, lw=0)
        runs = frame[frame.estimate == name]
        if name == AUDIT:
            ax.vlines(runs.truth, runs.low, runs.high, color=OTHER, lw=0.8)
        for place, dataset in enumerate(datasets):
            for shifted in (False, True):
                some = runs[(runs.dataset == dataset) & ((runs["shift"] != "") == shifted)]
                colour = colours[place % len(colours)]
                ax.plot(some.truth, some.value, MARKERS[place % len(MARKERS)], ms=4.5, alpha=0.8,
                        mfc="none" if shifted else colour, mec=colour, mew=0.9)  # fmt: skip
        ax.set(title={AUDIT: AUDIT}.get(name) or ESTIMATES[name], xlim=ends, ylim=ends)
    for unused in axes.flat[len(names) :]:
        unused.remove()
    for ax in axes.flat[max(0, len(names) - columns) : len(names)]:
        ax.tick_params(labelbottom=True)  # the lowest panel of its column
    for place, dataset in enumerate(datasets):
        axes.flat[0].plot([], [], MARKERS[place % len(MARKERS)], label=dataset,
                          color=colours[place % len(colours)])  # fmt: skip
    if (frame["shift"] != "").any():
        axes.flat[0].plot([], [], "o", mfc="none", mec="black", label="hollow: shifted tiles")
    figure.supxlabel("true accuracy on the test set", fontsize=10)
    figure.supylabel("estimate", fontsize=10)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(title)
    return closed(figure)


def stopping_curves(rounds: pd.DataFrame, title: str = "") -> Figure:
    """Left the audit of every round and the true accuracy, right what each round changed.

    rounds: of `stopping.follow_rounds`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.9))
    colour = SETTING_COLOURS["ours"]
    left.fill_between(rounds.budget, rounds.low, rounds.high, color=colour, alpha=0.15, lw=0)
    left.plot(rounds.budget, rounds.value, color=colour, marker="o", ms=3.5, label="audit")
    left.plot(rounds.budget, rounds.truth, color="black", ls=":", label="true accuracy")
    left.set(xlabel="labels", ylabel="accuracy", title=title)
    left.legend(loc="lower right")
    right.plot(rounds.budget, 100 * rounds.changed, color=colour, marker="o", ms=3.5)
    right.set(xlabel="labels", ylabel="predictions changed, %", ylim=(0, None))
    return closed(figure)
