"""The record before and after its fields got other names: nothing that was measured has moved."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from lib import paths, record

RECORD = paths.ROOT / "data" / "record"
BEFORE = Path(__file__).with_name("record_before_migration.txt")
MEASURED = (
    "dataset vlm method network training seed budget split n scores labels seconds commit "
    "versions device"
).split()
RENAMED = {"share", "image_size", "steps", "weight"}


def fingerprint(file: Path) -> str:
    """Number of rows and one hash of what they measured, in whatever order they stand."""
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [json.dumps([row[name] for name in MEASURED], sort_keys=True) for row in rows]
    else:
        frame = pd.read_parquet(file)
        lines = [
            repr(line) for line in frame.drop(columns="setting", errors="ignore").values.tolist()
        ]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return f"{file.name} {len(lines)} {digest}"


def record_files() -> list[Path]:
    return sorted(f for f in RECORD.iterdir() if f.suffix in (".jsonl", ".parquet"))


def test_no_measurement_of_the_record_moved_when_its_fields_were_renamed():
    assert [fingerprint(file) for file in record_files()] == BEFORE.read_text().splitlines()


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
