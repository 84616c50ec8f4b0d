"""Figures of active learning; see `lib.plots` for the others."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.plots import OTHER, SETTING_COLOURS, _closed
from lib.round_tables import STRATEGIES, TRAININGS, _order

_hues = iter(sns.color_palette("colorblind")[1:])
COLOURS = {
    name: {"unisal": SETTING_COLOURS["ours"], "random": OTHER}.get(name) or next(_hues)
    for name in STRATEGIES
}


def learning_curves(curves: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against labels for each strategy, a panel per training; bands: range over seeds.

    curves: lines of `round_tables.rounds_frame` of one dataset and way to train.
    """
    full = curves[curves.method == "full-supervision"].accuracy
    trainings = [t for t in TRAININGS if t in set(curves.training[curves["round"].notna()])]
    figure, axes = plt.subplots(
        1, len(trainings), figsize=(4.3 * len(trainings) + 1.6, 3.4), sharey=True, squeeze=False
    )
    for ax, training in zip(axes[0], trainings, strict=True):
        for method in [m for t, m in _order(curves) if t == training]:
            of = curves[(curves.training == training) & (curves.method == method)].groupby("round")
            at, accuracy = of.budget.mean(), of.accuracy.agg(["mean", "min", "max"])
            mine = method == "unisal"
            colour = COLOURS.get(method, "black")
            ax.plot(at, accuracy["mean"], color=colour, lw=2.4 if mine else 1.2, zorder=2 + mine,
                    label=STRATEGIES.get(method, method))  # fmt: skip
            if mine or method == "random":
                ax.fill_between(
                    at, accuracy["min"], accuracy["max"], color=colour, alpha=0.15, lw=0
                )
        if len(full):
            ax.axhline(full.mean(), color="black", lw=1, ls=":", label="all labels")
        ax.set(xlabel="labels", title=training)
    axes[0, 0].set_ylabel("accuracy on the test part")
    handles = {text: line for ax in axes[0] for line, text in zip(*ax.get_legend_handles_labels())}
    axes[0, -1].legend(
        handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    figure.suptitle(title)
    return _closed(figure)
