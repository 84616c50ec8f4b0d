"""The comparison of methods: from trials to rows, and from rows of the record to tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lib.consensus import SETTINGS
from lib.report import metrics
from lib.report.evaluation import evaluate_probs
from lib.report.format import difference, spread

COMPARED = {
    "zero-shot": "zero-shot",
    "mean-of-views": "mean of views",
    "ce-all": "zero-shot labels, CE",
    "gce": "zero-shot labels, generalised CE",
    "elr": "zero-shot labels, early-learning regularisation",
    "co-teaching": "zero-shot labels, Co-teaching",
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
    "balanced_accuracy": "balanced accuracy",
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


class LabelledTrial(Protocol):
    """What is read here of `lib.learning.trials.Trial`."""

    @property
    def method(self) -> str: ...
    @property
    def setting(self) -> str: ...
    @property
    def objective(self) -> Any: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def kept(self) -> np.ndarray: ...
    @property
    def source(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


class PredictedTiles(Protocol):
    """What is read here of `lib.learning.trials.Outcome`."""

    @property
    def method(self) -> str: ...
    @property
    def setting(self) -> str: ...
    @property
    def probs(self) -> np.ndarray: ...
    @property
    def trial(self) -> LabelledTrial | None: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> float | None: ...


# --- of one run ----------------------------------------------------------------------------------


def trials_table(
    trials: Sequence[LabelledTrial], truth: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """One line per trial, before it runs: its loss, which labels it learns from and how many.

    Of an ablation the setting is what is varied. The last column counts classes that none of these
    labels names.

    truth: [N]; judges the labels, and no trial but full supervision sees it.
    """
    lines = []
    for trial in trials:
        quality = metrics.label_quality(trial.labels, trial.kept, truth, class_names)
        lines.append(
            {
                "method": COMPARED[trial.method],
                "setting": _varied(trial) or trial.setting,
                "loss": re.sub(r"\w+=", "", repr(trial.objective)),  # as long as pandas shows
                "labels": trial.source,
                "tiles": quality["kept"],
                "pseudo-label precision": quality["precision"],
                "classes without": sum(not c["kept"] for c in quality["per_class"].values()),
            }
        )
    return pd.DataFrame(lines).round(3)


def _varied(trial: LabelledTrial) -> str:
    """What an ablation changes, as in "keep_ratio=0.1"; empty for a trial that is none."""
    values = {name: trial.params[name] for name in trial.params.get("varied", ())}
    return ", ".join(f"{name}={'none' if v == '' else v}" for name, v in values.items())


def evaluate(
    outcomes: Sequence[PredictedTiles],
    truth: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str],
    *,
    network: str,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Outcomes of trials as evaluations for `Run.record`.

    truth: [N], of the training tiles; test_labels: [M], of the predicted tiles; network: of what
    was trained; fields: further fields of the rows.
    """
    evaluations = []
    for outcome in outcomes:
        evaluation = evaluate_probs(
            outcome.method, outcome.probs, test_labels, class_names,
            setting=outcome.setting or None, params=dict(outcome.params), **fields,
        )  # fmt: skip
        trial = outcome.trial
        if trial is not None:
            quality = metrics.label_quality(trial.labels, trial.kept, truth, class_names)
            evaluation |= {"network": network, "labels": quality, "seconds": outcome.seconds}
            evaluation["params"]["objective"] = repr(trial.objective)
        evaluations.append(evaluation)
    return evaluations


def evaluate_shifts(
    outcomes: Mapping[str, Sequence[PredictedTiles]],
    test_labels: np.ndarray,
    class_names: Sequence[str],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Outcomes at each shift, by its name, as evaluations, marked as varied; see `evaluate`."""
    return [
        evaluate_probs(
            outcome.method, outcome.probs, test_labels, class_names,
            setting=outcome.setting or None, network=None if outcome.trial is None else "frozen",
            params={"shift": shift, "varied": ["shift"]}, **fields,
        )
        for shift, at_shift in outcomes.items()
        for outcome in at_shift
    ]  # fmt: skip


def right_frame(
    outcomes: Sequence[PredictedTiles],
    predictions: pd.DataFrame,
    test: pd.DataFrame,
    *,
    vlm: str,
    seed: int,
    network: str,
) -> pd.DataFrame:
    """Whether each method is right on each test tile, one line per method and tile.

    predictions: those of `13_high_confidence_cross_supervision`, of which zero-shot and VLM-CPL are
    added; test: columns tile, group, label. Columns: tile, group, vlm, seed, method, setting,
    network, right.
    """
    named = predictions.set_index("tile").loc[test.tile]
    classes = {(o.method, o.setting): o.probs.argmax(1) for o in outcomes}
    if network == "frozen":
        classes["zero-shot", ""] = named["zero-shot_label"].values
    classes |= {("vlm-cpl", setting): named[f"{setting}_label"].values for setting in SETTINGS}
    lines = [
        test[["tile", "group"]].assign(
            vlm=vlm, seed=seed, method=method, setting=setting,
            network="" if method in UNTRAINED else network, right=predicted == test.label.values,
        )
        for (method, setting), predicted in classes.items()
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True)


# --- tables --------------------------------------------------------------------------------------


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
    known = row["method"] in COMPARED and row["training"] is None  # not active learning
    return known and row["split"] == "test" and "varied" not in row["params"]


def _score_line(row: Mapping[str, Any]) -> dict[str, Any]:
    kind = {key: row[key] or "" for key in ("setting", "network")}
    return {key: row[key] for key in ("dataset", "method", "seed")} | kind | row["scores"]


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
    lines = []
    for (method, setting, network), of_method in frame.groupby(columns, sort=False):
        line = {"method": COMPARED[method], "setting": setting, "network": network}
        line |= {title: spread(of_method[name]) for name, title in SCORES.items()}
        if groups is not None:
            line["ours is better by"] = _difference(groups, method, setting, network)
        known = PAPER.get((of_method.dataset.iloc[0], method, setting))
        line |= {"paper": f"{known:.3f}" if known else ""}
        lines.append(line | {"seeds": str(of_method.seed.nunique())})
    return pd.DataFrame(lines)


def _difference(groups: pd.DataFrame, method: str, setting: str, network: str) -> str:
    """Accuracy of VLM-CPL (ours) minus that of a method, with the p of the paired test."""
    if (method, setting) == ("vlm-cpl", "ours"):
        return ""
    mine = _by_group(groups, "vlm-cpl", "ours", network or "frozen")
    return difference(mine, _by_group(groups, method, setting, network))


def _by_group(groups: pd.DataFrame, method: str, setting: str, network: str) -> pd.DataFrame:
    wanted = groups.method.eq(method) & groups.setting.eq(setting) & groups.network.eq(network)
    return groups[wanted].set_index(["seed", "group"])[["n", "right"]]


def summary_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """VLM-CPL between zero-shot and full supervision, heads on frozen features, means over seeds.

    One line per dataset and score (accuracy, balanced_accuracy). Columns: dataset, score,
    zero-shot, other and other_name (the best method without our filters), published, ours, full,
    seeds. Seeds and datasets without the whole comparison are left out.
    """
    needed = {*WITHOUT_FILTER, "zero-shot", "vlm-cpl", "full-supervision"}
    frame = score_frame(rows)
    frame = frame[frame.network != "fine-tune"]
    lines = []
    for dataset, of_dataset in frame.groupby("dataset"):
        complete = of_dataset.groupby("seed").method.agg(lambda methods: needed <= set(methods))
        of_dataset = of_dataset[of_dataset.seed.map(complete)]
        for score in ("accuracy", "balanced_accuracy") if len(of_dataset) else ():
            mean = of_dataset.groupby(["method", "setting"])[score].mean()
            best = mean[[key for key in mean.index if key[0] in WITHOUT_FILTER]].idxmax()
            line = {"dataset": dataset, "score": score, "zero-shot": mean["zero-shot", ""]}
            line |= {"other": mean[best], "other_name": COMPARED[best[0]]}
            line |= {"published": mean["vlm-cpl", "published filters"]}
            line |= {"ours": mean["vlm-cpl", "ours"], "full": mean["full-supervision", ""]}
            lines.append(line | {"seeds": of_dataset.seed.nunique()})
    return pd.DataFrame(lines)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`summary_frame` as it is printed, two lines per dataset."""
    return pd.DataFrame(
        {
            "dataset": line["dataset"],
            "score": SCORES[line["score"]],
            "zero-shot": f"{line['zero-shot']:.3f}",
            "best other method": f"{line['other']:.3f} ({line['other_name']})",
            "VLM-CPL, published filters": f"{line['published']:.3f}",
            "VLM-CPL, ours": f"{line['ours']:.3f}",
            "full supervision": f"{line['full']:.3f}",
            "seeds": str(line["seeds"]),
        }
        for line in summary_frame(rows).to_dict("records")
    )


def of_own_vlm(
    rows: Sequence[Mapping[str, Any]], vlms: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Rows of the VLM that is named for their dataset; others are for `vlm_comparison`.

    vlms: dataset → VLM, such as the one that the dataset's parameters name.
    """
    return [row for row in rows if row["vlm"] == vlms[row["dataset"]]]


def vlm_comparison(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Of datasets that were run with more than one VLM: each of them, and ensembles.

    Over the seeds that all have: zero-shot on the test set, what our setting keeps, and VLM-CPL
    on the test set, heads on frozen features; accuracy and balanced accuracy.
    """
    frame = pd.DataFrame([line for row in rows if (line := _vlm_line(row))])
    if frame.empty:
        return frame
    frame = frame.groupby(["dataset", "vlm", "seed"], as_index=False).first()
    lines = []
    for dataset, of_dataset in frame.groupby("dataset"):
        n_vlms = of_dataset.groupby("seed").vlm.nunique()
        common = n_vlms[n_vlms == of_dataset.vlm.nunique()].index
        if n_vlms.max() > 1:
            for vlm, of_vlm in of_dataset[of_dataset.seed.isin(common)].groupby("vlm"):
                lines.append({"dataset": dataset, "VLM": vlm} | _vlm_cells(of_vlm))
    return pd.DataFrame(lines)


def _vlm_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Zero-shot and VLM-CPL in our setting on the test set; empty for other rows."""
    ours = (row["method"], row["setting"], row["network"]) == ("vlm-cpl", "ours", "frozen")
    if not (row["method"] == "zero-shot" or ours) or not _is_compared(row):
        return {}
    measured = {name: row["scores"][name] for name in ("accuracy", "balanced_accuracy")}
    if ours:
        measured |= {name: row["labels"][name] for name in ("kept", "precision")}
    line = {name: row[name] for name in ("dataset", "vlm", "seed")}
    return line | {f"{row['method']} {name}": value for name, value in measured.items()}


def _vlm_cells(frame: pd.DataFrame) -> dict[str, str]:
    return {
        "zero-shot": spread(frame["zero-shot accuracy"]),
        "zero-shot, balanced accuracy": spread(frame["zero-shot balanced_accuracy"]),
        "kept": f"{frame['vlm-cpl kept'].mean():.0f}",
        "pseudo-label precision": spread(frame["vlm-cpl precision"]),
        "VLM-CPL": spread(frame["vlm-cpl accuracy"]),
        "VLM-CPL, balanced accuracy": spread(frame["vlm-cpl balanced_accuracy"]),
        "seeds": str(len(frame)),
    }
