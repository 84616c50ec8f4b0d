"""Histories of active learning as evaluations, and shares of classes."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.report import metrics
from lib.report.active_learning import BY_CHANCE, OURS, curve_weights
from lib.report.evaluation import evaluate_probs

if TYPE_CHECKING:
    from lib.active.loop import ActiveLearningConfig, History

PSEUDO = ("confident", "precision", "disagreeing", "filled")


def evaluate_loop(
    method: str, history: "History", test: pd.DataFrame, class_names: Sequence[str], **fields: Any
) -> list[dict[str, Any]]:
    """Judge each round on the test set, and the mean over the curve (AULC).

    Query precision: the share of all tiles queried so far that are of a class.

    test: tiles that the history predicts, in its order, with columns label and group, which the
    mean over the curve counts by; fields: further fields (training, network, device, params).
    """
    evaluations = []
    for r, notes in history.rounds.astype(object).where(history.rounds.notna(), None).iterrows():
        asked = history.queries.label[history.queries["round"] <= r]
        per_class = {name: int((asked == c).sum()) for c, name in enumerate(class_names)}
        labels = {name: notes.get(name) for name in PSEUDO} | {"per_class": per_class}
        labels["query_precision"] = float((asked >= 0).mean())
        measured = {"round": r, "budget": notes.labelled, "labels": labels}
        measured["seconds"] = notes.training_seconds + notes.selection_seconds
        judged = evaluate_probs(method, history.probs[r], test[["label"]], **fields)
        evaluations.append(judged | measured)
    correct = history.probs.argmax(2) == test.label.values
    area = metrics.counts(curve_weights(history.rounds.labelled) @ correct, test)
    curve = {"method": method, "unit": "curve", "split": "test", "n": len(test), "counts": area}
    return [*evaluations, curve | fields]


def evaluate_loops(
    trials: Sequence[Mapping[str, Any]],
    configs: "Iterable[ActiveLearningConfig]",
    histories: "Iterable[History]",
    test: pd.DataFrame,
    class_names: Sequence[str],
    *,
    params: Mapping[str, Any] | None = None,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Judge several loops; see `evaluate_loop`.

    trials: strategy and training of each loop and, in an ablation, all of its rules; params: of all
    rows.
    """
    evaluations = []
    for trial, config, history in zip(trials, configs, histories, strict=True):
        own = {**(params or {}), **trial, "query_size": config.query_size}
        own |= {"n_rounds": config.n_rounds, "objective": repr(config.objective)}
        named = {"training": trial["training"], "params": own} | fields
        evaluations += evaluate_loop(trial["strategy"], history, test, class_names, **named)
    return evaluations


def evaluate_cold_starts(
    histories: "Mapping[tuple[str, str], History]",
    none: Mapping[str, np.ndarray],
    every: Mapping[str, np.ndarray],
    test: pd.DataFrame,
    class_names: Sequence[str],
    params: Mapping[str, Any],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Judge the loops of `30_cold_start`, zero labels (round −1) and all labels.

    histories: (shift, first query) → history, "" for no shift, whose loop that begins by chance
    is not repeated; none, every: by shift the predictions [M, C] without a label and with all.
    """
    training, judged = OURS[0], test[["label"]]
    evaluations = []
    for (shift, method), history in histories.items():
        own = {"training": training, "network": "frozen"} | fields
        own["params"] = {**params} | ({"varied": ["shift"], "shift": shift} if shift else {})
        own["variant"] = None if method == BY_CHANCE else "ours"  # of VLM-CPL
        if method == "cold-start":
            zero = {"budget": 0, "round": -1}
            evaluations.append(evaluate_probs(method, none[shift], judged, **own) | zero)
        if shift or method != BY_CHANCE:
            evaluations += evaluate_loop(method, history, test, class_names, **own)
        if method == BY_CHANCE and shift:
            own["training"] = "supervised"
            evaluations.append(evaluate_probs("full-supervision", every[shift], judged, **own))
    return evaluations


def queries_per_class(
    histories: "Mapping[tuple[str, str], History]",
    pool_labels: pd.Series,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Share of each class in the pool and in what each training and strategy has queried."""
    shares = {"pool": pool_labels.value_counts(normalize=True)}
    for (training, method), history in histories.items():
        shares[f"{training}, {method}"] = history.queries.label.value_counts(normalize=True)
    classes = dict(enumerate(class_names))
    return pd.DataFrame(shares).reindex(classes).fillna(0).rename(classes).T


def queried_tiles(
    histories: "Mapping[tuple[str, str], History]", decoded: np.ndarray, n: int = 10
) -> dict[str, np.ndarray]:
    """Tiles of the first chosen and of the last query of the first six loops, for a tile sheet."""
    rows = {}
    for (training, method), history in islice(histories.items(), 6):
        queries = history.queries
        for r in sorted({1, queries["round"].max()} & set(queries["round"])):
            tiles = queries.tile[queries["round"] == r].values[:n]
            rows[f"{training}\n{method}, round {r}"] = decoded[tiles]
    return rows
