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
    known = deep_zoom.write_deep_zoom(slide, tmp_path / "tiles", max_pixels=1000)
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
    slide, _ = textured_slide(tmp_path)
    slide.path.write_bytes(slide.path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"textured\.tif"):
        deep_zoom.write_deep_zoom(slide, tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()


def test_an_interruption_leaves_the_pictures_of_before(tmp_path, monkeypatch):
    slide, _ = textured_slide(tmp_path)
    deep_zoom.write_deep_zoom(slide, tmp_path / "tiles", max_pixels=400)
    before = sorted(tmp_path.rglob("*.jpeg"))
    monkeypatch.setattr(
        openslide.deepzoom.DeepZoomGenerator, "get_tile", lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
        deep_zoom.write_deep_zoom(slide, tmp_path / "tiles", max_pixels=800)
    assert sorted(tmp_path.rglob("*.jpeg")) == before


def overlay(file, coords, side, values, size):
    def grey(v):
        return np.column_stack([v, v, v, np.ones(len(v))])

    return deep_zoom.write_overlay(file, coords, side, values, size=size, colour_map=grey)


def test_an_overlay_is_coloured_where_its_tiles_are_and_transparent_elsewhere(tmp_path):
    coords, values = np.array([[40, 20], [60, 20], [40, 60]]), np.array([0.0, 1.0, np.nan])
    place = overlay(tmp_path / "o.png", coords, 20.0, values, (100, 100))
    assert place == {"x": 40, "y": 20, "width": 40, "height": 20}
    image = np.asarray(Image.open(tmp_path / "o.png"))
    assert image.shape == (8, 16, 4) and (image[..., 3] == 255).all()
    assert not image[:, :8, :3].any() and (image[:, 8:, :3] == 255).all()
    overlay(tmp_path / "none.png", np.empty((0, 2)), 20, np.empty(0), (9, 9))
    assert Image.open(tmp_path / "none.png").size == (1, 1)
    corners = np.array([[0, 0], [99_944, 0]])
    overlay(tmp_path / "large.png", corners, 56.0, np.ones(2), (100_000, 80_000))
    assert Image.open(tmp_path / "large.png").size == (4096, 2)
