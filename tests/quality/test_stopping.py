"""Rounds are followed by what they changed and by one audit; the sentence counts the last three."""

import numpy as np
import pandas as pd
import pytest

from lib.active.loop import History
from lib.labels import REFUSED, UNANSWERED
from lib.quality import audit, stopping

TILES = np.array([10, 11, 12, 13])
LABELS = np.array([0, 1, 0, 1])


ROUNDS = [(0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1)]


def follow(*classes, labels=None, tiles=TILES, audited=4):
    answers = labels or [[0, 1] for _ in classes]
    queries = [pd.DataFrame({"label": a, "round": r}) for r, a in enumerate(answers)]
    probs = np.stack([np.eye(2)[list(row)] for row in classes])
    history = History(pd.concat(queries, ignore_index=True), pd.DataFrame(), probs)
    drawn = audit.draw_audit(TILES, np.zeros(4, int), 4, seed=0)[:audited]
    sample = audit.label_audit(drawn, dict(zip(TILES.tolist(), LABELS.tolist(), strict=True)))
    return stopping.follow_rounds(history, tiles, sample, LABELS[: len(tiles)])


def test_changes_budgets_and_truth_of_every_round():
    rounds = follow(*ROUNDS)
    assert rounds.budget.tolist() == [2, 4, 6, 8, 10]
    assert rounds.changed.tolist()[1:] == [0.25] * 4 and np.isnan(rounds.changed[0])
    assert rounds.recent.tolist()[1:] == [0.25, 0.25, 0.25, 0.5]  # back and forth is a change
    assert rounds.truth.tolist() == [0.5, 0.75, 0.5, 0.75, 1.0]
    assert rounds.value.tolist() == rounds.truth.tolist()  # all tiles are in the audit
    assert (rounds.low == rounds.high).all()
    few = follow(*ROUNDS, audited=2)  # an interval, of the classes of the round
    assert few.value.iloc[-1] == 1 and few.low.iloc[-1] < few.high.iloc[0]
    answers = [[0, 1], [REFUSED, 1], [UNANSWERED, 0]]
    assert follow(*ROUNDS[:3], labels=answers).budget.tolist() == [2, 3, 4], "labels alone count"
    with pytest.raises(ValueError, match="predicted 4 tiles, not 3"):
        follow(*ROUNDS, tiles=TILES[:3])


def test_the_sentence_is_about_the_last_three_rounds():
    text = stopping.stopping_sentence(follow(*ROUNDS))
    assert text.startswith("The last 3 rounds (6 labels of 10) changed 50.0% of the predictions;")
    assert text.endswith("the audit says 100.0% correct [100.0%, 100.0%].")
    one, two = (stopping.stopping_sentence(follow(*ROUNDS[:n])) for n in (1, 2))
    assert one.startswith("There is one round only, with 2 labels")
    assert two.startswith("The last round (2 labels of 4) changed 25")
