"""Tables and curves of the ablations of VLM-CPL and of its robustness, from rows of the record."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.report import statistics
from lib.report.format import pooled_spread, spread

# Two rules at once, or one that is a word; numbers are drawn (`plots.ablation_curves`).
ABLATION_TABLES = (("tie_break", "quota"), ("filters",), ("cluster_on",), ("cluster_rule",))
ABLATION_CURVES = {
    "n_views": "views V",
    "keep_ratio": "keep ratio ρ",
    "threshold": "threshold γ",
    "hcs_weight": "weight λ",
    "clusters_per_class": "clusters per class",
}


def ablation_frames(rows: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """`ablation_frame` of each dataset of which something was varied in training."""
    datasets = {
        row["dataset"] for row in rows if _is_of_training(row) and "varied" in row["params"]
    }
    return {d: ablation_frame([r for r in rows if r["dataset"] == d]) for d in sorted(datasets)}


def _is_of_training(row: Mapping[str, Any]) -> bool:
    """Of VLM-CPL or what it is compared with, on the test set, heads on frozen features."""
    return row["split"] == "test" and row["network"] != "fine-tune" and row["training"] is None


def ablation_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of one dataset on the test set, without fine-tuned networks and active learning.

    Columns: dataset, vlm, seed, fold, n, method, setting, varied (names of the parameters in which
    a row of an ablation differs from the comparison, () for a row of the comparison itself), all
    parameters, accuracy, balanced_accuracy, precision and kept (of the labels learnt from; NaN
    where unknown).
    """
    lines = []
    for row in filter(_is_of_training, rows):
        labels = row["labels"] or {}
        lines.append(
            row["params"]
            | {key: row[key] for key in ("dataset", "vlm", "seed", "n", "method")}
            | {"fold": statistics.fold_of(row), "setting": row["setting"] or ""}
            | {"varied": tuple(row["params"].get("varied", ()))}
            | {key: row["scores"][key] for key in ("accuracy", "balanced_accuracy")}
            | {key: labels.get(key) for key in ("precision", "kept")}
        )
    return pd.DataFrame(lines)


def ablation(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Lines of `ablation_frame` that are VLM-CPL in our setting, or differ from it in `names` only.

    Empty where nothing was varied; only runs (fold and seed) for which something was.
    """
    if not {*names} <= {*frame}:
        return frame[:0]
    varied = frame.varied.map(lambda rules: bool(rules) and set(rules) <= set(names))
    varied &= frame.method == "vlm-cpl"
    base = (frame.method == "vlm-cpl") & (frame.setting == "ours") & (frame.varied == ())
    base &= statistics.same_runs(frame, frame[varied])
    return frame[varied | base].sort_values([*names, "fold", "seed"])


def ablation_table(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One line per combination of values, pooled ± standard deviation over runs; ours is marked."""
    lines = []
    for values, df in ablation(frame, *names).groupby(list(names), sort=False):
        line = {name: str(value) or "none" for name, value in zip(names, values, strict=True)}
        line["ours"] = "ours" if (df.varied == ()).all() else ""
        if df.precision.notna().all():
            line["pseudo-label precision"] = spread(df.precision)
        lines.append(line | {"accuracy": pooled_spread(df)} | statistics.runs(df))
    return pd.DataFrame(lines)


def ablation_tables(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """What the parts are worth, on and off, and the rules that are words, as far as varied."""
    tables = [on_off_table(frame)] if len(ablation(frame, "filters")) else []
    varied = [names for names in ABLATION_TABLES if len(ablation(frame, *names))]
    return tables + [ablation_table(frame, *names) for names in varied]


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """MVC, PFC and HCS on and off in all eight ways, our rules, pooled ± standard deviation.

    Without HCS: plain training on the labels that are left. HCS without a filter: all tiles are
    labelled and all are cross-supervised too.
    """
    plain = {"": "ce-all", "mvc": "ce-mvc", "pfc": "ce-pfc", "mvc+pfc": "ce-kept"}
    supervised = ablation(frame, "filters")
    lines = []
    for filters, method in plain.items():
        without = frame[(frame.method == method) & frame.setting.isin(["", "ours"])]
        without = without[(without.varied == ()) & statistics.same_runs(without, supervised)]
        for hcs, df in (("", without), ("yes", supervised[supervised.filters == filters])):
            if len(df):
                on = {name.upper(): "yes" if name in filters else "" for name in ("mvc", "pfc")}
                scored = {"accuracy": pooled_spread(df)} | statistics.runs(df)
                lines.append(on | {"HCS": hcs} | scored)
    return pd.DataFrame(lines)


def ablation_lines(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For `plots.ablation_curves`: the rules that are numbers, each with its values as column x."""
    lines = {}
    for name, title in ABLATION_CURVES.items():
        curve = ablation(frame, name)
        if len(curve):
            lines[title] = curve.assign(x=curve[name])
    return lines


def robustness_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """For `plots.robustness`: methods measured under shifts, with their unshifted rows.

    Columns beside those of `ablation_frame`: shift ("" for none) and zero_shot, the accuracy of the
    zero-shot labels of the same VLM, seed and fold at that shift. Empty where nothing was shifted.
    """
    if "shift" not in frame:
        return frame[:0]
    moved = frame.varied == ("shift",)
    keys = frame[["method", "setting"]].apply(tuple, axis=1)
    runs = [column for column in ("vlm", "seed", "fold") if column in frame]
    same_run = frame[runs].apply(tuple, axis=1)
    unmoved = (frame.varied == ()) & keys.isin({*keys[moved]}) & same_run.isin({*same_run[moved]})
    lines = frame[moved | unmoved].assign(shift=lambda df: df["shift"].fillna(""))
    zero_shot = lines[lines.method == "zero-shot"].set_index([*runs, "shift"]).accuracy
    return lines.join(zero_shot.rename("zero_shot"), on=[*runs, "shift"])
