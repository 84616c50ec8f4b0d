"""A user's own folder: what is listed, predicted and kept, and the notebook from end to end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import SMALL, write_model
from test_gallery import Page

from lib import classifier, paths, runner
from lib.data import synthetic, tiles
from lib.learning import networks, trainer
from lib.report import plots
from lib.vlm import stand_in, views
from lib.vlm.loading import load_vlm

# --- the list of tiles ---------------------------------------------------------------------------


def put(folder, *names, content=None):
    """Files that are all different unless `content` says what they hold."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode() if content is None else content)
    return folder


NAMES = ["b.png", "a.JPG", "deep/er/c.TIFF", "deep/c.tif", "deep/ü 漢字.webp", "ä<b>&\"'.Jpeg"]


@pytest.mark.parametrize("order", [1, -1])
def test_every_image_file_is_listed_by_path_whatever_was_there_first(tmp_path, order):
    put(tmp_path, *NAMES[::order])
    table = classifier.list_tiles(tmp_path)
    assert table.path.tolist() == sorted(NAMES) == table.group.tolist()
    assert table.tile.tolist() == list(range(6)) and table.tile.dtype == np.int64
    assert table.digest.tolist() == tiles.digests(tmp_path, sorted(NAMES))
    assert list(table) == ["tile", "path", "group", "digest"]


def test_hidden_and_other_files_are_left_out(tmp_path):
    put(tmp_path, "a.png", "notes.txt", "b.gif", "png", "slide.svs", "c.png.txt")
    put(tmp_path, "._a.png", ".hidden/b.png", "deep/.cache/c.png", "deep/.d.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert classifier.list_tiles(tmp_path).path.tolist() == ["a.png"]


def test_a_folder_below_a_hidden_one_can_be_named(tmp_path):
    put(tmp_path / ".mine", "a.png")
    assert classifier.list_tiles(tmp_path / ".mine").path.tolist() == ["a.png"]


def test_subfolders_are_groups_where_that_is_asked_for(tmp_path):
    put(tmp_path, "case 1/a.png", "case 1/slide 2/a.png", "case 2/a.png", "case 1/b.png")
    table = classifier.list_tiles(tmp_path, by_folder=True)
    groups = dict(zip(table.path, table.group, strict=True))
    assert groups == {
        "case 1/a.png": "case 1", "case 1/b.png": "case 1",
        "case 1/slide 2/a.png": "case 1/slide 2", "case 2/a.png": "case 2",
    }  # fmt: skip
    put(tmp_path, "loose.png")
    with pytest.raises(ValueError, match=r"subfolders are to be groups, but loose\.png lies in"):
        classifier.list_tiles(tmp_path, by_folder=True)


def test_copies_share_a_number_and_numbers_have_no_gap(tmp_path):
    put(tmp_path, "c.png", "e.png")
    put(tmp_path, "b.png", "d/x.jpg", "f.png", content=b"one")
    put(tmp_path, "a.png", "g.png", content=b"two")
    table = classifier.list_tiles(tmp_path)
    assert dict(zip(table.path, table.tile, strict=True)) == {
        "a.png": 0, "b.png": 1, "c.png": 2, "d/x.jpg": 1, "e.png": 3, "f.png": 1, "g.png": 0,
    }  # fmt: skip
    unique = classifier.once(table)
    assert unique.tile.tolist() == [0, 1, 2, 3] == unique.index.tolist()
    assert unique.path.tolist() == ["a.png", "b.png", "c.png", "e.png"]


def test_a_folder_without_images_or_none_at_all_is_named(tmp_path):
    put(tmp_path, "notes.txt", ".hidden.png")
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no image \(\.jpg, .*\.webp\)"):
        classifier.list_tiles(tmp_path)
    for wrong in (tmp_path / "gone", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"no such folder of tiles: {wrong}"):
            classifier.list_tiles(wrong)


# --- tables --------------------------------------------------------------------------------------


def said_by_hand():
    table = pd.DataFrame(
        {"path": ["a", "b", "c", "d"], "group": ["x", "y", "x", "x"], "tile": [0, 1, 0, 2]}
    )
    probs = np.array([[0.9, 0.1, 0], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]], np.float32)
    return classifier.predictions(table, probs, ["fat", "<b>", "none"])


def test_predictions_are_those_worked_by_hand():
    found = said_by_hand()
    assert list(found) == [
        "path", "group", "class", "confidence", "copy_of", "p(fat)", "p(<b>)", "p(none)",
    ]  # fmt: skip
    assert found["class"].tolist() == ["fat", "none", "fat", "<b>"]
    assert found.confidence.round(4).tolist() == pytest.approx([0.9, 0.5, 0.9, 0.4])
    assert found.copy_of.tolist() == ["", "", "a", ""]
    assert found["p(<b>)"].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.4])


def test_shares_of_a_group_are_those_worked_by_hand():
    names = ["fat", "<b>", "none", "rare"]
    found = classifier.per_group(said_by_hand(), names).set_index("group")
    assert found.files.to_dict() == {"x": 3, "y": 1}
    shares = found[[f"share({name})" for name in names]]
    assert shares.loc["x"].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert shares.loc["y"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["files", "group"])
def test_a_class_may_be_called_as_a_column_is(name):
    said = said_by_hand()
    said["class"] = said["class"].replace("fat", name)
    found = classifier.per_group(said, [name, "<b>", "none"])
    assert list(found) == ["group", "files", f"share({name})", "share(<b>)", "share(none)"]


def test_the_table_of_an_earlier_run_goes_where_there_is_none_now(tmp_path):
    table = said_by_hand()
    classifier.write_tables(tmp_path, {"one": table, "two": table})
    classifier.write_tables(tmp_path, {"one": table[:1], "two": None, "three": None})
    assert [file.name for file in tmp_path.iterdir()] == ["one.csv"]
    assert len(pd.read_csv(tmp_path / "one.csv")) == 1


# --- the classifier ------------------------------------------------------------------------------

CLASSES = {"fat": ["An H&E image of fat"], "ü <b>": ["one", "two"], "c": ["three"]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Name of a small random VLM that two tests change and put back."""
    return write_model(tmp_path_factory.mktemp("models") / "small", SMALL)


def random_heads(folder, size, n=2):
    """Two heads with random weights, as training leaves them."""
    folder.mkdir()
    made = []
    for number in range(n):
        torch.manual_seed(number)
        head = networks.frozen_head(torch.randn(size), torch.rand(size) + 0.5, len(CLASSES))
        save_file(head.state_dict(), folder / f"network_{'ab'[number]}.safetensors")
        made.append(head.eval())
    return made


def test_a_classifier_is_read_back_as_it_was(small, tmp_path):
    model = load_vlm(small, device="cpu")
    made = random_heads(tmp_path / "hcs", 48)
    classifier.save_classifier(tmp_path / "classifier", tmp_path / "hcs", model, 3, CLASSES)
    about, read = classifier.read_classifier(tmp_path / "classifier")
    assert about == {
        "vlm": small, "vlm_seed": 3, "vlm_digest": classifier.weights_digest(model), "image_size": 32,
        "networks": 2, "classes": CLASSES,
    }  # fmt: skip
    assert list(about["classes"]) == list(CLASSES)
    for one, other in zip(made, read, strict=True):
        assert not other.training
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])


def make_tiles(folder, n=5):
    rng = np.random.default_rng(8)
    for number in range(n):
        coarse = rng.integers(256, size=(4, 4, 3), dtype=np.uint8)
        size = (40 + 5 * number, 50)
        folder.mkdir(exist_ok=True, parents=True)
        Image.fromarray(coarse).resize(size).save(folder / f"{n - number}.png")
    shutil.copy(folder / "1.png", folder / "copy.png")
    return folder


def test_another_folder_is_predicted_as_the_networks_themselves_do(small, tmp_path):
    model = load_vlm(small, device="cpu")
    made = random_heads(tmp_path / "hcs", 48)
    classifier.save_classifier(tmp_path / "classifier", tmp_path / "hcs", model, 0, CLASSES)
    folder = make_tiles(tmp_path / "tiles")
    found = classifier.predict(tmp_path / "classifier", folder)
    assert found.path.tolist() == ["1.png", "2.png", "3.png", "4.png", "5.png", "copy.png"]
    assert found.copy_of.tolist() == ["", "", "", "", "", "1.png"]
    for row in found.to_dict("records"):
        stored = tiles.read_square(folder / row["path"], tiles.stored_size(32))[0]
        plain = views.plain_view(torch.from_numpy(stored.copy())[None], 32)
        features = inference.encode_images(model, plain)[0].half().float()
        with torch.inference_mode():
            each = [torch.softmax(head(features), 1)[0].numpy() for head in made]
        mean = (each[0] + each[1]) / 2
        assert [row[f"p({name})"] for name in CLASSES] == pytest.approx(mean.tolist(), abs=2e-3)
        assert row["class"] == list(CLASSES)[mean.argmax()]
    assert found["class"].nunique() > 1 or found.confidence.nunique() > 3


@pytest.mark.parametrize("lacks", ["all", "classifier.json", "network_a", "both networks"])
def test_a_folder_that_is_no_classifier_is_named(small, tmp_path, lacks):
    model = load_vlm(small, device="cpu")
    random_heads(tmp_path / "hcs", 48)
    where = tmp_path / "classifier"
    classifier.save_classifier(where, tmp_path / "hcs", model, 0, CLASSES)
    gone = {
        "all": "*", "classifier.json": "*.json", "network_a": "network_a*",
        "both networks": "network*",
    }[lacks]  # fmt: skip
    for file in where.glob(gone):
        file.unlink()
    make_tiles(tmp_path / "tiles")
    with pytest.raises(ValueError, match=r"holds (no classifier|[01] networks of 2)") as error:
        classifier.predict(where, tmp_path / "tiles")
    assert str(where) in str(error.value)


def test_another_vlm_of_that_name_is_refused(small, tmp_path):
    model = load_vlm(small, device="cpu")
    random_heads(tmp_path / "hcs", 48)
    classifier.save_classifier(tmp_path / "classifier", tmp_path / "hcs", model, 0, CLASSES)
    make_tiles(tmp_path / "tiles")
    file = Path(small.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    before, weights = file.read_bytes(), load_file(file)
    weights["visual.proj"] = weights["visual.proj"] * 1.001
    try:
        save_file(weights, file)
        with pytest.raises(ValueError, match=r"was trained with another local-dir:.*its weights"):
            classifier.predict(tmp_path / "classifier", tmp_path / "tiles")
    finally:
        file.write_bytes(before)
    assert len(classifier.predict(tmp_path / "classifier", tmp_path / "tiles")) == 6


def test_a_folder_to_predict_is_refused_by_name(small, tmp_path):
    model = load_vlm(small, device="cpu")
    random_heads(tmp_path / "hcs", 48)
    classifier.save_classifier(tmp_path / "classifier", tmp_path / "hcs", model, 0, CLASSES)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / 'none'} holds no image"):
        classifier.predict(tmp_path / "classifier", tmp_path / "none")
    put(make_tiles(tmp_path / "tiles"), "spoilt ü.png")
    with pytest.raises(ValueError, match=r"1 tiles cannot be read.*spoilt ü\.png"):
        classifier.predict(tmp_path / "classifier", tmp_path / "tiles")
    make_tiles(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"groups, but 1\.png lies in none"):
        classifier.predict(tmp_path / "classifier", tmp_path / "flat", by_folder=True)


def test_the_digest_is_of_every_weight_of_every_image_encoder(small):
    model = load_vlm(small, device="cpu")
    digests = [
        classifier.weights_digest(model),
        classifier.weights_digest(inference.ensemble([model, model])),
    ]
    for parameter in model.model.visual.parameters():
        with torch.no_grad():
            parameter[(-1,) * parameter.ndim] += 1e-3
        digests.append(classifier.weights_digest(model))
    with torch.no_grad():
        model.model.logit_scale += 1
    assert classifier.weights_digest(model) == digests[-1]  # no prediction depends on it
    assert len(set(digests)) == len(digests)


# --- the notebook --------------------------------------------------------------------------------

KINDS = ("normal_mucosa", "lymphocytes", "adipose")
WORDS = "mucosa = normal mucosa | glands; <b>&\"' = lymphocytes; 脂肪 = fat"
SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".JPEG", ".TIFF", ".PNG")
FOLDERS = ("case 1", "say 'b' \"c\"", "<b>&", "ü漢字/deep", "line\nbreak")
SIZES = ((37, 37), (48, 41), (60, 90))
GIVEN = {"dataset": "mine", "seed": 0, "n_views": 4, "n_steps": 40}
HEAD = ("pseudo_labels.csv", "predictions.csv", "predictions_other.csv", "groups.csv", "index.html")
CODE = [c for c in runner.cells(paths.notebook_file("90_your_own_tiles")) if c.cell_type == "code"]


def draw(kind, number, seed):
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    return synthetic.tissue_tile(kind, synthetic.draw_slide(0.3, rng), 37, rng)


def spread(folder, n, seed, folders=FOLDERS):
    """`n` drawn tiles of each kind in files of every format, size and depth of colour."""
    for at, kind in enumerate(KINDS):
        for number in range(n):
            image = Image.fromarray(draw(kind, number, seed)).resize(SIZES[number % 3])
            file = folder / folders[number % len(folders)] / f"{kind} {number}"
            file = file.with_name(file.name + SUFFIXES[(number + at) % len(SUFFIXES)])
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
        source = spread(root / "source", 8, seed=1, folders=("a", "b"))
        table = classifier.list_tiles(source)
        labels = table.path.map(lambda p: [k in p for k in KINDS].index(True)).to_numpy()
        store = tiles.decode_tiles(table, source, "source", 32)
        captions = [["normal mucosa", "glands"], ["lymphocytes", "immune cells"], ["fat", "lipid"]]
        captions = [[f"An H&E image of {c}" for c in of] for of in captions]
        stand_in.build(root / "vlm", store, labels, captions, image_size=32, seed=0, steps=100)
    mine = spread(root / "my 'tiles' <b>&ü", 8, seed=2)
    shutil.copy(mine / "case 1/adipose 0.tif", mine / "case 1/a copy.tif")
    shutil.copy(mine / "case 1/adipose 0.tif", mine / "<b>&/another copy.tif")
    put(mine, "case 1/notes.txt", "case 1/._adipose 0.tif", ".cache/x.png")
    other = spread(root / "other", 2, seed=3, folders=("slide 1", "slide 2"))
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
                namespace |= runner.resolve_parameters(notebook, GIVEN | given)
    finally:
        pyplot.close("all")
    return namespace


@pytest.fixture
def quick(monkeypatch):
    """Sheets of tiles take most of the time; one test looks at them."""
    monkeypatch.setattr(plots, "tile_sheet", lambda rows, **_: Figure((0.2, 0.2)))


def main_parameters(material):
    root, mine, other = material
    return {
        "vlm": f"local-dir:{root / 'vlm'}", "folder": str(mine), "classes": WORDS,
        "other": str(other), "by_folder": True,
    }  # fmt: skip


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


def test_all_that_the_head_of_the_notebook_names_is_there(base):
    assert all((base / name).is_file() for name in HEAD)
    assert {file.name for file in (base / "classifier").iterdir()} == {
        "classifier.json", "network_a.safetensors", "network_b.safetensors",
    }  # fmt: skip
    assert sorted(f.name for f in (base / "gallery").iterdir()) == [
        "01-mucosa.png", "02-b.png", "03-脂肪.png",
    ]  # fmt: skip
    for sheet in (base / "gallery").iterdir():
        assert np.asarray(Image.open(sheet).convert("L")).std() > 10
    assert not list(base.rglob(".part-*"))


def test_every_table_has_a_row_for_each_file(base, material):
    _, mine, other = material
    for name, folder in (
        ("predictions", mine),
        ("pseudo_labels", mine),
        ("predictions_other", other),
    ):
        table = read_csv(base / f"{name}.csv")
        assert table.path.tolist() == files_of(folder), name
        by_folder = name != "predictions_other"
        groups = [path.rpartition("/")[0] if by_folder else path for path in table.path]
        assert table.group.tolist() == groups
    assert len(files_of(mine)) == 3 * 8 + 2 and len(files_of(other)) == 6


def test_predictions_are_probabilities_and_their_best_class(base):
    names = ["mucosa", "<b>&\"'", "脂肪"]
    for table in ("predictions", "predictions_other"):
        said = read_csv(base / f"{table}.csv")
        probs = said[[f"p({name})" for name in names]].to_numpy()
        assert probs.sum(1) == pytest.approx(np.ones(len(said)), abs=2e-4)
        assert probs.max(1) == pytest.approx(said.confidence.to_numpy(), abs=1e-4)
        best = probs[np.arange(len(said)), [names.index(c) for c in said["class"]]]
        assert (best >= said.confidence - 1e-4).all()


def test_drawn_tiles_are_told_apart(base):
    said = read_csv(base / "predictions.csv")
    kinds = said.path.str.extract(r"/([a-z_]+) \d", expand=False)
    expected = kinds.map(dict(zip(KINDS, ("mucosa", "<b>&\"'", "脂肪"), strict=True)))
    known = expected.notna()
    assert (said["class"] == expected)[known].mean() > 0.6


def test_copies_get_what_the_first_of_them_gets(base):
    for name in ("predictions", "pseudo_labels"):
        table = read_csv(base / f"{name}.csv").set_index("path")
        first = table.loc["<b>&/another copy.tif"].drop(["group", "copy_of"], errors="ignore")
        for path in ("case 1/a copy.tif", "case 1/adipose 0.tif"):
            assert table.loc[path].drop(["group", "copy_of"], errors="ignore").equals(first)
    said = read_csv(base / "predictions.csv")
    copies = said[said.copy_of != ""]
    assert set(copies.path) == {"case 1/a copy.tif", "case 1/adipose 0.tif"}
    assert set(copies.copy_of) == {"<b>&/another copy.tif"}


def test_labels_are_the_vlms_own_and_kept_where_views_and_clusters_agree(base, material):
    labels = read_csv(base / "pseudo_labels.csv")
    table = classifier.list_tiles(material[1])
    probs = np.load(base / "probs.npy", allow_pickle=False)
    votes = np.load(base / "votes.npy", allow_pickle=False)
    names = ["mucosa", "<b>&\"'", "脂肪"]
    assert labels.prompt_class.tolist() == [names[c] for c in probs.argmax(1)[table.tile]]
    unique = labels.drop_duplicates("path").loc[~table.tile.duplicated().to_numpy()]
    assert 1 <= unique.kept.sum() <= 0.3 * len(unique) + 3
    entropies = []
    for tile in table.tile:
        shares = [list(votes[:, tile]).count(c) / 4 for c in range(3)]
        entropies.append(-sum(s * np.log(s) for s in shares if s))
    assert labels.vote_entropy.to_numpy() == pytest.approx(np.array(entropies), abs=1e-4)
    for _, of_class in unique.groupby("prompt_class"):
        kept = of_class.vote_entropy[of_class.kept]
        lowest = sorted(of_class.vote_entropy)[: max(1, int(0.3 * len(of_class) + 1e-9))]
        assert (kept <= lowest[-1] + 1e-4).all() and len(kept) <= len(lowest)


def test_the_groups_are_counted_over_files(base):
    said = read_csv(base / "predictions.csv")
    groups = read_csv(base / "groups.csv").set_index("group")
    assert sorted(groups.index) == sorted(set(said.group))
    for group, rows in said.groupby("group"):
        assert groups.files[group] == len(rows)
        for name in set(said["class"]):
            share = sum(c == name for c in rows["class"]) / len(rows)
            assert groups.loc[group, f"share({name})"] == pytest.approx(share, abs=6e-4)


def test_the_page_shows_the_files_by_their_names(base, material):
    page = Page((base / "index.html").read_text(encoding="utf-8"))
    said = read_csv(base / "predictions.csv").set_index("path")
    assert page.by_tag["title"] == [material[1].name]
    assert page.by_tag["h2"] == ["Classes", "Groups", "mucosa", "<b>&\"'", "脂肪"]
    assert "b" not in page.tags
    shown = page.values("img", "alt")
    assert set(shown) <= set(said.index) and len(set(shown)) > 10
    first = said[said.copy_of == ""]
    assert set(first.index) & set(shown) == set(shown)  # a copy is not shown twice
    assert all(source.startswith("data:") for source in page.values("img", "src"))
    assert "26 image files, 2 of them copies of others." in page.by_tag["p"][0]


def test_the_classifier_predicts_the_same_folder_as_the_notebook_did(base, material, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", str(base.parents[4]))
    again = classifier.predict(base / "classifier", material[1], by_folder=True)
    said = read_csv(base / "predictions.csv")
    assert again.path.tolist() == said.path.tolist()
    for column in said.columns[5:]:
        assert again[column].to_numpy() == pytest.approx(said[column].to_numpy(), abs=2e-3)


class Killed(BaseException):
    """As a signal: nothing that catches Exception stops it."""


def test_a_run_killed_in_training_ends_in_the_bytes_of_one_that_was_not(
    base, material, monkeypatch, quick
):
    steps, advance = [], trainer._Run.advance

    def until_30(self, draw):
        if len(steps) == 30:
            raise Killed
        steps.append(self.step)
        advance(self, draw)

    every_16 = property(lambda self: self.step % 16 == 0 or self.step == self.plan.steps)
    monkeypatch.setattr(trainer._Run, "pause", every_16)
    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "advance", until_30)
        with pytest.raises(Killed):
            execute(**main_parameters(material))
    out = paths.run_folder("mine", main_parameters(material)["vlm"], 0) / base.name
    assert not any((out / name).exists() for name in (*HEAD, "classifier", "gallery"))
    assert not list(out.rglob(".part-*"))
    taken = []
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer._Run, "advance", lambda s, draw: (taken.append(s.step), advance(s, draw))
        )
        assert execute(**main_parameters(material))["out"] == out
    assert taken == list(range(16, 40))
    for name in HEAD:
        assert (out / name).read_bytes() == (base / name).read_bytes(), name
    for name in ("network_a", "network_b"):
        file = f"classifier/{name}.safetensors"
        assert (out / file).read_bytes() == (base / file).read_bytes()


def test_a_second_run_leaves_nothing_of_the_first(base, material, tmp_path, quick):
    """The same folder with other classes, no second folder and no groups."""
    vlm_name = main_parameters(material)["vlm"]
    out = paths.run_folder("mine", vlm_name, 0) / base.name
    shutil.copytree(base, out)
    execute(vlm=vlm_name, folder=str(material[1]), classes="fat; lymphocytes")
    assert not (out / "groups.csv").exists() and not (out / "predictions_other.csv").exists()
    assert sorted(f.name for f in (out / "gallery").iterdir()) == [
        "01-fat.png",
        "02-lymphocytes.png",
    ]
    about = json.loads((out / "classifier" / "classifier.json").read_text())
    assert list(about["classes"]) == ["fat", "lymphocytes"]
    assert set(read_csv(out / "predictions.csv")["class"]) <= {"fat", "lymphocytes"}
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.by_tag["h2"] == ["Classes", "fat", "lymphocytes"]


def test_no_tile_is_kept_that_two_vlms_disagree_on(material, quick):
    root, mine, _ = material
    both = f"local-dir:{root / 'vlm'}+local-dir:{root / 'random'}"
    out = execute(vlm=both, folder=str(mine), classes=WORDS, share=1.0)["out"]
    agree = np.load(out / "agree.npy", allow_pickle=False)
    labels, table = read_csv(out / "pseudo_labels.csv"), classifier.list_tiles(mine)
    assert 0 < agree.sum() < len(agree)
    assert labels.kept.any() and not (labels.kept.to_numpy() & ~agree[table.tile]).any()
    assert json.loads((out / "classifier/classifier.json").read_text())["vlm"] == both


def test_three_tiles_are_enough(material, tmp_path, quick):
    root = material[0]
    folder = spread(tmp_path / "three", 1, seed=2, folders=("",))
    out = execute(vlm=f"local-dir:{root / 'vlm'}", folder=str(folder), classes=WORDS)["out"]
    assert len(read_csv(out / "predictions.csv")) == 3
    assert len(Page((out / "index.html").read_text()).values("img", "src")) >= 3


@pytest.mark.filterwarnings("ignore:no labelled tile of class")
def test_thirty_classes_are_taken(material, quick):
    root, mine, _ = material
    long = "a very long name of a class " * 12
    words = "; ".join(["fat", f"{long} = mucosa", *(f"tissue {n}" for n in range(28))])
    out = execute(vlm=f"local-dir:{root / 'vlm'}", folder=str(mine), classes=words)["out"]
    said = read_csv(out / "predictions.csv")
    assert sum(column.startswith("p(") for column in said) == 30
    assert len(list((out / "gallery").iterdir())) == 30
    assert len(Page((out / "index.html").read_text()).by_tag["h2"]) == 31


def written(folder):
    """All files below the runs but for the folder of decoded tiles, which may be empty."""
    found = (folder / "data" / "runs").rglob("*")
    found = (file for file in found if file.parent.name != "store")
    return [file for file in found if file.is_file() or file.parent.name == "seed0"]


REFUSED = {
    "one class": ({"classes": "fat"}, "at least two classes are needed"),
    "no class": ({"classes": " ; "}, "at least two classes are needed"),
    "twice": ({"classes": "a = fat; b = fat"}, "two classes have the words 'fat'"),
    "template": ({"templates": "an image"}, "'an image' needs one"),
    "empty folder": ({"folder": "empty"}, "empty holds no image"),
    "no folder": ({"folder": "gone"}, "no such folder of tiles: .*gone"),
    "loose tile": ({"folder": "spoilt", "by_folder": True}, r"but good\.png lies in none"),
    "unreadable": (
        {"folder": "spoilt"},
        r"2 tiles cannot be read.*deep/cut ü\.jpg .*spoilt/line\nbreak\.tif",
    ),
    "second empty": ({"folder": "good", "other": "empty"}, "empty holds no image"),
    "second unreadable": ({"folder": "good", "other": "spoilt"}, "2 tiles cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_by_name_before_anything_is_written(
    material, tmp_path, monkeypatch, case
):
    root, mine, _ = material
    given, said = REFUSED[case]
    (tmp_path / "empty").mkdir()
    put(tmp_path / "spoilt", "deep/cut ü.jpg", "line\nbreak.tif")
    for name in ("spoilt", "good"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw("adipose", 0, 5)).save(tmp_path / name / "good.png")
    given = {
        name: str(tmp_path / value) if name in ("folder", "other") else value
        for name, value in given.items()
    }

    def stop(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(trainer, "train", stop)
    parameters = {"vlm": f"local-dir:{root / 'vlm'}", "folder": str(mine), "classes": WORDS}
    with pytest.raises(ValueError, match=f"(?s){said}"):
        execute(**parameters | given)
    assert not written(tmp_path)


def test_a_name_that_is_not_unicode_is_refused(material, tmp_path):
    folder = spread(tmp_path / "three", 1, seed=2, folders=("",))
    try:
        Image.fromarray(draw("adipose", 3, 5)).save(os.fsencode(folder) + b"/caf\xe9.png")
    except OSError:
        pytest.skip("the file system takes no such name")
    with pytest.raises(ValueError, match=r"rename 'caf.*not UTF-8"):
        execute(vlm=f"local-dir:{material[0] / 'vlm'}", folder=str(folder), classes=WORDS)
    assert not written(tmp_path)


def test_the_command_line_does_the_same(material, tmp_path):
    root = material[0]
    folder = spread(tmp_path / "my tiles", 2, seed=2, folders=("",))
    given = {
        "dataset": "mine", "vlm": f"local-dir:{root / 'vlm'}", "folder": str(folder),
        "classes": "fat; cells = lymphocytes | immune cells", "n_views": 2, "n_steps": 10,
    }  # fmt: skip
    command = [sys.executable, "-m", "lib.runner", "notebooks/90_your_own_tiles.py"]
    command += [word for name, value in given.items() for word in ("-p", name, str(value))]
    environment = os.environ | {"OUTPUT_ROOT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (page,) = (tmp_path / "out").rglob("index.html")
    assert str(page) in done.stdout  # where to look
    assert page.parent.name.endswith("-my-tiles") and page.parent.parent.name == "seed0"
    assert read_csv(page.parent / "predictions.csv").path.tolist() == files_of(folder)
    assert [f.name for f in (page.parents[1] / "executed").iterdir()] == ["90_your_own_tiles.ipynb"]
