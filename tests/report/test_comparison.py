"""The comparison: from trials to rows, and which rows are averaged under which name."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import record
from lib.report import comparison


def scored(method, seed, accuracy, setting=None, split="test", dataset="d", fold=0, **params):
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    return record.row(
        dataset=dataset, vlm="v", method=method, setting=setting, seed=seed, split=split,
        fold=fold, n=10,
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
    assert table.accuracy.tolist() == ["0.700", "0.800", "0.950"]
    assert table.seeds.tolist() == ["1", "1", "2"]
    assert comparison.scores_table([]).empty


def test_the_papers_numbers_stand_where_they_belong_and_nowhere_else():
    named = (("zero-shot", None), ("vlm-cpl", "published filters"), ("vlm-cpl", "ours"))
    for dataset, expected in (("hph", "0.871"), ("lc25k", "0.951"), ("d", "")):
        table = comparison.scores_table([scored(m, 0, 0.9, s, dataset=dataset) for m, s in named])
        assert table.paper.tolist() == ["", expected, ""]


def right_in(method, setting, right, n=40, folds=5, seeds=(0, 1), network="frozen"):
    """Two tiles of each group, the first of class 0; right: of these two, in every group."""
    units = product(seeds, range(folds), range(n // folds), (0, 1))
    lines = [("v", s, f, method, setting, network, label, f"{f}.{g}", 1, right[label])
             for s, f, g, label in units]  # fmt: skip
    return pd.DataFrame(lines, columns=comparison.GROUP_COLUMNS)


def test_scores_are_pooled_and_compared_over_folds_and_groups():
    kinds = (("zero-shot", None), ("ce-all", None), ("vlm-cpl", "ours"), ("full-supervision", None))
    rows = [scored(m, s, 0.3, setting, fold=f)
            for m, setting in kinds for s in (0, 1) for f in range(5)]  # fmt: skip
    groups = pd.concat([
        right_in("vlm-cpl", "ours", (1, 1)), right_in("ce-all", "", (1, 0)),
        right_in("zero-shot", "", (1, 1), seeds=(0,), network=""),
        right_in("full-supervision", "", (1, 1)),
    ])  # fmt: skip
    table = comparison.scores_table(rows, groups).set_index("method")
    assert table.loc["zero-shot labels, CE", "accuracy"] == "0.500 [0.500, 0.500]"
    better = table["ours is better by"]
    assert better["zero-shot labels, CE"] == "+0.500 [+0.500, +0.500], p = 0.002"  # of two lines
    assert better["zero-shot"] == "+0.000 [+0.000, +0.000]", "a single seed has no p"
    assert better["VLM-CPL"] == ""
    assert better["full supervision"] == "+0.000 [+0.000, +0.000], p = 1.000"
    assert table["ours is better by, balanced accuracy"].tolist() == better.tolist()
    column = table["not inferior to full supervision"]
    assert column["VLM-CPL"] == "accuracy, balanced accuracy" and column["full supervision"] == ""
    assert column["zero-shot labels, CE"] == "no"
    assert set(table.folds) == {"5"} and set(table.seeds) == {"2"}


def test_one_fold_and_one_seed_give_a_table_without_p():
    rows = [
        scored("vlm-cpl", 0, 0.9, "ours"),
        scored("ce-all", 0, 0.7),
        scored("zero-shot", 0, 0.5),
    ]
    one = {"folds": 1, "seeds": (0,)}
    groups = pd.concat(
        [right_in("vlm-cpl", "ours", (1, 1), **one), right_in("ce-all", "", (0, 1), **one)]
    )
    table = comparison.scores_table(rows, groups).set_index("method")
    assert table["ours is better by"].tolist() == ["", "+0.500 [+0.500, +0.500]", ""]
    assert (
        table.accuracy["zero-shot"] == "0.500"
        and table.accuracy["VLM-CPL"] == "1.000 [1.000, 1.000]"
    )
    assert set(table["not inferior to full supervision"]) == {""}
    empty = comparison.scores_table(rows, pd.DataFrame(columns=comparison.GROUP_COLUMNS))
    assert set(empty["ours is better by"]) == {""}


def test_groups_are_counted_per_class_of_every_fold_and_seed(tmp_path):
    assert list(comparison.groups_of_runs(tmp_path)) == comparison.GROUP_COLUMNS
    for seed in (0, 1):
        for fold in (0, 1):
            folder = tmp_path / f"seed{seed}" / f"fold{fold}"
            folder.mkdir(parents=True)
            frame = pd.DataFrame({
                "tile": [4, 5, 6], "group": ["a", "a", "b"], "label": [0, 1, 1], "vlm": "v",
                "seed": seed, "fold": fold, "method": "m", "setting": "", "network": "",
                "right": [True, False, True],
            })  # fmt: skip
            frame.to_parquet(folder / "comparison.parquet")
    groups = comparison.groups_of_runs(tmp_path)
    assert list(groups) == comparison.GROUP_COLUMNS and len(groups) == 12
    assert groups.n.tolist() == [1] * 12 and groups.right.sum() == 8


def test_active_learning_is_not_compared():
    mine = [scored("vlm-cpl", 0, 0.9, "ours"), scored("vlm-cpl", 0, 0.8, varied=["keep_ratio"])]
    other = [scored("full-supervision", 0, 0.7), scored("full-supervision", 0, 0.6, dataset="e")]
    rows = mine + [row | {"training": "supervised"} for row in other]
    assert comparison.score_frame(rows).method.tolist() == ["vlm-cpl"]


def test_a_dataset_is_shown_with_the_vlm_that_is_named_for_it():
    rows = [scored("zero-shot", 0, 0.5, dataset=d) | {"vlm": v}
            for d, v in (("ebhi_binary", "a"), ("ebhi_binary", "a+b"), ("lc25k", "c"))]  # fmt: skip
    kept = comparison.of_own_vlm(rows, {"ebhi_binary": "a", "lc25k": "c"})
    assert [row["vlm"] for row in kept] == ["a", "c"]


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


def outcome(of=None, method="mean-of-views", alarms=None):
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])  # right, wrong, right
    name, setting = (of.method, of.setting) if of else (method, "")
    seconds, params = (2.0, of.params) if of else (None, {})
    return SimpleNamespace(
        method=name, setting=setting, probs=probs, trial=of, params=params, seconds=seconds,
        alarms=alarms,
    )  # fmt: skip


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
    alarms = [SimpleNamespace(name="flat clusters"), SimpleNamespace(name="flat clusters")]
    outcomes = {"blur2": [outcome(), outcome(trial(), alarms=alarms)], "jpeg9": [outcome()]}
    judged_by = TRUTH, TEST.label.values, ["a", "b"]
    rows = comparison.evaluate_varied("shift", outcomes, *judged_by)
    assert rows[1]["labels"]["alarms"] == ["flat clusters"] and rows[1]["labels"]["kept"] == 3
    assert [row["params"]["shift"] for row in rows] == ["blur2", "blur2", "jpeg9"]
    assert all(row["params"]["varied"] == ["shift"] for row in rows)
    assert [row["network"] for row in rows] == [None, "frozen", None]


@pytest.mark.parametrize("network", ["frozen", "fine-tune"])
def test_every_method_is_right_or_wrong_on_every_test_tile(network):
    predictions = pd.DataFrame({"tile": [6, 5, 4], "zero-shot_label": [1, 1, 1]})
    predictions["ours_label"], predictions["published filters_label"] = [1, 1, 0], 0
    frame = comparison.right_frame(
        [outcome(trial()), outcome()], predictions, TEST, vlm="v", seed=0, fold=2, network=network
    )
    right = frame.groupby(["method", "setting", "network"]).right.sum().to_dict()
    expected = {
        ("ce-mvc", "ours", network): 2, ("mean-of-views", "", ""): 2,
        ("vlm-cpl", "ours", network): 3, ("vlm-cpl", "published filters", network): 1,
    }  # fmt: skip
    expected |= {("zero-shot", "", ""): 2} if network == "frozen" else {}
    assert right == expected
    groups = comparison.groups_frame(frame)
    assert list(groups) == comparison.GROUP_COLUMNS and set(groups.fold) == {2}
