"""A run knows its settings: each has one owner, and every row carries those that it rests on."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from lib import chain, record
from lib.run_folder import Run, open_run

NAMES = ("toy", "none/at all", 3)
VIEWS, FILTERS, HCS = (
    "11_multi_view_consensus",
    "12_prompt_feature_consensus",
    "13_high_confidence_cross_supervision",
)


def test_a_later_notebook_reads_what_an_earlier_one_decided():
    Run(VIEWS, *NAMES, n_views=4, hue=0.1).decide(prompts=[["a"], ["b"]])
    settings = Run(FILTERS, *NAMES).settings
    assert dict(settings) == {"n_views": 4, "hue": 0.1, "prompts": [["a"], ["b"]]}


def test_the_owner_may_change_its_mind_and_drop_a_setting():
    Run(VIEWS, *NAMES, n_views=4, hue=0.1)
    Run(VIEWS, *NAMES, n_views=30)
    assert dict(Run(FILTERS, *NAMES).settings) == {"n_views": 30}


def test_a_name_may_stand_in_several_notebooks_and_the_nearest_one_counts():
    Run(HCS, *NAMES, threshold=0.95, n_steps=9)
    Run("22_active_learning_rounds", *NAMES, threshold=0.7, n_steps=9, restart=True)
    assert Run("14_comparison", *NAMES).settings["threshold"] == 0.95
    start = Run("30_cold_start", *NAMES)
    expected = {"13.threshold": 0.95, "22.threshold": 0.7, "n_steps": 9, "restart": True}
    assert dict(start.settings) == start.record([{}]).facts.settings[0] == expected
    assert start.settings_of(HCS) == {"threshold": 0.95, "n_steps": 9}
    with pytest.raises(ValueError, match="'threshold' before 30_cold_start"):
        start.settings["threshold"]
    assert Run("30_cold_start", *NAMES, threshold=0.5).settings["threshold"] == 0.5


def test_a_setting_that_nobody_decided_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=f"'n_views' before {FILTERS}"):
        Run(FILTERS, *NAMES).settings["n_views"]


def test_whole_networks_have_settings_of_their_own_and_share_those_before():
    Run(VIEWS, *NAMES, n_views=4)
    Run(HCS, *NAMES, n_steps=1000)
    Run(HCS, *NAMES, network="fine-tune", n_steps=150)
    comparison = Run("14_comparison", *NAMES, network="fine-tune")
    assert comparison.settings["n_steps"] == 150 and comparison.settings["n_views"] == 4
    assert Run("14_comparison", *NAMES).settings["n_steps"] == 1000
    with pytest.raises(ValueError, match="network must be"):
        Run(HCS, *NAMES, network="frosen")


def test_whole_networks_do_not_take_the_steps_of_the_heads():
    Run(HCS, *NAMES, n_steps=1000)
    with pytest.raises(ValueError, match="'n_steps'"):
        Run("14_comparison", *NAMES, network="fine-tune").settings["n_steps"]


def test_rows_carry_the_settings_of_every_notebook_before_and_their_own():
    Run(VIEWS, *NAMES, n_views=4, keep_ratio=0.2)
    Run("20_dual_view_pseudo_training", *NAMES, threshold=0.6)
    run = Run(HCS, *NAMES, threshold=0.9)
    made = run.record(
        [{"method": "vlm-cpl", "params": {"quota": "class"}}, {"method": "x", "seconds": 1}]
    ).facts
    for facts in (made, run.results().facts, record.read(run.file(f"results/{HCS}")).facts):
        assert facts.method.tolist() == ["vlm-cpl", "x"]
        assert facts.settings[0] == {"n_views": 4, "keep_ratio": 0.2, "threshold": 0.9}
        assert facts.params[0] == {"quota": "class"} and facts.threshold.tolist() == [0.9, 0.9]
        assert tuple(facts[["dataset", "vlm", "seed"]].iloc[1]) == NAMES


def test_rows_of_two_notebooks_at_once_do_not_replace_each_other():
    first, second = Run(VIEWS, *NAMES), Run(FILTERS, *NAMES)
    second.record([{"method": "pfc"}])
    first.record([{"method": "mvc"}])
    assert first.results().facts.method.tolist() == ["mvc", "pfc"]
    assert first.results(FILTERS).facts.method.tolist() == ["pfc"]


def test_arrays_and_tables_come_back_as_they_were_saved():
    run = Run(VIEWS, *NAMES)
    votes, table = np.arange(6, dtype=np.int16).reshape(2, 3), pd.DataFrame({"tile": [1, 2]})
    run.save(votes=votes, consensus=table)
    loaded, frame = Run(FILTERS, *NAMES).load("votes", "consensus")
    assert loaded.dtype == np.int16 and np.array_equal(loaded, votes)
    pd.testing.assert_frame_equal(frame, table)
    with pytest.raises(FileNotFoundError, match=r"no 'probs'.*run 00_tiles_and_splits, 10_zero"):
        run.load("probs")


def test_whole_networks_keep_the_tables_of_the_heads():
    frozen, tuned = Run(HCS, *NAMES), Run(HCS, *NAMES, network="fine-tune")
    frozen.save(predictions=pd.DataFrame({"tile": [1]}))
    tuned.save(predictions=pd.DataFrame({"tile": [2]}))
    tuned.record([{"method": "vlm-cpl"}])
    frozen.record([{"method": "zero-shot"}])
    assert frozen.load("predictions").tile.tolist() == [1]
    assert tuned.load("predictions").tile.tolist() == [2]
    assert sorted(frozen.results(HCS).facts.method) == ["vlm-cpl", "zero-shot"]


def test_a_fold_reads_what_all_folds_share_and_writes_beside_it():
    shared = Run(VIEWS, *NAMES, keep_ratio=0.4)
    shared.save(votes=np.zeros(3), tiles=pd.DataFrame({"tile": range(4), "fold": [0, 1, 1, -1]}))
    first, second = (Run(FILTERS, *NAMES, fold) for fold in (0, 1))
    first.save(pseudo=np.ones(2))
    assert first.load("votes").tolist() == [0, 0, 0] and first.settings["keep_ratio"] == 0.4
    with pytest.raises(FileNotFoundError, match="'pseudo'"):
        second.load("pseudo")
    assert first.folder == first.shared / "fold0" == shared.folder / "fold0"
    assert [part.tile.tolist() for part in second.split()] == [[0, 3], [1, 2]]
    with pytest.raises(ValueError, match=r"no fold 2; its folds are \[0, 1\]"):
        Run(FILTERS, *NAMES, 2).split()


def test_rows_of_a_fold_are_its_own_and_those_that_all_folds_share():
    Run(VIEWS, *NAMES, hue=0.1).record([{"method": "mvc", "fold": fold} for fold in (0, 1)])
    first, second = (Run(FILTERS, *NAMES, fold) for fold in (0, 1))
    second.record([{"method": "pfc"}])
    facts = first.record([{"method": "pfc", "variant": "ours"}]).facts
    assert (facts.fold[0], facts.settings[0]) == (0, {"hue": 0.1})
    facts = second.results().facts
    assert facts.method.tolist() == ["mvc", "pfc"] and facts.fold.tolist() == [1, 1]
    assert first.results(VIEWS).facts.method.tolist() == ["mvc"]
    assert len(Run(VIEWS, *NAMES).results().facts) == 2


def test_a_notebook_opens_its_run_with_the_parameters_of_its_cell():
    values = dict(zip(("dataset", "vlm", "seed"), NAMES, strict=True), n_views=4, hue=0.1)
    run = open_run(VIEWS, values | {"keep_ratio": 0.3, "batch_size": 8, "other": 1})
    settings = {"n_views": 4, "hue": 0.1, "keep_ratio": 0.3, "batch_size": 8}
    assert dict(run.settings) == settings and run.folder == Run(VIEWS, *NAMES).folder


def test_settings_of_one_fold_are_not_those_of_another():
    Run(HCS, *NAMES, 0, n_steps=1000)
    assert Run("14_comparison", *NAMES, 0).settings["n_steps"] == 1000
    with pytest.raises(ValueError, match="'n_steps'"):
        Run("14_comparison", *NAMES, 1).settings["n_steps"]


def _decide(number: int) -> None:
    Run(f"{number}_toy", *NAMES, **{f"setting_{number}": number})


def test_notebooks_side_by_side_lose_no_setting():
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_decide, range(10, 30)))
    written = json.loads(Run(VIEWS, *NAMES).file("settings.json").read_text())
    assert {f"{n}_toy" for n in range(10, 30)} <= set(written)


def test_ancestors_are_all_that_a_notebook_rests_on():
    before = chain.ancestors("14_comparison")
    assert before == sorted(n for n in chain.CHAIN if n[:2] in ("00", "10", "11", "12", "13"))
    assert chain.ancestors("22_active_learning_rounds") == before[:3]
    assert chain.ancestors("90_your_own_tiles") == []
    for name, step in chain.CHAIN.items():
        assert all(other < name for other in step.after) or step.extra == "first", name
