"""Folders that are not what was meant."""

import os

from apps.labelling.exchange import write_image_folder
from apps.own_tiles.tile_folder import list_tiles
from apps.slide_viewer import own_slides
from lib import paths
from lib.slides.slide_table import with_tissue

from .fault import Fault, nothing, put
from .tiles import LEAVES, PICTURE, PLAIN, look, saved

TILES = {f"tiles/{name}": content for name, content in PLAIN.items()}
RESULTS = {
    "classifier/classifier.json": "{}",
    "pseudo_labels.csv": "path\n",
    "gallery/01-a.png": saved(PICTURE),
}
VIEWER = {"viewer/openseadragon.min.js": "", "x/0_0.jpg": saved(PICTURE)}


def listing(name, **how):
    return lambda folder: str(len(list_tiles(folder / name, **how).table))


def slides(folder):
    return list(own_slides.list_slides(folder / "slides")[1])


def deep(folder):
    here = folder / "tiles" / "/".join(["d"] * 150)
    here.mkdir(parents=True)
    saved(PICTURE)(here / "a.png")


def circle(folder):
    put(TILES)(folder)
    (folder / "tiles" / "again").symlink_to("..")


def elsewhere(folder):
    """A folder of results, at its place or at another."""
    put({f"results/data/runs/own/{name}": content for name, content in RESULTS.items()})(folder)


def beside_data(folder):
    put(TILES | {"tiles/results of July/" + n: c for n, c in RESULTS.items()})(folder)


def copy_to(folder):
    found = list_tiles(folder / "tiles").table.path
    return write_image_folder(folder / "target", folder / "tiles", dict.fromkeys(found, "fat"))


def two_names(folder):
    names = {"a.png": "Fat", "b.png": "fat"}
    write_image_folder(folder / "target", folder / "tiles", names)


SLIDES = {"slides/notes.txt": "no slide", "slides/cut.svs": "II*"}
NO_IMAGE = "holds no image (.jpg"
# name, what is there, what is done, what is said
REFUSED = [
    ("no folder", nothing, listing("tiles"), ["no such folder of tiles: ", "/tiles"]),
    ("a file", put({"tiles": "x"}), listing("tiles"), ["no such folder of tiles"]),
    ("an image", put({"tiles": saved(PICTURE, format="PNG")}), listing("tiles"), ["no such fold"]),
    ("empty", put({"tiles/more/.keep": ""}), listing("tiles"), [NO_IMAGE]),
    ("texts alone", put({"tiles/a.txt": "x"}), listing("tiles"), [NO_IMAGE, "'a.txt': not .jpg"]),
    ("hidden alone", put({"tiles/.a.png": "x"}), listing("tiles"), [NO_IMAGE, "hidden"]),
    ("slides alone", put({"tiles/a.svs": "x"}), listing("tiles"), [NO_IMAGE, "'a.svs'"]),
    ("an archive alone", put({"tiles/a.zip": "PK"}), listing("tiles"), [NO_IMAGE, "'a.zip'"]),
    ("damaged alone", put({"tiles/a.png": "x"}), listing("tiles"), [NO_IMAGE, "no whole image"]),
    (
        "a thousand texts",
        put({f"tiles/{n}.txt": "" for n in range(1000)}),
        listing("tiles"),
        [NO_IMAGE, "1000 of 1000 files", "and 98"],
    ),
    ("results", elsewhere, listing("results/data/runs"), ["lies among results of this project"]),
    ("in results", elsewhere, listing("results/data/runs/own/gallery"), ["lies among results"]),
    ("no subfolders", put(TILES), listing("tiles", by_folder=True), ["a.png lies in none"]),
    ("no slides folder", nothing, slides, ["there is no folder", "/slides"]),
    ("slides: a file", put({"slides": "x"}), slides, ["there is no folder", "/slides"]),
    ("no slide", put(SLIDES), slides, ["/slides holds 2 files, and none is a slide"]),
    ("slides: tiles", put({"slides/a.png": saved(PICTURE)}), slides, ["none is a slide"]),
    (
        "no corrected tissue",
        nothing,
        lambda f: with_tissue(own_table(), str(f / "tissue")),
        ["there is no folder", "/tissue with corrected tissue"],
    ),
    (
        "corrected tissue that is none",
        put({"tissue/a.geojson": "{}"}),
        lambda f: with_tissue(own_table(), str(f / "tissue")),
        ["/tissue holds no *.tissue.geojson"],
    ),
    (
        "corrected tissue of no slide",
        put({"tissue/b.tissue.geojson": "{}"}),
        lambda f: with_tissue(own_table(), str(f / "tissue")),
        ["b.tissue.geojson is of no slide"],
    ),
    (
        "a target that is there",
        put(TILES | {"target/x": "mine"}),
        copy_to,
        ["/target is there already: remove it, or name a new folder"],
    ),
    ("a target that is a file", put(TILES | {"target": "mine"}), copy_to, ["is there already"]),
    ("classes of one folder", put(TILES), two_names, ["two classes have the same folder name"]),
    (
        "a dataset that climbs",
        nothing,
        lambda _: paths.run_folder("../x", "v", 0),
        ["'../x' is no"],
    ),
    ("a dataset that is a path", nothing, lambda _: paths.card_file("/etc/passwd"), ["is no name"]),
]
TAKEN = [
    ("a folder in itself", circle, look, ["3 tiles", "'again/': a link to a folder"]),
    ("150 folders deep", deep, look, ["1 tiles"]),
    ("results beside tiles", beside_data, look, ["3 tiles", "July/': results of this project"]),
    (
        "results of slides beside tiles",
        put(TILES | {f"tiles/page/{n}": c for n, c in VIEWER.items()}),
        look,
        ["3 tiles", "'page/': results of this project"],
    ),
    (
        "copies of one file",
        put(TILES | {f"tiles/copies/{n}": c for n, c in PLAIN.items()}),
        look,
        ["6 tiles"],
    ),
    (
        "a folder called like an image",
        put(TILES | {"tiles/x.png/b.png": saved(PICTURE)}),
        look,
        ["4 tiles"],
    ),
    (
        "a folder that is a link",
        lambda f: (
            put({f"real/{n}": c for n, c in PLAIN.items()})(f),
            os.symlink("real", f / "tiles"),
        ),
        look,
        ["3 tiles"],
    ),
]


def own_table():
    import pandas as pd

    return pd.DataFrame({"name": ["a"], "path": ["a.tif"]})


FAULTS = [Fault("folders", name, *rest) for name, *rest in REFUSED]
FAULTS += [Fault("folders", name, *rest, False, LEAVES) for name, *rest in TAKEN]
