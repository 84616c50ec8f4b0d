"""What is varied: each rule alone, ours never."""

import pytest

from lib import consensus, parameters, paths
from lib.active import trainings
from lib.active.strategies import STRATEGIES
from lib.report import ablations

SETTINGS = {"n_views": 10, "keep_ratio": 0.3, "threshold": 0.95, "cross_weight": 0.5, "hue": 0.05}
OURS = ablations.our_rules(SETTINGS)


def test_every_line_differs_from_ours_in_what_it_says_and_in_nothing_else():
    lines = list(ablations.ablation_grid(OURS))
    seen = set()
    for rules in lines:
        differing = [name for name in OURS if rules[name] != OURS[name]]
        assert sorted(differing) == sorted(rules["varied"]) and differing
        assert len(differing) == 1 or set(differing) == {"tie_break", "quota"}
        seen.add(tuple(str(rules[name]) for name in OURS))
    assert len(seen) == len(lines)


def test_what_is_asked_for_is_varied():
    lines = list(ablations.ablation_grid(OURS))
    expected = {
        "n_views": 4,
        "keep_ratio": 8,
        "filters": 4,
        "cluster_on": 1,
        "cluster_rule": 1,
        "clusters_per_class": 3,
    }
    for name, number in expected.items():
        assert sum(rules["varied"] == [name] for rules in lines) == number
    ties = [rules for rules in lines if {"tie_break", "quota"} & set(rules["varied"])]
    assert len(ties) == 3


def test_ours_are_the_rules_of_the_run():
    assert OURS | {"hue": 0.05} == OURS | SETTINGS
    assert consensus.variant_of(OURS) == "ours"
    assert ablations.our_rules(SETTINGS | {"keep_ratio": 0.2})["keep_ratio"] == 0.2


def test_rules_are_chosen_by_name_and_unknown_ones_refused():
    grid = ablations.VLM_CPL_GRID
    assert ablations.chosen_rules(grid, "") == list(grid)
    chosen = ablations.chosen_rules(grid, "threshold, quota")
    assert [list(values) for values in chosen] == [["tie_break", "quota"], ["threshold"]]
    for names in ("restart", "thresold", "threshold,thresold"):
        with pytest.raises(ValueError, match="the rules that are varied here are filters"):
            ablations.chosen_rules(grid, names)


ROUNDS = {
    "strategy": "unisal",
    "training": "dual-view",
    "threshold": 0.7,
    "cross_weight": 0.5,
    "contrast": 0.1,
    "query_share": 0.01,
    "restart": True,
    "balance_classes": True,
}


ONE_RULE = [values for values in ablations.UNISAL_GRID if len(values) == 1]
WITHOUT_BALANCE = [values for values in ablations.UNISAL_GRID if "balance_classes" in values]


def test_of_the_rounds_one_thing_at_a_time_is_varied_and_ours_is_not_among_them():
    lines = list(ablations.ablation_grid(ROUNDS, ONE_RULE))
    for rules in lines:
        (name,) = rules["varied"]
        assert [other for other in ROUNDS if rules[other] != ROUNDS[other]] == [name]
    everything = [*lines, *ablations.ablation_grid(ROUNDS, WITHOUT_BALANCE)]
    assert len({str(sorted(rules.items())) for rules in everything}) == len(everything)
    varied = {name for rules in everything for name in rules["varied"]}
    assert varied == set(ROUNDS)


def test_of_the_rounds_every_value_but_ours_is_varied_once():
    lines = list(ablations.ablation_grid(ROUNDS, ONE_RULE))
    for values in ONE_RULE:
        ((name, all_values),) = values.items()
        assert ROUNDS[name] in all_values
        varied = [rules[name] for rules in lines if rules["varied"] == [name]]
        assert sorted(varied) == sorted(value for value in all_values if value != ROUNDS[name])


def test_batches_are_unbalanced_with_every_training_and_three_strategies():
    lines = list(ablations.ablation_grid(ROUNDS, WITHOUT_BALANCE))
    assert {(rules["training"], rules["strategy"]) for rules in lines} == {
        (training, strategy)
        for training in trainings.TRAININGS
        for strategy in ("unisal", "margin", "random")
    }
    assert len(lines) == 9 and not any(rules["balance_classes"] for rules in lines)


def test_the_rounds_that_are_varied_are_those_of_the_notebook():
    declared = parameters.declared_parameters(
        paths.ROOT / "notebooks" / "22_active_learning_rounds.py"
    )
    for name, value in ROUNDS.items():
        if name in declared:
            assert declared[name] == value
    for values in ablations.UNISAL_GRID:
        assert set(values) <= {"strategy", "training", "balance_classes", *declared}
    strategies = next(v["strategy"] for v in ablations.UNISAL_GRID if "strategy" in v)
    assert set(strategies) <= set(STRATEGIES)
