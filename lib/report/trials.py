"""Trials of VLM-CPL and of other methods: what is planned, and outcomes as evaluations."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.report import metrics
from lib.report.comparison import COMPARED, UNTRAINED
from lib.report.evaluation import evaluate_probs

if TYPE_CHECKING:
    from lib.learning.trials import Outcome, Trial


def trials_table(
    trials: "Sequence[Trial]", truth: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """List trials before they run: loss, which labels each learns from and how many.

    Of an ablation the setting is what is varied, as in "keep_ratio=0.1". The last column counts
    classes that none of these labels names. truth: [N], for the table alone.
    """
    lines = []
    for trial in trials:
        quality = metrics.label_quality(trial.labels, trial.kept, truth, class_names)
        values = {name: trial.params[name] for name in trial.params.get("varied", ())}
        varied = ", ".join(f"{n}={'none' if value == '' else value}" for n, value in values.items())
        lines.append(
            {
                "method": COMPARED[trial.method],
                "setting": varied or trial.setting,
                "loss": re.sub(r"\w+=", "", repr(trial.objective)),  # as long as pandas shows
                "labels": trial.source,
                "tiles": quality["kept"],
                "pseudo-label precision": quality["precision"],
                "classes without": sum(not c["kept"] for c in quality["per_class"].values()),
            }
        )
    return pd.DataFrame(lines).round(3)


def evaluate(
    outcomes: "Sequence[Outcome]",
    truth: np.ndarray,
    test: pd.DataFrame,
    class_names: Sequence[str],
    *,
    network: str,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Judge outcomes of trials, as evaluations for `Run.record`.

    truth: [N], of the training tiles; test: of the predicted tiles, columns label and group;
    network: of what was trained; fields: further fields of all evaluations.
    """
    evaluations = []
    for outcome in outcomes:
        own: dict[str, Any] = {"variant": outcome.setting or None, "params": dict(outcome.params)}
        own["network"] = None if outcome.method in UNTRAINED else network
        trial = outcome.trial
        if trial is not None:
            quality = metrics.label_quality(trial.labels, trial.kept, truth, class_names)
            if outcome.alarms is not None:
                quality |= {"alarms": sorted({alarm.name for alarm in outcome.alarms})}
            own |= {"labels": quality, "seconds": outcome.seconds}
            own["params"]["objective"] = repr(trial.objective)
        evaluations.append(evaluate_probs(outcome.method, outcome.probs, test, **own, **fields))
    return evaluations


def evaluate_varied(
    name: str,
    outcomes: "Mapping[Any, Sequence[Outcome]]",
    truth: np.ndarray,
    test: pd.DataFrame,
    class_names: Sequence[str],
    **fields: Any,
) -> list[dict[str, Any]]:
    """Judge outcomes at each value of a parameter, which is varied in them; see `evaluate`.

    name: of the parameter, such as "shift"; outcomes: by its value.
    """
    return [
        evaluation | {"params": evaluation["params"] | {name: value, "varied": [name]}}
        for value, of_value in outcomes.items()
        for evaluation in evaluate(of_value, truth, test, class_names, network="frozen", **fields)
    ]
