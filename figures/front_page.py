"""The pictures and the two tables of the front page, from the rows of the record alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from figures import overviews
from figures.overviews import ON_TEST, TITLES, areas, best_other, refuse_several_vlms
from lib.artefacts import atomic
from lib.figures.style import closed
from lib.record import Record
from lib.report import statistics
from lib.report.active_learning import (
    ALL_LABELS,
    OURS,
    PROBE,
    PUBLISHED,
    TRAININGS,
    heads,
    of_published_runs,
    rounds,
)
from lib.report.active_learning import curves as curves_of

# What a line is called beside the figure, in its order from the top.
NO_LABELS = {
    "lc25k_colon": "LC25000 colon\n2 classes",
    "lc25k": "LC25000\nsame collection",
    "ebhi_binary": "EBHI-Seg\n2 classes",
    "ebhi_polyp": "EBHI-Seg\npolyp or cancer",
    "demo": "synthetic tiles\n6 classes",
    "lc25k_lung": "LC25000 lung\ncontrol: unseen",
    "crc_tissue": "CRC-5000\ncontrol: unseen",
}
CONTROLS = ("lc25k_lung", "crc_tissue")  # their stand-in has never seen the tissue
FEW_LABELS = {"lc25k": "LC25000", "ebhi": "EBHI-Seg"}
THEMES = {
    "headline.svg": {
        "ink": "#1f2328",
        "faint": "#818b98",
        "grid": "#e6e8eb",
        "other": "#E69F00",
        "ours": "#0072B2",
    },
    "headline_dark.svg": {
        "ink": "#f0f6fc",
        "faint": "#8b949e",
        "grid": "#2b313a",
        "other": "#F0B040",
        "ours": "#56B4E9",
    },
}
# Column of `no_labels_frame`: what the legend says, colour, marker and its size.
SCORE_LOOKS = {
    "zero-shot": ("zero-shot", "faint", "o", 50),
    "other": ("best other", "other", "D", 40),
    "published": ("published", "ours", "$\\circ$", 90),
    "ours": ("ours", "ours", "o", 80),
    "full": ("all labels", "ink", "|", 190),
}
NO_BREAK = "\N{NO-BREAK SPACE}"  # a cell stays on one line
SLASH = f"{NO_BREAK}/{NO_BREAK}"
RANDOM, FULL = ("supervised", "random"), ("supervised", "full-supervision")
PROBED = (PROBE, "margin-coverage")  # the best strategy of the probe on the worlds of `make choose`
NEEDED = {PUBLISHED, RANDOM, FULL}  # for a dataset to be shown
CURVE_LOOKS = {
    RANDOM: ("random", "other", "-"),
    PROBED: ("probe", "other", ":"),
    PUBLISHED: ("UniSAL", "ours", "--"),
    OURS: ("ours", "ours", "-"),
    FULL: ("all", "ink", ":"),
}
LAST_SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "aulc": "AULC"}


def tables(some: Record) -> dict[str, pd.DataFrame]:
    """Blocks of the README. some: the record, of each dataset with its own VLM."""
    frame, few = no_labels_table(some), few_labels_table(some)
    controls = frame.get("dataset", pd.Series(dtype=object)).isin(CONTROLS)
    return {"no-labels": frame[~controls], "controls": frame[controls], "few-labels": few}


def write(some: Record, folder: Path) -> None:
    """Write the headline figure, for light and for dark pages; some: see `tables`.

    A record of other datasets, or with other VLMs, has none.
    """
    scores, curves = no_labels_frame(some), few_labels_frame(some)
    for name, theme in THEMES.items() if len(scores) else ():
        with plt.rc_context(_look(theme)):
            figure = headline(scores, curves, theme)
            with atomic(folder / name) as file:
                figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})


def no_labels_frame(some: Record) -> pd.DataFrame:
    """`overviews.no_labels_frame` of the datasets of the front page, in their order."""
    frame = overviews.no_labels_frame(some[some.facts.dataset.isin(NO_LABELS)])
    if frame.empty:
        return frame
    return frame.sort_values("dataset", key=lambda d: d.map(list(NO_LABELS).index), kind="stable")


def no_labels_table(some: Record) -> pd.DataFrame:
    """One line per dataset; a cell is accuracy / balanced accuracy."""
    frame = no_labels_frame(some)
    if frame.empty:
        return frame
    frame[[*TITLES]] = frame[[*TITLES]].map(overviews.shown_score)
    names = frame.other_name.str.removeprefix("zero-shot labels, ")
    by_dataset = frame.assign(other_name=names).groupby("dataset", sort=False)
    shown = by_dataset[[*TITLES]].agg(lambda both: SLASH.join(both) if all(both) else "")
    shown["other"] += " (" + by_dataset.other_name.agg(lambda n: " / ".join(dict.fromkeys(n))) + ")"
    shown = shown.join(by_dataset[["folds", "seeds"]].first()).reset_index()
    return shown.rename(columns=TITLES | {"full": "all labels"})


def _loops(some: Record) -> pd.DataFrame:
    """Loops of the datasets of the front page, heads on frozen features."""
    facts = of_published_runs(heads(some[some.facts.dataset.isin(FEW_LABELS)])).facts
    refuse_several_vlms(facts)
    return facts


def few_labels_frame(some: Record) -> pd.DataFrame:
    """Rounds of the datasets of the front page, pooled over folds.

    Columns: dataset, training, method, round (0 for training on all labels), budget, accuracy,
    balanced_accuracy, folds, seeds.
    """
    lines = []
    names = ["dataset", "training", "method", "round"]
    each = rounds(_loops(some)).fillna({"round": 0})
    for key, runs in each.groupby(names):
        line = dict(zip(names, key, strict=True)) | {"budget": runs.budget.mean()}
        line |= {score: statistics.pooled_score(runs, score) for score in statistics.SCORES}
        lines.append(line | statistics.runs(runs))
    columns = [*names, "budget", *statistics.SCORES]
    return pd.DataFrame(lines, columns=[*columns, "folds", "seeds"])


def few_labels_table(some: Record) -> pd.DataFrame:
    """Three lines per dataset: accuracy and balanced accuracy of the last round, and the AULC.

    The best of the other strategies, of the linear probe and of networks however trained, is named;
    it is chosen on the test set, and UniSAL's variants are none.
    """
    lines = []
    loops, frame = curves_of(_loops(some)), few_labels_frame(some)
    for dataset in FEW_LABELS:
        aulc, _ = areas(loops[loops.dataset == dataset])
        curves = dict(list(frame[frame.dataset == dataset].groupby(["training", "method"])))
        if not NEEDED <= set(curves):
            continue
        full, last = curves[FULL].iloc[0], curves[PUBLISHED].iloc[-1]
        seeds = {key: int(curve.seeds.iloc[-1]) for key, curve in curves.items()}
        ends = [(training, method) for method, training in ALL_LABELS.items()]
        all_labels = [curves[kind].iloc[0] for kind in ends if kind in curves]
        for score, title in LAST_SCORES.items():
            values = aulc
            if score != "aulc":
                values = {key: float(curve[score].iloc[-1]) for key, curve in curves.items()}
            probed, beside = (
                best_other(values, seeds, PUBLISHED, of).replace(" (", f"{NO_BREAK}(")
                for of in ([PROBE], TRAININGS)
            )
            lines.append(
                {
                    "dataset": dataset,
                    "labels": f"{last.budget:.0f} of {full.budget:.0f}".replace(" ", NO_BREAK),
                    "score": title,
                    "random, supervised": f"{values[RANDOM]:.3f}",
                    f"linear probe, best strategy, {ON_TEST}": probed.replace(f", {PROBE}", ""),
                    f"best other strategy, {ON_TEST}": beside,
                    "UniSAL": f"{values[PUBLISHED]:.3f}",
                    "UniSAL, ours": f"{values[OURS]:.3f}" if OURS in values else "not run",
                    "all labels, networks / probe": ""
                    if score == "aulc"
                    else SLASH.join(f"{line[score]:.3f}" for line in all_labels),
                    "folds": last.folds,
                    "seeds": last.seeds,
                }
            )
    return pd.DataFrame(lines)


def headline(
    scores: pd.DataFrame, curves: pd.DataFrame, theme: Mapping[str, str] = THEMES["headline.svg"]
) -> Figure:
    """Left: accuracy without labels. Right: accuracy against labels.

    scores: `no_labels_frame`; curves: `few_labels_frame`. Readable at 800 pixels.
    """
    accuracies = scores[scores.score == "accuracy"].set_index("dataset")
    height = max(3.4, 1.2 + 0.5 * len(accuracies))
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.44 / height), wspace=0.06)
    figure, axes = plt.subplots(1, 2, figsize=(8, height), width_ratios=(1.1, 1), layout=layout)
    _draw_scores(axes[0], accuracies, theme)
    _draw_curves(axes[1], curves, theme)
    titles = ((0.012, "No labels: VLM-CPL"), (0.556, "Few labels: UniSAL"))
    for ax, (x, title) in zip(axes, titles, strict=True):
        figure.text(x, 1 - 0.19 / height, title, weight="bold", fontsize=11.5)
        place = x - 0.01, 1 - 0.22 / height
        if not ax.get_legend_handles_labels()[0]:
            continue
        ax.legend(
            loc="upper left",
            bbox_to_anchor=place,
            ncols=5,
            fontsize=9,
            bbox_transform=figure.transFigure,
            handletextpad=0.3,
            handlelength=1.4,
            columnspacing=0.9,
            borderpad=0,
        ).set_in_layout(False)
    return closed(figure)


def _look(theme: Mapping[str, str]) -> Any:  # matplotlib's own type lists every name
    coloured = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(coloured, theme["ink"]) | {
        "axes.edgecolor": theme["faint"],
        "grid.color": theme["grid"],
        "font.size": 10,
        "svg.hashsalt": "few labels or none",  # the same bytes each time
        "savefig.bbox": "standard",
    }


def _draw_scores(ax: Axes, scores: pd.DataFrame, theme: Mapping[str, str]) -> None:
    heights = list(range(len(scores)))
    ax.hlines(heights, scores["zero-shot"], scores.full, color=theme["grid"], lw=5, zorder=1)
    for column, (label, colour, marker, size) in SCORE_LOOKS.items():
        edge = 2.5 if marker == "|" else 0
        ax.scatter(
            scores[column],
            heights,
            s=size,
            color=theme[colour],
            marker=marker,
            lw=edge,
            label=label,
            zorder=3,
        )
    leftmost = scores[list(SCORE_LOOKS)].min(axis=1)
    for height, (before, ours) in enumerate(zip(scores["zero-shot"], scores.ours, strict=True)):
        ax.annotate(
            f"{before:.2f}",
            (leftmost.iloc[height], height),
            (-8, 0),
            ha="right",
            textcoords="offset points",
            va="center",
            color=theme["faint"],
        )
        ax.annotate(
            f"{ours:.2f}",
            (ours, height),
            (0, 8),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=theme["ours"],
            weight="bold",
        )
    ax.set_yticks(heights, [NO_LABELS[name] for name in scores.index])
    low = min([0.76, *scores[list(SCORE_LOOKS)].min(axis=1)])
    low -= 0.24 * (1.015 - low)  # room for the numbers of zero-shot
    ax.set(xlabel="accuracy on the test sets", ylim=(len(scores) - 0.6, -0.65))
    ax.set(xticks=[tenth / 10 for tenth in range(11) if tenth / 10 > low], xlim=(low, 1.015))
    ax.grid(axis="y", visible=False)


def _draw_curves(ax: Axes, curves: pd.DataFrame, theme: Mapping[str, str]) -> None:
    for dataset, title in FEW_LABELS.items():
        of_dataset = dict(list(curves[curves.dataset == dataset].groupby(["training", "method"])))
        if not NEEDED <= set(of_dataset):
            continue
        full = of_dataset[FULL].iloc[0]
        for key in [key for key in CURVE_LOOKS if key != FULL and key in of_dataset]:
            _, colour, line = CURVE_LOOKS[key]
            budgets = 100 * of_dataset[key].budget / full.budget
            ax.plot(budgets, of_dataset[key].accuracy, line, color=theme[colour])
        ax.axhline(full.accuracy, color=theme["ink"], lw=1, ls=":")
        ax.annotate(
            f"{title}, {full.budget:.0f} training tiles",
            (10.2, full.accuracy),
            (0, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    shown = set(zip(curves.training, curves.method, strict=True))
    for label, colour, line in (CURVE_LOOKS[key] for key in CURVE_LOOKS if key in shown):
        ax.plot([], [], line, color=theme[colour], lw=1 if line == ":" else None, label=label)
    ax.set(xlabel="share of the tiles that is labelled, %", ylabel="accuracy on the test sets")
    ax.set(xlim=(0.6, 10.4), ylim=(0.55, 1.0), xticks=range(2, 11, 2))
