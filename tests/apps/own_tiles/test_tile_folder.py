"""A folder of images: what is listed, what is left out, what is decoded; tables of the tiles."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import case
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apps.own_tiles import results, tile_folder
from apps.own_tiles.tile_folder import TileFolder, list_tiles
from lib.data import tiles

SUFFIX = "not .jpg, .jpeg, .png, .tif, .tiff, .webp"


def png(text):
    """A picture whose bytes are as different as the texts."""
    buffer, note = BytesIO(), PngInfo()
    note.add_text("name", repr(text))
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


def put(folder, *names, content=None):
    """Pictures that are all different unless `content` says which."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(name if content is None else content))
    return folder


def reasons(folder):
    left = list_tiles(folder).left_out
    return dict(zip(left.path, left.why, strict=True))


NAMES = ["b.png", "a.JPG", "deep/er/c.TIFF", "deep/c.tif", "deep/ü 漢字.webp", "ä<b>&\"'.Jpeg"]


@pytest.mark.parametrize("order", [1, -1])
def test_every_image_file_is_listed_by_path_whatever_was_there_first(tmp_path, order):
    put(tmp_path, *NAMES[::order])
    table = list_tiles(tmp_path).table
    assert table.path.tolist() == sorted(NAMES) == table.group.tolist()
    assert table.tile.tolist() == list(range(6)) and table.tile.dtype == np.int64
    assert table.digest.tolist() == [tiles.digest(tmp_path / name) for name in sorted(NAMES)]
    assert list(table) == ["tile", "path", "group", "digest"]


def test_whatever_is_no_tile_is_left_out_and_named_with_the_reason(tmp_path):
    folder = put(tmp_path / "tiles", "a.png", "deep/b.JPG")
    put(folder, "b.gif", "notes.txt", "c.bmp", "png", "deep/c.png.txt")
    put(folder, "._a.png", ".hidden/b.png", "deep/.cache/c.png")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "linked").symlink_to(folder / "deep")
    (folder / "deep/up").symlink_to(folder)
    (folder / "file.png").symlink_to(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "words.webp").write_text("words")
    assert list_tiles(folder).table.path.tolist() == ["a.png", "deep/b.JPG", "file.png"]
    hidden = ("._a.png", ".hidden/", "deep/.cache/")
    others = ("b.gif", "c.bmp", "notes.txt", "png", "deep/c.png.txt")
    irregular = ("gone.png", "pipe.png", "zero.png")
    expected = dict.fromkeys(hidden, "hidden") | dict.fromkeys(others, SUFFIX)
    expected |= dict.fromkeys(irregular, "no regular file")
    expected |= dict.fromkeys(("linked/", "deep/up/"), "a link to a folder")
    assert reasons(folder) == expected | {"words.webp": "no whole image in JPEG, PNG, TIFF, WEBP"}


def test_tiles_are_decoded_once_and_what_cannot_be_is_left_out_then(tmp_path, monkeypatch):
    folder = put(tmp_path / "tiles", "a.png", "c.png", "z.txt")
    for name in ("b.png", "copy of b.png"):
        (folder / name).write_bytes(png("broken")[:-26])
    decoded, read_square = [], tiles.read_square
    monkeypatch.setattr(
        tiles, "read_square", lambda file, size: decoded.append(file) or read_square(file, size)
    )
    listed = list_tiles(folder)
    assert len(listed.table) == 4 and not decoded
    kept, pixels = listed.decode("mine", 14)
    assert np.load(pixels).shape == (2, 16, 16, 3)
    assert kept.table.path.tolist() == ["a.png", "c.png"] and kept.table.tile.tolist() == [0, 1]
    assert kept.left_out.path.tolist() == ["b.png", "copy of b.png", "z.txt"]
    assert "truncated" in kept.left_out.why[0] and kept.left_out.why[1] == kept.left_out.why[0]
    decoded.clear()
    assert kept.decode("mine", 14)[1] == pixels and not decoded
    with pytest.raises(ValueError, match=r"(?s)holds no image.*left out: 'copy of b\.png'"):
        for name in ("a.png", "c.png"):
            (folder / name).unlink()
        list_tiles(folder).decode("mine", 14)


def test_what_may_not_be_read_is_left_out(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = put(tmp_path / "tiles", "a.png", "b.png", "deep/c.png")
    for name in ("b.png", "deep"):
        (folder / name).chmod(0)
    try:
        assert reasons(folder) == {"b.png": "Permission denied", "deep/": "Permission denied"}
    finally:
        (folder / "deep").chmod(0o700)


def test_a_name_that_is_not_unicode_is_left_out_and_spelt(tmp_path):
    put(tmp_path, "a.png")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png("b"))
    except OSError:
        pytest.skip("the file system takes no such name")
    assert reasons(tmp_path) == {"caf\\xe9.png": "its name is not UTF-8"}


def test_a_file_that_vanishes_between_listing_and_reading_is_left_out(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b.png")
    listed = {"a.png": "", "b.png": "", "gone.png": ""}
    monkeypatch.setattr(tile_folder, "files_below", lambda _: listed)
    assert list(reasons(tmp_path)) == ["gone.png"]


def test_results_are_no_tiles_wherever_they_lie(tmp_path, monkeypatch):
    folder = put(tmp_path / "tiles", "a.png", "data/mine.png")
    put(folder, "data/runs/own/x.png", "data/raw/demo/x.png", "figures/x.png")
    put(folder, "copy/gallery/01-fat.png", "copy/classifier/classifier.json")
    put(folder, "copy/pseudo_labels.csv")
    put(folder, "page/0/overlays/x.png", "page/viewer/openseadragon.min.js")
    monkeypatch.setenv("OUTPUT_ROOT", str(folder))
    assert list_tiles(folder).table.path.tolist() == ["a.png", "data/mine.png"]
    written = ["copy/", "data/raw/", "data/runs/", "figures/", "page/"]
    assert reasons(folder) == dict.fromkeys(written, "results of this project")
    for name in ("data/runs", "data/runs/own", "copy", "copy/gallery", "page/0/overlays"):
        with case(name), pytest.raises(ValueError, match="lies among results of this project"):
            list_tiles(folder / name)
    assert len(list_tiles(folder / "data/raw/demo").table) == 1  # synthetic tiles are tiles


def test_what_is_left_out_is_said_in_lines_that_no_name_can_forge(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "b\nopen \x1b[1mme.png").write_text("no picture")
    listed = list_tiles(tmp_path)
    first, second = TileFolder(Path("my\ntiles"), listed.table, listed.left_out).left_out_lines()
    assert first == r"left out of 'my\ntiles': 1 of 2 files"
    assert second.startswith(r"left out: 'b\nopen \x1b[1mme.png': no whole image")
    assert TileFolder(tmp_path, listed.table, listed.left_out[:0]).left_out_lines() == []
    many = pd.DataFrame({"path": [f"{n}.txt" for n in range(23)], "why": "text"})
    lines = TileFolder(Path("many"), listed.table, many).left_out_lines()
    assert len(lines) == 22 and lines[0] == "left out of 'many': 23 of 24 files"
    assert lines[-1] == "left out: and 3 more"


def test_subfolders_are_groups_where_that_is_asked_for(tmp_path):
    put(tmp_path, "case 1/a.png", "case 1/slide 2/a.png", "case 2/a.png", "case 1/b.png")
    table = list_tiles(tmp_path, by_folder=True).table
    assert table.group.tolist() == ["case 1", "case 1", "case 1/slide 2", "case 2"]
    put(tmp_path, "loose.png")
    with pytest.raises(ValueError, match=r"subfolders are to be groups, but loose\.png lies in"):
        list_tiles(tmp_path, by_folder=True)


def test_copies_share_a_number_and_numbers_have_no_gap(tmp_path):
    put(tmp_path, "c.png", "e.png")
    put(tmp_path, "b.png", "d/x.jpg", "f.png", content="one")
    put(tmp_path, "a.png", "g.png", content="two")
    listed = list_tiles(tmp_path)
    assert listed.table.tile.tolist() == [0, 1, 2, 1, 3, 1, 0]
    assert listed.unique.tile.tolist() == [0, 1, 2, 3] == listed.unique.index.tolist()
    assert listed.unique.path.tolist() == ["a.png", "b.png", "c.png", "e.png"]


def test_a_folder_without_images_or_none_at_all_is_named(tmp_path):
    put(tmp_path, "notes.txt", ".mine/a.png")
    (tmp_path / "spoilt.png").write_text("words")
    message = (
        rf"(?s){tmp_path} holds no image \(\.jpg, .*\.webp\).*left out: 'spoilt.png': no whole"
    )
    with pytest.raises(ValueError, match=message):
        list_tiles(tmp_path)
    assert len(list_tiles(tmp_path / ".mine").table) == 1  # hidden, but it was named
    for wrong in (tmp_path / "gone", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"no such folder of tiles: {wrong}"):
            list_tiles(wrong)


# --- tables --------------------------------------------------------------------------------------


def predicted_by_hand():
    rows = {"path": ["a", "b", "c", "d"], "group": ["x", "y", "x", "x"], "tile": [0, 1, 0, 2]}
    probs = np.array([[0.9, 0.1, 0], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]], np.float32)
    return results.predictions(pd.DataFrame(rows), probs, ["fat", "<b>", "none"])


def test_predictions_are_those_worked_by_hand():
    table = predicted_by_hand()
    columns = ["path", "group", "class", "confidence", "copy_of", "p(fat)", "p(<b>)", "p(none)"]
    assert list(table) == columns
    assert table["class"].tolist() == ["fat", "none", "fat", "<b>"]
    assert table.confidence.tolist() == pytest.approx([0.9, 0.5, 0.9, 0.4])
    assert table.copy_of.tolist() == ["", "", "a", ""]
    assert table["p(<b>)"].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.4])


def test_shares_of_a_group_are_those_worked_by_hand():
    names = ["fat", "<b>", "none", "rare"]
    table = results.per_group(predicted_by_hand(), names).set_index("group")
    assert table.files.to_dict() == {"x": 3, "y": 1}
    shares = table[[f"share({name})" for name in names]]
    assert shares.loc["x"].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert shares.loc["y"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["files", "group"])
def test_a_class_may_be_called_as_a_column_is(name):
    predicted = predicted_by_hand()
    predicted["class"] = predicted["class"].replace("fat", name)
    table = results.per_group(predicted, [name, "<b>", "none"])
    assert list(table) == ["group", "files", f"share({name})", "share(<b>)", "share(none)"]


def test_a_row_per_file_has_what_is_known_of_its_tile():
    table = pd.DataFrame(
        {"tile": [0, 1, 0], "path": ["a", "b", "copy"], "group": ["g", "g", "h"], "digest": "x"}
    )
    files = results.per_file(table, table[:2].assign(kept=[True, False]))
    assert list(files) == ["path", "group", "digest", "kept"]
    assert files.path.tolist() == ["a", "b", "copy"] and files.group.tolist() == ["g", "g", "h"]
    assert files.kept.tolist() == [True, False, True]


def test_the_table_of_an_earlier_run_goes_where_there_is_none_now(tmp_path):
    table = predicted_by_hand()
    results.write_tables(tmp_path, {"one": table, "two": table})
    results.write_tables(tmp_path, {"one": table[:1], "two": None, "three": table[:0]})
    assert [file.name for file in tmp_path.iterdir()] == ["one.csv"]
    assert len(pd.read_csv(tmp_path / "one.csv")) == 1
