"""Notebook 90 from end to end, on folders with all that people have in folders."""

import json
import os
import re
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from html_page import Page
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from small_models import SMALL, write_model

from apps.own_tiles import classifier, steps
from apps.own_tiles.tile_folder import list_tiles
from data.prepare import stand_in, synthetic
from lib import parameters, paths, runner
from lib.consensus import tile_lift
from lib.data import tiles
from lib.figures import step_plots
from lib.learning import samplers, trainer
from lib.vlm import inference

pytestmark = pytest.mark.slow

KINDS = ("normal_mucosa", "lymphocytes", "adipose")
WORDS = "mucosa = normal mucosa | glands; <b>&\"' = lymphocytes; 脂肪 = fat"
NAMES = ["mucosa", "<b>&\"'", "脂肪"]
SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".JPEG", ".TIFF", ".PNG")
FOLDERS = ("case 1", "say 'b' \"c\"", "<b>&", "ü漢字/deep", "line\nbreak")
SIZES = ((37, 37), (48, 41), (60, 90))
GIVEN = {"dataset": "mine", "seed": 0, "n_views": 4, "n_steps": 40}
TABLES = ("pseudo_labels", "predictions", "predictions_other", "left_out", "groups", "cases")
HEAD = (*(f"{name}.csv" for name in TABLES), "index.html")
CODE = [c for c in runner.cells(paths.notebook_file("90_your_own_tiles")) if c.cell_type == "code"]


def put(folder, *names):
    """Files that hold no image."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())


def write_tiles(folder, n, seed, folders=FOLDERS):
    """`n` synthetic tiles of each class in files of every format, size and depth of colour."""
    for first, kind in enumerate(KINDS):
        for number in range(n):
            rng = np.random.default_rng([seed, first, number])
            tile = synthetic.tissue_tile(kind, synthetic.draw_slide(0.3, rng), 37, rng)
            image = Image.fromarray(tile).resize(SIZES[number % 3])
            file = folder / folders[number % len(folders)] / f"{kind} {number}"
            file = file.with_name(file.name + SUFFIXES[(number + first) % len(SUFFIXES)])
            if number == 6:
                image = image.convert("L")
            if number == 7:
                deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
                image, file = Image.fromarray(deep), file.with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Folders of tiles and the VLM that has seen others like them."""
    root = tmp_path_factory.mktemp("material")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(root))
        source = write_tiles(root / "source", 8, seed=1, folders=("a", "b"))
        table = list_tiles(source).table
        labels = table.path.map(lambda p: [k in p for k in KINDS].index(True)).to_numpy()
        store = tiles.decode_tiles(table, source, "source", 32)
        captions = [["normal mucosa", "glands"], ["lymphocytes", "immune cells"], ["fat", "lipid"]]
        captions = [[f"An H&E image of {c}" for c in words] for words in captions]
        stand_in.build(root / "vlm", store, labels, captions, image_size=32, seed=0, steps=100)
    mine = write_tiles(root / "my 'tiles' <b>&ü", 8, seed=2)
    shutil.copy(mine / "case 1/adipose 0.tif", mine / "case 1/a copy.tif")
    shutil.copy(mine / "case 1/adipose 0.tif", mine / "<b>&/another copy.tif")
    put(mine, "case 1/notes.txt", "case 1/._adipose 0.tif", ".cache/x.png")
    other = write_tiles(root / "other", 2, seed=3, folders=("slide 1", "slide 2"))
    write_model(root / "random", SMALL)
    return root, mine, other


def execute(**given):
    """The notebook's cells in this process; the names that they leave."""
    matplotlib.use("Agg")
    namespace = {"__name__": "__main__"}
    try:
        for cell in CODE:
            exec(compile(cell.source, "90_your_own_tiles", "exec"), namespace)
            if "parameters" in cell.metadata.get("tags", []):
                notebook = paths.notebook_file("90_your_own_tiles")
                namespace |= parameters.resolve_parameters(notebook, GIVEN | given)
    finally:
        pyplot.close("all")
    return namespace


@pytest.fixture
def quick(monkeypatch):
    """Sheets of tiles take most of the time; one test looks at them."""
    monkeypatch.setattr(step_plots, "tile_sheet", lambda rows, **_: Figure((0.2, 0.2)))


def main_parameters(material, **other):
    """Of a run with a second folder and groups, or with others in their place."""
    root, mine, second = material
    own = {"vlm": f"local-dir:{root / 'vlm'}", "folder": str(mine), "classes": WORDS}
    return own | (other or {"other": str(second), "by_folder": True})


@pytest.fixture(scope="module")
def base(material, tmp_path_factory):
    """An uninterrupted run with everything asked for; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(tmp_path_factory.mktemp("base")))
        namespace = execute(**main_parameters(material))
    return namespace["out"]


def read_csv(file):
    words = dict.fromkeys(("path", "group", "class", "copy_of", "prompt_class"), str)
    return pd.read_csv(file, dtype=words, keep_default_na=False)


def files_of(folder):
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
        and "/." not in str(file.relative_to(folder.parent))
    )


def test_all_that_the_head_of_the_notebook_names_is_there(base, material):
    assert all((base / name).is_file() for name in HEAD) and not list(base.rglob(".part-*"))
    networks = {"network_a.safetensors", "network_b.safetensors"}
    beside = {"classifier.json", "training_tiles.safetensors", "README.md"}
    assert {f.name for f in (base / "classifier").iterdir()} == networks | beside
    assert sorted(f.name[:3] for f in (base / "gallery").iterdir()) == ["01-", "02-", "03-"]
    for sheet in (base / "gallery").iterdir():
        assert np.asarray(Image.open(sheet).convert("L")).std() > 10
    _, mine, other = material
    folders = {"predictions": mine, "pseudo_labels": mine, "predictions_other": other}
    for name, folder in folders.items():
        table, by_folder = read_csv(base / f"{name}.csv"), folder == mine
        assert table.path.tolist() == files_of(folder), name
        groups = [path.rpartition("/")[0] if by_folder else path for path in table.path]
        assert table.group.tolist() == groups
        if name != "pseudo_labels":
            probs = table[[f"p({name})" for name in NAMES]].to_numpy()
            assert probs.sum(1) == pytest.approx(np.ones(len(table)), abs=2e-4)
            assert probs.max(1) == pytest.approx(table.confidence.to_numpy(), abs=1e-4)
    assert len(files_of(mine)) == 3 * 8 + 2 and len(files_of(other)) == 6


def test_synthetic_tiles_are_told_apart(base):
    predicted = read_csv(base / "predictions.csv")
    kinds = predicted.path.str.extract(r"/([a-z_]+) \d", expand=False)
    expected = kinds.map(dict(zip(KINDS, NAMES, strict=True)))
    known = expected.notna()
    assert (predicted["class"] == expected)[known].mean() > 0.6


def test_copies_get_what_the_first_of_them_gets(base):
    for name in ("predictions", "pseudo_labels"):
        table = read_csv(base / f"{name}.csv").set_index("path")
        first = table.loc["<b>&/another copy.tif"].drop(["group", "copy_of"], errors="ignore")
        for path in ("case 1/a copy.tif", "case 1/adipose 0.tif"):
            assert table.loc[path].drop(["group", "copy_of"], errors="ignore").equals(first)
    predicted = read_csv(base / "predictions.csv")
    copies = predicted[predicted.copy_of != ""]
    assert set(copies.path) == {"case 1/a copy.tif", "case 1/adipose 0.tif"}
    assert set(copies.copy_of) == {"<b>&/another copy.tif"}


def test_a_case_is_a_first_folder_with_the_mean_of_its_tiles_each_once(base):
    predicted, cases = read_csv(base / "predictions.csv"), read_csv(base / "cases.csv")
    first = predicted.copy_of.where(predicted.copy_of != "", predicted.path)
    predicted["case"] = predicted.path.str.partition("/")[0]
    assert cases["case"].tolist() == sorted(set(predicted.case))
    for row in cases.to_dict("records"):
        mine = predicted[predicted.case == row["case"]]
        once = mine[~first[mine.index].duplicated()]
        assert row["tiles"] == len(once) and row["slides"] == mine.group.nunique()
        means = once[[f"p({name})" for name in NAMES]].mean()
        assert [row[name] for name in means.index] == pytest.approx(means.tolist(), abs=2e-4)
        assert row["class"] == NAMES[means.argmax()]
    assert cases.tiles.sum() == len(predicted) - 1  # one copy lies in the case of its twin


def test_labels_are_the_vlms_and_kept_where_views_and_clusters_agree(base, material):
    labels, table = read_csv(base / "pseudo_labels.csv"), list_tiles(material[1]).table
    view_probs, votes = (np.load(base / f"{name}.npy") for name in ("view_probs", "votes"))
    lift = view_probs / view_probs.mean(0, dtype=float)
    assert labels.prompt_class.tolist() == [NAMES[c] for c in lift.argmax(1)[table.tile]]
    shares = np.stack([(votes == c).mean(0) for c in range(3)], 1)
    entropy = -np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-9)), 0).sum(1)
    assert labels.vote_entropy.to_numpy() == pytest.approx(entropy[table.tile], abs=1e-4)
    for _, tiles_of in labels[~table.tile.duplicated().to_numpy()].groupby("prompt_class"):
        kept = tiles_of.vote_entropy[tiles_of.kept]
        lowest = sorted(tiles_of.vote_entropy)[: max(1, int(0.3 * len(tiles_of) + 1e-9))]
        assert (kept <= lowest[-1] + 1e-4).all() and len(kept) <= len(lowest)


def test_the_page_shows_the_files_by_their_names(base, material):
    page = Page((base / "index.html").read_text(encoding="utf-8"))
    predicted, left = read_csv(base / "predictions.csv"), read_csv(base / "left_out.csv")
    assert page.by_tag["title"] == [material[1].name]
    heads = ["How good is it?", "Classes", "Cases", "Groups", "Left out", *NAMES]
    assert page.by_tag["h2"] == heads
    shown = set(page.values("img", "alt"))
    assert shown <= set(predicted.path[predicted.copy_of == ""]) and len(shown) > 10
    assert "26 image files, 2 of them copies of others." in page.by_tag["p"][0]
    assert page.by_tag["p"][1].startswith("3 of 29 files were left out")
    said = [
        "The second folder, other: ",
        "How many tiles it takes: ",
        "Magnification: the files do",
    ]
    for line in [*said, "It ran on the processor"]:
        assert sum(text.startswith(line) for text in page.by_tag["p"]) == 1, line
    suffix = "not .jpg, .jpeg, .png, .tif, .tiff, .webp"
    expected = {".cache/": "hidden", "case 1/._adipose 0.tif": "hidden", "case 1/notes.txt": suffix}
    assert dict(left.values.tolist()) == expected
    assert {*left.path, *left.why} <= set(page.by_tag["td"])


def test_the_classifier_predicts_the_same_folder_as_the_notebook_did(base, material, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", str(base.parents[4]))
    again = classifier.predict(base / "classifier", material[1], by_folder=True)
    predicted = read_csv(base / "predictions.csv")
    assert again.path.tolist() == predicted.path.tolist()
    for column in predicted.columns[5:]:
        assert again[column].to_numpy() == pytest.approx(predicted[column].to_numpy(), abs=2e-3)


class Killed(BaseException):
    """As a signal: nothing that catches Exception stops it."""


def test_a_run_killed_in_training_ends_in_the_bytes_of_one_that_was_not(
    base, material, monkeypatch, quick
):
    steps, stop, standardised = [], 30, samplers.FeatureViews.standardised

    def watched(sampler, tiles, network, step):
        if step == stop:
            raise Killed
        steps.append(step)
        return standardised(sampler, tiles, network, step)

    monkeypatch.setattr(samplers.FeatureViews, "standardised", watched)
    with pytest.raises(Killed):
        execute(**main_parameters(material))
    out = paths.run_folder("mine", main_parameters(material)["vlm"], 0) / base.name
    assert not any((out / name).exists() for name in (*HEAD, "classifier", "gallery"))
    assert not list(out.rglob(".part-*"))
    stop = None
    steps.clear()
    assert execute(**main_parameters(material))["out"] == out
    assert sorted(set(steps)) == list(range(40))  # heads take seconds: they are trained anew
    timed = re.compile(rb"<p>It ran on [^<]*</p>")  # the one line of the page that is measured
    for name in HEAD:
        ended, whole = (timed.sub(b"", (run / name).read_bytes()) for run in (out, base))
        assert ended == whole, name
    for name in ("network_a", "network_b", "training_tiles"):
        file = f"classifier/{name}.safetensors"
        assert (out / file).read_bytes() == (base / file).read_bytes()


def test_a_second_run_leaves_nothing_of_the_first(base, material, tmp_path, quick):
    """The same folder with other classes, no second folder and no groups."""
    second = main_parameters(material, classes="fat; lymphocytes")
    out = paths.run_folder("mine", second["vlm"], 0) / base.name
    shutil.copytree(base, out)
    execute(**second)
    assert not (out / "groups.csv").exists() and not (out / "cases.csv").exists()
    assert not (out / "predictions_other.csv").exists()
    sheets = ["01-fat.png", "02-lymphocytes.png"]
    assert sorted(f.name for f in (out / "gallery").iterdir()) == sheets
    description = json.loads((out / "classifier" / "classifier.json").read_text())
    assert list(description["classes"]) == ["fat", "lymphocytes"]
    assert set(read_csv(out / "predictions.csv")["class"]) <= {"fat", "lymphocytes"}
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.by_tag["h2"] == ["How good is it?", "Classes", "Left out", "fat", "lymphocytes"]


def test_labels_of_a_person_stand_in_place_of_pseudo_labels(
    base, material, tmp_path, quick, capsys
):
    """Of every tile, turned round: the networks follow the person, not the prompts."""
    labels = read_csv(base / "pseudo_labels.csv")
    turned = [NAMES[(NAMES.index(c) + 1) % 3] for c in labels.prompt_class]
    pd.DataFrame({"path": labels.path, "label": turned}).to_csv(tmp_path / "mine.csv", index=False)
    file = str(tmp_path / "mine.csv")
    out = execute(**main_parameters(material, labels=file))["out"]
    assert "24 tiles have a label of a person" in capsys.readouterr().out
    predicted = read_csv(out / "predictions.csv")["class"].to_numpy()
    assert np.mean(predicted == turned) > 0.6 > np.mean(predicted == labels.prompt_class)


def test_tiles_that_are_no_class_are_learnt_as_other_tissue(base, material, tmp_path, quick):
    """One of the tissues is nowhere, which is no alarm. The saved classifier knows them, too."""
    words = {"classes": "mucosa = normal mucosa | glands; 脂肪 = fat"}
    words["other_tissue"] = "<b>&\"' = lymphocytes; nerve"
    refused = [path for path in read_csv(base / "predictions.csv").path if "adipose" in path]
    lines = pd.DataFrame({"path": refused[:9], "label": "none of these"}).drop_duplicates()
    lines.to_csv(tmp_path / "none.csv", index=False)
    names = execute(**main_parameters(material, **words, other=str(material[2]), by_folder=True))
    out, others = names["out"], ["<b>&\"'", "nerve"]
    predicted, labels = (read_csv(out / f"{n}.csv") for n in ("predictions", "pseudo_labels"))
    assert predicted.other_tissue.equals(predicted["class"].isin(others))
    assert labels.other_tissue.equals(labels.prompt_class.isin(others))
    kinds = predicted.path.str.extract(r"/([a-z_]+) \d", expand=False)
    known = predicted[kinds.notna()].other_tissue
    assert (known == (kinds == "lymphocytes")[kinds.notna()]).mean() > 0.6
    assert not [alarm for alarm in names["learned"].alarms if alarm.text.startswith("nerve: ")]
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    heads = ["How good is it?", "Classes", "Tiles that are no class", "Cases", "Groups", "Left out"]
    assert page.by_tag["h2"] == [*heads, "mucosa", "脂肪", "other tissue"]
    cases = pd.read_csv(out / "cases.csv", keep_default_na=False)
    assert set(cases["class"]) <= {"mucosa", "脂肪", ""} and cases.tiles.sum() < len(predicted)
    assert sum("were predicted as other tissue" in text for text in page.by_tag["p"]) == 1
    again = classifier.predict(out / "classifier", material[1], by_folder=True)
    assert (again["class"] == predicted["class"]).mean() > 0.9  # features are of half precision
    assert again.other_tissue.equals(again["class"].isin(others))
    assert "other_tissue" in read_csv(out / "predictions_other.csv")
    said = execute(**main_parameters(material, **words, labels=str(tmp_path / "none.csv")))
    taken = read_csv(said["out"] / "predictions.csv").set_index("path").other_tissue
    assert taken[lines.path].mean() > predicted.set_index("path").other_tissue[lines.path].mean()


def test_other_tissue_that_is_nowhere_takes_no_tile_from_the_classes():
    """Lift evens out the classes, as of prompts that neglect one, and no other tissue."""
    views = np.array([[0.6, 0.38, 0.02], [0.7, 0.29, 0.01], [0.1, 0.1, 0.8], [0.9, 0.09, 0.01]])
    assert tile_lift(views[:2]).argmax(1).tolist() == [2, 0]
    assert steps.open_set_labels(views, 2).tolist() == [1, 1, 2, 0]
    chance = np.random.default_rng(0)
    views = chance.dirichlet([8, 4, 0.1, 0.1], 200)
    labels, best = steps.open_set_labels(views, 2), views.argmax(1)
    assert np.array_equal(labels[best > 1], best[best > 1])
    of_classes = views[best < 2, :2] / views[best < 2, :2].sum(1, keepdims=True)
    assert np.array_equal(labels[best < 2], tile_lift(of_classes).argmax(1))


def test_no_tile_is_kept_that_two_vlms_disagree_on(material, quick):
    root, mine, _ = material
    both = f"local-dir:{root / 'vlm'}+local-dir:{root / 'random'}"
    out = execute(**main_parameters(material, vlm=both, keep_ratio=1.0))["out"]
    agree = np.load(out / "agree.npy", allow_pickle=False)
    labels, table = read_csv(out / "pseudo_labels.csv"), list_tiles(mine).table
    assert 0 < agree.sum() < len(agree)
    assert labels.kept.any() and not (labels.kept.to_numpy() & ~agree[table.tile]).any()
    assert json.loads((out / "classifier/classifier.json").read_text())["vlm"] == both


def test_thirty_classes_are_taken(material, tmp_path, quick):
    long = "a very long name of a class " * 12
    words = "; ".join(["fat", f"{long} = mucosa", *(f"tissue {n}" for n in range(28))])
    folder = str(write_tiles(tmp_path / "tiles", 20, seed=2))
    out = execute(**main_parameters(material, folder=folder, classes=words, n_views=2))["out"]
    predicted = read_csv(out / "predictions.csv")
    assert sum(column.startswith("p(") for column in predicted) == 30
    assert len(list((out / "gallery").iterdir())) == 30
    assert len(Page((out / "index.html").read_text()).by_tag["h2"]) == 32  # and how good it is


REFUSED = {
    "one class": ({"classes": "fat"}, "at least two classes are needed"),
    "no class": ({"classes": " ; "}, "at least two classes are needed"),
    "twice": ({"classes": "a = fat; b = fat"}, "two classes have the words 'fat'"),
    "template": ({"templates": "an image"}, "'an image' needs one"),
    "empty folder": ({"folder": "empty"}, "empty holds no image"),
    "few tiles": ({"folder": "spoilt"}, "1 tiles are too few for 3 classes: at least 6"),
    "no folder": ({"folder": "gone"}, "no such folder of tiles: .*gone"),
    "loose tile": ({"folder": "spoilt", "by_folder": True}, r"but good\.png lies in none"),
    "unreadable": ({"folder": "spoilt/deep"}, r"holds no image.*left out: 'cut ü\.jpg': no whole"),
    "second empty": ({"folder": "good", "other": "empty"}, "empty holds no image"),
    "second unreadable": ({"folder": "good", "other": "spoilt/deep"}, "deep holds no image"),
    "labels": ({"folder": "good", "labels": "gone.csv"}, r"there is no file of labels .*gone\.csv"),
    "results": ({"folder": "data/runs"}, "data/runs lies among results of this project"),
}


def test_inputs_are_checked_before_anything_heavy_is_imported():
    """The imports of the notebook's first cell, which the checks follow."""
    imports = "\n".join(line for line in CODE[0].source.splitlines() if " apps" in line)
    heavy = "{'torch', 'sklearn', 'open_clip', 'seaborn'} & set(sys.modules)"
    code = f"import sys\n{imports}\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_by_name_before_anything_is_written(
    material, tmp_path, monkeypatch, case
):
    given, message = dict(REFUSED[case][0]), REFUSED[case][1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "data/runs").mkdir(parents=True)
    put(tmp_path / "spoilt", "deep/cut ü.jpg", "line\nbreak.tif")
    for name in ("spoilt", "good"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name / "good.png")
    for number in range(1, 6):  # as many as three classes need
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "good" / f"{number}.png")
    for name in given.keys() & {"folder", "other", "labels"}:
        given[name] = str(tmp_path / given[name])

    def stop(*_, **__):
        raise AssertionError("a model was built, or training began")

    monkeypatch.setattr(trainer, "train", stop)
    monkeypatch.setattr(inference.VLM, "__init__", stop)  # all is checked before a model is built
    with pytest.raises(ValueError, match=f"(?s){message}"):
        execute(**main_parameters(material, **given))
    assert not [file for file in (tmp_path / "data/runs").rglob("*") if file.is_file()]


def test_spoilt_tiles_are_left_out_and_the_rest_is_as_without_them(
    material, tmp_path, quick, capsys
):
    written = []
    for spoilt in (False, True):
        folder = write_tiles(tmp_path / f"tiles {spoilt}", 2, seed=2, folders=("",))
        if spoilt:
            put(folder, "a.png", "z\nopen me.tif")
            whole = next(folder.glob("*.png")).read_bytes()
            (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
            Image.new("RGB", (2, 300)).save(folder / "long.png")
            (folder / "up").symlink_to(tmp_path)
            os.mkfifo(folder / "pipe.png")
        out = execute(**main_parameters(material, folder=str(folder)))["out"]
        written.append((out / "predictions.csv").read_bytes())
    assert written[0] == written[1]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert lines[0].endswith("tiles True': 6 of 12 files") and len(lines) == 7
    names = ["a.png", "cut.png", "long.png", "pipe.png", "up/", "z\nopen me.tif"]
    assert read_csv(out / "left_out.csv").path.tolist() == names


def test_the_command_does_the_same_and_two_tiles_of_a_class_are_enough(
    material, tmp_path, capsys, main
):
    folder = write_tiles(tmp_path / "my tiles", 2, seed=2, folders=("",))
    given = main_parameters(material, folder=str(folder), dataset="mine", n_views=2, n_steps=10)
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    assert main(paths.notebook_file("90_your_own_tiles"), *words) == 0
    (page,) = (tmp_path / "data").rglob("index.html")
    assert f"open {page}" in capsys.readouterr().err  # where to look
    assert page.parent.name.startswith("my-tiles-") and page.parent.parent.name == "seed0"
    assert read_csv(page.parent / "predictions.csv").path.tolist() == files_of(folder)
    assert [f.name for f in (page.parents[1] / "executed").iterdir()] == ["90_your_own_tiles.ipynb"]
