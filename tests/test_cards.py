"""Every card reads; a wrong one is refused by file and field; datasets are found in order."""

import numpy as np
import pandas as pd
import pytest
import yaml

from lib import paths
from lib.data import cards, tiles

VALID = {
    "title": "Toy",
    "folder": "toy",
    "tiles": "*.png",
    "classes": [{"name": "a", "folder": "x"}, {"name": "b", "folder": "y"}],
    "licence": "none",
    "citation": "none",
    "source": "https://example.org/toy",
}
CARDS = sorted(file.stem for file in (paths.ROOT / "data" / "cards").glob("*.yaml"))


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    """Write a card to a folder of its own and read it."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(paths, "card_file", lambda dataset: folder / f"{dataset}.yaml")

    def write(values):
        text = values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False)
        (folder / "toy.yaml").write_text(text)
        return cards.read_card("toy")

    return write


def without(values, field):
    return {name: value for name, value in values.items() if name != field}


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", CARDS)
def test_every_card_reads_and_can_be_used(dataset):
    card = cards.read_card(dataset)
    assert card.name == dataset and len(card.classes) >= 2
    assert len(set(card.class_names)) == len(card.classes)
    assert len({c.folder for c in card.classes}) == len(card.classes)
    for tissue_class in card.classes:
        texts = [*tissue_class.prompts, *tissue_class.captions]
        assert texts, f"{tissue_class.name} has neither prompts nor captions"
        assert all(isinstance(text, str) and text.strip() for text in texts)
        assert len({*tissue_class.prompts}) == len(tissue_class.prompts)
    assert card.group is None or "pattern" in card.group or {"table", "column"} <= set(card.group)
    for text in (card.title, card.licence, card.citation, card.source):
        assert isinstance(text, str) and text


@pytest.mark.parametrize("dataset", CARDS)
def test_the_captions_of_a_card_are_as_many_for_every_class(dataset):
    assert len({len(c.captions) for c in cards.read_card(dataset).classes}) == 1


def test_a_card_holds_what_its_file_says(write_card):
    values = VALID | {"group": {"pattern": "^(.)"}, "groups_from": "there"}
    values["classes"] = [{"name": "a", "folder": "x", "prompts": ["p", "q"]}, VALID["classes"][1]]
    card = write_card(values)
    assert card.class_names == ["a", "b"] and list(card.classes[0].prompts) == ["p", "q"]
    assert card.group == {"pattern": "^(.)"} and card.groups_from == "there"
    assert not card.classes[1].prompts and card.synthetic is None


@pytest.mark.parametrize("field", VALID)
def test_a_missing_field_is_named_with_its_file(write_card, field):
    with pytest.raises(ValueError, match=rf"toy\.yaml: the field '{field}' is missing"):
        write_card(without(VALID, field))


@pytest.mark.parametrize("field", ["name", "folder"])
def test_a_missing_field_of_a_class_is_named_with_the_class(write_card, field):
    classes = [VALID["classes"][0], without(VALID["classes"][1], field)]
    with pytest.raises(ValueError, match=rf"toy\.yaml, class 2: the field '{field}' is missing"):
        write_card(VALID | {"classes": classes})


def test_an_unknown_field_is_named_with_the_valid_ones(write_card):
    with pytest.raises(ValueError, match=r"toy\.yaml: unknown field 'tile'.*tiles"):
        write_card(VALID | {"tile": "*.png"})
    classes = [*VALID["classes"], {"name": "c", "folder": "z", "prompt": "p"}]
    with pytest.raises(ValueError, match=r"class 3: unknown field 'prompt'.*prompts"):
        write_card(VALID | {"classes": classes})


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_classes_are_refused(write_card, n):
    with pytest.raises(ValueError, match=rf"toy\.yaml.*at least two classes.*{n}"):
        write_card(VALID | {"classes": VALID["classes"][:n]})


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n"])
def test_a_file_without_fields_is_refused(write_card, text):
    with pytest.raises(ValueError, match=r"toy\.yaml must hold named fields"):
        write_card(text)


@pytest.mark.parametrize("classes", [None, "a, b", ["a", "b"]])
def test_classes_that_are_no_list_of_fields_are_refused_by_file(write_card, classes):
    with pytest.raises(ValueError, match=r"toy\.yaml"):
        write_card(VALID | {"classes": classes})


@pytest.mark.parametrize("group", [{"table": "t.csv"}, {"column": "slide"}, {"patern": "^(.)"}])
def test_a_group_without_its_rule_is_refused_by_file(write_card, group):
    with pytest.raises(ValueError, match=r"toy\.yaml: group needs either 'pattern' or 'table'"):
        write_card(VALID | {"group": group})


RULE = {"size": 8, "overlap": 0, "tissue": 0.5, "above": 0, "share": 0}
CUT = RULE | {"images": [{"images": "a/*.png", "masks": "b/{stem}.png", "count": 3}]}


@pytest.mark.parametrize("field", CUT)
def test_a_rule_for_cutting_is_complete(write_card, field):
    assert write_card(VALID | {"cut": CUT}).cut == CUT
    with pytest.raises(ValueError, match=r"toy\.yaml: cut needs 'images' and 'size', 'overlap'"):
        write_card(VALID | {"cut": without(CUT, field)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": {"train": "a"}}, r"parts needs 'train' and 'test'"),
        ({"parts": {"train": "a", "test": "b", "more": "c"}}, r"parts needs 'train' and 'test'"),
        ({"parts": {"train": "a", "test": "b"}, "cut": CUT}, "cut and parts exclude each other"),
        ({"cut": RULE | {"images": [{"masks": "b"}]}}, "cut, images 1 needs 'images'"),
        ({"cut": RULE | {"images": [{"images": "b", "mask": "c"}]}}, "cut, images 1 needs"),
        ({"archives": [{"url": "u"}]}, "archives 1 needs 'holds'"),
        ({"archives": [{"holds": "a", "md5": "u"}]}, "archives 1 needs 'holds'"),
        ({"counts": {"c": 3}}, "counts has 'c': 3"),
        ({"counts": {"a": "3"}}, "counts has 'a': '3'"),
        ({"counts": {"train": {"a": 3}}}, "counts has 'train'"),
        ({"parts": {"train": "x", "test": "y"}, "counts": {"a": 3}}, "counts needs 'train' and"),
    ],
)
def test_an_unfinished_field_is_refused_by_file_and_name(write_card, changes, message):
    with pytest.raises(ValueError, match=rf"toy\.yaml: {message}"):
        write_card(VALID | changes)


def test_only_two_classes_are_cut(write_card):
    classes = [*VALID["classes"], {"name": "c", "folder": "z"}]
    with pytest.raises(ValueError, match=r"toy\.yaml: cut gives two classes, classes has 3"):
        write_card(VALID | {"cut": CUT, "classes": classes})


def test_an_object_in_a_card_is_refused(write_card):
    with pytest.raises(yaml.YAMLError):
        write_card("title: !!python/object/apply:os.getcwd []\n")


def test_an_unknown_dataset_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="'nothing'") as error:
        cards.read_card("nothing")
    assert all(name in str(error.value) for name in CARDS)


# --- finding -------------------------------------------------------------------------------------


@pytest.fixture
def two_places(tmp_path, monkeypatch):
    """The folder of datasets in the output root, and the second place."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "second"))
    return tmp_path / "data" / "raw", tmp_path / "second"


def test_a_dataset_is_looked_up_in_data_raw_before_data_root(write_card, two_places):
    card, (first, second) = write_card(VALID), two_places
    (second / "toy").mkdir(parents=True)
    assert cards.prepare(card) == second / "toy"
    (first / "toy").mkdir(parents=True)
    assert cards.prepare(card) == first / "toy"


def test_a_dataset_that_is_nowhere_names_both_places_and_its_source(write_card, two_places):
    with pytest.raises(FileNotFoundError) as error:
        cards.prepare(write_card(VALID))
    for named in ("'toy'", *(str(place / "toy") for place in two_places), VALID["source"]):
        assert named in str(error.value)


def test_without_data_root_one_place_is_named(write_card, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    with pytest.raises(FileNotFoundError, match="DATA_ROOT") as error:
        cards.prepare(write_card(VALID))
    assert str(error.value).endswith(f"Looked in: {tmp_path / 'data' / 'raw' / 'toy'}")


def test_a_relative_data_root_counts_from_the_repository(monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "../shared/data")
    assert paths.raw_folders()[1] == (paths.ROOT / ".." / "shared" / "data").resolve()


RECIPE = {"slides": 2, "tiles": 8, "size": 32, "shift": 0.0, "seed": 0}
SYNTHETIC = VALID | {
    "classes": [{"name": "fat", "folder": "adipose"}, {"name": "muscle", "folder": "smooth_muscle"}]
}


def test_a_synthetic_dataset_is_made_once_and_anew_for_another_recipe(write_card, two_places):
    card = write_card(SYNTHETIC | {"synthetic": RECIPE})
    folder = cards.prepare(card)
    assert folder == two_places[0] / "toy"
    table = tiles.read_tile_table(card, folder)
    assert np.bincount(table.label).tolist() == [4, 4]
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    assert cards.prepare(card) == folder
    assert written == {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    cards.prepare(write_card(SYNTHETIC | {"synthetic": RECIPE | {"tiles": 6}}))
    assert len(list(folder.rglob("*.png"))) == 6
    assert not list(folder.parent.glob(".*"))


def test_a_wrong_recipe_is_refused_and_leaves_nothing(write_card, two_places):
    card = write_card(SYNTHETIC | {"synthetic": RECIPE | {"slides": 0}})
    with pytest.raises(ValueError, match="slides"):
        cards.prepare(card)
    assert not list(two_places[0].iterdir())


REAL = [name for name in CARDS if cards.read_card(name).synthetic is None]


@pytest.mark.parametrize("dataset", REAL)
def test_a_dataset_that_is_here_has_the_tiles_its_card_says(dataset, monkeypatch):
    card = cards.read_card(dataset)
    shared = paths.ROOT.parent / "shared" / "data"
    if shared.is_dir():
        monkeypatch.setenv("DATA_ROOT", str(shared))
    try:
        folder = cards.prepare(card)
    except FileNotFoundError:
        pytest.skip(f"{dataset} is not here")
    if card.group and not (folder / card.group.get("table", ".")).exists():
        pytest.skip(f"the groups of {dataset} are not here")
    monkeypatch.setattr(tiles, "_digest", lambda file: "")  # reading every byte takes too long
    table = tiles.read_tile_table(card, folder)
    assert sorted(table.label.unique()) == list(range(len(card.classes)))
    split = tiles.split_by_group(table.label.to_numpy(), table.group.to_numpy(), 0)
    assert (split == "test").mean() == pytest.approx(0.2, abs=0.05)
    assert card.group is None or table.group.nunique() < len(table)


def test_a_stand_in_says_what_it_learnt_on():
    said = describe_vlm("stand-in-lc25k_restained")
    assert "a fifth of its source tiles, re-stained" in said
    assert describe_vlm("ViT-B-32/openai") == "ViT-B-32/openai"


def test_the_two_parts_of_lc25000_share_no_group_and_prompts_are_alike():
    target, source = cards.read_card("lc25k"), cards.read_card("lc25k_restained")
    assert (
        target.group_hash_range[0] == source.group_hash_range[1] > source.group_hash_range[0] == 0
    )
    assert target.class_names == source.class_names and source.restain > 0 == target.restain
    for of_target, of_source in zip(target.classes, source.classes, strict=True):
        assert of_target.prompts == of_source.prompts and of_source.captions


# --- in short ------------------------------------------------------------------------------------


def test_the_table_of_datasets_says_how_to_get_each_and_how_it_is_divided():
    table = cards.datasets_table()
    assert table.columns.tolist() == [
        "dataset", "to get it", "tiles", "split", "grouped by", "licence",
    ]  # fmt: skip
    table.index = pd.Index(table.dataset.str.extract(r"\[`(\w+)`\]", expand=False))
    assert (table.tiles != "0").all() and table.index.tolist() == list(cards.PUBLIC)
    rows = table.drop(columns=["dataset", "licence"]).T.to_dict("list")
    assert rows["crc5000"] == ["`make data DATASET=crc5000`", "5,000", "4:1", "slide"]
    assert rows["nct_crc"] == ["`make data DATASET=nct_crc`", "107,180", "its own", "tile"]
    assert rows["hph"] == ["by hand from Mendeley", "cut from 1,500 images", "4:1", "patient"]
    assert rows["digestpath"][1:] == ["cut from 660 images", "4:1", "case"]
    assert rows["lc25000"][1:] == ["25,000", "4:1", "source tile"]
    assert rows["chaoyang"][1:] == ["6,160", "its own", "tile"]
    assert rows["ebhi"][1:] == ["2,228", "4:1", "case"]


@pytest.mark.parametrize("dataset", CARDS)
def test_every_rule_for_groups_says_what_a_group_is(dataset):
    group = cards.read_card(dataset).group
    assert group is None or isinstance(group["is"], str)
