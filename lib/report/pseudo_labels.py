"""The quality of pseudo labels, from rows of the record."""

import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS
from lib.report.format import line_per_group, mean_std

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
    parts = {
        "lift labels": line["label_rule"] == "lift",
        f"{line['tie_break']} ties, {line['quota']} quota": pd.notna(line["tie_break"]),
        f"{line['cluster_on']} features": pd.notna(line["cluster_on"]),
        "lift clusters": line["cluster_rule"] == "lift",
    }
    return ", ".join([NAMES[line["method"]], *(part for part, has in parts.items() if has)])


def at_main_keep_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines at the run's own keep ratio, whatever it is, in the order of the method.

    Within a method the paper's rules come before ours, and what it does not have before both.
    """
    ranks = {name: dict(zip(v, range(len(v)), strict=True)) for name, v in RULES.items()}
    ranks = {"method": {name: rank for rank, name in enumerate(NAMES)}} | ranks
    return frame[frame.varied == ""].sort_values(
        [*ranks, "seed"],
        key=lambda c: c.map(ranks[c.name]) if c.name in ranks else c,
        na_position="first",
    )


def consensus_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over runs, one line per way to choose labels."""

    def cells(some: pd.DataFrame) -> dict[str, str]:
        return {
            "setting": some.variant.iloc[0],
            "kept": f"{some.share.mean():.0%}",
            "pseudo-label precision": mean_std(some.precision),
            "worst run": f"{some.precision.min():.3f}",
            "smallest class kept": f"{some.smallest_class.mean():.0f}",
            "classes lost": f"{some.lost.mean():.1f}",
        }

    return line_per_group(at_main_keep_ratio(frame), {"name": "labels"}, cells, sort=False)


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
    table = pd.DataFrame(lines, columns=["method", "class", "kept", "correct"])
    return table.groupby(["method", "class"], sort=False).mean().reset_index()
