"""The quality of pseudo labels, from rows of the record."""

import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS
from lib.report.format import mean_std
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


def pseudo_label_frame(facts: pd.DataFrame) -> pd.DataFrame:
    """Lines on pseudo labels of the training tiles.

    Columns beside those of the facts: name (for tables), smallest_class, lost; and all of `RULES`.
    """
    frame = facts[(facts.split == "train") & facts.kept.notna()]
    frame = frame.reindex(columns=[*frame, *(name for name in RULES if name not in frame)])
    return frame.assign(
        name=[_name(line) for line in frame.to_dict("records")],
        smallest_class=[min(c["kept"] for c in classes.values()) for classes in frame.per_class],
        lost=frame.lost_classes.map(len),
    )


def _name(line: dict) -> str:
    name = NAMES[line["method"]]
    if line["label_rule"] == "lift":
        name += ", lift labels"
    if pd.notna(line["tie_break"]):
        name += f", {line['tie_break']} ties, {line['quota']} quota"
    if pd.notna(line["cluster_on"]):
        name += f", {line['cluster_on']} features"
    if line["cluster_rule"] == "lift":
        name += ", lift clusters"
    return name


def at_main_keep_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines at the run's own keep ratio, whatever it is, in the order of the method.

    Within a method the paper's rules come before ours.
    """
    chosen = frame[frame.varied == ""]
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
                "setting": df.variant.iloc[0],
                "kept": f"{df.share.mean():.0%}",
                "pseudo-label precision": mean_std(df.precision),
                "worst run": f"{df.precision.min():.3f}",
                "smallest class kept": f"{df.smallest_class.mean():.0f}",
                "classes lost": f"{df.lost.mean():.1f}",
                **runs(df),
            }
        )
    return pd.DataFrame(lines)


def overview_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of the named variants, and those that need none, with display names."""
    chosen = at_main_keep_ratio(frame)
    plain = chosen.tie_break.isna() & chosen.cluster_on.isna()
    chosen = chosen[plain | (chosen.variant != "")]
    return chosen.assign(method=chosen.method.map(NAMES))


def per_class_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean kept and correct labels per method and class, for the named variants."""
    chosen = at_main_keep_ratio(frame)
    chosen = chosen[(chosen.variant != "") & chosen.method.isin(["mvc", "mvc+pfc"])]
    lines = [
        {"method": f"{NAMES[line.method]}\n{line.variant}", "class": name, **counts}
        for line in chosen.itertuples()
        for name, counts in line.per_class.items()
    ]
    return (
        pd.DataFrame(lines).groupby(["method", "class"], sort=False).mean().reset_index()
        if lines
        else pd.DataFrame(columns=["method", "class", "kept", "correct"])
    )
