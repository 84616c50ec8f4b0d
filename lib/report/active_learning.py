"""Learning curves of active learning: from rows of the record to tables."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.report.format import difference, spread

GROUP_COLUMNS = ["vlm", "seed", "training", "method", "network", "group", "n", "right"]
FRACTIONS = (0.95, 0.98, 1.0)  # of full supervision, for the labels that a strategy needs
STRATEGIES = {
    "unisal": "UniSAL (DUS, CS)",
    "unisal-weighted": "UniSAL, weighted",
    "unisal-wide": "UniSAL, widened",
    "dus": "DUS alone",
    "cs": "CS alone",
    "random": "random",
    "entropy": "entropy",
    "margin": "margin",
    "coreset": "CoreSet",
    "badge": "BADGE",
    "typiclust": "TypiClust",
}
TRAININGS = ("dual-view", "supervised")


def curve_weights(budgets: Sequence[int] | pd.Series) -> np.ndarray:
    """Weight of each round in the area under the learning curve (AULC) [R]; they add up to one.

    The area between the first and the last budget by the trapezoidal rule, divided by its width.
    """
    labels = np.asarray(budgets, dtype=float)
    if len(labels) == 1 or labels[0] == labels[-1]:
        return np.full(len(labels), 1 / len(labels))
    widths = np.diff(labels) / (labels[-1] - labels[0])
    return (np.append(widths, 0) + np.append(0, widths)) / 2


def rounds_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per round: what was trained how on how many labels, and its scores.

    Columns: dataset, vlm, seed, training, method, network, budget, seconds, varied (names of the
    parameters in which an ablation differs, else ()), all parameters, accuracy, balanced_accuracy,
    macro_f1, auroc, ece, and of the labels confident, precision, disagreeing and filled.
    """
    names = ("dataset", "vlm", "seed", "training", "method", "network", "budget", "seconds")
    lines = [
        row["params"]
        | {name: row[name] for name in names}
        | {"varied": tuple(row["params"].get("varied", ()))}
        | {name: value for name, value in row["scores"].items() if name != "recall"}
        | {n: v for n, v in (row["labels"] or {}).items() if n not in ("labelled", "per_class")}
        for row in rows
        if row["training"] is not None
    ]
    if not lines:
        return pd.DataFrame(columns=[*names, "varied", "round", "disagreeing", "filled"])
    return pd.DataFrame(lines).sort_values(["seed", "round", "budget"], ignore_index=True)


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """What `22_active_learning_rounds` wrote of every seed below a folder of runs."""
    files = sorted(runs.glob("seed*/learning*.parquet"))
    found = [pd.read_parquet(file) for file in files]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=GROUP_COLUMNS)


def by_network(frame: pd.DataFrame, dataset: str) -> dict[str, pd.DataFrame]:
    """Lines of `rounds_frame` in which no rule is varied: "dataset, network" → lines."""
    plain = frame[frame.varied == ()]
    return {f"{dataset}, {network}": df for network, df in plain.groupby("network", sort=False)}


def aulc(curves: pd.DataFrame, score: str = "accuracy") -> pd.DataFrame:
    """Area under each learning curve: columns training, method, seed, aulc.

    curves: lines of `rounds_frame` of one dataset, VLM and way to train, full supervision or not.
    """
    rounds = curves[curves.method != "full-supervision"]
    values = [
        (*key, float(curve_weights(curve.budget) @ curve[score]))
        for key, curve in rounds.groupby(["training", "method", "seed"], sort=False)
    ]
    return pd.DataFrame(values, columns=["training", "method", "seed", "aulc"])


def rounds_table(curves: pd.DataFrame, groups: pd.DataFrame | None = None) -> pd.DataFrame:
    """One line per training and strategy, mean ± standard deviation over seeds.

    curves: see `aulc`; groups: `groups_of_runs` of the same, with which the table says by how much
    the AULC of UniSAL (dual-view) is larger, and the p of the paired test over seeds × groups.
    Labels needed: the first round at which the mean over seeds reaches that fraction of full
    supervision's accuracy; a dash where none does.
    """
    full = curves[curves.method == "full-supervision"]
    area, balanced = (aulc(curves, s).set_index(["training", "method"]) for s in
                      ("accuracy", "balanced_accuracy"))  # fmt: skip
    lines = []
    for training, method in in_order(curves):
        curve = curves[(curves.training == training) & (curves.method == method)]
        last = curve[curve["round"] == curve["round"].max()]
        line = {"training": training, "strategy": STRATEGIES.get(method, method)}
        line |= {"AULC": spread(area.loc[[(training, method)]].aulc)}
        line |= {"AULC, balanced accuracy": spread(balanced.loc[[(training, method)]].aulc)}
        if groups is not None:
            line["UniSAL is better by"] = _difference(groups, training, method)
        line |= {
            "labels at the end": f"{last.budget.mean():.0f}",
            "accuracy": spread(last.accuracy),
        }
        line |= {"balanced accuracy": spread(last.balanced_accuracy)}
        for fraction in FRACTIONS if len(full) else ():
            needed = labels_needed(curve, fraction * full.accuracy.mean())
            line[f"labels for {fraction:.0%}"] = needed
        lines.append(line | {"seeds": str(curve.seed.nunique())})
    if len(full):
        ends = {"labels at the end": f"{full.budget.mean():.0f}", "accuracy": spread(full.accuracy)}
        ends |= {"balanced accuracy": spread(full.balanced_accuracy)}
        ends |= {"seeds": str(full.seed.nunique())}
        lines.append({"training": "supervised", "strategy": "all labels"} | ends)
    return pd.DataFrame(lines).fillna("")


def rounds_tables(
    curves: Mapping[str, pd.DataFrame], groups: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables of several networks; curves: see `by_network`."""
    for title, curve in curves.items():
        of_network = groups[groups.network == curve.network.iloc[0]]
        yield title, rounds_table(curve, of_network)


def disagreement_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Size of the disagreement set before each query, and tiles filled by entropy: seeds' mean."""
    chosen = frame[(frame.method == "unisal") & frame.disagreeing.notna() & (frame.varied == ())]
    numbers = chosen.astype({"disagreeing": float, "filled": float})
    return numbers.pivot_table(
        index="round", columns=["network", "training"], values=["disagreeing", "filled"]
    ).round(1)


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset with heads on frozen features, means over seeds.

    frame: `rounds_frame`. The best of the other strategies is that with the largest AULC.
    """
    lines = []
    heads = frame[(frame.network == "frozen") & (frame.varied == ())]
    for dataset, curves in heads.groupby("dataset"):
        full = curves[curves.method == "full-supervision"]
        last = curves[curves["round"] == curves["round"].max()]
        last = last[(last.method == "unisal") & (last.training == "dual-view")]
        area = aulc(curves).groupby(["training", "method"]).aulc.mean()
        if ("dual-view", "unisal") not in area or not len(full):
            continue
        others = area["dual-view"].drop("unisal")
        line = {"dataset": dataset, "all labels": f"{full.accuracy.mean():.3f}"}
        line |= {"labels": f"{last.budget.mean():.0f} of {full.budget.mean():.0f}"}
        line["UniSAL"] = f"{last.accuracy.mean():.3f}"
        line["of all labels"] = f"{last.accuracy.mean() / full.accuracy.mean():.1%}"
        line["AULC, UniSAL"] = f"{area['dual-view', 'unisal']:.3f}"
        if len(others):
            name = STRATEGIES.get(others.idxmax(), others.idxmax())
            line["AULC, best other, same training"] = f"{others.max():.3f} ({name})"
        for method in ("random", "entropy"):
            if ("supervised", method) in area:
                line[f"AULC, {method}, supervised"] = f"{area['supervised', method]:.3f}"
        lines.append(line | {"seeds": str(curves.seed.nunique())})
    return pd.DataFrame(lines).fillna("")


def labels_needed(curve: pd.DataFrame, accuracy: float) -> str:
    """Mean budget of the first round whose mean accuracy over seeds is at least that."""
    mean = curve.groupby("round")[["budget", "accuracy"]].mean()
    enough = mean[mean.accuracy >= accuracy]
    return f"{enough.budget.iloc[0]:.0f}" if len(enough) else "–"


def in_order(curves: pd.DataFrame) -> list[tuple[str, str]]:
    """(training, strategy) as tables and figures show them."""
    present = set(zip(curves.training, curves.method, strict=True))
    known = list(STRATEGIES)
    methods = sorted({m for _, m in present if m != "full-supervision"},
                     key=lambda m: (known.index(m) if m in known else len(known), m))  # fmt: skip
    return [(t, m) for t in TRAININGS for m in methods if (t, m) in present]


def _difference(groups: pd.DataFrame, training: str, method: str) -> str:
    """AULC of UniSAL with dual-view training minus that of another, with the p of the test."""
    if (training, method) == ("dual-view", "unisal"):
        return ""
    mine, other = (
        groups[groups.training.eq(t) & groups.method.eq(m)].set_index(["seed", "group"])
        for t, m in (("dual-view", "unisal"), (training, method))
    )
    return difference(mine, other)


# --- ablations -----------------------------------------------------------------------------------

ABLATION_CURVES = {
    "tau": "threshold τ",
    "cps_weight": "weight w of cross supervision",
    "contrast": "weight β of contrast",
    "query_share": "query, share of the pool",
}
ABLATED = ("strategy", *ABLATION_CURVES, "restart")


def ablation(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Lines in which UniSAL with dual-view training differs in one rule at most.

    frame: `rounds_frame` of one dataset, VLM and way to train; name: the rule, a column. Empty
    where it was not varied; only seeds for which it was.
    """
    varied = frame.varied == (name,)
    base = (frame.varied == ()) & (frame.method == "unisal") & (frame.training == "dual-view")
    return frame[varied | (base & frame.seed.isin(frame.seed[varied]))]


def curve_ends(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One line per values of `names` and seed: AULC and accuracy of the last round, both balanced.

    frame: lines of `rounds_frame`. Columns: the names, seed, aulc, aulc_balanced, accuracy,
    balanced_accuracy.
    """
    lines = []
    for key, curve in frame.groupby([*names, "seed"], sort=True):
        line = dict(zip([*names, "seed"], key, strict=True))
        weights = curve_weights(curve.budget)
        line |= {"aulc": weights @ curve.accuracy}
        line |= {"aulc_balanced": weights @ curve.balanced_accuracy}
        line |= curve[["accuracy", "balanced_accuracy"]].iloc[-1].to_dict()
        lines.append(line)
    columns = [*names, "seed", "aulc", "aulc_balanced", "accuracy", "balanced_accuracy"]
    return pd.DataFrame(lines, columns=columns)


def _spreads(ends: pd.DataFrame) -> dict[str, str]:
    titles = {
        "aulc": "AULC",
        "aulc_balanced": "AULC, balanced accuracy",
        "accuracy": "accuracy at the end",
    }
    shown = {title: spread(ends[column]) for column, title in titles.items()}
    return shown | {"seeds": str(ends.seed.nunique())}


def ablation_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """One line per value of one rule, mean ± standard deviation over seeds; ours is marked."""
    curves = ablation(frame, name)
    ours = set(curves[name][curves.varied == ()])
    return pd.DataFrame(
        {name: str(value), "ours": "ours" if value in ours else ""} | _spreads(ends)
        for value, ends in curve_ends(curves, name).groupby(name)
    )


def ablation_tables(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """`ablation_table` of every rule that was varied."""
    return [ablation_table(frame, name) for name in ABLATED if len(ablation(frame, name))]


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Cross supervision, contrast, DUS and CS on and off, mean ± standard deviation over seeds.

    All on, each one off, both of a kind off, all off. Without DUS all unlabelled tiles are
    clustered, without CS chance chooses in the disagreement set, without both among all.
    """
    rules = {
        "1111": ("dual-view", "unisal", ()),
        "0111": ("dual-view", "unisal", ("cps_weight",)),
        "1011": ("dual-view", "unisal", ("contrast",)),
        "1101": ("dual-view", "cs", ("strategy",)),
        "1110": ("dual-view", "dus", ("strategy",)),
        "1100": ("dual-view", "random", ()),
        "0011": ("supervised", "unisal", ()),
        "0000": ("supervised", "random", ()),
    }
    seeds = set(frame.seed[frame.varied != ()])
    lines = []
    for on, (training, method, varied) in rules.items():
        curves = frame[(frame.training == training) & (frame.method == method)]
        curves = curves[(curves.varied == varied) & curves.seed.isin(seeds)]
        if varied and varied != ("strategy",):
            curves = curves[curves[varied[0]] == 0]
        if len(curves):
            names = ("cross supervision", "contrast", "DUS", "CS")
            line = {name: "yes" * int(bit) for name, bit in zip(names, on, strict=True)}
            lines.append(line | _spreads(curve_ends(curves, "method")))
    return pd.DataFrame(lines)


def ablation_lines(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For `active_plots.ablation_curves`: rules that are numbers, with their values as column x."""
    lines = {}
    for name, title in ABLATION_CURVES.items():
        curves = ablation(frame, name)
        if len(curves):
            ours = curves[name][curves.varied == ()].iloc[0]
            ends = curve_ends(curves, name)
            lines[title] = ends.rename(columns={name: "x"}).assign(ours=ours)
    return lines


def ablated_datasets(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By dataset the lines of heads on frozen features, where a rule was varied.

    frame: `rounds_frame`; with no line in it, no dataset.
    """
    heads = frame[frame.network == "frozen"]
    return {name: df for name, df in heads.groupby("dataset") if (df.varied != ()).any()}
