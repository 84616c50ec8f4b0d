"""The whole chain of notebooks on tiny tiles, interrupted once; every notebook checks itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from processes import ROOT, snakemake, wait_for

from lib import chain as notebooks
from lib import parameters, paths, record, runner
from lib.active.cold_start import vlm_cpl_cold_start
from lib.active.inputs import make_pool
from lib.active.strategies import select
from lib.consensus import FilterInputs
from lib.data.cards import read_card
from lib.labels import REFUSED, UNLABELLED
from lib.learning import setups
from lib.learning.vlm_cpl import read_vlm_cpl
from lib.report import active_learning, comparison
from lib.run_folder import Run

pytestmark = pytest.mark.slow

TARGETS = ("normal_mucosa", "adenocarcinoma")  # of an open set
OF_SLIDES = {name for name, step in notebooks.CHAIN.items() if "tiles" not in step.data}
OF_ONE_RUN = {name for name, step in notebooks.CHAIN.items() if step.per in ("seed", "fold")}


def results_of(run_folder: Path) -> record.Record:
    """Results of fold 0: its own, and those that all folds share."""
    folders = run_folder, run_folder / "fold0"
    some = record.read(*(stem for f in folders for stem in record.stems(f / "results")))
    return some[some.facts.fold == 0]


def in_test_set(table: pd.DataFrame) -> pd.Series:
    return table.fold == 0


def start_chain(folder: Path) -> subprocess.Popen:
    return snakemake(
        folder, "all", "ablations", "throughput", start=subprocess.Popen, DATASET="smoke"
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """Run folder of a chain killed in notebook 11 and taken up again; times of what was done."""
    folder = tmp_path_factory.mktemp("chain")
    log, first = folder / "chain.log", start_chain(folder)
    runs = folder / "data" / "runs" / "smoke" / "stand-in-smoke_other_lab" / "seed0"
    reached = (runs / "executed" / ".11_multi_view_consensus.lock").is_file
    assert wait_for(lambda: reached() or first.poll() is not None, 600)
    assert first.poll() is None, log.read_text()[-3000:]
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (runs / "fold0").exists()
    done = {file.name: file.stat().st_mtime_ns for file in (runs / "executed").glob("[0-9]*.ipynb")}
    assert start_chain(folder).wait(timeout=1200) == 0, log.read_text()[-3000:]
    return runs, done


def test_an_interrupted_chain_continues_where_it_stopped_and_ends(chain):
    runs, done = chain
    assert {"00_tiles_and_splits.ipynb", "10_zero_shot_inference.ipynb"} <= set(done)
    for name, changed in done.items():
        assert (runs / "executed" / name).stat().st_mtime_ns == changed, f"{name} ran again"
    assert not list(runs.rglob(".part-*"))
    log = runs.parents[4] / "chain.log"
    before = log.read_text()
    assert start_chain(runs.parents[4]).wait(timeout=300) == 0
    assert "Nothing to be done" in log.read_text()[len(before) :]


def test_every_notebook_ran_without_error(chain):
    folders = (chain[0], chain[0] / "fold0", chain[0].parent)
    executed = [file for folder in folders for file in folder.glob("executed/*.ipynb")]
    names = {file.stem for file in executed}
    assert names == set(notebooks.CHAIN) - OF_SLIDES
    for file in executed:
        cells = json.loads(file.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [o for o in outputs if o["output_type"] == "error"]
        streams = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
        assert "it/s]" not in streams and "\r" not in streams, f"{file.stem} has a progress bar"


def test_artefacts_have_the_stated_shapes(chain):
    n = len(pd.read_parquet(chain[0] / "tiles.parquet"))
    for name, shape, dtype in (
        ("image_embeds", (n, 512), "f2"),
        ("backbone_features", (n, 1280), "f2"),
        ("probs", (n, 6), "f4"),
        ("votes", (4, n), "i2"),
        ("view_probs", (n, 6), "f4"),
        ("view_features", (4, n, 1280), "f2"),
        ("mean_features", (n, 1280), "f2"),
    ):
        array = np.load(chain[0] / f"{name}.npy", allow_pickle=False)
        assert (array.shape, array.dtype) == (shape, dtype), name


def test_kept_tiles_are_training_tiles(chain):
    runs, _ = chain
    table = pd.read_parquet(runs / "tiles.parquet").set_index("tile")
    pseudo = pd.read_parquet(runs / "fold0" / "pseudo_labels.parquet")
    assert set(pseudo.setting) == {"published filters", "ours"}
    assert set(pseudo.tile) == set(table.index[~in_test_set(table)])
    assert not (pseudo.kept & ~pseudo.kept_by_views).any()


def test_rows_cover_filters_orders_and_settings(chain):
    facts = results_of(chain[0]).facts
    named = set(zip(facts.method, facts.variant, strict=True))
    for method in ("mvc", "pfc", "mvc+pfc", "pfc+mvc"):
        assert {(method, "published filters"), (method, "ours")} <= named
    assert {("zero-shot", ""), ("mean-of-views", "")} <= named
    assert set(facts.split[facts.method == "zero-shot"]) == {"train", "test"}


def test_the_comparison_covers_every_method_in_every_setting(chain):
    some = comparison.compared(results_of(chain[0]))
    tested = set(zip(some.facts.method, some.facts.variant, strict=True))
    filtered = {"ce-mvc", "ce-pfc", "ce-kept", "vlm-cpl"}
    expected = {(m, "") for m in comparison.COMPARED if m not in {*filtered, "opinions"}}
    expected.add(("opinions", "ours"))
    expected |= {(m, s) for m in filtered for s in ("published filters", "ours")}
    assert tested == expected
    table = pd.read_parquet(chain[0] / "tiles.parquet").query("fold == 0")
    for number in some.facts.index:
        counts = some.counts[some.counts.evaluation == number].set_index(["group", "label"]).n
        assert (
            counts.to_dict() == table.groupby([table.group.astype(str), "label"]).size().to_dict()
        )


def test_rounds_query_training_tiles_once_each_and_are_all_recorded(chain):
    runs, _ = chain
    table = pd.read_parquet(runs / "tiles.parquet").set_index("tile")
    some = active_learning.heads(results_of(runs))
    each = active_learning.rounds(some.facts)
    trainings = ("dual-view", "dual-view-aligned", "supervised")
    # Random is not among those that all trainings run: it is compared in our training alone.
    loops = {*product(trainings, ("unisal", "unisal-coverage")), ("dual-view-aligned", "random")}
    loops |= {("linear-probe", s) for s in ("random", "margin-coverage", "typical-first")}
    loops.add(("dual-view-aligned", "typical-first"))
    full = {("supervised", "full-supervision"), ("linear-probe", "full-probe")}
    assert set(zip(each.training, each.method, strict=True)) == loops | full
    firsts = {}
    for training, strategy in loops:
        folder = runs / "fold0" / "rounds" / training / strategy
        files = sorted(folder.glob("round*.parquet"))
        queries = pd.concat(map(pd.read_parquet, files))
        assert not in_test_set(table)[queries.tile].any()
        assert not queries.tile.duplicated().any()
        assert (table.label[queries.tile].values == queries.label.values).all()
        recorded = each[(each.training == training) & (each.method == strategy)]
        budgets = [len(pd.read_parquet(file)) for file in files]
        assert recorded.budget.tolist() == np.cumsum(budgets).tolist()
        first = tuple(pd.read_parquet(files[0]).tile)
        firsts.setdefault(strategy == "typical-first", set()).add(first)
    assert [*map(len, firsts.values())] == [1, 1], "all begin with the same tiles, by chance or not"
    areas = active_learning.curves(some.facts)
    assert len(areas) == len(loops) and set(areas.n) == {in_test_set(table).sum()}
    assert (areas.class_n.map(sum) == areas.n).all()


def test_a_cold_start_asks_what_the_networks_of_vlm_cpl_choose(chain, monkeypatch):
    runs, _ = chain
    monkeypatch.setenv("OUTPUT_ROOT", str(runs.parents[4]))
    # The notebook that owns no setting: opening the run of another would empty its settings.
    run = Run("12_prompt_feature_consensus", "smoke", runs.parent.name, 0, 0)
    fold, pool, test = run.folder, *(part.tile.values for part in run.split())
    setup, networks = setups.frozen(runs, pool, 6, steps=1, seed=0), fold / "hcs" / "ours"
    kept = run.load("pseudo_labels").query("setting == 'ours'")
    inputs = FilterInputs.load(runs, pool, keep_ratio=run.settings["keep_ratio"], seed=0)
    names = [c.name for c in read_card("smoke").classes]
    trained = read_vlm_cpl(inputs, setup, names, tiles=pool, pseudo=kept, folder=networks)
    start, _ = vlm_cpl_cold_start(inputs, trained)
    assert (start.pseudo_labels == kept.label.where(kept.kept, UNLABELLED).values).all()
    first = pd.read_parquet(fold / "cold_start" / "none" / "cold-start-labels" / "round0.parquet")
    nothing, every = np.full(len(pool), UNLABELLED), np.ones(len(pool), bool)
    networks = setups.load_networks(setup, networks)
    nobody = {"labels": nothing, "unlabelled_mask": every, "seed": 0}
    expected = select("cs", make_pool("unisal", networks, setup, pool, **nobody), len(first), 0)
    assert first.tile.tolist() == pool[expected.rows].tolist()
    facts = results_of(runs).facts
    facts = facts[facts.method.str.startswith("cold-start")]
    assert set(facts.budget.dropna()) == {0, 7, 14, 21} and set(facts.variant) == {"ours"}
    assert set(facts.value) == {"", "stain+1.0"} and set(facts.n) == {len(test)}
    assert {"cold-start", "cold-start-labels"} <= set(facts.method[facts.unit == "curve"])


def test_every_parameter_is_that_of_the_results_and_of_the_settings(chain):
    """The parameters of smoke are other than the defaults, so a default that slips in shows."""
    runs, _ = chain
    written = json.loads((runs / "settings.json").read_text())
    written |= json.loads((runs / "fold0" / "settings.json").read_text())
    differing = set()
    for notebook in OF_ONE_RUN - OF_SLIDES:
        file = ROOT / "notebooks" / f"{notebook}.py"
        values = parameters.resolve_parameters(file, {"dataset": "smoke"})
        defaults = parameters.declared_parameters(file)
        fields = {n: values.pop(n) for n in ("dataset", "vlm", "seed", "fold") if n in values}
        network = values.pop("network", None)  # a field of trained rows, and names the files
        values = {n: v for n, v in values.items() if n not in ("part", "parts")}  # of a job alone
        differing |= {name for name, value in values.items() if value != defaults[name]}
        assert written[notebook].items() >= values.items(), notebook
        folder = runs / "fold0" if "fold" in fields else runs
        facts = record.read(*record.stems(folder / "results", notebook)).facts
        for line in facts.to_dict("records"):
            assert {name: line[name] for name in fields} == fields
            assert line["network"] in ("", network or "frozen")
            assert line["settings"].items() >= values.items(), f"{notebook}, {line['method']}"
    assert {"keep_ratio", "hue", "threshold", "cross_weight", "n_steps"} <= differing
    assert {"contrast", "full_steps", "query_share"} <= differing


def test_the_same_seed_twice_gives_the_same_predictions_file(chain, tmp_path, monkeypatch):
    runs = chain[0].relative_to(chain[0].parents[4]) / "fold0"
    files = ("predictions.parquet", "hcs/ours/network_a.safetensors")
    shutil.copytree(chain[0].parents[4] / "data", tmp_path / "data")
    for file in files:
        (tmp_path / runs / file).unlink()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # OUTPUT_ROOT is tmp_path in every test
    notebook = ROOT / "notebooks" / "13_high_confidence_cross_supervision.py"
    command = [sys.executable, "-m", "lib.runner", str(notebook), "-p", "dataset", "smoke"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for file in files:
        assert (tmp_path / runs / file).read_bytes() == (chain[0] / "fold0" / file).read_bytes()


def test_tables_and_figures_are_written(chain):
    figures = chain[0].parent / "figures"
    text = (figures / "RESULTS.md").read_text()
    for name in ("MVC → PFC", "MVC", "PFC", "VLM-CPL", "published filters", "ours", "UniSAL"):
        assert name in text
    assert "full supervision" in text
    assert len(list(figures.glob("*.png"))) >= 5


def test_tiles_of_no_target_are_refused_in_a_pool_whose_card_names_targets(
    chain, tmp_path, monkeypatch
):
    """The cells of 22 in this process, with a card that it does not have."""
    name, card = "22_active_learning_rounds", read_card("smoke")
    shutil.copytree(chain[0].parents[4], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("lib.data.cards.read_card", lambda _: replace(card, targets=TARGETS))
    given = {"dataset": "smoke", "trainings": "dual-view-aligned", "probed": "random"}
    given["strategies"] = given["repeated"] = "openpath,unisal-coverage-open,random"
    namespace = {"__name__": "__main__"}
    for cell in runner.cells(paths.notebook_file(name)):
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= parameters.resolve_parameters(paths.notebook_file(name), given)
    pyplot.close("all")
    for (_, strategy), history in namespace["histories"].items():
        labels = namespace["run"].load("tiles").set_index("tile").label[history.queries.tile]
        expected = labels.where(labels < len(TARGETS), REFUSED)
        assert history.queries.label.tolist() == expected.tolist(), strategy
    facts = namespace["recorded"].facts
    assert (facts.class_n.map(len) == len(TARGETS)).all()
    asked = facts[facts["round"] == 2].set_index(["training", "method"]).query_precision
    assert asked["dual-view-aligned", "openpath"] >= asked["dual-view-aligned", "random"]
