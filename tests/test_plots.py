"""Figures show what they are given, also in the corner cases."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.report import plots

RNG = np.random.default_rng(0)


def bars(ax):
    """Heights per label of a stacked bar chart."""
    return {c.get_label(): sum(bar.get_height() for bar in c) for c in ax.containers}


@pytest.mark.parametrize("n_classes", [1, 2, 7, 20])
@pytest.mark.parametrize("n_views", [1, 10, 30])
def test_every_tile_is_in_the_vote_entropy_histogram(n_classes, n_views):
    votes = RNG.integers(0, n_classes, (n_views, 200))
    right = RNG.random(200) < 0.7
    figure = plots.vote_entropy_histogram(votes, n_classes, right)
    found = bars(figure.axes[0])
    assert found == {"prompt label right": right.sum(), "wrong": (~right).sum()}


def test_the_confusion_matrix_counts_also_absent_classes():
    figure = plots.confusion(np.array([0, 0, 2]), np.array([0, 2, 2]), ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1", "0", "1", "0", "0", "0", "0", "0", "1"]


def test_the_curve_is_the_mean_over_seeds():
    rows = pd.DataFrame({"keep_ratio": [0.3, 0.3], "precision": [0.8, 0.9], "seed": [0, 1]})
    figure = plots.precision_against_keep_ratio(rows.assign(tie_break="random", quota="class"))
    line = next(line for line in figure.axes[0].lines if "random" in str(line.get_label()))
    assert line.get_ydata().tolist() == [pytest.approx(0.85)]


def test_agreement_counts_stand_in_the_legend():
    prompt, feature, true = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]])
    figure = plots.cluster_map(RNG.random((4, 2)), prompt, feature, true, ["a", "b"])
    texts = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert texts == ["disagree: dropped (1)", "agree, right (2)", "agree, wrong (1)"]


def test_a_sheet_takes_empty_and_short_rows():
    tiles = RNG.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    figure = plots.tile_sheet({"none": tiles[:0], "three": tiles}, columns=5)
    empty, three = (ax.images[0].get_array() for ax in figure.axes)
    assert (empty == 255).all() and empty.shape == three.shape == (8, 5 * 8, 3)
    assert np.array_equal(three[:, : 3 * 8].reshape(8, 3, 8, 3).swapaxes(0, 1), tiles)
    assert (three[:, 3 * 8 :] == 255).all()


def test_wrong_labels_stand_beside_the_right_ones():
    table = pd.DataFrame({"method": "MVC", "class": ["a", "b"], "kept": [5, 3], "right": [4, 3]})
    right, wrong = plots.kept_per_class(table, ["a", "b"]).axes[0].containers
    assert [bar.get_width() for bar in right] == [4, 3]
    assert [bar.get_width() for bar in wrong] == [1, 0]
    assert [bar.get_x() for bar in wrong] == [4, 3]


def test_the_overview_marks_the_mean_of_each_setting():
    table = pd.DataFrame(
        {"method": "MVC", "setting": ["ours", "ours", "published"], "share": 0.3, "seed": [0, 1, 0],
         "precision": [0.9, 1.0, 0.8]}
    )  # fmt: skip
    texts = [text.get_text() for text in plots.consensus_overview(table).axes[0].texts]
    assert sorted(texts) == ["0.800, 30% kept", "0.950, 30% kept"]


def test_the_training_curve_shows_both_networks_and_what_they_are_sure_of():
    curve = pd.DataFrame({"step": range(40), "loss_a": 1.0, "loss_b": 2.0, "confident": 0.5})
    left, right = plots.training_curve(curve.assign(precision=np.nan), 0.9).axes
    assert [line.get_ydata()[-1] for line in left.lines] == [1, 2]
    assert [line.get_label() for line in right.lines] == ["confident (above 0.9)"]
    left, right = plots.training_curve(curve.assign(precision=0.8), 0.9).axes
    assert [line.get_ydata()[-1] for line in right.lines] == [0.5, pytest.approx(0.8)]


def test_reliability_is_the_share_right_at_each_confidence():
    probs = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2)
    figure = plots.reliability({"ours": probs}, np.array([0, 0, 0, 1, 1, 0]))
    line = figure.axes[0].lines[1]
    assert line.get_xdata().tolist() == pytest.approx([0.65, 0.95])
    assert line.get_ydata().tolist() == [0.5, 0.75]


NAMES = {"zero-shot": "by prompts", "vlm-cpl": "VLM-CPL"}


def test_the_comparison_names_every_method_once_and_marks_means():
    table = pd.DataFrame(
        {"method": ["zero-shot", "vlm-cpl", "vlm-cpl", "vlm-cpl"], "seed": [0, 0, 0, 1],
         "setting": ["", "published", "ours", "ours"], "accuracy": [0.7, 0.8, 0.9, 1.0]}
    )  # fmt: skip
    ax = plots.comparison(table, NAMES).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["by prompts", "VLM-CPL"]
    means = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata())]
    assert sorted(means) == [0.7, 0.8, pytest.approx(0.95)]


def test_an_ablation_curve_per_rule_with_our_setting_marked():
    of = pd.DataFrame(
        {"x": [0.1, 0.3, 0.1, 0.3], "seed": [0, 0, 1, 1], "accuracy": [0.6, 0.8, 0.8, 0.9],
         "precision": 0.9, "varied": [("share",), (), ("share",), ()]}
    )  # fmt: skip
    (ax,) = plots.ablation_curves({"share": of}).axes
    _, accuracy, marked = ax.lines
    assert accuracy.get_ydata().tolist() == [pytest.approx(0.7), pytest.approx(0.85)]
    assert marked.get_xdata() == [1, 1] and ax.get_xlabel() == "share"


def test_robustness_has_a_line_per_method_and_setting():
    lines = pd.DataFrame(
        {"method": ["zero-shot"] * 2 + ["vlm-cpl"] * 2, "setting": ["", "", "ours", "ours"],
         "stain_shift": [0, 1, 0, 1], "accuracy": [0.7, 0.5, 0.9, 0.8]}
    )  # fmt: skip
    ax = plots.robustness(lines, NAMES).axes[0]
    found = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert found == {"by prompts": [0.7, 0.5], "VLM-CPL, ours": [0.9, 0.8]}


def test_figures_are_closed_so_that_a_notebook_shows_them_once():
    plots.loss_curve([3, 2, 1], "loss")
    plots.confidence_histogram(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    plots.stains_and_views(
        RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8),
        RNG.random((2, 8, 8)),
        RNG.random((3, 8, 8, 3)),
    )
    assert not plt.get_fignums()
