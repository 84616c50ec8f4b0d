"""Slides, corrected tissue and what people do to them."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from slides.made_up_slides import PINK, piece, tissue_slide

from apps.slide_viewer import own_slides
from data.prepare.pyramids import write_pyramid
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.reading import open_slide
from lib.slides.slide_table import with_tissue
from lib.vlm.loading import load_vlm

from .fault import Fault, put
from .weights import made

LEAVES = ["results/slides/*"]
MPP = 4.0


def ellipse(pen):
    piece(pen, (60, 80, 520, 500))


@functools.cache
def slide(**how):
    """The bytes of a slide with a piece of tissue."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.tif"
        tissue_slide(file, how.pop("draw", ellipse), **how).close()
        return file.read_bytes()


SLIDE = slide(mpp=MPP)
PICTURE = np.full((600, 600, 3), PINK, np.uint8)


def pyramid(mpp, picture=PICTURE):
    return lambda file: write_pyramid(file, picture, mpp)


def tiled(**how):
    """A TIFF of one level."""
    return lambda file: tifffile.imwrite(file, PICTURE, tile=(256, 256), photometric="rgb", **how)


@functools.cache
def small():
    return load_vlm(f"local-dir:{made('open')}", device="cpu")


def look(folder, tile_mpp=MPP):
    """What `make slides` says of a folder of slides, up to their features."""
    slides, left_out = own_slides.list_slides(folder / "slides")
    tissue = str(folder / "tissue") if (folder / "tissue").is_dir() else ""
    slides = with_tissue(slides, tissue, left_out)
    cohort = Cohort(folder / "slides", slides, folder / "results" / "slides", 32, tile_mpp, 0.1)
    cohort, unread = own_slides.without_failed(cohort, embed_slides(small(), cohort, workers=0))
    left_out |= unread
    return [f"{len(cohort.table)} slides read", *own_slides.left_out_lines(left_out)]


def opened(folder):
    return str(open_slide(folder / "slides" / "x.tif").mpp)


def spoilt(content):
    """A slide whose first tile is no JPEG."""
    middle = len(content) // 3
    return content[:middle] + b"\0" * 4000 + content[middle + 4000 :]


CELL = {"tile": (256, 256), "photometric": "rgb"}
BLANK = np.full((600, 600, 3), 243, np.uint8)
RULE = {"resolution": (2500.0, 2500.0), "resolutionunit": "CENTIMETER"}
# One slide beside a good one: it is left out, and the other is read.
BESIDE = [
    ("empty", b"", "no slide that OpenSlide reads"),
    ("a text", "no slide", "no slide that OpenSlide reads"),
    ("cut", SLIDE[:100], "no slide that OpenSlide reads"),
    ("cut in its pixels", SLIDE[: len(SLIDE) // 2], "x.tif"),
    ("damaged pixels", spoilt(SLIDE), "damaged near pixel"),
    ("a photograph", lambda f: Image.new("RGB", (64, 64)).save(f), "x.tif"),
    ("no µm per pixel", pyramid(None), "does not say how large its pixels are"),
    ("72 dpi", pyramid(353.0), "the file says 353 × 353 µm/px"),
    ("9 µm per pixel", pyramid(9.0), "9 µm/px, coarser than the tiles, of 4 µm/px"),
    ("a nanometre per pixel", pyramid(0.001), "µm/px, and no slide is outside"),
    ("glass alone", pyramid(MPP, BLANK), "no tissue detected in x: draw it in QuPath"),
    ("black", pyramid(MPP, BLANK * 0), "no tissue detected in x"),
    ("one tile of pixels", pyramid(MPP, PICTURE[:24, :24]), "x"),
    ("a link to nowhere", lambda f: f.symlink_to("gone.tif"), "no slide that OpenSlide reads"),
    ("fewer channels", lambda f: tifffile.imwrite(f, PICTURE[..., 0], tile=(256, 256)), "x.tif"),
]


def collection(*features):
    return json.dumps({"type": "FeatureCollection", "features": features})


def area(kind="Polygon", coordinates=None, properties=None):
    square = [[[50, 50], [500, 50], [500, 500], [50, 500], [50, 50]]]
    geometry = {"type": kind, "coordinates": square if coordinates is None else coordinates}
    feature = {"type": "Feature", "geometry": geometry}
    return feature | {"properties": {"objectType": "annotation"} | (properties or {})}


TISSUE = {"classification": {"name": "Tissue"}}
SQUARE = area(properties=TISSUE)
# Corrected tissue that is refused: the slide is left out with the reason.
OUTLINES = [
    ("no JSON", "hello", "x.tissue.geojson is no GeoJSON"),
    ("empty", "", "x.tissue.geojson is no GeoJSON"),
    ("cut", collection(SQUARE)[:-30], "x.tissue.geojson is no GeoJSON"),
    ("a number", "3", "x.tissue.geojson is no GeoJSON"),
    ("deep", "[" * 10**5, "x.tissue.geojson is no GeoJSON"),
    ("no feature", collection(), "no tissue of x lies in what is outlined"),
    (
        "beside the slide",
        collection(area(coordinates=[[[9000, 1], [9500, 1], [9500, 99]]])),
        "no tissue of x lies",
    ),
    ("a point alone", collection(area("Point", [3, 4])), "no tissue of x lies in what is outlined"),
    (
        "another class alone",
        collection(area(properties={"classification": {"name": "Fat"}})),
        "no tissue of x lies",
    ),
]
# What stands beside an outline is left out, and said.
IN_OUTLINES = [
    ("a point", area("Point", [3, 4]), "a Point is no area"),
    ("a ruler", area("LineString", [[3, 4], [5, 6]]), "a LineString is no area"),
    ("NaN", area(coordinates=[[[0, 0], [float("nan"), 1], [1, 1]]]), "infinite"),
    ("another class", area(properties={"classification": {"name": "Fat"}}), "the class 'Fat'"),
    (
        "a class with a colon",
        area(properties={"classification": {"name": "Fat: old"}}),
        "'Fat: old'",
    ),
    ("a class as text", area(properties={"classification": "Fat"}), "the class 'Fat'"),
    ("no geometry", {"type": "Feature", "geometry": None, "properties": {}}, "no area"),
    ("two points", area(coordinates=[[[0, 0], [1, 1]]]), "fewer than three points"),
    ("words", area(coordinates=[[["a", "b"]] * 4]), "no pairs of numbers"),
    ("a word as a feature", "tissue", "no area"),
    ("an empty polygon", area(coordinates=[]), "no pairs of numbers"),
]
READ = [
    ("a list", json.dumps([SQUARE])),
    ("one feature", json.dumps(SQUARE)),
    ("the class as text", collection(area(properties={"classification": "Tissue"}))),
    ("no class", collection(area())),
    ("several parts", collection(area("MultiPolygon", [SQUARE["geometry"]["coordinates"]]))),
    (
        "an old QuPath's names",
        collection(area(properties={"classification": {"names": ["Tissue"]}})),
    ),
    ("a byte-order mark", "\ufeff" + collection(SQUARE)),
]


def one_beside(content):
    return put({"slides/a.tif": SLIDE, "slides/x.tif": content})


def outlined(text):
    return put({"slides/a.tif": SLIDE, "slides/x.tif": SLIDE, "tissue/x.tissue.geojson": text})


LEFT = ["1 slides read", "left out: x.tif"]
FAULTS = [
    Fault("slides", name, one_beside(content), look, [*LEFT, says], False, LEAVES)
    for name, content, says in BESIDE
]
FAULTS += [
    Fault("slides", f"outlines: {name}", outlined(text), look, [*LEFT, says], False, LEAVES)
    for name, text, says in OUTLINES
]
FAULTS += [
    Fault(
        "slides",
        f"in outlines: {name}",
        outlined(collection(SQUARE, feature)),
        look,
        ["2 slides read", "left out of the corrected tissue of x", says],
        False,
        LEAVES,
    )
    for name, feature, says in IN_OUTLINES
]
FAULTS += [
    Fault("slides", f"outlines: {name}", outlined(text), look, ["2 slides read"], False, LEAVES)
    for name, text in READ
]
FAULTS += [
    Fault(
        "slides",
        "no slide can be read",
        put({"slides/x.tif": pyramid(None)}),
        look,
        ["no slide could be read", "x.tif", "does not say how large"],
    ),
    Fault(
        "slides",
        "an overview alone",
        put({"slides/x.tif": pyramid(8.0)}),
        lambda folder: look(folder, 0.5),
        ["no slide could be read", "8 µm/px, coarser than the tiles, of 0.5 µm/px"],
    ),
]
