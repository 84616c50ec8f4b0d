"""The page that sets the papers beside the notebooks says what the results say."""

import re
from pathlib import Path

from cases import case

from lib.report.comparison import PAPER

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "notebooks" / "README.md").read_text()
RESULTS = (ROOT / "figures" / "RESULTS.md").read_text()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_lines(text: str) -> list[dict[str, str]]:
    """All lines of all tables in a text, by the headings of their columns."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [
        dict(zip(cells(head), cells(line), strict=True))
        for head, _, *lines in map(str.splitlines, tables)
        for line in lines
    ]


def section(heading: str) -> str:
    """What stands below a heading of the results, up to the next one."""
    (text,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", RESULTS, re.M | re.S)
    return text


ROWS = [row for row in table_lines(PAGE) if "ours" in row]


def test_each_number_of_ours_is_that_of_its_line_of_the_results():
    assert len([row for row in ROWS if row["ours"]]) > 30
    for row in ROWS:
        where = row["line and column of the results"]
        assert bool(row["ours"]) == bool(where), row
        if where:
            with case(where):
                (heading,) = re.findall(r"\[(.+?)\]\(", where)
                *words, column = re.findall(r"\*(.+?)\*", where)
                lines = [line for line in table_lines(section(heading)) if column in line]
                for word in words:
                    name, _, value = word.rpartition(" = ")
                    lines = [
                        line
                        for line in lines
                        if (line.get(name) == value if name else value in line.values())
                    ]
                assert len(lines) == 1
                assert lines[0][column].split(" ")[0] == row["ours"]


def test_published_numbers_are_those_of_the_results():
    published = [
        float(row["published"][:-2]) / 100
        for row in ROWS
        if " %" in row["published"][-2:] and row["published"][0].isdigit()
    ]
    assert sorted(round(value, 3) for value in published) == sorted(set(PAPER.values()))


def test_each_row_names_notebooks_that_exist():
    for row in ROWS:
        linked = re.findall(r"\[(\d\d)\]\((\d\d)_\w+\.py\)", row["notebook"])
        assert linked and all(shown == number for shown, number in linked), row


def test_numbers_at_the_head_of_a_notebook_are_those_of_its_lines_of_the_table():
    for notebook in sorted((ROOT / "notebooks").glob("*.py")):
        said = re.search(r"^# In the paper: (.*?)^#$", notebook.read_text(), re.M | re.S)
        if said:
            rows = [row for row in ROWS if notebook.name in row["notebook"]]
            known = {row[name] for row in rows for name in ("ours", "published")}
            numbers = re.findall(r"\b0\.\d{3}|\d+\.\d ?%", said[1])
            assert set(numbers) <= known, (notebook.stem, numbers)
