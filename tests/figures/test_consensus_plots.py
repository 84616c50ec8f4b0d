"""Figures of the filters show every vote, every tile and every matched cluster."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np

from lib.figures import consensus_plots

RNG = np.random.default_rng(0)


def bars(ax):
    """Heights per label of a stacked bar chart."""
    return {c.get_label(): sum(bar.get_height() for bar in c) for c in ax.containers}


def test_every_tile_is_in_the_vote_entropy_histogram():
    for n_classes, n_views in product((1, 2, 7, 20), (1, 10, 30)):
        votes = RNG.integers(0, n_classes, (n_views, 200))
        right = RNG.random(200) < 0.7
        figure = consensus_plots.vote_entropy_histogram(votes, n_classes, right, 0.3)
        expected = {"prompt label right": right.sum(), "wrong": (~right).sum()}
        assert bars(figure.axes[0]) == expected, (n_classes, n_views)


def test_the_cut_of_the_histogram_is_at_the_keep_ratio():
    votes = np.array([[0, 0, 0, 0], [0, 0, 1, 1]])  # entropies 0, 0, log 2, log 2
    for keep_ratio, cut in ((0.5, 0), (0.75, np.log(2))):
        figure = consensus_plots.vote_entropy_histogram(votes, 2, np.ones(4, bool), keep_ratio)
        assert figure.axes[0].lines[0].get_xdata()[0] == np.float64(cut)
        assert f"{keep_ratio:.0%}" in figure.axes[0].texts[0].get_text()


def test_agreement_counts_stand_in_the_legend():
    prompt, feature, true = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]])
    figure = consensus_plots.cluster_map(RNG.random((4, 2)), prompt, feature, true, ["a", "b"])
    texts = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert texts == ["disagree: dropped (1)", "agree, right (2)", "agree, wrong (1)"]


def test_a_frame_is_round_the_class_of_each_cluster_and_rows_follow_the_classes():
    agreement = np.array([[0, 5], [7, 1]])
    ax = consensus_plots.cluster_matrix(agreement, np.array([1, 0]), ["a", "b"]).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cluster 2", "cluster 1"]
    assert [t.get_text() for t in ax.texts] == ["7", "1", "0", "5"]
    assert [patch.get_xy() for patch in ax.patches] == [(0, 0), (1, 1)]


def test_fewer_clusters_than_classes_and_more_are_framed_too():
    for n_clusters in (2, 6):
        agreement = RNG.integers(0, 9, (n_clusters, 3))
        class_of_cluster = np.arange(n_clusters) % 3
        ax = consensus_plots.cluster_matrix(agreement, class_of_cluster, ["a", "b", "c"]).axes[0]
        columns = [patch.get_xy()[0] for patch in ax.patches]
        assert columns == sorted(class_of_cluster), n_clusters


def test_lifts_stand_in_the_rows_of_their_classes_with_the_framed_cell_and_the_tiles():
    lift = np.array([[0.5, 2.0], [3.0, 0.0], [0.7, 4.0]])
    figure = consensus_plots.lift_matrix(lift, np.array([1, 0, 1]), [5, 30, 7], ["a", "b"])
    ax = figure.axes[0]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert rows == ["cluster 2, 30 tiles", "cluster 3, 7 tiles", "cluster 1, 5 tiles"]
    assert [t.get_text() for t in ax.texts] == ["3.00", "0.00", "0.70", "4.00", "0.50", "2.00"]
    assert [patch.get_xy() for patch in ax.patches] == [(0, 0), (1, 1), (1, 2)]


def test_votes_are_below_their_views_and_in_the_histogram():
    votes = np.array([[0, 1], [0, 0], [0, 1], [0, 2]])
    tiles = RNG.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    figure = consensus_plots.tile_votes(
        {"agreed": tiles[0], "not agreed": tiles[1]},
        RNG.random((2, 4, 8, 8, 3)),
        votes,
        ["a", "b", "c"],
    )
    words = [ax.get_xlabel() for ax in figure.axes if ax.images and ax.get_xlabel()]
    assert words == ["a"] * 4 + ["b", "a", "b", "c"]
    histograms = [ax for ax in figure.axes if ax.patches]
    assert [p.get_width() for p in histograms[1].patches] == [0.25, 0.5, 0.25]
    assert [ax.get_title(loc="left") for ax in histograms] == ["H = 0.00 nats", "H = 1.04 nats"]


def test_thirty_views_are_ten_pictures():
    votes = RNG.integers(0, 2, (30, 1))
    views = RNG.random((1, 30, 8, 8, 3))
    figure = consensus_plots.tile_votes({"one": views[0, 0]}, views, votes, ["a", "b"])
    assert len([ax for ax in figure.axes if ax.images]) == 1 + 10


def test_figures_are_closed_so_that_a_notebook_shows_them_once():
    consensus_plots.stains_and_views(
        RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8),
        RNG.random((2, 8, 8)),
        RNG.random((3, 8, 8, 3)),
    )
    assert not plt.get_fignums()
