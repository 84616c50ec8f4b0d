"""What is varied: each rule alone, ours never."""

import numpy as np

from lib import consensus, paths, runner
from lib.labels import UNLABELLED
from lib.report import ablations

OURS = {
    "filters": "mvc+pfc", "n_views": 10, "share": 0.3, "clusters_per_class": 1, "threshold": 0.95,
    "weight": 0.5, "image_size": 128, **consensus.SETTINGS["ours"],
}  # fmt: skip


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
    asked = {"n_views": 4, "share": 8, "filters": 4, "cluster_on": 1, "clusters_per_class": 2}
    for name, number in asked.items():
        assert sum(rules["varied"] == [name] for rules in lines) == number
    ties = [rules for rules in lines if {"tie_break", "quota"} & set(rules["varied"])]
    assert len(ties) == 3


def test_without_a_filter_every_tile_is_on_both_sides():
    labels = np.array([0, 1, 1])
    data = trainer.labelled_and_not(np.array([5, 6, 9]), labels, ["a", "b"], labels)
    for side in (data.labelled, data.unlabelled):
        assert data.tiles[side].tolist() == [5, 6, 9] and data.truth[side].tolist() == [0, 1, 1]
    assert data.labels[data.unlabelled].tolist() == [UNLABELLED] * 3


ROUNDS = {
    "strategy": "unisal", "training": "dual-view", "tau": 0.7, "weight": 0.5, "contrast": 0.1,
    "query_share": 0.01, "restart": True,
}  # fmt: skip


def test_of_the_rounds_one_thing_at_a_time_is_varied_and_ours_is_not_among_them():
    lines = list(ablations.ablation_grid(ROUNDS, ablations.UNISAL_GRID))
    for rules in lines:
        (name,) = rules["varied"]
        assert [other for other in ROUNDS if rules[other] != ROUNDS[other]] == [name]
    assert len({str(sorted(rules.items())) for rules in lines}) == len(lines)
    assert {rules["varied"][0] for rules in lines} == set(ROUNDS) - {"training"}


def test_of_the_rounds_every_value_but_ours_is_varied_once():
    lines = list(ablations.ablation_grid(ROUNDS, ablations.UNISAL_GRID))
    for values in ablations.UNISAL_GRID:
        ((name, all_values),) = values.items()
        assert ROUNDS[name] in all_values
        found = [rules[name] for rules in lines if rules["varied"] == [name]]
        assert sorted(found) == sorted(value for value in all_values if value != ROUNDS[name])


def test_the_rounds_that_are_varied_are_those_of_the_notebook():
    declared = runner.declared_parameters(paths.ROOT / "notebooks" / "22_active_learning_rounds.py")
    for name, value in ROUNDS.items():
        if name in declared:
            assert declared[name] == value
    for values in ablations.UNISAL_GRID:
        assert set(values) <= {"strategy", *declared}
    strategies = next(v["strategy"] for v in ablations.UNISAL_GRID if "strategy" in v)
    assert set(strategies) <= set(strategies.STRATEGIES)
