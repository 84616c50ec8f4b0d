"""Sets of classes after an audit hold the true one as often as they say."""

import numpy as np
import pytest

from lib.labels import REFUSED, UNANSWERED
from lib.quality import audit, conformal

LEVEL = conformal.SET_LEVEL


def world(n_tiles, refused, seed):
    """Overconfident networks, worse on some classes than on others; some tiles of no class."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, n_tiles, p=[0.5, 0.3, 0.15, 0.05])
    logits = draw.normal(size=(n_tiles, 4)) + np.array([2.5, 1.0, 2.0, 0.2])[labels, None] * (
        np.arange(4) == labels[:, None]
    )
    probs = np.exp(4 * logits)
    labels[draw.random(n_tiles) < refused] = REFUSED
    return probs / probs.sum(1, keepdims=True), labels


def slow_sets(probs, audited, labels, level):
    """By counting: a class stands as long as fewer than k of the audited scores are below its."""
    n, rows = len(audited), []
    scores = [1 - probs[t, c] if c >= 0 else np.inf for t, c in zip(audited, labels, strict=True)]
    for row in probs:
        rank = [1 + sum(score < 1 - p for score in scores) for p in row]
        rows.append([r <= int(np.ceil(round((n + 1) * level, 9))) for r in rank])
    return np.array(rows)


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (10, 0.9), (37, 0.9), (50, 0.8), (19, 0.95)])
def test_sets_are_those_of_counting(n, level):
    probs, labels = world(120, 0.02 * (n > 20), n)
    probs = np.round(probs, 2)  # with ties
    found = conformal.prediction_sets(probs, np.arange(n), labels[:n], level)
    assert (found == slow_sets(probs, np.arange(n), labels[:n], level)).all()


def coverage(n_tiles, n, refused, draws=600):
    """Share of tiles that were not audited whose set holds the true class, the mean over draws.

    And three standard errors of it. Where no set is promised, the promise is kept.
    """
    probs, labels = world(n_tiles, refused, n)
    shares = []
    for seed in range(draws):
        sample = audit.draw_audit(np.arange(n_tiles), probs.argmax(1), n, seed=seed)
        drawn = sample.tile.values
        try:
            sets = conformal.prediction_sets(probs, drawn, labels[drawn])
        except ValueError:
            shares.append(1.0)
            continue
        held = sets[np.arange(n_tiles), np.maximum(labels, 0)] & (labels >= 0)
        shares.append(np.delete(held, drawn).mean())
    return np.mean(shares), 3 * np.std(shares) / np.sqrt(draws)


@pytest.mark.slow
@pytest.mark.parametrize("refused", [0.0, 0.03])
@pytest.mark.parametrize(("n_tiles", "n"), [(2000, 50), (300, 100), (90, 60), (400, 29)])
def test_sets_after_an_audit_cover_nine_of_ten_tiles_on_the_average(n_tiles, n, refused):
    share, chance = coverage(n_tiles, n, refused)
    assert share >= LEVEL - chance
    if not refused:  # and the sets are no larger than that takes
        assert share <= (LEVEL * (n + 1) + 1) / n + chance


def test_too_few_tiles_are_refused_with_the_number_that_it_takes():
    probs, labels = world(50, 0.0, 0)
    assert [conformal.fewest_tiles(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    for level in (0.8, 0.9, 0.95):
        n = conformal.fewest_tiles(level)
        conformal.prediction_sets(probs, np.arange(n), labels[:n], level)
        with pytest.raises(ValueError, match=f"take {n} audited tiles or more, there are {n - 1}"):
            conformal.prediction_sets(probs, np.arange(n - 1), labels[: n - 1], level)


def test_where_a_tenth_is_of_no_class_no_set_is_promised():
    probs, labels = world(60, 0.0, 1)
    labels[:5] = REFUSED, UNANSWERED, REFUSED, REFUSED, REFUSED
    with pytest.raises(ValueError, match="5 of 40 audited tiles have no known class"):
        conformal.prediction_sets(probs, np.arange(40), labels[:40])
    assert conformal.prediction_sets(probs, np.arange(60), labels).any()
