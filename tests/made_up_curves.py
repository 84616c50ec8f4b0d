"""Rows of active learning that were made up, for tests of tables and figures."""

import pandas as pd

from lib import record
from lib.report import active_learning

SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")


def scored(method, training, seed, budget, accuracy, r=None, fold=0, **params):
    """A row of round r, or without one of full supervision."""
    labels = {"confident": 0.4, "precision": None, "disagreeing": 30, "filled": 0, "per_class": {}}
    return record.row(
        dataset="d", vlm="v", method=method, training=training, fold=fold, seed=seed, split="test",
        network="frozen", budget=budget, n=20, params=params, seconds=1.0,
        labels=None if r is None else labels | {"round": r, "labelled": budget},
        scores=dict.fromkeys(SCORES, 0.5) | {"accuracy": accuracy, "recall": {"a": 1.0}},
    )  # fmt: skip


def curve(method, training, seed, accuracies, **params):
    return [
        scored(method, training, seed, 10 * (r + 1), accuracy, r, **params)
        for r, accuracy in enumerate(accuracies)
    ]


def full(accuracy, seed=0, fold=0):
    return scored("full-supervision", "supervised", seed, 500, accuracy, fold=fold)


def made_up():
    """Two strategies over two seeds, one of them in both trainings, and all labels."""
    rows = [full(0.9), full(1.0, seed=1)]
    for seed, more in ((0, 0.0), (1, 0.02)):
        rows += curve("random", "dual-view", seed, [0.51, 0.6 + more, 0.7 + more])
        rows += curve("unisal", "dual-view", seed, [0.5, 0.8 + more, 0.93 + more])
        rows += curve("random", "supervised", seed, [0.4, 0.5, 0.6])
    return rows


def counted(training, method, right, seeds=range(3), folds=range(5), network="frozen"):
    """Tiles that are right of ten, the same in every group and class of all folds and seeds."""
    lines = [("v", s, f, training, method, network, label, f"{f}.{g}", 10, right)
             for s in seeds for f in folds for g in range(4) for label in (0, 1)]  # fmt: skip
    return pd.DataFrame(lines, columns=active_learning.GROUP_COLUMNS)


OURS = {
    "strategy": "unisal",
    "threshold": 0.7,
    "cross_weight": 0.5,
    "contrast": 0.1,
    "restart": True,
}


def ablated():
    """UniSAL over two seeds, of which the first has other thresholds and parts left out."""
    rows = []
    for seed in (0, 1):
        rows += curve("unisal", "dual-view", seed, [0.5, 0.9], **OURS)
        rows += curve("random", "dual-view", seed, [0.5, 0.6], **OURS | {"strategy": "random"})
        rows += curve("unisal", "supervised", seed, [0.4, 0.5], **OURS)
    others = [
        {"threshold": 0.5},
        {"threshold": 0.9},
        {"cross_weight": 0.0},
        {"cross_weight": 1.0},
        {"strategy": "cs"},
    ]
    for n, other in enumerate(others, 1):
        rules = OURS | other | {"varied": list(other)}
        rows += curve(rules["strategy"], "dual-view", 0, [0.5, float(f"0.8{n}")], **rules)
    return active_learning.rounds_frame(rows)
