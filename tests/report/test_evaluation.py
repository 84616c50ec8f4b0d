"""Evaluations hold what was measured, of every combination of rules and nothing else."""

import numpy as np
import pandas as pd
import pytest

from lib import consensus
from lib.record import ROW_FIELDS
from lib.report import evaluation, metrics

NAMES = ["a", "b", "c"]


def material(seed=0, n=60, n_views=5):
    rng = np.random.default_rng(seed)
    view_probs = rng.dirichlet(np.ones(3), n).astype(np.float32)
    return {
        "votes": rng.integers(0, 3, (n_views, n)),
        "view_probs": view_probs,
        "prompt_labels": rng.integers(0, 3, n),
        "labels": rng.integers(0, 3, n),
    }


def choice(n=60):
    return {"among": np.ones(n, bool), "tiles": np.arange(n), "seed": 0}


def test_every_evaluation_is_made_of_fields_of_a_row():
    given = material()
    every = [
        *evaluation.evaluate_views(
            **given, class_names=NAMES, keep_ratio=0.3, seconds=1.0, **choice()
        ),
        evaluation.evaluate_labels(
            "x", given["labels"], given["labels"] > 0, given["labels"], NAMES
        ),
        evaluation.evaluate_probs("x", given["view_probs"], given["labels"], NAMES, labels={}),
    ]
    assert {name for fields in every for name in fields} <= set(ROW_FIELDS)


def test_rules_of_another_keep_ratio_are_marked_as_varied_and_have_no_setting():
    """For the published ratio and for others, on the grid of the curve or not."""
    for keep_ratio in (0.3, 0.2, 0.25):
        rows = evaluation.evaluate_views(
            **material(), class_names=NAMES, keep_ratio=keep_ratio, **choice()
        )
        mvc = [row for row in rows if row["method"] == "mvc"]
        assert len(mvc) == 4 * len({*evaluation.KEEP_RATIOS, keep_ratio})
        for row in mvc:
            own = row["params"]["keep_ratio"] == keep_ratio
            assert row["params"].get("varied") == (None if own else ["keep_ratio"]), keep_ratio
            assert own or row["setting"] is None, keep_ratio
        settings = [row["setting"] for row in mvc if "varied" not in row["params"]]
        assert settings == ["published filters", None, None, "ours"], keep_ratio


def test_views_are_evaluated_as_the_filter_itself_keeps():
    given = material(1)
    _, *mvc = evaluation.evaluate_views(**given, class_names=NAMES, keep_ratio=0.3, **choice())
    for row in mvc:
        rules = {name: value for name, value in row["params"].items() if name != "varied"}
        kept = consensus.multi_view_consensus(
            given["votes"], given["view_probs"], given["prompt_labels"], **rules, **choice()
        )
        quality = metrics.label_quality(given["prompt_labels"], kept, given["labels"], NAMES)
        assert row["labels"] == quality, rules


def test_filters_are_evaluated_in_both_orders_and_settings_on_both_features():
    given, rng = material(2), np.random.default_rng(0)
    features = {name: rng.normal(size=(60, 4)) for name in ("projected", "unprojected")}
    rows = evaluation.evaluate_filters(
        given["votes"], given["view_probs"], features, given["prompt_labels"], given["labels"],
        NAMES, keep_ratio=0.5, **choice(),
    )  # fmt: skip
    named = [(row["method"], row["setting"]) for row in rows if row["setting"]]
    expected = [("mvc+pfc", "published filters"), ("pfc+mvc", "published filters")]
    expected += [("mvc+pfc", "ours"), ("pfc+mvc", "ours")]
    assert sorted(named) == sorted([*expected, ("pfc", "published filters"), ("pfc", "ours")])
    assert len(rows) == 12
    assert consensus.setting_of(rows[-1]["params"]) == "ours" and rows[-1]["method"] == "mvc+pfc"
    ratios = {row["params"].get("keep_ratio") for row in rows if row["method"] != "pfc"}
    assert ratios == {0.5}


def test_zero_shot_is_judged_on_its_own_split():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"tile": range(6), "label": [0, 1, 2, 0, 1, 2]})
    table["split"] = ["train"] * 3 + ["test"] * 2 + ["validation"]
    probs = np.eye(3)[[0, 1, 2, 1, 1, 0]] * 0.8 + rng.random((6, 3)) * 0.01
    train, test = evaluation.evaluate_zero_shot(probs, table, NAMES, device="cpu")
    assert (train["split"], train["n"], train["scores"]["accuracy"]) == ("train", 3, 1)
    assert (test["split"], test["n"], test["scores"]["accuracy"]) == ("test", 2, 0.5)
    assert test["labels"]["kept"] == 2 and test["device"] == "cpu"
    accuracies = evaluation.accuracy_table({"prompts": probs}, table)
    assert accuracies.loc["prompts"].tolist() == [1, 0.5]


def test_vlm_cpl_is_judged_on_the_test_set_beside_the_labels_it_learnt_from():
    table = pd.DataFrame({"tile": range(6), "label": [0, 1, 2, 0, 1, 2]})
    table["split"] = ["train"] * 3 + ["test"] * 3
    pseudo = pd.concat(
        pd.DataFrame({"tile": [2, 0, 1], "prompt_label": [2, 0, 0], "setting": setting,
                      "kept": kept})
        for setting, kept in (("published filters", [True] * 3), ("ours", [True, True, False]))
    )  # fmt: skip
    probs = {"published filters": np.eye(3)[[0] * 6], "ours": np.eye(3)[[0, 1, 2, 0, 1, 2]]}
    seconds = {"published filters": 1.0, "ours": 2.0}
    first, ours = evaluation.evaluate_vlm_cpl(
        probs, pseudo, table, NAMES, seconds=seconds, network="frozen"
    )
    assert [row["setting"] for row in (first, ours)] == list(consensus.SETTINGS)
    assert first["scores"]["accuracy"] == pytest.approx(1 / 3) and ours["scores"]["accuracy"] == 1
    assert first["labels"]["precision"] == pytest.approx(2 / 3) and ours["labels"]["precision"] == 1
    assert (ours["seconds"], ours["network"], ours["split"], ours["n"]) == (2, "frozen", "test", 3)
    assert ours["params"] | consensus.SETTINGS["ours"] == ours["params"]
    assert ours["params"]["filters"] == "mvc+pfc"
    predictions = evaluation.prediction_table(table, probs)
    assert predictions["ours_label"].tolist() == table.label.tolist()
    assert (predictions["published filters_confidence"] == 1).all()
