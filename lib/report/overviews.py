"""Tables over all datasets: VLM-CPL beside the others, several VLMs, and where UniSAL is behind."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.report import active_learning, statistics
from lib.report.active_learning import PUBLISHED, STRATEGIES
from lib.report.comparison import COMPARED, OURS, SCORES, is_compared, score_frame, score_line
from lib.report.format import differences, pooled_spread, spread

# Methods without our filters; a run is complete with the first of these.
NEEDED = "mean-of-views transductive ce-all gce elr co-teaching confident-learning".split()
WITHOUT_FILTER = (
    *NEEDED,
    *("centred", "sinkhorn", "prior-em", "stata", "source-only", "top-confidence"),
)
ON_TEST = "chosen on the test set"


def summary_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """VLM-CPL between zero-shot and full supervision, heads on frozen features, pooled over folds.

    One line per dataset and score (accuracy, balanced_accuracy). Columns: dataset, score,
    zero-shot, other and other_name (the best method without our filters that every run has, chosen
    on the test set), published, ours, full, folds, seeds. Runs and datasets without the whole
    comparison are left out.
    """
    needed = {*NEEDED, "zero-shot", "vlm-cpl", "full-supervision"}
    frame = score_frame(rows)
    frame = frame[frame.network != "fine-tune"]
    lines = []
    for dataset, of_dataset in frame.groupby("dataset"):
        methods = of_dataset.groupby(["fold", "seed"]).method
        complete = methods.transform(lambda names: needed <= set(names)).astype(bool)
        of_dataset = of_dataset[complete]
        kinds = dict(list(of_dataset.groupby(["method", "setting"])))
        n_runs = len(of_dataset[["fold", "seed"]].drop_duplicates())
        for score in statistics.SCORES if n_runs else ():
            pooled = {kind: statistics.pooled_rows(df, score) for kind, df in kinds.items()}
            others = {kind[0]: value for kind, value in pooled.items()
                      if kind[0] in WITHOUT_FILTER and len(kinds[kind]) == n_runs}  # fmt: skip
            best = max(others, key=lambda method: others[method])
            line = {"dataset": dataset, "score": score, "zero-shot": pooled["zero-shot", ""]}
            line |= {"other": others[best], "other_name": COMPARED[best]}
            line |= {"published": pooled["vlm-cpl", "published filters"], "ours": pooled[OURS]}
            line |= {"full": pooled["full-supervision", ""]}
            lines.append(line | statistics.runs(of_dataset))
    return pd.DataFrame(lines)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`summary_frame` as it is printed, two lines per dataset."""
    return pd.DataFrame(
        {
            "dataset": line["dataset"],
            "score": SCORES[line["score"]],
            "zero-shot": f"{line['zero-shot']:.3f}",
            f"best other method, {ON_TEST}": f"{line['other']:.3f} ({line['other_name']})",
            "VLM-CPL, published filters": f"{line['published']:.3f}",
            "VLM-CPL, ours": f"{line['ours']:.3f}",
            "full supervision": f"{line['full']:.3f}",
            "folds": line["folds"],
            "seeds": line["seeds"],
        }
        for line in summary_frame(rows).to_dict("records")
    )


def vlm_comparison(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Of datasets that were run with more than one VLM: each of them, and ensembles.

    Over the runs (fold and seed) that all have: zero-shot on the test set, what our setting keeps,
    and VLM-CPL on the test set, heads on frozen features; accuracy and balanced accuracy.
    """
    kinds = {("zero-shot", None, None), (*OURS, "frozen")}
    chosen = [row for row in rows if is_compared(row)
              and (row["method"], row["setting"], row["network"]) in kinds]  # fmt: skip
    frame = pd.DataFrame(
        score_line(row) | {"vlm": row["vlm"]}
        | {name: (row["labels"] or {}).get(name) for name in ("kept", "precision")}
        for row in chosen
    )  # fmt: skip
    lines = []
    for dataset, of_dataset in frame.groupby("dataset") if len(frame) else ():
        n_vlms = of_dataset.groupby(["fold", "seed"]).vlm.transform("nunique")
        common = of_dataset[n_vlms == of_dataset.vlm.nunique()]
        if n_vlms.max() > 1:
            for vlm, of_vlm in common.groupby("vlm"):
                lines.append({"dataset": dataset, "VLM": vlm} | _vlm_cells(of_vlm))
    return pd.DataFrame(lines)


def _vlm_cells(frame: pd.DataFrame) -> dict[str, str]:
    zero_shot, ours = (frame[frame.method == method] for method in ("zero-shot", "vlm-cpl"))
    return {
        "zero-shot": pooled_spread(zero_shot),
        "zero-shot, balanced accuracy": pooled_spread(zero_shot, "balanced_accuracy"),
        "kept": f"{ours.kept.mean():.0f}",
        "pseudo-label precision": spread(ours.precision.astype(float)),
        "VLM-CPL": pooled_spread(ours),
        "VLM-CPL, balanced accuracy": pooled_spread(ours, "balanced_accuracy"),
    } | statistics.runs(ours)


def equal_training_table(rounds: Mapping[str, pd.DataFrame | None]) -> pd.DataFrame:
    """By how much UniSAL in our setting has a larger AULC than strategies with its training.

    rounds: dataset → `active_learning.groups_of_runs` of one VLM, or None. A line per strategy: the
    paired difference in each dataset with such strategies, over the folds and seeds that both have,
    and its mean over the datasets. Heads on frozen features; intervals of 95 %.
    """
    training, ours = active_learning.OURS
    counted = {}
    for dataset, groups in rounds.items():
        if groups is None:
            continue
        heads = groups[(groups.network == "frozen") & (groups.training == training)]
        if ours in set(heads.method):
            counted[dataset] = statistics.grouped(heads, ["method"])
    lines = []
    for method, title in STRATEGIES.items():
        drawn = {
            dataset: statistics.drawn_differences(of_dataset, (ours,), (method,), "accuracy")
            for dataset, of_dataset in counted.items()
        }
        drawn = {dataset: values for dataset, values in drawn.items() if len(values)}
        if method == ours or not drawn:
            continue
        cells = {dataset: statistics.mean_difference([values]) for dataset, values in drawn.items()}
        cells["mean"] = statistics.mean_difference(list(drawn.values()))
        texts = dict(zip(cells, differences(list(cells.values())), strict=True))
        seeds = min(
            statistics.fewest_seeds(groups, groups.tested((ours,)) & groups.tested((method,)))
            for groups in map(counted.__getitem__, drawn)
        )
        lines.append({"strategy": title} | texts | {"seeds": str(seeds)})
    table = pd.DataFrame(lines)
    compared = [dataset for dataset in counted if dataset in table]
    return table.reindex(columns=["strategy", *compared, "mean", "seeds"]).fillna("")


def shortfall_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What UniSAL leaves to be wished for, a line per dataset, training and selection.

    frame: `active_learning.rounds_frame`. Heads on frozen features, pooled over folds: strategies
    with a larger AULC under the same training, over the folds and seeds that both have; the scores
    of the last round as a share of those with all labels; and which share of the queries was filled
    by entropy because too few tiles were left on which the networks disagree. Selections: as
    published, and as in `active_learning.OURS`. From rows alone.
    """
    heads = frame[(frame.network == "frozen") & (frame.varied == ())]
    lines = []
    names = [PUBLISHED[1], active_learning.OURS[1]]
    chosen = heads[heads.method.isin(names)].groupby(["dataset", "training", "method"])
    for (dataset, training, method), unisal in chosen:
        of_dataset = heads[heads.dataset == dataset]
        full = of_dataset[of_dataset.method == "full-supervision"]
        line = {"dataset": dataset, "training": training, "strategy": STRATEGIES[method]}
        line["larger AULC"] = _above(of_dataset[of_dataset.training == training], unisal)
        last = unisal[unisal["round"] == unisal["round"].max()]
        for score in statistics.SCORES if len(full) else ():
            share = statistics.pooled_rows(last, score) / statistics.pooled_rows(full, score)
            line[f"{SCORES[score]} at the end, of all labels"] = f"{share:.1%}"
        queried = unisal.budget.groupby([unisal.fold, unisal.seed]).agg(lambda b: b.max() - b.min())
        filled = unisal.filled.astype(float).sum() / max(queried.sum(), 1)
        lines.append(line | {"filled by entropy": f"{filled:.0%}"} | statistics.runs(unisal))
    return pd.DataFrame(lines).fillna("")


def _above(curves: pd.DataFrame, unisal: pd.DataFrame) -> str:
    """Strategies with a larger AULC than UniSAL and by how much; its variants are left out."""
    larger = {}
    for method, curve in active_learning.of_rounds(curves).groupby("method"):
        if not str(method).startswith("unisal"):
            mine, other = (
                active_learning.curve_means(a[statistics.same_runs(a, b)])
                for a, b in ((unisal, curve), (curve, unisal))
            )
            if len(mine):
                more = statistics.pooled_rows(other) - statistics.pooled_rows(mine)
                larger[STRATEGIES.get(str(method), str(method))] = more
    above = sorted((name for name in larger if larger[name] > 0), key=lambda n: -larger[n])
    return ", ".join(f"{name} ({larger[name]:+.3f})" for name in above) or "none"
