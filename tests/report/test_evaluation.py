"""Evaluations hold what was measured, of every combination of rules and nothing else."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from lib import consensus, record
from lib.alarm import Alarm
from lib.consensus import VARIANTS, FilterInputs, FilterRules, filter_tiles
from lib.report import evaluation, metrics

NAMES = ["a", "b", "c"]


def inputs_of(tiles, seed=0, keep_ratio=0.3):
    """Filter inputs of some of sixty random tiles."""
    rng = np.random.default_rng(seed)
    view_probs = rng.dirichlet(np.ones(3), 60).astype(np.float32)
    votes, prompts = rng.integers(0, 3, (5, 60)), rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 4))
    return FilterInputs(
        tiles=tiles,
        prompt_labels=prompts[tiles],
        confidence=view_probs.max(1)[tiles],
        votes=votes[:, tiles],
        view_probs=view_probs[tiles],
        candidates=np.ones(len(tiles), bool),
        image_embeds=features[tiles],
        backbone_features=features[tiles, :3],
        keep_ratio=keep_ratio,
    )


def tile_table(seed=0, n=60):
    """Tiles of two folds; a tenth of them is never tested."""
    rng = np.random.default_rng(seed + 100)
    folds = rng.choice([-1, 0, 1], n, p=[0.1, 0.4, 0.5])
    return pd.DataFrame({"tile": range(n), "label": rng.integers(0, 3, n), "fold": folds})


def accuracy(row):
    return row["counts"].correct.sum() / row["counts"].n.sum()


def test_filters_are_evaluated_in_both_orders_and_variants_on_both_features():
    inputs, labels = inputs_of(np.arange(60), 2, 0.5), tile_table(2).label.values
    tables = [filter_tiles(inputs, rules).assign(setting=v) for v, rules in VARIANTS.items()]
    rows = evaluation.evaluate_filters(inputs, pd.concat(tables), labels, NAMES)
    named = [(row["method"], row["variant"]) for row in rows if row["variant"]]
    expected = [("mvc+pfc", "published filters"), ("pfc+mvc", "published filters")]
    expected += [("mvc+pfc", "ours"), ("pfc+mvc", "ours")]
    assert sorted(named) == sorted([*expected, ("pfc", "published filters"), ("pfc", "ours")])
    assert len(rows) == 12
    assert consensus.variant_of(rows[-1]["params"]) == "ours" and rows[-1]["method"] == "mvc+pfc"
    ratios = {row["params"].get("keep_ratio") for row in rows if row["method"] != "pfc"}
    assert ratios == {0.5}


@pytest.mark.parametrize("keep_ratio", [0.3, 0.2, 0.25])
def test_views_are_evaluated_as_the_filter_itself_keeps(keep_ratio):
    """At the published ratio and at others, on the grid of the curve or not."""
    table = tile_table(1)
    inputs = {f: inputs_of(train, 1, keep_ratio) for f, train, _ in evaluation.fold_tiles(table)}
    kept = evaluation.keep_by_views(inputs)
    rows = evaluation.evaluate_views(inputs, kept, table, NAMES, seconds=1.0)
    assert set(record.make(rows).facts.seconds) == {1.0} and {r["fold"] for r in rows} == {0, 1}
    mvc = [row for row in rows if row["method"] == "mvc"]
    assert len(mvc) == 2 * 5 * len({*evaluation.KEEP_RATIOS, keep_ratio})
    for row in mvc:
        params, of_fold = row["params"], inputs[row["fold"]]
        rules = FilterRules(*(params[name] for name in ("label_rule", "tie_break", "quota")))
        of_fold = replace(of_fold, keep_ratio=params["keep_ratio"])
        found = filter_tiles(of_fold, rules, "mvc")
        labels = table.label.values[of_fold.tiles]
        quality = metrics.label_quality(found.label.values, found.kept.values, labels, NAMES)
        assert row["labels"] == quality and row["n"] == len(labels), params
        own = params["keep_ratio"] == keep_ratio
        assert params.get("varied") == (None if own else ["keep_ratio"])
        if row["variant"]:
            saved = kept[kept.fold == row["fold"]]
            assert np.array_equal(saved[row["variant"]], found.kept) and own
            assert np.array_equal(saved.tile, of_fold.tiles)
    settings = [row["variant"] for row in mvc if "varied" not in row["params"]]
    assert settings == ["published filters", None, None, None, "ours"] * 2


TABLE = pd.DataFrame({"tile": range(6), "label": [0, 1, 2, 0, 1, 2], "fold": [1, 1, 1, 0, 0, -1]})


def test_zero_shot_is_judged_on_both_parts_of_every_fold():
    probs = np.eye(3)[[0, 1, 2, 1, 1, 0]] * 0.8 + np.random.default_rng(0).random((6, 3)) * 0.01
    rows = evaluation.evaluate_zero_shot(probs, TABLE, NAMES, device="cpu")
    judged = {(row["fold"], row["split"]): (row["n"], accuracy(row)) for row in rows}
    train, test = {(0, "train"): (4, 0.75), (1, "train"): (3, 1 / 3)}, {(0, "test"): (2, 0.5)}
    assert judged == train | test | {(1, "test"): (3, 1.0)}
    assert rows[1]["labels"]["kept"] == 2 and rows[1]["device"] == "cpu"
    accuracies = evaluation.accuracy_table({"prompts": probs}, TABLE)
    assert accuracies.loc["prompts"].tolist() == [0.667, 0.5, 1]


def test_vlm_cpl_is_judged_on_the_test_set_beside_the_labels_it_learnt_from():
    kept = {"published filters": [True] * 3, "ours": [True, True, False]}
    pseudo = [
        pd.DataFrame({"tile": [2, 0, 1], "label": [2, 0, 0], "setting": s, "kept": k})
        for s, k in kept.items()
    ]
    probs = {"published filters": np.eye(3)[[0] * 6], "ours": np.eye(3)[TABLE.label]}
    alarms = {"published filters": [Alarm("flat", "a"), Alarm("flat", "b")], "ours": []}
    common = {"seconds": dict(zip(probs, (1.0, 2.0), strict=True)), "alarms": alarms}
    parts = pd.concat(pseudo), TABLE[:3], TABLE[3:]
    rows = evaluation.evaluate_vlm_cpl(probs, *parts, NAMES, **common, network="frozen")
    first, ours = record.make(rows).facts.to_dict("records")
    assert [first["variant"], ours["variant"]] == list(VARIANTS)
    assert first["accuracy"] == pytest.approx(1 / 3) and ours["accuracy"] == 1
    assert first["precision"] == pytest.approx(2 / 3) and ours["precision"] == 1
    assert (ours["seconds"], ours["network"], ours["split"], ours["n"]) == (2, "frozen", "test", 3)
    assert ours["params"] == {"filters": "mvc+pfc"} | asdict(VARIANTS["ours"])
    assert [first["alarms"], ours["alarms"]] == [["flat"], []]
    predictions = evaluation.prediction_table(TABLE, 0, probs)
    assert predictions.split.tolist() == ["train"] * 3 + ["test"] * 2 + ["train"]
    assert predictions["ours_label"].tolist() == TABLE.label.tolist()
    assert (predictions["published filters_confidence"] == 1).all()
