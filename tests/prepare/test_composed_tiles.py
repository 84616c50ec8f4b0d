"""Datasets composed of the tiles of others: what is taken, by whole groups."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.prepare import composed_tiles
from lib.data.cards import Card, TissueClass
from lib.data.tiles import read_tile_table

KINDS = {"a": "one", "b": "one", "fat": "two"}


def test_tiles_keep_their_bytes_and_groups_and_no_more_are_taken_than_asked_for(
    tmp_path, monkeypatch
):
    """Group g of two cards are two; the same call gives the same tiles."""
    fields = {"licence": "", "citation": "", "source": "", "group": {"pattern": r"(g\d+)"}}
    known = {}
    for name, kinds in (("one", ["a", "b", "c"]), ("two", ["fat", "c"])):
        known[name] = Card(name, name, name, "*.png", [TissueClass(k, k) for k in kinds], **fields)
        for k, kind in enumerate(kinds):
            (tmp_path / name / kind).mkdir(parents=True)
            for n in range(9):
                pixels = np.full((8, 8, 3), 20 * n + k, np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / kind / f"g{n // 3}-{n}.png")
    monkeypatch.setattr(composed_tiles.cards, "read_card", known.get)
    monkeypatch.setattr(composed_tiles.datasets, "locate_tiles", lambda c: tmp_path / c.folder)
    for folder in ("made", "again"):
        composed_tiles.write_composed_tiles(tmp_path / folder, tissue=KINDS, tiles=6)
    made = tmp_path / "made"
    group = {"table": "groups.csv", "column": "group"}
    classes = [TissueClass(kind, kind) for kind in KINDS]
    card = Card("made", "made", "made", "*.*", classes, **fields | {"group": group})
    table = read_tile_table(card, made)
    assert table.label.value_counts().to_dict() == {0: 6, 1: 6, 2: 6}
    groups = table.group.str.split(" ", expand=True)
    assert (groups[0] == [KINDS[path.split("/")[0]] for path in table.path]).all()
    assert (groups[1] == table.path.str.extract(r"/(g\d)", expand=False)).all()
    assert table.groupby(["label", "group"]).size().tolist() == [3] * 6, "whole groups"
    for path in table.path:
        kind = path.split("/")[0]
        assert (made / path).read_bytes() == (tmp_path / KINDS[kind] / path).read_bytes()
    assert pd.read_csv(made / "groups.csv").equals(pd.read_csv(tmp_path / "again/groups.csv"))


@pytest.mark.parametrize("tiles", [4, 100])
def test_a_last_group_may_be_cut_and_what_is_too_few_is_taken_whole(tmp_path, monkeypatch, tiles):
    (tmp_path / "one/a").mkdir(parents=True)
    for n in range(9):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"one/a/g{n // 3}-{n}.png")
    fields = {"licence": "", "citation": "", "source": "", "group": {"pattern": r"(g\d+)"}}
    card = Card("one", "one", "one", "*.png", [TissueClass("a", "a")], **fields)
    monkeypatch.setattr(composed_tiles.cards, "read_card", {"one": card}.get)
    monkeypatch.setattr(composed_tiles.datasets, "locate_tiles", lambda c: tmp_path / c.folder)
    composed_tiles.write_composed_tiles(tmp_path / "made", tissue={"a": "one"}, tiles=tiles)
    lines = pd.read_csv(tmp_path / "made/groups.csv")
    assert len(lines) == min(tiles, 9) and lines.groupby("group").size().max() == 3
