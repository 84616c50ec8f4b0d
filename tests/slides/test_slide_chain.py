"""The notebooks of slides on a handful of small ones; one slide is damaged at first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from qupath import features_for_qupath
from slides.test_given_features import write_trident

from data.prepare.datasets import prepare
from lib import record
from lib.data import cards
from lib.slides import open_set
from lib.slides.features_file import read_features

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHAIN = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
CHAIN += ["--nolock", "--rerun-incomplete"]
CONFIG = ["--config", "dataset=smoke_slides", "seeds=0"]


def run(command: list[str], folder: Path, output: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"OUTPUT_ROOT": str(output), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def run_chain(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return run([*CHAIN, *options, *CONFIG], folder, folder)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, str, dict[str, int]]:
    """Run folder of a chain that met a damaged slide and was called again when it was mended.

    Also what the first call said, and when it wrote the features of each slide.
    """
    folder = tmp_path_factory.mktemp("slides")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(folder))
        slides = prepare(cards.read_card("smoke_slides"))
    damaged = slides / "slide03.tif"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    first = run_chain(folder)
    runs = folder / "data" / "runs" / "smoke_slides" / "stand-in-smoke_other_lab" / "seed0"
    written = {file.stem: file.stat().st_mtime_ns for file in (runs / "slides").glob("*.h5")}
    assert first.returncode != 0
    damaged.write_bytes(whole)
    again = run_chain(folder)
    assert again.returncode == 0, (again.stdout + again.stderr)[-3000:]
    return runs, first.stdout + first.stderr, written


def test_synthetic_slides_need_not_be_there_before(tmp_path):
    planned = run_chain(tmp_path, "--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "02_slide_features" in planned.stdout and "10_zero_shot" not in planned.stdout


def test_a_slide_that_fails_is_named_and_a_rerun_takes_up_that_one_alone(chain):
    runs, said, written = chain
    assert "1 of 5 slides failed: slide03" in said
    assert sorted(written) == [f"slide{n:02d}" for n in range(10) if n != 3]
    for name, changed in written.items():
        assert (runs / "slides" / f"{name}.h5").stat().st_mtime_ns == changed, name
    assert (runs / "slides" / "slide03.h5").is_file()
    assert not list(runs.rglob(".part-*"))


def test_every_notebook_of_slides_ran_and_no_other(chain):
    runs, _, _ = chain
    folders = runs, runs / "fold0", runs.parent
    executed = {file.stem for f in folders for file in f.glob("executed/*.ipynb")}
    parts = {f"02_slide_features-part{part}" for part in (0, 1)}
    assert executed == parts | {"01_stand_in_vlm", "17_open_set_prompting_slides", "40_record"}
    text = (runs.parent / "figures" / "RESULTS.md").read_text()
    assert "smoke_slides: slides" in text and "open set" in text and "attention" in text


def test_each_tile_has_its_features_and_each_slide_its_score(chain):
    runs, _, _ = chain
    stored = np.load(runs / "slides" / "backbone_features.npy", allow_pickle=False)
    files = sorted((runs / "slides").glob("*.h5"))
    assert np.array_equal(
        stored, np.concatenate([read_features(file)[0]["features"] for file in files])
    )
    some = record.read(runs / "fold0" / "results" / "17_open_set_prompting_slides")
    assert (some.counts.groupby("evaluation").group.nunique() == 2).all()  # of ten slides a fifth
    assert set(some.facts.unit) == {"slide"} and set(some.facts.n) == {2}
    assert set(some.facts.variant) == {open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT}


def test_the_page_and_the_geojson_of_the_slides_of_the_fold_are_there(chain):
    runs, _, _ = chain
    out = runs / "fold0" / "slides"
    collections = sorted(out.glob("*.geojson"))
    assert len(collections) == 2 and (out / "page" / "index.html").is_file()
    for file in collections:
        tiles = read_features(runs / "slides" / f"{file.stem}.h5")[0]["coords"]
        assert len(features_for_qupath(file)) == len(tiles)


def own_slides(output: Path, **given: object) -> subprocess.CompletedProcess:
    notebook = ROOT / "notebooks" / "92_your_own_slides.py"
    command = [sys.executable, "-m", "lib.runner", str(notebook), "-p", "dataset", "smoke_slides"]
    command += [word for name, value in given.items() for word in ("-p", name, str(value))]
    return run(command, ROOT, output)


def test_slides_of_ones_own_end_in_a_page_and_a_table(chain, tmp_path):
    """Nobody labelled any; a file that is no slide is passed over."""
    output = chain[0].parents[4]
    slides = tmp_path / "mine"
    slides.mkdir()
    for n in (0, 1, 2, 5):
        shutil.copy(output / "data" / "raw" / "smoke_slides" / f"slide{n:02d}.tif", slides)
    (slides / "notes.txt").write_text("no slide")
    words = {"classes": "adenocarcinoma; lymphocytes", "other_tissue": "smooth muscle; fat"}
    done = own_slides(output, folder=slides, **words)
    assert done.returncode == 0, done.stderr[-3000:]
    page = Path(done.stderr.rpartition("open ")[2].strip())
    assert page.is_file() and page.name == "index.html"
    for said in ("left out: notes.txt: no slide", "left out in all: 1 of 5 files"):
        assert said in done.stderr
    assert "notes.txt" in page.read_text()
    assert "With fewer than 5 slides no attention is learnt" in page.read_text()
    out = page.parents[1]
    table = pd.read_csv(out / "slides.csv")
    assert table.path.tolist() == [f"slide{n:02d}.tif" for n in (0, 1, 2, 5)]
    probs = table[["prob adenocarcinoma", "prob lymphocytes"]]
    assert probs.sum(axis=1).values == pytest.approx(1)
    assert set(table["class"]) <= {"adenocarcinoma", "lymphocytes"}
    for name in table.path:
        features_for_qupath(out / f"{Path(name).stem}.geojson")
    lost = own_slides(output, folder=tmp_path / "nowhere", **words)
    assert lost.returncode == 1 and "there is no folder" in lost.stderr


def test_slides_of_ones_own_are_labelled_on_the_features_and_tiles_of_others(chain, tmp_path):
    """Those of the chain stand for them; every second tile is there."""
    output, slides, theirs = chain[0].parents[4], tmp_path / "mine", tmp_path / "theirs"
    slides.mkdir()
    for n in (0, 1, 2):
        name = f"slide{n:02d}"
        shutil.copy(output / "data" / "raw" / "smoke_slides" / f"{name}.tif", slides)
        arrays, attributes = read_features(chain[0] / "slides" / f"{name}.h5")
        side = attributes["patch_size_level0"]
        some = arrays["coords"][::2], arrays["features"][::2, :20].astype("f4")
        size = attributes["level0_width"], attributes["level0_height"]
        write_trident(theirs / f"{name}.h5", *some, size, patch_size_level0=side)
    words = {"classes": "adenocarcinoma; lymphocytes", "other_tissue": "smooth muscle; fat"}
    done = own_slides(output, folder=slides, features=theirs, **words)
    assert done.returncode == 0, done.stderr[-3000:]
    out = Path(done.stderr.rpartition("open ")[2].strip()).parents[1]
    for file in theirs.glob("*.h5"):
        ours, given = read_features(out / file.name)[0], read_features(file)[0]
        assert all(np.array_equal(ours[name], array) for name, array in given.items())
        assert len(features_for_qupath(out / f"{file.stem}.geojson")) == len(given["coords"])
    assert np.load(out / "backbone_features.npy").shape[1] == 20
    assert len(pd.read_csv(out / "slides.csv")) == 3
