"""Counts, facts and settings: written, read again, joined and replaced."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up_results import SHIFTED, made, scored

from lib import record


def accuracies(some):
    return some.facts.accuracy.round(6).tolist()


def test_an_evaluation_has_every_field_and_says_what_made_it():
    some = made(scored("zero-shot", 0.5), {"method": "audit", "labels": {"truth": 0.3}})
    assert set(record.FIELDS) <= set(some.facts)
    first, audit = some.facts.to_dict("records")
    assert first["unit"] == "tile" and first["varied"] == first["variant"] == ""
    assert {"python", "torch", "numpy"} <= set(first["versions"])
    assert np.isnan(audit["accuracy"]) and audit["truth"] == 0.3 and audit["fold"] == 0
    with pytest.raises(TypeError, match="acuracy"):
        made(scored("mvc", 0.5, acuracy=1))


def test_scores_follow_from_counts():
    counted = pd.DataFrame([(0, "a", 4, 3), (0, "b", 4, 4), (2, "a", 2, 1)], columns=record.COUNTS)
    (line,) = made(scored("m", 0) | {"counts": counted}).facts.itertuples()
    assert line.accuracy == 0.8 and line.balanced_accuracy == (7 / 8 + 1 / 2) / 2
    assert line.class_n.tolist() == [8, 0, 2] and line.class_correct.tolist() == [7, 0, 1]


def test_what_is_written_is_read_again(tmp_path):
    labels = {"kept": 3, "precision": 0.5, "alarms": ["flat"], "per_class": {"a": {"kept": 3}}}
    evaluations = [
        scored("vlm-cpl", 0.5, groups=("g", "h"), labels=labels, variant="ours", round=1),
        scored("vlm-cpl", 0.75, params={"hue": 0.2, "objective": "x", **SHIFTED}),
    ]
    settings = {"hue": 0.1, "prompts": [["a"], ["é"]], "n_views": 10}
    some = record.make(evaluations, settings)
    some.write(tmp_path / "d")
    again = record.read(tmp_path / "d")
    assert record.stems(tmp_path) == [tmp_path / "d"]
    for one, other in ((some.facts, again.facts), (some.counts, again.counts)):
        pd.testing.assert_frame_equal(one, other, check_dtype=False)
    first, second = again.facts.to_dict("records")
    assert (first["hue"], first["n_views"], second["hue"]) == (0.1, 10, 0.2)
    assert second["varied"] == "shift" and second["value"] == second["shift"] == "stain+1.0"
    assert first["settings"]["prompts"] == [["a"], ["é"]] and first["alarms"] == ["flat"]
    counts = pd.read_parquet(tmp_path / "d.parquet")
    assert list(counts) == [*record.IDENTITY, "evaluation", *record.COUNTS]
    assert counts.value.tolist() == [""] * 4 + ["stain+1.0"] * 2
    assert len(json.loads((tmp_path / "d.settings.json").read_text())) == 1, "once, not per line"


def test_one_notebook_replaces_its_own_results_and_a_later_one_the_same_evaluation(tmp_path):
    first, second = tmp_path / "11_a", tmp_path / "12_b"
    made(scored("pfc", 0.5)).write(second)
    made(scored("mvc", 0.1), scored("zero-shot", 0.2)).write(first)
    made(scored("mvc", 0.9)).write(first)
    assert accuracies(record.read(first, second)) == [0.9, 0.5]
    made(scored("mvc", 0.7), scored("mvc", 0.3, seed=1)).write(second)
    both = record.read(first, second)
    assert accuracies(both) == [0.7, 0.3]
    assert accuracies(record.concat([both, made(scored("mvc", 0.2))])) == [0.3, 0.2]
    assert record.read().facts.empty and record.concat([]).facts.empty


@pytest.mark.parametrize("field", record.IDENTITY)
def test_every_field_of_the_identity_makes_another_evaluation(field):
    other = 5 if field in record.NUMBERS else "other"
    params = {"varied": ["hue"], "hue": 1} if field in ("varied", "value") else {}
    params = {"pooling": "max"} if field == "pooling" else params
    one, two = scored("m", 0.5), scored("m", 0.6, params=params)
    two |= {} if params else {field: other}
    assert len(made(one, two).facts) == 2
    assert len(made(one, one | {"seconds": 3, "device": "gpu"}).facts) == 1


def test_a_value_that_is_no_number_is_refused_and_the_old_results_stay(tmp_path):
    made(scored("mvc", 0.5)).write(tmp_path / "a")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        made(scored("mvc", 0.5, params={"hue": float("nan")})).write(tmp_path / "a")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_headline_is_of_our_variant_on_the_test_set_or_of_the_kept_labels():
    ours = scored("vlm-cpl", 0.9, variant="ours")
    theirs = scored("vlm-cpl", 0.8, variant="published filters")
    kept = scored("mvc+pfc", 0, split="train", labels={"precision": 0.975}) | {"counts": None}
    assert record.headline(made(ours, theirs)) == "VLM-CPL, ours: accuracy 0.900"
    words = "MVC, then PFC, ours: pseudo-label precision 0.975"
    assert record.headline(made(kept)) == words
    assert record.headline(made()) == ""
