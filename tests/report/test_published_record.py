"""The published record uses today's names and is in order."""

import pytest

from lib import paths, record

RECORD = paths.ROOT / "data" / "record"
RENAMED = {"share", "steps", "weight", "stain_shift"}


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_rows_of_the_record_use_todays_names(file):
    for row in record.read_rows(file):
        assert not RENAMED & row["params"].keys(), row
        assert not RENAMED & set(row["params"].get("varied", ())), row
        assert row["setting"] in (None, "published filters", "ours"), row
        for name in row["params"].get("varied", ()):
            assert name in row["params"], row


@pytest.mark.parametrize("file", RECORD.glob("*.jsonl"), ids=lambda file: file.name)
def test_the_record_is_sorted_and_no_row_is_there_twice(file, tmp_path):
    rows = record.read_rows(file)
    record.write_record(tmp_path / "sorted.jsonl", rows)
    assert file.read_bytes() == (tmp_path / "sorted.jsonl").read_bytes()
