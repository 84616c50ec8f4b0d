"""Ablations and robustness: which rows belong to which rule, and what is averaged."""

import pandas as pd
import pytest

from lib import record
from lib.report import ablations


def scored(method, seed, accuracy, setting=None, dataset="d", fold=0, **params):
    return record.row(
        dataset=dataset, vlm="v", method=method, setting=setting, fold=fold, seed=seed,
        split="test", n=10, params=params, network=None if method == "zero-shot" else "frozen",
        scores={"accuracy": accuracy, "balanced_accuracy": 0.5},
    )  # fmt: skip


@pytest.fixture
def ablated() -> pd.DataFrame:
    """Two seeds; the second was not ablated."""
    base = {"keep_ratio": 0.3, "cross_weight": 0.5, "tie_break": "probability", "quota": "class"}
    base |= {"filters": "mvc+pfc"}
    rows = [scored("vlm-cpl", s, 0.9, "ours", **base) for s in (0, 1)]
    rows += [scored("vlm-cpl", 0, 0.8, **base | {"keep_ratio": 0.5}, varied=["keep_ratio"])]
    rows += [scored("vlm-cpl", 0, 0.6, **base | {"quota": "global"}, varied=["quota"])]
    both = {"quota": "global", "tie_break": "random"}
    rows += [scored("vlm-cpl", 0, 0.5, **base | both, varied=["quota", "tie_break"])]
    rows += [scored("vlm-cpl", 0, 0.7, **base | {"filters": f}, varied=["filters"])
             for f in ("", "mvc", "pfc")]  # fmt: skip
    rows += [scored("ce-lift", s, 0.4) for s in (0, 1)]
    rows += [scored(f"ce-{f}", 0, 0.5, "ours") for f in ("mvc", "pfc", "kept")]
    for method, setting in (("zero-shot", None), ("vlm-cpl", "ours")):
        shifted = {"shift": "blur2", "varied": ["shift"]}
        rows += [scored(method, 0, 0.3, setting, **shifted)]
    return ablations.ablation_frames([*rows, scored("zero-shot", 0, 0.5)])["d"]


def test_an_ablation_is_ours_and_what_differs_in_these_rules_alone(ablated):
    lines = ablations.ablation(ablated, "keep_ratio")
    assert lines[["keep_ratio", "accuracy", "seed"]].values.tolist() == [
        [0.3, 0.9, 0],
        [0.5, 0.8, 0],
    ]
    table = ablations.ablation_table(ablated, "tie_break", "quota")
    assert table.accuracy.tolist() == ["0.900", "0.600", "0.500"]
    assert table.ours.tolist() == ["ours", "", ""]
    assert list(ablations.ablation_lines(ablated)) == ["keep ratio ρ"]


def test_an_ablation_of_one_fold_is_held_against_that_fold_alone():
    ours = [scored("vlm-cpl", s, 0.5 + f / 5, "ours", fold=f, keep_ratio=0.3)
            for s in (0, 1) for f in (0, 1)]  # fmt: skip
    varied = scored("vlm-cpl", 0, 0.6, fold=1, keep_ratio=0.5, varied=["keep_ratio"])
    frame = ablations.ablation_frame([*ours, varied])
    lines = ablations.ablation(frame, "keep_ratio")
    assert lines[["fold", "seed", "accuracy"]].values.tolist() == [[1, 0, 0.7], [1, 0, 0.6]]
    table = ablations.ablation_table(frame, "keep_ratio")
    assert table.folds.tolist() == table.seeds.tolist() == ["1", "1"]


def test_filters_and_cross_supervision_are_on_and_off_in_all_eight_ways(ablated):
    table = ablations.on_off_table(ablated)
    assert len(table) == 8 and len(table[["MVC", "PFC", "HCS"]].drop_duplicates()) == 8
    accuracy = table.set_index(["MVC", "PFC", "HCS"]).accuracy
    assert accuracy["", "", ""] == "0.400" and accuracy["yes", "yes", "yes"] == "0.900"
    assert accuracy["yes", "", ""] == "0.500" and accuracy["", "yes", "yes"] == "0.700"


def test_robustness_has_the_unshifted_rows_of_the_methods_that_were_shifted(ablated):
    lines = ablations.robustness_lines(ablated)
    assert set(lines.method) == {"zero-shot", "vlm-cpl"} and set(lines.seed) == {0}
    assert sorted(lines["shift"]) == ["", "", "blur2", "blur2"]


def test_a_shifted_method_stands_beside_the_zero_shot_labels_of_its_own_run_and_shift():
    shift = {"shift": "blur2", "varied": ["shift"]}
    rows = []
    for seed in (0, 1):
        rows += [scored("zero-shot", seed, 0.8 + seed / 10), scored("vlm-cpl", seed, 0.9, "ours")]
        rows += [scored("zero-shot", seed, 0.5 + seed / 10, **shift)]
        rows += [scored("vlm-cpl", seed, 0.6, "ours", **shift)]
    lines = ablations.robustness_lines(ablations.ablation_frame(rows))
    lines = lines[lines.method == "vlm-cpl"].sort_values(["seed", "shift"])
    assert lines.zero_shot.tolist() == [0.8, 0.5, 0.9, 0.6]
    assert lines.accuracy.tolist() == [0.9, 0.6, 0.9, 0.6]


def test_the_hue_of_the_views_is_varied_in_both_settings():
    settings = ("ours", "published filters")
    rows = [scored("vlm-cpl", s, 0.9, name, hue=0.05) for s in (0, 1) for name in settings]
    rows += [scored("vlm-cpl", 0, 0.6, name, hue=0.2, varied=["hue"]) for name in settings]
    rows += [scored("ce-all", 0, 0.1, hue=0.2, varied=["hue"])]
    frame = ablations.ablation_frame(rows)
    (table,) = ablations.ablation_tables(frame)
    assert table.accuracy.tolist() == ["0.900", "0.600"] * 2 and set(table.seeds) == {"1"}
    assert table.hue.tolist() == ["± 0.05", "± 0.2"] * 2
    assert ablations.hue_table(frame[frame.varied == ()]).empty


def test_without_a_shift_there_is_no_line():
    rows = [scored("vlm-cpl", 0, 0.9, "ours", keep_ratio=0.3)]
    rows += [scored("vlm-cpl", 0, 0.9, keep_ratio=0.5, varied=["keep_ratio"])]
    frame = ablations.ablation_frame(rows)
    assert ablations.robustness_lines(frame).empty
    assert not ablations.ablation_tables(frame)


def test_a_run_with_another_keep_ratio_has_that_as_its_own():
    rows = [scored("vlm-cpl", 0, 0.9, "ours", keep_ratio=0.2)]
    rows += [scored("vlm-cpl", 0, a, keep_ratio=r, varied=["keep_ratio"])
             for r, a in ((0.1, 0.6), (0.3, 0.7))]  # fmt: skip
    (lines,) = ablations.ablation_lines(ablations.ablation_frame(rows)).values()
    assert lines.x.tolist() == [0.1, 0.2, 0.3]
    assert lines.x[lines.varied == ()].tolist() == [0.2]


def test_active_learning_is_no_ablation_of_vlm_cpl():
    row = scored("full-supervision", 0, 0.5, threshold=0.5, varied=["threshold"]) | {
        "training": "supervised"
    }
    assert not ablations.ablation_frames([row])
