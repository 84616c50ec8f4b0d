"""Figures of quality: audits, label-free estimates against the truth, and what rounds change."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.style import CORRECT, INCORRECT, OTHER, closed, panel_list, panels
from lib.quality.estimate_tables import AUDIT, TOLERANCE
from lib.quality.estimates import ESTIMATES

MARKERS = "osD^vP*X<>"  # of datasets, where colours alone would not do


def repeated_audits(audits: pd.DataFrame, truth: float, shown: int = 60) -> Figure:
    """Draw intervals of audits of the same predictions one above the other, and the true accuracy.

    audits: of `audit.repeat_audits`, of which the first `shown` are drawn.
    """
    figure, axes = panels(width=7.0, height=3.6)
    ax = axes[0, 0]
    for covers, group in audits.iloc[:shown].groupby("covers"):
        colour = CORRECT if covers else INCORRECT
        label = "interval holds it" if covers else "interval misses it"
        ax.hlines(group.index, group.low, group.high, color=colour, lw=1.3, label=label)
        ax.plot(group.value, group.index, "o", ms=2.5, color=colour)
    ax.axvline(truth, color="black", lw=1.2, ls=":", label="true accuracy")
    ax.set(xlabel="accuracy", ylabel="audit", yticks=[])
    share = f"{audits.covers.mean():.1%} of {len(audits)} intervals hold the true accuracy"
    return closed(figure, share, legend=True)


def estimate_against_truth(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw each estimate against the true accuracy, a panel per estimate and a point per run.

    frame: of `tables.quality_frame`. Colour and marker: dataset; hollow: shifted tiles. Inside the
    grey band an estimate is within ± 3 points. Lines of the audit are its intervals.
    """
    names = [name for name in (AUDIT, *ESTIMATES) if (frame.estimate == name).any()]
    figure, axes = panel_list(len(names), 4, sharex=True, sharey=True)
    ends = np.array([min(frame.truth.min(), frame.value.min()) - 0.03, 1.02])
    for position, (ax, name) in enumerate(zip(axes, names, strict=True)):
        ax.fill_between(ends, ends - TOLERANCE, ends + TOLERANCE, color=OTHER, alpha=0.4, lw=0)
        runs = frame[frame.estimate == name]
        if name == AUDIT:
            ax.vlines(runs.truth, runs.low, runs.high, color=OTHER, lw=0.8)
        for idx, dataset in enumerate(sorted(frame.dataset.unique())):
            own, shifted = runs[runs.dataset == dataset], runs["shift"] != ""
            look: dict[str, Any] = {
                "ms": 4.5,
                "mec": f"C{idx % 8}",
                "mew": 0.9,
                "ls": "",
                "alpha": 0.8,
            }
            look["marker"] = MARKERS[idx % len(MARKERS)]
            for part, face, label in ((~shifted, look["mec"], dataset), (shifted, "none", None)):
                ax.plot(own.truth[part], own.value[part], mfc=face, label=label, **look)
        ax.set(title=ESTIMATES.get(name, name), xlim=ends, ylim=ends)
        ax.set_ylabel("" if position % 4 else "estimate")
        if position >= len(names) - 4:  # the lowest panel of its column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("true accuracy")
    if (frame["shift"] != "").any():
        axes[0].plot([], [], "o", mfc="none", mec="black", label="hollow: shifted tiles")
    return closed(figure, title, legend=True)


def stopping_curves(rounds: pd.DataFrame, title: str = "") -> Figure:
    """Draw, left, the audit of every round and the true accuracy; right, what each round changed.

    rounds: of `stopping.follow_rounds`.
    """
    figure, axes = panels(1, 2, height=3.0)
    left, right = axes[0]
    band = {"color": style.OURS, "alpha": 0.15, "lw": 0, "label": "its 95 % interval"}
    left.plot(rounds.budget, rounds.value, color=style.OURS, marker="o", ms=3.5, label="audit")
    left.fill_between(rounds.budget, rounds.low, rounds.high, **band)
    left.plot(rounds.budget, rounds.truth, color="black", ls=":", label="true accuracy")
    left.set(xlabel="labels", ylabel="accuracy")
    right.plot(rounds.budget, 100 * rounds.changed, color=style.OURS, marker="o", ms=3.5)
    right.set(xlabel="labels", ylabel="predictions changed, %", ylim=(0, None))
    return closed(figure, title, legend=True)
