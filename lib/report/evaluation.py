"""Evaluations: what notebooks measure, as fields of a row for `Run.record`.

Everything here sees true labels, to judge with them and for nothing else. `fields` are further
fields of all rows, such as variant, params, seconds, device.
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
    """Judge pseudo labels of the training tiles. pseudo_labels, labels: [N]; kept: bool [N]."""
    quality = metrics.label_quality(pseudo_labels, kept, labels, class_names)
    return {"method": method, "split": "train", "n": len(labels), "labels": quality} | fields


def evaluate_probs(
    method: str, probs: np.ndarray, test: pd.DataFrame, /, **fields: Any
) -> dict[str, Any]:
    """Judge predictions, of the test set unless `split` is given.

    probs: [N, C]; test: columns label and, where groups are known, group.
    """
    labels = test.label.values
    counts = metrics.counts(probs.argmax(1) == labels, test)
    fixed = {"method": method, "split": "test", "n": len(labels)}
    return fixed | {"scores": metrics.scores(probs, labels), "counts": counts} | fields


def fold_tiles(table: pd.DataFrame) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each fold its number, the training tiles and the tiles of the test set.

    table: of all tiles, ordered by tile number, with the column fold.
    """
    for fold in np.unique(table.fold[table.fold >= 0]).tolist():
        tested = (table.fold == fold).values
        yield fold, np.flatnonzero(~tested), np.flatnonzero(tested)


def evaluate_zero_shot(
    probs: np.ndarray, table: pd.DataFrame, class_names: Sequence[str], **fields: Any
) -> list[dict[str, Any]]:
    """Judge zero-shot predictions of training tiles and test set of each fold, all of them kept.

    probs: [N, C] by tile number; table: of the run's tiles.
    """
    evaluations = []
    for fold, train, test in fold_tiles(table):
        for split, tiles in (("train", train), ("test", test)):
            judged, every = table.iloc[tiles], np.ones(len(tiles), bool)
            quality = metrics.label_quality(
                probs[tiles].argmax(1), every, judged.label.values, class_names
            )
            fixed = {"fold": fold, "split": split, "labels": quality} | fields
            evaluations.append(evaluate_probs("zero-shot", probs[tiles], judged, **fixed))
    return evaluations


def keep_by_views(inputs: Mapping[int, FilterInputs]) -> pd.DataFrame:
    """Keep training tiles of each fold by multi-view consensus, in each variant.

    Columns: fold, tile, and for each variant a bool. inputs: fold → of its training tiles.
    """
    tables = []
    for fold, of_fold in inputs.items():
        kept = {
            name: consensus.multi_view_consensus(of_fold, rules) for name, rules in VARIANTS.items()
        }
        tables.append(pd.DataFrame({"fold": fold, "tile": of_fold.tiles} | kept))
    return pd.concat(tables, ignore_index=True)


def multi_view_rules(keep_ratio: float) -> list[dict[str, Any]]:
    """Combine every keep ratio of the curve and the run's own with every tie rule and quota.

    Prompt labels with all of them, labels by lift with our own. A dict per combination: the rules,
    and under "varied" the keep ratio where it is another one than `keep_ratio`.
    """
    ours = tuple(_of(VARIANTS["ours"], MULTI_VIEW).values())
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
    """Judge labels of the mean of the views, and multi-view consensus by all `multi_view_rules`.

    inputs: fold → of its training tiles; kept_by_views: of the variants, see `keep_by_views`;
    table: of all N tiles.
    """
    evaluations = []
    for fold, of_fold in inputs.items():
        tiles, view_probs, shared = table.iloc[of_fold.tiles], of_fold.view_probs, {"fold": fold}
        labels, every = tiles.label.values, np.ones(len(tiles), bool)
        views = "mean-of-views", view_probs.argmax(1), every, labels, class_names
        judged = evaluate_probs("mean-of-views", view_probs, tiles)
        evaluations.append(judged | evaluate_labels(*views, **shared))
        saved = kept_by_views[kept_by_views.fold == fold]
        for params in multi_view_rules(of_fold.keep_ratio):
            rules = FilterRules(**{name: params[name] for name in MULTI_VIEW})
            own = replace(of_fold, keep_ratio=params["keep_ratio"])
            pseudo = consensus.label_tiles(own, rules)
            variant = None if "varied" in params else consensus.variant_of(params)
            if variant:
                kept = saved[variant].values
            else:
                kept = consensus.multi_view_consensus(own, rules, pseudo)
            named = shared | {"variant": variant, "params": params}
            evaluations.append(evaluate_labels("mvc", pseudo, kept, labels, class_names, **named))
    return [evaluation | fields for evaluation in evaluations]


def evaluate_filters(
    inputs: FilterInputs, pseudo: pd.DataFrame, labels: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Judge PFC alone, then both filters in both orders, by each variant on each kind of features.

    PFC alone goes by the cluster rules of a variant. The last one, on backbone features, is what
    the networks learn from in ours. pseudo: of `12_prompt_feature_consensus`, with what the views
    keep; labels: [N], true.
    """
    each = [
        replace(rules, cluster_on=features)
        for rules, features in product(VARIANTS.values(), consensus.CLUSTER_FEATURES)
    ]
    ratio = {"keep_ratio": inputs.keep_ratio}
    alone = [("pfc", rules, _of(rules, (*LABELLING, "cluster_on"))) for rules in each]
    orders = ("pfc+mvc", "mvc+pfc")
    both = [(order, rules, asdict(rules) | ratio) for rules in each for order in orders]
    evaluations = []
    for order, rules, params in [*alone, *both]:
        by_views = pseudo.kept_by_views[
            pseudo.setting == consensus.variant_of(_of(rules, MULTI_VIEW))
        ]
        table = consensus.filter_tiles(inputs, rules, order, kept_by_views=by_views.values)
        fields = {"params": params, "variant": consensus.variant_of(params), "device": "cpu"}
        found = table.training_label.values, table.kept.values
        evaluations.append(evaluate_labels(order, *found, labels, class_names, **fields))
    return evaluations


def _of(rules: FilterRules, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in names}


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
    """Judge the networks of each setting on the test set, and the pseudo labels they learnt from.

    probs: setting → [N, C] by tile number; pseudo: of `12_prompt_feature_consensus`; train,
    test: columns tile and label; seconds, alarms: of each setting.
    """
    label_of = train.set_index("tile").label
    evaluations = []
    for setting, rules in VARIANTS.items():
        subset = pseudo[pseudo.setting == setting]
        found, truth = (subset.label.values, subset.kept.values), label_of[subset.tile].values
        quality = metrics.label_quality(*found, truth, class_names)
        quality |= {"alarms": sorted({alarm.name for alarm in alarms[setting]})}
        own = {"variant": setting, "labels": quality, "seconds": seconds[setting]}
        own |= {"params": {"filters": "mvc+pfc"} | asdict(rules)} | fields
        evaluations.append(evaluate_probs("vlm-cpl", probs[setting][test.tile.values], test, **own))
    return evaluations


# --- tables of a notebook ------------------------------------------------------------------------


def prediction_table(
    table: pd.DataFrame, fold: int, probs: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """List what each model predicts for every tile: columns tile, label, split ("train" or "test"
    in this fold), and for each model <name>_label and <name>_confidence.

    table: of all tiles; probs: name → [N, C] by tile number.
    """
    split = np.where(table.fold == fold, "test", "train")
    predictions = table[["tile", "label"]].assign(split=split)
    for name, p in probs.items():
        predictions[f"{name}_label"], predictions[f"{name}_confidence"] = p.argmax(1), p.max(1)
    return predictions


def score_table(probs: Mapping[str, np.ndarray], test: pd.DataFrame) -> pd.DataFrame:
    """Set scores of several models side by side. probs: name → [N, C]; test: of the tiles."""
    facts = record.make([evaluate_probs(name, p, test) for name, p in probs.items()]).facts
    names = ["accuracy", "balanced_accuracy", *record.SCORES]
    return facts.set_index("method")[names].T.astype(float).round(3).rename_axis(columns=None)


def accuracy_table(probs: Mapping[str, np.ndarray], table: pd.DataFrame) -> pd.DataFrame:
    """Give the accuracy of several predictions: of all tiles, and the range over the test sets.

    probs: name → [N, C] by tile number; table: of all tiles.
    """
    correct = pd.DataFrame({name: p.argmax(1) == table.label.values for name, p in probs.items()})
    of_folds = pd.DataFrame([correct.iloc[test].mean() for _, _, test in fold_tiles(table)])
    lines = {"all tiles": correct.mean(), "lowest fold": of_folds.min()}
    return pd.DataFrame(lines | {"highest fold": of_folds.max()}).round(3)
