"""The comparison and its ablations: which rows, averaged over what, under which name."""

import pandas as pd
import pytest

from lib.report import comparison


def scored(method, seed, accuracy, setting=None, split="test", dataset="d", **params):
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    return record.row(
        dataset=dataset, vlm="v", method=method, setting=setting, seed=seed, split=split,
        network=None if method in comparison.UNTRAINED else "frozen", params=params,
        scores=dict.fromkeys(names, 0.5) | {"accuracy": accuracy},
    )  # fmt: skip


def test_scores_are_those_of_the_test_part_in_the_order_of_the_methods():
    rows = [scored("vlm-cpl", s, a, "ours") for s, a in enumerate((0.9, 1.0))]
    rows += [scored("vlm-cpl", 0, 0.8, "published"), scored("vlm-cpl", 0, 0.3, varied=["share"])]
    rows += [scored("zero-shot", 0, 0.7), scored("zero-shot", 0, 0.1, split="train")]
    table = comparison.scores_table([*rows, scored("mvc", 0, 0.2)])
    assert table.method.tolist() == ["zero-shot", "VLM-CPL", "VLM-CPL"]
    assert table.setting.tolist() == ["", "published", "ours"]
    assert table.accuracy.tolist() == ["0.700", "0.800", "0.950 ± 0.071"]
    assert table.seeds.tolist() == ["1", "1", "2"]
    assert comparison.scores_table([]).empty


def test_the_papers_numbers_stand_where_they_belong_and_nowhere_else():
    named = (("zero-shot", None), ("vlm-cpl", "published"), ("vlm-cpl", "ours"))
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
    assert table["all zero-shot labels, CE"].startswith("+0.500 (p = 0.00")  # 2 of 2^8 signs


def test_the_summary_names_the_best_of_the_other_methods():
    rows = [scored("zero-shot", 0, 0.6), scored("full-supervision", 0, 0.99)]
    rows += [scored("zero-shot", 1, 0.1)]  # the comparison of this seed is not complete
    others = comparison.WITHOUT_FILTER
    rows += [scored(m, s, 0.7 + (m == "elr") / 10) for m in others for s in (0, 1)]
    rows += [scored("vlm-cpl", 0, a, s) for s, a in (("published", 0.8), ("ours", 0.9))]
    line = comparison.summary_table([*rows, scored("zero-shot", 0, 0.9, dataset="alone")]).iloc[0]
    assert line["best other method"].startswith("0.800 (all zero-shot labels, early-learning")
    assert line[["zero-shot", "VLM-CPL, ours", "full supervision"]].tolist() == [
        "0.600", "0.900", "0.990",
    ]  # fmt: skip
    assert line.seeds == "1"


def test_active_learning_is_neither_compared_nor_an_ablation():
    mine = [scored("vlm-cpl", 0, 0.9, "ours"), scored("vlm-cpl", 0, 0.8, varied=["share"])]
    other = [scored("full-supervision", 0, 0.7), scored("full-supervision", 0, 0.6, dataset="e")]
    other += [scored("full-supervision", 0, 0.5, dataset="e", varied=["share"])]
    rows = mine + [row | {"training": "supervised"} for row in other]
    assert comparison.score_frame(rows).method.tolist() == ["vlm-cpl"]
    frames = comparison.ablation_frames(rows)
    assert list(frames) == ["d"] and set(frames["d"].method) == {"vlm-cpl"}


@pytest.fixture
def ablated():
    """Two seeds; the second was not ablated."""
    base = {"share": 0.3, "weight": 0.5, "tie_break": "probability", "quota": "class"}
    base |= {"filters": "mvc+pfc", "stain_shift": 0.0}
    rows = [scored("vlm-cpl", s, 0.9, "ours", **base) for s in (0, 1)]
    rows += [scored("vlm-cpl", 0, 0.8, **base | {"share": 0.5}, varied=["share"])]
    rows += [scored("vlm-cpl", 0, 0.6, **base | {"quota": "global"}, varied=["quota"])]
    both = {"quota": "global", "tie_break": "random"}
    rows += [scored("vlm-cpl", 0, 0.5, **base | both, varied=["quota", "tie_break"])]
    rows += [scored("vlm-cpl", 0, 0.7, **base | {"filters": f}, varied=["filters"])
             for f in ("", "mvc", "pfc")]  # fmt: skip
    rows += [scored("ce-all", s, 0.4) for s in (0, 1)]
    rows += [scored(f"ce-{f}", 0, 0.5, "ours") for f in ("mvc", "pfc", "kept")]
    for method, setting in (("zero-shot", None), ("vlm-cpl", "ours")):
        shifted = {"stain_shift": 1.0, "varied": ["stain_shift"]}
        rows += [scored(method, 0, 0.3, setting, **shifted)]
    return comparison.ablation_frames([*rows, scored("zero-shot", 0, 0.5)])["d"]


def test_an_ablation_is_ours_and_what_differs_in_these_rules_alone(ablated):
    of = comparison.ablation(ablated, "share")
    assert of[["share", "accuracy", "seed"]].values.tolist() == [[0.3, 0.9, 0], [0.5, 0.8, 0]]
    table = comparison.ablation_table(ablated, "tie_break", "quota")
    assert table.accuracy.tolist() == ["0.900", "0.600", "0.500"]
    assert table.ours.tolist() == ["ours", "", ""]
    assert list(comparison.ablation_lines(ablated)) == ["share kept ρ"]


def test_filters_and_cross_supervision_are_on_and_off_in_all_eight_ways(ablated):
    table = comparison.on_off_table(ablated)
    assert len(table) == 8 and len(table[["MVC", "PFC", "HCS"]].drop_duplicates()) == 8
    found = table.set_index(["MVC", "PFC", "HCS"]).accuracy
    assert found["", "", ""] == "0.400" and found["yes", "yes", "yes"] == "0.900"
    assert found["yes", "", ""] == "0.500" and found["", "yes", "yes"] == "0.700"


def test_robustness_has_the_unshifted_rows_of_the_methods_that_were_shifted(ablated):
    lines = comparison.robustness_lines(ablated)
    assert set(lines.method) == {"zero-shot", "vlm-cpl"} and set(lines.seed) == {0}
    assert sorted(lines.stain_shift) == [0, 0, 1, 1]


def of_vlm(vlm, seed, zero_shot, ours, kept=10, dataset="ebhi_binary"):
    rows = [scored("zero-shot", seed, zero_shot, dataset=dataset)]
    rows += [scored("zero-shot", seed, 0.1, split="train", dataset=dataset)]
    rows += [scored("vlm-cpl", seed, ours, "ours", dataset=dataset)]
    rows[-1]["labels"] = {"kept": kept, "precision": 0.9}
    rows += [scored("vlm-cpl", seed, 0.2, "published", dataset=dataset)]
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


def test_a_dataset_is_shown_with_the_vlm_that_its_parameters_name():
    named = "stand-in-lc25k_colon"
    rows = of_vlm(named, 0, 0.5, 0.8) + of_vlm(f"{named}+b", 0, 0.6, 0.9)
    assert {row["vlm"] for row in comparison.of_own_vlm(rows)} == {named}
    assert len(comparison.of_own_vlm(rows)) == 4
