"""The published record uses today's names and is in order."""

import pytest

from lib import paths, record
from lib.slides import open_set, tables

RECORD = paths.ROOT / "data" / "record"
RENAMED = {"share", "steps", "weight", "stain_shift"}
OF_SLIDES = (open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT)


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_rows_of_the_record_use_todays_names(file):
    for row in record.read_rows(file):
        assert not RENAMED & row["params"].keys(), row
        assert not RENAMED & set(row["params"].get("varied", ())), row
        of_tiles = (None, "published filters", "ours")
        assert row["setting"] in (OF_SLIDES if row["split"] == tables.SPLIT else of_tiles), row
        for name in row["params"].get("varied", ()):
            assert name in row["params"], row


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_the_record_is_sorted_and_no_row_is_there_twice(file, tmp_path):
    rows = record.read_rows(file)
    record.write_record(tmp_path / "sorted.jsonl", rows)
    assert file.read_bytes() == (tmp_path / "sorted.jsonl").read_bytes()
