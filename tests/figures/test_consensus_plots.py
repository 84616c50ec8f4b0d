"""Figures of the filters show every vote, every tile and every matched cluster."""

from itertools import product

import numpy as np
import pytest

from lib.figures import consensus_plots

RNG = np.random.default_rng(0)


def test_every_tile_is_in_the_vote_entropy_histogram():
    for n_classes, n_views in product((1, 2, 7, 20), (1, 10, 30)):
        votes, correct = RNG.integers(0, n_classes, (n_views, 200)), RNG.random(200) < 0.7
        figure = consensus_plots.vote_entropy_histogram(votes, n_classes, correct, 0.3)
        bars = [sum(bar.get_height() for bar in c) for c in figure.axes[0].containers]
        assert bars == [correct.sum(), (~correct).sum()], (n_classes, n_views)


def test_the_cut_of_the_histogram_is_at_the_keep_ratio():
    votes = np.array([[0, 0, 0, 0], [0, 0, 1, 1]])  # entropies 0, 0, log 2, log 2
    for keep_ratio, cut in ((0.5, 0), (0.75, np.log(2))):
        figure = consensus_plots.vote_entropy_histogram(votes, 2, np.ones(4, bool), keep_ratio)
        assert figure.axes[0].lines[0].get_xdata()[0] == np.float64(cut)
        assert f"{keep_ratio:.0%}" in figure.axes[0].texts[0].get_text()


@pytest.mark.parametrize(
    ("values", "n_tiles", "rows", "cells"),
    [
        ([[0, 5], [7, 1]], None, ["cluster 2 (8)", "cluster 1 (5)"], ["7", "1", "0", "5"]),
        ([[0.5, 2.0], [3.0, 0.0]], [5, 30], ["cluster 2 (30)", "cluster 1 (5)"],
         ["3.00", "0.00", "0.50", "2.00"]),
    ],
)  # fmt: skip
def test_a_frame_is_round_the_class_of_each_cluster_and_rows_follow_the_classes(
    values, n_tiles, rows, cells
):
    sizes, classes = n_tiles and np.array(n_tiles), np.array([1, 0])
    figure = consensus_plots.cluster_matrix(np.array(values), classes, ["a", "b"], n_tiles=sizes)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == rows
    assert [t.get_text() for t in ax.texts] == cells
    assert [patch.get_xy() for patch in ax.patches] == [(0, 0), (1, 1)]


def test_fewer_clusters_than_classes_and_more_are_framed_and_sorted_by_their_value():
    for n_clusters in (2, 6):
        lift, classes = RNG.random((n_clusters, 3)), np.arange(n_clusters) % 3
        sizes = np.arange(n_clusters)
        ax = consensus_plots.cluster_matrix(lift, classes, [*"abc"], n_tiles=sizes).axes[0]
        columns = [patch.get_xy()[0] for patch in ax.patches]
        assert columns == sorted(classes), n_clusters
        framed = [float(ax.texts[3 * row + c].get_text()) for row, c in enumerate(columns)]
        assert framed == sorted(framed, key=lambda v: (columns[framed.index(v)], -v))


def test_votes_are_below_their_views_and_in_the_histogram():
    votes = np.array([[0, 1], [0, 0], [0, 1], [0, 2]])
    tiles = RNG.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    pictures = {"agreed": tiles[0], "not agreed": tiles[1]}
    figure = consensus_plots.tile_votes(pictures, RNG.random((2, 4, 8, 8, 3)), votes, [*"abc"])
    words = [ax.get_xlabel() for ax in figure.axes if ax.images and ax.get_xlabel()]
    assert words == ["a"] * 4 + ["b", "a", "b", "c"]
    histograms = [ax for ax in figure.axes if ax.patches]
    assert [p.get_width() for p in histograms[1].patches] == [0.25, 0.5, 0.25]
    assert [ax.get_title(loc="left") for ax in histograms] == ["H = 0.00 nats", "H = 1.04 nats"]


def test_thirty_views_are_ten_pictures():
    votes, views = RNG.integers(0, 2, (30, 1)), RNG.random((1, 30, 8, 8, 3))
    figure = consensus_plots.tile_votes({"one": views[0, 0]}, views, votes, ["a", "b"])
    assert len([ax for ax in figure.axes if ax.images]) == 1 + 10


def test_a_tile_its_stains_and_its_views_are_two_rows():
    tile = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    figure = consensus_plots.stains_and_views(tile, RNG.random((2, 8, 8)), RNG.random((3, 6, 6, 3)))
    stains, views = (ax.images[0].get_array() for ax in figure.axes)
    assert np.allclose(stains[:, :8], tile / 255) and (views[:, 18:] == 1).all()
