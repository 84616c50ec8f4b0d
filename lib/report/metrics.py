"""Scores, counts, calibration, and the quality of pseudo labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk


def scores(probs: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Macro F1, AUROC and calibration error, which counts do not give. probs: [N, C]; labels: [N].

    AUROC: mean of one against rest, null when a class is absent.
    """
    present, auroc = np.unique(labels), None
    f1 = sk.f1_score(labels, probs.argmax(1), labels=present, average="macro", zero_division=0)
    if len(present) == probs.shape[1]:
        auroc = float(sk.roc_auc_score(np.eye(len(present))[labels], probs, average="macro"))
    return {"macro_f1": float(f1), "auroc": auroc, "ece": calibration_error(probs, labels)}


def counts(correct: np.ndarray, test: pd.DataFrame) -> pd.DataFrame:
    """Tiles and correct predictions per true class and group, for `record.make`.

    correct: [N], a share where it is a mean over rounds; test: columns label and, where groups are
    known, group.
    """
    groups = test.group.astype(str) if "group" in test else ""
    each = pd.DataFrame({"label": test.label, "group": groups, "n": 1}).assign(correct=correct)
    return each.groupby(["label", "group"])[["n", "correct"]].sum().reset_index()


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017): Σ_b n_b/N · |accuracy_b − confidence_b|.

    Equal-width bins of the confidence in (0, 1]. probs: [N, C]; labels: [N].
    """
    confidence = probs.max(1)
    correct = probs.argmax(1) == labels
    idx = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(idx, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def label_quality(
    pseudo_labels: np.ndarray, kept: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """How many pseudo labels are kept and how many of those are correct, in all and per class.

    pseudo_labels, labels: [N]; kept: bool [N]. Precision is null where nothing is kept;
    `lost_classes` are the true classes of which no tile is kept with its true label.
    """
    correct = kept & (pseudo_labels == labels)
    per_class, lost = {}, []
    for label, name in enumerate(class_names):
        of_class = pseudo_labels == label
        n_correct = int((of_class & correct).sum())
        per_class[name] = {"kept": int((kept & of_class).sum()), "correct": n_correct}
        lost += [name] if (labels == label).any() and not n_correct else []
    return {
        "kept": int(kept.sum()),
        "share": float(kept.mean()),
        "precision": float(correct.sum() / kept.sum()) if kept.any() else None,
        "per_class": per_class,
        "lost_classes": lost,
    }
