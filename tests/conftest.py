"""No test reaches the network or writes into the repository."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub client is imported


@pytest.fixture(autouse=True)
def output_root(tmp_path, monkeypatch):
    """Where everything goes that the code under test writes."""
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path))
    return tmp_path
