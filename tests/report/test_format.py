"""Cells of tables."""

import pandas as pd
from made_up_results import made, scored

from lib.report import format
from lib.report.statistics import Estimate


def test_scores_have_their_interval_and_differences_their_sign_and_corrected_p():
    assert format.with_interval(Estimate(0.9871, 0.981, 0.9923)) == "0.987 [0.981, 0.992]"
    assert format.with_interval(Estimate(0.5)) == "0.500"
    lines = [
        Estimate(0.012, 0.004, 0.02, 0.03),
        None,
        Estimate(-0.1, -0.2, 0.0, 0.0004),
        Estimate(0.1, 0.0, 0.2),
        Estimate(0.25),
    ]
    assert format.differences(lines) == [
        "+0.012 [+0.004, +0.020], p = 0.030",
        "",
        "-0.100 [-0.200, +0.000], p < 0.001",
        "+0.100 [+0.000, +0.200]",
        "+0.250",
    ]


def test_a_pooled_score_has_the_standard_deviation_over_runs():
    facts = made(scored("m", 0.9, n=30), scored("m", 0.5, n=10, fold=1)).facts
    assert format.pooled_std(facts) == "0.800 ± 0.283"
    assert format.pooled_std(facts[:1]) == "0.900" == format.mean_std(facts.accuracy[:1])


def test_columns_are_inserted_in_their_order_and_lines_may_lack_cells():
    table = pd.DataFrame({"a": ["1", "2"], "z": ["3", "4"]})
    format.insert_columns(table, "z", {"b": ["5"], "c": ["6", "7"]})
    assert list(table) == list("abcz") and table.b.tolist() == ["5", ""]
