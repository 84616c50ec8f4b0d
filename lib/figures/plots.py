"""Figures of results, made from rows of the record.

Each function takes tables or rows and returns a closed figure. Figures that show one step of a
method are in `step_plots`, those of active learning in `active_plots`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.style import CORRECT, INCORRECT, OTHER, OURS, PUBLISHED, closed, panel_list, panels
from lib.report.statistics import pooled_score

# Hue: how labels are chosen and ties broken; line: of what the ratio is taken.
RULE_COLOURS = {
    "random ties": PUBLISHED,
    "probability ties": "#E69F00",
    "probability ties, lift labels": OURS,
    "random ties, lift labels": "#CC79A7",
}
TISSUE_COLOURS = {"all tissue": "#777777", "open set": PUBLISHED, "open set, learnt": OURS}
SIDES = {"published filters": -1, "ours": 1, "": 0}  # of a method's line in a figure
SCORES = {
    "precision": ("pseudo-label precision", OTHER),
    "aulc": ("AULC", "#CC79A7"),
    "accuracy": ("accuracy on the test set", OURS),
}


def precision_against_keep_ratio(rows: pd.DataFrame, title: str = "") -> Figure:
    """Draw pseudo-label precision against the keep ratio, a line for each combination of rules.

    rows: columns keep_ratio, precision, label_rule, tie_break, quota and varied ("" at the run's
    own ratio, which is dotted). Several seeds give a band from the lowest to the highest.
    """
    figure, axes = panels(width=7.5, height=3.4)
    for (label_rule, tie_break, quota), df in rows.groupby(
        ["label_rule", "tie_break", "quota"], sort=False
    ):
        rule = f"{tie_break} ties" + ", lift labels" * (label_rule == "lift")
        look = {"color": RULE_COLOURS[rule], "ls": "--" if quota == "global" else "-"}
        look |= {"label": f"{rule}, {quota} quota", "ax": axes[0, 0]}
        sns.lineplot(df, x="keep_ratio", y="precision", **look, **style.BAND)
    for ratio in rows.keep_ratio[rows.varied == ""].unique():
        axes[0, 0].axvline(ratio, color="black", lw=1, ls=":", label="keep ratio of the run")
    axes[0, 0].set(xlabel="keep ratio ρ", ylabel="pseudo-label precision")
    return closed(figure, title, legend=True)


def kept_per_class(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Draw the kept labels of each class, correct and incorrect, a panel per method.

    table: one line per method and class, columns method, class, kept, correct (means over seeds).
    """
    methods = list(dict.fromkeys(table.method))
    size = {"width": 2.2 * len(methods) + 1.4, "height": 0.3 * len(class_names) + 1.1}
    figure, axes = panels(1, len(methods), **size, sharex=True, sharey=True)
    for ax, method in zip(axes[0], methods, strict=True):
        counts = table[table.method == method].set_index("class").loc[list(class_names)]
        incorrect = counts.kept - counts.correct
        ax.barh(counts.index, counts.correct, color=CORRECT, label="correct")
        ax.barh(counts.index, incorrect, left=counts.correct, color=INCORRECT, label="incorrect")
        ax.set(title=method, xlabel="tiles kept")
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    return closed(figure, legend=True)


def consensus_overview(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw pseudo-label precision by filter and setting: a point per run, a bar at the mean.

    table: columns method (for display), variant, share, precision.
    """
    return _by_method(table, "precision", "pseudo-label precision", title)


def comparison(table: pd.DataFrame, names: Mapping[str, str], title: str = "") -> Figure:
    """Draw the accuracy of each method: a point per run, a bar at the value pooled over folds.

    table: `comparison.score_frame`; names: method → what to print.
    """
    named = table.assign(method=table.method.map(names))
    return _by_method(named, "accuracy", "accuracy on the test set", title)


def _by_method(table: pd.DataFrame, score: str, xlabel: str, title: str) -> Figure:
    methods, of_labels = list(dict.fromkeys(table.method)), score == "precision"
    figure, axes = panels(width=7.5, height=(0.5 if of_labels else 0.27) * len(methods) + 1.1)
    ax = axes[0, 0]
    for (method, setting), df in table.groupby(["method", "variant"], sort=False):
        y, colour = methods.index(method) + 0.18 * SIDES[setting], style.SETTING_COLOURS[setting]
        colour = "black" if method == "full supervision" else colour
        mean = df[score].mean() if of_labels else pooled_score(df, score)
        ax.scatter(df[score], np.full(len(df), y), s=14, color=colour, alpha=0.5, lw=0)
        name = setting or None
        ax.plot(mean, y, marker="|", ls="", markersize=10, color=colour, mew=2.5, label=name)
        if of_labels:
            text = f"{mean:.3f}, {df.share.mean():.0%} kept"
            ax.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center")
    ax.set_yticks(range(len(methods)), methods)
    ax.set(xlabel=xlabel, ylim=(len(methods) - 0.5, -0.5))
    return closed(figure, title, legend=True)


def ablation_curves(lines: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Draw scores against one rule at a time: mean and range over runs; dotted is unchanged.

    lines: what the axis says → lines of one rule, its values in column x, those of `SCORES` that
    are measured, and varied ("" for the runs in which nothing is).
    """
    size = {"width": 3 * min(3, len(lines)), "height": 2.4}
    figure, axes = panel_list(len(lines), 3, **size, sharey=True)
    for ax, (name, df) in zip(axes, lines.items(), strict=True):
        values = sorted(df.x.unique())
        for column, (label, colour) in SCORES.items():
            if column in df:
                look = {"color": colour, "marker": "o", "mew": 0, "ms": 4, "label": label, "ax": ax}
                sns.lineplot(x=df.x.map(values.index), y=df[column], **look, **style.BAND)
        unchanged = df.x[df.varied == ""].iloc[0]
        ax.axvline(values.index(unchanged), color="black", lw=1, ls=":", label="unchanged")
        ax.set_xticks(range(len(values)), [f"{x:g}" for x in values])
        ax.set(xlabel=name, ylabel="")
    return closed(figure, title, legend=True)


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
    """Draw the accuracy of each method against that of the zero-shot labels, a marker per shift.

    lines: `ablations.robustness_lines`; points are means over all but shift, method and
    setting. names: method → what to print. On the diagonal a method is as good as the labels.
    """
    figure, axes = panels(width=7.5, height=4.4)
    ax = axes[0, 0]
    points = lines.groupby(["method", "variant", "shift"], sort=False)[["zero_shot", "accuracy"]]
    points = points.mean().reset_index()
    points["direction"] = points["shift"].str.rstrip("0123456789.")
    ends = points.zero_shot.min(), points.zero_shot.max()
    ax.plot(ends, ends, ":", lw=1.2, color="black", label=names["zero-shot"])
    colours = {"ce-all": OTHER, "full-supervision": "black"}
    trained = points[points.method != "zero-shot"]
    for (method, setting), df in trained.groupby(["method", "variant"], sort=False):
        colour = colours.get(method, style.SETTING_COLOURS[setting])
        for direction, x, y in df[["direction", "zero_shot", "accuracy"]].itertuples(index=False):
            ax.plot(x, y, SHIFTS[direction][0], ms=7.5, color=colour, mec="white", mew=0.7)
        label = ", ".join(filter(None, (names[method], setting)))
        ax.plot([], [], "o", ms=7.5, color=colour, label=label)
    for direction, (marker, words) in SHIFTS.items():
        shifts = points["shift"][points.direction == direction].unique()
        strengths = sorted((s.removeprefix(direction) for s in shifts), key=lambda s: float(s or 0))
        if strengths:
            label = f"{words} ({', '.join(strengths)})" if direction else words
            ax.plot([], [], marker, ms=7.5, color="none", mec="black", mew=1, label=label)
    ax.set(xlabel="accuracy of the zero-shot labels at that shift", ylabel="accuracy, test set")
    return closed(figure, title, legend=True, names="colour: method; marker: shift (strength)")


def accuracy_against_share(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw the accuracy of slides against the share of irrelevant tiles, a line per setting.

    frame: from `figures.slide_shares.share_frame`; bars are intervals.
    """
    figure, axes = panels(width=6.5, height=3.4)
    for side, (setting, df) in enumerate(frame.groupby("variant", sort=True), -1):
        value, low, high = np.array([(e.value, e.low, e.high) for e in df.accuracy]).T
        x = df.irrelevant + 0.006 * side  # side by side, so that bars can be told apart
        look = {"marker": "o", "color": TISSUE_COLOURS[setting], "label": setting}
        axes[0, 0].errorbar(x, value, (value - low, high - value), **look)
    axes[0, 0].set(xlabel="share of tiles that show no target", ylabel="accuracy of slides")
    axes[0, 0].set_ylim(0, 1.02)
    return closed(figure, title, legend=True, names="tiles that count")


def growth(table: pd.DataFrame, parts: Sequence[str]) -> Figure:
    """Draw CPU seconds and memory of parts of the methods against the number of tiles.

    table: of `throughput.measure`, with columns part, n_tiles, cpu_seconds and memory_mb.
    """
    figure, axes = panels(1, 2, height=4.2)
    columns = {"cpu_seconds": "CPU seconds", "memory_mb": "memory beyond mapped files (MB)"}
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        for number, part in enumerate(parts):
            own = table[table.part == part].sort_values("n_tiles")
            look = {"color": f"C{number % 6}", "ls": ("-", "--", ":")[number // 6 % 3]}
            look |= {"marker": "osD^v"[number % 5], "label": part}
            ax.plot(own.n_tiles, own[column].clip(0.01 if ax is axes[0, 0] else 1), **look)
        ax.set(xscale="log", yscale="log", xlabel="tiles", title=label)
    return closed(figure, legend=True)
