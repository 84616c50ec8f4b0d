"""Tissue that is detected, and tissue that was outlined."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cases import case
from scipy import ndimage
from slides.made_up_slides import PINK, PURPLE, piece, real_slide, tissue_slide

from data.prepare.pyramids import write_pyramid
from lib.slides import tissue
from lib.slides.reading import open_slide
from lib.slides.tissue import mask_to_outlines, outlines_to_mask, tissue_mask, tissue_of

BOX = (100, 150, 350, 450)  # level-0 pixels of 4 µm
INKS = {"blue": (20, 60, 160), "green": (15, 110, 60), "black": (25, 25, 30)}


def detected(folder, draw=lambda pen: None, **kwargs):
    """The tissue of a slide with one piece, on which `draw` draws more."""

    def drawn(pen):
        piece(pen, BOX)
        draw(pen)

    return tissue_mask(tissue_slide(folder / "a.tif", drawn, **kwargs))


def shares(mask):
    """Of the piece that is in the mask, and of the mask that is in the piece."""
    both = (mask & ELLIPSE).sum()
    return both / ELLIPSE.sum(), both / max(mask.sum(), 1)


Y, X = np.mgrid[:300, :300] * 2 + 1
ELLIPSE = ((X - 225) / 125) ** 2 + ((Y - 300) / 150) ** 2 <= 1


# --- detected ------------------------------------------------------------------------------------


@pytest.mark.parametrize("glass", [(255, 255, 255), (243, 242, 244), (205, 206, 203)])
def test_tissue_is_found_on_white_and_on_grey_glass(tmp_path, glass):
    mask = detected(tmp_path, glass=glass)
    assert mask.dtype == bool and mask.shape == (300, 300) and min(shares(mask)) > 0.95


def test_tissue_does_not_depend_on_the_size_of_level_0_pixels(tmp_path):
    def larger(pen):
        piece(pen, [2 * side for side in BOX])

    fine = tissue_slide(tmp_path / "a.tif", larger, mpp=2.0, side=1200)
    assert min(shares(tissue_mask(fine))) > 0.95


def test_specks_and_neutral_dirt_are_no_tissue_and_small_holes_are(tmp_path):
    def draw(pen):
        pen.ellipse((200, 200, 240, 240), fill=(243, 242, 244))  # 20,000 µm²
        pen.ellipse((180, 300, 270, 390), fill=(243, 242, 244))  # 100,000 µm²
        for x in range(400, 580, 60):
            pen.ellipse((x, 100, x + 25, 125), fill=PURPLE)  # 8,000 µm²
        pen.rectangle((400, 400, 500, 500), fill=(170, 171, 169))
        pen.rectangle((0, 560, 600, 600), fill=(0, 0, 0))  # not scanned

    mask = detected(tmp_path, draw)
    assert mask[110, 110] and not mask[172, 112]
    assert not (mask & ~ndimage.binary_dilation(ELLIPSE, iterations=4)).any()


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("width", [6, 60])
def test_pens_are_no_tissue(tmp_path, ink, width):
    def draw(pen):
        pen.line([(0, 60), (300, 90), (600, 60)], fill=INKS[ink], width=width)
        pen.line([(450, 100), (480, 600)], fill=INKS[ink], width=width)

    mask = detected(tmp_path, draw)
    assert min(shares(mask)) > 0.93 and not mask[:55].any() and not mask[:, 195:].any()


def test_ink_is_cut_out_of_tissue_and_folds_and_dense_nuclei_are_not(tmp_path):
    mask = detected(tmp_path, lambda pen: pen.line([(0, 300), (600, 300)], INKS["green"], 60))
    assert not mask[135:165].any() and mask[100, 100] and mask[190, 100]

    def dense(pen):
        piece(pen, BOX, (75, 45, 115))
        pen.line([(150, 200), (300, 400)], fill=(70, 15, 60), width=12)

    assert min(shares(detected(tmp_path, dense))) > 0.95


def test_a_slide_of_nothing_but_tissue_is_all_tissue_and_a_blank_one_is_refused(tmp_path):
    slide = tissue_slide(tmp_path / "a.tif", lambda pen: pen.rectangle((0, 0, 600, 600), PINK))
    assert tissue_mask(slide).all()
    with pytest.raises(ValueError, match=r"no tissue detected in blank: .*GeoJSON"):
        tissue_of(tissue_slide(tmp_path / "blank.tif"))


def test_most_of_the_real_tissue_and_no_glass_is_found():
    mask = tissue_mask(open_slide(real_slide("CMU-1-Small-Region.svs")))
    assert 0.35 < mask.mean() < 0.45
    assert mask[125, 60] and not mask[80:, :30].any() and not mask[:60, 110:].any()
    mask = tissue_mask(open_slide(real_slide("TCGA-CR-7395-01A-01-TS1.svs"), 0.25))
    assert 0.6 < mask.mean() < 0.75
    assert mask[55, 70] and not mask[:10, :80].any() and not mask[100:, :20].any()


# --- outlined ------------------------------------------------------------------------------------


@pytest.fixture
def bounded(tmp_path):
    """A slide of unequal µm/px of which a part was scanned."""
    write_pyramid(tmp_path / "a.tif", np.full((1200, 1600, 3), 255, np.uint8), (0.5, 0.6))
    return replace(open_slide(tmp_path / "a.tif"), bounds=(100, 40, 1400, 1100))


def test_an_outline_is_in_pixels_of_the_bounds_as_qupath_reads_it(bounded):
    mask = np.zeros(bounded.shape_at(8.0), bool)
    mask[20:40, 30:60] = True
    mask[25:30, 40:50] = False
    (feature,) = mask_to_outlines(mask, bounded, 8.0)
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"] == {"name": "Tissue", "color": [0, 160, 80]}
    outer, hole = (np.array(ring) for ring in feature["geometry"]["coordinates"])
    assert (outer[0] == outer[-1]).all() and len(outer) == len(hole) == 9
    scale, origin = np.array([8 / 0.5, 8 / 0.6]), (100, 40)
    for corner, expected in ((outer.min(0), (30, 20)), (outer.max(0), (60, 40))):
        assert np.allclose(corner, expected * scale - origin, atol=0.01)
    assert np.allclose(hole.max(0), (50, 30) * scale - origin, atol=0.01)


def test_outlines_give_back_the_mask(bounded):
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=bounded.shape_at(4.0))
        mask = ndimage.gaussian_filter(noise, 1 + seed / 4) > 0.02
        text = json.dumps(mask_to_outlines(mask, bounded, 4.0))
        with case(seed):
            again = outlines_to_mask(json.loads(text), bounded, 4.0)
            assert mask.any() and np.array_equal(again, mask)
    assert text == json.dumps(mask_to_outlines(mask, bounded, 4.0)), "the same names"
    assert mask_to_outlines(np.zeros((9, 9), bool), bounded, 4.0) == []


def feature(kind, coordinates, **properties):
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_polygons_edited_by_hand_are_read_with_their_holes(bounded):
    slide = replace(bounded, mpp=(0.5, 0.5))
    several = [[square(700, 120, 160)], [square(1340, 940, 999)]]
    drawn = [
        feature("Polygon", [square(60, 120, 320), square(140, 200, 80)]),
        feature("MultiPolygon", several, classification={"name": "Tissue", "color": [1, 2, 3]}),
        feature("Polygon", [square(150, 210, 32)], classification=None),
        feature("Polygon", [square(-5000, 0, 90)]),
    ]
    expected = np.zeros(slide.shape_at(8.0), bool)
    squares = [(60, 120, 320), (140, 200, 80), (700, 120, 160), (1340, 940, 999), (150, 210, 32)]
    for n, (x, y, side) in enumerate(squares):
        rows = slice(round((y + 40) / 16), round((y + 40 + side) / 16))
        expected[rows, round((x + 100) / 16) : round((x + 100 + side) / 16)] = n != 1
    wrong = outlines_to_mask(drawn, slide, 8.0) ^ expected
    edges = ndimage.binary_dilation(expected) ^ ndimage.binary_erosion(expected)
    assert not (wrong & ~edges).any() and wrong.sum() < 60


NO_PAIRS, NO_GEOMETRY = "no pairs of numbers", "without geometry"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (feature("LineString", [[0, 0], [1, 1]]), "a LineString is no area"),
        ({"type": "Feature", "geometry": None}, "a feature without geometry"),
        ({"type": "Feature", "geometry": [], "properties": "none"}, NO_GEOMETRY),
        ("text", NO_GEOMETRY),
        (feature("Polygon", [square(0, 0, 9)], classification={"name": "Pen"}), "class 'Pen'"),
        (feature("Polygon", [square(0, 0, 9)], classification="Pen"), "class 'Pen'"),
        (feature("Polygon", [[[0, 0], [1, 1]]]), "fewer than three"),
        (feature("Polygon", [square(0, 0, float("nan"))]), "infinite"),
        (feature("Polygon", [square(0, 0, 1e308)]), "infinite"),
        *(
            (feature("Polygon", rings), NO_PAIRS)
            for rings in (
                *([], [["a", "b", "c"]], [square(0, 0, 10**400)]),
                *([[[[0, 0], [1, 1], [1, 0]]]], [[[0], [1], [2]]]),
            )
        ),
        (feature("MultiPolygon", 7), NO_PAIRS),
    ],
)
def test_what_is_no_area_of_tissue_is_refused_by_what_it_is(bounded, item, message):
    with pytest.raises(ValueError, match=message):
        outlines_to_mask([item], bounded, 8.0)


def test_outlines_take_no_more_memory_and_time_than_a_slide_has_tissue(tmp_path, monkeypatch):
    slide = tissue_slide(tmp_path / "a.tif")
    zigzag = [[n % 500, 39_000 * (n % 2)] for n in range(300_000)]
    with pytest.raises(ValueError, match="its outlines wind too much; simplify them in QuPath"):
        high = replace(slide, size=(600, 40_000))
        outlines_to_mask([feature("Polygon", [zigzag])], high, 8.0)
    file = tmp_path / "a.geojson"
    file.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"a\.geojson is no GeoJSON: .*nested"):
        tissue_of(slide, file)
    monkeypatch.setattr(tissue, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"a\.geojson: larger than"):
        tissue_of(slide, file)


def test_an_edited_file_stands_for_what_would_be_detected(tmp_path):
    slide, file = tissue_slide(tmp_path / "a.tif", lambda pen: piece(pen, BOX)), tmp_path / "a.json"
    found, source = tissue_of(slide)
    assert source == "detected" and np.array_equal(found, tissue_mask(slide))
    file.write_text(json.dumps([feature("Polygon", [square(0, 0, 200)])]))
    mask, source = tissue_of(slide, file)
    assert source == "edited" and mask[:100, :100].all() and mask.sum() == 100 * 100
    for text, message in (
        ("[]", r"a\.json: no tissue of a"),
        ("{", r"a\.json is no GeoJSON"),
        ("7", r"a\.json is no GeoJSON"),
        ('{"type": "Topology"}', r"a\.json is no GeoJSON: it holds no features"),
        (json.dumps([{"type": "Feature"}]), r"a\.json: no tissue of a .*0: a feature without geom"),
    ):
        file.write_text(text)
        with case(text), pytest.raises(ValueError, match=message):
            tissue_of(slide, file)
