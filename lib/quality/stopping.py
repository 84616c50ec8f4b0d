"""When to stop labelling: what the rounds still change, and what one audit says of each of them."""

import numpy as np
import pandas as pd

from lib.active.loop import History
from lib.quality.audit import audited_accuracy

LAST = 3  # rounds that the sentence looks back on


def follow_rounds(
    history: History, tiles: np.ndarray, sample: pd.DataFrame, labels: np.ndarray
) -> pd.DataFrame:
    """A line per round: budget, changed, recently changed, the audit, and the true accuracy.

    changed: share of predictions that differ from those of the round before; recent: of those that
    did so in any of the last `LAST` rounds; NaN in the first round. value, low, high: of the
    audit, whose labels serve every round, as the rounds have not seen them: the sample was drawn by
    chance, with the same probability for every tile. history: predictions [R, M, C] of tiles [M];
    sample: of `audit.label_audit` among these tiles; labels: [M]. Raises ValueError when the
    rounds have predicted other tiles.
    """
    predicted = history.probs.argmax(2)
    if predicted.shape[1] != len(tiles):
        raise ValueError(f"the rounds have predicted {predicted.shape[1]} tiles, not {len(tiles)}")
    budgets = history.queries.groupby("round").label.agg(lambda answers: (answers >= 0).sum())
    moved = predicted[1:] != predicted[:-1]
    lines = []
    for r, classes in enumerate(predicted):
        of_round = sample.assign(predicted=pd.Series(classes, tiles).loc[sample.tile].values)
        estimate = audited_accuracy(of_round, len(tiles))
        recent = moved[max(0, r - LAST) : r]
        lines.append(
            {
                "round": r,
                "budget": int(budgets.loc[:r].sum()),
                "changed": float(recent[-1].mean()) if r else np.nan,
                "recent": float(recent.any(0).mean()) if r else np.nan,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "truth": float((classes == labels).mean()),
            }
        )
    return pd.DataFrame(lines)


def stopping_sentence(rounds: pd.DataFrame) -> str:
    """What the last rounds changed, in plain words. rounds: of `follow_rounds`."""
    last, n = rounds.iloc[-1], min(LAST, len(rounds) - 1)
    audited = f"the audit says {last.value:.1%} right [{last.low:.1%}, {last.high:.1%}]."
    if not n:
        return f"There is one round only, with {last.budget:.0f} labels; {audited}"
    asked = last.budget - rounds.budget.iloc[-1 - n]
    words = f"last {n} rounds" if n > 1 else "last round"
    return (
        f"The {words} ({asked:.0f} labels of {last.budget:.0f}) changed {last.recent:.1%} of the "
        f"predictions; {audited}"
    )
