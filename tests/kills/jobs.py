"""What is killed: chain, tiles and slides of one's own, pages, labelling, download, publishing."""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch._dynamo  # noqa: F401  (seconds, here and not after each kill)
import yaml
from made_up_results import comparison, made
from miniatures import CARD_FIELDS, save
from misbehaving_server import Handler, Server, md5
from packed import MAKERS, zipped
from small_models import SMALL, write_model

from apps.labelling import answers, exchange, session
from apps.own_tiles import gallery
from data.prepare import __main__ as data_command
from data.prepare import synthetic, synthetic_slides
from figures import publish
from lib import paths, record
from lib.data.cards import read_card
from tests.apps.labelling.test_label_notebook import KINDS, make_result
from tests.apps.own_tiles import test_gallery
from tests.apps.slide_viewer.test_page import write as write_slides_page

from .bench import Job

VLM = "stand-in-smoke_other_lab"
SIZES = {"n_views": 4, "n_steps": 40}
WORDS = "normal colonic mucosa; lymphocytes; adipose tissue"


def nothing(_: Path) -> None:
    """Nothing is there before."""


def command(*words: str, **environment: str):
    """A command of this repository, in the place of the process."""

    def become(here: Path) -> None:
        os.environ.update(environment)
        told = [word.format(here=here) for word in words]
        os.execv(sys.executable, [sys.executable, "-m", *told])

    return become


def notebook(name: str, **given: object):
    """A notebook as make runs it."""
    pairs = [word for n, value in given.items() for word in ("-p", n, str(value))]
    return command("lib.runner", str(paths.notebook_file(name)), *pairs)


def chain(seed: int, last: str):
    """The notebooks up to one."""
    runs = f"{{here}}/data/runs/smoke/{VLM}/seed{seed}/{last}.ipynb"
    return command("lib.reproduce", "--directory", "{here}", runs, DATASET="smoke", SEEDS=str(seed))


def own_tiles(here: Path) -> None:
    write_model(here / "vlm", SMALL, scale=20.0)
    for n in range(36):
        draw = np.random.default_rng(n)
        tile = synthetic.tissue_tile(KINDS[n % 3], synthetic.draw_slide(0.3, draw), 32, draw)
        file = here / "tiles" / f"case {n % 2}" / f"{n:02d}.png"
        save(tile, file)


def own_slides(here: Path) -> None:
    write_model(here / "vlm", SMALL, scale=20.0)
    card = read_card("smoke_slides")
    recipe = {
        **card.slides["drawn"],
        "slides": 4,
        "mpp": [0.5],
        "targets": [c.folder for c in card.classes],
    }
    synthetic_slides.write_synthetic_slides(here / "slides", **recipe)


def pages(here: Path) -> None:
    """The page of tiles, its sheets, and the page of slides."""
    matplotlib.use("agg")
    chosen = gallery.choose(test_gallery.random_tiles(0), test_gallery.NAMES[:2])
    gallery.write_sheets(here / "gallery", chosen, test_gallery.pixels())
    test_gallery.write(here / "index.html")
    (here / "slides").mkdir(exist_ok=True)
    write_slides_page(here / "slides", lines=slice(1))


# --- labelling -----------------------------------------------------------------------------------


def tiles_to_label(here: Path) -> None:
    make_result(here, KINDS)


def _session(here: Path) -> tuple[session.OwnTiles, answers.AnswersOracle]:
    tiles = here / "my tiles"
    own = session.own_tiles(paths.own_folder("mine", "some-vlm", 0, tiles), tiles)
    of_tiles = own.unique.tile.values, own.unique.digest.tolist()
    return own, answers.AnswersOracle(paths.answers_file(tiles), own.class_names, *of_tiles)


def _answer(oracle: answers.AnswersOracle, digest: str, who: str) -> None:
    """A wrong answer, taken back, and another one; goes on after what is on file."""
    first, second = (answers.Answer(digest, KINDS[int(digest[n], 16) % 3], who) for n in (0, 1))
    planned = [first, replace(first, label=None, action="undo"), second]
    lines = oracle.read().lines
    for answer in planned[((lines.tile == digest) & (lines.who == who)).sum() :]:
        answers.append(oracle.file, [replace(answer, when="2026-01-31T09:15:00+00:00")])


def label(here: Path) -> None:
    """Two queries are answered, and all is handed over."""
    own, oracle = _session(here)
    rounds = {"strategy": "unisal", "query_size": 4, "steps": 4, "seed": 0}
    loop = session.LabellingLoop(own, oracle, **rounds)
    query = loop.advance()
    while len(loop.history.rounds) < 2:
        for tile in query:
            _answer(oracle, own.unique.digest[tile], "me")
        query = loop.advance()
    hand_over(here)


def label_all(who: str):
    """One of several people, who sees all tiles."""

    def work(here: Path) -> None:
        own, oracle = _session(here)
        for digest in own.unique.digest:
            _answer(oracle, digest, who)

    return work


def hand_over(here: Path) -> None:
    """Tables, tasks for Label Studio, and the labelled tiles as a folder."""
    own, oracle = _session(here)
    lines = oracle.read().lines
    predicted = exchange.write_results(own, own.probs, lines, version="v")
    target = here / "labelled"
    if not target.exists():
        exchange.write_image_folder(target, own.folder, dict(predicted[["path", "label"]].values))


# --- download and publishing ---------------------------------------------------------------------


class Slow(Handler):
    """Takes its time, so that many a kill falls into it."""

    def setup(self) -> None:
        super().setup()
        write = self.wfile.write

        def slowly(content: bytes) -> None:
            for start in range(0, len(content), 2**15):
                write(content[start : start + 2**15])
                time.sleep(0.01)

        self.wfile.write = slowly  # type: ignore[method-assign]


def served(here: Path) -> None:
    """A card whose archives are on a server, a process that is there until the bench ends."""
    files = {kind: {f"{kind}/{n}.png": os.urandom(20_000) for n in range(40)} for kind in "xy"}
    archives = {"x.zip": zipped(files["x"]), "y.tar.gz": MAKERS["tar.gz"](files["y"])}
    server = Server()
    server.RequestHandlerClass, server.files = Slow, archives
    told = [
        {"contains": name[0], "url": server.url(name), "hash": md5(content)}
        for name, content in archives.items()
    ]
    (here / "toy.yaml").write_text(yaml.safe_dump(CARD_FIELDS | {"archives": told}))
    if os.fork() == 0:
        server.serve_forever()


def download(here: Path) -> int:
    paths.card_file = lambda dataset: here / f"{dataset}.yaml"
    return data_command.main(["toy"])


BUILT = {"commit": "0123", "versions": {"torch": "1"}, "machine": {"processor": "a", "threads": 1}}


def _results(here: Path, seed: int) -> record.Record:
    return made([row | BUILT for row in comparison(dataset="smoke", vlm=VLM, seed=seed)])


def some_results(here: Path) -> None:
    """Results of a run, and of another seed in the record."""
    reproduce(here)
    _results(here, 1).write(here / "data" / "record" / "smoke")
    for name in ("README.md", "data/README.md"):
        shutil.copyfile(paths.ROOT / name, here / name)


def reproduce(here: Path) -> None:
    """Results as notebooks write them, and their page."""
    stem = paths.run_folder("smoke", VLM, 0, 0) / "results" / "14_comparison"
    for _ in range(20):
        _results(here, 0).write(stem)
    publish.publish_runs("smoke", VLM)


def published(here: Path) -> int:
    return publish.main(["record", "smoke", VLM])


OWN = {
    "dataset": "own",
    "vlm": "local-dir:{here}/vlm",
    "folder": "{here}/tiles",
    "classes": WORDS,
} | SIZES
SLIDES = OWN | {"folder": "{here}/slides", "tiles_per_slide": 10, "slide_steps": 20}
TILES = notebook("90_your_own_tiles", **OWN, by_folder=True)
CHAIN = chain(0, "fold0/executed/13_high_confidence_cross_supervision")
SHORT = [chain(seed, "executed/10_zero_shot_inference") for seed in (0, 0, 1)]
JOBS = [
    Job("labelling", tiles_to_label, label, 50),
    Job("download", served, download, 45),
    Job("pages", nothing, pages, 35),
    Job("publishing", some_results, published, 25),
    Job("chain", nothing, CHAIN, 20, longest=0.4),
    Job("own tiles", own_tiles, TILES, 15),
    Job("own slides", own_slides, notebook("92_your_own_slides", **SLIDES), 10),
]
# What is done at once, and what comes after; each as if one had waited for the other.
PAIRS = {
    "two labellers": (tiles_to_label, [label_all("anna"), label_all("bob")], [hand_over]),
    "record beside reproduce": (some_results, [published, reproduce], [published]),
    "two own on one folder": (own_tiles, [TILES, TILES], []),
    "two chains of one seed": (nothing, SHORT[:2], []),
    "two chains of two seeds": (nothing, SHORT[1:], []),
}
