"""Datasets are found in order, made once, and what of them is missing is said."""

import numpy as np
import pandas as pd
import pytest
from miniatures import CARD_FIELDS

from data.prepare.datasets import prepare
from figures.card_tables import PUBLIC, datasets_table
from lib import paths
from lib.data import cards, datasets, splits, tiles

CARDS = sorted(file.stem for file in (paths.ROOT / "data" / "cards").glob("*.yaml"))


# --- finding -------------------------------------------------------------------------------------


@pytest.fixture
def two_places(tmp_path, monkeypatch):
    """The folder of datasets in the output root, and the second place."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "second"))
    return tmp_path / "data" / "raw", tmp_path / "second"


def test_a_dataset_is_looked_up_in_data_raw_before_data_root(write_card, two_places):
    card = write_card(CARD_FIELDS)
    with pytest.raises(FileNotFoundError, match=f"'toy' .*{CARD_FIELDS['source']}") as error:
        prepare(card)
    assert all(str(place / "toy") in str(error.value) for place in two_places)
    for place in reversed(two_places):
        (place / "toy").mkdir(parents=True)
        assert datasets.locate(card) == prepare(card) == place / "toy"


def test_a_relative_data_root_counts_from_the_repository_and_none_is_not_looked_in(
    write_card, tmp_path, monkeypatch
):
    monkeypatch.setenv("DATA_ROOT", "../shared/data")
    assert paths.raw_folders()[1] == (paths.ROOT / ".." / "shared" / "data").resolve()
    monkeypatch.delenv("DATA_ROOT")
    with pytest.raises(FileNotFoundError, match="DATA_ROOT") as error:
        prepare(write_card(CARD_FIELDS))
    assert str(error.value).endswith(f"Looked in: {tmp_path / 'data' / 'raw' / 'toy'}")


def test_how_to_get_a_dataset_is_a_command_or_a_place(write_card, two_places):
    by_hand = write_card(CARD_FIELDS | {"access": "a form"})
    place = two_places[0] / "toy"
    assert datasets.how_to_get(by_hand) == (
        f"Get it from https://example.org/toy (a form) and put it at {place}."
    )
    archives = {"archives": [{"contains": "x"}]}
    assert datasets.how_to_get(write_card(CARD_FIELDS | archives)) == (
        "Get it with `make data DATASET=toy`."
    )
    both = write_card(CARD_FIELDS | archives | {"access": "a form"})
    assert datasets.how_to_get(both) == (
        f"Get it from https://example.org/toy (a form) and put it at {place}; "
        "`make data DATASET=toy` unpacks what lies there."
    )


def test_a_dataset_may_be_a_link_but_none_of_its_class_folders(write_card, two_places, tmp_path):
    real = tmp_path / "elsewhere"
    for name in ("x", "y"):
        (real / name).mkdir(parents=True)
    two_places[0].mkdir(parents=True)
    folder = two_places[0] / "toy"
    folder.symlink_to(real)
    assert datasets.locate(write_card(CARD_FIELDS)) == folder
    (real / "y").rmdir()
    (real / "y").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"class folder .*toy/y is a link"):
        datasets.locate(write_card(CARD_FIELDS))


REAL = [n for n in CARDS if (c := cards.read_card(n)).synthetic is None and c.slides is None]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", REAL)
def test_a_dataset_that_is_here_has_the_tiles_its_card_says(dataset, monkeypatch):
    card = cards.read_card(dataset)
    try:
        folder = prepare(card)
    except FileNotFoundError:
        pytest.skip(f"{dataset} is not here")
    if card.group and not (folder / card.group.get("table", ".")).exists():
        pytest.skip(f"the groups of {dataset} are not here")
    # reading every byte takes too long
    monkeypatch.setattr(tiles, "digest", lambda file: "")
    table = tiles.read_tile_table(card, folder)
    assert sorted(table.label.unique()) == list(range(len(card.classes)))
    folds = splits.divide(table.label.to_numpy(), table.group.to_numpy())
    tolerance = 0.05 if table.group.nunique() > 50 else 0.1  # ten slides do not divide evenly
    assert np.bincount(folds) / len(table) == pytest.approx(0.2, abs=tolerance)
    assert card.group is None or table.group.nunique() < len(table)


# --- in short ------------------------------------------------------------------------------------


def test_the_table_of_datasets_says_how_to_get_each_and_how_it_is_divided():
    table = datasets_table()
    columns = ["dataset", "to get it", "tiles", "split", "grouped by", "licence"]
    assert table.columns.tolist() == columns
    table.index = pd.Index(table.dataset.str.extract(r"\[`(\w+)`\]", expand=False))
    assert (table.tiles != "0").all() and table.index.tolist() == list(PUBLIC)
    rows = table.drop(columns=["dataset", "licence"]).T.to_dict("list")
    assert rows["crc5000"] == ["`make data DATASET=crc5000`", "5,000", "4:1", "slide"]
    assert rows["nct_crc"] == ["`make data DATASET=nct_crc`", "107,180", "its own", "tile"]
    assert rows["hph"] == ["by hand from Mendeley", "cut from 1,500 images", "4:1", "patient"]
    assert rows["digestpath"][1:] == ["cut from 660 images", "4:1", "case"]
    assert rows["lc25000"][1:] == ["25,000", "4:1", "source tile"]
    assert rows["chaoyang"][1:] == ["6,160", "its own", "tile"]
    assert rows["ebhi"][1:] == ["2,228", "4:1", "case"]


def test_a_dataset_in_which_a_file_is_added_exchanged_or_removed_has_another_state(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    states, (a, b) = [datasets.state_of(tmp_path)], (tmp_path / "a", tmp_path / "b")
    (tmp_path / ".hidden").write_text("no tile")
    assert datasets.state_of(tmp_path) == states[0]
    for change in (
        lambda: (a / "1.png").write_text("a/9.png"),
        lambda: (b / "3.png").write_text("new"),
        lambda: (b / "3.png").rename(a / "3.png"),
    ):
        change()
        states.append(datasets.state_of(tmp_path))
    (a / "3.png").unlink()
    assert len({*states, datasets.state_of(tmp_path)}) == 4  # the last is the second again
