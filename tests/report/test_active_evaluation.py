"""Histories of active learning as rows of the record and counts per group."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.report import active_evaluation, metrics
from lib.report.active_learning import GROUP_COLUMNS, curve_weights

CLASSES = ["a", "b"]
TEST = pd.DataFrame({"label": [0, 1, 0, 1], "group": ["g", "g", "h", "h"]})


def history(seed=0):
    """Two rounds, of which the second chose nothing any more; a tile of the second was refused."""
    chance = np.random.default_rng(seed)
    queries = {"tile": [4, 7, 5, 6], "label": [0, 1, 1, -2], "round": [0, 0, 1, 1]}
    rounds = {
        "round": [0, 1], "labelled": [2, 3], "confident": [0.4, 0.5], "precision": [None, 0.9],
        "disagreeing": [5, None], "filled": [0, None],
        "training_seconds": [1.0, 2.0], "selection_seconds": [0.5, 0.0],
    }  # fmt: skip
    return SimpleNamespace(
        queries=pd.DataFrame(queries),
        rounds=pd.DataFrame(rounds),
        probs=chance.dirichlet([1, 1], (2, 4)).astype(np.float32),
    )


def test_each_round_is_one_evaluation_of_the_test_set():
    first, second = active_evaluation.evaluate_rounds(
        "unisal", history(), TEST, CLASSES, training="dual-view", network="frozen"
    )
    assert (first["method"], first["training"], first["network"]) == (
        "unisal", "dual-view", "frozen",
    )  # fmt: skip
    assert (first["split"], first["n"], first["budget"], second["budget"]) == ("test", 4, 2, 3)
    assert first["scores"] == metrics.scores(history().probs[0], TEST.label.values, CLASSES)
    assert (first["seconds"], second["seconds"]) == (1.5, 2.0)
    assert first["labels"] == {
        "round": 0, "labelled": 2, "per_class": {"a": 1, "b": 1}, "confident": 0.4,
        "precision": None, "disagreeing": 5, "filled": 0,
    }  # fmt: skip
    assert second["labels"]["per_class"] == {"a": 1, "b": 2}  # a refused tile is of no class
    assert second["labels"]["disagreeing"] is None


def test_a_single_round_chose_nothing():
    only = history()
    only.rounds = only.rounds[:1].drop(columns=["disagreeing", "filled"])
    (evaluation,) = active_evaluation.evaluate_rounds("random", only, TEST, CLASSES)
    assert evaluation["labels"]["disagreeing"] is None


def test_the_rules_of_each_loop_are_parameters_of_its_rows():
    trials = [
        {"strategy": "unisal", "training": "dual-view", "threshold": 0.5, "varied": ["threshold"]},
        {"strategy": "random", "training": "supervised"},
    ]
    configs = [
        SimpleNamespace(query_size=n, n_rounds=2, objective=f"objective {n}") for n in (3, 4)
    ]
    evaluations = active_evaluation.evaluate_loops(
        trials, configs, [history(), history(1)], TEST, CLASSES, params={"input_size": 64}
    )
    assert [e["method"] for e in evaluations] == ["unisal"] * 2 + ["random"] * 2
    assert [e["training"] for e in evaluations] == ["dual-view"] * 2 + ["supervised"] * 2
    assert evaluations[1]["params"] == trials[0] | {
        "input_size": 64, "query_size": 3, "n_rounds": 2, "objective": "'objective 3'",
    }  # fmt: skip
    assert evaluations[2]["scores"] == metrics.scores(
        history(1).probs[0], TEST.label.values, CLASSES
    )


def test_right_predictions_per_group_add_up_to_the_area_under_the_curve():
    histories = {("dual-view", "unisal"): history(), ("supervised", "random"): history(1)}
    counts = active_evaluation.right_per_group(
        histories, TEST, vlm="v", seed=3, fold=1, network="frozen"
    )
    assert list(counts) == GROUP_COLUMNS and len(counts) == 8
    weights = curve_weights([2, 3])
    for (training, method), each in histories.items():
        chosen = counts[(counts.training == training) & (counts.method == method)]
        accuracy = (each.probs.argmax(2) == TEST.label.values).mean(1)
        assert chosen.right.sum() / chosen.n.sum() == pytest.approx(weights @ accuracy), method
        assert chosen.n.tolist() == [1] * 4 and set(chosen.seed) == {3}, method


def test_shares_of_the_classes_in_pool_and_queries():
    histories = {("dual-view", "unisal"): history()}
    shares = active_evaluation.queries_per_class(histories, pd.Series([0, 0, 0, 1]), CLASSES)
    assert list(shares) == CLASSES and list(shares.index) == ["pool", "dual-view, unisal"]
    assert shares.values.tolist() == [[0.75, 0.25], [0.25, 0.5]]  # a quarter was refused


def test_shown_are_the_first_chosen_and_the_last_query():
    decoded = np.arange(8)
    rows = active_evaluation.queried_tiles({("dual-view", "unisal"): history()}, decoded)
    assert {title: tiles.tolist() for title, tiles in rows.items()} == {
        "dual-view\nunisal, round 1": [5, 6]
    }
    only = history()
    only.queries = only.queries[:2]
    (tiles,) = active_evaluation.queried_tiles({("dual-view", "unisal"): only}, decoded).values()
    assert tiles.tolist() == [4, 7]  # nothing was chosen: what chance drew
    many = {("dual-view", str(n)): history() for n in range(9)}
    assert len(active_evaluation.queried_tiles(many, decoded)) == 6
