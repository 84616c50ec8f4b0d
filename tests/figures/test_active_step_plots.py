"""Figures of a batch and of a query show what they are given, also in the corner cases."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex

from lib.figures import active_step_plots
from lib.figures.active_step_plots import ATTRACTED, NO_PAIR, REPELLED
from lib.figures.plots import OTHER, RIGHT, WRONG
from lib.labels import UNLABELLED


def test_bars_say_which_predictions_become_pseudo_labels():
    probs = np.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]])
    figure = active_step_plots.threshold_mask(
        {"early": probs, "late": probs}, np.zeros(3, int), 0.7
    )
    assert len(figure.axes) == 4 and not plt.get_fignums()
    bars = figure.axes[0].patches
    assert [round(float(bar.get_height()), 6) for bar in bars] == [0.9, 0.8, 0.6]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert colours == [RIGHT, WRONG, OTHER]


def test_pairs_are_those_of_the_contrastive_loss():
    """The mask of `losses.class_contrast`, from its definition, pair by pair."""
    for seed in range(5):
        known = np.random.default_rng(seed).integers(-1, 3, 12)
        kinds = active_step_plots.pair_kinds(known)
        for i, y in enumerate(known):
            others = [j for j, z in enumerate(known) if UNLABELLED not in (y, z) and z != y]
            for j in range(12):
                repelled = REPELLED if j in others else NO_PAIR
                expected = (ATTRACTED if others else NO_PAIR) if i == j else repelled
                assert kinds[i, j] == expected, (seed, i, j)
    assert (active_step_plots.pair_kinds(np.array([1, 1, UNLABELLED])) == NO_PAIR).all()


def test_pairs_are_sorted_by_class_and_those_without_one_stand_last():
    known = np.array([1, UNLABELLED, 0, 1])
    labelled = np.array([True, False, False, False])
    cosines = np.arange(16.0).reshape(4, 4) / 16
    figure = active_step_plots.contrast_pairs(known, labelled, ["a", "b", "c"], {"after": cosines})
    pairs, after, _ = figure.axes
    order = [2, 0, 3, 1]
    assert (pairs.images[0].get_array() == active_step_plots.pair_kinds(known[order])).all()
    assert (after.images[0].get_array() == cosines[np.ix_(order, order)]).all()
    names = [tick.get_text() for tick in pairs.get_yticklabels()]
    assert names == ["a (1)", "b (2)", "no label (1)"]
    assert len(active_step_plots.contrast_pairs(known, labelled, ["a", "b"], {}).axes) == 1


def test_the_queried_tile_of_each_cluster_is_framed():
    tiles = np.zeros((4, 8, 8, 3), np.uint8)
    figure = active_step_plots.cluster_sheet({"1": tiles, "2": tiles[:1]}, columns=3)
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 0, 0]
    assert [len(ax.patches) for ax in figure.axes] == [1, 0, 0, 1, 0, 0]
    assert not any(ax.images for ax in active_step_plots.cluster_sheet({}).axes)


def test_each_tile_of_the_disagreement_set_leads_to_the_chosen_tile_of_its_cluster():
    points = np.random.default_rng(0).random((10, 2))
    disagree = np.isin(np.arange(10), [1, 3, 4, 8])
    figure = active_step_plots.disagreement_clusters(
        points, disagree, points[disagree], np.array([0, 1, 0, 1]), np.array([2, 1])
    )
    pool, clusters = figure.axes
    assert [len(dots.get_offsets()) for dots in pool.collections] == [6, 4]
    ends = {tuple(line.get_xdata()) for line in clusters.lines}
    x = points[:, 0]
    assert ends == {(x[4], x[1]), (x[4], x[4]), (x[3], x[3]), (x[3], x[8])}
    assert len(clusters.collections[-1].get_offsets()) == 2


def test_a_pool_on_which_the_networks_agree_has_no_clusters():
    points, nobody = np.random.default_rng(0).random((5, 2)), np.zeros(5, bool)
    figure = active_step_plots.disagreement_clusters(
        points, nobody, np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int)
    )
    assert not figure.axes[1].lines
