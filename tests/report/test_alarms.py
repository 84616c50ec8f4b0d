"""The alarm is held against full supervision of the same run, and counted in four ways."""

import pytest

from lib import record
from lib.report import alarms


def scored(method, accuracy, raised=None, recall=1.0, fold=0, seed=0, setting=None, **params):
    return record.row(
        dataset="d", vlm="v", method=method, setting=setting, fold=fold, seed=seed, split="test",
        network="frozen", params=params, labels=None if raised is None else {"alarms": raised},
        scores={"accuracy": accuracy, "recall": {"a": recall, "b": None}},
    )  # fmt: skip


def run(accuracy, raised, full=0.9, **fields):
    ours = scored("vlm-cpl", accuracy, raised, setting="ours", **fields)
    fields.pop("recall", None)
    return [ours, scored("full-supervision", full, **fields)]


SHIFTED = {"shift": "blur2", "varied": ["shift"]}


def test_an_alarm_is_right_where_a_run_is_far_below_full_supervision_or_loses_a_class():
    cases = {0.80: True, 0.849: True, 0.85: False, 0.95: False}
    for accuracy, failed in cases.items():
        assert alarms.alarm_frame(run(accuracy, [])).failed.tolist() == [failed], accuracy
    assert alarms.alarm_frame(run(0.9, [], recall=0.0)).failed.tolist() == [True]


def test_runs_are_counted_in_four_ways_per_dataset_and_in_all():
    rows = run(0.5, ["flat"]) + run(0.9, ["flat", "lost"], seed=1) + run(0.5, [], fold=1)
    rows += run(0.9, [], fold=1, seed=1) + run(0.5, ["lost"], full=0.6, **SHIFTED)
    table = alarms.alarm_table(alarms.alarm_frame(rows))
    assert table.tiles.tolist() == ["", "shifted", ""] and table.dataset.tolist()[-1] == "all"
    counts = table[["runs", "true alarms", "false alarms", "misses", "rightly silent"]]
    assert counts.values.tolist() == [list("41111"), list("11000"), list("52111")]
    kinds = alarms.kinds_table(alarms.alarm_frame(rows)).set_index("alarm")
    assert kinds.raised.to_dict() == {"flat": "2", "lost": "2"}
    assert kinds.right.to_dict() == {"flat": "1", "lost": "1"}


def test_each_shift_has_its_own_full_supervision():
    rows = run(0.5, [], full=0.9) + run(0.5, [], full=0.52, **SHIFTED)
    frame = alarms.alarm_frame(rows).set_index("shifted")
    assert frame.failed.to_dict() == {False: True, True: False}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [scored("vlm-cpl", 0.5), scored("full-supervision", 0.9)],
        [scored("vlm-cpl", 0.5, ["flat"])],
        [scored("vlm-cpl", 0.5, ["flat"], hue=0.2, varied=["hue"]), scored("full-supervision", 1)],
        [
            scored(method, a, alarms, hue=0.2, varied=["hue"])
            for method, a, alarms in (("vlm-cpl", 0.5, ["flat"]), ("full-supervision", 1, None))
        ],
        [scored("vlm-cpl", 0.5, ["flat"], fold=1), scored("full-supervision", 0.9)],
    ],
)
def test_rows_without_the_field_or_without_full_supervision_are_left_out(rows):
    frame = alarms.alarm_frame(rows)
    assert frame.empty and alarms.alarm_table(frame).empty and alarms.kinds_table(frame).empty
