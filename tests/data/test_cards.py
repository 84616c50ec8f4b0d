"""Every card reads; a wrong one is refused by file and field."""

import re
import subprocess
import sys

import pytest
import yaml
from cases import case
from miniatures import CARD_FIELDS

from lib import paths
from lib.data import cards

CARDS = sorted(file.stem for file in (paths.ROOT / "data" / "cards").glob("*.yaml"))

RULE = {"size": 8, "overlap": 0, "tissue": 0.5, "above": 0, "share": 0}
PATCHING = RULE | {"images": [{"images": "a/*.png", "masks": "b/{stem}.png", "count": 3}]}
SPLITS = {"train": "x", "test": "y"}


def without(values, field):
    return {name: value for name, value in values.items() if name != field}


# --- reading -------------------------------------------------------------------------------------


def test_every_card_reads_and_can_be_used():
    assert len(CARDS) > 10
    for dataset in CARDS:
        card = cards.read_card(dataset)
        with case(dataset):
            assert card.name == dataset and len({c.folder for c in card.classes}) >= 2
            for tissue_class in card.classes:
                assert tissue_class.prompts or tissue_class.captions
                assert len({*tissue_class.prompts}) == len(tissue_class.prompts)
            group = card.group or {"is": "tile"}
            assert isinstance(group["is"], str) and len({*group} & {"pattern", "table"}) < 2
            assert len({len(c.captions) for c in card.classes}) == 1
            if "copies" in group:
                lines = cards.beside(card, group["copies"]).read_text().splitlines()
                assert lines[0] == "tile,copy" and 1 < len({*lines}) == len(lines)


def test_a_card_holds_what_its_file_says(write_card):
    values = CARD_FIELDS | {"group": {"pattern": "^(.)"}, "groups_from": "there"}
    first, second = CARD_FIELDS["classes"]
    card = write_card(values | {"classes": [first | {"prompts": ["p", "q"]}, second]})
    assert card.class_names == ["a", "b"] and list(card.classes[0].prompts) == ["p", "q"]
    assert card.group == {"pattern": "^(.)"} and card.groups_from == "there"
    assert not card.classes[1].prompts and card.synthetic is None
    copied = {"table": "t.csv", "column": "c", "copies": "toy_copies.csv"}
    card = write_card(CARD_FIELDS | {"group": copied})
    assert cards.beside(card, "toy_copies.csv") == paths.card_file("toy").with_name(
        copied["copies"]
    )
    assert write_card(CARD_FIELDS | {"patching": PATCHING}).patching == PATCHING


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
        message = rf"toy\.yaml: {field}: it is missing"
        with case(field), pytest.raises(ValueError, match=message):
            write_card(without(CARD_FIELDS, field))


def test_an_unknown_field_is_named_with_the_valid_ones(write_card):
    with pytest.raises(ValueError, match=r"toy\.yaml: unknown field 'tile'.*tiles"):
        write_card(CARD_FIELDS | {"tile": "*.png"})


def test_a_file_without_fields_is_refused(write_card):
    for text in ("", "just words", "- a\n- b\n"):
        with case(text), pytest.raises(ValueError, match=r"toy\.yaml must hold named fields"):
            write_card(text)


# --- hostile and mistaken cards ------------------------------------------------------------------

OUTSIDE = ["", ".", "..", "../x", "x/../../y", "/x", "//x", "x//y", "x/", "./x", "~", "~/x", "C:/x"]
OUTSIDE += ["C:x", "x\\y", "..\\x", "\\\\x\\y", "x\0y", "x\ny", "x\x1b[2J", ".downloads", "x/.git"]
OUTSIDE += [True, 1, 1.5, None, ["x"], {"x": "y"}]
A, B = CARD_FIELDS["classes"]
MADE = {"slides": 2, "islands": 2, "columns": 2, "side": 64, "irrelevant": 0.5, "seed": 0}
TABLE = {"table": "t.csv", "column": "c"}
PATHS = {
    "folder": lambda path: {"folder": path},
    "tiles": lambda path: {"tiles": path},
    "classes, 2, name": lambda path: {"classes": [A, B | {"name": path}]},
    "classes, 2, folder": lambda path: {"classes": [A, B | {"folder": path}]},
    "group, table": lambda path: {"group": TABLE | {"table": path}},
    "group, sample": lambda path: {"group": {"column": "c", "sample": path}},
    "group, relative_to": lambda path: {"group": TABLE | {"relative_to": path}},
    "group, copies": lambda path: {"group": TABLE | {"copies": path}},
    "splits, train": lambda path: {"splits": SPLITS | {"train": path}},
    "archives, 1, contains": lambda path: {"archives": [{"contains": path}]},
    "patching, images, 1, images": lambda path: {"patching": RULE | {"images": [{"images": path}]}},
    "patching, images, 1, masks": lambda path: {
        "patching": RULE | {"images": [{"images": "x", "masks": path}]}
    },
    "slides, table": lambda path: {"slides": {"table": path}},
    "slides, composed, tissue, a": lambda path: {
        "slides": {"table": "t.csv", "composed": MADE | {"mpp": 0.5, "tissue": {"a": path}}}
    },
    "slides, drawn, others, 1": lambda path: {
        "slides": {"table": "t.csv", "drawn": MADE | {"mpp": [1], "shift": 0, "others": [path]}}
    },
    "joined, 1": lambda path: {"joined": [path]},
}


@pytest.mark.parametrize("field", PATHS)
def test_a_path_or_name_that_leaves_its_folder_is_refused_by_field(write_card, field):
    for path in OUTSIDE:
        with case(path), pytest.raises(ValueError, match=rf"toy\.yaml: {field}:"):
            write_card(CARD_FIELDS | PATHS[field](path))


def test_names_are_of_one_level_and_a_card_s_paths_of_several(write_card):
    for field in ("classes, 2, name", "group, copies", "group, sample", "joined, 1"):
        with case(field), pytest.raises(ValueError, match=rf"toy\.yaml: {field}: 'x/y' is no"):
            write_card(CARD_FIELDS | PATHS[field]("x/y"))
    classes = [A, B | {"name": "Low-grade IN", "folder": "EBHI-SEG/Low-grade IN/image"}]
    card = write_card(CARD_FIELDS | {"folder": "x/y z", "tiles": "**/*.png", "classes": classes})
    assert card.folder == "x/y z" and card.classes[1].folder == "EBHI-SEG/Low-grade IN/image"


def test_a_card_extends_only_a_card_and_not_itself(write_card, monkeypatch):
    for base in (1, ["toy"], {"toy": 1}, ""):
        with case(base), pytest.raises(ValueError, match=r"toy\.yaml extends .*no card"):
            write_card({"extends": base})
    with pytest.raises(ValueError, match=r"toy\.yaml extends 'toy', which extends it"):
        write_card({"extends": "toy"})
    other = paths.card_file("other")
    other.write_text("extends: toy")
    with pytest.raises(ValueError, match=r"other\.yaml extends 'toy', which extends it"):
        write_card({"extends": "other"})
    monkeypatch.undo()
    for name in ("../cards/demo", "/etc/passwd", "..", "demo\0"):
        with case(name), pytest.raises(ValueError):
            cards.read_card(name)


def test_cards_that_join_each_other_are_listed_once(write_card):
    write_card(CARD_FIELDS | {"joined": ["other"]})
    paths.card_file("toy").rename(paths.card_file("other"))
    write_card(CARD_FIELDS | {"joined": ["other", "toy"]})
    assert sorted(file.stem for file in cards.card_files("toy")) == ["other", "toy"]


C = {"name": "c", "folder": "z"}
SYNTHETIC = {"slides": 1, "tiles": 9, "size": 32, "shift": 0, "seed": 0}
DRAWN = MADE | {"mpp": [1], "shift": 0, "others": []}
COMPOSED = MADE | {"mpp": 1, "tissue": {}}
TWO = "group needs either 'pattern', or 'column' and one of 'table' and 'sample'"
WRONG = [
    ({"splits": {"train": "a"}}, "splits, test: it is missing"),
    ({"splits": SPLITS | {"more": "c"}}, "splits, more: unknown field"),
    ({"group": {"patern": "^(.)"}}, "group, patern: unknown field"),
    ({"splits": SPLITS, "patching": PATCHING}, "patching and splits exclude each other"),
    *(
        ({"patching": without(PATCHING, field)}, f"patching, {field}: it is missing")
        for field in PATCHING
    ),
    ({"patching": RULE | {"images": [{"masks": "b"}]}}, "patching, images, 1, images: it is miss"),
    ({"patching": RULE | {"images": [{"images": "b", "x": 1}]}}, "patching, images, 1, x: unknown"),
    ({"archives": [{"url": "https://u"}]}, "archives, 1, contains: it is missing"),
    *(
        ({"archives": [{"contains": name}]}, f"archives, 1, contains: {name!r} is no name")
        for name in ("recipe.json", "Recipe.JSON", "set/recipe.json")  # would pass for ours
    ),
    ({"classes": [A, B, {"name": "c", "folder": "z", "prompt": "p"}]}, "classes, 3, prompt: unkno"),
    ({"archives": [{"contains": "a", "md5": "u"}]}, "archives, 1, md5: unknown field"),
    ({"counts": {"c": 3}}, "counts has 'c': 3"),
    ({"counts": {"a": "3"}}, "counts has 'a': '3'"),
    ({"counts": {"train": {"a": 3}}}, "counts has 'train'"),
    ({"splits": SPLITS, "counts": {"a": 3}}, "counts needs 'train' and"),
    *(({"classes": classes}, "classes: ") for classes in (None, "a, b")),
    ({"classes": ["a", "b"]}, "classes, 1: "),
    *(({"classes": [A, B][:n]}, f"at least two classes are needed, it has {n}") for n in (0, 1)),
    ({"classes": [A, without(B, "folder")]}, "classes, 2, folder: it is missing"),
    ({"classes": [A, without(B, "name")]}, "classes, 2, name: it is missing"),
    *(({"group": group}, TWO) for group in ({"table": "t.csv"}, {"column": "c"}, {"is": "slide"})),
    ({"group": TABLE | {"sample": "s.csv"}}, TWO),
    ({"group": TABLE | {"copies": "c"}}, "group, copies: 'c' is no CSV"),
    ({"group": {"pattern": "(.)", "copies": "c.csv"}}, "group, pattern excludes"),
    ({"group": {"pattern": "(.)", "sample": "s.csv"}}, "group, pattern excludes"),
    ({"patching": PATCHING, "classes": [A, B, C]}, "patching gives two classes, classes has 3"),
    ({"title": ""}, "title: '' is no text"),
    ({"title": " \n"}, "title: "),
    ({"title": 5}, "title: Input should be a valid string, not 5"),
    ({"title": "\x1b[2Jcleared"}, "title: "),
    ({"licence": False}, "licence: "),
    ({"classes": [A, B | {"prompts": "one prompt"}]}, "classes, 2, prompts: "),
    ({"classes": [A, B | {"prompts": [""]}]}, "classes, 2, prompts, 1: "),
    ({"classes": [A, B | {"captions": [None]}]}, "classes, 2, captions, 1: "),
    ({"classes": [A, B | {"name": "A"}]}, "two classes have the name or folder 'a'"),
    ({"classes": [A, B | {"folder": "X"}]}, "two classes have the name or folder 'x'"),
    ({"other_tissue": "fat"}, "other_tissue: "),
    *(
        ({"group": {"pattern": p}}, "group, pattern must be a regular expression")
        for p in ("(", "^slide", "(a)(b)", "(a)\\1")
    ),
    ({"group": {"pattern": "((" * 101}}, "group, pattern: "),
    ({"group": TABLE | {"pattern": "(a)"}}, "group, pattern excludes"),
    ({"group_hash_range": [0.5, 0.2]}, "group_hash_range must be two numbers that rise"),
    ({"group_hash_range": [0.5]}, "group_hash_range: "),
    ({"targets": ["B", "A"]}, "targets must be the first of the classes"),
    ({"targets": ["C"]}, "targets must be the first of the classes"),
    ({"composed": {"tissue": {"a": "b"}}}, "composed, tiles: it is missing"),
    ({"group_hash_range": [0, "1"]}, "group_hash_range, 2: "),
    ({"group_hash_range": [0, float("nan")]}, "group_hash_range, 2: "),
    ({"restain": float("inf")}, "restain: "),
    ({"restain": True}, "restain: "),
    ({"counts": {"a": -1}}, "counts has 'a': -1"),
    ({"counts": {"a": True}}, "counts has 'a': True"),
    ({"counts": [1]}, "counts: "),
    *(
        ({"archives": [{"contains": "x", "url": url}]}, "archives, 1, url: ")
        for url in ("file:///etc/passwd", "ftp://x/y", "https:///x", "https://x/y z")
    ),
    ({"archives": [{"contains": "x", "hash": "md5:123"}]}, "archives, 1, hash: "),
    ({"archives": [{"contains": "x", "hash": "a" * 32}]}, "archives, 1, hash: "),
    ({"archives": {"contains": "x"}}, "archives: "),
    ({"synthetic": {"slides": 1}}, "synthetic, tiles: it is missing"),
    *(
        ({"synthetic": SYNTHETIC | {field: value}}, f"synthetic, {field}: ")
        for field, value in (("tiles", 10**9), ("size", 10**6), ("tiles", "9"))
    ),
    ({"slides": {"table": "t", "drawn": DRAWN | {"mpp": [100]}}}, "slides, drawn, mpp, 1: "),
    (
        {"slides": {"table": "t", "composed": COMPOSED | {"side": 10**6}}},
        "slides, composed, side: ",
    ),
    ({"patching": PATCHING | {"overlap": 8}}, "patching, overlap may be seven eighths"),
    ({"patching": PATCHING | {"size": 0}}, "patching, size: "),
    ({"patching": PATCHING | {"above": 256}}, "patching, above: "),
    ({"patching": PATCHING | {"tissue": "most"}}, "patching, tissue: "),
    ({"patching": PATCHING | {"images": []}}, "patching, images: "),
]


def test_a_field_of_the_wrong_type_or_size_is_refused_by_name(write_card):
    for changes, message in WRONG:
        with case(changes), pytest.raises(ValueError, match=rf"toy\.yaml: {re.escape(message)}"):
            write_card(CARD_FIELDS | changes)


def test_yaml_s_surprises_in_a_card_are_refused_by_line(write_card):
    text = yaml.safe_dump(CARD_FIELDS)
    for more, message in (
        ("counts: {no: 3}", "the name of a field is no text"),
        ("title: Other", "'title' is there twice"),
        ("access: &x [*x]", "anchors and aliases"),
    ):
        line = text.count("\n") + 1
        with case(more), pytest.raises(ValueError, match=rf"toy\.yaml, line {line}: {message}"):
            write_card(text + more)


def test_a_pattern_gives_the_groups_that_python_would_give_whatever_it_takes():
    patterns = {
        cards.read_card(name).group["pattern"]
        for name in CARDS
        if "pattern" in (cards.read_card(name).group or {})
    }
    names = [
        "slide03_0012.png",
        "P5_D5_9_14_2.png",
        "GTXC2014144-1-400-001.png",
        "-",
        "é1-.png",
        "18-10829B_2019-05-08 00_47_24-lv1-24450-13719-3372-5801.jpg",
        "10009_CRC-Prim-HE-03_009.tif_Row_301_Col_151.tif",
    ]
    held = 0
    for pattern in patterns | {"(b*)", "^(a)?"}:
        python = [
            match[1] or None if (match := re.search(pattern, name)) else None for name in names
        ]
        assert cards.groups_by_pattern(pattern, names) == python, pattern
        held += sum(group is not None for group in python)
    assert len(patterns) >= 4 and held >= 5
    for pattern in ("(a+)+$", "(.*)*=", "(?:a|aa)+(b)$", "(.*.*.*.*.*.*.*.*=)"):
        assert cards.groups_by_pattern(pattern, ["a" * 250 + "!"]) == [None], pattern


def test_an_unknown_dataset_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="'nothing'") as error:
        cards.read_card("nothing")
    assert all(name in str(error.value) for name in CARDS)


def test_the_two_subsets_of_lc25000_share_no_group_and_prompts_are_alike():
    target, source = cards.read_card("lc25k"), cards.read_card("lc25k_restained")
    (low, end), (start, high) = source.group_hash_range, target.group_hash_range
    assert low == 0 < end == start < high
    assert target.class_names == source.class_names and source.restain < 0 == target.restain
    for target_class, source_class in zip(target.classes, source.classes, strict=True):
        assert target_class.prompts == source_class.prompts and source_class.captions


def test_reading_a_card_imports_nothing_that_draws_or_cuts():
    loaded = "import sys; from lib.data import cards; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", loaded], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    modules = set(run.stdout.split())
    heavy = {"torch", "scipy", "pandas", "PIL", "data.prepare.synthetic", "data.prepare.patches"}
    assert "lib.data.cards" in modules and not modules & heavy
