"""The whole chain of notebooks on tiny tiles, interrupted once; every notebook checks itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.report import comparison

ROOT = Path(__file__).resolve().parents[1]
CHAIN = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
CHAIN += ["--nolock", "--rerun-incomplete", "--config", "dataset=smoke", "seeds=0"]


def start_chain(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"OUTPUT_ROOT": str(folder), "PYTHONPATH": str(ROOT)}
    log = (folder / "chain.log").open("a")
    return subprocess.Popen(
        CHAIN, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """Run folder of a chain killed in notebook 11 and taken up again; times of what was done."""
    folder = tmp_path_factory.mktemp("chain")
    first = start_chain(folder)
    runs = folder / "data" / "runs" / "smoke" / "stand-in-smoke_other_lab" / "seed0"
    deadline = time.monotonic() + 600
    while not (runs / "executed" / "10_zero_shot_inference.ipynb").exists():
        assert first.poll() is None, (folder / "chain.log").read_text()[-3000:]
        assert time.monotonic() < deadline, "notebook 10 was not reached"
        time.sleep(0.2)
    time.sleep(4)  # into the next notebook
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (runs / "pseudo_labels.parquet").exists()
    done = {file.name: file.stat().st_mtime_ns for file in (runs / "executed").glob("[0-9]*.ipynb")}
    assert start_chain(folder).wait(timeout=900) == 0, (folder / "chain.log").read_text()[-3000:]
    return runs, done


def test_an_interrupted_chain_continues_where_it_stopped(chain):
    runs, done = chain
    assert {"00_tiles_and_splits.ipynb", "10_zero_shot_inference.ipynb"} <= set(done)
    for name, changed in done.items():
        assert (runs / "executed" / name).stat().st_mtime_ns == changed, f"{name} ran again"
    assert not list(runs.rglob(".part-*"))


def test_a_complete_chain_has_nothing_to_do(chain):
    folder = chain[0].parents[4]
    before = (folder / "chain.log").read_text()
    assert start_chain(folder).wait(timeout=60) == 0
    assert "Nothing to be done" in (folder / "chain.log").read_text()[len(before) :]


def test_every_notebook_ran_without_error(chain):
    executed = [*chain[0].glob("executed/*.ipynb"), *chain[0].parent.glob("executed/*.ipynb")]
    names = {file.stem for file in executed}
    assert names == {file.stem for file in (ROOT / "notebooks").glob("[0-8]*.py")}
    for file in executed:
        cells = json.loads(file.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [o for o in outputs if o["output_type"] == "error"]


def test_artefacts_have_the_stated_shapes(chain):
    runs, _ = chain
    table = pd.read_parquet(runs / "tiles.parquet")
    train = (table.split == "train").sum()
    shapes = {
        name: np.load(runs / f"{name}.npy", allow_pickle=False)
        for name in ("features", "unprojected", "probs", "votes", "view_probs", "view_features")
    }
    assert shapes["features"].shape == (len(table), 512) and shapes["features"].dtype == np.float16
    assert shapes["unprojected"].shape == (len(table), 1280)
    assert shapes["probs"].shape == (len(table), 6) and shapes["probs"].dtype == np.float32
    assert shapes["votes"].shape == (4, train)
    assert shapes["view_probs"].shape == (train, 6)
    assert shapes["view_features"].shape == (4, train, 1280)


def test_kept_tiles_are_training_tiles(chain):
    runs, _ = chain
    table = pd.read_parquet(runs / "tiles.parquet").set_index("tile")
    pseudo = pd.read_parquet(runs / "pseudo_labels.parquet")
    assert set(pseudo.setting) == {"published", "ours"}
    assert (table.loc[pseudo.tile[pseudo.kept]].split == "train").all()
    assert not (pseudo.kept & ~pseudo.kept_by_views).any()


def test_rows_cover_filters_orders_and_settings(chain):
    rows = record.read_rows(chain[0] / "results.jsonl")
    named = {(row["method"], row["setting"]) for row in rows}
    for method in ("mvc", "pfc", "mvc+pfc", "pfc+mvc"):
        assert {(method, "published"), (method, "ours")} <= named
    assert {("zero-shot", None), ("mean-of-views", None)} <= named
    assert {row["split"] for row in rows if row["method"] == "zero-shot"} == {"train", "test"}


def test_the_comparison_covers_every_method_in_every_setting(chain):
    rows = [r for r in record.read_rows(chain[0] / "results.jsonl") if r["training"] is None]
    tested = {(row["method"], row["setting"]) for row in rows if row["split"] == "test"}
    filtered = {"ce-mvc", "ce-pfc", "ce-kept", "vlm-cpl"}
    expected = {(m, None) for m in comparison.COMPARED if m not in filtered}
    expected |= {(m, s) for m in filtered for s in ("published", "ours")}
    assert tested == expected
    compared = pd.read_parquet(chain[0] / "comparison.parquet")
    table = pd.read_parquet(chain[0] / "tiles.parquet").query("split == 'test'")
    for row in rows:
        if row["split"] == "test":
            of = compared[(compared.method == row["method"])]
            of = of[of.setting == (row["setting"] or "")]
            assert set(of.tile) == set(table.tile)
            assert of.right.mean() == pytest.approx(row["scores"]["accuracy"])


def test_rounds_ask_for_training_tiles_once_each_and_are_all_recorded(chain):
    runs, _ = chain
    table = pd.read_parquet(runs / "tiles.parquet").set_index("tile")
    rows = [r for r in record.read_rows(runs / "results.jsonl") if r["training"] is not None]
    assert {r["method"] for r in rows} == {"unisal", "random", "full-supervision"}
    firsts = []
    for training in ("dual-view", "supervised"):
        for strategy in ("unisal", "random"):
            files = sorted((runs / "rounds" / training / strategy).glob("round*.parquet"))
            asked = pd.concat(map(pd.read_parquet, files))
            assert (table.split[asked.tile] == "train").all() and not asked.tile.duplicated().any()
            assert (table.label[asked.tile].values == asked.label.values).all()
            of = [r for r in rows if (r["training"], r["method"]) == (trainer, strategy)]
            budgets = [len(pd.read_parquet(file)) for file in files]
            assert [r["budget"] for r in of] == np.cumsum(budgets).tolist()
            firsts.append(pd.read_parquet(files[0]).tile.tolist())
    assert all(first == firsts[0] for first in firsts)
    learning = pd.read_parquet(runs / "learning.parquet")
    area = learning.groupby(["training", "method"])[["n", "right"]].sum()
    assert (area.n == (table.split == "test").sum()).all()


def test_the_same_seed_twice_gives_the_same_predictions_file(chain, tmp_path):
    folder = chain[0].parents[4]
    notebook = ROOT / "notebooks" / "13_high_confidence_cross_supervision.py"
    command = [sys.executable, "-m", "lib.runner", str(notebook), "-p", "dataset", "smoke"]
    written = []
    for turn in ("first", "second"):
        root = tmp_path / turn
        shutil.copytree(folder / "data", root / "data")
        run_folder = root / chain[0].relative_to(folder)
        shutil.rmtree(run_folder / "hcs")
        (run_folder / "predictions.parquet").unlink()
        environment = os.environ | {"OUTPUT_ROOT": str(root), "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        files = ("predictions.parquet", "hcs/ours/network_a.safetensors")
        written.append([(run_folder / file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_tables_and_figures_are_written(chain):
    figures = chain[0].parent / "figures"
    text = (figures / "tables.md").read_text()
    assert "MVC → PFC" in text and "full supervision" in text and "UniSAL" in text
    assert len(list(figures.glob("*.png"))) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dataset=nope", "Known datasets: "),
        ("dataset=lc25k_restained", "no VLM is set for lc25k_restained"),
        ("dataset=lc25k_colon", "put it at"),
    ],
)
def test_a_chain_that_cannot_run_is_refused_before_it_starts(tmp_path, given, message):
    environment = os.environ | {"OUTPUT_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("DATA_ROOT", None)
    command = [*CHAIN[: CHAIN.index("--config")], "--config", given]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert not (tmp_path / "data").exists()
