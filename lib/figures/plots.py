"""Figures of results, made from rows of the record; the colours of all figures.

Each function takes tables or rows and returns a closed figure. Figures that show one step of a
method are in `step_plots`, those of active learning in `active_plots`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lib.consensus import VARIANTS
from lib.report.statistics import pooled_rows

plt.style.use(Path(__file__).with_name("style.mplstyle"))

RIGHT, WRONG, OTHER = "#009E73", "#D55E00", "#BBBBBB"
# The same colour for the same rule everywhere: hue for the tie rule or for labels by lift, line for
# the quota.
LIFT_COLOUR = "#009E73"
TIE_COLOURS = {"random": "#E69F00", "probability": "#0072B2"}
QUOTA_LINES = {"global": "--", "class": "-"}
SETTING_COLOURS = {"published filters": "#E69F00", "ours": "#0072B2", "": "#777777"}
TISSUE_COLOURS = {"all tissue": "#777777", "open set": "#E69F00", "open set, learnt": "#0072B2"}
SIDES = {"published filters": -1, "ours": 1, "": 0}  # of a method's line in a figure


@contextmanager
def plain_names() -> Iterator[None]:
    """Around figures that are drawn before they are `closed`, as seaborn's heat maps are."""
    with plt.rc_context({"text.parse_math": False}):
        yield


def closed(figure: Figure) -> Figure:
    """Take a finished figure from pyplot, so that a notebook shows it once, as the cell's value.

    Names are shown as they are: a `$` in one begins no formula. Ticks of numbers have no text yet.
    """
    for text in figure.findobj(Text):
        if text.get_text():
            text.set_parse_math(False)
    plt.close(figure)
    return figure


def precision_against_keep_ratio(rows: pd.DataFrame, title: str = "") -> Figure:
    """Pseudo-label precision against the keep ratio, for each label rule, tie rule and quota.

    rows: columns keep_ratio, precision, label_rule, tie_break, quota, varied (() at the run's own
    ratio, which is dotted) and seed (several give a band from the lowest to the highest).
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    rules = ["label_rule", "tie_break", "quota"]
    for (label_rule, tie_break, quota), df in rows.groupby(rules, sort=False):
        curve = df.groupby("keep_ratio").precision.agg(["mean", "min", "max"])
        by_lift = label_rule == "lift"
        colour, line = LIFT_COLOUR if by_lift else TIE_COLOURS[tie_break], QUOTA_LINES[quota]
        label = f"{tie_break} ties, {quota} quota" + (", lift labels" if by_lift else "")
        ax.plot(curve.index, curve["mean"], color=colour, linestyle=line, label=label)
        if df.seed.nunique() > 1:
            ax.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.12, lw=0)
    for ratio in rows.keep_ratio[rows.varied == ()].unique():
        ax.axvline(ratio, color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="keep ratio ρ", ylabel="pseudo-label precision", title=title)
    ax.legend()
    return closed(figure)


def kept_per_class(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Kept labels of each class, right and wrong, for each method.

    table: one line per method and class, columns method, class, kept, right (means over seeds).
    """
    methods = list(dict.fromkeys(table.method))
    figure, axes = plt.subplots(
        1,
        len(methods),
        figsize=(1.9 * len(methods) + 1.2, 0.34 * len(class_names) + 1.3),
        sharex=True,
        sharey=True,
    )
    for ax, method in zip(np.atleast_1d(axes), methods, strict=True):
        counts = table[table.method == method].set_index("class").loc[list(class_names)]
        wrong = counts.kept - counts.right
        ax.barh(counts.index, counts.right, color=RIGHT, label="right")
        ax.barh(counts.index, wrong, left=counts.right, color=WRONG, label="wrong")
        ax.set_title(method, fontsize=9)
        ax.set_xlabel("tiles kept")
        ax.grid(axis="y", visible=False)
    np.atleast_1d(axes)[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    np.atleast_1d(axes)[0].invert_yaxis()
    return closed(figure)


def consensus_overview(table: pd.DataFrame, title: str = "") -> Figure:
    """Pseudo-label precision by filter and setting: a point per run, a bar at the mean.

    table: columns method (for display), setting, share, precision.
    """
    methods = list(dict.fromkeys(table.method))
    figure, ax = plt.subplots(figsize=(6.4, 0.5 * len(methods) + 1.1))
    for height, method in enumerate(methods):
        for setting, df in table[table.method == method].groupby("setting"):
            colour, y = SETTING_COLOURS[setting], height + 0.14 * SIDES[setting]
            _points(ax, df.precision, df.precision.mean(), y, colour)
            ax.annotate(
                f"{df.precision.mean():.3f}, {df.share.mean():.0%} kept",
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                color=colour,
            )
    _name_settings(ax)
    ax.legend(loc="lower left")
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlabel="pseudo-label precision", title=title)
    return closed(figure)


def comparison(table: pd.DataFrame, names: Mapping[str, str], title: str = "") -> Figure:
    """Accuracy of each method: a point per run, a bar at the value pooled over folds.

    table: `comparison.score_frame`; names: method → what to print.
    """
    methods = list(dict.fromkeys(table.method))
    figure, ax = plt.subplots(figsize=(6.4, 0.32 * len(methods) + 1.1))
    low = table.accuracy.min()
    for height, method in enumerate(methods):
        for setting, df in table[table.method == method].groupby("setting"):
            colour = "black" if method == "full-supervision" else SETTING_COLOURS[setting]
            y = height + 0.17 * SIDES[setting]
            _points(ax, df.accuracy, pooled_rows(df), y, colour)
    _name_settings(ax)
    ax.legend(loc="lower left")
    ax.set_yticks(range(len(methods)), [names[method] for method in methods])
    ax.invert_yaxis()
    ax.set(xlabel="accuracy on the test set", title=title, xlim=(low - 0.02, 1.005))
    return closed(figure)


def _points(ax: Axes, values: pd.Series, mean: float, y: float, colour: str) -> None:
    """A point per run and a bar."""
    ax.scatter(values, np.full(len(values), y), s=14, color=colour, alpha=0.5, lw=0)
    ax.plot(mean, y, marker="|", markersize=10, color=colour, mew=2.5)


def _name_settings(ax: Axes) -> None:
    for setting in VARIANTS:
        ax.plot([], [], marker="|", lw=0, mew=2.5, color=SETTING_COLOURS[setting], label=setting)


def ablation_curves(lines: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy against one rule at a time: mean and range over runs; dotted is our setting.

    lines: what the axis says → `ablation_tables.ablation` of one rule, its values in column x.
    """
    columns = min(3, len(lines))
    size = 2.7 * columns, 2.5 * -(-len(lines) // columns)
    figure, axes = plt.subplots(-(-len(lines) // columns), columns, figsize=size, sharey=True)
    for unused in np.atleast_1d(axes).flat[len(lines) :]:
        unused.remove()
    labels = {"precision": "pseudo-label precision", "accuracy": "accuracy on the test set"}
    for ax, (name, df) in zip(np.atleast_1d(axes).flat, lines.items(), strict=False):
        values = sorted(df.x.unique())
        for column, colour in (("precision", OTHER), ("accuracy", SETTING_COLOURS["ours"])):
            curve = df.groupby("x")[column].agg(["mean", "min", "max"])
            ticks = [values.index(x) for x in curve.index]
            ax.plot(ticks, curve["mean"], color=colour, marker="o", ms=3, label=labels[column])
            ax.fill_between(ticks, curve["min"], curve["max"], color=colour, alpha=0.15, lw=0)
        ours = df.x[df.varied == ()].iloc[0]
        ax.axvline(values.index(ours), color="black", linewidth=1, linestyle=":")
        ax.set_xticks(range(len(values)), [f"{x:g}" for x in values], fontsize=8)
        ax.set(xlabel=name)
    np.atleast_1d(axes).flat[0].legend(loc="lower left", fontsize=8)
    figure.suptitle(title)
    return closed(figure)


# Direction of a shift (its name less the strength) → marker and what to call it.
SHIFTS = {
    "": ("o", "no shift"),
    "haematoxylin-": ("v", "haematoxylin paler"),
    "haematoxylin+": ("^", "haematoxylin darker"),
    "eosin-": ("<", "eosin paler"),
    "eosin+": (">", "eosin darker"),
    "stain-": ("d", "both stains, towards blue"),
    "stain+": ("D", "both stains, towards pink"),
    "blur": ("s", "blur, px"),
    "jpeg": ("X", "JPEG quality"),
}


def robustness(lines: pd.DataFrame, names: Mapping[str, str], title: str = "") -> Figure:
    """Accuracy of each method against that of the zero-shot labels, a marker for each shift.

    lines: `ablations.robustness_lines`; points are means over all but shift, method and
    setting. names: method → what to print. On the diagonal a method is as right as the labels.
    """
    figure, ax = plt.subplots(figsize=(7.4, 4.4))
    keys = ["method", "setting", "shift"]
    points = lines.groupby(keys, sort=False)[["zero_shot", "accuracy"]].mean().reset_index()
    colours = {"ce-all": OTHER, "full-supervision": "black"}
    ends = points.zero_shot.min(), points.zero_shot.max()
    ax.plot(ends, ends, ":", lw=1.2, color="black", label=names["zero-shot"])
    trained = points[points.method != "zero-shot"]
    for (method, setting), df in trained.groupby(keys[:2], sort=False):
        colour = colours.get(method, SETTING_COLOURS[setting])
        for shift, x, y in df[["shift", "zero_shot", "accuracy"]].itertuples(index=False):
            marker, _ = SHIFTS[shift.rstrip("0123456789.")]
            ax.plot(x, y, marker, ms=7.5, color=colour, mec="white", mew=0.7)
        label = f"{names[method]}, {setting}" if setting else names[method]
        ax.plot([], [], "o", ms=7.5, color=colour, label=label)
    for direction, (marker, words) in SHIFTS.items():
        strengths = _strengths(points["shift"].unique(), direction)
        if strengths:
            label = f"{words} ({', '.join(strengths)})" if direction else words
            ax.plot([], [], marker, ms=7.5, color="none", mec="black", mew=1, label=label)
    ax.set(
        xlabel="accuracy of the zero-shot labels at that shift, test set",
        ylabel="accuracy on the test set",
        title=title,
    )
    figure.legend(loc="outside right center", title="colour: method; marker: shift (strength)")
    return closed(figure)


def _strengths(shifts: Iterable[str], direction: str) -> list[str]:
    """Strengths of the named shifts of one direction, as written, from small to large."""
    ends = [s.removeprefix(direction) for s in shifts if s.rstrip("0123456789.") == direction]
    return sorted(ends, key=lambda end: float(end or 0))


def accuracy_against_share(frame: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy of slides against the share of irrelevant tiles, a line per setting.

    frame: from `slides.scores.share_frame`; bars are intervals.
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    for place, (setting, df) in enumerate(frame.groupby("setting", sort=True)):
        value, low, high = (np.array([getattr(e, n) for e in df.accuracy])
                            for n in ("value", "low", "high"))  # fmt: skip
        x = df.irrelevant + 0.006 * (place - 1)  # side by side, so that bars can be told apart
        ax.errorbar(x, value, (value - low, high - value), marker="o",
                    color=TISSUE_COLOURS[setting], label=setting)  # fmt: skip
    ax.set(xlabel="share of tiles that show no target", ylabel="accuracy of slides", title=title)
    ax.set_ylim(0, 1.02)
    ax.legend(title="tiles that count")
    return closed(figure)
