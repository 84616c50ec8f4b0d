"""Figures of a step show all that they are handed, also in the corner cases."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lib.figures import step_plots
from lib.figures.style import CORRECT, INCORRECT, OTHER

TILES = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)


def captions(ax_row):
    return [ax.get_xlabel() for ax in ax_row if ax.images]


def test_confusion_matrices_stand_side_by_side_and_count_absent_classes():
    labels, predicted = np.array([0, 0, 2]), np.array([0, 2, 2])
    figure = step_plots.confusion(labels, {"before": predicted, "after": labels}, ["a", "b", "c"])
    before, after, _ = figure.axes
    assert [ax.get_title("left") for ax in (before, after)] == ["before", "after"]
    assert [text.get_text() for text in before.texts] == [*"101000001"]
    assert [text.get_text() for text in after.texts] == [*"200000001"]


def test_a_sheet_takes_empty_and_short_rows():
    figure = step_plots.tile_sheet({"none": TILES[:0], "three": TILES[:3]}, columns=5)
    empty, three = (ax.images[0].get_array() for ax in figure.axes)
    assert (empty == 255).all() and empty.shape == three.shape == (8, 5 * 8, 3)
    assert np.array_equal(three[:, : 3 * 8].reshape(8, 3, 8, 3).swapaxes(0, 1), TILES[:3])
    assert (three[:, 3 * 8 :] == 255).all()
    assert not any(ax.images for ax in step_plots.tile_sheet({}).axes)
    for framed in (False, True):
        figure = step_plots.tile_sheet({"1": TILES, "2": TILES[:1] / 255}, frame_first=framed)
        assert [len(ax.patches) for ax in figure.axes] == [framed, framed]


def test_a_sheet_of_masks_counts_all_and_shows_only_the_masked():
    numbers, mask = np.arange(12)[::-1], np.arange(12) < 11
    figure = step_plots.mask_sheet({"many": mask, "one": ~mask}, numbers, TILES, seed=0)
    many, one = figure.axes
    assert many.texts[0].get_text() == "many (11)" and one.texts[0].get_text() == "one (1)"
    assert np.array_equal(one.images[0].get_array()[:, :8], TILES[0])


def test_a_tile_without_the_threshold_stands_in_no_confident_row():
    early = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]])
    late = np.array([[0.99, 0.01], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    tiles, labels = np.array([5, 6, 7, 8]), np.array([0, 1, 0, 1])
    figure = step_plots.confident_sheet(
        np.stack([early, late]), labels, tiles, TILES, ["a", "b"], threshold=0.8, seed=0
    )
    rows = np.array(figure.axes).reshape(3, -1)
    assert sorted(captions(rows[0])) == ["a\n0.90", "b\n0.90"]
    assert captions(rows[1]) == ["a\n0.90"] and captions(rows[2]) == ["a\n0.60"]
    assert np.array_equal(rows[1][0].images[0].get_array(), TILES[6])
    edges = [to_hex(row[0].spines["left"].get_edgecolor()).upper() for row in rows[1:]]
    assert edges == [INCORRECT, CORRECT]
    counts = [row[0].texts[0].get_text().split("\n")[1] for row in rows]
    assert counts == ["(2 of 4)", "(1 of 4)", "(1 of 4)"]
    unsure = np.full((2, 4, 2), 0.5)
    figure = step_plots.confident_sheet(
        unsure, labels, tiles, TILES, ["a", "b"], threshold=0.9, seed=0
    )
    rows = np.array(figure.axes).reshape(3, -1)
    assert [len(captions(row)) for row in rows] == [0, 0, 4]


def test_bars_are_the_probabilities_and_the_highest_is_judged():
    probs, labels = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0])
    axes = step_plots.probability_bars(TILES[:2], probs, labels, ["a", "b"]).axes
    for tile, colours in enumerate(([CORRECT, OTHER], [OTHER, INCORRECT])):
        assert axes[tile].get_title(loc="center") == "a"
        bars = axes[2 + tile].patches
        assert [bar.get_width() for bar in bars] == probs[tile].tolist()
        assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == colours


def test_training_curves_have_a_line_per_training_and_precision_where_it_is_known():
    curve = pd.DataFrame({"step": range(40), "loss_a": 1.0, "loss_b": 2.0, "confident": 0.5})
    one = curve.assign(precision=np.nan)
    loss, confident = step_plots.training_curves({"one": one}, 0.9).axes
    assert loss.lines[0].get_ydata()[-1] == 1.5 and confident.lines[0].get_ydata()[-1] == 0.5
    figure = step_plots.training_curves({"one": one, "two": one.assign(precision=0.8)}, 0.9)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 2] and len(figure.legends) == 1
    assert figure.axes[2].lines[1].get_ydata()[-1] == pytest.approx(0.8)
    assert len(step_plots.loss_curve([3, 2, 1], "loss").axes[0].lines) == 2


def test_reliability_is_the_share_correct_at_each_confidence():
    probs = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2)
    figure = step_plots.reliability({"ours": probs}, np.array([0, 0, 0, 1, 1, 0]))
    line = figure.axes[0].lines[1]
    assert line.get_xdata().tolist() == pytest.approx([0.65, 0.95])
    assert line.get_ydata().tolist() == [0.5, 0.75]


@pytest.mark.parametrize("log", [False, True])
def test_each_tile_is_in_the_histogram(log):
    values, correct = np.array([0.9, 0.6, 1.0, 0.9]), np.array([True, False, True, True])
    (ax,) = step_plots.judged_histogram(values, correct, "confidence", log=log, cut=0.7).axes
    heights = [sum(bar.get_height() for bar in group) for group in ax.containers]
    assert heights == [3, 1] and ax.lines[0].get_xdata()[0] == 0.7


def test_maps_show_each_tile_in_the_colour_of_its_group_and_ring_the_chosen():
    points = np.random.default_rng(0).random((20, 2))
    names = np.array(["a", "b", "c"])[np.arange(20) % 3]
    (ax,) = step_plots.feature_maps({"x": points}, {"x": names}, ["a", "b", "c", "d"]).axes
    assert [len(dots.get_offsets()) for dots in ax.collections] == [7, 7, 6]
    fates = np.where(names == "a", "networks agree", "disagree, mean is incorrect")
    both, chosen = {"x": points, "y": points}, {"x": np.array([3, 4]), "y": np.array([], int)}
    figure = step_plots.feature_maps(both, dict.fromkeys(both, fates), chosen=chosen)
    for ax, rows in zip(figure.axes, chosen.values(), strict=True):
        assert [len(dots.get_offsets()) for dots in ax.collections] == [7, 13, len(rows)]
