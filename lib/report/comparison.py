"""The comparison of methods and its ablations, from rows of the record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lib import paths
from lib.consensus import SETTINGS
from lib.report.format import difference, spread
from lib.runner import resolve_parameters

COMPARED = {
    "zero-shot": "zero-shot",
    "mean-of-views": "mean of views",
    "ce-all": "all zero-shot labels, CE",
    "gce": "all zero-shot labels, generalised CE",
    "elr": "all zero-shot labels, early-learning regularisation",
    "co-teaching": "all zero-shot labels, Co-teaching",
    "confident-learning": "confident learning, CE",
    "transductive": "transductive zero-shot (TransCLIP)",
    "ce-mvc": "MVC, CE",
    "ce-pfc": "PFC, CE",
    "ce-kept": "MVC → PFC, CE",
    "vlm-cpl": "VLM-CPL",
    "full-supervision": "full supervision",
}
UNTRAINED = ("zero-shot", "mean-of-views", "transductive")
WITHOUT_FILTER = "mean-of-views transductive ce-all gce elr co-teaching confident-learning".split()
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
}
SCORE_COLUMNS = ["dataset", "seed", "method", "setting", "network", *SCORES, "recall"]
GROUP_COLUMNS = ["vlm", "seed", "method", "setting", "network", "group", "n", "right"]
# Accuracies that VLM-CPL's abstract gives (arXiv 2403.15836 v1), with the paper's VLM and split.
PAPER = {
    ("hph", "vlm-cpl", "published filters"): 0.871,
    ("lc25000", "vlm-cpl", "published filters"): 0.951,
    ("lc25k", "vlm-cpl", "published filters"): 0.951,
}
# Two rules at once, or one that is a word; numbers are drawn (`plots.ablation_curves`).
ABLATION_TABLES = (("tie_break", "quota"), ("filters",), ("cluster_on",))
ABLATION_CURVES = {
    "n_views": "views V",
    "keep_ratio": "keep ratio ρ",
    "threshold": "threshold γ",
    "weight": "weight λ",
    "clusters_per_class": "clusters per class",
}


def groups_frame(predictions: pd.DataFrame) -> pd.DataFrame:
    """Tiles and right predictions per group of the test set, for the paired test.

    predictions: columns vlm, seed, method, setting, network, group, right, one line per tile.
    Returns the same columns without repeats, `right` being counted, and n, the tiles.
    """
    return predictions.groupby(GROUP_COLUMNS[:-2]).right.agg(n="size", right="sum").reset_index()


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """`groups_frame` of every seed below a folder of runs; empty if none holds a comparison."""
    files = sorted(runs.glob("seed*/comparison*.parquet"))
    if not files:
        return pd.DataFrame(columns=GROUP_COLUMNS)
    return groups_frame(pd.concat(map(pd.read_parquet, files)))


def groups_of_record(file: Path) -> pd.DataFrame:
    """`groups_frame` as published; empty if the record holds no comparison."""
    return pd.read_parquet(file) if file.is_file() else pd.DataFrame(columns=GROUP_COLUMNS)


def score_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the comparison in its order: dataset, seed, method, setting, network and all scores.

    What needs no network and heads on frozen features come before whole networks.
    """
    methods, settings = list(COMPARED), ["", *SETTINGS]
    lines = sorted(
        (_score_line(row) for row in rows if _is_compared(row)),
        key=lambda line: (
            line["network"] == "fine-tune",
            methods.index(line["method"]),
            settings.index(line["setting"]),
            line["seed"],
        ),
    )
    return pd.DataFrame(lines, columns=SCORE_COLUMNS)


def _is_compared(row: Mapping[str, Any]) -> bool:
    """Whether a row belongs to the comparison, not to an ablation of it."""
    known = row["method"] in COMPARED and not _is_active(row)
    return known and row["split"] == "test" and "varied" not in row["params"]


def _is_active(row: Mapping[str, Any]) -> bool:
    """Whether a row is of active learning, which is no part of the comparison."""
    return row["training"] is not None


def _score_line(row: Mapping[str, Any]) -> dict[str, Any]:
    of = {key: row[key] or "" for key in ("setting", "network")}
    return {key: row[key] for key in ("dataset", "method", "seed")} | of | row["scores"]


def scores_table(
    rows: Sequence[Mapping[str, Any]], groups: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Scores on the test set, mean ± standard deviation over seeds, one line per method.

    groups: `groups_frame` of the same runs; with it the table says by how much
    VLM-CPL in our setting is better than each other method of the same network on the same tiles,
    and the p of the paired test over seeds × groups. The column paper is the paper's accuracy, with
    its own VLM and split, where it is known.
    """
    frame = score_frame(rows)
    columns = ["method", "setting", "network"]
    made = []
    for (method, setting, network), part in frame.groupby(columns, sort=False):
        line = {"method": COMPARED[method], "setting": setting, "network": network}
        line |= {title: spread(part[name]) for name, title in SCORES.items()}
        if groups is not None:
            line["ours is better by"] = _difference(groups, method, setting, network)
        known = PAPER.get((part.dataset.iloc[0], method, setting))
        line |= {"paper": f"{known:.3f}" if known else "", "seeds": str(part.seed.nunique())}
        made.append(line)
    return pd.DataFrame(made)


def _difference(groups: pd.DataFrame, method: str, setting: str, network: str) -> str:
    """Accuracy of VLM-CPL (ours) minus that of a method, with the p of the paired test."""
    if (method, setting) == ("vlm-cpl", "ours"):
        return ""
    mine = _of(groups, "vlm-cpl", "ours", network or "frozen")
    return difference(mine, _of(groups, method, setting, network))


def _of(groups: pd.DataFrame, method: str, setting: str, network: str) -> pd.DataFrame:
    chosen = groups.method.eq(method) & groups.setting.eq(setting) & groups.network.eq(network)
    return groups[chosen].set_index(["seed", "group"])[["n", "right"]]


def summary_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Two lines per dataset: VLM-CPL between what needs no filter and full supervision.

    Means over seeds with heads on frozen features; the best of the other methods is named. Seeds
    and datasets without the whole comparison are left out.
    """
    needed = {*WITHOUT_FILTER, "vlm-cpl", "full-supervision"}
    frame = score_frame(rows)
    frame = frame[frame.network != "fine-tune"]
    lines = []
    for dataset, part in frame.groupby("dataset"):
        complete = part.groupby("seed").method.agg(lambda methods: needed <= set(methods))
        part = part[part.seed.map(complete)]
        if part.empty:
            continue
        for score in ("accuracy", "balanced_accuracy"):
            mean = part.groupby(["method", "setting"])[score].mean()
            best = mean[[key for key in mean.index if key[0] in WITHOUT_FILTER]].idxmax()
            lines.append(
                {
                    "dataset": dataset,
                    "score": SCORES[score],
                    "zero-shot": f"{mean['zero-shot', '']:.3f}",
                    "best other method": f"{mean[best]:.3f} ({COMPARED[best[0]]})",
                    "VLM-CPL, published filters": f"{mean['vlm-cpl', 'published filters']:.3f}",
                    "VLM-CPL, ours": f"{mean['vlm-cpl', 'ours']:.3f}",
                    "full supervision": f"{mean['full-supervision', '']:.3f}",
                    "seeds": str(part.seed.nunique()),
                }
            )
    return pd.DataFrame(lines)


def of_own_vlm(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the VLM that a dataset's parameters name; others are for `vlm_comparison`."""
    notebook = paths.notebook_file("40_record")
    named = {
        dataset: resolve_parameters(notebook, {"dataset": dataset})["vlm"]
        for dataset in {row["dataset"] for row in rows}
    }
    return [row for row in rows if row["vlm"] == named[row["dataset"]]]


def vlm_comparison(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Of datasets that were run with more than one VLM: each of them, and several together.

    Over the seeds that all have: zero-shot on the test set, what our setting keeps, and VLM-CPL
    on the test set, heads on frozen features; accuracy and balanced accuracy.
    """
    lines = []
    for row in rows:
        ours = (row["method"], row["setting"], row["network"]) == ("vlm-cpl", "ours", "frozen")
        if row["split"] == "test" and (row["method"] == "zero-shot" or ours) and _is_compared(row):
            measured = {name: row["scores"][name] for name in ("accuracy", "balanced_accuracy")}
            if ours:
                measured |= {name: row["labels"][name] for name in ("kept", "precision")}
            of = {name: row[name] for name in ("dataset", "vlm", "seed")}
            lines.append(of | {f"{row['method']} {name}": v for name, v in measured.items()})
    if not lines:
        return pd.DataFrame()
    frame = pd.DataFrame(lines).groupby(["dataset", "vlm", "seed"], as_index=False).first()
    made = []
    for dataset, part in frame.groupby("dataset"):
        seeds = part.groupby("seed").vlm.nunique()
        common = part[part.seed.isin(seeds[seeds == part.vlm.nunique()].index)]
        for vlm, of in common.groupby("vlm"):
            if part.vlm.nunique() > 1:
                made.append({"dataset": dataset, "VLM": vlm} | _of_vlm(of))
    return pd.DataFrame(made)


def _of_vlm(of: pd.DataFrame) -> dict[str, str]:
    return {
        "zero-shot": spread(of["zero-shot accuracy"]),
        "zero-shot, balanced": spread(of["zero-shot balanced_accuracy"]),
        "kept": f"{of['vlm-cpl kept'].mean():.0f}",
        "pseudo-label precision": spread(of["vlm-cpl precision"]),
        "VLM-CPL": spread(of["vlm-cpl accuracy"]),
        "VLM-CPL, balanced": spread(of["vlm-cpl balanced_accuracy"]),
        "seeds": str(len(of)),
    }


def ablation_frames(rows: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """`ablation_frame` of each dataset of which something was varied."""
    varied = {row["dataset"] for row in rows if "varied" in row["params"] and not _is_active(row)}
    return {d: ablation_frame([r for r in rows if r["dataset"] == d]) for d in sorted(varied)}


def ablation_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of one dataset on the test set, without fine-tuned networks and active learning.

    Columns: dataset, vlm, seed, method, setting, varied (names of the parameters in which a row of
    an ablation differs from the comparison, () for a row of the comparison itself), all parameters,
    accuracy, balanced_accuracy, precision and kept (of the labels learnt from; NaN where unknown).
    """
    lines = []
    for row in rows:
        if row["split"] == "test" and row["network"] != "fine-tune" and not _is_active(row):
            labels = row["labels"] or {}
            lines.append(
                row["params"]
                | {key: row[key] for key in ("dataset", "vlm", "seed", "method")}
                | {"setting": row["setting"] or ""}
                | {"varied": tuple(row["params"].get("varied", ()))}
                | {key: row["scores"][key] for key in ("accuracy", "balanced_accuracy")}
                | {key: labels.get(key) for key in ("precision", "kept")}
            )
    return pd.DataFrame(lines)


def ablation(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Lines of `ablation_frame` that are VLM-CPL in our setting, or differ from it in `names` only.

    Empty where nothing was varied; only seeds for which something was.
    """
    varied = frame.varied.map(lambda of: bool(of) and set(of) <= set(names))
    varied &= frame.method == "vlm-cpl"
    base = (frame.method == "vlm-cpl") & (frame.setting == "ours") & (frame.varied == ())
    base &= frame.seed.isin(frame.seed[varied])
    return frame[varied | base].sort_values([*names, "seed"])


def ablation_table(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One line per combination of values, mean ± standard deviation over seeds; ours is marked."""
    lines = []
    for values, part in ablation(frame, *names).groupby(list(names), sort=False):
        line = {name: str(value) or "none" for name, value in zip(names, values, strict=True)}
        line["ours"] = "ours" if (part.varied == ()).all() else ""
        if part.precision.notna().all():
            line["pseudo-label precision"] = spread(part.precision)
        lines.append(line | {"accuracy": spread(part.accuracy), "seeds": str(part.seed.nunique())})
    return pd.DataFrame(lines)


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """MVC, PFC and HCS on and off in all eight ways, our rules, mean ± standard deviation.

    Without HCS: plain training on the labels that are left. HCS without a filter: all tiles are
    labelled and all are cross-supervised too.
    """
    plain = {"": "ce-all", "mvc": "ce-mvc", "pfc": "ce-pfc", "mvc+pfc": "ce-kept"}
    supervised = ablation(frame, "filters")
    lines = []
    for filters, method in plain.items():
        without = frame[(frame.method == method) & frame.setting.isin(["", "ours"])]
        without = without[(without.varied == ()) & without.seed.isin(supervised.seed)]
        for hcs, part in (("", without), ("yes", supervised[supervised.filters == filters])):
            if len(part):
                on = {name.upper(): "yes" if name in filters else "" for name in ("mvc", "pfc")}
                scored = {"accuracy": spread(part.accuracy), "seeds": str(part.seed.nunique())}
                lines.append(on | {"HCS": hcs} | scored)
    return pd.DataFrame(lines)


def ablation_lines(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For `plots.ablation_curves`: the rules that are numbers, each with its values as column x."""
    curves = {title: name for name, title in ABLATION_CURVES.items() if name in frame}
    found = {title: (name, ablation(frame, name)) for title, name in curves.items()}
    return {title: of.assign(x=of[name]) for title, (name, of) in found.items() if len(of)}


def robustness_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """For `plots.robustness`: methods measured under stain shift, with their unshifted rows."""
    moved = frame.varied == ("stain_shift",)
    keys = frame[["method", "setting"]].apply(tuple, axis=1)
    measured = keys.isin(set(keys[moved]))
    unmoved = (frame.varied == ()) & measured & frame.seed.isin(frame.seed[moved])
    lines = frame[moved | unmoved].sort_values("stain_shift")
    return lines.assign(stain_shift=lines.stain_shift.fillna(0))
