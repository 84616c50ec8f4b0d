"""Ablations of UniSAL: one rule varied at a time, from `active_learning.rounds_frame` to tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.report import statistics
from lib.report.active_learning import STRATEGIES, curve_means, in_order
from lib.report.format import pooled_spread

ABLATION_CURVES = {
    "threshold": "threshold τ",
    "cross_weight": "weight w of cross supervision",
    "contrast": "weight β of contrast",
    "query_share": "query, share of the pool",
}
ABLATED = ("strategy", *ABLATION_CURVES, "restart")


def ablation(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Lines in which UniSAL with dual-view training differs in one rule at most.

    frame: `rounds_frame` of one dataset, VLM and way to train; name: the rule, a column. Empty
    where it was not varied; only runs (fold and seed) for which it was.
    """
    varied = (frame.varied == (name,)) & (frame.training == "dual-view")
    varied &= (frame.method == "unisal") | (name == "strategy")
    base = (frame.varied == ()) & (frame.method == "unisal") & (frame.training == "dual-view")
    return frame[varied | (base & statistics.same_runs(frame, frame[varied]))]


def with_unchanged(
    trials: Sequence[dict[str, Any]], own: Mapping[str, Any], before: pd.DataFrame
) -> list[dict[str, Any]]:
    """The trials, after the loop that varies nothing where the run does not have it yet.

    trials, own: see `ablations.ablation_grid`; before: `rounds_frame` of the run.
    """
    unchanged = (before.varied == ()) & (before.method == own["strategy"])
    unchanged &= before.training == own["training"]
    return [*trials] if unchanged.any() else [{**own, "varied": []}, *trials]


def curve_ends(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One line per values of `names` and run: AULC and accuracy of the last round.

    frame: lines of `rounds_frame`. Columns: the names, seed, fold, aulc, accuracy.
    """
    keys = [*names, "seed", "fold"]
    areas = curve_means(frame, *names).set_index(keys).accuracy.rename("aulc")
    last = frame.groupby(keys).accuracy.last()
    return pd.concat([areas, last], axis=1).sort_index().reset_index()


def _spreads(curves: pd.DataFrame) -> dict[str, str]:
    area, last = curve_means(curves), curves.groupby(["seed", "fold"]).tail(1)
    shown = {"AULC": pooled_spread(area)}
    shown |= {"AULC, balanced accuracy": pooled_spread(area, "balanced_accuracy")}
    return shown | {"accuracy at the end": pooled_spread(last)} | statistics.runs(curves)


def ablation_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """One line per value of a rule, pooled ± standard deviation over runs; which is unchanged."""
    curves = ablation(frame, name)
    unchanged = set(curves[name][curves.varied == ()])
    return pd.DataFrame(
        {name: str(value), "unchanged": "yes" if value in unchanged else ""} | _spreads(of_value)
        for value, of_value in curves.groupby(name)
    )


def ablation_tables(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """`ablation_table` of every rule that was varied, and `balance_table`."""
    tables = [ablation_table(frame, name) for name in ABLATED if len(ablation(frame, name))]
    balance = balance_table(frame)
    return [*tables, balance] if len(balance) else tables


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Cross supervision, contrast, DUS and CS on and off, pooled ± standard deviation over runs.

    All on, each one off, both of a kind off, all off. Without DUS all unlabelled tiles are
    clustered, without CS chance chooses in the disagreement set, without both among all.
    """
    rules = {
        "1111": ("dual-view", "unisal", ()),
        "0111": ("dual-view", "unisal", ("cross_weight",)),
        "1011": ("dual-view", "unisal", ("contrast",)),
        "1101": ("dual-view", "cs", ("strategy",)),
        "1110": ("dual-view", "dus", ("strategy",)),
        "1100": ("dual-view", "random", ()),
        "0011": ("supervised", "unisal", ()),
        "0000": ("supervised", "random", ()),
    }
    ablated = statistics.same_runs(frame, frame[frame.varied != ()])
    lines = []
    for on, (training, method, varied) in rules.items():
        curves = frame[(frame.training == training) & (frame.method == method)]
        curves = curves[(curves.varied == varied) & ablated[curves.index]]
        if varied and varied != ("strategy",):
            curves = curves[curves[varied[0]] == 0]
        if len(curves):
            names = ("cross supervision", "contrast", "DUS", "CS")
            line = {name: "yes" * int(bit) for name, bit in zip(names, on, strict=True)}
            lines.append(line | _spreads(curves))
    return pd.DataFrame(lines)


def balance_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every training and strategy with balanced batches and with batches as the labels come.

    Balanced: the labelled half of a batch holds every class equally often. Pooled ± standard
    deviation over runs; empty where balance was not varied, without the lines of loops that
    `22_active_learning_rounds` did not run.
    """
    drawn = frame[frame.varied.map(lambda rules: "balance_classes" in rules)]
    balanced = frame[(frame.varied == ()) & statistics.same_runs(frame, drawn)]
    loops = {
        (training, method, title): lines[(lines.training == training) & (lines.method == method)]
        for training, method in in_order(drawn)
        for title, lines in (("yes", balanced), ("", drawn))
    }
    return pd.DataFrame(
        {"training": training, "strategy": STRATEGIES[method], "balanced batches": title}
        | _spreads(curves)
        for (training, method, title), curves in loops.items()
        if len(curves)
    )


def ablation_lines(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For `plots.ablation_curves`: rules that are numbers, with their values as column x."""
    lines = {}
    for name, title in ABLATION_CURVES.items():
        curves = ablation(frame, name)
        if len(curves):
            own = curves[name][curves.varied == ()].iloc[0]
            ends = curve_ends(curves, name)
            lines[title] = ends.rename(columns={name: "x"}).assign(own=own)
    return lines


def ablated_datasets(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By dataset the lines of heads on frozen features, where a rule was varied.

    frame: `rounds_frame`; with no line in it, no dataset.
    """
    heads = frame[frame.network == "frozen"]
    return {name: df for name, df in heads.groupby("dataset") if (df.varied != ()).any()}
