"""Ablations of both methods and robustness: which lines belong to which rule."""

import pandas as pd
import pytest
from made_up_results import RULES, SHIFTED, ablated, loop, made, scored

from lib.report import ablations
from lib.report.ablations import UNISAL, VLM_CPL, ablation, ablation_lines, ablation_table
from lib.report.active_learning import STRATEGIES

BASE = {
    "keep_ratio": 0.3,
    "cross_weight": 0.5,
    "tie_break": "probability",
    "quota": "class",
    "filters": "mvc+pfc",
}


def varied(accuracy, method="vlm-cpl", variant="", **changed):
    return scored(method, accuracy, variant=variant, params=BASE | changed | {"varied": [*changed]})


@pytest.fixture
def facts():
    """Two seeds; the second was not ablated."""
    rows = [scored("vlm-cpl", 0.9, variant="ours", seed=s, params=BASE) for s in (0, 1)]
    rows += [varied(0.8, keep_ratio=0.5), varied(0.6, quota="global")]
    rows += [varied(0.5, quota="global", tie_break="random")]
    rows += [varied(0.7, filters=f) for f in ("", "mvc", "pfc")]
    rows += [scored("ce-lift", 0.4, seed=s) for s in (0, 1)]
    rows += [scored(f"ce-{f}", 0.5, variant="ours") for f in ("mvc", "pfc", "kept")]
    rows += [scored("zero-shot", 0.3, params=SHIFTED), scored("zero-shot", 0.5)]
    rows += [scored("vlm-cpl", 0.3, variant="ours", params=SHIFTED)]
    return ablations.tested(made(rows).facts)


def test_an_ablation_is_ours_and_what_differs_in_these_rules_alone(facts):
    lines = ablation(facts, VLM_CPL, "keep_ratio")
    assert lines[["keep_ratio", "accuracy", "seed"]].values.tolist() == [
        [0.3, 0.9, 0],
        [0.5, 0.8, 0],
    ]
    table = ablation_table(facts, VLM_CPL, "tie_break", "quota")
    assert table.accuracy.tolist() == ["0.900", "0.600", "0.500"]
    assert table.ours.tolist() == ["ours", "", ""]
    (lines,) = ablation_lines(facts, VLM_CPL).values()
    assert lines.x.tolist() == [0.3, 0.5] and lines.x[lines.varied == ""].tolist() == [0.3]
    assert ablation(facts, VLM_CPL, "n_views").empty


def test_an_ablation_of_one_fold_is_compared_with_that_fold_alone():
    ours = [
        scored("vlm-cpl", 0.5 + f / 5, variant="ours", seed=s, fold=f, params=BASE)
        for s in (0, 1)
        for f in (0, 1)
    ]
    facts = made(ours, varied(0.6, keep_ratio=0.5) | {"fold": 1}).facts
    lines = ablation(facts, VLM_CPL, "keep_ratio")
    assert lines[["fold", "seed", "accuracy"]].values.tolist() == [[1, 0, 0.7], [1, 0, 0.6]]
    table = ablation_table(facts, VLM_CPL, "keep_ratio")
    assert table.folds.tolist() == table.seeds.tolist() == ["1", "1"]


def test_filters_and_cross_supervision_are_on_and_off_in_all_eight_ways(facts):
    table = ablations.on_off_table(facts)
    assert len(table) == 8 and len(table[["MVC", "PFC", "HCS"]].drop_duplicates()) == 8
    accuracy = table.set_index(["MVC", "PFC", "HCS"]).accuracy
    assert accuracy["", "", ""] == "0.400" and accuracy["yes", "yes", "yes"] == "0.900"
    assert accuracy["yes", "", ""] == "0.500" and accuracy["", "yes", "yes"] == "0.700"


def test_the_hue_of_the_views_is_varied_in_both_variants():
    rows = []
    for variant in ("ours", "published filters"):
        rows += [
            scored("vlm-cpl", 0.9, variant=variant, seed=s, params={"hue": 0.05}) for s in (0, 1)
        ]
        rows += [varied(0.6, variant=variant, hue=0.2)]
    facts = made(rows, varied(0.1, "ce-all", hue=0.2)).facts
    (table,) = ablations.ablation_tables(facts, VLM_CPL)
    assert table.accuracy.tolist() == ["0.900", "0.600"] * 2 and set(table.seeds) == {"1"}
    assert table.hue.tolist() == ["± 0.05", "± 0.2"] * 2


def test_a_shifted_method_stands_beside_the_zero_shot_labels_of_its_own_run_and_shift(facts):
    rows = []
    for seed in (0, 1):
        for method, variant, clean, moved in (
            ("zero-shot", "", 0.8, 0.5),
            ("vlm-cpl", "ours", 0.9, 0.6),
        ):
            of_run = {"variant": variant, "seed": seed}
            rows += [scored(method, clean + seed / 20, **of_run)]
            rows += [scored(method, moved + seed / 20, params=SHIFTED, **of_run)]
    lines = ablations.robustness_lines(made(rows, scored("ce-all", 0.1)).facts)
    assert set(lines.method) == {"zero-shot", "vlm-cpl"}
    lines = lines[lines.method == "vlm-cpl"].sort_values(["seed", "shift"])
    assert lines.zero_shot.tolist() == [0.8, 0.5, 0.85, 0.55]
    assert lines.accuracy.tolist() == [0.9, 0.6, 0.95, 0.65]
    assert set(ablations.robustness_lines(facts).seed) == {0}
    assert ablations.robustness_lines(facts[facts.varied != "shift"]).empty


# --- UniSAL --------------------------------------------------------------------------------------


def test_an_ablation_of_loops_is_of_one_rule_and_of_the_seeds_in_which_it_was_varied():
    facts = made(ablated()).facts
    lines = ablation(facts, UNISAL, "threshold")
    assert set(lines.seed) == {0} and set(lines.training) == {"dual-view"} and len(lines) == 9
    assert ablation(facts, UNISAL, "contrast").empty
    (lines, weights) = ablation_lines(facts, UNISAL).values()
    assert lines.x.tolist() == [0.5, 0.7, 0.9]
    assert lines.aulc.tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert lines.accuracy.tolist() == pytest.approx([0.81, 0.9, 0.82])
    assert weights.x.tolist() == [0.0, 0.5, 1.0]
    assert weights.x[weights.varied == ""].tolist() == [0.5]
    table = ablation_table(facts, UNISAL, "threshold")
    assert table.threshold.tolist() == ["0.5", "0.7", "0.9"]
    assert table.unchanged.tolist() == ["", "yes", ""]
    assert table["accuracy at the end"].tolist() == ["0.810", "0.900", "0.820"]


def test_parts_are_switched_off_one_by_one_and_only_varied_rules_have_a_table():
    facts = made(ablated()).facts
    on_off, *tables = ablations.ablation_tables(facts, UNISAL)
    parts = ["cross supervision", "contrast", "DUS", "CS"]
    switched = {
        "".join("01"[bool(on)] for on in line[parts]): line["accuracy at the end"]
        for _, line in on_off.iterrows()
    }
    expected = {"1111": "0.900", "0111": "0.830", "1101": "0.850", "1100": "0.600", "0011": "0.500"}
    assert switched == expected
    assert [table.columns[0] for table in tables] == ["strategy", "threshold", "cross_weight"]


def test_balanced_batches_stand_beside_batches_as_the_labels_come():
    rules = {"balance_classes": False, "varied": ["balance_classes"]}
    kinds = (("unisal", "supervised"), ("margin", "dual-view"), ("unisal", "dual-view"))
    unbalanced = [e for kind in kinds for e in loop(*kind, [0.5, 0.6], params=rules)]
    balanced = [loop(*kind, [0.7, 0.8]) for kind in kinds]
    other = loop("unisal", "dual-view", [0.1, 0.1], seed=1)  # a seed in which it was not varied
    table = ablations.balance_table(made(unbalanced, other, *balanced).facts)
    assert table["accuracy at the end"].tolist() == ["0.800", "0.600"] * 3
    assert table["balanced batches"].tolist() == ["yes", ""] * 3
    assert table.training.tolist() == ["dual-view"] * 4 + ["supervised"] * 2
    assert ablations.balance_table(made(other, *balanced).facts).empty
    lacking = made(unbalanced, balanced[0], balanced[2]).facts  # margin, with balance
    table = ablations.balance_table(lacking).set_index("strategy")
    assert table["balanced batches"][STRATEGIES["margin"]] == ""


def test_the_unchanged_loop_is_run_where_the_run_lacks_it():
    ours, trials = RULES | {"training": "dual-view"}, [{"threshold": 0.5, "varied": ["threshold"]}]
    plain = made(loop("unisal", "dual-view", [0.5], params=RULES)).facts
    assert ablations.with_unchanged(trials, ours, plain) == trials
    changed = RULES | {"varied": ["threshold"]}
    others = loop("unisal", "dual-view-aligned", [0.5]) + loop(
        "unisal", "dual-view", [0.5], params=changed
    )
    for before in (others, []):
        first, *rest = ablations.with_unchanged(trials, ours, made(before).facts)
        assert first == ours | {"varied": []} and rest == trials


def test_datasets_with_an_ablation_are_those_of_heads_on_frozen_features():
    facts = made(ablated()).facts
    others = facts.assign(dataset="e", network="fine-tune"), facts[facts.varied == ""]
    together = pd.concat([facts, others[0], others[1].assign(dataset="f")])
    assert list(ablations.ablated_datasets(together)) == ["d"]
