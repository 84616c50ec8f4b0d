"""Images with masks become tiles by the stated rule, once, wholly or not at all."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cases import case
from PIL import Image

from data.prepare import patches
from data.prepare.datasets import missing_tiles, prepare
from lib.data import cards, datasets, images, tiles

KINDS = ["normal", "cancer"]
RULE = {"size": 16, "overlap": 4, "tissue": 0.5, "above": 0, "share": 0.0, "kinds": KINDS}
IMAGES = [{"images": "IMAGES/*.png", "masks": "MASKS/{stem}.png"}]


def picture(seed, width, height):
    """Half glass, half stained, in patches of 5 px; and a mask of some of them."""
    draw = np.random.default_rng(seed)
    shape = -(-height // 5), -(-width // 5)
    stained = draw.random(shape) < 0.6
    grey = draw.integers(200, 250, shape)[..., None].repeat(3, 2)
    colour = draw.integers((150, 40, 120), (220, 100, 200), (*shape, 3))
    pixels = np.where(stained[..., None], colour, grey).astype(np.uint8)
    mask = ((draw.random(shape) < 0.1) * 255).astype(np.uint8)
    return tuple(a.repeat(5, 0).repeat(5, 1)[:height, :width] for a in (pixels, mask))


def save(array, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


@pytest.fixture
def source(tmp_path):
    """Three images with masks."""
    folder = tmp_path / "source"
    for number, (width, height) in enumerate([(60, 45), (33, 16), (70, 70)]):
        image, mask = picture(number, width, height)
        save(image, folder / "IMAGES" / f"P{number}_1.png")
        save(mask, folder / "MASKS" / f"P{number}_1.png")
    return folder


def cut(source, folder, images=IMAGES, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    patches.cut_images(source, folder, images=images, **(RULE | changes))
    return pd.read_csv(folder / "tiles.csv")


def slow_tiles(image, mask, size, overlap, tissue, above, share):
    """Left, top, shares and class of each tile that is kept, pixel by pixel."""
    kept = []
    height, width = len(image), len(image[0])
    top = 0
    while top + size <= height:
        left = 0
        while left + size <= width:
            stained = marked = 0
            for y in range(top, top + size):
                for x in range(left, left + size):
                    red, green, blue = (int(c) for c in image[y][x])
                    low, high = min(red, green, blue), max(red, green, blue)
                    stained += high > 0 and int(255 * (high - low) / high) > 15
                    marked += int(mask[y][x]) > above
            stained, marked = stained / size**2, marked / size**2
            if stained >= tissue:
                kept.append((left, top, stained, marked, KINDS[marked > share]))
            left += size - overlap
        top += size - overlap
    return kept


def check_against_slow_tiles(source, folder, **rule):
    table = cut(source, folder, **rule)
    for name, rows in table.groupby("image"):
        image = np.asarray(Image.open(source / name))
        mask = np.asarray(Image.open(source / name.replace("IMAGES", "MASKS")))
        expected = slow_tiles(image.tolist(), mask.tolist(), above=0, **rule)
        for row, wanted in zip(rows.itertuples(), expected, strict=True):
            assert (row.left, row.top, row[2]) == (wanted[0], wanted[1], wanted[4])
            assert (row.tissue, row.mask) == pytest.approx(wanted[2:4])
            place = np.s_[row.top : row.top + rule["size"], row.left : row.left + rule["size"]]
            assert np.array_equal(np.asarray(Image.open(folder / row.path)), image[place])
    return len(table)


def test_tiles_are_those_of_a_slow_reference(source, tmp_path):
    for size, overlap, tissue, share in ((16, 4, 0.5, 0), (16, 0, 0.6, 0.1), (7, 3, 0.9, 0.5)):
        rule = {"size": size, "overlap": overlap, "tissue": tissue, "share": share}
        with case(rule):
            check_against_slow_tiles(source, tmp_path / f"{size}-{overlap}", **rule)


def test_tiles_at_every_pixel_are_those_of_a_slow_reference(source, tmp_path):
    for number in (0, 2):  # the smallest image is enough
        (source / "IMAGES" / f"P{number}_1.png").unlink()
    for size, overlap, tissue, share in ((7, 6, 0.9, 0.5), (7, 6, 0.5, 0), (16, 15, 0, 0.05)):
        rule = {"size": size, "overlap": overlap, "tissue": tissue, "share": share}
        with case(rule):
            folder = tmp_path / f"{size}-{tissue}"
            assert check_against_slow_tiles(source, folder, **rule) > 10


def test_every_file_is_in_the_table_and_named_after_its_image(source, tmp_path):
    table = cut(source, tmp_path / "tiles")
    files = {f.relative_to(tmp_path / "tiles").as_posix() for f in tmp_path.glob("tiles/*/*")}
    assert set(table.path) == files and not table.path.duplicated().any()
    for row in table.itertuples():
        assert row.path == f"{row[2]}/{row.image[7:-4]}_{row.left}_{row.top}.png"


def test_without_overlap_no_pixel_is_in_two_tiles_and_the_remainder_is_left_out(source, tmp_path):
    table = cut(source, tmp_path / "tiles", overlap=0, tissue=0)
    assert set(table[table.image == "IMAGES/P0_1.png"].left) == {0, 16, 32}  # of 60 px
    assert set(table[table.image == "IMAGES/P0_1.png"].top) == {0, 16}  # of 45 px
    assert len(table[table.image == "IMAGES/P1_1.png"]) == 2  # 33 × 16 px
    assert (table[["left", "top"]] % 16 == 0).all(axis=None)


def test_an_image_smaller_than_a_tile_gives_none(source, tmp_path):
    assert cut(source, tmp_path / "tiles", size=71).empty


def flat(source, colour=(180, 60, 150), marked=0, value=255, end="png"):
    """One image of one tile with a number of marked pixels."""
    mask = np.zeros((16, 16), np.uint8)
    mask.flat[:marked] = value
    save(np.full((16, 16, 3), colour, np.uint8), source / "one" / f"a.{end}")
    save(mask, source / "one" / f"a_mask.{end}")
    return [{"images": f"one/*.{end}", "masks": f"one/{{stem}}_mask.{end}"}]


def test_the_class_changes_above_the_share(tmp_path):
    for marked, share, kind in (
        (0, 0, "normal"),
        (1, 0, "cancer"),
        (128, 0.5, "normal"),
        (129, 0.5, "cancer"),
    ):
        folder = tmp_path / str(marked)
        table = cut(folder / "s", folder / "tiles", flat(folder / "s", marked=marked), share=share)
        assert table["class"].tolist() == [kind], marked
        assert table["mask"].tolist() == [marked / 256], marked


def test_a_mask_pixel_counts_above_the_threshold(tmp_path):
    for value, kind in ((10, "normal"), (11, "cancer")):
        folder = tmp_path / str(value)
        images = flat(folder / "s", marked=40, value=value)
        table = cut(folder / "s", folder / "tiles", images, above=10)
        assert table["class"].tolist() == [kind], value


def test_traces_that_jpeg_leaves_in_a_mask_do_not_count_above_ten(tmp_path):
    image = np.full((18, 36, 3), (180, 60, 150), np.uint8)
    mask = np.zeros((18, 36), np.uint8)
    mask[:, 21:] = 255  # the edge lies in the block of eight that the first tile ends in
    save(image, tmp_path / "s" / "a.jpg")
    Image.fromarray(mask).save(tmp_path / "s" / "a_mask.jpg", quality=70)
    images = [{"images": "*.jpg", "masks": "{stem}_mask.jpg"}]
    for above, kind in ((0, "cancer"), (10, "normal")):
        rule = {"size": 18, "overlap": 0, "above": above}
        table = cut(tmp_path / "s", tmp_path / f"above {above}", images, **rule)
        assert table["class"].tolist() == [kind, "cancer"], above


def test_files_that_are_masks_are_no_images(tmp_path):
    images = flat(tmp_path / "s")
    assert patches.count(tmp_path / "s", {"images": images}) == 1
    assert cut(tmp_path / "s", tmp_path / "tiles", images).image.tolist() == ["one/a.png"]


def test_hidden_files_are_no_images(source):
    (source / "IMAGES" / "._P0_1.png").write_bytes(b"no image")
    assert patches.count(source, {"images": IMAGES}) == 3


def test_without_masks_every_tile_is_of_the_first_kind(source, tmp_path):
    table = cut(source, tmp_path / "tiles", [{"images": "IMAGES/*.png"}])
    assert set(table["class"]) == {"normal"} and (table["mask"] == 0).all()
    assert (tmp_path / "tiles" / "cancer").is_dir()


def test_glass_and_shadow_are_no_tissue():
    for colour in ((255, 255, 255), (240, 238, 241), (120, 120, 120), (0, 0, 0)):
        assert patches.tissue_share(Image.new("RGB", (9, 9), colour)) == 0, colour


def test_stained_pixels_are_tissue():
    for colour in ((230, 170, 200), (120, 70, 150), (250, 225, 235)):
        image = Image.new("RGB", (10, 10), (240, 240, 240))
        image.paste(colour, (0, 0, 10, 3))
        assert patches.tissue_share(image) == pytest.approx(0.3), colour


def test_a_tile_with_exactly_the_share_of_tissue_is_kept(tmp_path):
    image = np.full((16, 16, 3), 240, np.uint8)
    image[:8] = (180, 60, 150)
    save(image, tmp_path / "s" / "a.png")
    assert len(cut(tmp_path / "s", tmp_path / "half", [{"images": "*.png"}], tissue=0.5)) == 1
    assert cut(tmp_path / "s", tmp_path / "more", [{"images": "*.png"}], tissue=0.51).empty


def test_the_same_images_give_the_same_bytes(source, tmp_path):
    image, _ = picture(9, 50, 50)
    save(image, source / "IMAGES" / "Q_1.jpg")
    images = [*IMAGES, {"images": "IMAGES/*.jpg"}]
    written = []
    for turn in ("first", "second"):
        table = cut(source, tmp_path / turn, images)
        files = sorted(f for f in (tmp_path / turn).rglob("*") if f.is_file())
        written.append({f.relative_to(tmp_path / turn): f.read_bytes() for f in files})
    assert written[0] == written[1]
    assert {path[-4:] for path in table.path} == {".png", ".jpg"}


# --- refusals ------------------------------------------------------------------------------------


def test_a_missing_mask_is_named(source, tmp_path):
    (source / "MASKS" / "P1_1.png").unlink()
    with pytest.raises(ValueError, match=r"P1_1\.png has no mask: .*MASKS/P1_1\.png is missing"):
        cut(source, tmp_path / "tiles")
    assert not list(tmp_path.glob("tiles/*/*"))


def test_a_mask_of_another_size_is_named(source, tmp_path):
    save(np.zeros((45, 61), np.uint8), source / "MASKS" / "P0_1.png")
    with pytest.raises(ValueError, match=r"the mask .*MASKS/P0_1\.png is \(61, 45\) px"):
        cut(source, tmp_path / "tiles")


def test_an_unreadable_image_or_mask_is_named(source, tmp_path):
    for place in ("MASKS", "IMAGES"):
        file = source / place / "P2_1.png"
        file.write_bytes(file.read_bytes()[:60])
        with case(place), pytest.raises(ValueError, match=rf"{place}/P2_1\.png cannot be read"):
            cut(source, tmp_path / "tiles")


def test_what_is_no_picture_of_a_common_format_is_named(source, tmp_path):
    file = source / "IMAGES" / "P3_1.png"
    save(np.zeros((20, 20), np.uint8), source / "MASKS" / "P3_1.png")
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", b"GIF89a" + bytes(9)):
        file.write_bytes(content)
        with case(content), pytest.raises(ValueError, match=r"P3_1\.png cannot be read"):
            cut(source, tmp_path / "tiles")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=r"P3_1\.png cannot be read.*regular"):
        cut(source, tmp_path / "tiles")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_as_large_as_the_largest_of_digestpath_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    save(np.zeros((20, 20, 3), np.uint8), tmp_path / "source" / "IMAGES" / "a.png")
    only = [{"images": "IMAGES/*.png"}]
    assert len(cut(tmp_path / "source", tmp_path / "tiles", only, tissue=0)) == 1
    monkeypatch.setattr(patches, "MAX_PIXELS", 399)
    with pytest.raises(ValueError, match=r"a\.png cannot be read.*too large"):
        cut(tmp_path / "source", tmp_path / "tiles", only)


def test_two_images_of_one_name_are_named(source, tmp_path):
    image, _ = picture(5, 20, 20)
    save(image, source / "more" / "P0_1.png")
    images = [*IMAGES, {"images": "more/*.png"}]
    with pytest.raises(ValueError, match=r"one name: .*IMAGES/P0_1\.png and .*more/P0_1\.png"):
        cut(source, tmp_path / "tiles", images)


def test_an_overlap_that_no_grid_has_is_refused(source, tmp_path):
    for overlap in (-1, 16, 20):
        message = f"tiles of 16 px cannot overlap by {overlap} px"
        with case(overlap), pytest.raises(ValueError, match=message):
            cut(source, tmp_path / "tiles", overlap=overlap)


def test_the_limits_of_others_are_as_before(source, tmp_path):
    before = Image.MAX_IMAGE_PIXELS, images.MOST_PIXELS
    cut(source, tmp_path / "tiles")
    assert before == (Image.MAX_IMAGE_PIXELS, images.MOST_PIXELS)


# --- through a card ------------------------------------------------------------------------------


@pytest.fixture
def card(source, output_root):
    """The card of HPH, its sizes and folders those of the images here."""
    place = output_root / "data" / "raw" / "hph"
    place.parent.mkdir(parents=True)
    source.rename(place)
    rule = {name: value for name, value in RULE.items() if name != "kinds"}
    entry = IMAGES[0] | {"count": 3}
    return replace(cards.read_card("hph"), patching=rule | {"images": [entry]})


def test_tiles_are_cut_once_and_again_when_an_image_is_added(card, output_root):
    folder = prepare(card)
    assert folder == output_root / "data" / "raw" / "hph-tiles"
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert prepare(card) == folder
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    table = tiles.read_tile_table(card, folder)
    image, mask = picture(7, 40, 40)
    for place, array in (("IMAGES", image), ("MASKS", mask)):
        save(array, datasets.locate(card) / place / "P7_1.png")
    assert len(tiles.read_tile_table(card, prepare(card))) > len(table)
    assert json.loads((folder / "recipe.json").read_text())["of_images"] == 4


def test_another_rule_cuts_again(card):
    n = len(tiles.read_tile_table(card, prepare(card)))
    finer = replace(card, patching=card.patching | {"size": 8})
    assert len(tiles.read_tile_table(finer, prepare(finer))) > n


def test_the_pattern_of_the_card_gives_the_patient_of_a_cut_tile(card):
    table = tiles.read_tile_table(card, prepare(card))
    stems = table.path.str.extract(r"/(P\d+)_", expand=False)
    assert table.group.tolist() == stems.tolist() and table.group.nunique() > 1


def test_one_pixel_of_tumour_makes_a_patch_of_hph_cancer(output_root):
    """36 patches of 224 px in an image of 1500; what is left at its edges belongs to none."""
    card, image = cards.read_card("hph"), np.full((1500, 1500, 3), (200, 80, 160), np.uint8)
    mask = np.zeros((1500, 1500), np.uint8)
    mask[1343, 1343] = mask[1344, 1120] = 255  # the last pixel of the last patch, and one below
    for place, array in (("IMAGES", image), ("MANUAL TUMOR", mask)):
        save(array, output_root / "data/raw/hph/TRAIN" / place / "P5_D5_9_14_2.png")
    table = tiles.read_tile_table(card, prepare(card))
    assert len(table) == 36
    assert table.path[table.label == 1].tolist() == ["cancer/P5_D5_9_14_2_1120_1120.png"]


def test_a_refusal_leaves_nothing_half_written(card, output_root):
    save(np.zeros((9, 9), np.uint8), datasets.locate(card) / "MASKS" / "P2_1.png")
    with pytest.raises(ValueError, match=r"P2_1\.png"):
        prepare(card)
    left = {file.name for file in (output_root / "data" / "raw").iterdir()}
    assert left == {"hph"}


def test_missing_images_are_said_and_so_are_surplus_ones(card):
    table = tiles.read_tile_table(card, prepare(card))
    assert missing_tiles(card, table) == []
    for count in (2, 1000):
        other = replace(card, patching=card.patching | {"images": [IMAGES[0] | {"count": count}]})
        lines = missing_tiles(other, table)
        assert lines == [f"hph, IMAGES/*.png: 3 of {count:,} images"]


def test_the_case_of_a_digestpath_name_is_what_stands_before_the_date_without_the_slide():
    pattern = cards.read_card("digestpath").group["pattern"]
    names = pd.Series(
        [
            "18-10829B_2019-05-08 00_47_24-lv1-24450-13719-3372-5801_512_0.jpg",
            "18-10829A_2019-05-08 00_40_37-lv1-38624-10705-5233-3289_0_0.jpg",
            "18-09926_2019-05-08 00_06_27-lv1-21025-9557-7081-5756_0_512.jpg",
        ]
    )
    cases = names.str.extract(pattern, expand=False)
    assert cases.tolist() == ["18-10829", "18-10829", "18-09926"]
