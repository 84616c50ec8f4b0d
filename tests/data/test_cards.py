"""Every card reads; a wrong one is refused by file and field."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from cases import case
from miniatures import CARD_FIELDS

from lib import paths
from lib.data import cards, shifts, staining

CARDS = sorted(file.stem for file in (paths.ROOT / "data" / "cards").glob("*.yaml"))


def without(values, field):
    return {name: value for name, value in values.items() if name != field}


# --- reading -------------------------------------------------------------------------------------


def test_every_card_reads_and_can_be_used():
    assert len(CARDS) > 10
    for dataset in CARDS:
        with case(dataset):
            card = cards.read_card(dataset)
            assert card.name == dataset and len(card.classes) >= 2
            assert len(set(card.class_names)) == len(card.classes)
            assert len({c.folder for c in card.classes}) == len(card.classes)
            for tissue_class in card.classes:
                texts = [*tissue_class.prompts, *tissue_class.captions]
                assert texts, f"{tissue_class.name} has neither prompts nor captions"
                assert all(isinstance(text, str) and text.strip() for text in texts)
                assert len({*tissue_class.prompts}) == len(tissue_class.prompts)
            group = card.group
            assert group is None or "pattern" in group or {"table", "column"} <= set(group)
            for text in (card.title, card.licence, card.citation, card.source):
                assert isinstance(text, str) and text


def test_the_captions_of_a_card_are_as_many_for_every_class():
    for dataset in CARDS:
        assert len({len(c.captions) for c in cards.read_card(dataset).classes}) == 1, dataset


def test_every_rule_for_groups_says_what_a_group_is():
    for dataset in CARDS:
        group = cards.read_card(dataset).group
        assert group is None or isinstance(group["is"], str), dataset


def test_a_card_holds_what_its_file_says(write_card):
    values = CARD_FIELDS | {"group": {"pattern": "^(.)"}, "groups_from": "there"}
    first, second = CARD_FIELDS["classes"]
    card = write_card(values | {"classes": [first | {"prompts": ["p", "q"]}, second]})
    assert card.class_names == ["a", "b"] and list(card.classes[0].prompts) == ["p", "q"]
    assert card.group == {"pattern": "^(.)"} and card.groups_from == "there"
    assert not card.classes[1].prompts and card.synthetic is None


def test_a_card_that_extends_another_has_its_fields_but_for_its_own(write_card):
    write_card(CARD_FIELDS | {"restain": 0.5})
    base = paths.card_file("toy")
    base.rename(base.with_name("base.yaml"))
    card = write_card({"extends": "base", "title": "Other"})
    assert card.title == "Other" and card.restain == 0.5 and card.class_names == ["a", "b"]
    assert [f.stem for f in cards.card_files("toy")] == ["toy", "base"]
    with pytest.raises(ValueError, match=r"toy\.yaml extends 'gone', which has no card"):
        write_card({"extends": "gone"})


def test_a_missing_field_is_named_with_its_file(write_card):
    for field in CARD_FIELDS:
        message = rf"toy\.yaml: the field '{field}' is missing"
        with case(field), pytest.raises(ValueError, match=message):
            write_card(without(CARD_FIELDS, field))


def test_a_missing_field_of_a_class_is_named_with_the_class(write_card):
    first, second = CARD_FIELDS["classes"]
    for field in ("name", "folder"):
        message = rf"toy\.yaml, class 2: the field '{field}' is missing"
        with case(field), pytest.raises(ValueError, match=message):
            write_card(CARD_FIELDS | {"classes": [first, without(second, field)]})


def test_an_unknown_field_is_named_with_the_valid_ones(write_card):
    with pytest.raises(ValueError, match=r"toy\.yaml: unknown field 'tile'.*tiles"):
        write_card(CARD_FIELDS | {"tile": "*.png"})
    classes = [*CARD_FIELDS["classes"], {"name": "c", "folder": "z", "prompt": "p"}]
    with pytest.raises(ValueError, match=r"class 3: unknown field 'prompt'.*prompts"):
        write_card(CARD_FIELDS | {"classes": classes})


def test_fewer_than_two_classes_are_refused(write_card):
    for n in (0, 1):
        with case(n), pytest.raises(ValueError, match=rf"toy\.yaml.*at least two classes.*{n}"):
            write_card(CARD_FIELDS | {"classes": CARD_FIELDS["classes"][:n]})


def test_a_file_without_fields_is_refused(write_card):
    for text in ("", "just words", "- a\n- b\n"):
        with case(text), pytest.raises(ValueError, match=r"toy\.yaml must hold named fields"):
            write_card(text)


def test_classes_that_are_no_list_of_fields_are_refused_by_file(write_card):
    for classes in (None, "a, b", ["a", "b"]):
        with case(classes), pytest.raises(ValueError, match=r"toy\.yaml"):
            write_card(CARD_FIELDS | {"classes": classes})


def test_a_group_without_its_rule_is_refused_by_file(write_card):
    for group in ({"table": "t.csv"}, {"column": "slide"}, {"patern": "^(.)"}):
        message = r"toy\.yaml: group needs either 'pattern' or 'table'"
        with case(group), pytest.raises(ValueError, match=message):
            write_card(CARD_FIELDS | {"group": group})


RULE = {"size": 8, "overlap": 0, "tissue": 0.5, "above": 0, "share": 0}
PATCHING = RULE | {"images": [{"images": "a/*.png", "masks": "b/{stem}.png", "count": 3}]}


def test_a_rule_for_patches_is_complete(write_card):
    assert write_card(CARD_FIELDS | {"patching": PATCHING}).patching == PATCHING
    for field in PATCHING:
        message = r"toy\.yaml: patching needs 'images' and 'size', 'overlap'"
        with case(field), pytest.raises(ValueError, match=message):
            write_card(CARD_FIELDS | {"patching": without(PATCHING, field)})


SPLITS = {"train": "x", "test": "y"}
UNFINISHED = [
    ({"splits": {"train": "a"}}, "splits needs 'train' and 'test'"),
    ({"splits": SPLITS | {"more": "c"}}, "splits needs 'train' and 'test'"),
    ({"splits": SPLITS, "patching": PATCHING}, "patching and splits exclude each other"),
    ({"patching": RULE | {"images": [{"masks": "b"}]}}, "patching, images 1 needs 'images'"),
    ({"patching": RULE | {"images": [{"images": "b", "mask": "c"}]}}, "patching, images 1 needs"),
    ({"archives": [{"url": "u"}]}, "archives 1 needs 'contains'"),
    ({"archives": [{"contains": "a", "md5": "u"}]}, "archives 1 needs 'contains'"),
    ({"counts": {"c": 3}}, "counts has 'c': 3"),
    ({"counts": {"a": "3"}}, "counts has 'a': '3'"),
    ({"counts": {"train": {"a": 3}}}, "counts has 'train'"),
    ({"splits": SPLITS, "counts": {"a": 3}}, "counts needs 'train' and"),
]


def test_an_unfinished_field_is_refused_by_file_and_name(write_card):
    for changes, message in UNFINISHED:
        with case(changes), pytest.raises(ValueError, match=rf"toy\.yaml: {message}"):
            write_card(CARD_FIELDS | changes)


def test_only_two_classes_are_cut(write_card):
    classes = [*CARD_FIELDS["classes"], {"name": "c", "folder": "z"}]
    with pytest.raises(ValueError, match=r"toy\.yaml: patching gives two classes, classes has 3"):
        write_card(CARD_FIELDS | {"patching": PATCHING, "classes": classes})


def test_copies_need_a_table_of_groups_and_are_a_csv(write_card):
    table = {"table": "t.csv", "column": "c"}
    card = write_card(CARD_FIELDS | {"group": table | {"copies": "toy_copies.csv"}})
    assert cards.copies_file(card) == paths.card_file("toy").with_name("toy_copies.csv")
    for group in ({"pattern": "(.)", "copies": "c.csv"}, table | {"copies": "c"}):
        with case(group), pytest.raises(ValueError, match=r"toy\.yaml: group, copies must be a CSV"):
            write_card(CARD_FIELDS | {"group": group})


def test_the_tables_of_copies_exist_and_name_pairs():
    for dataset in CARDS:
        card = cards.read_card(dataset)
        if "copies" in (card.group or {}):
            header, *pairs = card_lines = cards.copies_file(card).read_text().splitlines()
            assert header == "tile,copy" and pairs and len({*card_lines}) == len(card_lines)


def test_an_object_in_a_card_is_refused(write_card):
    with pytest.raises(yaml.YAMLError):
        write_card("title: !!python/object/apply:os.getcwd []\n")


def test_an_unknown_dataset_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="'nothing'") as error:
        cards.read_card("nothing")
    assert all(name in str(error.value) for name in CARDS)


def test_the_two_subsets_of_lc25000_share_no_group_and_prompts_are_alike():
    target, source = cards.read_card("lc25k"), cards.read_card("lc25k_restained")
    (low, end), (start, high) = source.group_hash_range, target.group_hash_range
    assert low == 0 < end == start < high
    assert target.class_names == source.class_names and source.restain > 0 == target.restain
    for target_class, source_class in zip(target.classes, source.classes, strict=True):
        assert target_class.prompts == source_class.prompts and source_class.captions


def test_what_a_card_restains_is_that_shift():
    source = cards.read_card("lc25k_restained")
    tile = np.random.default_rng(0).integers(256, size=(9, 9, 3), dtype=np.uint8)
    restained = staining.restain(tile, source.restain)
    assert np.array_equal(shifts.shift(tile, source.shift), restained)
    assert not cards.read_card("lc25k").shift


def test_reading_a_card_imports_nothing_that_draws_or_cuts():
    loaded = "import sys; from lib.data import cards; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", loaded], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    modules = set(run.stdout.split())
    heavy = {"torch", "scipy", "pandas", "PIL", "lib.data.synthetic", "lib.data.patches"}
    assert "lib.data.cards" in modules and not modules & heavy
