"""Figures of results show what their tables say."""

import pandas as pd
import pytest
from made_up_results import made, scored

from lib.data import shifts
from lib.figures import plots

NAMES = {"zero-shot": "by prompts", "vlm-cpl": "VLM-CPL"}


def test_the_curve_is_the_mean_over_seeds_and_the_ratio_of_the_run_is_dotted():
    rows = pd.DataFrame({"keep_ratio": [0.2, 0.2, 0.3], "precision": [0.8, 0.9, 0.7]})
    rows = rows.assign(seed=[0, 1, 0], varied=["", "", "keep_ratio"], label_rule="prompt")
    rows = rows.assign(tie_break="random", quota="class")
    by_lift = rows.assign(label_rule="lift", precision=0.5)
    ax = plots.precision_against_keep_ratio(pd.concat([rows, by_lift])).axes[0]
    line, of_lift, marked = ax.lines
    assert "lift" in str(of_lift.get_label()) and set(of_lift.get_ydata()) == {0.5}
    assert line.get_ydata().tolist() == [pytest.approx(0.85), 0.7]
    assert list(marked.get_xdata()) == [0.2, 0.2]


def test_incorrect_labels_stand_beside_the_correct_ones():
    table = pd.DataFrame({"method": "MVC", "class": ["a", "b"], "kept": [5, 3], "correct": [4, 3]})
    right, wrong = plots.kept_per_class(table, ["a", "b"]).axes[0].containers
    bars = [[(bar.get_x(), bar.get_width()) for bar in group] for group in (right, wrong)]
    assert bars == [[(0, 4), (0, 3)], [(4, 1), (3, 0)]]


def test_methods_are_named_once_and_their_means_marked():
    labels = {"precision": 0.9, "share": 0.3}
    rows = [scored("zero-shot", 0.7), scored("vlm-cpl", 0.8, variant="published filters")]
    rows += [scored("vlm-cpl", 0.9 + s / 10, variant="ours", seed=s) for s in (0, 1)]
    trained = [row | {"labels": labels} for row in rows[1:]]  # zero-shot has no share
    ax = plots.comparison(made([rows[0], *trained]).facts, NAMES).axes[0]
    assert not ax.texts, "how many labels were kept is no accuracy"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["by prompts", "VLM-CPL"]
    means = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata())]
    assert sorted(means) == [0.7, 0.8, pytest.approx(0.95)]
    kept = made([row | {"labels": labels} for row in rows]).facts
    texts = [t.get_text() for t in plots.consensus_overview(kept).axes[0].texts]
    assert texts == ["0.900, 30% kept"] * 3


def test_an_ablation_curve_per_rule_with_our_setting_marked():
    lines = pd.DataFrame({"x": [0.1, 0.3, 0.1, 0.3], "accuracy": [0.6, 0.8, 0.8, 0.9]})
    lines = lines.assign(precision=0.9, varied=["keep_ratio", ""] * 2)
    (ax,) = plots.ablation_curves({"keep ratio": lines}).axes
    _, accuracy, marked = ax.lines
    assert accuracy.get_ydata().tolist() == [pytest.approx(0.7), pytest.approx(0.85)]
    assert marked.get_xdata() == [1, 1] and ax.get_xlabel() == "keep ratio"


def test_robustness_has_a_marker_per_shift_at_its_zero_shot_accuracy():
    shift, clean = ["", "", "eosin-1.0", "eosin-1.0"], [0.7, 0.8, 0.5, 0.6]
    lines = pd.DataFrame({"shift": shift * 2, "zero_shot": clean * 2})
    lines["method"], lines["variant"] = ["zero-shot"] * 4 + ["vlm-cpl"] * 4, [""] * 4 + ["ours"] * 4
    figure = plots.robustness(lines.assign(accuracy=[*clean, 0.9, 0.9, 0.8, 0.9]), NAMES)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    points = {line.get_marker(): (*line.get_xdata(), *line.get_ydata()) for line in drawn}
    assert points == {"o": pytest.approx((0.75, 0.9)), "<": pytest.approx((0.55, 0.85))}
    words = [text.get_text() for text in figure.legends[0].texts]
    assert words == ["by prompts", "VLM-CPL, ours", "no shift", "eosin paler (1.0)"]
    assert {*plots.SHIFTS} == {"", *shifts.DIRECTIONS}
    assert len({marker for marker, _ in plots.SHIFTS.values()}) == len(plots.SHIFTS)
