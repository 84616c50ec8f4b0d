"""All figures: as wide as a page at most, closed, and with names shown as they are."""

import io
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.text import Text

from lib.figures import consensus_plots, step_plots, style

TILES = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)


def test_a_figure_is_closed_and_no_wider_than_a_page():
    figure, axes = style.panels(2, 3, width=20)
    assert figure.get_figwidth() == style.WIDTH and axes.shape == (2, 3)
    assert style.closed(figure) is figure and not plt.get_fignums()


def test_a_legend_has_each_label_once_and_stands_below():
    figure, axes = style.panels(1, 2)
    for ax in axes[0]:
        ax.plot([1], label="both")
    axes[0, 1].plot([1], label="right alone")
    axes[0, 1].legend()
    (legend,) = style.closed(figure, legend=True, names="a title").legends
    assert [text.get_text() for text in legend.get_texts()] == ["both", "right alone"]
    assert not any(ax.get_legend() for ax in figure.axes)
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= axes[0, 0].get_window_extent().y0


def test_a_figure_without_labels_has_no_legend():
    assert not style.closed(style.panels()[0], legend=True).legends


def test_a_name_is_drawn_as_it_is_and_never_a_formula():
    name = "$\\no$ p$16_ <b>&"
    names, labels = [name, "$\\frac{$"], np.array([0, 1])
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    both = np.stack([probs, probs])
    with warnings.catch_warnings(action="ignore"):  # a font lacks a letter, a long name its room
        for figure in (
            step_plots.confusion(labels, {name: labels}, names),
            step_plots.tile_sheet({name: TILES[:1]}),
            step_plots.confident_sheet(both, labels, labels, TILES, names, threshold=0.5, seed=0),
            step_plots.probability_bars(TILES[:2], probs, labels, names),
            step_plots.feature_maps({name: probs}, {name: np.array(names)}, names),
            consensus_plots.cluster_matrix(np.eye(2, dtype=int), labels, names),
            consensus_plots.cluster_matrix(np.eye(2), labels, names, n_tiles=labels),
        ):
            figure.savefig(io.BytesIO(), dpi=20)
            texts = {text.get_text() for text in figure.findobj(Text)}
            assert any(name in text.replace("\n", " ") for text in texts)


def test_a_table_has_a_title_whole_numbers_and_names_and_no_empty_columns():
    table = pd.DataFrame({"round": [0, 1.0, np.nan], "accuracy": [0.51234, 0.7, 0.8]})
    table = table.assign(name=["<b>", "x" * 80, ""], empty="", none=None)
    page = style.show_table(table, "a <title>").to_html()
    cells = re.findall("<td[^>]*>(.*?)</td>", page)
    assert cells == ["0", "0.512", "&lt;b&gt;", "1", "0.700", "x" * 80, "", "0.800", ""]
    assert "a &lt;title&gt;</caption>" in page and "row_heading" not in page
    page = style.show_table(table.set_index("name"), columns=["accuracy", "absent"]).to_html()
    assert re.findall("<td[^>]*>(.*?)</td>", page) == ["0.512", "0.700", "0.800"]
    assert "&lt;b&gt;</th>" in page
    rounds = table.set_index(pd.Index([0.0, 1.0, 2.0], name="round"))
    assert re.findall("row_heading[^>]*>(.*?)</th>", style.show_table(rounds).to_html()) == [*"012"]
    assert "col_heading" not in style.show_table(table.T).to_html(), "numbers of lines are no names"
