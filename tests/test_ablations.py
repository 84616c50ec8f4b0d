"""What is varied: each rule alone, ours never."""

import numpy as np

from lib import ablations, consensus
from lib.consensus import NONE

OURS = {
    "filters": "mvc+pfc", "n_views": 10, "share": 0.3, "clusters_per_class": 1, "threshold": 0.95,
    "weight": 0.5, "image_size": 128, **consensus.SETTINGS["ours"],
}  # fmt: skip


def test_every_line_differs_from_ours_in_what_it_says_and_in_nothing_else():
    lines = list(ablations.varied_rules(OURS))
    seen = set()
    for rules in lines:
        differing = [name for name in OURS if rules[name] != OURS[name]]
        assert sorted(differing) == sorted(rules["varied"]) and differing
        assert len(differing) == 1 or set(differing) == {"tie_break", "quota"}
        seen.add(tuple(str(rules[name]) for name in OURS))
    assert len(seen) == len(lines)


def test_what_is_asked_for_is_varied():
    lines = list(ablations.varied_rules(OURS))
    asked = {"n_views": 4, "share": 8, "filters": 4, "cluster_on": 1, "clusters_per_class": 2}
    for name, number in asked.items():
        assert sum(rules["varied"] == [name] for rules in lines) == number
    ties = [rules for rules in lines if {"tie_break", "quota"} & set(rules["varied"])]
    assert len(ties) == 3


def test_without_a_filter_every_tile_is_on_both_sides():
    labels = np.array([0, 1, 1])
    data = ablations.labelled_and_not(np.array([5, 6, 9]), labels, ["a", "b"], labels)
    for side in (data.labelled, data.unlabelled):
        assert data.tiles[side].tolist() == [5, 6, 9] and data.truth[side].tolist() == [0, 1, 1]
    assert data.labels[data.unlabelled].tolist() == [NONE] * 3
