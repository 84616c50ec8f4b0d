"""The quality of pseudo labels, from rows of the record."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS
from lib.report.format import spread
from lib.report.statistics import runs

NAMES = {
    "zero-shot": "zero-shot, all tiles",
    "mean-of-views": "mean of views, all tiles",
    "mvc": "MVC",
    "pfc": "PFC",
    "mvc+pfc": "MVC → PFC",
    "pfc+mvc": "PFC → MVC",
}
RULES: dict[str, tuple[str, ...]] = {
    "label_rule": LABEL_RULES,
    "tie_break": TIE_BREAKS,
    "quota": QUOTAS,
    "cluster_on": ("projected", "unprojected"),
    "cluster_rule": CLUSTER_RULES,
}


def pseudo_label_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per row on pseudo labels of the training tiles.

    Columns: dataset, vlm, method, name (for tables), setting, fold, seed, varied (names of the
    parameters that are not the run's own), keep_ratio, `RULES`,
    kept, share (of the tiles), precision, smallest_class, lost, per_class.
    """
    lines = []
    for row in rows:
        if row["labels"] is None or row["split"] != "train":
            continue
        params, labels = row["params"], row["labels"]
        lines.append(
            {key: row[key] for key in ("dataset", "vlm", "method", "fold", "seed")}
            | {key: params.get(key) for key in RULES}
            | {key: labels[key] for key in ("kept", "share", "precision", "per_class")}
            | {
                "name": _name(row),
                "setting": row["setting"] or "",
                "varied": tuple(params.get("varied", ())),
                "keep_ratio": params.get("keep_ratio"),
                "smallest_class": min(c["kept"] for c in labels["per_class"].values()),
                "lost": len(labels["lost_classes"]),
            }
        )
    return pd.DataFrame(lines)


def _name(row: Mapping[str, Any]) -> str:
    params = row["params"]
    name = NAMES[row["method"]]
    if params.get("label_rule") == "lift":
        name += ", lift labels"
    if "tie_break" in params:
        name += f", {params['tie_break']} ties, {params['quota']} quota"
    if "cluster_on" in params:
        name += f", {params['cluster_on']} features"
    if params.get("cluster_rule") == "lift":
        name += ", lift clusters"
    return name


def at_main_keep_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines at the run's own keep ratio, whatever it is, in the order of the method.

    Within a method the paper's rules come before ours.
    """
    chosen = frame[frame.varied == ()]
    orders = {"method": tuple(NAMES), **RULES}
    ranks = {
        key: chosen[key].map({value: rank for rank, value in enumerate(values)})
        for key, values in orders.items()
    }
    by = [*orders, "seed"]
    # what a method does not have comes first
    ranked = pd.DataFrame(ranks | {"seed": chosen.seed}).sort_values(by, na_position="first")
    return chosen.loc[ranked.index]


def consensus_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over runs, one line per way to choose labels."""
    lines = []
    for name, df in at_main_keep_ratio(frame).groupby("name", sort=False):
        lines.append(
            {
                "labels": name,
                "setting": df.setting.iloc[0],
                "kept": f"{df.share.mean():.0%}",
                "pseudo-label precision": spread(df.precision),
                "worst run": f"{df.precision.min():.3f}",
                "smallest class kept": f"{df.smallest_class.mean():.0f}",
                "classes lost": f"{df.lost.mean():.1f}",
                **runs(df),
            }
        )
    return pd.DataFrame(lines)


def overview_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of the named settings, and those that need none, with display names."""
    chosen = at_main_keep_ratio(frame)
    plain = chosen.tie_break.isna() & chosen.cluster_on.isna()
    chosen = chosen[plain | (chosen.setting != "")]
    return chosen.assign(method=chosen.method.map(NAMES))


def per_class_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean kept and right labels per method and class, for the named settings."""
    chosen = at_main_keep_ratio(frame)
    chosen = chosen[(chosen.setting != "") & chosen.method.isin(["mvc", "mvc+pfc"])]
    lines = [
        {"method": f"{NAMES[line.method]}\n{line.setting}", "class": name, **counts}
        for line in chosen.itertuples()
        for name, counts in line.per_class.items()
    ]
    return (
        pd.DataFrame(lines).groupby(["method", "class"], sort=False).mean().reset_index()
        if lines
        else pd.DataFrame(columns=["method", "class", "kept", "right"])
    )
