"""Whether tiles are enough, as wide as the model expects, and how long they take."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from apps.own_tiles import fit
from apps.own_tiles.tile_folder import list_tiles
from lib.data import cards
from lib.vlm.cards import read_vlm_cards


def write(folder, sizes, **options):
    """Tiles of these sizes, each another picture, in files of every kind that holds a density."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        suffix = (".png", ".jpg", ".tif")[number % 3]
        Image.new("RGB", size, (number, 9, 9)).save(folder / f"{number}{suffix}", **options)
    return list_tiles(folder)


def test_fewer_tiles_than_two_for_each_class_are_refused():
    fit.refuse_too_few(6, ["a", "b", "c"])
    with pytest.raises(ValueError, match="5 tiles are too few for 3 classes: at least 6"):
        fit.refuse_too_few(5, ["a", "b", "c"])


def test_the_rarest_class_is_named_and_what_it_takes_to_keep_two_labels():
    unique = pd.DataFrame({"prompt_class": ["a"] * 9 + ["b"] * 3})
    assert fit.enough(unique, ["a", "b"], 0.3).endswith("prompts gave b the fewest: 3.")
    assert fit.enough(unique, ["a", "nobody"], 0.3).endswith("prompts gave nobody the fewest: 0.")
    for keep_ratio in np.linspace(0.05, 1, 20):
        needed = int(re.search(r"(\d+) that the", fit.enough(unique, ["a"], keep_ratio))[1])
        kept = [max(1, int(keep_ratio * n + 1e-9)) for n in (needed - 1, needed)]
        assert kept[1] == 2 and (kept[0] < 2 or needed == 2), keep_ratio


def test_the_width_is_that_of_the_files_that_give_micrometres_per_pixel(tmp_path):
    """0.5 µm is 50,800 pixels to the inch; 300 to the inch are for a printer."""
    tagged = write(tmp_path / "a", [(224, 300), (448, 224), (224, 224)], dpi=(50_800, 50_800))
    assert fit.tagged_um(tagged) == pytest.approx([112] * 3, rel=1e-3)
    for name, options in {"b": {}, "c": {"dpi": (300, 300)}, "d": {"dpi": (0, 0)}}.items():
        assert not len(fit.tagged_um(write(tmp_path / name, [(224, 224)] * 3, **options)))
    centimetres = {"resolution": 20_000, "resolution_unit": 3}
    (tmp_path / "e").mkdir()
    Image.new("RGB", (100, 90)).save(tmp_path / "e" / "x.tif", **centimetres)
    assert fit.tagged_um(list_tiles(tmp_path / "e")) == pytest.approx([45])


def test_what_is_not_known_of_the_magnification_is_said(tmp_path):
    """CONCH is documented for 256 µm, CRC-VAL-HE-7K for 112; PLIP and LC25000 say nothing."""
    fitting = write(tmp_path / "a", [(224, 224)] * 3, dpi=(50_800, 50_800))
    narrow = write(tmp_path / "b", [(112, 112)] * 3, dpi=(50_800, 50_800))
    silent = write(tmp_path / "c", [(224, 224)] * 3)
    model = "stand-in-crc_val_sample"
    assert fit.width(fitting, model).endswith(
        f"{model} has learnt from tiles 112 µm wide, which fits."
    )
    assert "112 µm wide: these are 0.5 times as wide. Cut" in fit.width(narrow, model)
    assert "112 µm wide (median; 3 of 3 files give" in fit.width(fitting, "plip")
    assert "how wide a tile plip expects is not known" in fit.width(fitting, "plip")
    both = fit.width(silent, "conch+local-dir:x@uni2-h")
    assert "how wide the tiles are is not known; conch has learnt from tiles 256 µm wide;" in both
    assert "how wide a tile local-dir:x expects is not known; how wide a tile uni2-h" in both


def test_the_widths_of_cards_are_those_of_their_tiles():
    assert cards.read_card("crc_tissue").tile_um == pytest.approx(150 * 0.495)
    assert cards.read_card("crc_val_sample").tile_um == 224 * 0.5
    assert cards.read_card("ebhi").tile_um is None
    assert read_vlm_cards()["plip"].tile_um is None


def test_the_pace_is_that_of_the_run():
    model = SimpleNamespace(device=torch.device("cpu"))
    text = fit.pace(model, 50, 10, 30.0)
    assert text.startswith("It ran on the processor") and "10,000 take 100 minutes" in text
