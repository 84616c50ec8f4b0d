"""The published record uses today's names and is in order."""

import pytest

from lib import paths, record, runner
from lib.slides import open_set, scores

RECORD = paths.ROOT / "data" / "record"
RENAMED = {"share", "steps", "weight", "stain_shift"}
OF_SLIDES = (open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT)


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_rows_of_the_record_use_todays_names(file):
    for row in record.read_rows(file):
        assert not RENAMED & row["params"].keys(), row
        assert not RENAMED & set(row["params"].get("varied", ())), row
        of_tiles = (None, "published filters", "ours")
        assert row["setting"] in (OF_SLIDES if row["split"] == scores.SPLIT else of_tiles), row
        for name in row["params"].get("varied", ()):
            assert name in row["params"], row


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_the_record_is_sorted_and_no_row_is_there_twice(file, tmp_path):
    rows = record.read_rows(file)
    record.write_record(tmp_path / "sorted.jsonl", rows)
    assert file.read_bytes() == (tmp_path / "sorted.jsonl").read_bytes()


# What they show of the record needs nothing else; the smoke chain sees an empty record.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["15_ablations", "16_robustness", "23_unisal_tables",
                                  "24_unisal_ablations"])  # fmt: skip
def test_notebooks_show_the_record_as_it_is(name, monkeypatch):
    monkeypatch.setattr(paths, "record_folder", lambda: RECORD)
    code = [cell for cell in runner.cells(paths.notebook_file(name)) if cell.cell_type == "code"]
    cells = [cell.source for cell in code]
    (start,) = [idx for idx, cell in enumerate(cells) if "record_folder()" in cell]
    shown = {}
    exec(cells[0], shown)
    shown["display"] = lambda *shown: None
    for cell in cells[start:]:
        exec(cell, shown)
