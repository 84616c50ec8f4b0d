"""Pictures for the viewer: levels, limits, and overlays that lie where their tiles are."""

import math

import numpy as np
import openslide
import pytest
from PIL import Image
from slides.made_up_slides import textured_slide

from apps.slide_viewer import deep_zoom


def test_levels_halve_down_to_one_picture_and_are_limited_in_size(tmp_path):
    slide, image = textured_slide(tmp_path)
    known = deep_zoom.write_deep_zoom(slide.path, tmp_path / "tiles", max_pixels=1000)
    assert (known["width"], known["height"], known["downsample"]) == (901, 702, 2)
    assert (known["slide_width"], known["slide_height"]) == slide.size
    for level in range(known["min_level"], known["max_level"] + 1):
        factor = 2 ** (known["max_level"] - level)
        columns = math.ceil(math.ceil(known["width"] / factor) / deep_zoom.TILE_SIZE)
        rows = math.ceil(math.ceil(known["height"] / factor) / deep_zoom.TILE_SIZE)
        files = {file.name for file in (tmp_path / "tiles" / str(level)).iterdir()}
        assert files == {f"{c}_{r}.jpeg" for c in range(columns) for r in range(rows)}
    whole = np.asarray(Image.open(tmp_path / "tiles" / str(known["min_level"]) / "0_0.jpeg"))
    expected = Image.fromarray(image).resize(whole.shape[1::-1], Image.Resampling.BOX)
    assert np.corrcoef(whole.ravel(), np.asarray(expected).ravel())[0, 1] > 0.9


def test_a_slide_that_cannot_be_read_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(ValueError, match=r"broken\.tif"):
        deep_zoom.write_deep_zoom(tmp_path / "broken.tif", tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()


def test_an_interruption_leaves_the_pictures_of_before(tmp_path, monkeypatch):
    slide, _ = textured_slide(tmp_path)
    deep_zoom.write_deep_zoom(slide.path, tmp_path / "tiles", max_pixels=400)
    before = sorted(tmp_path.rglob("*.jpeg"))
    monkeypatch.setattr(
        openslide.deepzoom.DeepZoomGenerator, "get_tile", lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
        deep_zoom.write_deep_zoom(slide.path, tmp_path / "tiles", max_pixels=800)
    assert sorted(tmp_path.rglob("*.jpeg")) == before


def grey(values):
    return np.column_stack([values, values, values, np.ones(len(values))])


def test_an_overlay_is_coloured_where_its_tiles_are_and_transparent_elsewhere(tmp_path):
    coords = np.array([[40, 20], [60, 20], [40, 60]])
    place = deep_zoom.write_overlay(
        tmp_path / "o.png", coords, 20.0, np.array([0.0, 1.0, np.nan]), (100, 100),
        colour_map=grey, scale=0.5,
    )  # fmt: skip
    assert place == {"x": 40, "y": 20, "width": 40, "height": 20}
    image = np.asarray(Image.open(tmp_path / "o.png"))
    assert image.shape == (10, 20, 4) and (image[..., 3] == 255).all()
    assert not image[:, :10, :3].any() and (image[:, 10:, :3] == 255).all()


def test_values_and_places_that_cannot_be_are_refused(tmp_path):
    given = {"colour_map": grey, "scale": 0.5}
    for coords, value in (([[10, 120]], 0.5), ([[-1, 0]], 0.5), ([[0, 0]], 1.5)):
        with pytest.raises(ValueError, match=r"o\.png"):
            deep_zoom.write_overlay(
                tmp_path / "o.png", np.array(coords), 20, np.array([value]), (100, 100), **given
            )
    deep_zoom.write_overlay(
        tmp_path / "none.png", np.empty((0, 2)), 20, np.empty(0), (9, 9), **given
    )
    assert Image.open(tmp_path / "none.png").size == (1, 1)


def test_overlays_of_large_slides_stay_small():
    assert deep_zoom.overlay_scale(224.0, (3000, 2000)) == 8 / 224
    assert deep_zoom.overlay_scale(56.0, (100_000, 80_000)) == 4096 / 100_000
