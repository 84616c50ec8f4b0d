"""Made slides: what is written is what the recipe says, and the truth is where the tissue is."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from data.prepare import synthetic_slides
from lib.data.cards import Card, TissueClass
from lib.slides.cohort import Cohort
from lib.slides.reading import open_slide
from lib.slides.tissue import tissue_mask

RECIPE = {
    "targets": ["adenocarcinoma", "lymphocytes"],
    "others": ["stroma"],
    "slides": 3,
    "islands": 2,
    "columns": 2,
    "side": 256,
    "irrelevant": 0.5,
    "mpp": [1.0, 0.8],
    "shift": 0.5,
    "seed": 4,
}


def here():
    """In place of processes, which start for seconds."""
    return ThreadPoolExecutor(1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    synthetic_slides.write_synthetic_slides(folder, **RECIPE)
    return folder


def test_slides_take_turns_in_label_and_resolution(cohort):
    table = pd.read_csv(cohort / "slides.csv")
    assert table.label.tolist() == ["adenocarcinoma", "lymphocytes", "adenocarcinoma"]
    assert table.mpp.tolist() == [1.0, 1.0, 0.8] and table["case"].is_unique
    for line in table.itertuples():
        slide = open_slide(cohort / line.path)
        assert slide.mpp == pytest.approx((line.mpp, line.mpp), rel=1e-4)
        assert slide.size == (2 * 320 + 64, 320 + 64)


def test_the_same_recipe_gives_the_same_pixels_in_any_process(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_slides, "WorkerPool", here)
    synthetic_slides.write_synthetic_slides(tmp_path, **RECIPE | {"slides": 1})
    one, other = (np.asarray(Image.open(folder / "slide00.tif")) for folder in (cohort, tmp_path))
    assert np.array_equal(one, other)


def test_the_truth_is_where_the_tissue_is(cohort):
    slide = open_slide(cohort / "slide00.tif")
    truth = np.asarray(Image.open(cohort / "truth" / "slide00.png")) > 0
    mask = np.asarray(Image.fromarray(tissue_mask(slide)).resize(truth.shape[::-1]))
    assert mask[truth].mean() > 0.9
    assert mask[~binary_dilation(truth, iterations=2)].mean() < 0.1


def test_a_tile_is_of_the_kind_that_covers_most_of_it(cohort):
    truth = np.asarray(Image.open(cohort / "truth" / "slide01.png"))
    found = synthetic_slides.kinds_of_tiles(
        cohort, "slide01", np.array([[160, 160], [480, 160], [0, 0]]), 64.0
    )
    assert sorted(found) == ["", "lymphocytes", "stroma"] and found[2] == ""
    assert set(np.unique(truth)) == {0, 2, 3}, "numbers of lymphocytes and stroma in kinds.json"


def test_the_share_of_irrelevant_islands_is_kept_but_one_target_stays():
    rng = np.random.default_rng(0)
    for share, expected in ((0.0, 10), (0.5, 5), (0.9, 1), (0.99, 1)):
        kinds = synthetic_slides.islands_of("a", ["b", "c"], 10, share, rng)
        assert len(kinds) == 10 and kinds.count("a") == expected


def test_a_mosaic_is_made_of_the_tiles_of_its_kind(tmp_path):
    for name, value in (("a", 50), ("b", 200)):
        Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    tiles = {"dark": [tmp_path / "a.png"], "light": [tmp_path / "b.png"]}
    rng = np.random.default_rng(0)
    field = synthetic_slides.mosaic_field("dark", 50, rng, tiles=tiles)
    assert field.shape == (50, 50, 3) and (field == 50).all()


def test_which_tiles_are_relevant_is_known_of_slides_made_here_alone(cohort, tmp_path):
    table = pd.DataFrame({"slide": [0], "name": ["slide01"], "label": [1]})
    card = SimpleNamespace(
        classes=[TissueClass("a", "adenocarcinoma"), TissueClass("b", "lymphocytes")]
    )
    tiles = pd.DataFrame({"slide": 0, "x": [160, 480, 0], "y": [160, 160, 0], "side": 64.0})
    made, other = (Cohort(folder, table, tmp_path, 32, 1.0) for folder in (cohort, tmp_path))
    kinds = synthetic_slides.kinds_of_tiles(cohort, "slide01", tiles[["x", "y"]].values, 64.0)
    relevant = synthetic_slides.relevant_tissue(card, made, tiles)
    assert relevant.tolist() == (kinds == "lymphocytes").tolist() and relevant.sum() == 1
    assert synthetic_slides.relevant_tissue(card, other, tiles) is None


# --- composed slides -----------------------------------------------------------------------------

KINDS = {"a": (150, 60, 120), "b": (90, 60, 150), "fat": (215, 190, 205), "muscle": (205, 90, 130)}
COMPOSED = {
    "targets": ["a", "b"],
    "tissue": {"a": "one", "b": "one", "fat": "two", "muscle": "two"},
    "slides": 20,
    "islands": 3,
    "columns": 3,
    "side": 96,
    "irrelevant": 0.6,
    "mpp": 1.0,
    "seed": 2,
}


def write_tiles(folder, kinds, n_groups):
    """Four tiles of a group, of one colour that no other group has."""
    for k, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        for n in range(4 * n_groups):
            colour = np.array(KINDS[kind]) + np.array([n // 4 % 4, n // 16, k])
            name = folder / kind / f"g{n // 4:02d}-{n}.png"
            Image.fromarray(np.full((32, 32, 3), colour, np.uint8)).save(name)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    write_tiles(root / "one", ["a", "b"], 15)
    write_tiles(root / "two", ["fat", "muscle"], 10)
    fields = {"licence": "", "citation": "", "source": "", "group": {"pattern": r"(g\d+)"}}
    return root, {
        name: Card(name, name, name, "*.png", [TissueClass(k, k) for k in kinds], **fields)
        for name, kinds in (("one", ["a", "b"]), ("two", ["fat", "muscle"]))
    }


@pytest.fixture(scope="module")
def composed(tmp_path_factory, sources):
    root, known = sources
    folder = tmp_path_factory.mktemp("composed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_slides, "WorkerPool", here)
        patch.setattr(synthetic_slides.cards, "read_card", known.get)
        patch.setattr(synthetic_slides.datasets, "locate_tiles", lambda card: root / card.folder)
        synthetic_slides.write_composed_slides(folder, **COMPOSED)
    return folder


@pytest.mark.slow
def test_composed_slides_of_two_folds_share_no_group_of_tiles(composed):
    table = pd.read_csv(composed / "slides.csv")
    assert sorted(table.fold.value_counts()) == [4] * 5
    assert (table.groupby("fold").label.nunique() == 2).all()
    may_show = pd.read_csv(composed / "sources.csv").merge(
        table.assign(slide=table["case"])[["slide", "fold", "label"]], on="slide"
    )
    group = may_show.card + may_show.path.str.extract(r"(g\d+)")[0]
    assert (may_show.fold.groupby(group).nunique() == 1).all()
    targets = may_show[may_show.kind.isin(["a", "b"])]
    assert (targets.kind == targets.label).all()
    of_kind = targets.kind + targets.path.str.extract(r"(g\d+)")[0]
    assert (targets.slide.groupby(of_kind).nunique() == 1).all(), "a slide has its own targets"


@pytest.mark.slow
def test_composed_slides_show_the_tiles_that_their_table_names(composed, sources):
    root, _ = sources
    may_show = pd.read_csv(composed / "sources.csv")
    for slide in ("slide00", "slide13"):
        picture = np.asarray(Image.open(composed / f"{slide}.tif"))
        truth = np.asarray(Image.open(composed / "truth" / f"{slide}.png"))
        kinds = ["", *json.loads((composed / "kinds.json").read_text())]
        step = synthetic_slides.TRUTH_STEP
        for number in set(np.unique(truth)) - {synthetic_slides.GLASS}:
            inside = binary_erosion(truth == number)
            shown = picture[::step, ::step][inside].astype(float)
            own = may_show[(may_show.slide == slide) & (may_show.kind == kinds[number])]
            known = np.array(
                [
                    np.asarray(Image.open(root / card / path))[0, 0]
                    for card, path in zip(own.card, own.path, strict=True)
                ],
                float,
            )
            distance = abs(shown[:, None] - known[None]).max(2).min(1)
            assert np.median(distance) < 8, "JPEG and noise move a colour by a few"


def test_groups_are_dealt_until_every_hand_has_every_kind():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{n}" for n in range(10)], 3)
    kinds = np.where(np.arange(30) % 3 == 0, "x", "y")
    hands = synthetic_slides.deal_groups(groups, kinds, 5, rng, "c")
    assert all(len(set(hands[groups == g])) == 1 for g in set(groups))
    assert all({"x", "y"} == set(kinds[hands == hand]) for hand in range(5))
    with pytest.raises(ValueError, match="c: its 10 groups cannot give 5 folds"):
        synthetic_slides.deal_groups(groups, np.where(groups == "g3", "x", "y"), 5, rng, "c")
