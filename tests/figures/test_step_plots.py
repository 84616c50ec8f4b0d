"""Figures of a step show what they are given, also in the corner cases."""

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lib.figures import consensus_plots, step_plots
from lib.figures.plots import OTHER, RIGHT, WRONG

RNG = np.random.default_rng(0)
TILES = RNG.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)


def captions(ax_row):
    return [ax.get_xlabel() for ax in ax_row if ax.images]


def test_the_confusion_matrix_counts_also_absent_classes():
    figure = step_plots.confusion(np.array([0, 0, 2]), np.array([0, 2, 2]), ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1", "0", "1", "0", "0", "0", "0", "0", "1"]


def test_a_name_is_drawn_as_it_is_and_never_a_formula():
    name = "$\\no$ p$16_ <b>&"
    names, labels = [name, "$\\frac{$"], np.array([0, 1])
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    rows = pd.DataFrame({"tile": [0, 1], "caption": names, "right": [True, False]})
    with warnings.catch_warnings(action="ignore"):  # a font lacks a letter, a long name its room
        for figure in (
            step_plots.confusion(labels, labels, names, title=name),
            step_plots.tile_sheet({name: TILES[:1]}),
            step_plots.captioned_sheet({name: rows}, TILES),
            step_plots.probability_bars(TILES[:2], probs, labels, names),
            consensus_plots.cluster_matrix(np.eye(2, dtype=int), labels, names),
            consensus_plots.lift_matrix(np.eye(2), labels, labels, names),
        ):
            figure.savefig(io.BytesIO(), dpi=20)
            texts = {text.get_text() for text in figure.findobj(Text)}
            assert any(name in text for text in texts)


def test_a_sheet_takes_empty_and_short_rows():
    figure = step_plots.tile_sheet({"none": TILES[:0], "three": TILES[:3]}, columns=5)
    empty, three = (ax.images[0].get_array() for ax in figure.axes)
    assert (empty == 255).all() and empty.shape == three.shape == (8, 5 * 8, 3)
    assert np.array_equal(three[:, : 3 * 8].reshape(8, 3, 8, 3).swapaxes(0, 1), TILES[:3])
    assert (three[:, 3 * 8 :] == 255).all()


def test_a_sheet_of_masks_counts_all_and_shows_only_the_masked():
    numbers, mask = np.arange(12)[::-1], np.arange(12) < 11
    figure = step_plots.mask_sheet({"many": mask, "one": ~mask}, numbers, TILES, seed=0)
    many, one = figure.axes
    assert many.texts[0].get_text() == "many (11)" and one.texts[0].get_text() == "one (1)"
    assert np.array_equal(one.images[0].get_array()[:, :8], TILES[0])


def test_a_tile_without_the_threshold_stands_in_no_confident_row():
    labels = np.array([0, 1, 0, 1])
    early = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]])
    late = np.array([[0.99, 0.01], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    figure = step_plots.confident_sheet(
        early, late, labels, np.array([5, 6, 7, 8]), TILES, ["a", "b"], threshold=0.8, seed=0
    )
    rows = np.array(figure.axes).reshape(3, -1)
    assert sorted(captions(rows[0])) == ["a\n0.90", "b\n0.90"]
    assert captions(rows[1]) == ["a\n0.90"] and captions(rows[2]) == ["a\n0.60"]
    assert np.array_equal(rows[1][0].images[0].get_array(), TILES[6])
    assert to_hex(rows[1][0].spines["left"].get_edgecolor()) == WRONG.lower()
    assert to_hex(rows[2][0].spines["left"].get_edgecolor()) == RIGHT.lower()
    assert [row[0].texts[0].get_text().split("\n")[1] for row in rows] == [
        "(2 of 4)", "(1 of 4)", "(1 of 4)",
    ]  # fmt: skip


def test_no_tile_above_the_threshold_leaves_empty_rows():
    probs = np.full((2, 2), 0.5)
    figure = step_plots.confident_sheet(
        probs, probs, np.zeros(2, int), np.arange(2), TILES, ["a", "b"], threshold=0.9, seed=0
    )
    rows = np.array(figure.axes).reshape(3, -1)
    assert [len(captions(row)) for row in rows] == [0, 0, 2]


def test_bars_are_the_probabilities_and_the_highest_is_judged():
    probs, labels = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0])
    axes = step_plots.probability_bars(TILES[:2], probs, labels, ["a", "b"]).axes
    for tile, colours in enumerate(([RIGHT, OTHER], [OTHER, WRONG])):
        assert axes[tile].get_title(loc="center") == "a"
        bars = axes[2 + tile].patches
        assert [bar.get_width() for bar in bars] == probs[tile].tolist()
        assert [to_hex(bar.get_facecolor()) for bar in bars] == [c.lower() for c in colours]


def test_the_training_curve_shows_both_networks_and_what_they_are_sure_of():
    curve = pd.DataFrame({"step": range(40), "loss_a": 1.0, "loss_b": 2.0, "confident": 0.5})
    left, right = step_plots.training_curve(curve.assign(precision=np.nan), 0.9).axes
    assert [line.get_ydata()[-1] for line in left.lines] == [1, 2]
    assert [line.get_label() for line in right.lines] == ["confident (above 0.9)"]
    left, right = step_plots.training_curve(curve.assign(precision=0.8), 0.9).axes
    assert [line.get_ydata()[-1] for line in right.lines] == [0.5, pytest.approx(0.8)]


def test_reliability_is_the_share_right_at_each_confidence():
    probs = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2)
    figure = step_plots.reliability({"ours": probs}, np.array([0, 0, 0, 1, 1, 0]))
    line = figure.axes[0].lines[1]
    assert line.get_xdata().tolist() == pytest.approx([0.65, 0.95])
    assert line.get_ydata().tolist() == [0.5, 0.75]


def test_figures_are_closed_so_that_a_notebook_shows_them_once():
    step_plots.loss_curve([3, 2, 1], "loss")
    step_plots.confidence_histogram(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    step_plots.tile_sheet({"a": TILES})
    assert not plt.get_fignums()
