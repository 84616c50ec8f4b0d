"""Tables over all datasets: VLM-CPL beside the others, and several VLMs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.report import statistics
from lib.report.comparison import COMPARED, OURS, SCORES, is_compared, score_frame, score_line
from lib.report.format import pooled_spread, spread

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
