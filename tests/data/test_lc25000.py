"""LC25000 as it is published, and the sample of it that the results are of."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.prepare.datasets import missing_tiles
from lib import paths
from lib.data import cards, datasets, splits, tiles

FOLDERS = {
    "colonn": "colon_image_sets/colon_n",
    "colonca": "colon_image_sets/colon_aca",
    "lungn": "lung_image_sets/lung_n",
    "lungaca": "lung_image_sets/lung_aca",
    "lungscc": "lung_image_sets/lung_scc",
}
SAMPLE = pd.read_csv(paths.ROOT / "data" / "cards" / "lc25000_source_tiles.csv", dtype=str)


def write(folder, names, side):
    """Tiles in the published folders, each of another colour."""
    for k, name in enumerate(names):
        place = FOLDERS[name.removesuffix(".jpeg").rstrip("0123456789")]
        file = folder / "lung_colon_image_set" / place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (k % 256, k // 256, 99)).save(file)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    return tmp_path / "lc25000"


def read(name):
    card = cards.read_card(name)
    return card, tiles.read_tile_table(card, datasets.locate(card))


def test_the_committed_table_names_800_tiles_of_each_class():
    stems = SAMPLE.filename.str.extract(r"^(\D+)\d+\.jpeg$", expand=False)
    assert stems.value_counts().to_dict() == dict.fromkeys(FOLDERS, 800)
    assert SAMPLE.filename.is_unique and SAMPLE.source_tile.nunique() == 978


@pytest.mark.slow
def test_of_the_whole_dataset_the_settings_take_their_sample(root):
    """Every fifth file of 5,000 a class is in the sample; here a sixth of them all."""
    others = [f"{stem}{n}.jpeg" for stem in FOLDERS for n in range(1, 5001, 12)]
    write(root, [*SAMPLE.filename, *(n for n in others if n not in set(SAMPLE.filename))], side=8)
    tables = {}
    for name, n in (("lc25k_colon", 1600), ("lc25k_lung", 2400), ("lc25k", 3136)):
        card, tables[name] = read(name)
        assert len(tables[name]) == n and missing_tiles(card, tables[name]) == []
        folds = pd.read_csv(paths.ROOT / "data" / "splits" / f"{name}.csv").set_index("path").fold
        assert (splits.assign_folds(card, tables[name]) == folds[tables[name].path]).all()
    restained = read("lc25k_restained")[1]
    assert not {*restained.group} & {*tables["lc25k"].group} and len(restained) == 864
    group_of = (
        tables["lc25k_lung"].set_index(tables["lc25k_lung"].path.str.split("/").str[-1]).group
    )
    assert group_of["lungn745.jpeg"] == group_of["lungn2452.jpeg"]  # copies of one picture


def test_in_the_published_layout_the_whole_takes_groups_from_the_public_table(root):
    """A miniature: 768 px, the folders as published, columns of LC25000-clean's table."""
    names = [f"{stem}{n}.jpeg" for stem in FOLDERS for n in (1, 2, 3, 4)]
    write(root, names, side=768)
    columns = ["stem", "filename", "label", "tissue", "local_cluster_label", "group_id"]
    rows = [(n[:-5], n, "x", "y", k % 4 // 2, k // 2) for k, n in enumerate(names)]
    with pytest.raises(ValueError, match=r"lc25000_image_groups\.csv is missing.*LC25000-clean"):
        read("lc25000")
    pd.DataFrame(rows, columns=columns).to_csv(root / "lc25000_image_groups.csv", index=False)
    card, table = read("lc25000")
    assert np.bincount(table.label).tolist() == [4] * 5 and table.group.nunique() == 10
    group_of = {row[1]: str(row[-1]) for row in rows}
    assert table.group.tolist() == [group_of[path.split("/")[-1]] for path in table.path]
    assert missing_tiles(card, table)[0].startswith(
        "lc25000: 20 of 25,000 tiles; colon_n 4 of 5,000"
    )
    decoded = tiles.decode_tiles(table, datasets.locate(card), "lc25000", 224)
    assert np.load(decoded).shape == (20, 256, 256, 3)


def test_a_part_of_the_sample_says_what_is_missing(root):
    listed = SAMPLE.filename[SAMPLE.filename.str.startswith("colon")]
    write(root, listed[::20], side=8)
    card, table = read("lc25k_colon")
    assert missing_tiles(card, table) == [
        "lc25k_colon: 80 of 1,600 tiles; colon_n 40 of 800, colon_aca 40 of 800"
    ]


def test_folders_without_a_tile_of_the_sample_are_refused(root):
    absent = [f"{stem}{n}.jpeg" for stem in ("colonn", "colonca") for n in range(1, 99)]
    write(root, [n for n in absent if n not in set(SAMPLE.filename)][::5], side=8)
    with pytest.raises(ValueError, match=r"lc25000_source_tiles\.csv gives no group to"):
        read("lc25k_colon")
