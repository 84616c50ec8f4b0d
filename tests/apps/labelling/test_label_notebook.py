"""Notebook 91 headlessly, and what `make label` opens: from no label to queries that wait."""

import json
import shutil
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apps.labelling import answers, session, start
from apps.labelling.answers import Answer, AnswersOracle
from apps.own_tiles import classifier, gallery, results
from apps.own_tiles.tile_folder import list_tiles
from data.prepare import synthetic
from lib import parameters, paths, runner
from lib.active.inputs import make_pool
from lib.active.strategies import select
from lib.learning import losses, setups
from lib.learning.batches import TrainingTiles

pytestmark = pytest.mark.slow

KINDS = ["normal_mucosa", "lymphocytes", "adipose"]
N, VIEWS, E = 60, 3, 12
NOTEBOOK = paths.notebook_file("91_label_tiles")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A result of notebook 90, made once: the root of outputs and what `make_result` returns."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(root))
        return root, *make_result(root, KINDS)


@pytest.fixture
def mine(made, tmp_path):
    """A copy for each test; the folder of a result is called by where its tiles lie."""
    _, tiles, out, truth = made
    folder = shutil.copytree(tiles, tmp_path / tiles.name)
    mine = paths.own_folder("mine", "some-vlm", 0, folder)
    shutil.copytree(out, mine)
    return folder, mine, truth


def make_result(tmp_path, names):
    """Tiles and what notebook 90 leaves of them, with heads on made-up features."""
    folder = tmp_path / "my tiles"
    folder.mkdir()
    for n in range(N):
        draw = np.random.default_rng(n)
        tile = synthetic.tissue_tile(KINDS[n % 3], synthetic.draw_slide(0.3, draw), 24, draw)
        Image.fromarray(tile).save(folder / f"{n:02d}.png")
    unique = list_tiles(folder).unique
    draw, truth = np.random.default_rng(7), np.arange(N) % 3
    out = paths.own_folder("mine", "some-vlm", 0, folder)
    out.mkdir(parents=True)
    plain = draw.normal(size=(N, E)) + 1.5 * np.eye(3, E)[truth]
    np.save(out / "mean_features.npy", plain.astype(np.float16))
    views = plain + 0.3 * draw.normal(size=(VIEWS, N, E))
    np.save(out / "view_features.npy", views.astype(np.float16))
    setup = setups.frozen(out, unique.tile.values, 3, steps=8, seed=0)
    data = TrainingTiles(unique.tile.values, np.where(np.arange(N) % 2, truth, -1), names)
    filtered = unique.assign(prompt_class=np.array(names)[truth], kept=data.labels >= 0)
    filtered.drop(columns="tile").to_csv(out / "pseudo_labels.csv", index=False)
    objective = losses.HighConfidenceCrossSupervision()
    setups.train_all([setups.Training(setup, objective, data, 0, out / "hcs")])
    (out / "classifier").mkdir()
    for file in (out / "hcs").glob("network_*.safetensors"):
        (out / "classifier" / file.name).write_bytes(file.read_bytes())
    sizes = {"image_size": 96, "n_views": 10, "keep_ratio": 0.3, "n_steps": 1000}
    description = {"vlm": "some-vlm", "vlm_seed": 0, "vlm_digest": "", "networks": 2}
    description["n_views"] = VIEWS
    description["classes"] = {name: [f"An H&E image of {name}"] for name in names}
    description["made_from"] = results.made_from(unique, "", **sizes)
    (out / "classifier" / classifier.DESCRIPTION).write_text(json.dumps(description))
    return folder, out, dict(zip(unique.digest, truth.tolist(), strict=True))


def execute(folder, **given):
    """The notebook's cells in this process; the names that they leave."""
    matplotlib.use("Agg")
    fixed = {"dataset": "mine", "vlm": "some-vlm", "folder": str(folder), "query_size": 6}
    fixed |= {"n_steps": 10}
    namespace = {"__name__": "__main__"}
    for cell in runner.cells(NOTEBOOK):
        if cell.cell_type == "code":
            exec(compile(cell.source, NOTEBOOK.name, "exec"), namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= parameters.resolve_parameters(NOTEBOOK, fixed | given)
    return namespace


def answer(folder, digests, truth, who="me"):
    lines = [Answer(d, KINDS[truth[d]], who) for d in digests]
    answers.append(paths.answers_file(folder), lines)


def test_the_notebook_waits_for_a_person_and_goes_on_with_the_answers(mine, capsys):
    folder, out, truth = mine
    names = execute(folder)
    assert "6 tiles wait for me" in capsys.readouterr().out
    digests, query = names["digests"], names["query"].tolist()
    assert execute(folder)["query"].tolist() == query  # the same until they are answered
    assert names["grid"].comm is None and names["grid"].own is None  # the next has taken its place
    answer(folder, [digests[tile] for tile in query], truth)
    names = execute(folder)
    assert names["loop"].history.rounds.labelled.tolist() == [6]
    assert len(names["query"]) == 6 and not set(names["query"]) & set(query)
    predicted = pd.read_csv(out / "predictions_labelled.csv", keep_default_na=False)
    assert (predicted.label != "").sum() == 6 and len(predicted) == N
    assert len(pd.read_csv(out / "labels.csv")) == 6
    assert len(json.loads((out / "label_studio" / "tasks.json").read_text())) == N


def test_another_strategy_takes_over_every_answer(mine):
    folder, _, truth = mine
    names = execute(folder)
    asked = [names["digests"][tile] for tile in names["query"]]
    answer(folder, asked, truth)
    other = execute(folder, strategy="margin")
    assert not {other["digests"][tile] for tile in other["query"]} & set(asked)
    answer(folder, [other["digests"][tile] for tile in other["query"]], truth)
    assert execute(folder, strategy="margin")["loop"].history.rounds.labelled.tolist() == [12]


def test_what_two_people_see_differently_waits_until_they_agree(mine, capsys):
    folder, _, truth = mine
    names = execute(folder)
    asked = [names["digests"][tile] for tile in names["query"]]
    answer(folder, asked, truth)
    answer(folder, asked[:1], {asked[0]: (truth[asked[0]] + 1) % 3}, "bob")
    names = execute(folder, labeller="bob", ask="disputed")
    assert names["loop"].history.rounds.labelled.tolist() == [5]
    assert [names["digests"][tile] for tile in names["wanted"]] == asked[:1]
    assert [s["open"] for s in names["grid"].query["status"]] == [True]
    answer(folder, asked[:1], truth, "bob")
    assert [names["grid"]._status()[0]["mine"]] == [truth[asked[0]]]
    answer(folder, [names["digests"][tile] for tile in names["query"]], truth)
    assert execute(folder)["loop"].history.rounds.labelled.tolist() == [5, 12]
    second = execute(folder, labeller="bob", ask="second")
    assert len(second["wanted"]) == 11


def test_an_audit_of_the_notebook_is_on_the_page_and_stays_one_of_its_predictions(mine, capsys):
    folder, out, truth = mine
    (out / "index.html").write_text("a" + "".join(gallery.QUALITY) + "z")
    audited = {"ask": "audit", "audit_size": 20}
    names = execute(folder, **audited)
    drawn = [names["digests"][tile] for tile in names["wanted"]]
    assert "20 tiles wait for me" in capsys.readouterr().out and not (out / "rounds").exists()
    assert "suggestion" not in names["grid"]._tile(0)[0]
    names["grid"]._answer(
        {"kind": "label", "n": 0, "label": truth[drawn[0]], "seconds": 1.0} | {"suggestion": False}
    )
    lines, _ = names["oracle"].read()
    assert (
        lines["ask"].tolist() == ["audit"] and not names["oracle"].known()[names["wanted"][0]] >= 0
    )
    names = execute(folder, **audited)
    assert [names["digests"][tile] for tile in names["wanted"]] == drawn
    answer(folder, drawn[1:], truth)
    names["grid"]._finish()
    page = (out / "index.html").read_text()
    own = names["own"]
    right = sum(own.probs[t].argmax() == truth[names["digests"][t]] for t in names["wanted"])
    assert f"{right} of 20 tiles are correct: " in page and page[0] + page[-1] == "az"
    names = execute(folder, **audited)
    predicted = pd.read_csv(out / "predictions_labelled.csv", keep_default_na=False)
    sizes = names["report"].sets.sum(1)
    assert [len([c for c in row.split("; ") if c]) for row in predicted.prediction_set] == list(
        sizes
    )
    later = execute(folder)  # the answers teach now, once the first query is answered too
    assert not set(later["query"]) & set(names["wanted"])
    answer(folder, [later["digests"][tile] for tile in later["query"]], truth)
    later = execute(folder)
    assert later["loop"].history.rounds.labelled.tolist() == [26]
    page = (out / "index.html").read_text()
    assert f"{right} of 20" in page and "These are not the predictions of now" in page
    assert "prediction_set" not in pd.read_csv(out / "predictions_labelled.csv")
    anew = execute(folder, ask="audit", audit_size=100)
    assert len(anew["wanted"]) == N - 26 and "after round 1" not in page
    assert anew["loop"].history.rounds.labelled.tolist() == [26]


def test_the_first_query_is_that_of_the_networks_that_saw_no_label(mine):
    folder, out, _ = mine
    own = session.own_tiles(out, folder)
    file = paths.answers_file(folder)
    oracle = AnswersOracle(file, KINDS, own.unique.tile.values, own.unique.digest.tolist())
    make = partial(session.LabellingLoop, own, oracle, query_size=4, steps=5, seed=0)
    begun = make(strategy="dus")
    query, start_of = begun.advance(), begun.config.cold_start
    assert start_of.pseudo_labels.tolist() == [n % 3 if n % 2 else -1 for n in range(N)]
    plain = setups.frozen(out, own.unique.tile.values, 3, steps=1, seed=0)
    pair = setups.load_networks(plain, out / "hcs")
    nothing, every = np.full(N, -1), np.ones(N, bool)
    candidates = make_pool(
        "cs", pair, plain, own.unique.tile.values, labels=nothing, unlabelled_mask=every, seed=0
    )
    expected = own.unique.tile.values[select("cs", candidates, 4, 0).rows]
    assert query.tolist() == expected.tolist() and len(query) == 4


def test_without_a_result_or_with_other_tiles_it_says_what_to_run(mine):
    folder, out, _ = mine
    with pytest.raises(ValueError, match=r"holds no result for .*: run 90_your_own_tiles"):
        session.own_tiles(out / "elsewhere", folder)
    first = (folder / "00.png").read_bytes()
    (folder / "00.png").write_bytes((folder / "01.png").read_bytes())
    (folder / "01.png").write_bytes(first)
    with pytest.raises(ValueError, match=r"are not those that .* was made from: run 90_your_own"):
        session.own_tiles(out, folder)


def test_a_tile_that_shows_no_class_is_learnt_as_other_tissue_where_there_are_words_for_it(mine):
    folder, out, truth = mine
    file = out / "classifier" / classifier.DESCRIPTION
    description = json.loads(file.read_text())
    description["made_from"]["other_tissue"] = KINDS[2:]
    file.write_text(json.dumps(description))
    names = execute(folder)
    own, digests = names["own"], names["digests"]
    assert own.class_names == KINDS[:2] and own.learnt_names == [*KINDS[:2], "other tissue"]
    assert own.kept_labels.max() == 2 and own.probs.sum(1) == pytest.approx(1, abs=1e-5)
    asked = [digests[tile] for tile in names["query"]]
    lines = [Answer(d, KINDS[truth[d]] if truth[d] < 2 else None, "me") for d in asked]
    answers.append(paths.answers_file(folder), lines)
    names = execute(folder)
    queries = names["loop"].history.queries
    assert dict(zip(queries.tile.map(dict(enumerate(digests))), queries.label, strict=True)) == {
        digest: truth[digest] for digest in asked
    }
    assert names["loop"].predict().shape == (N, 3) and len(names["query"]) == 6
    predicted = pd.read_csv(out / "predictions_labelled.csv", keep_default_na=False)
    assert predicted.other_tissue.equals(predicted["class"] == "other tissue")
    assert set(predicted.label) <= {"", "none of these", *KINDS[:2]}
    tasks = json.loads((out / "label_studio" / "tasks.json").read_text())
    said = [t["predictions"][0]["result"][0]["value"]["choices"][0] for t in tasks]
    assert [s == "none of these" for s in said] == predicted.other_tissue.tolist()


@pytest.mark.parametrize("change", ["words", "other tissue", "tiles", "settings", "labels"])
def test_a_result_of_other_words_tiles_settings_or_labels_is_made_anew(mine, change, monkeypatch):
    folder, out, _ = mine
    own = {
        "folder": str(folder),
        "classes": "; ".join(KINDS),
        "templates": "",
        "labels": "",
        "other_tissue": "",
    }
    own |= {"image_size": 96, "n_views": 10, "keep_ratio": 0.3, "n_steps": 1000}
    assert start.has_result(out, folder, own)
    if change == "tiles":
        (folder / "00.png").unlink()
    elif change == "other tissue":
        own["other_tissue"] = "nerve"
    elif change == "labels":
        (folder / "labels.csv").write_text("path,label\n")
        own["labels"] = str(folder / "labels.csv")
    else:
        words = "; ".join(f"{k} = {k} tissue" for k in KINDS)
        own |= {"classes": words} if change == "words" else {"n_views": 30}
    assert not start.has_result(out, folder, own)


def test_classes_with_names_that_tables_guess_at_keep_their_labels(tmp_path):
    names = ["None", "1", "TRUE"]
    folder, out, truth = make_result(tmp_path, names)
    own = session.own_tiles(out, folder)
    kept = np.array([truth[digest] for digest in own.unique.digest])
    assert own.kept_labels.tolist() == np.where(np.arange(N) % 2, kept, -1).tolist()


def test_the_opened_notebook_has_the_parameters_and_no_second_run_of_90(mine):
    folder, out, _ = mine
    given = {"dataset": "mine", "vlm": "some-vlm", "folder": str(folder), "labeller": "it's me"}
    given["classes"] = "normal_mucosa; lymphocytes; adipose"
    notebook = start.label_notebook(given)
    assert notebook == out / "91_label_tiles.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    (tagged,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    values: dict = {}
    exec("".join(tagged["source"]), values)
    assert values["labeller"] == "it's me" and values["folder"] == str(folder.resolve())
    assert values["query_size"] == 20 and "".join(tagged["source"]).count("#") == 10
    with pytest.raises(ValueError, match="unknown parameter 'colour'"):
        start.label_notebook(given | {"colour": "red"})
