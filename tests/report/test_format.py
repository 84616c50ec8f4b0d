"""Markdown, and its place in a file."""

import pandas as pd

from lib.report import format
from lib.report.statistics import Estimate


def test_markdown_has_a_line_per_row():
    text = format.markdown(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    assert text == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"


def test_only_the_named_block_is_replaced(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("1\n<!-- a -->\nold\n<!-- /a -->\n2\n<!-- b -->\nkeep\n<!-- /b -->\n")
    format.replace_block(file, "a", "new \\1\n")
    assert (
        file.read_text()
        == "1\n<!-- a -->\nnew \\1\n<!-- /a -->\n2\n<!-- b -->\nkeep\n<!-- /b -->\n"
    )
    before = file.stat().st_mtime_ns
    format.replace_block(file, "absent", "new")
    assert file.stat().st_mtime_ns == before


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
    rows = pd.DataFrame({"fold": [0, 1], "n": [30, 10], "accuracy": [0.9, 0.5]})
    assert format.pooled_std(rows) == "0.800 ± 0.283"
    assert format.pooled_std(rows[:1]) == "0.900" == format.mean_std(rows.accuracy[:1])


def test_columns_are_inserted_in_their_order_and_lines_may_lack_cells():
    table = pd.DataFrame({"a": ["1", "2"], "z": ["3", "4"]})
    format.insert_columns(table, "z", {"b": ["5"], "c": ["6", "7"]})
    assert list(table) == list("abcz") and table.b.tolist() == ["5", ""]
