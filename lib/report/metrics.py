"""Scores, intervals that respect groups, calibration, and the quality of pseudo labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk


def scores(probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro F1, AUROC, calibration error, recall and tiles per class.

    probs: [N, C]; labels: [N]. AUROC: mean of one against rest, null when a class is absent.
    Support, the tiles of each class, is what folds are pooled by.
    """
    predicted = probs.argmax(1)
    classes = np.arange(len(class_names))
    recall = sk.recall_score(labels, predicted, labels=classes, average=None, zero_division=np.nan)
    f1 = sk.f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(f1),
        "auroc": _auroc(probs, labels),
        "ece": calibration_error(probs, labels),
        "recall": {
            name: None if np.isnan(r) else float(r)
            for name, r in zip(class_names, recall, strict=True)
        },
        "support": {name: int((labels == c).sum()) for c, name in enumerate(class_names)},
    }


def _auroc(probs: np.ndarray, labels: np.ndarray) -> float | None:
    if len(np.unique(labels)) < probs.shape[1]:
        return None
    one_hot = np.eye(probs.shape[1])[labels]
    return float(sk.roc_auc_score(one_hot, probs, average="macro"))


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017): Σ_b n_b/N · |accuracy_b − confidence_b|.

    Equal-width bins of the confidence in (0, 1]. probs: [N, C]; labels: [N].
    """
    confidence = probs.max(1)
    right = probs.argmax(1) == labels
    idx = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(idx, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def grouped_interval(
    value: Callable[[np.ndarray], float],
    groups: np.ndarray,
    *,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap interval of a score over whole groups (slides, cases, source tiles).

    value: takes row numbers (with repeats) and returns the score; groups: [N].
    """
    names, inverse = np.unique(groups, return_inverse=True)
    rows_of = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    rng = np.random.default_rng(seed)
    values = [
        value(np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))]))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def label_quality(
    pseudo_labels: np.ndarray, kept: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """How many pseudo labels are kept and how many of those are right, in all and per class.

    pseudo_labels, labels: [N]; kept: bool [N]. Precision is null where nothing is kept;
    `lost_classes` are the true classes of which no tile is kept with its right label.
    """
    right = kept & (pseudo_labels == labels)
    per_class = {}
    for label, name in enumerate(class_names):
        of_class = kept & (pseudo_labels == label)
        per_class[name] = {"kept": int(of_class.sum()), "right": int((of_class & right).sum())}
    return {
        "kept": int(kept.sum()),
        "share": float(kept.mean()),
        "precision": float(right.sum() / kept.sum()) if kept.any() else None,
        "per_class": per_class,
        "lost_classes": [
            name
            for label, name in enumerate(class_names)
            if (labels == label).any() and not per_class[name]["right"]
        ],
    }
