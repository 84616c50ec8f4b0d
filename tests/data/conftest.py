"""Cards of datasets that exist in a test alone."""

import pytest
import yaml

from lib import paths
from lib.data import cards


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    """Write the card "toy" to a folder of its own and read it."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(paths, "card_file", lambda dataset: folder / f"{dataset}.yaml")

    def write(values):
        text = values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False)
        (folder / "toy.yaml").write_text(text)
        return cards.read_card("toy")

    return write
