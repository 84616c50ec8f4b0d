"""Made slides: what is written is what the recipe says, and the truth is where the tissue is."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from lib.slides import made_slides
from lib.slides.reading import open_slide
from lib.slides.tissue import TISSUE_MPP, tissue_mask

RECIPE = {
    "targets": ["adenocarcinoma", "lymphocytes"], "others": ["stroma"], "slides": 3, "islands": 2,
    "columns": 2, "side": 256, "irrelevant": 0.5, "mpp": [1.0, 0.8], "shift": 0.5, "seed": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    made_slides.write_drawn_slides(folder, **RECIPE)
    return folder


def test_slides_take_turns_in_label_and_resolution(cohort):
    table = pd.read_csv(cohort / "slides.csv")
    assert table.label.tolist() == ["adenocarcinoma", "lymphocytes", "adenocarcinoma"]
    assert table.mpp.tolist() == [1.0, 1.0, 0.8] and table["case"].is_unique
    for line in table.itertuples():
        slide = open_slide(cohort / line.path)
        assert slide.mpp == pytest.approx((line.mpp, line.mpp), rel=1e-4)
        assert slide.size == (2 * 320 + 64, 320 + 64)


def test_the_same_recipe_gives_the_same_pixels(cohort, tmp_path):
    made_slides.write_drawn_slides(tmp_path, **RECIPE | {"slides": 1})
    one, other = (np.asarray(Image.open(folder / "slide00.tif")) for folder in (cohort, tmp_path))
    assert np.array_equal(one, other)


def test_the_truth_is_where_the_tissue_is(cohort):
    slide = open_slide(cohort / "slide00.tif")
    truth = np.asarray(Image.open(cohort / "truth" / "slide00.png")) > 0
    mask = np.asarray(Image.fromarray(tissue_mask(slide, TISSUE_MPP)).resize(truth.shape[::-1]))
    assert mask[truth].mean() > 0.9
    assert mask[~binary_dilation(truth, iterations=2)].mean() < 0.1


def test_a_tile_is_of_the_kind_that_covers_most_of_it(cohort):
    truth = np.asarray(Image.open(cohort / "truth" / "slide01.png"))
    found = made_slides.kinds_of_tiles(
        cohort, "slide01", np.array([[160, 160], [480, 160], [0, 0]]), 64.0
    )
    assert sorted(found) == ["", "lymphocytes", "stroma"] and found[2] == ""
    assert set(np.unique(truth)) == {0, 2, 3}, "numbers of lymphocytes and stroma in kinds.json"


def test_the_share_of_irrelevant_islands_is_kept_but_one_target_stays():
    rng = np.random.default_rng(0)
    for share, expected in ((0.0, 10), (0.5, 5), (0.9, 1), (0.99, 1)):
        kinds = made_slides.islands_of("a", ["b", "c"], 10, share, rng)
        assert len(kinds) == 10 and kinds.count("a") == expected


def test_a_mosaic_is_made_of_the_tiles_of_its_kind(tmp_path):
    for name, value in (("a", 50), ("b", 200)):
        Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    tiles = {"dark": [tmp_path / "a.png"], "light": [tmp_path / "b.png"]}
    rng = np.random.default_rng(0)
    field = made_slides.mosaic_field("dark", 50, rng, tiles=tiles)
    assert field.shape == (50, 50, 3) and (field == 50).all()
