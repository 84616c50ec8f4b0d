"""The comparison of methods: from trials to rows, and from rows of the record to tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.consensus import VARIANTS
from lib.report import metrics, statistics
from lib.report.evaluation import evaluate_probs
from lib.report.format import differences, with_interval
from lib.report.statistics import Groups, Kind

if TYPE_CHECKING:
    from lib.learning.trials import Outcome, Trial

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
OURS = ("vlm-cpl", "ours")
KIND = ["method", "setting", "network"]
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
}
SCORE_COLUMNS = [
    *("dataset", "fold", "seed", "method", "setting", "network", "n"),
    *SCORES,
    *("recall", "support"),
]
GROUP_COLUMNS = [
    *("vlm", "seed", "fold", "method", "setting", "network", "label", "group"),
    *("n", "right"),
]
# Accuracies that VLM-CPL's abstract gives (arXiv 2403.15836 v1), with the paper's VLM and split.
PAPER = {
    ("hph", "vlm-cpl", "published filters"): 0.871,
    ("lc25000", "vlm-cpl", "published filters"): 0.951,
    ("lc25k", "vlm-cpl", "published filters"): 0.951,
}


# --- of one run ----------------------------------------------------------------------------------


def trials_table(
    trials: "Sequence[Trial]", truth: np.ndarray, class_names: Sequence[str]
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


def _varied(trial: "Trial") -> str:
    """What an ablation changes, as in "keep_ratio=0.1"; empty for a trial that is none."""
    values = {name: trial.params[name] for name in trial.params.get("varied", ())}
    return ", ".join(f"{name}={'none' if v == '' else v}" for name, v in values.items())


def evaluate(
    outcomes: "Sequence[Outcome]",
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
            setting=outcome.setting or None, params=dict(outcome.params),
            network=None if outcome.method in UNTRAINED else network, **fields,
        )  # fmt: skip
        trial = outcome.trial
        if trial is not None:
            quality = metrics.label_quality(trial.labels, trial.kept, truth, class_names)
            if outcome.alarms is not None:
                quality |= {"alarms": sorted({alarm.name for alarm in outcome.alarms})}
            evaluation |= {"labels": quality, "seconds": outcome.seconds}
            evaluation["params"]["objective"] = repr(trial.objective)
        evaluations.append(evaluation)
    return evaluations


def evaluate_varied(
    name: str,
    outcomes: "Mapping[Any, Sequence[Outcome]]",
    truth: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Outcomes at each value of a parameter, as evaluations in which it is varied; see `evaluate`.

    name: of the parameter, such as "shift"; outcomes: by its value.
    """
    evaluations = []
    for value, of_value in outcomes.items():
        judged = evaluate(of_value, truth, test_labels, class_names, network="frozen", **fields)
        for evaluation in judged:
            evaluation["params"] |= {name: value, "varied": [name]}
        evaluations += judged
    return evaluations


def right_frame(
    outcomes: "Sequence[Outcome]",
    predictions: pd.DataFrame,
    test: pd.DataFrame,
    *,
    vlm: str,
    seed: int,
    fold: int,
    network: str,
) -> pd.DataFrame:
    """Whether each method is right on each test tile, one line per method and tile.

    predictions: those of `13_high_confidence_cross_supervision`, of which zero-shot and VLM-CPL are
    added; test: columns tile, group, label. Columns: tile, group, label, vlm, seed, fold, method,
    setting, network, right.
    """
    named = predictions.set_index("tile").loc[test.tile]
    classes = {(o.method, o.setting): o.probs.argmax(1) for o in outcomes}
    if network == "frozen":
        classes["zero-shot", ""] = named["zero-shot_label"].values
    classes |= {("vlm-cpl", setting): named[f"{setting}_label"].values for setting in VARIANTS}
    lines = [
        test[["tile", "group", "label"]].assign(
            vlm=vlm, seed=seed, fold=fold, method=method, setting=setting,
            network="" if method in UNTRAINED else network, right=predicted == test.label.values,
        )
        for (method, setting), predicted in classes.items()
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True)


# --- tables --------------------------------------------------------------------------------------


def groups_frame(predictions: pd.DataFrame) -> pd.DataFrame:
    """Tiles and right predictions per group and true class, for `statistics.grouped`.

    predictions: `GROUP_COLUMNS` but n, one line per tile. Returns the same columns without
    repeats, `right` being counted, and n, the tiles.
    """
    return predictions.groupby(GROUP_COLUMNS[:-2]).right.agg(n="size", right="sum").reset_index()


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """`groups_frame` of every fold and seed below a folder of runs; empty without a comparison."""
    files = sorted(runs.glob("seed*/fold*/comparison*.parquet"))
    if not files:
        return pd.DataFrame(columns=GROUP_COLUMNS)
    return groups_frame(pd.concat(map(pd.read_parquet, files)))


def groups_of_record(file: Path) -> pd.DataFrame:
    """`groups_frame` as published; empty if the record holds no comparison."""
    return pd.read_parquet(file) if file.is_file() else pd.DataFrame(columns=GROUP_COLUMNS)


def score_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the comparison in its order, a line per run: `SCORE_COLUMNS`.

    What needs no network and heads on frozen features come before whole networks.
    """
    methods, settings = list(COMPARED), ["", *VARIANTS]
    lines = sorted(
        (score_line(row) for row in rows if is_compared(row)),
        key=lambda line: (
            line["network"] == "fine-tune",
            methods.index(line["method"]),
            settings.index(line["setting"]),
            line["seed"],
            line["fold"],
        ),
    )
    return pd.DataFrame(lines, columns=SCORE_COLUMNS)


def is_compared(row: Mapping[str, Any]) -> bool:
    """Whether a row belongs to the comparison, not to an ablation of it."""
    known = row["method"] in COMPARED and row["training"] is None  # not active learning
    return known and row["split"] == "test" and "varied" not in row["params"]


def score_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the record as a line of `score_frame`."""
    kind = {key: row[key] or "" for key in ("setting", "network")}
    fields = {key: row[key] for key in ("dataset", "method", "seed", "n")}
    return fields | {"fold": statistics.fold_of(row)} | kind | row["scores"]


def scores_table(
    rows: Sequence[Mapping[str, Any]], groups: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Scores on the test set, one line per method.

    Accuracy and balanced accuracy are pooled over folds, with their intervals where groups are
    known; the others are means over runs. groups: `groups_frame` of the same runs; with it a table
    says by how much VLM-CPL in our setting is better than each other method of the same network on
    the same tiles (p corrected by Holm over the lines), and in which scores a line is not inferior
    to full supervision (`statistics.non_inferior`). The column paper is the paper's accuracy, with
    its own VLM and split, where it is known.
    """
    frame = score_frame(rows)
    counted = None if groups is None else statistics.grouped(groups, KIND)
    lines, kinds = [], []
    for kind, of_method in frame.groupby(KIND, sort=False):
        method, setting, network = map(str, kind)
        line = {"method": COMPARED[method], "setting": setting, "network": network}
        line |= _scores(of_method, counted, (method, setting, network))
        known = PAPER.get((of_method.dataset.iloc[0], method, setting))
        lines.append(line | {"paper": f"{known:.3f}" if known else ""} | statistics.runs(of_method))
        kinds.append((method, setting, network))
    table = pd.DataFrame(lines)
    if counted is None or table.empty:
        return table
    place = table.columns.get_loc("paper")
    for name, cells in reversed(_comparisons(counted, kinds).items()):
        table.insert(place, name, cells)
    return table


def _scores(of_method: pd.DataFrame, groups: Groups | None, kind: Kind) -> dict[str, str]:
    known = statistics.estimates(groups, kind) if groups else {}
    cells = {}
    for name, title in SCORES.items():
        if name in known:
            cells[title] = with_interval(known[name])
        elif name in statistics.SCORES:
            cells[title] = f"{statistics.pooled_rows(of_method, name):.3f}"
        else:
            cells[title] = f"{of_method[name].astype(float).mean():.3f}"
    return cells


def _comparisons(groups: Groups, kinds: Sequence[Kind]) -> dict[str, list[str]]:
    """Columns of `scores_table` that compare two methods; kinds: method, setting and network."""
    better = [
        {} if kind[:2] == OURS else statistics.differences(groups, _beside(OURS, kind), kind)
        for kind in kinds
    ]
    return {
        "ours is better by": differences([line.get("accuracy") for line in better]),
        "ours is better by, balanced accuracy": differences(
            [line.get("balanced_accuracy") for line in better]
        ),
        "not inferior to full supervision": [_non_inferior(groups, kind) for kind in kinds],
    }


def _beside(method: tuple[str, str], kind: Kind) -> Kind:
    """A method with the network of another, or with heads on frozen features if that has none."""
    return (*method, kind[2] or "frozen")


def _non_inferior(groups: Groups, kind: Kind) -> str:
    """Scores in which a method is not inferior to full supervision; empty where not comparable."""
    full = _beside(("full-supervision", ""), kind)
    minus_full = {} if kind == full else statistics.differences(groups, kind, full)
    good = [SCORES[score] for score, difference in minus_full.items()
            if statistics.non_inferior(difference, score)]  # fmt: skip
    return ", ".join(good) or ("no" if minus_full else "")


def of_own_vlm(
    rows: Sequence[Mapping[str, Any]], vlms: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Rows of the VLM that is named for their dataset; others are for `overviews`.

    vlms: dataset → VLM, such as the one that the dataset's parameters name.
    """
    return [row for row in rows if row["vlm"] == vlms[row["dataset"]]]
