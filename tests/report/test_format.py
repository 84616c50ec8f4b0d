"""Markdown, and its place in a file."""

import pandas as pd

from lib.report import format


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
