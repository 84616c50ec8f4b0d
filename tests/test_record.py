"""Rows: every field, one key, whole files."""

import pytest

from lib import record


def a_row(method="mvc", seed=0, accuracy=0.5, **fields):
    fields = {"scores": {"accuracy": accuracy}} | fields
    return record.row(dataset="toy", method=method, seed=seed, **fields)


def test_a_row_has_every_field_and_says_what_made_it():
    row = a_row()
    assert list(row) == record.ROW_FIELDS
    assert row["budget"] is None and row["method"] == "mvc"
    assert {"python", "torch", "numpy"} <= set(row["versions"])


def test_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError, match="acuracy"):
        a_row(acuracy=1)


def test_rows_of_one_notebook_replace_only_its_own(tmp_path):
    first, second = tmp_path / "rows" / "11_mvc.jsonl", tmp_path / "rows" / "12_pfc.jsonl"
    record.write_rows(second, [a_row("pfc")])
    record.write_rows(first, [a_row("mvc", accuracy=0.1), a_row("zero-shot")])
    record.write_rows(first, [a_row("mvc", accuracy=0.9)])
    rows = record.read_rows(first, second)
    assert [(r["method"], r["scores"]["accuracy"]) for r in rows] == [("mvc", 0.9), ("pfc", 0.5)]
    assert sorted(file.name for file in first.parent.iterdir()) == [first.name, second.name]


def test_the_headline_is_of_our_setting_on_the_test_set_or_of_the_kept_labels():
    ours = a_row("vlm-cpl", accuracy=0.9, setting="ours", split="test")
    theirs = a_row("vlm-cpl", accuracy=0.8, setting="published filters", split="test")
    kept = a_row("mvc+pfc", scores=None, labels={"precision": 0.975}, split="train")
    assert record.headline([ours, theirs]) == "accuracy 0.900"
    assert record.headline([kept]) == "pseudo-label precision 0.975"
    assert record.headline([]) == ""


def test_a_later_row_of_the_same_key_wins(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    record.write_record(first, [a_row(accuracy=0.1), a_row(seed=1), a_row(params={"views": 3})])
    record.write_record(second, [a_row(accuracy=0.9)])
    rows = record.read_rows(first, second)
    found = {(r["seed"], str(r["params"])): r["scores"]["accuracy"] for r in rows}
    assert found == {(0, "None"): 0.9, (1, "None"): 0.5, (0, "{'views': 3}"): 0.5}
    assert len(record.read_rows(second, first)) == 3


def test_every_key_field_makes_another_key_and_no_other_does():
    row, key = a_row(), record.row_key(a_row())
    for field in record.KEY_FIELDS:
        assert record.row_key(row | {field: "other"}) != key, field
    assert record.row_key(row | {"scores": {}, "seconds": 3, "device": "gpu", "n": 1}) == key


def test_folds_are_rows_of_their_own_and_one_kind():
    assert record.row_key(a_row(fold=0)) != record.row_key(a_row(fold=1))
    before = [a_row(fold=f, accuracy=0.1, params={}) for f in (0, 1)]
    again = [a_row(fold=f, accuracy=0.9, params={}) for f in (0, 1)]
    merged = record.merge_record(before, again)
    assert merged == again, "what was run again replaces every fold"
    with pytest.raises(ValueError, match=r"mvc with seed 0 .* folds \[0, 1\].* lack \[1\]"):
        record.merge_record(before, again[:1])


def test_a_record_can_be_made_seed_by_seed():
    before = [a_row(seed=seed, accuracy=0.1, params={}) for seed in (0, 1)]
    merged = record.merge_record(before, [a_row(seed=1, accuracy=0.9, params={})])
    assert {row["seed"]: row["scores"]["accuracy"] for row in merged} == {0: 0.1, 1: 0.9}


def test_the_order_of_parameters_makes_no_other_key():
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert record.row_key(a_row(params=one)) == record.row_key(a_row(params=other))


def test_the_record_does_not_depend_on_the_order_of_its_rows(tmp_path):
    rows = [a_row(m, s) for m in ("b", "a") for s in (2, 1)]
    record.write_record(tmp_path / "one", rows)
    record.write_record(tmp_path / "other", rows[::-1])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_broken_line_is_named_by_file_and_number(tmp_path):
    file = tmp_path / "broken.jsonl"
    file.write_text('{"dataset": "toy"}\n{"dataset": "toy", "seed\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2"):
        record.read_rows(file)


def test_a_value_that_is_no_number_is_refused_and_the_old_rows_stay(tmp_path):
    file = tmp_path / "11_mvc.jsonl"
    record.write_rows(file, [a_row()])
    before = file.read_bytes()
    with pytest.raises(ValueError):
        record.write_rows(file, [a_row(accuracy=float("nan"))])
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_publishing_replaces_rows_of_the_same_kind_and_no_others():
    kinds = {"none": {}, "ablation": {"varied": ["hue"]}, "shift": {"varied": ["shift"]}}
    before = [a_row("vlm-cpl", accuracy=0.1, params=params) for params in kinds.values()]
    new = [a_row("vlm-cpl", accuracy=0.9, params={"varied": ["hue"], "hue": 0.2})]
    merged = record.merge_record(before, new)
    assert [r["scores"]["accuracy"] for r in merged] == [0.1, 0.1, 0.9]
    assert [r["params"].get("varied") for r in merged] == [None, ["shift"], ["hue"]]
    splits = ("train", "test")
    of_split = [a_row("mean-of-views", split=split, params={}) for split in splits]
    merged = record.merge_record(of_split, [a_row("mean-of-views", split="train", params={})])
    assert sorted(row["split"] for row in merged) == ["test", "train"]
