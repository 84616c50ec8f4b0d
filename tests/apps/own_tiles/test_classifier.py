"""Own tiles: what is listed, tabled, saved and predicted."""

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import case
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from small_models import SMALL, write_model

from apps.own_tiles import classifier
from lib.data import tiles
from lib.learning import networks
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

# --- the list of tiles ---------------------------------------------------------------------------


def png(text):
    """A picture whose bytes are as different as the texts."""
    buffer = BytesIO()
    note = PngInfo()
    note.add_text("name", repr(text))
    Image.new("RGB", (3, 3)).save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


def put(folder, *names, content=None):
    """Pictures that are all different unless `content` says which."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(name if content is None else content))
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


def reasons(folder):
    left = classifier.left_out(folder, classifier.list_tiles(folder))
    return dict(zip(left.path, left.why, strict=True))


def test_whatever_is_no_tile_is_left_out_and_named_with_the_reason(tmp_path):
    folder = put(tmp_path / "tiles", "a.png", "deep/b.JPG")
    suffix = "not .jpg, .jpeg, .png, .tif, .tiff, .webp"
    put(folder, "b.gif", "notes.txt", "c.bmp", "png", "deep/c.png.txt")
    put(folder, "._a.png", ".hidden/b.png", "deep/.cache/c.png")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "linked").symlink_to(folder / "deep")
    (folder / "deep/up").symlink_to(folder)
    (folder / "file.png").symlink_to(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "broken.png").write_bytes(png("broken")[:-20])
    (folder / "words.webp").write_text("words")
    assert classifier.list_tiles(folder).path.tolist() == ["a.png", "deep/b.JPG", "file.png"]
    assert reasons(folder) == {
        "._a.png": "hidden", ".hidden/": "hidden", "deep/.cache/": "hidden", "b.gif": suffix,
        "c.bmp": suffix, "notes.txt": suffix, "png": suffix, "deep/c.png.txt": suffix,
        "gone.png": "no regular file", "pipe.png": "no regular file",
        "zero.png": "no regular file", "linked/": "a link to a folder",
        "deep/up/": "a link to a folder", "words.webp": "no whole image in JPEG, PNG, TIFF, WEBP",
        "broken.png": "image file is truncated",
    }  # fmt: skip


def test_what_may_not_be_read_is_left_out(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = put(tmp_path / "tiles", "a.png", "b.png", "deep/c.png")
    for name in ("b.png", "deep"):
        (folder / name).chmod(0)
    try:
        assert reasons(folder) == {"b.png": "Permission denied", "deep/": "Permission denied"}
    finally:
        (folder / "deep").chmod(0o700)


def test_a_name_that_is_not_unicode_is_left_out_and_spelt(tmp_path):
    put(tmp_path, "a.png")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png("b"))
    except OSError:
        pytest.skip("the file system takes no such name")
    assert reasons(tmp_path) == {"caf\\xe9.png": "its name is not UTF-8"}


def test_a_file_that_vanishes_between_listing_and_reading_is_left_out(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b.png")
    monkeypatch.setattr(
        classifier, "files_below", lambda _: {"a.png": "", "b.png": "", "gone.png": ""}
    )
    table = classifier.list_tiles(tmp_path)
    assert table.path.tolist() == ["a.png", "b.png"]
    assert classifier.left_out(tmp_path, table).path.tolist() == ["gone.png"]


def test_results_are_no_tiles_wherever_they_lie(tmp_path, monkeypatch):
    folder = put(tmp_path / "tiles", "a.png", "data/mine.png")
    put(folder, "data/runs/own/x.png", "data/raw/demo/x.png", "figures/x.png")
    put(folder, "copy/gallery/01-fat.png", "copy/classifier/classifier.json")
    put(folder, "copy/pseudo_labels.csv")
    put(folder, "page/0/overlays/x.png", "page/viewer/openseadragon.min.js")
    monkeypatch.setenv("OUTPUT_ROOT", str(folder))
    assert classifier.list_tiles(folder).path.tolist() == ["a.png", "data/mine.png"]
    assert reasons(folder) == dict.fromkeys(
        ["copy/", "data/raw/", "data/runs/", "figures/", "page/"], "results of this project"
    )
    for name in ("data/runs", "data/runs/own", "copy", "copy/gallery", "page/0/overlays"):
        with case(name), pytest.raises(ValueError, match="lies among results of this project"):
            classifier.list_tiles(folder / name)
    assert len(classifier.list_tiles(folder / "data/raw/demo")) == 1  # drawn tiles are tiles


def test_what_is_left_out_is_said_in_lines_that_no_name_can_forge(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "b\nopen \x1b[1mme.png").write_text("no picture")
    table = classifier.list_tiles(tmp_path)
    left = classifier.left_out(tmp_path, table)
    first, second = classifier.left_out_lines(Path("my\ntiles"), left, len(table))
    assert first == r"left out of 'my\ntiles': 1 of 2 files"
    assert second.startswith(r"left out: 'b\nopen \x1b[1mme.png': no whole image")
    assert classifier.left_out_lines(tmp_path, table[:0], 1) == []
    many = pd.DataFrame({"path": [f"{n}.txt" for n in range(23)], "why": "text"})
    lines = classifier.left_out_lines(Path("many"), many, 1)
    assert len(lines) == 22 and lines[0] == "left out of 'many': 23 of 24 files"
    assert lines[-1] == "left out: and 3 more"


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
    put(tmp_path, "b.png", "d/x.jpg", "f.png", content="one")
    put(tmp_path, "a.png", "g.png", content="two")
    table = classifier.list_tiles(tmp_path)
    assert dict(zip(table.path, table.tile, strict=True)) == {
        "a.png": 0, "b.png": 1, "c.png": 2, "d/x.jpg": 1, "e.png": 3, "f.png": 1, "g.png": 0,
    }  # fmt: skip
    unique = classifier.unique_tiles(table)
    assert unique.tile.tolist() == [0, 1, 2, 3] == unique.index.tolist()
    assert unique.path.tolist() == ["a.png", "b.png", "c.png", "e.png"]


def test_a_folder_without_images_or_none_at_all_is_named(tmp_path):
    put(tmp_path, "notes.txt", ".hidden.png")
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no image \(\.jpg, .*\.webp\)"):
        classifier.list_tiles(tmp_path)
    (tmp_path / "spoilt.png").write_text("words")
    message = (
        rf"(?s){tmp_path} holds no image \(\.jpg, .*\.webp\).*left out: 'spoilt.png': no whole"
    )
    with pytest.raises(ValueError, match=message):
        classifier.list_tiles(tmp_path)
    for wrong in (tmp_path / "gone", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"no such folder of tiles: {wrong}"):
            classifier.list_tiles(wrong)


# --- tables --------------------------------------------------------------------------------------


def predicted_by_hand():
    table = pd.DataFrame(
        {"path": ["a", "b", "c", "d"], "group": ["x", "y", "x", "x"], "tile": [0, 1, 0, 2]}
    )
    probs = np.array([[0.9, 0.1, 0], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]], np.float32)
    return classifier.predictions(table, probs, ["fat", "<b>", "none"])


def test_predictions_are_those_worked_by_hand():
    found = predicted_by_hand()
    assert list(found) == [
        "path", "group", "class", "confidence", "copy_of", "p(fat)", "p(<b>)", "p(none)",
    ]  # fmt: skip
    assert found["class"].tolist() == ["fat", "none", "fat", "<b>"]
    assert found.confidence.round(4).tolist() == pytest.approx([0.9, 0.5, 0.9, 0.4])
    assert found.copy_of.tolist() == ["", "", "a", ""]
    assert found["p(<b>)"].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.4])


def test_shares_of_a_group_are_those_worked_by_hand():
    names = ["fat", "<b>", "none", "rare"]
    found = classifier.per_group(predicted_by_hand(), names).set_index("group")
    assert found.files.to_dict() == {"x": 3, "y": 1}
    shares = found[[f"share({name})" for name in names]]
    assert shares.loc["x"].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert shares.loc["y"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["files", "group"])
def test_a_class_may_be_called_as_a_column_is(name):
    predicted = predicted_by_hand()
    predicted["class"] = predicted["class"].replace("fat", name)
    found = classifier.per_group(predicted, [name, "<b>", "none"])
    assert list(found) == ["group", "files", f"share({name})", "share(<b>)", "share(none)"]


def test_the_table_of_an_earlier_run_goes_where_there_is_none_now(tmp_path):
    table = predicted_by_hand()
    classifier.write_tables(tmp_path, {"one": table, "two": table})
    classifier.write_tables(tmp_path, {"one": table[:1], "two": None, "three": table[:0]})
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
    given = (tmp_path / "classifier", tmp_path / "hcs", model, 3, CLASSES, {"n_views": 4})
    classifier.save_classifier(*given)
    description, read = classifier.read_classifier(tmp_path / "classifier")
    digest = classifier.weights_digest(model)
    assert description == {
        "vlm": small, "vlm_seed": 3, "vlm_digest": digest, "image_size": 32,
        "networks": 2, "classes": CLASSES, "made_from": {"n_views": 4},
    }  # fmt: skip
    assert list(description["classes"]) == list(CLASSES)
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


def test_a_description_that_is_none_is_refused_by_the_folder(small, tmp_path):
    model = load_vlm(small, device="cpu")
    random_heads(tmp_path / "hcs", 48)
    where = tmp_path / "classifier"
    classifier.save_classifier(where, tmp_path / "hcs", model, 0, CLASSES)
    good = json.loads((where / "classifier.json").read_text())
    other = {key: value for key, value in good.items() if key != "vlm"}
    for wrong in (
        [],
        {},
        "text",
        other,
        good | {"classes": 3},
        good | {"classes": {"fat": ["fat"]}},
    ):
        (where / "classifier.json").write_text(json.dumps(wrong))
        with case(wrong), pytest.raises(ValueError, match=f"{where} holds no classifier of this"):
            classifier.read_classifier(where)
    (where / "classifier.json").write_text("{")
    with pytest.raises(ValueError, match=f"{where} holds no classifier of this"):
        classifier.read_classifier(where)


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
    (make_tiles(tmp_path / "tiles") / "spoilt ü.png").write_text("words")
    with pytest.warns(
        UserWarning, match=r"(?s)left out of .*: 1 of 7 files.*'spoilt ü\.png': no whole"
    ):
        rows = classifier.predict(tmp_path / "classifier", tmp_path / "tiles")
    assert len(rows) == 6
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
