"""What is varied in ablations; tables and curves of those of VLM-CPL, from rows of the record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS, VARIANTS
from lib.report import statistics
from lib.report.active_learning import TRAININGS
from lib.report.format import pooled_spread, spread

# One rule at a time, but for those that are in one dictionary.
VLM_CPL_GRID: tuple[dict[str, Sequence], ...] = (
    {"filters": ("", "mvc", "pfc", "mvc+pfc", "pfc+mvc")},
    {"n_views": (1, 2, 5, 10, 30)},
    {"keep_ratio": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
    {"label_rule": LABEL_RULES},
    {"tie_break": TIE_BREAKS, "quota": QUOTAS},
    {"cluster_on": ("projected", "unprojected")},
    {"cluster_rule": CLUSTER_RULES},
    {"clusters_per_class": (1, 2, 3, 5)},
    {"threshold": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)},
    {"cross_weight": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)},
)
# Of UniSAL; a weight w of 0 is training without the other view, a contrast β of 0 without contrast.
UNISAL_GRID: tuple[dict[str, Sequence], ...] = (
    {"strategy": ("unisal", "dus", "cs", "unisal-wide")},
    {"threshold": (0.5, 0.7, 0.95)},
    {"cross_weight": (0.0, 0.5, 1.0)},
    {"contrast": (0.0, 0.1, 0.5)},
    {"query_share": (0.01, 0.02, 0.05)},
    {"restart": (True, False)},
    # With balance, which is ours, these are the loops of `22_active_learning_rounds`.
    {
        "balance_classes": (False,),
        "training": TRAININGS,
        "strategy": ("unisal", "margin", "random"),
    },
)


def our_rules(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that VLM-CPL runs with in our setting. settings: of a run (`Run.settings`)."""
    names = ("n_views", "keep_ratio", "threshold", "cross_weight")
    fixed = {"filters": "mvc+pfc"}
    return {name: settings[name] for name in names} | fixed | asdict(VARIANTS["ours"])


def chosen_rules(
    grid: Sequence[Mapping[str, Sequence]], names: str
) -> list[Mapping[str, Sequence]]:
    """The entries of a grid that vary one of the named rules; all of them for "".

    names: by comma. Raises ValueError for a name that is not in the grid.
    """
    wanted = {name.strip() for name in names.split(",")} - {""}
    known = [name for values in grid for name in values]
    if not wanted <= {*known}:
        raise ValueError(f"rules {names!r}: the rules that are varied here are {', '.join(known)}")
    return [values for values in grid if not wanted or wanted & set(values)]


def ablation_grid(
    ours: Mapping[str, Any], rules: Sequence[Mapping[str, Sequence]] = VLM_CPL_GRID
) -> Iterator[dict[str, Any]]:
    """Our rules with one of `rules` changed, and `varied`, the names of what differs from ours."""
    for values in rules:
        for chosen in product(*values.values()):
            changed = dict(zip(values, chosen, strict=True))
            varied = [name for name, value in changed.items() if value != ours[name]]
            if varied:
                yield {**ours, **changed, "varied": varied}


# --- tables and curves of VLM-CPL ----------------------------------------------------------------

# Two rules at once, or one that is a word; numbers are drawn (`plots.ablation_curves`).
ABLATION_TABLES = (
    *(("label_rule",), ("tie_break", "quota"), ("filters",)),
    *(("cluster_on",), ("cluster_rule",)),
)
ABLATION_CURVES = {
    "n_views": "views V",
    "keep_ratio": "keep ratio ρ",
    "threshold": "threshold γ",
    "cross_weight": "weight λ",
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
    scored = row["split"] == "test" and row["scores"] is not None  # audits have no scores
    return scored and row["network"] != "fine-tune" and row["training"] is None


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
    tables += [ablation_table(frame, *names) for names in varied]
    return tables + ([hue_table(frame)] if (frame.varied == ("hue",)).any() else [])


def on_off_table(frame: pd.DataFrame) -> pd.DataFrame:
    """MVC, PFC and HCS on and off in all eight ways, our rules, pooled ± standard deviation.

    Without HCS: plain training on the labels that are left. HCS without a filter: all tiles are
    labelled and all are cross-supervised too.
    """
    plain = {"": "ce-lift", "mvc": "ce-mvc", "pfc": "ce-pfc", "mvc+pfc": "ce-kept"}
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


def hue_table(frame: pd.DataFrame) -> pd.DataFrame:
    """VLM-CPL in both settings with other colour jitter, pooled ± standard deviation over runs.

    The hue of the views changes the votes and what the networks see. Empty where it was not varied.
    """
    varied = frame[frame.varied == ("hue",)]
    base = frame[(frame.varied == ()) & statistics.same_runs(frame, varied)]
    both = pd.concat([base, varied])
    lines = []
    for (setting, hue), df in both[both.method == "vlm-cpl"].groupby(["setting", "hue"]):
        line = {"setting": setting, "hue": f"± {hue:g}", "accuracy": pooled_spread(df)}
        line["balanced accuracy"] = pooled_spread(df, "balanced_accuracy")
        if df.precision.notna().all():
            line["pseudo-label precision"] = spread(df.precision)
        lines.append(line | statistics.runs(df))
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
