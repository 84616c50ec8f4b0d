"""Results that were made up, for tests of tables and figures."""

from itertools import pairwise

import pandas as pd

from lib import record
from lib.report.comparison import NEEDED, UNTRAINED

RULES = {
    "strategy": "unisal",
    "threshold": 0.7,
    "cross_weight": 0.5,
    "contrast": 0.1,
    "restart": True,
}
SHIFTED = {"varied": ["shift"], "shift": "stain+1.0"}


def counts(accuracy, n=10, groups=("",)):
    """The same share of correct tiles in every group and in both classes."""
    lines = [(label, group, n, n * accuracy) for label in (0, 1) for group in groups]
    return pd.DataFrame(lines, columns=record.COUNTS)


def scored(method, accuracy, n=10, groups=("",), params=None, **fields):
    """An evaluation on the test set with the same accuracy in both classes."""
    network = "" if method in UNTRAINED else "frozen"
    fixed = {"dataset": "d", "vlm": "v", "seed": 0, "fold": 0, "split": "test", "network": network}
    counted = {"n": 2 * n * len(groups), "counts": counts(accuracy, n, groups)}
    scores = dict.fromkeys(record.SCORES, 0.5)
    return fixed | {"method": method, "params": params or {}, "scores": scores} | counted | fields


def made(*evaluations):
    """A record of evaluations and of lists of them."""
    flat = [e for each in evaluations for e in (each if isinstance(each, list) else [each])]
    return record.make(flat)


def loop(method, training, accuracies, groups=("",), first=0, **fields):
    """Rounds of ten labels each, and the mean over the curve."""
    labels = {"disagreeing": 30, "filled": 0}
    rounds = [
        scored(method, accuracy, training=training, budget=10 * (r + 1), labels=labels, **fields)
        | {"round": r}
        for r, accuracy in enumerate(accuracies, first)
    ]
    inner = [(a + b) / 2 for a, b in pairwise(accuracies)] or [*accuracies]
    area = scored(method, sum(inner) / len(inner), groups=groups, training=training, **fields)
    return [*rounds, area | {"unit": "curve"}]


def full(accuracy, **fields):
    """Training on all labels, beside loops."""
    return scored("full-supervision", accuracy, training="supervised", budget=500, **fields)


def loops():
    """Two strategies over two seeds, one of them in both trainings, and all labels."""
    evaluations = [full(0.9), full(1.0, seed=1)]
    for seed, more in ((0, 0.0), (1, 0.02)):
        evaluations += loop("random", "dual-view", [0.51, 0.6 + more, 0.7 + more], seed=seed)
        evaluations += loop("unisal", "dual-view", [0.5, 0.8 + more, 0.93 + more], seed=seed)
        evaluations += loop("random", "supervised", [0.4, 0.5, 0.6], seed=seed)
    return evaluations


def ablated():
    """UniSAL over two seeds, of which the first has other thresholds and parts left out."""
    evaluations = []
    for seed in (0, 1):
        chance = RULES | {"strategy": "random"}
        evaluations += loop("unisal", "dual-view", [0.5, 0.9], seed=seed, params=RULES)
        evaluations += loop("random", "dual-view", [0.5, 0.6], seed=seed, params=chance)
        evaluations += loop("unisal", "supervised", [0.4, 0.5], seed=seed, params=RULES)
    others = [
        {"threshold": 0.5},
        {"threshold": 0.9},
        {"cross_weight": 0.0},
        {"cross_weight": 1.0},
        {"strategy": "cs"},
    ]
    for n, other in enumerate(others, 1):
        rules = RULES | other | {"varied": list(other)}
        evaluations += loop(rules["strategy"], "dual-view", [0.5, 0.8 + n / 100], params=rules)
    return evaluations


def comparison(ours=0.9, **scores):
    """A whole comparison, of which some accuracies are given; other words are fields."""
    fields = {
        name: scores.pop(name)
        for name in ("dataset", "seed", "fold", "vlm", "n", "groups")
        if name in scores
    }
    values = dict.fromkeys(NEEDED, 0.7) | {"zero-shot": 0.6, "full-supervision": 0.99}
    values |= {name.replace("_", "-"): value for name, value in scores.items()}
    evaluations = [scored(method, value, **fields) for method, value in values.items()]
    for variant, value in (("published filters", 0.8), ("ours", ours)):
        evaluations.append(scored("vlm-cpl", value, variant=variant, **fields))
    return evaluations


def of_folds(training, method, accuracy, seeds=range(3), **fields):
    """Loops of the same accuracy in every group of five folds."""
    return [
        evaluation
        for seed in seeds
        for fold in range(5)
        for evaluation in loop(
            method,
            training,
            [accuracy] * 2,
            seed=seed,
            fold=fold,
            groups=tuple(f"{fold}.{n}" for n in range(8)),
            **fields,
        )
    ]


def from_zero(method, accuracies, zero=None, **fields):
    """A loop that VLM-CPL begins, from its predictions without a label on."""
    aligned = (method, "dual-view-aligned")
    begun = loop(*aligned, [zero], first=-1, **fields)[:1] if zero is not None else []
    return [e | {"budget": 0} for e in begun] + loop(*aligned, accuracies, **fields)
