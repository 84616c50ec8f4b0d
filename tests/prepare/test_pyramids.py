"""Slides as files."""

import numpy as np
import pytest
from PIL import Image
from slides.made_up_slides import texture

from data.prepare.pyramids import write_pyramid


def test_the_same_picture_gives_the_same_bytes(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_pyramid(tmp_path / name, texture(900, 700), 0.5)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "reduce", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_pyramid(tmp_path / "a.tif", texture(900, 700), 0.5)
    assert not list(tmp_path.iterdir())


def test_other_images_are_refused(tmp_path):
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)):
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            write_pyramid(tmp_path / "a.tif", image, 0.5)
