"""Figures of quality show every audit, run and round that they are handed."""

import pandas as pd
import pytest
from made_up_sources import evaluated, rounds, rows_of

from lib.figures import quality_plots
from lib.figures.style import CORRECT, INCORRECT
from lib.quality import estimate_tables
from lib.quality.estimates import ESTIMATES


def test_intervals_that_miss_have_another_colour():
    values = {"value": [0.8, 0.5, 0.9], "low": [0.6, 0.3, 0.8], "high": [0.9, 0.6, 1]}
    audits = pd.DataFrame(values | {"covers": [True, False, True]})
    figure = quality_plots.repeated_audits(audits, 0.85)
    assert figure.get_suptitle() == "66.7% of 3 intervals hold the true accuracy"
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert CORRECT in colours and INCORRECT in colours
    assert sum(len(lines.get_segments()) for lines in figure.axes[0].collections) == 3


def test_panels_are_the_estimates_and_hollow_points_the_shifts():
    evaluations = evaluated()[0]
    rows = rows_of(evaluations)
    shifted = rows_of(evaluations, dataset="e", shift="blur2", varied=["shift"])
    figure = quality_plots.estimate_against_truth(
        estimate_tables.quality_frame(pd.concat([rows, shifted])), "t"
    )
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["audit", *ESTIMATES.values()]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["d", "e", "hollow: shifted tiles"]


def test_rounds_have_their_audit_and_their_changes():
    left, right = quality_plots.stopping_curves(rounds(), "t").axes
    assert left.lines[0].get_xdata().tolist() == [5, 10, 15, 20, 25]
    assert right.lines[0].get_ydata().tolist()[1:] == pytest.approx([20, 10, 0, 5])
