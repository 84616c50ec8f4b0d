"""Learning curves of active learning: from rows of the record to tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.metrics import paired_test
from lib.tables import spread

GROUP_COLUMNS = ["vlm", "seed", "training", "method", "network", "group", "n", "right"]
SHARES = (0.95, 0.98, 1.0)  # of full supervision, for the labels that a strategy needs
STRATEGIES = {
    "unisal": "UniSAL (DUS, CS)",
    "unisal-weighted": "UniSAL, weighted",
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
    return pd.DataFrame(lines).sort_values(["seed", "budget"], ignore_index=True)


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
    for training, method in _order(curves):
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


def labels_needed(of: pd.DataFrame, accuracy: float) -> str:
    """Mean budget of the first round whose mean accuracy over seeds is at least that."""
    mean = of.groupby("round")[["budget", "accuracy"]].mean()
    enough = mean[mean.accuracy >= accuracy]
    return f"{enough.budget.iloc[0]:.0f}" if len(enough) else "–"


def _order(curves: pd.DataFrame) -> list[tuple[str, str]]:
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
    both = mine[["n", "right"]].join(other.right, rsuffix="_other", how="inner")
    if both.empty:
        return ""
    difference = (both.right - both.right_other).values
    p = paired_test(difference)
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{difference.sum() / both.n.sum():+.3f} ({shown})"
