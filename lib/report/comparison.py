"""Tables of VLM-CPL beside other methods, from the record."""

import pandas as pd

from lib.consensus import VARIANTS
from lib.record import Record
from lib.report import statistics
from lib.report.format import SCORES, difference_cells, insert_columns, score_cells
from lib.report.statistics import Groups, Kind

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
    "linear-probe": "zero-shot labels, linear probe",
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
    "clusters": "labels of clusters, Co-teaching",
    "vlm-cpl": "VLM-CPL",
    "opinions": "VLM-CPL, prompts and clusters",
    "full-supervision": "full supervision",
    "full-probe": "linear probe, all labels",
}
UNTRAINED = (
    *("zero-shot", "centred", "sinkhorn", "sinkhorn-clusters", "prior-em"),
    *("mean-of-views", "lift", "transductive", "stata"),
)
# Other methods that a complete run has.
NEEDED = "mean-of-views transductive ce-all gce elr co-teaching confident-learning".split()
OURS = ("vlm-cpl", "ours")
KIND = ["method", "variant", "network"]
# Accuracies that VLM-CPL's abstract gives (arXiv 2403.15836 v1), with the paper's VLM and split.
PAPER = {
    ("hph", "vlm-cpl", "published filters"): 0.871,
    ("lc25000", "vlm-cpl", "published filters"): 0.951,
    ("lc25k", "vlm-cpl", "published filters"): 0.951,
}


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


def scores_table(some: Record) -> pd.DataFrame:
    """Scores on the test set, one line per method.

    With intervals where groups are known; then the table says too by how much VLM-CPL in our
    variant is better than each other method of the same network on the same tiles (p corrected by
    Holm over the lines), and in which scores a line is not inferior to full supervision: its
    interval ends above minus the margin. The column paper is the paper's accuracy, with its own
    VLM and split, where it is known.
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
    margins = statistics.margins(groups)
    good = [SCORES[s] for s, d in minus_full.items() if d.low > -margins[s]]  # no NaN is
    return ", ".join(good) or ("no" if minus_full else "")
