"""The comparison: from trials to rows, and which rows are averaged under which name."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import record
from lib.report import comparison


def scored(method, seed, accuracy, setting=None, split="test", dataset="d", **params):
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    return record.row(
        dataset=dataset, vlm="v", method=method, setting=setting, seed=seed, split=split,
        network=None if method in comparison.UNTRAINED else "frozen", params=params,
        scores=dict.fromkeys(names, 0.5) | {"accuracy": accuracy},
    )  # fmt: skip


def test_scores_are_those_of_the_test_set_in_the_order_of_the_methods():
    rows = [scored("vlm-cpl", s, a, "ours") for s, a in enumerate((0.9, 1.0))]
    rows += [
        scored("vlm-cpl", 0, 0.8, "published filters"),
        scored("vlm-cpl", 0, 0.3, varied=["keep_ratio"]),
    ]
    rows += [scored("zero-shot", 0, 0.7), scored("zero-shot", 0, 0.1, split="train")]
    table = comparison.scores_table([*rows, scored("mvc", 0, 0.2)])
    assert table.method.tolist() == ["zero-shot", "VLM-CPL", "VLM-CPL"]
    assert table.setting.tolist() == ["", "published filters", "ours"]
    assert table.accuracy.tolist() == ["0.700", "0.800", "0.950 ± 0.071"]
    assert table.seeds.tolist() == ["1", "1", "2"]
    assert comparison.scores_table([]).empty


def test_the_papers_numbers_stand_where_they_belong_and_nowhere_else():
    named = (("zero-shot", None), ("vlm-cpl", "published filters"), ("vlm-cpl", "ours"))
    for dataset, expected in (("hph", "0.871"), ("lc25k", "0.951"), ("d", "")):
        table = comparison.scores_table([scored(m, 0, 0.9, s, dataset=dataset) for m, s in named])
        assert table.paper.tolist() == ["", expected, ""]


def test_the_difference_is_over_tiles_and_the_test_over_groups():
    rows = [scored("vlm-cpl", 0, 0.9, "ours"), scored("ce-all", 0, 0.7)]
    tiles = pd.DataFrame({"group": list("aabbccddeeffgghh"), "vlm": "v", "seed": 0})
    better = tiles.assign(method="vlm-cpl", setting="ours", network="frozen", right=True)
    worse = tiles.assign(method="ce-all", setting="", network="frozen")
    worse["right"] = tiles.index % 2 == 0
    groups = comparison.groups_frame(pd.concat([better, worse]))
    assert groups.n.tolist() == [2] * 16
    table = comparison.scores_table(rows, groups).set_index("method")["ours is better by"]
    assert table["VLM-CPL"] == ""
    assert table["zero-shot labels, CE"].startswith("+0.500 (p = 0.00")  # 2 of 2^8 signs


def test_the_summary_names_the_best_of_the_other_methods():
    rows = [scored("zero-shot", 0, 0.6), scored("full-supervision", 0, 0.99)]
    rows += [scored("zero-shot", 1, 0.1)]  # the comparison of this seed is not complete
    others = comparison.WITHOUT_FILTER
    rows += [scored(m, s, 0.7 + (m == "elr") / 10) for m in others for s in (0, 1)]
    rows += [scored("vlm-cpl", 0, a, s) for s, a in (("published filters", 0.8), ("ours", 0.9))]
    line = comparison.summary_table([*rows, scored("zero-shot", 0, 0.9, dataset="alone")]).iloc[0]
    assert line["best other method"].startswith("0.800 (zero-shot labels, early-learning")
    assert line[["zero-shot", "VLM-CPL, ours", "full supervision"]].tolist() == [
        "0.600", "0.900", "0.990",
    ]  # fmt: skip
    assert line.seeds == "1"


def test_active_learning_is_not_compared():
    mine = [scored("vlm-cpl", 0, 0.9, "ours"), scored("vlm-cpl", 0, 0.8, varied=["keep_ratio"])]
    other = [scored("full-supervision", 0, 0.7), scored("full-supervision", 0, 0.6, dataset="e")]
    rows = mine + [row | {"training": "supervised"} for row in other]
    assert comparison.score_frame(rows).method.tolist() == ["vlm-cpl"]


def of_vlm(vlm, seed, zero_shot, ours, kept=10, dataset="ebhi_binary"):
    rows = [scored("zero-shot", seed, zero_shot, dataset=dataset)]
    rows += [scored("zero-shot", seed, 0.1, split="train", dataset=dataset)]
    rows += [scored("vlm-cpl", seed, ours, "ours", dataset=dataset)]
    rows[-1]["labels"] = {"kept": kept, "precision": 0.9}
    rows += [scored("vlm-cpl", seed, 0.2, "published filters", dataset=dataset)]
    return [row | {"vlm": vlm} for row in rows]


def test_vlms_are_compared_over_the_seeds_that_all_have():
    rows = of_vlm("a", 0, 0.5, 0.8) + of_vlm("a", 1, 0.7, 0.9, 20) + of_vlm("a", 2, 0.0, 0.0)
    rows += of_vlm("a+b", 0, 0.6, 0.9) + of_vlm("a+b", 1, 0.8, 1.0)
    rows += of_vlm("a", 0, 0.4, 0.4, dataset="lc25k")
    table = comparison.vlm_comparison(rows)
    assert table.VLM.tolist() == ["a", "a+b"] and set(table.dataset) == {"ebhi_binary"}
    assert table["zero-shot"].tolist() == ["0.600 ± 0.141", "0.700 ± 0.141"]
    assert table["VLM-CPL"].tolist() == ["0.850 ± 0.071", "0.950 ± 0.071"]
    assert table.kept.tolist() == ["15", "10"] and table.seeds.tolist() == ["2", "2"]
    assert comparison.vlm_comparison(rows[:4]).empty


def test_a_dataset_is_shown_with_the_vlm_that_is_named_for_it():
    rows = of_vlm("a", 0, 0.5, 0.8) + of_vlm("a+b", 0, 0.6, 0.9)
    rows += of_vlm("c", 0, 0.5, 0.8, dataset="lc25k")
    kept = comparison.of_own_vlm(rows, {"ebhi_binary": "a", "lc25k": "c"})
    assert [row["vlm"] for row in kept] == ["a"] * 4 + ["c"] * 4


# --- of one run ----------------------------------------------------------------------------------

TRUTH = np.array([0, 1, 1, 0])
TEST = pd.DataFrame({"tile": [4, 5, 6], "group": ["a", "a", "b"], "label": [0, 1, 1]})
SOME = np.array([True, True, False, True])


def trial(method="ce-mvc", setting="ours", **params):
    """Of four tiles three are learnt from, two of these with the right label."""
    return SimpleNamespace(
        method=method, setting=setting, objective="CE", labels=np.array([0, 0, 1, 0]), kept=SOME,
        source="zero-shot labels", params=params,
    )  # fmt: skip


def outcome(of=None, method="mean-of-views"):
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])  # right, wrong, right
    name, setting = (of.method, of.setting) if of else (method, "")
    seconds, params = (2.0, of.params) if of else (None, {})
    return SimpleNamespace(
        method=name, setting=setting, probs=probs, trial=of, params=params, seconds=seconds
    )


def test_trials_are_shown_with_how_many_labels_and_how_many_of_them_are_right():
    planned = [trial(), trial(varied=["keep_ratio", "quota"], keep_ratio=0.1, quota="class")]
    table = comparison.trials_table(planned, TRUTH, ["a", "b"])
    assert table.tiles.tolist() == [3, 3]
    assert table["pseudo-label precision"].tolist() == [0.667, 0.667]
    assert table.setting.tolist() == ["ours", "keep_ratio=0.1, quota=class"]
    assert table["classes without"].tolist() == [1, 1]


def test_a_trained_outcome_says_what_it_learnt_from_and_another_does_not():
    rows = comparison.evaluate(
        [outcome(trial(rules=1)), outcome()], TRUTH, TEST.label.values, ["a", "b"],
        network="frozen", device="cpu",
    )  # fmt: skip
    trained, untrained = (record.row(**row) for row in rows)
    assert trained["scores"]["accuracy"] == pytest.approx(2 / 3) and trained["n"] == 3
    assert trained["labels"]["kept"] == 3 and trained["setting"] == "ours"
    assert trained["params"] == {"rules": 1, "objective": "'CE'"}
    assert (trained["network"], trained["seconds"]) == ("frozen", 2.0)
    for name in ("network", "labels", "seconds", "setting"):
        assert untrained[name] is None
    assert all(row["device"] == "cpu" and row["split"] == "test" for row in rows)


def test_a_shifted_row_is_marked_as_varied():
    rows = comparison.evaluate_shifts(
        {"blur2": [outcome(), outcome(trial())], "jpeg9": [outcome()]},
        TEST.label.values,
        ["a", "b"],
    )
    assert [row["params"]["shift"] for row in rows] == ["blur2", "blur2", "jpeg9"]
    assert all(row["params"]["varied"] == ["shift"] for row in rows)
    assert [row["network"] for row in rows] == [None, "frozen", None]


@pytest.mark.parametrize("network", ["frozen", "fine-tune"])
def test_every_method_is_right_or_wrong_on_every_test_tile(network):
    predictions = pd.DataFrame({"tile": [6, 5, 4], "zero-shot_label": [1, 1, 1]})
    predictions["ours_label"], predictions["published filters_label"] = [1, 1, 0], 0
    frame = comparison.right_frame(
        [outcome(trial()), outcome()], predictions, TEST, vlm="v", seed=0, network=network
    )
    right = frame.groupby(["method", "setting", "network"]).right.sum().to_dict()
    expected = {
        ("ce-mvc", "ours", network): 2, ("mean-of-views", "", ""): 2,
        ("vlm-cpl", "ours", network): 3, ("vlm-cpl", "published filters", network): 1,
    }  # fmt: skip
    expected |= {("zero-shot", "", ""): 2} if network == "frozen" else {}
    assert right == expected
    assert set(comparison.groups_frame(frame).columns) == set(comparison.GROUP_COLUMNS)
