"""Figures of active learning show what they are given, also in the corner cases."""

import numpy as np
import pytest
from made_up_results import ablated, from_zero, full, loop, loops, made
from matplotlib.colors import to_hex

from figures import page
from lib.figures import active_plots, plots
from lib.figures.style import CORRECT, INCORRECT, OTHER
from lib.labels import UNLABELLED
from lib.report import ablations, active_learning


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def rounds(evaluations):
    return active_learning.rounds(made(evaluations).facts)


def title(ax):
    return ax.get_title(loc="left")


def test_a_panel_per_training_with_a_line_per_strategy_dashed_where_it_has_fewer_seeds():
    rows = loops() + loop("margin", "dual-view", [0.6, 0.7, 0.8])
    figure = active_plots.learning_curves(rounds(rows), "a title")
    dual, supervised = figure.axes
    assert [title(ax) for ax in figure.axes] == ["dual-view", "supervised"]
    drawn = lines(dual)
    names = ["UniSAL (DUS, CS)", "random", "margin (1 of 2 seeds)", "all labels"]
    assert list(drawn) == names
    assert drawn["UniSAL (DUS, CS)"].tolist() == pytest.approx([0.5, 0.81, 0.94])
    assert set(lines(supervised)) == {"random", "all labels"}
    assert lines(supervised)["all labels"] == pytest.approx([0.95, 0.95])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names, "once for all panels"
    dashed = [line.get_label() for line in dual.lines if line.get_linestyle() == "--"]
    assert dashed == ["margin (1 of 2 seeds)"]


def test_folds_are_pooled_and_a_band_needs_several_seeds():
    rows = loop("unisal", "dual-view", [0.5, 0.6])
    rows += loop("unisal", "dual-view", [0.7, 1.0], fold=1, n=30)
    for more, bands in (([], 0), (loop("unisal", "dual-view", [0.5, 0.6], seed=1), 1)):
        (ax,) = active_plots.learning_curves(rounds(rows + more)).axes
        assert len(ax.collections) == bands
    (ax,) = active_plots.learning_curves(rounds(rows)).axes
    (line,) = lines(ax).values()
    assert line.tolist() == pytest.approx([0.65, 0.9])


def test_a_strategy_of_another_name_and_full_supervision_alone_add_no_panel():
    rows = [*loop("my own", "supervised", [0.5, 0.6]), full(0.9)]
    (ax,) = active_plots.learning_curves(rounds(rows)).axes
    assert title(ax) == "supervised" and list(lines(ax)) == ["my own", "all labels"]
    colours = active_plots.COLOURS
    assert set(colours) == set(active_learning.STRATEGIES)
    assert len({*map(str, colours.values())}) == len(colours)


def test_a_cold_start_begins_at_zero_labels():
    some = made(full(0.9), from_zero("cold-start", [0.86, 0.84, 0.9], zero=0.87))
    line = active_plots.cold_start_curves(some.facts, "made up").axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 10, 20, 30]
    assert line.get_ydata() == pytest.approx([0.87, 0.86, 0.84, 0.9])


def test_a_section_shows_the_runs_that_published_unisal_has():
    """A seed that one strategy alone has, and finds a class late in, would speak against it."""
    rows, late = loops(), loop("random", "dual-view", [0.1, 0.1, 0.1], seed=2)
    shown, with_more = (page.active_sections(made(r), "d", "d") for r in (rows, rows + late))
    assert [name.topic for name in with_more] == ["active learning"]
    assert with_more[0].tables[0].equals(shown[0].tables[0])
    assert lines(with_more[0].draw().axes[0])["random"].tolist() == pytest.approx(
        [0.51, 0.61, 0.71]
    )
    (alone,) = page.active_sections(made(late), "d", "d")  # as in an open set: no run has it
    assert list(alone.tables[0].strategy) == ["random"]


def test_ablation_curves_mark_our_value():
    drawn = ablations.ablation_lines(made(ablated()).facts, ablations.UNISAL)
    for some in (drawn, dict([next(iter(drawn.items()))])):
        figure = plots.ablation_curves(some)
        assert [ax.get_xlabel() for ax in figure.axes] == list(some)
    area, accuracy, ours = figure.axes[0].lines
    assert area.get_ydata().tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert accuracy.get_ydata().tolist() == pytest.approx([0.81, 0.9, 0.82])
    assert ours.get_xdata() == [1, 1]


def test_bars_say_which_predictions_become_pseudo_labels():
    probs = np.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]])
    figure = active_plots.threshold_mask({"early": probs, "late": probs}, np.zeros(3, int), 0.7)
    assert len(figure.axes) == 4
    bars = figure.axes[0].patches
    assert [round(float(bar.get_height()), 6) for bar in bars] == [0.9, 0.8, 0.6]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert colours == [CORRECT, INCORRECT, OTHER]


def test_pairs_are_sorted_by_class_and_those_without_one_stand_last():
    known, labelled = np.array([1, UNLABELLED, 0, 1]), np.array([True, False, False, False])
    apart = (known[:, None] != known) & (known[:, None] >= 0) & (known >= 0)
    cosines = np.arange(16.0).reshape(4, 4) / 16
    figure = active_plots.contrast_pairs(apart, known, labelled, [*"abc"], {"after": cosines})
    pairs, after, _ = figure.axes
    attracted, repelled, neither = range(3)
    kinds = np.full((4, 4), neither)
    kinds[0, 1:3] = kinds[1:3, 0] = repelled
    kinds[[0, 1, 2], [0, 1, 2]] = attracted
    assert (pairs.images[0].get_array() == kinds).all(), "the tile of a, two of b, one without"
    order = [2, 0, 3, 1]
    assert (after.images[0].get_array() == cosines[np.ix_(order, order)]).all()
    names = [tick.get_text() for tick in pairs.get_yticklabels()]
    assert names == ["a (1)", "b (2)", "no label (1)"]
    assert len(active_plots.contrast_pairs(apart, known, labelled, [*"ab"], {}).axes) == 1


def test_each_tile_of_the_disagreement_set_leads_to_the_chosen_tile_of_its_cluster():
    points = np.random.default_rng(0).random((4, 2))
    figure = active_plots.disagreement_clusters(points, np.array([0, 1, 0, 1]), np.array([2, 1]))
    (clusters,) = figure.axes
    x, ends = points[:, 0], {tuple(line.get_xdata()) for line in clusters.lines}
    assert ends == {(x[2], x[0]), (x[2], x[2]), (x[1], x[1]), (x[1], x[3])}
    assert len(clusters.collections[-1].get_offsets()) == 2
    nothing = np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int)
    assert not active_plots.disagreement_clusters(*nothing).axes[0].lines
