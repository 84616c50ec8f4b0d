"""Ablations of UniSAL: which curves belong to which rule."""

import pandas as pd
import pytest
from made_up_curves import OURS, ablated, curve

from lib.report import active_ablations, active_learning
from lib.report.active_learning import STRATEGIES


def test_an_ablation_is_of_one_rule_and_of_the_seeds_in_which_it_was_varied():
    lines = active_ablations.ablation(ablated(), "threshold")
    assert lines.groupby("threshold").accuracy.max().to_dict() == {0.5: 0.81, 0.7: 0.9, 0.9: 0.82}
    assert set(lines.seed) == {0} and set(lines.training) == {"dual-view"} and len(lines) == 6
    assert active_ablations.ablation(ablated(), "contrast").empty


def test_the_unchanged_loop_is_run_where_the_run_lacks_it():
    ours, trials = OURS | {"training": "dual-view"}, [{"threshold": 0.5, "varied": ["threshold"]}]
    plain = active_learning.rounds_frame(curve("unisal", "dual-view", 0, [0.5, 0.9], **OURS))
    assert active_ablations.with_unchanged(trials, ours, plain) == trials
    rows = curve("unisal", "dual-view-aligned", 0, [0.5, 0.9], **OURS)
    rows += curve("unisal", "dual-view", 0, [0.5, 0.9], **OURS | {"varied": ["threshold"]})
    for lacking in (rows, []):
        before = active_learning.rounds_frame(lacking)
        first, *others = active_ablations.with_unchanged(trials, ours, before)
        assert first == ours | {"varied": []} and others == trials


def test_balanced_batches_stand_beside_batches_as_the_labels_come():
    rules = {"balance_classes": False, "varied": ["balance_classes"]}
    kinds = (("supervised", "unisal"), ("dual-view", "margin"), ("dual-view", "unisal"))
    rows = [row for t, m in kinds for row in curve(m, t, 0, [0.5, 0.6], **rules)]
    rows += [row for t, m in kinds for row in curve(m, t, 0, [0.7, 0.8])]
    rows += curve("unisal", "dual-view", 1, [0.1, 0.1])  # a seed in which it was not varied
    frame = active_learning.rounds_frame(rows)
    table = active_ablations.balance_table(frame)
    assert table["accuracy at the end"].tolist() == ["0.800", "0.600"] * 3
    assert table["balanced batches"].tolist() == ["yes", ""] * 3
    assert table.training.tolist() == ["dual-view"] * 4 + ["supervised"] * 2
    assert len(active_ablations.ablation_tables(frame)) == 1
    assert active_ablations.balance_table(frame[frame.varied == ()]).empty
    not_run = frame[(frame.method == "unisal") | (frame.varied != ())]  # margin, with balance
    table = active_ablations.balance_table(not_run).set_index("strategy")
    assert table["balanced batches"][STRATEGIES["unisal"]].tolist() == ["yes", ""] * 2
    assert table["balanced batches"][STRATEGIES["margin"]] == ""


def test_the_ends_of_curves_are_areas_and_last_accuracies():
    ends = active_ablations.curve_ends(
        active_ablations.ablation(ablated(), "threshold"), "threshold"
    )
    assert ends.threshold.tolist() == [0.5, 0.7, 0.9]
    assert ends.aulc.tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert ends.accuracy.tolist() == [0.81, 0.9, 0.82]


def test_the_unchanged_value_is_marked_in_the_table_of_an_ablation():
    table = active_ablations.ablation_table(ablated(), "threshold")
    assert table.threshold.tolist() == ["0.5", "0.7", "0.9"]
    assert table.unchanged.tolist() == ["", "yes", ""]
    assert table["accuracy at the end"].tolist() == ["0.810", "0.900", "0.820"]


def test_parts_are_switched_off_one_by_one():
    table = active_ablations.on_off_table(ablated())
    parts = ["cross supervision", "contrast", "DUS", "CS"]
    switched = {
        "".join("01"[bool(on)] for on in line[parts]): line["accuracy at the end"]
        for _, line in table.iterrows()
    }
    expected = {"1111": "0.900", "0111": "0.830", "1101": "0.850", "1100": "0.600", "0011": "0.500"}
    assert switched == expected


def test_what_is_drawn_are_rules_that_are_numbers():
    lines = active_ablations.ablation_lines(ablated())
    assert list(lines) == ["threshold τ", "weight w of cross supervision"]
    weight = lines["weight w of cross supervision"]
    assert weight.x.tolist() == [0.0, 0.5, 1.0] and set(weight.own) == {0.5}


def test_only_rules_that_were_varied_have_a_table():
    tables = active_ablations.ablation_tables(ablated())
    assert [table.columns[0] for table in tables] == ["strategy", "threshold", "cross_weight"]


def test_datasets_with_an_ablation_are_those_of_heads_on_frozen_features():
    frame = ablated()
    others = [frame.assign(dataset="e", network="fine-tune"), frame[frame.varied == ()]]
    everything = pd.concat([frame, others[0], others[1].assign(dataset="f")])
    assert list(active_ablations.ablated_datasets(everything)) == ["d"]
    assert active_ablations.ablated_datasets(active_learning.rounds_frame([])) == {}
