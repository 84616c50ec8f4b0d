"""Tile tables, grouped splits and the decode-once store."""

import io
import os
import re
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import references
import torch
from cases import case
from PIL import Image

from lib.data import shifts, tiles
from lib.data.cards import Card, TissueClass

CLASSES = (TissueClass("fat", "fat"), TissueClass("gland", "deep/gland"))


def new_card(**changes):
    values = dict(
        name="toy",
        title="Toy",
        folder="toy",
        tiles="*.png",
        classes=CLASSES,
        licence="none",
        citation="none",
        source="nowhere",
    )
    return Card(**(values | changes))


def picture(seed, width=20, height=20):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """Five tiles in two classes; b.png and the copy are one image."""
    where = tmp_path / "toy"
    for number, name in enumerate(["fat/b.png", "fat/a.png", "deep/gland/c.png", "fat/10.png"]):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(where / name)
    (where / "deep/gland/copy.png").write_bytes((where / "fat/b.png").read_bytes())
    return where


# --- table ---------------------------------------------------------------------------------------


def test_the_table_lists_every_tile_once_ordered_by_path(folder):
    table = tiles.read_tile_table(new_card(), folder)
    assert list(table) == ["tile", "path", "label", "part", "group", "digest"]
    names = ["deep/gland/c.png", "deep/gland/copy.png", "fat/10.png", "fat/a.png", "fat/b.png"]
    assert table.path.tolist() == names and table.label.tolist() == [1, 1, 0, 0, 0]
    assert table.tile.tolist() == list(range(5)) and table.tile.dtype == np.int64
    digest = table.set_index("path").digest
    assert digest["fat/b.png"] == digest["deep/gland/copy.png"] and digest.nunique() == 4
    assert table.group.is_unique, "without a rule"
    table = tiles.read_tile_table(new_card(group={"pattern": "^(.)"}), folder)
    assert table.group.tolist() == ["c", "c", "1", "a", "b"]


@pytest.mark.parametrize("pattern", ["^([a-z])", "^([a-z]*)"])
def test_a_pattern_that_misses_a_tile_or_finds_nothing_in_it_is_named(folder, pattern):
    with pytest.raises(ValueError, match=rf"{re.escape(pattern)}.* 1 tiles, first: fat/10\.png"):
        tiles.read_tile_table(new_card(group={"pattern": pattern}), folder)


def test_a_range_of_groups_takes_whole_groups_and_ranges_divide_them(folder):
    for number in range(40):
        picture(100 + number).save(folder / "fat" / f"{number // 2:02d}-{number}.png")
        picture(200 + number).save(folder / "deep/gland" / f"{number // 2:02d}_{number}.png")
    by_group = new_card(group={"pattern": "^(..)"})
    low, high, everything = (
        tiles.read_tile_table(replace(by_group, group_hash_range=between), folder)
        for between in ((0, 0.3), (0.3, 1), (0, 1))
    )
    assert {*low.path, *high.path} == {*everything.path} and 0 < len(low) < len(high)
    assert not {*low.path} & {*high.path} and not {*low.group} & {*high.group}
    assert high.tile.tolist() == list(range(len(high)))


GROUPS = {
    "group": {"table": "groups.csv", "column": "slide"},
    "groups_from": "https://x.org/groups",
}
ROWS = [
    ["fat/10.png", "007"],
    ["fat/a.png", "s1"],
    ["fat/b.png", "s2"],
    ["deep/gland/copy.png", "s2"],
    ["deep/gland/c.png", "007"],
]


def with_group_table(folder, rows, **changes):
    pd.DataFrame(rows, columns=["path", "slide"]).to_csv(folder / "groups.csv", index=False)
    return new_card(**GROUPS | changes)


def test_a_group_table_gives_the_groups_as_text(folder):
    table = tiles.read_tile_table(with_group_table(folder, ROWS), folder)
    assert table.group.tolist() == ["007", "s2", "007", "s1", "s2"]
    in_fat = [[path.removeprefix("fat/"), group] for path, group in ROWS[:3]]
    rule = GROUPS["group"] | {"relative_to": "fat"}
    card = with_group_table(folder, in_fat, group=rule, classes=CLASSES[:1])
    assert tiles.read_tile_table(card, folder).group.tolist() == ["007", "s1", "s2"]


def with_copies(folder, card, pairs, monkeypatch):
    file = folder / "copies.csv"
    pd.DataFrame(pairs, columns=["tile", "copy"]).to_csv(file, index=False)
    monkeypatch.setattr(tiles, "beside", lambda card, name: file)
    return replace(card, group={**card.group, "copies": "copies.csv"})


def test_groups_that_hold_near_copies_are_one_by_the_smallest_name(folder, monkeypatch):
    card = with_group_table(folder, ROWS)
    for pairs, groups in (
        ([("b.png", "a.png")], ["007", "s1", "007", "s1", "s1"]),
        ([("a.png", "b.png"), ("c.png", "b.png")], ["007"] * 5),
        ([("c.png", "10.png"), ("a.png", "gone.png")], ["007", "s2", "007", "s1", "s2"]),
    ):
        with case(pairs):
            joined = with_copies(folder, card, pairs, monkeypatch)
            assert tiles.read_tile_table(joined, folder).group.tolist() == groups


def test_joined_groups_are_those_of_a_slow_search(folder, monkeypatch):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        listed = {f"{n}.png": f"g{draw.integers(12)}" for n in range(30)}
        pairs = [tuple(f"{n}.png" for n in draw.integers(35, size=2)) for _ in range(8)]
        file = folder / "copies.csv"
        pd.DataFrame(pairs, columns=["tile", "copy"]).to_csv(file, index=False)
        assert tiles._with_copies(listed, file) == references.joined_groups(listed, pairs), seed


def test_a_group_table_may_be_of_windows_and_name_files_by_composed_accents(folder):
    (folder / "fat" / "10.png").rename(folder / "fat" / "u\u0308.png")
    card = with_group_table(folder, [["fat/\u00fc.png", "007"], *ROWS[1:]])
    text = (folder / "groups.csv").read_text().replace("/", "\\").replace(",", ";")
    (folder / "groups.csv").write_text("\ufeffsep=;\n" + text.replace("fat", ".\\fat"))
    groups = tiles.read_tile_table(card, folder).set_index("path").group
    assert groups["fat/u\u0308.png"] == "007" and sorted(groups) == sorted(g for _, g in ROWS)


UNCLEAR = {
    "line 7: two rows have 'fat/10.png', see line 2": ["fat/10.png", "s1"],
    "line 7: two rows have './fat//10.png', see line 2": ["./fat//10.png", "007"],
    "line 7: two rows have 'fat..b.png', see line 4": ["fat\\b.png", "s1"],
    "line 7: no slide": ["fat/10.png", " "],
    "line 7: no path": ["", "s1"],
    "names 1 absent tiles, line 7: '../deep.png'": ["../deep.png", "s1"],
    "names 1 absent tiles, line 7: '~/fat/10.png'": ["~/fat/10.png", "s1"],
    "names 1 absent tiles, line 7: '/etc/hosts'": ["/etc/hosts", "s1"],
    "names 1 absent tiles.*fat/gone.png": ["fat/gone.png", "s3"],
}


@pytest.mark.parametrize("message", UNCLEAR)
def test_a_row_that_could_move_a_tile_to_another_group_is_refused_by_line(folder, message):
    (folder.parent / "deep.png").write_bytes(b"outside")
    card = with_group_table(folder, [*ROWS, UNCLEAR[message]])
    with pytest.raises(ValueError, match=rf"groups\.csv.*{message}"):
        tiles.read_tile_table(card, folder)


def test_a_group_table_that_leaves_tiles_or_columns_out_or_is_missing_is_refused(folder):
    file, card = folder / "groups.csv", with_group_table(folder, ROWS[:3])
    whole = pd.read_csv(file)
    for table, message in (
        (whole, "gives no group to 2 tiles.*gland/c.png"),
        (whole.drop(columns="path"), "has no column 'path'"),
        (whole.drop(columns="slide"), "has no column 'slide'"),
        (None, "is missing.*https://x.org/groups"),
    ):
        file.unlink() if table is None else table.to_csv(file, index=False)
        with case(message), pytest.raises(ValueError, match=rf"groups\.csv {message}"):
            tiles.read_tile_table(card, folder)


def test_copies_that_could_be_of_several_tiles_are_refused_and_a_long_chain_is_joined(tmp_path):
    file = tmp_path / "copies.csv"
    file.write_text("tile,copy\na.png,b.png\n")
    with pytest.raises(ValueError, match=r"copies\.csv, line 2: several tiles have one of the"):
        tiles._with_copies({"x/a.png": "1", "y/a.png": "2", "b.png": "3"}, file)
    names = [f"{n:04}" for n in range(3000)]
    file.write_text("tile,copy\n" + "\n".join(f"{b},{a}" for b, a in pairwise(names[::-1])))
    assert set(tiles._with_copies(dict(zip(names, names, strict=True)), file).values()) == {"0000"}


def test_a_class_folder_without_tiles_or_of_two_classes_is_named(folder):
    for name, where, message in (
        ("bone", "hollow", r"'bone' has no tile.*'\*\.png'.*hollow"),
        ("bone", "empty", r"'bone' has no tile.*'\*\.png'.*empty"),
        ("lard", "fat", r"two classes claim.*fat/10\.png"),
    ):
        (folder / "empty").mkdir(exist_ok=True)
        card = new_card(classes=(*CLASSES, TissueClass(name, where)))
        with case(name), pytest.raises(ValueError, match=message):
            tiles.read_tile_table(card, folder)


def test_what_is_no_tile_is_left_out_and_warned_of(folder):
    for name, reason in {
        ".hidden.png": "hidden",
        "b.jpg": r"not \*\.png",
        "notes.txt": "not .jpg",
        "deep/": "not",
        "pipe.png": "no regular file",
        "linked/": "a link to a folder",
        "gone.png": "no regular",
    }.items():
        extra = folder / "fat" / name
        if name == "pipe.png":
            os.mkfifo(extra)
        elif name in ("linked/", "gone.png"):
            extra.symlink_to(folder / "deep" / name)
            (folder / "deep/linked").mkdir(exist_ok=True)
        else:
            extra = extra / "x.png" if name == "deep/" else extra
            extra.parent.mkdir(exist_ok=True)
            extra.write_bytes((folder / "fat/b.png").read_bytes())
        with case(name), pytest.warns(UserWarning, match="left out of toy, fat: 1 of 4") as said:
            assert len(tiles.read_tile_table(new_card(), folder)) == 5
        (message,) = [str(w.message) for w in said if "toy, fat" in str(w.message)]
        with case(name):
            assert re.search(rf"such as '{name}.*': {reason}", message)
        extra.unlink()
    with warnings.catch_warnings(action="error"):
        tiles.read_tile_table(new_card(), folder)


# --- decoding ------------------------------------------------------------------------------------


def decode(folder, card=None, image_size=14):
    table = tiles.read_tile_table(card or new_card(), folder)
    return table, tiles.decode_tiles(table, folder, "toy", image_size)


@pytest.mark.filterwarnings("ignore:converted to 8-bit RGB")
def test_the_store_holds_every_tile_as_pillow_reads_it(folder):
    shapes = {"wide": (50, 31), "tall": (17, 40), "thin": (300, 16), "small": (8, 11)}
    for name, (width, height) in shapes.items():
        picture(9, width, height).save(folder / "fat" / f"{name}.png")
    picture(8).convert("P").save(folder / "fat/palette.png")
    picture(8).convert("L").save(folder / "fat/grey.png")
    table, file = decode(folder)
    store = np.load(file, allow_pickle=False)
    assert store.shape == (len(table), 16, 16, 3) and store.dtype == np.uint8
    for row, path in enumerate(table.path):
        with Image.open(folder / path) as image:
            expected = references.square_tile(image, 16)
        assert np.array_equal(store[row], expected), path


def test_a_large_jpeg_decodes_to_nearly_what_the_full_picture_gives(folder):
    x, y = np.meshgrid(np.arange(400), np.arange(304))
    waves = [127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), (x + y) / 3]
    image = Image.fromarray(np.stack(waves, 2).astype(np.uint8))
    for name in ("fat", "deep/gland"):
        image.save(folder / name / "smooth.jpg", quality=95)
    table, file = decode(folder, new_card(tiles="*.jpg"))
    difference = np.load(file)[0].astype(int) - references.square_tile(image, 16)
    assert np.abs(difference).max() <= 6 and len(table) == 2


def test_a_store_is_written_once_for_the_same_images_and_anew_for_others(folder):
    assert [tiles.stored_size(s) for s in (224, 112, 14, 128)] == [256, 128, 16, 146]
    _, file = decode(folder)
    before = os.stat(file)
    _, again = decode(folder)
    assert again == file and os.stat(again) == before
    _, larger = decode(folder, image_size=28)
    picture(77).save(folder / "fat/a.png")
    _, changed = decode(folder)
    assert len({file, larger, changed}) == 3
    assert not np.array_equal(np.load(file)[3], np.load(changed)[3])


def test_a_shifted_store_stands_beside_the_plain_one(folder):
    table, plain = decode(folder)
    moved = tiles.decode_tiles(table, folder, "toy", 14, shift="eosin+1.0")
    assert moved != plain and plain.is_file()
    for before, after in zip(np.load(plain), np.load(moved), strict=True):
        assert np.array_equal(after, shifts.shift(before, "eosin+1.0"))
    with pytest.raises(ValueError, match="'eosin' is no shift"):
        tiles.decode_tiles(table, folder, "toy", 14, shift="eosin")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_a_truncated_image_is_refused_by_name_and_leaves_nothing(folder, output_root):
    for kind in ("jpeg", "png", "tiff", "webp"):
        buffer = io.BytesIO()
        picture(1, 64, 64).save(buffer, kind)
        for kept in (0.0, 0.01, 0.1, 0.5, 0.9):
            (folder / "fat/broken.png").write_bytes(buffer.getvalue()[: int(kept * buffer.tell())])
            message = r"1 tiles cannot be read.*fat/broken\.png"
            with case(kind, kept):
                with pytest.raises(ValueError, match=message):
                    decode(folder)
                left = [f for f in output_root.rglob("*") if f.suffix == ".npy" or "part" in f.name]
                assert not left


def test_of_many_unreadable_tiles_ten_are_named_and_all_counted(folder):
    for number in range(10, 22):
        (folder / f"fat/broken{number}.png").write_text(f"{number}")
    with pytest.raises(ValueError, match=r"12 tiles.*broken10.*broken11.*broken19.* and 2 more"):
        decode(folder)


# --- batches -------------------------------------------------------------------------------------


def test_batches_cover_the_rows_in_their_order(folder):
    _, file = decode(folder)
    store, rows = np.load(file), np.array([4, 0, 3, 3, 1])
    seen = list(tiles.read_batches(file, rows, 2))
    assert [idx.tolist() for idx, _ in seen] == [[0, 1], [2, 3], [4]]
    for idx, images in seen:
        assert images.dtype == torch.uint8 and images.shape == (len(idx), 16, 16, 3)
        assert np.array_equal(images.numpy(), store[rows[idx]])
