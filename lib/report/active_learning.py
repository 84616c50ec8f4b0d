"""Learning curves of active learning: from rows of the record to tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.report.format import difference, spread

GROUP_COLUMNS = ["vlm", "seed", "training", "method", "network", "group", "n", "right"]
SHARES = (0.95, 0.98, 1.0)  # of full supervision, for the labels that a strategy needs
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
    """Weight of each round in the area under the learning curve [R]; they add up to one.

    The area between the first and the last budget by the trapezoidal rule, divided by its width.
    """
    at = np.asarray(budgets, dtype=float)
    if len(at) == 1 or at[0] == at[-1]:
        return np.full(len(at), 1 / len(at))
    widths = np.diff(at) / (at[-1] - at[0])
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


def areas(curves: pd.DataFrame, score: str = "accuracy") -> pd.DataFrame:
    """Area under each learning curve: columns training, method, seed, area.

    curves: lines of `rounds_frame` of one dataset, VLM and way to train, full supervision or not.
    """
    rounds = curves[curves.method != "full-supervision"]
    found = [
        (*key, float(curve_weights(of.budget) @ of[score]))
        for key, of in rounds.groupby(["training", "method", "seed"], sort=False)
    ]
    return pd.DataFrame(found, columns=["training", "method", "seed", "area"])


def rounds_table(curves: pd.DataFrame, groups: pd.DataFrame | None = None) -> pd.DataFrame:
    """One line per training and strategy, mean ± standard deviation over seeds.

    curves: see `areas`; groups: `groups_of_runs` of the same, with which the table says by how much
    the area under the curve of UniSAL (dual-view) is larger, and the p of the paired test over
    seeds × groups. Labels needed: the first round at which the mean over seeds reaches that share
    of full supervision's accuracy; a dash where none does.
    """
    full = curves[curves.method == "full-supervision"]
    area, balanced = (areas(curves, s).set_index(["training", "method"]) for s in
                      ("accuracy", "balanced_accuracy"))  # fmt: skip
    lines = []
    for training, method in in_order(curves):
        of = curves[(curves.training == training) & (curves.method == method)]
        last = of[of["round"] == of["round"].max()]
        line = {"training": training, "strategy": STRATEGIES.get(method, method)}
        line |= {"area": spread(area.loc[[(training, method)]].area)}
        line |= {"area, balanced": spread(balanced.loc[[(training, method)]].area)}
        if groups is not None:
            line["UniSAL is better by"] = _difference(groups, training, method)
        line |= {
            "labels at the end": f"{last.budget.mean():.0f}",
            "accuracy": spread(last.accuracy),
        }
        line |= {"balanced": spread(last.balanced_accuracy)}
        for share in SHARES if len(full) else ():
            line[f"labels for {share:.0%}"] = labels_needed(of, share * full.accuracy.mean())
        lines.append(line | {"seeds": str(of.seed.nunique())})
    if len(full):
        ends = {"labels at the end": f"{full.budget.mean():.0f}", "accuracy": spread(full.accuracy)}
        ends |= {"balanced": spread(full.balanced_accuracy), "seeds": str(full.seed.nunique())}
        lines.append({"training": "supervised", "strategy": "all labels"} | ends)
    return pd.DataFrame(lines).fillna("")


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset with heads on frozen features, means over seeds.

    frame: `rounds_frame`. The best of the other strategies is that with the largest area.
    """
    lines = []
    of_heads = frame[(frame.network == "frozen") & (frame.varied == ())]
    for dataset, curves in of_heads.groupby("dataset"):
        full = curves[curves.method == "full-supervision"]
        last = curves[curves["round"] == curves["round"].max()]
        last = last[(last.method == "unisal") & (last.training == "dual-view")]
        area = areas(curves).groupby(["training", "method"]).area.mean()
        if ("dual-view", "unisal") not in area or not len(full):
            continue
        others = area["dual-view"].drop("unisal")
        line = {"dataset": dataset, "all labels": f"{full.accuracy.mean():.3f}"}
        line |= {"labels": f"{last.budget.mean():.0f} of {full.budget.mean():.0f}"}
        line["UniSAL"] = f"{last.accuracy.mean():.3f}"
        line["of all labels"] = f"{last.accuracy.mean() / full.accuracy.mean():.1%}"
        line["area, UniSAL"] = f"{area['dual-view', 'unisal']:.3f}"
        if len(others):
            name = STRATEGIES.get(others.idxmax(), others.idxmax())
            line["area, best other, same training"] = f"{others.max():.3f} ({name})"
        for method in ("random", "entropy"):
            if ("supervised", method) in area:
                line[f"area, {method}, supervised"] = f"{area['supervised', method]:.3f}"
        lines.append(line | {"seeds": str(curves.seed.nunique())})
    return pd.DataFrame(lines).fillna("")


def labels_needed(of: pd.DataFrame, accuracy: float) -> str:
    """Mean budget of the first round whose mean accuracy over seeds is at least that."""
    mean = of.groupby("round")[["budget", "accuracy"]].mean()
    enough = mean[mean.accuracy >= accuracy]
    return f"{enough.budget.iloc[0]:.0f}" if len(enough) else "–"


def in_order(curves: pd.DataFrame) -> list[tuple[str, str]]:
    """(training, strategy) as tables and figures show them."""
    there = set(zip(curves.training, curves.method, strict=True))
    known = list(STRATEGIES)
    methods = sorted({m for _, m in there if m != "full-supervision"},
                     key=lambda m: (known.index(m) if m in known else len(known), m))  # fmt: skip
    return [(t, m) for t in TRAININGS for m in methods if (t, m) in there]


def _difference(groups: pd.DataFrame, training: str, method: str) -> str:
    """Area of UniSAL with dual-view training minus that of another, with the p of the test."""
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
    "weight": "weight w of cross supervision",
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


def ends(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One line per values of `names` and seed: area and accuracy of the last round, both balanced.

    frame: lines of `rounds_frame`. Columns: the names, seed, area, area_balanced, accuracy,
    balanced_accuracy.
    """
    lines = []
    for key, of in frame.groupby([*names, "seed"], sort=True):
        line = dict(zip([*names, "seed"], key, strict=True))
        weights = curve_weights(of.budget)
        line |= {"area": weights @ of.accuracy, "area_balanced": weights @ of.balanced_accuracy}
        line |= of[["accuracy", "balanced_accuracy"]].iloc[-1].to_dict()
        lines.append(line)
    columns = [*names, "seed", "area", "area_balanced", "accuracy", "balanced_accuracy"]
    return pd.DataFrame(lines, columns=columns)


def _spreads(of: pd.DataFrame) -> dict[str, str]:
    titles = {"area": "area", "area_balanced": "area, balanced", "accuracy": "accuracy at the end"}
    shown = {title: spread(of[column]) for column, title in titles.items()}
    return shown | {"seeds": str(of.seed.nunique())}


def ablation_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """One line per value of one rule, mean ± standard deviation over seeds; ours is marked."""
    part = ablation(frame, name)
    ours = set(part[name][part.varied == ()])
    return pd.DataFrame(
        {name: str(value), "ours": "ours" if value in ours else ""} | _spreads(of)
        for value, of in ends(part, name).groupby(name)
    )


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Cross supervision, contrast, DUS and CS on and off, mean ± standard deviation over seeds.

    All on, each one off, both of a kind off, all off. Without DUS all unlabelled tiles are
    clustered, without CS chance chooses among those in dispute, without both among all.
    """
    rules = {
        "1111": ("dual-view", "unisal", ()),
        "0111": ("dual-view", "unisal", ("weight",)),
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
        of = frame[(frame.training == training) & (frame.method == method)]
        of = of[(of.varied == varied) & of.seed.isin(seeds)]
        if varied and varied != ("strategy",):
            of = of[of[varied[0]] == 0]
        if len(of):
            names = ("cross supervision", "contrast", "DUS", "CS")
            line = {name: "yes" * int(bit) for name, bit in zip(names, on, strict=True)}
            lines.append(line | _spreads(ends(of, "method")))
    return pd.DataFrame(lines)


def ablation_lines(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For `active_plots.ablation_curves`: rules that are numbers, with their values as column x."""
    found = {}
    for name, title in ABLATION_CURVES.items():
        part = ablation(frame, name)
        if len(part):
            ours = part[name][part.varied == ()].iloc[0]
            found[title] = ends(part, name).rename(columns={name: "x"}).assign(ours=ours)
    return found
