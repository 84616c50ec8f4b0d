"""PredictionSources on tiles that were made up, for tests of estimates, tables and figures."""

import numpy as np
import pandas as pd

from lib import record
from lib.quality import estimate_tables, estimates

C = 3


def softmax_of(labels, confidence=0.8):
    """Probabilities with the class at `confidence` and the others alike."""
    probs = np.full((len(labels), C), (1 - confidence) / (C - 1))
    probs[np.arange(len(labels)), labels] = confidence
    return probs


def noisy(truth, accuracy, chance):
    """Labels that are right so often, and else another class by chance."""
    wrong = (truth + chance.integers(1, C, len(truth))) % C
    return np.where(chance.random(len(truth)) < accuracy, truth, wrong)


def sources(truth, predicted, *, prompts=None, clusters=None, second=None, views=None):
    prompts = predicted if prompts is None else prompts
    second = predicted if second is None else second
    members = np.stack([softmax_of(predicted, 0.9), softmax_of(second, 0.8)])
    views = np.stack([softmax_of(v) for v in ([predicted] if views is None else views)])
    return estimates.PredictionSources(
        members,
        views,
        softmax_of(prompts),
        prompts,
        predicted if clusters is None else clusters,
        softmax_of(truth, 0.9),
    )


def rows_of(evaluations, dataset="d", fold=0, seed=0, **params):
    fixed = {"dataset": dataset, "vlm": "v", "fold": fold, "seed": seed}
    return record.make([fixed | e | {"params": e["params"] | params} for e in evaluations]).facts


def rounds(**columns):
    """As `stopping.follow_rounds` gives them."""
    made_up = {
        "budget": [5, 10, 15, 20, 25],
        "changed": [np.nan, 0.2, 0.1, 0.0, 0.05],
        "recent": [np.nan, 0.2, 0.25, 0.3, 0.1],
        "value": 0.8,
        "low": 0.7,
        "high": 0.9,
        "truth": [0.5, 0.7, 0.75, 0.8, 0.81],
    }
    return pd.DataFrame(made_up | columns)


def evaluated(audit_size=20):
    """Evaluations of two settings, the opinions behind them and the true labels."""
    chance = np.random.default_rng(0)
    truth = np.arange(120) % C
    test = pd.DataFrame({"tile": np.arange(500, 620), "label": truth})
    said = {
        setting: sources(truth, noisy(truth, accuracy, chance), prompts=noisy(truth, 0.5, chance))
        for setting, accuracy in (("published filters", 0.7), ("ours", 0.9))
    }
    other = pd.DataFrame({setting: o.predicted for setting, o in said.items()})
    given = {"audit_size": audit_size, "seed": 1, "other_vlm": other}
    return (
        estimate_tables.evaluate_quality(said, test, **given, params={"audit_size": 20}),
        said,
        truth,
    )
