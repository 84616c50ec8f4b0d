"""Ablations of both methods: what is varied, and which lines belong to which rule."""

import pandas as pd
import pytest
from made_up_results import SHIFTED, ablated, loop, made, scored

from lib import consensus, parameters, paths
from lib.active import strategies, trainings
from lib.report import ablations
from lib.report.ablations import (
    UNISAL,
    VLM_CPL,
    ablation,
    ablation_grid,
    ablation_lines,
    ablation_table,
    chosen_rules,
)

SETTINGS = {"n_views": 10, "keep_ratio": 0.3, "threshold": 0.95, "cross_weight": 0.5, "hue": 0.05}
OURS = ablations.our_rules(SETTINGS)
ROUNDS = {"strategy": "unisal", "training": "dual-view", "threshold": 0.7, "cross_weight": 0.5}
ROUNDS |= {"contrast": 0.1, "query_share": 0.01, "restart": True, "balance_classes": True}
ONE_RULE = [values for values in ablations.UNISAL_GRID if len(values) == 1]
WITHOUT_BALANCE = [values for values in ablations.UNISAL_GRID if "balance_classes" in values]


# --- what is varied ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "grid"), [(OURS, ablations.VLM_CPL_GRID), (ROUNDS, ONE_RULE)], ids=["vlm", "unisal"]
)
def test_every_value_but_ours_is_varied_once_and_nothing_else_with_it(ours, grid):
    lines = list(ablation_grid(ours, grid))
    for rules in lines:
        differing = [name for name in ours if rules[name] != ours[name]]
        assert sorted(differing) == sorted(rules["varied"]) and differing
        assert len(differing) == 1 or set(differing) == {"tie_break", "quota"}
    assert len({str(rules) for rules in lines}) == len(lines)
    for values in grid:
        for name, each in values.items():
            varied = [rules[name] for rules in lines if rules["varied"] == [name]]
            assert sorted(map(str, varied)) == sorted(str(v) for v in each if v != ours[name])


def test_batches_are_unbalanced_with_every_training_and_three_strategies():
    lines = list(ablation_grid(ROUNDS, WITHOUT_BALANCE))
    kinds = {(rules["training"], rules["strategy"]) for rules in lines}
    named = ("unisal", "margin", "random")
    assert kinds == {(t, s) for t in trainings.TRAININGS for s in named} and len(lines) == 9
    assert not any(rules["balance_classes"] for rules in lines)


def test_ours_are_the_rules_of_the_run_and_those_of_the_notebook():
    assert OURS | {"hue": 0.05} == OURS | SETTINGS and consensus.variant_of(OURS) == "ours"
    assert ablations.our_rules(SETTINGS | {"keep_ratio": 0.2})["keep_ratio"] == 0.2
    file = paths.ROOT / "notebooks" / "22_active_learning_rounds.py"
    declared = parameters.declared_parameters(file)
    assert {name: ROUNDS[name] for name in ROUNDS if name in declared}.items() <= declared.items()
    for values in ablations.UNISAL_GRID:
        assert set(values) <= {"strategy", "training", "balance_classes", *declared}
        assert {*values.get("strategy", ())} <= {*strategies.STRATEGIES}


def test_rules_are_chosen_by_name_and_unknown_ones_refused():
    grid = ablations.VLM_CPL_GRID
    assert chosen_rules(grid, "") == list(grid)
    chosen = chosen_rules(grid, "threshold, quota")
    assert [list(values) for values in chosen] == [["tie_break", "quota"], ["threshold"]]
    for names in ("restart", "thresold", "threshold,thresold"):
        with pytest.raises(ValueError, match="the rules that are varied here are filters"):
            chosen_rules(grid, names)


# --- VLM-CPL -------------------------------------------------------------------------------------

BASE = {name: OURS[name] for name in ("keep_ratio", "cross_weight", "tie_break", "quota")}
BASE["filters"] = "mvc+pfc"


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
    more = [scored("vlm-cpl", 0.1, variant="ours", fold=1, params=BASE), varied(0.6, n_views=2)]
    assert ablation(made(more).facts, VLM_CPL, "n_views").fold.tolist() == [0], "of its own fold"


def test_filters_and_cross_supervision_are_on_and_off_in_all_eight_ways(facts):
    table = ablations.on_off_table(facts)
    assert len(table) == 8 and list(table)[:3] == ["MVC", "PFC", "HCS"]
    accuracy = table.set_index(["MVC", "PFC", "HCS"]).accuracy
    assert accuracy["", "", ""] == "0.400" and accuracy["yes", "yes", "yes"] == "0.900"
    assert accuracy["yes", "", ""] == "0.500" and accuracy["", "yes", "yes"] == "0.700"
    assert ablations.on_off_table(facts[facts.varied != "filters"]).empty


def test_the_hue_of_the_views_is_varied_in_both_variants():
    rows = [varied(0.1, "ce-all", hue=0.2)]
    for variant in ("ours", "published filters"):
        own = {"variant": variant, "params": {"hue": 0.05}}
        rows += [scored("vlm-cpl", 0.9, seed=s, **own) for s in (0, 1)]
        rows += [varied(0.6, variant=variant, hue=0.2)]
    (table,) = ablations.ablation_tables(made(rows).facts, VLM_CPL)
    assert table.accuracy.tolist() == ["0.900", "0.600"] * 2 and set(table.seeds) == {"1"}
    assert table.hue.tolist() == ["± 0.05", "± 0.2"] * 2


def test_a_shifted_method_stands_beside_the_zero_shot_labels_of_its_own_run_and_shift(facts):
    rows = [scored("ce-all", 0.1)]
    for seed in (0, 1):
        for method, variant, clean in (("zero-shot", "", 0.8), ("vlm-cpl", "ours", 0.9)):
            own = {"variant": variant, "seed": seed}
            rows += [scored(method, clean + seed / 20, **own)]
            rows += [scored(method, clean - 0.3 + seed / 20, params=SHIFTED, **own)]
    lines = ablations.robustness_lines(made(rows).facts)
    assert set(lines.method) == {"zero-shot", "vlm-cpl"}
    lines = lines[lines.method == "vlm-cpl"].sort_values(["seed", "shift"])
    assert lines.zero_shot.tolist() == [0.8, 0.5, 0.85, 0.55]
    assert lines.accuracy.tolist() == pytest.approx([0.9, 0.6, 0.95, 0.65])
    assert set(ablations.robustness_lines(facts).seed) == {0}
    assert ablations.robustness_lines(facts[facts.varied != "shift"]).empty


# --- UniSAL --------------------------------------------------------------------------------------


def test_an_ablation_of_loops_is_of_one_rule_and_of_the_seeds_in_which_it_was_varied():
    facts = made(ablated()).facts
    lines = ablation(facts, UNISAL, "threshold")
    assert set(lines.seed) == {0} and set(lines.training) == {"dual-view"} and len(lines) == 9
    assert ablation(facts, UNISAL, "contrast").empty
    (lines, weights) = ablation_lines(facts, UNISAL).values()
    assert lines.x.tolist() == [0.5, 0.7, 0.9] and weights.x.tolist() == [0.0, 0.5, 1.0]
    assert lines.aulc.tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert lines.accuracy.tolist() == pytest.approx([0.81, 0.9, 0.82])
    table = ablation_table(facts, UNISAL, "threshold")
    assert table.threshold.tolist() == ["0.5", "0.7", "0.9"]
    assert table.unchanged.tolist() == ["", "yes", ""]
    assert table["accuracy at the end"].tolist() == ["0.810", "0.900", "0.820"]


def test_parts_are_switched_off_one_by_one_and_only_varied_rules_have_a_table():
    on_off, *tables = ablations.ablation_tables(made(ablated()).facts, UNISAL)
    on = on_off[list(ablations.PARTS)].map(lambda cell: "01"[bool(cell)]).agg("".join, axis=1)
    expected = {"1111": "0.900", "0111": "0.830", "1101": "0.850", "1100": "0.600", "0011": "0.500"}
    assert dict(zip(on, on_off["accuracy at the end"], strict=True)) == expected
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
    lacking = ablations.balance_table(made(unbalanced, balanced[0], balanced[2]).facts)
    assert lacking["balanced batches"][lacking.strategy == "margin"].tolist() == [""]


def test_datasets_with_an_ablation_are_those_of_heads_on_frozen_features():
    facts = made(ablated()).facts
    others = facts.assign(dataset="e", network="fine-tune"), facts[facts.varied == ""]
    together = pd.concat([facts, others[0], others[1].assign(dataset="f")])
    assert list(ablations.ablated_datasets(together)) == ["d"]
