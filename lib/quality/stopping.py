"""When to stop labelling: what the rounds still change, and what one audit says of each of them."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib.quality.audit import audited_accuracy

if TYPE_CHECKING:  # making tables needs no torch
    from lib.active.loop import History

LAST = 3  # rounds that the sentence looks back on


def follow_rounds(
    history: "History", tiles: np.ndarray, sample: pd.DataFrame, labels: np.ndarray
) -> pd.DataFrame:
    """Follow the rounds of a loop by what they change and by one audit.

    The labels of the audit serve every round, as the rounds have not seen them: the sample was
    drawn by chance, with the same probability for every tile.

    Parameters
    ----------
    history : predictions [R, M, C] of tiles [M], with labels [M].
    sample : of `audit.label_audit`, some of these tiles.

    Returns
    -------
    A line per round: budget; changed, the share of predictions that differ from those of the round
    before; recent, of those that did so in any of the last `LAST` rounds; NaN in the first round;
    value, low, high of the audit; truth, the accuracy.

    Raises
    ------
    ValueError : the rounds have predicted other tiles.
    """
    predicted = history.probs.argmax(2)
    if predicted.shape[1] != len(tiles):
        raise ValueError(f"the rounds have predicted {predicted.shape[1]} tiles, not {len(tiles)}")
    budgets = history.queries.groupby("round").label.agg(lambda answers: (answers >= 0).sum())
    moved = predicted[1:] != predicted[:-1]
    lines = []
    for r, classes in enumerate(predicted):
        in_round = sample.assign(predicted=pd.Series(classes, tiles).loc[sample.tile].values)
        estimate, recent = audited_accuracy(in_round, len(tiles)), moved[max(0, r - LAST) : r]
        line: dict[str, float] = {"round": r, "budget": int(budgets.loc[:r].sum())}
        line["changed"] = float(recent[-1].mean()) if r else np.nan
        line["recent"] = float(recent.any(0).mean()) if r else np.nan
        line |= {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        lines.append(line | {"truth": float((classes == labels).mean())})
    return pd.DataFrame(lines)


def stopping_sentence(rounds: pd.DataFrame) -> str:
    """Say what the last rounds changed. rounds: of `follow_rounds`."""
    last, n = rounds.iloc[-1], min(LAST, len(rounds) - 1)
    audited = f"the audit says {last.value:.1%} correct [{last.low:.1%}, {last.high:.1%}]."
    if not n:
        return f"There is one round only, with {last.budget:.0f} labels; {audited}"
    asked = last.budget - rounds.budget.iloc[-1 - n]
    words = f"last {n} rounds" if n > 1 else "last round"
    return (
        f"The {words} ({asked:.0f} labels of {last.budget:.0f}) changed {last.recent:.1%} of the "
        f"predictions; {audited}"
    )
