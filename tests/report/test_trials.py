"""Trials and loops as evaluations: what they learnt from, what is varied, areas per group."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import record
from lib.report import active_evaluation, trials
from lib.report.active_learning import curve_weights

CLASSES = ["a", "b"]
TRUTH = np.array([0, 1, 1, 0])
TEST = pd.DataFrame({"tile": [4, 5, 6], "group": ["a", "a", "b"], "label": [0, 1, 1]})
SOME = np.array([True, True, False, True])


def trial(method="ce-mvc", setting="ours", **params):
    """Of four tiles three are learnt from, two of these with the correct label."""
    named = {"method": method, "setting": setting, "source": "zero-shot labels", "params": params}
    labels = {"labels": np.array([0, 0, 1, 0]), "kept": SOME}
    return SimpleNamespace(**named, **labels, objective="CE")


def outcome(of=None, method="mean-of-views", alarms=None):
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])  # correct, incorrect, correct
    own = {"method": method, "setting": "", "params": {}, "seconds": None}
    if of:
        own = {"method": of.method, "setting": of.setting, "params": of.params, "seconds": 2.0}
    return SimpleNamespace(**own, probs=probs, trial=of, alarms=alarms)


def test_trials_are_shown_with_how_many_labels_and_how_many_of_them_are_correct():
    planned = [trial(), trial(varied=["keep_ratio", "quota"], keep_ratio=0.1, quota="class")]
    table = trials.trials_table(planned, TRUTH, CLASSES)
    assert table.tiles.tolist() == [3, 3]
    assert table["pseudo-label precision"].tolist() == [0.667, 0.667]
    assert table.setting.tolist() == ["ours", "keep_ratio=0.1, quota=class"]
    assert table["classes without"].tolist() == [1, 1]


def test_a_trained_outcome_says_what_it_learnt_from_and_another_does_not():
    outcomes, given = [outcome(trial(rules=1)), outcome()], (TRUTH, TEST, CLASSES)
    some = record.make(trials.evaluate(outcomes, *given, network="frozen", device="cpu"))
    trained, untrained = some.facts.to_dict("records")
    assert trained["accuracy"] == pytest.approx(2 / 3) and trained["n"] == 3
    assert trained["kept"] == 3 and trained["variant"] == "ours"
    assert trained["params"] == {"rules": 1, "objective": "'CE'"}
    assert (trained["network"], trained["seconds"]) == ("frozen", 2.0)
    assert untrained["network"] == untrained["variant"] == "" and np.isnan(untrained["kept"])
    assert set(some.facts.device) == {"cpu"} and set(some.facts.split) == {"test"}
    assert some.counts.groupby("group").n.sum().to_dict() == {"a": 4, "b": 2}


def test_a_shifted_evaluation_is_marked_as_varied():
    alarms = [SimpleNamespace(name="flat clusters"), SimpleNamespace(name="flat clusters")]
    outcomes = {"blur2": [outcome(), outcome(trial(), alarms=alarms)], "jpeg9": [outcome()]}
    facts = record.make(trials.evaluate_varied("shift", outcomes, TRUTH, TEST, CLASSES)).facts
    assert facts.alarms[1] == ["flat clusters"] and facts.kept[1] == 3
    assert facts.value.tolist() == ["blur2", "blur2", "jpeg9"] and set(facts.varied) == {"shift"}
    assert facts.network.tolist() == ["", "frozen", ""]


# --- loops ---------------------------------------------------------------------------------------


def history(seed=0):
    """Two rounds, of which the second chose nothing any more; a tile of the second was refused."""
    queries = {"tile": [4, 7, 5, 6], "label": [0, 1, 1, -2], "round": [0, 0, 1, 1]}
    rounds = {"round": [0, 1], "labelled": [2, 3], "confident": [0.4, 0.5]}
    rounds |= {"precision": [None, 0.9], "disagreeing": [5, None], "filled": [0, None]}
    rounds |= {"training_seconds": [1.0, 2.0], "selection_seconds": [0.5, 0.0]}
    probs = np.random.default_rng(seed).dirichlet([1, 1], (2, 3)).astype(np.float32)
    return SimpleNamespace(queries=pd.DataFrame(queries), rounds=pd.DataFrame(rounds), probs=probs)


def test_a_loop_is_an_evaluation_per_round_and_one_of_its_curve():
    fields = {"training": "dual-view", "network": "frozen"}
    evaluations = active_evaluation.evaluate_loop("unisal", history(), TEST, CLASSES, **fields)
    some = record.make(evaluations)
    first, second, curve = some.facts.to_dict("records")
    assert (first["method"], first["training"], first["n"]) == ("unisal", "dual-view", 3)
    assert (first["budget"], second["budget"], second["round"]) == (2, 3, 1)
    assert (first["seconds"], second["seconds"]) == (1.5, 2.0)
    assert first["disagreeing"] == 5 and np.isnan(first["precision"])
    assert second["per_class"] == {"a": 1, "b": 2}, "a refused tile is of no class"
    assert np.isnan(second["disagreeing"]) and curve["unit"] == "curve"
    each = (history().probs.argmax(2) == TEST.label.values).mean(1)
    assert [first["accuracy"], second["accuracy"]] == pytest.approx(each)
    assert curve["accuracy"] == pytest.approx(curve_weights([2, 3]) @ each)
    assert some.counts.query("evaluation == 2").group.tolist() == ["a", "a", "b"]
    only = history()
    only.rounds = only.rounds[:1].drop(columns=["disagreeing", "filled"])
    only.probs = only.probs[:1]
    (alone, _) = active_evaluation.evaluate_loop("random", only, TEST, CLASSES)
    assert alone["labels"]["disagreeing"] is None, "it chose nothing"


def test_the_rules_of_each_loop_are_its_parameters():
    planned = [
        {"strategy": "unisal", "training": "dual-view", "threshold": 0.5, "varied": ["threshold"]},
        {"strategy": "random", "training": "supervised"},
    ]
    configs = [
        SimpleNamespace(query_size=n, n_rounds=2, objective=f"objective {n}") for n in (3, 4)
    ]
    given, more = (planned, configs, [history(), history(1)]), {"params": {"input_size": 64}}
    rows = active_evaluation.evaluate_loops(*given, TEST, CLASSES, **more)
    facts = record.make(rows).facts
    assert facts.method.tolist() == ["unisal"] * 3 + ["random"] * 3
    assert facts.training.tolist() == ["dual-view"] * 3 + ["supervised"] * 3
    own = {"strategy": "unisal", "training": "dual-view", "threshold": 0.5, "input_size": 64}
    assert facts.params[1] == own | {"query_size": 3, "n_rounds": 2, "objective": "'objective 3'"}
    assert facts.varied.tolist() == ["threshold"] * 3 + [""] * 3 and facts["value"][2] == "0.5"


def test_shares_of_the_classes_in_pool_and_queries():
    histories = {("dual-view", "unisal"): history()}
    shares = active_evaluation.queries_per_class(histories, pd.Series([0, 0, 0, 1]), CLASSES)
    assert list(shares) == CLASSES and list(shares.index) == ["pool", "dual-view, unisal"]
    assert shares.values.tolist() == [[0.75, 0.25], [0.25, 0.5]]  # a quarter was refused


def test_shown_are_the_first_chosen_and_the_last_query():
    decoded, only = np.arange(8), history()
    rows = active_evaluation.queried_tiles({("dual-view", "unisal"): history()}, decoded)
    assert {title: tiles.tolist() for title, tiles in rows.items()} == {
        "dual-view\nunisal, round 1": [5, 6]
    }
    only.queries = only.queries[:2]
    (tiles,) = active_evaluation.queried_tiles({("dual-view", "unisal"): only}, decoded).values()
    assert tiles.tolist() == [4, 7]  # nothing was chosen: what chance drew
    many = {("dual-view", str(n)): history() for n in range(9)}
    assert len(active_evaluation.queried_tiles(many, decoded)) == 6
