"""Tables of VLM-CPL beside other methods, from the record."""

import numpy as np
import pandas as pd

from lib.consensus import VARIANTS
from lib.record import Record
from lib.report import statistics
from lib.report.format import (
    SCORES,
    difference_cells,
    insert_columns,
    mean_std,
    pooled_std,
    score_cells,
)
from lib.report.statistics import Groups, Kind, pooled_score

COMPARED = {
    "zero-shot": "zero-shot",
    "centred": "zero-shot, target-mean centring",
    "sinkhorn": "zero-shot, equal shares (Sinkhorn)",
    "sinkhorn-clusters": "zero-shot, shares of the clusters (Sinkhorn)",
    "prior-em": "zero-shot, prior by EM (Saerens)",
    "mean-of-views": "mean of views",
    "lift": "mean of views, lift",
    "transductive": "transductive zero-shot (TransCLIP)",
    "stata": "StatA-style transduction",
    "source-only": "source-only supervision",
    "ce-all": "zero-shot labels, CE",
    "gce": "zero-shot labels, generalised CE",
    "elr": "zero-shot labels, early-learning regularisation",
    "co-teaching": "zero-shot labels, Co-teaching",
    "confident-learning": "confident learning, CE",
    "top-confidence": "top share per class, CE",
    "ce-lift": "lift labels, CE",
    "ce-mvc": "MVC, CE",
    "ce-pfc": "PFC, CE",
    "ce-kept": "MVC → PFC, CE",
    "vlm-cpl": "VLM-CPL",
    "full-supervision": "full supervision",
}
UNTRAINED = (
    *("zero-shot", "centred", "sinkhorn", "sinkhorn-clusters", "prior-em"),
    *("mean-of-views", "lift", "transductive", "stata"),
)
# Methods without our filters; a run is complete with the first of these.
NEEDED = "mean-of-views transductive ce-all gce elr co-teaching confident-learning".split()
WITHOUT_FILTER = (
    *NEEDED,
    *("centred", "sinkhorn", "prior-em", "stata", "source-only", "top-confidence"),
)
ON_TEST = "chosen on the test set"
OURS = ("vlm-cpl", "ours")
KIND = ["method", "variant", "network"]
# Accuracies that VLM-CPL's abstract gives (arXiv 2403.15836 v1), with the paper's VLM and split.
PAPER = {
    ("hph", "vlm-cpl", "published filters"): 0.871,
    ("lc25000", "vlm-cpl", "published filters"): 0.951,
    ("lc25k", "vlm-cpl", "published filters"): 0.951,
}
# A run has failed if it is more than this below full supervision, or finds no tile of a class.
TOLERATED = 0.05


def compared(some: Record) -> Record:
    """The evaluations of the comparison in its order, without ablations.

    What needs no network and heads on frozen features come before whole networks.
    """
    facts = tested(some.facts)
    facts = facts[(facts.varied == "") & facts.method.isin(COMPARED)]
    methods, variants = list(COMPARED), ["", *VARIANTS]
    order = facts.assign(
        network=facts.network == "fine-tune",
        method=facts.method.map(methods.index),
        variant=facts.variant.map(variants.index),
    )
    order = order.sort_values(["network", "method", "variant", "seed", "fold"], kind="stable")
    return Record(facts.loc[order.index], some.counts)


def tested(facts: pd.DataFrame) -> pd.DataFrame:
    """VLM-CPL and what it is compared with, on the tiles of the test set."""
    tiles = (facts.unit == "tile") & (facts.split == "test") & (facts.training == "")
    return facts[tiles & facts.accuracy.notna()]


def refuse_several_vlms(facts: pd.DataFrame) -> None:
    """Raise ValueError for a dataset with several VLMs, over which a mean says nothing."""
    for dataset, vlms in facts.groupby("dataset").vlm:
        if vlms.nunique() > 1:
            raise ValueError(f"several VLMs for {dataset}: a mean says nothing")


def scores_table(some: Record) -> pd.DataFrame:
    """Scores on the test set, one line per method.

    With intervals where groups are known; then the table says too by how much VLM-CPL in our
    variant is better than each other method of the same network on the same tiles (p corrected by
    Holm over the lines), and in which scores a line is not inferior to full supervision
    (`statistics.non_inferior`). The column paper is the paper's accuracy, with its own VLM and
    split, where it is known.
    """
    some = compared(some)
    groups, lines, kinds = statistics.grouped(some, KIND), [], []
    for (method, variant, network), facts in some.facts.groupby(KIND, sort=False):
        kinds.append((method, variant, network))
        line = {"method": COMPARED[method], "setting": variant, "network": network}
        line |= score_cells(facts, groups, kinds[-1], SCORES)
        paper = PAPER.get((facts.dataset.iloc[0], method, variant))
        lines.append(line | {"paper": f"{paper:.3f}" if paper else ""} | statistics.runs(facts))
    table = pd.DataFrame(lines)
    if groups.kinds and len(table):
        better = {
            title: difference_cells(groups, kinds, _ours_beside, score)
            for title, score in (
                ("ours is better by", "accuracy"),
                ("ours is better by, balanced accuracy", "balanced_accuracy"),
            )
        }
        better["not inferior to full supervision"] = [_non_inferior(groups, k) for k in kinds]
        insert_columns(table, "paper", better)
    return table


def _ours_beside(kind: Kind) -> Kind | None:
    """VLM-CPL in our variant, with the network of another method."""
    return None if kind[:2] == OURS else (*OURS, kind[2] or "frozen")


def _non_inferior(groups: Groups, kind: Kind) -> str:
    """Scores in which a method is not inferior to full supervision; empty where not comparable."""
    full = ("full-supervision", "", kind[2] or "frozen")
    minus_full = {} if kind == full else statistics.differences(groups, kind, full)
    good = [SCORES[s] for s, d in minus_full.items() if statistics.non_inferior(d, s)]
    return ", ".join(good) or ("no" if minus_full else "")


def with_vlms(some: Record, vlms: pd.Series | dict[str, str]) -> Record:
    """The evaluations with the VLM that is named for their dataset; vlms: dataset → VLM."""
    return some[some.facts.vlm == some.facts.dataset.map(vlms)]


# --- all datasets --------------------------------------------------------------------------------


def summary_frame(some: Record) -> pd.DataFrame:
    """VLM-CPL between zero-shot and full supervision, heads on frozen features, pooled over folds.

    One line per dataset and score (accuracy, balanced_accuracy). Columns: dataset, score,
    zero-shot, other and other_name (the best method without our filters that every run has, chosen
    on the test set), published, ours, full, folds, seeds. Runs and datasets without the whole
    comparison are left out. Raises ValueError for a dataset with several VLMs.
    """
    needed = {*NEEDED, "zero-shot", "vlm-cpl", "full-supervision"}
    facts = compared(some).facts
    facts = facts[facts.network != "fine-tune"]
    refuse_several_vlms(facts)
    lines = []
    for dataset, of_dataset in facts.groupby("dataset"):
        methods = of_dataset.groupby(["fold", "seed"]).method
        complete = methods.transform(lambda names: needed <= set(names)).astype(bool)
        of_dataset = of_dataset[complete]
        kinds = dict(list(of_dataset.groupby(["method", "variant"])))
        n_runs = len(of_dataset[["fold", "seed"]].drop_duplicates())
        for score in statistics.SCORES if n_runs else ():
            pooled = {kind: pooled_score(df, score) for kind, df in kinds.items()}
            others = {
                method: value
                for (method, variant), value in pooled.items()
                if method in WITHOUT_FILTER and len(kinds[method, variant]) == n_runs
            }
            best = max(others, key=lambda method: others[method])
            line = {"dataset": dataset, "score": score, "zero-shot": pooled["zero-shot", ""]}
            line |= {"other": others[best], "other_name": COMPARED[best]}
            line |= {"published": pooled["vlm-cpl", "published filters"], "ours": pooled[OURS]}
            line |= {"full": pooled["full-supervision", ""]}
            lines.append(line | statistics.runs(of_dataset))
    return pd.DataFrame(lines)


def summary_table(some: Record) -> pd.DataFrame:
    """`summary_frame` as it is printed, two lines per dataset."""
    frame = summary_frame(some)
    if frame.empty:
        return frame
    shown = {
        name: frame[name].map("{:.3f}".format) for name in frame.columns[2:-2].drop("other_name")
    }
    return pd.DataFrame(
        {
            "dataset": frame.dataset,
            "score": frame.score.map(SCORES),
            "zero-shot": shown["zero-shot"],
            f"best other method, {ON_TEST}": shown["other"] + " (" + frame.other_name + ")",
            "VLM-CPL, published filters": shown["published"],
            "VLM-CPL, ours": shown["ours"],
            "full supervision": shown["full"],
            "folds": frame.folds,
            "seeds": frame.seeds,
        }
    )


def vlm_table(some: Record) -> pd.DataFrame:
    """Datasets that were run with more than one VLM: each of them, and ensembles.

    Over the runs (fold and seed) that all have: zero-shot on the test set, what our variant keeps,
    and VLM-CPL on the test set, heads on frozen features; accuracy and balanced accuracy.
    """
    facts = compared(some).facts
    kinds = [("zero-shot", "", ""), (*OURS, "frozen")]
    facts = facts[pd.MultiIndex.from_frame(facts[KIND]).isin(kinds)]
    lines = []
    for dataset, of_dataset in facts.groupby("dataset"):
        n_vlms = of_dataset.groupby(["fold", "seed"]).vlm.transform("nunique")
        common = of_dataset[n_vlms == of_dataset.vlm.nunique()]
        for vlm, of_vlm in common.groupby("vlm") if n_vlms.max() > 1 else ():
            before, ours = (of_vlm[of_vlm.method == method] for method, *_ in kinds)
            line = {"dataset": dataset, "VLM": vlm, "zero-shot": pooled_std(before)}
            line["zero-shot, balanced accuracy"] = pooled_std(before, "balanced_accuracy")
            line |= {"kept": f"{ours.kept.mean():.0f}"}
            line |= {"pseudo-label precision": mean_std(ours.precision)}
            line |= {"VLM-CPL": pooled_std(ours)}
            line["VLM-CPL, balanced accuracy"] = pooled_std(ours, "balanced_accuracy")
            lines.append(line | statistics.runs(ours))
    return pd.DataFrame(lines)


# --- the alarm -----------------------------------------------------------------------------------


def alarm_frame(some: Record) -> pd.DataFrame:
    """One line per run of VLM-CPL that could raise an alarm and has a full supervision beside it.

    Full supervision of the same dataset, VLM, fold, seed, network and shift. Columns: dataset, vlm,
    variant, fold, seed, shifted (bool), alarms (names), raised, failed (bool).
    """
    facts = tested(some.facts)
    facts = facts[facts.varied.isin(["", "shift"])]
    run = ["dataset", "vlm", "network", "seed", "fold", "value"]
    full = facts[facts.method == "full-supervision"].set_index(run).accuracy.rename("full")
    ours = facts[(facts.method == "vlm-cpl") & facts.alarms.notna()].join(full, on=run, how="inner")
    if ours.empty:
        return ours
    n, correct = (np.stack(ours[name].tolist()) for name in ("class_n", "class_correct"))
    lost = ((n > 0) & (correct == 0)).any(axis=1)
    failed = (ours.full - ours.accuracy > TOLERATED + 1e-9) | lost
    frame = ours.assign(shifted=ours.varied != "", raised=ours.alarms.map(bool), failed=failed)
    return frame[[*run[:2], "variant", "fold", "seed", "shifted", "alarms", "raised", "failed"]]


def alarm_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset, variant and whether tiles were shifted, and one of all per variant."""
    lines = []
    for variant, of_variant in frame.groupby("variant") if len(frame) else ():
        for (dataset, shifted), runs in of_variant.groupby(["dataset", "shifted"]):
            what = {"dataset": dataset, "setting": variant, "tiles": "shifted" if shifted else ""}
            lines.append(what | _counts(runs))
        lines.append({"dataset": "all", "setting": variant, "tiles": ""} | _counts(of_variant))
    return pd.DataFrame(lines)


def alarms_by_name(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per alarm: in how many runs it was raised, and how many of these failed."""
    if frame.empty or not frame.raised.any():
        return pd.DataFrame()
    each = frame.assign(alarms=frame.alarms.map(lambda names: sorted(set(names))))
    each = each.explode("alarms").dropna(subset="alarms")
    return pd.DataFrame(
        {"alarm": name, "setting": variant, "raised": str(len(failed)), "right": str(failed.sum())}
        for (name, variant), failed in each.groupby(["alarms", "variant"]).failed
    )


def _counts(runs: pd.DataFrame) -> dict[str, str]:
    raised, failed = runs.raised, runs.failed
    counts = {
        "runs": len(runs),
        "true alarms": (raised & failed).sum(),
        "false alarms": (raised & ~failed).sum(),
        "misses": (~raised & failed).sum(),
        "rightly silent": (~raised & ~failed).sum(),
    }
    return {name: str(count) for name, count in counts.items()}
