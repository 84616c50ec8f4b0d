"""Figures of active learning show what they are given, also in the corner cases."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up_curves import ablated, curve, full, made_up

from figures import sections
from lib.figures import active_plots
from lib.report import active_ablations, active_learning


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def title(ax):
    return ax.get_title(loc="left")


def test_a_panel_per_training_with_a_line_per_strategy():
    figure = active_plots.learning_curves(active_learning.rounds_frame(made_up()), "a title")
    dual, supervised = figure.axes
    assert [title(ax) for ax in figure.axes] == ["dual-view", "supervised"]
    drawn = lines(dual)
    assert set(drawn) == {"UniSAL (DUS, CS)", "random", "all labels"}
    assert drawn["UniSAL (DUS, CS)"].tolist() == pytest.approx([0.5, 0.81, 0.94])
    assert set(lines(supervised)) == {"random", "all labels"}
    assert lines(supervised)["all labels"] == pytest.approx([0.95, 0.95])
    named = [text.get_text() for text in supervised.get_legend().get_texts()]
    assert named == ["UniSAL (DUS, CS)", "random", "all labels"], "of all panels"
    assert not plt.get_fignums()


def test_folds_are_pooled_and_a_band_needs_several_seeds():
    rows = curve("unisal", "dual-view", 0, [0.5, 0.6]) + curve(
        "unisal", "dual-view", 0, [0.7, 1.0], fold=1
    )
    for row in rows[2:]:
        row["n"] = 60
    (ax,) = active_plots.learning_curves(active_learning.rounds_frame(rows)).axes
    (line,) = lines(ax).values()
    assert line.tolist() == pytest.approx([0.65, 0.9]) and not ax.collections
    rows += curve("unisal", "dual-view", 1, [0.5, 0.6])
    (ax,) = active_plots.learning_curves(active_learning.rounds_frame(rows)).axes
    assert len(ax.collections) == 1


def test_a_section_shows_the_runs_that_published_unisal_has():
    """A seed that one strategy alone has, and finds a class late in, would speak against it."""
    rows, late = made_up(), curve("random", "dual-view", 2, [0.1, 0.1, 0.1])
    shown, with_more = (sections.active_sections(r, "d", "d", None) for r in (rows, rows + late))
    assert [name.topic for name in with_more] == ["active learning"]
    assert with_more[0].tables[0].equals(shown[0].tables[0])
    assert lines(with_more[0].draw().axes[0])["random"].tolist() == pytest.approx(
        [0.51, 0.61, 0.71]
    )
    assert sections.active_sections(late, "d", "d", None) == []


def test_a_strategy_of_fewer_seeds_is_dashed_and_says_so():
    rows = made_up() + curve("margin", "dual-view", 0, [0.6, 0.7, 0.8])
    dual, last = active_plots.learning_curves(active_learning.rounds_frame(rows)).axes
    dashed = [line.get_label() for line in dual.lines if line.get_linestyle() == "--"]
    assert dashed == ["margin (1 of 2 seeds)"]
    named = [text.get_text() for text in last.get_legend().get_texts()]
    assert named == ["UniSAL (DUS, CS)", "random", "margin (1 of 2 seeds)", "all labels"]


def test_one_training_without_full_supervision_and_a_strategy_of_another_name():
    rows = curve("MaxHerding", "supervised", 0, [0.5, 0.6])
    (ax,) = active_plots.learning_curves(active_learning.rounds_frame(rows)).axes
    assert title(ax) == "supervised" and list(lines(ax)) == ["MaxHerding"]


def test_full_supervision_alone_adds_no_panel():
    rows = [*curve("random", "dual-view", 0, [0.5]), full(0.9)]
    (ax,) = active_plots.learning_curves(active_learning.rounds_frame(rows)).axes
    assert title(ax) == "dual-view" and set(lines(ax)) == {"random", "all labels"}


def test_strategies_have_colours_of_their_own():
    assert set(active_plots.COLOURS) == set(active_learning.STRATEGIES)
    assert len({str(colour) for colour in active_plots.COLOURS.values()}) == len(
        active_plots.COLOURS
    )


def test_ablation_curves_mark_our_value():
    drawn = active_ablations.ablation_lines(ablated())
    for some in (drawn, dict([next(iter(drawn.items()))])):
        figure = active_plots.ablation_curves(some)
        assert [ax.get_xlabel() for ax in figure.axes] == list(some)
    area, accuracy, ours = figure.axes[0].lines
    assert area.get_ydata().tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert accuracy.get_ydata().tolist() == [0.81, 0.9, 0.82] and ours.get_xdata() == [1, 1]


def test_pseudo_label_curves_have_a_line_per_training():
    one = pd.DataFrame({"step": range(40), "loss_a": 1.0, "confident": 0.5, "precision": np.nan})
    figure = active_plots.pseudo_label_curves({"one": one, "two": one.assign(precision=0.8)}, 0.7)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 2]
    assert figure.axes[2].lines[1].get_ydata()[-1] == pytest.approx(0.8)


def test_maps_show_every_tile():
    points, labels = np.random.default_rng(0).random((20, 2)), np.arange(20) % 3
    (ax,) = active_plots.feature_maps({"both": points}, labels, ["a", "b", "c", "d"]).axes
    assert [len(dots.get_offsets()) for dots in ax.collections] == [7, 7, 6, 0]
    chosen = {"unisal": np.array([3, 4]), "none": np.array([], int)}
    figure = active_plots.selection_map(points, labels == 0, labels < 0, chosen)
    for ax, rows in zip(figure.axes, chosen.values(), strict=True):
        assert [len(dots.get_offsets()) for dots in ax.collections] == [13, 0, 7, len(rows)]
