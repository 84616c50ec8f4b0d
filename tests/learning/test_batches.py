"""Rows of the batches: halves, epochs, balance; and label sets that do not fit."""

import numpy as np
import pytest

from lib.labels import UNLABELLED
from lib.learning.batches import Schedule, TrainingTiles, draw_rows

N = 120
TRUTH = np.arange(N) % 2


def some_labelled(n=40):
    labels = np.where(np.arange(N) < n, TRUTH, UNLABELLED)
    return TrainingTiles(np.arange(N), labels, ["normal", "tumour"], TRUTH)


def drawn(data, *, uses_unlabelled=True, seed=0, **settings):
    schedule = Schedule(**{"steps": 60, "batch_size": 16} | settings)
    return draw_rows(data, schedule, uses_unlabelled=uses_unlabelled, seed=seed)


def test_a_batch_is_half_labelled_and_half_not_and_an_epoch_holds_every_tile_once():
    labelled, unlabelled = drawn(some_labelled(40), steps=200, balance_classes=False)
    assert labelled.shape == unlabelled.shape == (200, 8)
    assert (labelled < 40).all() and (unlabelled >= 40).all()
    for rows, n in ((labelled, 40), (unlabelled, 80)):
        epochs = rows.ravel().reshape(-1, n)
        assert all(len(set(epoch)) == n for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("n", [2, N - 3])
def test_few_labelled_or_unlabelled_tiles_fill_their_half(n):
    labelled, unlabelled = drawn(some_labelled(n))
    assert labelled.shape == unlabelled.shape == (60, 8)
    assert (labelled < n).all() and (unlabelled >= n).all()


@pytest.mark.parametrize(("balanced", "expected"), [(True, 0.5), (False, 0.1)])
def test_classes_are_drawn_as_often_whatever_their_number(balanced, expected):
    labels = np.where(np.arange(N) < 40, np.arange(N) < 4, UNLABELLED).astype(int)
    data = TrainingTiles(np.arange(N), labels, ["many", "few"])
    rows, _ = drawn(data, steps=200, balance_classes=balanced)
    assert labels[rows].mean() == pytest.approx(expected, abs=0.03)


def test_weights_say_how_often_a_tile_is_drawn_among_its_class():
    weights = np.where(np.arange(N) % 4 == 0, 3.0, 1.0)
    data = TrainingTiles(np.arange(N), TRUTH, ["a", "b"], weights=weights)
    rows, _ = drawn(data, steps=2000)
    of_class = rows[TRUTH[rows] == 0]
    assert (of_class % 4 == 0).mean() == pytest.approx(0.75, abs=0.02)
    assert TRUTH[rows].mean() == pytest.approx(0.5, abs=0.02)


def test_no_unlabelled_rows_where_there_are_none_or_nobody_wants_them():
    assert drawn(some_labelled(N))[1].shape == (60, 0)
    assert drawn(some_labelled(), uses_unlabelled=False)[1].shape == (60, 0)


def test_the_seed_decides_and_labelled_rows_do_not_depend_on_the_unlabelled():
    labelled, _ = drawn(some_labelled())
    for same in (drawn(some_labelled())[0], drawn(some_labelled(), uses_unlabelled=False)[0]):
        assert np.array_equal(same, labelled)
    assert not np.array_equal(drawn(some_labelled(), seed=1)[0], labelled)


def test_no_labelled_tile_is_an_error():
    with pytest.raises(ValueError, match="no tile is labelled"):
        TrainingTiles(np.arange(3), np.full(3, UNLABELLED), ["a", "b"])


def test_a_class_without_labels_is_named():
    with pytest.warns(UserWarning, match="no labelled tile of class b, d"):
        TrainingTiles(np.arange(3), np.array([0, 2, UNLABELLED]), ["a", "b", "c", "d"])


@pytest.mark.parametrize("labels", [[0, 2, 1], [0, -2, 1], [0, 1]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        TrainingTiles(np.arange(3), np.array(labels), ["a", "b"])
