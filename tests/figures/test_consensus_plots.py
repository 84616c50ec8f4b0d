"""Figures of the filters show every vote, every tile and every matched cluster."""

import numpy as np
import pytest

from lib.figures import consensus_plots

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "n_tiles", "rows", "cells"),
    [
        ([[0, 5], [7, 1]], None, ["cluster 2 (8)", "cluster 1 (5)"], ["7", "1", "0", "5"]),
        (
            [[0.5, 2.0], [3.0, 0.0]],
            [5, 30],
            ["cluster 2 (30)", "cluster 1 (5)"],
            ["3.00", "0.00", "0.50", "2.00"],
        ),
    ],
)
def test_a_frame_is_round_the_class_of_each_cluster_and_rows_follow_the_classes(
    values, n_tiles, rows, cells
):
    sizes, classes = n_tiles and np.array(n_tiles), np.array([1, 0])
    figure = consensus_plots.cluster_matrix(np.array(values), classes, ["a", "b"], n_tiles=sizes)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == rows
    assert [t.get_text() for t in ax.texts] == cells
    assert [patch.get_xy() for patch in ax.patches] == [(0, 0), (1, 1)]


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
    thirty, views = RNG.integers(0, 2, (30, 1)), RNG.random((1, 30, 8, 8, 3))
    figure = consensus_plots.tile_votes({"one": tiles[0]}, views, thirty, ["a", "b"])
    assert len([ax for ax in figure.axes if ax.images]) == 1 + 10, "the first ten views"


def test_a_tile_its_stains_and_its_views_are_two_rows():
    tile = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    figure = consensus_plots.stains_and_views(tile, RNG.random((2, 8, 8)), RNG.random((3, 6, 6, 3)))
    stains, views = (ax.images[0].get_array() for ax in figure.axes)
    assert np.allclose(stains[:, :8], tile / 255) and (views[:, 18:] == 1).all()
