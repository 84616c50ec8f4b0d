"""Evaluations: what notebooks measure, as fields of a row for `Run.record`.

Everything here sees true labels, to judge with them and for nothing else.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lib import consensus
from lib.report import metrics

CLUSTERING = ("cluster_rule", "clusters_per_class")  # rules of PFC beside its features
KEEP_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the curve


def evaluate_labels(
    method: str,
    pseudo_labels: np.ndarray,
    kept: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    /,
    **fields: Any,
) -> dict[str, Any]:
    """Pseudo labels of the training tiles. pseudo_labels, labels: [N]; kept: bool [N].

    fields: further fields of the row, such as setting, params, seconds.
    """
    quality = metrics.label_quality(pseudo_labels, kept, labels, class_names)
    return {"method": method, "split": "train", "n": len(labels), "labels": quality} | fields


def evaluate_probs(
    method: str,
    probs: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    /,
    **fields: Any,
) -> dict[str, Any]:
    """Predictions, of the test set unless `split` is given. probs: [N, C]; labels: [N].

    fields: further fields of the row, such as setting, params, seconds.
    """
    scores = metrics.scores(probs, labels, class_names)
    return {"method": method, "split": "test", "n": len(labels), "scores": scores} | fields


def multi_view_rules(keep_ratio: float) -> list[dict[str, Any]]:
    """Every keep ratio of the curve and the run's own, with every tie rule and every quota.

    A dict per combination: the rules, and under "varied" the keep ratio where it is another one
    than `keep_ratio`.
    """
    ratios = sorted({*KEEP_RATIOS, keep_ratio})
    grid = product(ratios, consensus.TIE_BREAKS, consensus.QUOTAS)
    return [
        {"keep_ratio": ratio, "tie_break": tie_break, "quota": quota}
        | ({} if ratio == keep_ratio else {"varied": ["keep_ratio"]})
        for ratio, tie_break, quota in grid
    ]


def evaluate_views(
    votes: np.ndarray,
    view_probs: np.ndarray,
    prompt_labels: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    keep_ratio: float,
    among: np.ndarray,
    tiles: np.ndarray,
    seed: int,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Labels of the mean of the views, and of multi-view consensus by all of `multi_view_rules`.

    votes: [V, N]; view_probs: [N, C]; the label arrays, `among` and `tiles`: [N], see
    `consensus.multi_view_consensus`. fields: further fields of all rows.
    """
    every = np.ones(len(labels), bool)
    scores = metrics.scores(view_probs, labels, class_names)
    view_labels = view_probs.argmax(1)
    evaluations = [
        evaluate_labels("mean-of-views", view_labels, every, labels, class_names, scores=scores)
    ]
    for params in multi_view_rules(keep_ratio):
        rules = {name: value for name, value in params.items() if name != "varied"}
        kept = consensus.multi_view_consensus(
            votes, view_probs, prompt_labels, **rules, seed=seed, tiles=tiles, among=among
        )
        setting = None if "varied" in params else consensus.setting_of(rules)
        evaluations.append(
            evaluate_labels(
                "mvc", prompt_labels, kept, labels, class_names, setting=setting, params=params
            )
        )
    return [evaluation | fields for evaluation in evaluations]


def evaluate_filters(
    votes: np.ndarray,
    view_probs: np.ndarray,
    features: Mapping[str, np.ndarray],
    prompt_labels: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    keep_ratio: float,
    **choice: Any,
) -> list[dict[str, Any]]:
    """PFC alone, then both filters in both orders, in both settings, on each kind of features.

    PFC alone goes by the cluster rules of a setting. The last one, on unprojected features, is what
    the networks learn from in our setting.

    choice: seed, tiles and among of `consensus.keep_by_consensus`, where the shapes are too.
    """

    def evaluate(order: str, rules: dict[str, Any]) -> dict[str, Any]:
        kept = consensus.keep_by_consensus(
            order, votes, view_probs, features, prompt_labels, **rules, **choice
        )
        return evaluate_labels(
            order, prompt_labels, kept, labels, class_names, params=rules,
            setting=consensus.setting_of(rules), device="cpu",
        )  # fmt: skip

    each = list(product(consensus.SETTINGS.values(), features))
    alone = [
        evaluate("pfc", {name: rules[name] for name in CLUSTERING} | {"cluster_on": cluster_on})
        for rules, cluster_on in each
    ]
    both = [
        evaluate(order, rules | {"cluster_on": cluster_on, "keep_ratio": keep_ratio})
        for rules, cluster_on in each
        for order in ("pfc+mvc", "mvc+pfc")
    ]
    return alone + both


def evaluate_zero_shot(
    probs: np.ndarray, table: pd.DataFrame, class_names: Sequence[str], **fields: Any
) -> list[dict[str, Any]]:
    """Zero-shot predictions of the training tiles and of the test set, all of them kept.

    probs: [N, C] by tile number; table: of the run's tiles. fields: further fields of both rows.
    """
    evaluations = []
    for split in ("train", "test"):
        subset = table[table.split == split]
        subset_probs, labels = probs[subset.tile.values], subset.label.values
        every = np.ones(len(subset), bool)
        quality = metrics.label_quality(subset_probs.argmax(1), every, labels, class_names)
        fixed = {"split": split, "labels": quality} | fields
        evaluations.append(evaluate_probs("zero-shot", subset_probs, labels, class_names, **fixed))
    return evaluations


def evaluate_vlm_cpl(
    probs: Mapping[str, np.ndarray],
    pseudo: pd.DataFrame,
    table: pd.DataFrame,
    class_names: Sequence[str],
    *,
    seconds: Mapping[str, float],
    **fields: Any,
) -> list[dict[str, Any]]:
    """The networks of each setting on the test set, and the pseudo labels they learnt from.

    probs: setting → [N, C] by tile number; pseudo: from `consensus.pseudo_label_table`; table: of
    the run's tiles; seconds: of each setting. fields: further fields of all rows.
    """
    test = (table.split == "test").values
    label_of = table.set_index("tile").label
    fixed = {"filters": "mvc+pfc", "stain_shift": 0.0}
    evaluations = []
    for setting, rules in consensus.SETTINGS.items():
        subset = pseudo[pseudo.setting == setting]
        quality = metrics.label_quality(
            subset.prompt_label.values,
            subset.kept.values,
            label_of[subset.tile].values,
            class_names,
        )
        own = {"setting": setting, "labels": quality, "seconds": seconds[setting]}
        own |= {"params": fixed | rules} | fields
        labels = table.label.values[test]
        evaluations.append(
            evaluate_probs("vlm-cpl", probs[setting][test], labels, class_names, **own)
        )
    return evaluations


def prediction_table(table: pd.DataFrame, probs: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What each model predicts for every tile: columns tile, label, split, and for each model
    <name>_label and <name>_confidence.

    probs: name → [N, C] by tile number.
    """
    predictions = table[["tile", "label", "split"]].copy()
    for name, p in probs.items():
        predictions[f"{name}_label"], predictions[f"{name}_confidence"] = p.argmax(1), p.max(1)
    return predictions


def score_table(
    probs: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Scores of several models side by side, without recall per class. probs: name → [N, C]."""
    scores = {name: metrics.scores(p, labels, class_names) for name, p in probs.items()}
    return pd.DataFrame(scores).drop("recall").astype(float).round(3)


def accuracy_table(probs: Mapping[str, np.ndarray], table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of several predictions on training tiles and test set. probs: name → [N, C]."""
    lines = {
        name: (p.argmax(1) == table.label).groupby(table.split).mean() for name, p in probs.items()
    }
    return pd.DataFrame(lines).T[["train", "test"]].round(3)
