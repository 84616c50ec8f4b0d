"""Rows carry truth and estimates, and tables say how far off these were; figures can be drawn."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up_results import made
from made_up_sources import evaluated, rounds, rows_of

from figures import page, quality_tables
from lib.quality import estimate_tables, stopping
from lib.record import Record


@pytest.fixture(scope="module")
def evaluations():
    return evaluated()


def rounds_row():
    evaluation = estimate_tables.evaluate_stopping(
        rounds(), 120, params={"followed": "dual-view/unisal"}
    )
    return rows_of([evaluation])


def test_rows_hold_the_truth_the_estimates_and_the_interval(evaluations):
    rows, said, truth = evaluations
    assert [(e["method"], e["variant"]) for e in rows] == [
        (method, setting)
        for setting in ("published filters", "ours")
        for method in ("audit", "label-free")
    ]
    for e in rows:
        accuracy = (said[e["variant"]].predicted == truth).mean()
        assert e["labels"]["truth"] == pytest.approx(accuracy) and e["n"] == 120
    audited, guessed = rows[2]["labels"], rows[3]["labels"]
    low, high = audited["interval"]
    assert low <= audited["estimates"]["audit"] <= high and audited["coverage"] >= 0.95
    assert rows[2]["budget"] == 20 and rows[3]["budget"] == 0
    assert guessed["raised"] == ["prompts"] and guessed["estimates"]["vlms"] == 1.0
    assert json.loads(json.dumps(rows)) == rows  # plain numbers alone


def test_rows_of_another_kind_are_no_quality(evaluations):
    others = made({"method": "vlm-cpl", "labels": {"truth": 1}}).facts
    assert estimate_tables.quality_frame(rounds_row()).empty
    assert quality_tables.all_tables(others) == []
    frame = estimate_tables.quality_frame(rows_of(evaluations[0]))
    assert len(frame) == 2 * (1 + 7) and set(frame["shift"]) == {""}


def test_errors_are_in_points_and_name_the_worst_run(evaluations):
    rows, said, truth = evaluations
    varied = rows_of(rows, shift="blur2", varied=["shift"])
    both = pd.concat([rows_of(rows), varied.assign(truth=0.2)])
    frame = estimate_tables.quality_frame(both)
    table = estimate_tables.errors_table(frame).set_index("estimate")
    assert table.loc["audit of 20 labels", "runs"] == "4"
    small = frame.assign(labels=frame.labels.where(frame.index > 0, 13))  # a test set of 13 tiles
    assert "audit of 13 to 20 labels" in set(estimate_tables.errors_table(small).estimate)
    networks = table.loc["agreement of the networks"]
    accuracies = [(o.predicted == truth).mean() for o in said.values()]
    off = [1 - a for a in accuracies] + [0.8, 0.8]
    assert networks["mean error"] == f"{100 * np.mean(off):.1f}"
    assert networks["largest error"] == "80.0 (d blur2, published filters)"
    assert networks["bias"] == f"{100 * np.mean(off):+.1f}" and networks["rank correlation"] == ""
    lines = quality_tables.by_dataset(frame)
    assert lines["shift"].tolist() == ["", "", "blur2", "blur2"]
    assert lines["agreement of the networks"].tolist()[2:] == ["80.0 / 80.0"] * 2
    assert lines.warned.tolist() == ["1"] * 4
    assert quality_tables.audit_table(frame).labels.tolist() == ["20"] * 4


def test_the_verdict_says_whether_one_is_within_three_points_everywhere(evaluations):
    frame = estimate_tables.quality_frame(rows_of(evaluations[0]))
    for off, words in (
        (0.02, "Agreement of views: within ± 3 points of the true accuracy in all of 2 runs of d."),
        (0.04, "No label-free estimate is within ± 3 points of the true accuracy in all of 2 runs"),
        (0.04, "of d: the one that is off least, agreement of views, is off by up to 4.0 points."),
    ):
        value = frame.truth + np.where(frame.estimate == "views", off, 0.1)
        assert words in estimate_tables.verdict(frame.assign(value=value))
    assert "without a label" in estimate_tables.verdict(frame[:0])


def test_estimates_stand_beside_the_truth_and_their_error_elsewhere(evaluations):
    frame = estimate_tables.quality_frame(rows_of(evaluations[0]))
    found = {"ours": {"networks": 0.9, "views": 0.8}}
    table = estimate_tables.estimates_table(found, {"ours": 0.7}, frame)
    assert table.index.tolist() == [
        "true accuracy",
        "agreement of the networks",
        "agreement of views",
    ]
    assert table.ours.tolist() == [0.7, 0.9, 0.8]
    assert table["largest error in the record"].iloc[1] == pytest.approx(1 - frame.truth.min())
    alone = estimate_tables.estimates_table(found, {"ours": 0.7}, frame[:0])
    assert alone.columns.tolist() == ["ours"]


def test_what_the_last_rounds_changed_stands_beside_what_they_gained():
    facts = rounds_row()
    assert facts.rounds[0]["changed"][0] is None and facts.budget[0] == 25
    line = quality_tables.stopping_table(facts).iloc[0]
    assert line["changed by the last three rounds"] == "10.0%"
    assert line["accuracy gained in them, points"] == "+11.0"
    assert quality_tables.stopping_table(facts[:0]).empty and stopping.LAST == 3


def test_quality_has_its_section_among_the_results(evaluations, tmp_path):
    shifted = rows_of(evaluations[0], shift="blur2", varied=["shift"])
    facts = pd.concat([rows_of(evaluations[0]), shifted, rounds_row()], ignore_index=True)
    shown = page.build(Record(facts, made().counts), {"d": "Synthetic."})
    assert [section.topic for section in shown.sections] == ["How good is it?"], "no comparison"
    text = shown.text()
    assert "\n## How good is it?\n" in text and "[How good is it?](#how-good-is-it)" in text
    verdict = estimate_tables.verdict(estimate_tables.quality_frame(facts))
    assert f"\n\n{verdict}\n\n" in text and "(how_good_is_it.png)" in text
    shown.write(tmp_path)
    assert (tmp_path / "how_good_is_it.png").is_file()
    assert len(shown.outputs("How good is it?")) == 1 + 4 + 1
