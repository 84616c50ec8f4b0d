"""Figures of results show what their tables say."""

import pandas as pd
import pytest

from lib.data import shifts
from lib.figures import plots


def test_the_curve_is_the_mean_over_seeds():
    rows = pd.DataFrame(
        {
            "keep_ratio": [0.2, 0.2, 0.3],
            "precision": [0.8, 0.9, 0.7],
            "seed": [0, 1, 0],
            "varied": ["", "", "keep_ratio"],
        }
    )
    rows = rows.assign(label_rule="prompt", tie_break="random", quota="class")
    by_lift = rows.assign(label_rule="lift", precision=0.5)
    figure = plots.precision_against_keep_ratio(pd.concat([rows, by_lift]))
    line, of_lift, _ = figure.axes[0].lines
    assert "lift" in str(of_lift.get_label()) and set(of_lift.get_ydata()) == {0.5}
    marked = figure.axes[0].lines[-1]
    assert line.get_ydata().tolist() == [pytest.approx(0.85), 0.7]
    assert list(marked.get_xdata()) == [0.2, 0.2], "the run's own ratio is dotted"


def test_incorrect_labels_stand_beside_the_correct_ones():
    table = pd.DataFrame({"method": "MVC", "class": ["a", "b"], "kept": [5, 3], "correct": [4, 3]})
    right, wrong = plots.kept_per_class(table, ["a", "b"]).axes[0].containers
    assert [bar.get_width() for bar in right] == [4, 3]
    assert [bar.get_width() for bar in wrong] == [1, 0]
    assert [bar.get_x() for bar in wrong] == [4, 3]


def test_the_overview_marks_the_mean_of_each_setting():
    table = pd.DataFrame(
        {
            "method": "MVC",
            "variant": ["ours", "ours", "published filters"],
            "seed": [0, 1, 0],
            "share": 0.3,
            "precision": [0.9, 1.0, 0.8],
        }
    )
    texts = [text.get_text() for text in plots.consensus_overview(table).axes[0].texts]
    assert sorted(texts) == ["0.800, 30% kept", "0.950, 30% kept"]


NAMES = {"zero-shot": "by prompts", "vlm-cpl": "VLM-CPL"}


def test_the_comparison_names_every_method_once_and_marks_means():
    table = pd.DataFrame(
        {
            "method": ["zero-shot", "vlm-cpl", "vlm-cpl", "vlm-cpl"],
            "seed": [0, 0, 0, 1],
            "variant": ["", "published filters", "ours", "ours"],
            "accuracy": [0.7, 0.8, 0.9, 1.0],
            "fold": 0,
            "n": 10,
        }
    )
    ax = plots.comparison(table, NAMES).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["by prompts", "VLM-CPL"]
    means = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata())]
    assert sorted(means) == [0.7, 0.8, pytest.approx(0.95)]


def test_an_ablation_curve_per_rule_with_our_setting_marked():
    lines = pd.DataFrame(
        {
            "x": [0.1, 0.3, 0.1, 0.3],
            "seed": [0, 0, 1, 1],
            "accuracy": [0.6, 0.8, 0.8, 0.9],
            "precision": 0.9,
            "varied": ["keep_ratio", "", "keep_ratio", ""],
        }
    )
    (ax,) = plots.ablation_curves({"keep ratio": lines}).axes
    _, accuracy, marked = ax.lines
    assert accuracy.get_ydata().tolist() == [pytest.approx(0.7), pytest.approx(0.85)]
    assert marked.get_xdata() == [1, 1] and ax.get_xlabel() == "keep ratio"


def test_robustness_has_a_marker_per_shift_at_its_zero_shot_accuracy():
    lines = pd.DataFrame(
        {
            "method": ["zero-shot"] * 4 + ["vlm-cpl"] * 4,
            "variant": [""] * 4 + ["ours"] * 4,
            "shift": ["", "", "eosin-1.0", "eosin-1.0"] * 2,
            "zero_shot": [0.7, 0.8, 0.5, 0.6] * 2,
            "accuracy": [0.7, 0.8, 0.5, 0.6, 0.9, 0.9, 0.8, 0.9],
        }
    )
    figure = plots.robustness(lines, NAMES)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    points = {line.get_marker(): (*line.get_xdata(), *line.get_ydata()) for line in drawn}
    assert points == {"o": pytest.approx((0.75, 0.9)), "<": pytest.approx((0.55, 0.85))}
    words = [text.get_text() for text in figure.legends[0].texts]
    assert words == ["by prompts", "VLM-CPL, ours", "no shift", "eosin paler (1.0)"]


def test_every_direction_of_a_shift_has_a_marker_of_its_own():
    assert {*plots.SHIFTS} == {"", *shifts.DIRECTIONS}
    assert len({marker for marker, _ in plots.SHIFTS.values()}) == len(plots.SHIFTS)
