"""Slides at exact µm/px, against the pixels that were written."""

import math
import pickle
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from cases import case
from PIL import Image
from slides.made_up_slides import real_slide, texture, textured_slide

from data.prepare.pyramids import write_pyramid
from lib.slides import reading
from lib.slides.reading import open_slide


def resized(image, x, y, pixels, side_x, side_y=None):
    """The square of an image from (x, y), with sides in its pixels, resized by Pillow."""
    box = (x, y, x + side_x, y + (side_y or side_x))
    picture = Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture).astype(int)


# --- pixels --------------------------------------------------------------------------------------


def test_a_pyramid_opens_with_its_levels_and_micrometres(tmp_path):
    slide, image = textured_slide(tmp_path)
    assert slide.size == (1801, 1403) and slide.bounds == (0, 0, 1801, 1403)
    assert slide.mpp == pytest.approx((0.2513, 0.2513)) and slide.mpp_source == "file"
    assert [factor for factor, _ in slide.levels] == [1, 2, 4]
    assert np.array_equal(slide.read(10, 20, 300, slide.mpp[0]), image[20:320, 10:310])


def test_a_tile_on_the_grid_of_a_level_is_what_openslide_reads(tmp_path):
    slide, _ = textured_slide(tmp_path, width=2048, height=1536)
    for level in range(3):
        read = slide.opened.read_region((256, 512), level, (128, 128)).convert("RGB")
        tile = slide.read(256, 512, 128, slide.mpp[0] * 2**level)
        assert np.array_equal(tile, np.asarray(read)), level


@pytest.mark.parametrize("mpp", [0.1, 0.2653, 0.4, 0.5026, 0.7, 1.0052, 1.5])
def test_a_tile_has_the_wanted_micrometres_exactly(tmp_path, mpp):
    slide, image = textured_slide(tmp_path)
    for x, y in ((0, 0), (101, 203), (900, 700)):
        difference = abs(slide.read(x, y, 96, mpp) - resized(image, x, y, 96, 96 * mpp / 0.2513))
        with case(x, y):
            assert difference.mean() < 1 and difference[8:-8, 8:-8].max() < 8, "of another scale"
            if mpp < 0.5:
                assert difference.max() <= 1, "level 0 is resampled as Pillow would"


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    slide, image = textured_slide(tmp_path, mpp=(0.25, 0.3))
    assert slide.mpp == pytest.approx((0.25, 0.3))
    expected = resized(image, 50, 60, 100, 100 * 0.4 / 0.25, 100 * 0.4 / 0.3)
    assert abs(slide.read(50, 60, 100, 0.4) - expected).max() <= 1
    assert slide.shape_at(1.0) == (round(1403 * 0.3), round(1801 * 0.25))


def test_beyond_the_edges_it_is_white(tmp_path):
    write_pyramid(tmp_path / "black.tif", np.zeros((600, 700, 3), np.uint8), 0.5, lossless=True)
    with open_slide(tmp_path / "black.tif") as slide:
        tile = slide.read(-100, 500, 200, 0.5)
        assert (tile[:100, 100:] == 0).all(), "the slide"
        assert (tile[100:] == 255).all() and (tile[:, :100] == 255).all()
        assert (slide.read(5000, 5000, 20, 0.7) == 255).all()
        coarse = slide.read(600, 0, 50, 4.0)  # 400 pixels of level 0, 100 of them in the slide
        assert (coarse[:, 16:] == 255).all() and (coarse[:70, :10] == 0).all()


def test_a_sides_level_is_the_coarsest_that_is_as_fine(tmp_path):
    slide, _ = textured_slide(tmp_path)
    levels = [slide._level(slide.mpp[0] * k) for k in (0.5, 1, 1.99, 2, 2.01, 3.99, 4, 50)]
    assert levels == [0, 0, 0, 1, 1, 1, 2, 2]
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="µm/px"):
            slide.read(0, 0, 10, wrong)


def test_halves_of_odd_sizes_are_halves():
    # 4443 × 3567 and 2221 × 1783 are a real slide's, whose levels lie on one another so.
    assert reading._factor((4443, 3567), (2221, 1783), 2.0005) == 2
    assert reading._factor((1801, 1403), (901, 702), 1.9987) == 2
    assert reading._factor((1000, 1000), (400, 400), 2.5) == 2.5
    assert reading._factor((1000, 1000), (490, 490), 2.04) == 2.04


@pytest.mark.parametrize("size", [(2048, 1536), (1801, 1403)])
def test_a_thumbnail_in_blocks_is_the_whole_slide_resized(tmp_path, monkeypatch, size):
    slide, image = textured_slide(tmp_path, width=size[0], height=size[1])
    for mpp in (0.9, 1.9, 8.0):
        whole = slide.thumbnail(mpp).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "BLOCK", 150)
            in_blocks = slide.thumbnail(mpp)
        height, width = slide.shape_at(mpp)
        box = (0, 0, width * mpp / 0.2513, height * mpp / 0.2513)
        padded = np.pad(image, ((0, 64), (0, 64), (0, 0)), mode="edge")
        expected = Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC, box)
        inside = slice(height - 2), slice(width - 2)  # the last pixels may stick out
        with case(mpp):
            assert whole.shape == (height, width, 3)
            assert abs(whole - in_blocks).mean() < 0.5
            assert abs(whole - in_blocks).max() <= (1 if size[0] == 2048 else 16)
            assert abs(whole - np.asarray(expected))[inside].mean() < 1.5


def test_real_slides_are_read_in_micrometres():
    slide = open_slide(real_slide("CMU-1-Small-Region.svs"))
    assert slide.mpp == (0.499, 0.499) and slide.size == (2220, 2967)
    image = np.asarray(slide.opened.read_region((0, 0), 0, slide.size).convert("RGB"))
    for mpp in (0.499, 0.5, 1.1):
        expected = resized(image, 703, 1205, 224, 224 * mpp / 0.499)
        assert abs(slide.read(703, 1205, 224, mpp) - expected).max() <= 1


def test_a_real_pyramid_is_read_where_level_0_says():
    file = real_slide("TCGA-CR-7395-01A-01-TS1.svs")
    with pytest.raises(ValueError, match=r"TCGA-CR-7395.*column `mpp`"):
        open_slide(file)
    slide = open_slide(file, 0.25)
    assert slide.mpp_source == "table" and [factor for factor, _ in slide.levels] == [1, 2]
    fine = resized(slide.read(3800, 2900, 512, 0.25), 0, 0, 256, 512)
    coarse = slide.read(3800, 2900, 256, 0.5)  # from level 1, far from its origin
    difference, moved = abs(coarse - fine), abs(coarse[:, 1:] - fine[:, :-1])
    assert difference.mean() < 3 and difference.mean() < moved.mean() / 2


# --- opening -------------------------------------------------------------------------------------


def test_micrometres_are_those_of_the_table_else_of_the_file_and_never_guessed(tmp_path):
    slide, _ = textured_slide(tmp_path)
    listed = open_slide(slide.path, 0.5)
    assert listed.mpp == (0.5, 0.5) and listed.mpp_source == "table"
    write_pyramid(tmp_path / "bare.tif", texture(300, 300), None)
    assert open_slide(tmp_path / "bare.tif", 0.25).mpp == (0.25, 0.25)
    dots = {"resolution": (72, 72), "resolutionunit": "INCH", "tile": (256, 256)}
    tifffile.imwrite(tmp_path / "dpi.tif", texture(300, 300), photometric="rgb", **dots)
    table = r"bare\.tif: the slide table says.*column `mpp`"
    for name, mpp, message in (
        ("bare.tif", None, r"bare\.tif does not say.*column `mpp`"),
        ("dpi.tif", None, r"dpi\.tif: the file says 352\.8"),
        *(("bare.tif", mpp, table) for mpp in (0, -0.25, math.nan, math.inf, 0.01, 40)),
    ):
        with case(name, mpp), pytest.raises(ValueError, match=message):
            open_slide(tmp_path / name, mpp)


def test_bounds_are_those_of_the_scanned_part_and_lie_in_the_slide(tmp_path, monkeypatch):
    slide, _ = textured_slide(tmp_path)
    stated = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda _: stated))

    def bounds(*values):
        for key, value in zip(("x", "y", "width", "height"), values, strict=True):
            stated[f"openslide.bounds-{key}"] = str(value)
        return open_slide(slide.path).bounds

    assert bounds(100, 200, 900, 800) == (100, 200, 900, 800)
    assert bounds(1700, 0, 900, 800) == (1700, 0, 101, 800)
    with pytest.raises(ValueError, match=r"textured\.tif: what was scanned"):
        bounds(-5, 0, 900, 800)
    for wrong in ("inf", "nan", "words"):
        stated["openslide.mpp-x"] = wrong
        with case(wrong), pytest.raises(ValueError, match=r"textured\.tif.*column `mpp`"):
            open_slide(slide.path)


def test_what_would_fill_memory_is_refused_and_a_single_column_is_read(tmp_path):
    slide, _ = textured_slide(tmp_path)
    for size in ((10**9, 10**9), (10**6, 10**6)):
        with pytest.raises(ValueError, match=rf"textured\.tif claims {size[0]} × {size[1]} pixels"):
            replace(slide, size=size).thumbnail(8.0)
    with pytest.raises(ValueError, match=r"textured\.tif has no level for 224 pixels at 99\.0"):
        replace(slide, size=(99_000, 99_000)).read(0, 0, 224, 99.0)
    write_pyramid(tmp_path / "thin.tif", np.zeros((20_000, 1, 3), np.uint8), 0.5)
    assert open_slide(tmp_path / "thin.tif").thumbnail(8.0).shape == (1250, 1, 3)


def test_what_is_no_slide_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.svs"):
        open_slide(tmp_path / "gone.svs")
    (tmp_path / "words.svs").write_text("These are words.\n" * 50)
    Image.fromarray(texture(300, 300)).save(tmp_path / "flat.png")
    whole = textured_slide(tmp_path)[0].path.read_bytes()
    for kept in (0.0, 0.001, 0.3):
        (tmp_path / "cut.tif").write_bytes(whole[: int(kept * len(whole))])
        for name in ("words.svs", "flat.png", "cut.tif"):
            with case(name, kept), pytest.raises(ValueError, match=name):
                open_slide(tmp_path / name).read(1000, 1000, 200, 0.25)


def test_a_slide_damaged_in_one_place_is_refused_there(tmp_path):
    slide, image = textured_slide(tmp_path)
    with tifffile.TiffFile(slide.path) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    with slide.path.open("r+b") as opened:
        opened.seek(start)
        opened.write(b"\0" * length)
    with pytest.raises(ValueError, match=r"textured\.tif is damaged near pixel"):
        slide.read(1780, 1380, 20, slide.mpp[0])
    read = slide.read(0, 0, 100, slide.mpp[0])
    assert np.array_equal(read, image[:100, :100]), "the slide opens again"


def test_a_slide_is_told_from_another_and_pickled_without_what_is_open(tmp_path):
    slide, _ = textured_slide(tmp_path)
    before, tile = slide.identity(), slide.read(5, 6, 50, 0.3)
    assert open_slide(slide.path).identity() == before
    again = pickle.loads(pickle.dumps(slide))
    assert again == slide and again._opened is None and slide._opened is not None
    assert np.array_equal(again.read(5, 6, 50, 0.3), tile)
    process, opened = slide._opened
    forked = replace(slide, _opened=(process + 1, opened))
    forked.read(0, 0, 10, 0.3)
    slide.read(0, 0, 10, 0.3)
    assert forked._opened[1] is not opened and slide._opened[1] is opened, "not closed by a fork"
    slide.close()
    assert np.array_equal(slide.read(5, 6, 50, 0.3), tile), "it opens again"
    assert textured_slide(tmp_path, width=1802)[0].identity() != before
