"""Evaluations: what notebooks measure, as fields of a row for `Run.record`.

Everything here sees true labels, to judge with them and for nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lib import consensus, record
from lib.alarm import Alarm
from lib.consensus import VARIANTS, FilterInputs, FilterRules
from lib.report import metrics

LABELLING = ("label_rule", "cluster_rule", "clusters_per_class")  # of PFC beside its features
MULTI_VIEW = ("label_rule", "tie_break", "quota")
KEEP_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the curve


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
    method: str, probs: np.ndarray, test: pd.DataFrame, /, **fields: Any
) -> dict[str, Any]:
    """Predictions, of the test set unless `split` is given.

    probs: [N, C]; test: columns label and, where groups are known, group; fields: further fields of
    the evaluation, such as variant, params, seconds.
    """
    labels = test.label.values
    counts = metrics.counts(probs.argmax(1) == labels, test)
    fixed = {"method": method, "split": "test", "n": len(labels)}
    return fixed | {"scores": metrics.scores(probs, labels), "counts": counts} | fields


def multi_view_rules(keep_ratio: float) -> list[dict[str, Any]]:
    """Every keep ratio of the curve and the run's own, with every tie rule and every quota.

    Prompt labels with all of them, labels by lift with our own. A dict per combination: the rules,
    and under "varied" the keep ratio where it is another one than `keep_ratio`.
    """
    ours = tuple(getattr(VARIANTS["ours"], name) for name in MULTI_VIEW)
    of_prompts = product(("prompt",), consensus.TIE_BREAKS, consensus.QUOTAS)
    return [
        {"keep_ratio": ratio}
        | dict(zip(MULTI_VIEW, rules, strict=True))
        | ({} if ratio == keep_ratio else {"varied": ["keep_ratio"]})
        for ratio, rules in product(sorted({*KEEP_RATIOS, keep_ratio}), [*of_prompts, ours])
    ]


def evaluate_views(
    inputs: Mapping[int, FilterInputs],
    kept_by_views: pd.DataFrame,
    table: pd.DataFrame,
    class_names: Sequence[str],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Labels of the mean of the views, and of multi-view consensus by all of `multi_view_rules`.

    inputs: fold → of its training tiles; kept_by_views: of the variants, see `keep_by_views`;
    table: of all N tiles. fields: further fields of all rows.
    """
    evaluations = []
    for fold, of_fold in inputs.items():
        labels, view_probs = table.label.values[of_fold.tiles], of_fold.view_probs
        every, view_labels = np.ones(len(labels), bool), view_probs.argmax(1)
        judged = evaluate_probs("mean-of-views", view_probs, table.iloc[of_fold.tiles], fold=fold)
        views = evaluate_labels("mean-of-views", view_labels, every, labels, class_names)
        evaluations.append(judged | views)
        saved = kept_by_views[kept_by_views.fold == fold]
        for params in multi_view_rules(next(iter(inputs.values())).keep_ratio):
            rules = FilterRules(**{name: params[name] for name in MULTI_VIEW})
            own = replace(of_fold, keep_ratio=params["keep_ratio"])
            found = consensus.label_tiles(own, rules)
            variant = None if "varied" in params else consensus.variant_of(params)
            kept = (
                saved[variant].values
                if variant
                else consensus.multi_view_consensus(own, rules, found)
            )
            given = {"fold": fold, "variant": variant, "params": params}
            evaluations.append(evaluate_labels("mvc", found, kept, labels, class_names, **given))
    return [evaluation | fields for evaluation in evaluations]


def keep_by_views(inputs: Mapping[int, FilterInputs]) -> pd.DataFrame:
    """What multi-view consensus keeps of the training tiles of each fold, in each variant.

    Columns: fold, tile, and for each variant a bool. inputs: fold → of its training tiles.
    """
    tables = []
    for fold, of_fold in inputs.items():
        kept = {
            name: consensus.multi_view_consensus(of_fold, rules) for name, rules in VARIANTS.items()
        }
        tables.append(pd.DataFrame({"fold": fold, "tile": of_fold.tiles} | kept))
    return pd.concat(tables, ignore_index=True)


def fold_tiles(table: pd.DataFrame) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each fold its number, the training tiles and the tiles of the test set.

    table: of all tiles, ordered by tile number, with the column fold.
    """
    for fold in np.unique(table.fold[table.fold >= 0]).tolist():
        tested = (table.fold == fold).values
        yield fold, np.flatnonzero(~tested), np.flatnonzero(tested)


def evaluate_filters(
    inputs: FilterInputs, pseudo: pd.DataFrame, labels: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """PFC alone, then both filters in both orders, in both variants, on each kind of features.

    PFC alone goes by the cluster rules of a variant. The last one, on backbone features, is what
    the networks learn from in ours. pseudo: of `12_prompt_feature_consensus`, with what the views
    keep; labels: [N], true.
    """

    def evaluate(order: str, rules: FilterRules, names: Sequence[str], **more: Any) -> dict:
        by_views = pseudo.kept_by_views[pseudo.setting == consensus.variant_of(_ranking(rules))]
        table = consensus.filter_tiles(inputs, rules, order, kept_by_views=by_views.values)
        params = {name: getattr(rules, name) for name in names} | more
        return evaluate_labels(
            order,
            table.training_label.values,
            table.kept.values,
            labels,
            class_names,
            params=params,
            variant=consensus.variant_of(params),
            device="cpu",
        )

    each = [
        replace(rules, cluster_on=features)
        for rules, features in product(VARIANTS.values(), consensus.CLUSTER_FEATURES)
    ]
    alone = [evaluate("pfc", rules, (*LABELLING, "cluster_on")) for rules in each]
    both = [
        evaluate(order, rules, tuple(asdict(rules)), keep_ratio=inputs.keep_ratio)
        for rules in each
        for order in ("pfc+mvc", "mvc+pfc")
    ]
    return alone + both


def _ranking(rules: FilterRules) -> dict[str, str]:
    return {name: getattr(rules, name) for name in MULTI_VIEW}


def evaluate_zero_shot(
    probs: np.ndarray, table: pd.DataFrame, class_names: Sequence[str], **fields: Any
) -> list[dict[str, Any]]:
    """Zero-shot predictions of training tiles and test set of each fold, all of them kept.

    probs: [N, C] by tile number; table: of the run's tiles. fields: further fields of all rows.
    """
    evaluations = []
    for fold, train, test in fold_tiles(table):
        for split, tiles in (("train", train), ("test", test)):
            split_probs, labels = probs[tiles], table.label.values[tiles]
            every = np.ones(len(tiles), bool)
            quality = metrics.label_quality(split_probs.argmax(1), every, labels, class_names)
            fixed = {"fold": fold, "split": split, "labels": quality} | fields
            judged = table.iloc[tiles]
            evaluations.append(evaluate_probs("zero-shot", split_probs, judged, **fixed))
    return evaluations


def evaluate_vlm_cpl(
    probs: Mapping[str, np.ndarray],
    pseudo: pd.DataFrame,
    train: pd.DataFrame,
    test: pd.DataFrame,
    class_names: Sequence[str],
    *,
    seconds: Mapping[str, float],
    alarms: Mapping[str, Sequence[Alarm]],
    **fields: Any,
) -> list[dict[str, Any]]:
    """The networks of each setting on the test set, and the pseudo labels they learnt from.

    probs: setting → [N, C] by tile number; pseudo: of `12_prompt_feature_consensus`; train,
    test: columns tile and label; seconds, alarms: of each setting. fields: further fields of all
    rows.
    """
    label_of = train.set_index("tile").label
    fixed = {"filters": "mvc+pfc"}
    evaluations = []
    for setting, rules in VARIANTS.items():
        subset = pseudo[pseudo.setting == setting]
        quality = metrics.label_quality(
            subset.label.values, subset.kept.values, label_of[subset.tile].values, class_names
        )
        quality |= {"alarms": sorted({alarm.name for alarm in alarms[setting]})}
        own = {"variant": setting, "labels": quality, "seconds": seconds[setting]}
        own |= {"params": fixed | asdict(rules)} | fields
        evaluations.append(evaluate_probs("vlm-cpl", probs[setting][test.tile.values], test, **own))
    return evaluations


def prediction_table(
    table: pd.DataFrame, fold: int, probs: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """What each model predicts for every tile: columns tile, label, split ("train" or "test" in
    this fold), and for each model <name>_label and <name>_confidence.

    table: of all tiles; probs: name → [N, C] by tile number.
    """
    predictions = table[["tile", "label"]].copy()
    predictions["split"] = np.where(table.fold == fold, "test", "train")
    for name, p in probs.items():
        predictions[f"{name}_label"], predictions[f"{name}_confidence"] = p.argmax(1), p.max(1)
    return predictions


def score_table(probs: Mapping[str, np.ndarray], test: pd.DataFrame) -> pd.DataFrame:
    """Scores of several models side by side. probs: name → [N, C]; test: see `evaluate_probs`."""
    facts = record.make([evaluate_probs(name, p, test) for name, p in probs.items()]).facts
    names = ["accuracy", "balanced_accuracy", *record.SCORES]
    return facts.set_index("method")[names].T.astype(float).round(3).rename_axis(columns=None)


def accuracy_table(probs: Mapping[str, np.ndarray], table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of several predictions: of all tiles, and the range over the folds' test sets.

    probs: name → [N, C] by tile number; table: of all tiles.
    """
    lines = {}
    for name, p in probs.items():
        correct = p.argmax(1) == table.label.values
        of_folds = [correct[test].mean() for _, _, test in fold_tiles(table)]
        line = {"all tiles": correct.mean(), "lowest fold": min(of_folds)}
        lines[name] = line | {"highest fold": max(of_folds)}
    return pd.DataFrame(lines).T.round(3)
