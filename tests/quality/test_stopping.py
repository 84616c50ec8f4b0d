"""Rounds are followed by what they changed and by one audit; the sentence counts the last three."""

import numpy as np
import pandas as pd
import pytest

from lib.active.loop import History
from lib.labels import REFUSED, UNANSWERED
from lib.quality import audit, stopping

TILES = np.array([10, 11, 12, 13])
LABELS = np.array([0, 1, 0, 1])


def history(*classes, labels=None):
    probs = np.stack([np.eye(2)[list(row)] for row in classes])
    answers = labels or [[0, 1] for _ in classes]
    queries = [
        pd.DataFrame({"tile": range(len(a)), "label": a, "round": r}) for r, a in enumerate(answers)
    ]
    return History(pd.concat(queries, ignore_index=True), pd.DataFrame(), probs)


def sample():
    drawn = audit.draw_audit(TILES, np.zeros(4, int), 4, seed=0)
    return audit.label_audit(drawn, dict(zip(TILES.tolist(), LABELS.tolist(), strict=True)))


ROUNDS = [(0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1)]


def test_changes_budgets_and_truth_of_every_round():
    rounds = stopping.follow_rounds(history(*ROUNDS), TILES, sample(), LABELS)
    assert rounds.budget.tolist() == [2, 4, 6, 8, 10]
    assert rounds.changed.tolist()[1:] == [0.25] * 4 and np.isnan(rounds.changed[0])
    assert rounds.recent.tolist()[1:] == [0.25, 0.25, 0.25, 0.5]  # back and forth is a change
    assert rounds.truth.tolist() == [0.5, 0.75, 0.5, 0.75, 1.0]
    assert rounds.value.tolist() == rounds.truth.tolist()  # all tiles are in the audit
    assert (rounds.low == rounds.high).all()


def test_an_audit_of_few_tiles_is_an_interval_that_judges_the_class_of_the_round():
    some = sample().iloc[:2]
    rounds = stopping.follow_rounds(history(*ROUNDS), TILES, some, LABELS)
    right = (np.array(ROUNDS)[-1] == LABELS)[np.isin(TILES, some.tile)]
    assert rounds.value.iloc[-1] == right.mean() and rounds.low.iloc[-1] < rounds.high.iloc[0]


def test_answers_that_are_no_label_are_no_budget():
    answers = [[0, 1], [REFUSED, 1], [UNANSWERED, 0]]
    rounds = stopping.follow_rounds(history(*ROUNDS[:3], labels=answers), TILES, sample(), LABELS)
    assert rounds.budget.tolist() == [2, 3, 4]


def test_the_sentence_is_about_the_last_three_rounds():
    text = stopping.stopping_sentence(
        stopping.follow_rounds(history(*ROUNDS), TILES, sample(), LABELS)
    )
    assert text.startswith("The last 3 rounds (6 labels of 10) changed 50.0% of the predictions;")
    assert text.endswith("the audit says 100.0% correct [100.0%, 100.0%].")
    one = stopping.follow_rounds(history(ROUNDS[0]), TILES, sample(), LABELS)
    assert stopping.stopping_sentence(one).startswith("There is one round only, with 2 labels")
    two = stopping.follow_rounds(history(*ROUNDS[:2]), TILES, sample(), LABELS)
    assert stopping.stopping_sentence(two).startswith("The last round (2 labels of 4) changed 25")


def test_rounds_of_other_tiles_are_refused():
    with pytest.raises(ValueError, match="predicted 4 tiles, not 3"):
        stopping.follow_rounds(history(*ROUNDS), TILES[:3], sample(), LABELS[:3])
