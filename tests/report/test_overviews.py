"""Tables over all datasets: which runs count, what is pooled, who is named."""

import pandas as pd
from made_up_curves import counted, curve, full

from lib import record
from lib.report import active_learning, comparison, overviews


def scored(method, seed, accuracy, setting=None, split="test", dataset="d", fold=0, n=10):
    scores = dict.fromkeys(comparison.SCORES, 0.5) | {"accuracy": accuracy}
    return record.row(
        dataset=dataset, vlm="v", method=method, setting=setting, fold=fold, seed=seed, split=split,
        network=None if method in comparison.UNTRAINED else "frozen", params={}, n=n, scores=scores,
    )  # fmt: skip


def complete(fold=0, seed=0, n=10, elr=0.8, ours=0.9):
    scores = dict.fromkeys(overviews.NEEDED, 0.7) | {"elr": elr, "zero-shot": 0.6}
    scores |= {"full-supervision": 0.99}
    rows = [scored(method, seed, value, fold=fold, n=n) for method, value in scores.items()]
    for setting, value in (("published filters", 0.8), ("ours", ours)):
        rows.append(scored("vlm-cpl", seed, value, setting, fold=fold, n=n))
    return rows


OTHER = "best other method, chosen on the test set"


def test_the_summary_names_the_best_of_the_other_methods_and_leaves_out_unfinished_runs():
    rows = [*complete(), scored("zero-shot", 1, 0.1), scored("zero-shot", 0, 0.9, dataset="alone")]
    line = overviews.summary_table(rows).iloc[0]
    assert line[OTHER] == "0.800 (zero-shot labels, early-learning regularisation)"
    assert line[["zero-shot", "VLM-CPL, ours", "full supervision"]].tolist() == [
        "0.600", "0.900", "0.990",
    ]  # fmt: skip
    assert (line.folds, line.seeds) == ("1", "1")


def test_the_summary_is_pooled_over_folds():
    rows = complete(n=30, ours=1.0) + complete(fold=1, n=10, ours=0.6)
    rows += complete(seed=1, n=30, ours=0.8) + complete(fold=1, seed=1, n=10, ours=0.6)
    line = overviews.summary_frame(rows).iloc[0]
    assert round(line.ours, 9) == (0.9 * 30 + 0.6 * 10) / 40 and (line.folds, line.seeds) == (
        "2",
        "2",
    )


def test_a_method_that_some_runs_lack_is_no_best_other():
    rows = complete() + complete(seed=1) + [scored("source-only", 0, 0.95)]
    assert overviews.summary_frame(rows).other_name[0].endswith("early-learning regularisation")
    rows.append(scored("source-only", 1, 0.95))
    assert overviews.summary_frame(rows).other_name[0] == "source-only supervision"


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
    table = overviews.vlm_comparison(rows)
    assert table.VLM.tolist() == ["a", "a+b"] and set(table.dataset) == {"ebhi_binary"}
    assert table["zero-shot"].tolist() == ["0.600 ± 0.141", "0.700 ± 0.141"]
    assert table["VLM-CPL"].tolist() == ["0.850 ± 0.071", "0.950 ± 0.071"]
    assert table.kept.tolist() == ["15", "10"] and table.seeds.tolist() == ["2", "2"]
    assert overviews.vlm_comparison(rows[:4]).empty


# --- UniSAL beside others -------------------------------------------------------------------------


def test_strategies_are_compared_under_equal_training_and_in_the_mean_over_datasets():
    training, ours = active_learning.OURS
    one = [counted(training, ours, 8), counted(training, "unisal", 7),
           counted(training, "badge", 9, seeds=(0,)), counted("supervised", "margin", 1),
           counted(training, "cold-start", 10)]  # fmt: skip
    two = [counted(training, ours, 6), counted(training, "unisal", 3),
           counted(training, "unisal", 9, network="fine-tune")]  # fmt: skip
    rounds = {
        "a": pd.concat(one),
        "b": pd.concat(two),
        "c": None,
        "d": counted(training, "unisal", 5),
        "e": counted(training, ours, 9),  # has nothing to compare it with
    }
    table = overviews.equal_training_table(rounds)
    assert list(table) == ["strategy", "a", "b", "mean", "seeds"]
    unisal, badge = table.to_dict("records")
    assert [unisal[name].split()[0] for name in ("a", "b", "mean")] == [
        "+0.100",
        "+0.300",
        "+0.200",
    ]
    assert (badge["a"].split()[0], badge["b"], badge["seeds"]) == ("-0.100", "", "1")
    assert unisal["seeds"] == "3" and badge["mean"] == badge["a"]
    assert overviews.equal_training_table({"c": None}).empty


# --- where UniSAL is behind ----------------------------------------------------------------------


def shortfalls(rows):
    return overviews.shortfall_table(active_learning.rounds_frame(rows))


def test_strategies_above_unisal_are_named_over_the_runs_that_both_have():
    rows = curve("unisal", "dual-view", 0, [0.5, 0.7]) + curve("unisal", "dual-view", 1, [0.1, 0.1])
    rows += curve("margin", "dual-view", 0, [0.6, 0.7]) + curve("badge", "dual-view", 0, [0.7, 0.8])
    rows += curve("random", "dual-view", 0, [0.3, 0.3]) + curve(
        "random", "supervised", 0, [0.9] * 2
    )
    rows += curve("unisal-wide", "dual-view", 0, [0.9, 0.9])
    (line,) = shortfalls(rows).to_dict("records")
    assert line["larger AULC"] == "BADGE (+0.150), margin (+0.050)"
    assert line["training"] == "dual-view" and line["seeds"] == "2"


def test_the_end_is_a_share_of_all_labels_and_filled_tiles_one_of_the_queries():
    rows = [*curve("unisal", "dual-view", 0, [0.5, 0.6, 0.72]), full(0.9)]
    rows[0]["labels"]["filled"], rows[1]["labels"]["filled"] = 5, 4
    rows[2]["labels"]["filled"] = None
    (line,) = shortfalls(rows).to_dict("records")
    assert line["accuracy at the end, of all labels"] == "80.0%"
    assert line["filled by entropy"] == "45%", "nine of twenty"
    assert line["larger AULC"] == "none"
    assert shortfalls([]).empty and shortfalls(rows[3:]).empty
