"""The classifier of own tiles: saved, read, used on other tiles, and whether these are unlike."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cases import case
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import SMALL, write_model

from apps.own_tiles import classifier, unlike
from apps.own_tiles.model_card import NO_LICENCE, NOT_AUDITED, write_audit, write_model_card
from lib.alarm import Alarm
from lib.data import tiles
from lib.learning import networks
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

CLASSES = {"fat": ["An H&E image of fat"], "ü <b>": ["one", "two"], "c": ["three"]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Name of a small random VLM that a test changes and puts back."""
    return write_model(tmp_path_factory.mktemp("models") / "small", SMALL)


@pytest.fixture
def saved(small, tmp_path):
    """A classifier of two random heads; the heads and the VLM."""
    (tmp_path / "hcs").mkdir()
    heads = []
    for number in range(2):
        torch.manual_seed(number)
        head = networks.frozen_head(
            torch.randn(48), torch.rand(48) + 0.5, torch.eye(48), len(CLASSES)
        )
        save_file(head.state_dict(), tmp_path / "hcs" / f"network_{'ab'[number]}.safetensors")
        heads.append(head.eval())
    model = load_vlm(small, device="cpu")
    origin = {"tiles": "digest"}
    options = {"model": model, "n_views": 2, "seed": 3, "classes": CLASSES, "origin": origin}
    write_features(tmp_path, np.random.default_rng(5), 60)
    classifier.save_classifier(tmp_path, unique_of(60), **options)
    return tmp_path / "classifier", heads, model


def write_features(folder, rng, n, shift=0.0):
    """Both files of features of n tiles, of different numbers."""
    for name in unlike.FEATURES:
        shift += 1
        np.save(folder / f"{name}.npy", (rng.standard_normal((n, 48)) + shift).astype(np.float16))


def unique_of(n, per_group=1):
    """A table of n tiles, `per_group` of a case of two slides, or without groups."""
    paths = [f"{number // per_group}/{number}.png" for number in range(n)]
    table = pd.DataFrame({"tile": range(n), "path": paths, "group": paths})
    slide = table.path.str.partition("/")[0] + "/slide " + (table.tile % 2).astype(str)
    return table if per_group == 1 else table.assign(group=slide)


def make_tiles(folder, n=5):
    rng = np.random.default_rng(8)
    folder.mkdir()
    for number in range(n):
        coarse = rng.integers(256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40 + 5 * number, 50)).save(folder / f"{n - number}.png")
    shutil.copy(folder / "1.png", folder / "copy.png")
    return folder


def test_a_classifier_is_read_back_as_it_was(saved, small):
    where, heads, model = saved
    description, read = classifier.read_classifier(where)
    assert description == {
        "vlm": small,
        "vlm_seed": 3,
        "n_views": 2,
        "vlm_digest": inference.weights_digest(model),
        "vlm_commits": {},
        "image_size": 32,
        "networks": 2,
        "classes": CLASSES,
        "made_from": {"tiles": "digest"},
    }
    assert list(description["classes"]) == list(CLASSES)
    for one, other in zip(heads, read, strict=True):
        assert not other.training
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize("on_views", [True, False])
def test_another_folder_is_predicted_as_the_networks_themselves_do(saved, tmp_path, on_views):
    where, heads, model = saved
    folder = make_tiles(tmp_path / "tiles")
    table = classifier.predict(where, folder, views=on_views)
    assert table.path.tolist() == ["1.png", "2.png", "3.png", "4.png", "5.png", "copy.png"]
    assert table.copy_of.tolist() == ["", "", "", "", "", "1.png"]
    for row in table.to_dict("records"):
        stored = tiles.read_square(folder / row["path"], tiles.stored_size(32))[0]
        number = 0 if row["path"] == "copy.png" else int(row["path"][0]) - 1
        images = torch.from_numpy(stored.copy())[None]
        pixels = [views.plain_view(images, 32)]
        if on_views:
            drawn = {"tiles": np.array([number]), "seed": 3}
            pixels = [views.random_view(images, 32, view=view, **drawn) for view in range(2)]
        features = inference.encode_images(model, torch.cat(pixels))[0].mean(0, keepdim=True)
        features = features.half().float()
        with torch.inference_mode():
            each = [torch.softmax(head(features), 1)[0].numpy() for head in heads]
        mean = (each[0] + each[1]) / 2
        assert [row[f"p({name})"] for name in CLASSES] == pytest.approx(mean.tolist(), abs=2e-3)
        assert row["class"] == list(CLASSES)[mean.argmax()]
    assert table["class"].nunique() > 1 or table.confidence.nunique() > 3


@pytest.mark.parametrize("gone", ["*", "*.json", "network_a*", "network*"])
def test_a_folder_that_is_no_classifier_is_named(saved, tmp_path, gone):
    where, _, _ = saved
    for file in where.glob(gone):
        file.unlink()
    with pytest.raises(ValueError, match=f"{where} holds no classifier of this project"):
        classifier.predict(where, make_tiles(tmp_path / "tiles"))


def test_a_description_or_weights_that_are_none_are_refused_by_the_folder(saved):
    where, _, _ = saved
    file = where / "classifier.json"
    good = json.loads(file.read_text())
    without = {key: value for key, value in good.items() if key != "vlm"}
    descriptions = ([], {}, "text", without, good | {"classes": 3}, good | {"classes": {"fat": []}})
    for text in [*map(json.dumps, descriptions), "{"]:
        file.write_text(text)
        with case(text), pytest.raises(ValueError, match=f"{where} holds no classifier of this"):
            classifier.read_classifier(where)
    file.write_text(json.dumps(good))
    (where / "network_b.safetensors").write_bytes(b"words")
    with pytest.raises(ValueError, match=f"{where} holds no classifier of this"):
        classifier.read_classifier(where)


def test_the_card_says_what_it_learnt_from_and_reads_as_one_of_the_hub(saved, small):
    where, _, model = saved
    tiles = pd.DataFrame({"kept": [True, False, True]})
    alarms = [Alarm("flat clusters", "fat: flat.")]
    file = write_model_card(where, tiles, name="my | `tiles`\n<b>", alarms=alarms, n_labelled=7)
    _, header, text = file.read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "other" and card["pipeline_tag"] == "image-classification"
    assert "base_model" not in card  # a folder is none of the hub
    assert text.startswith("\n# Classifier of the tiles of `my \\| 'tiles' <b>`\n")
    for said in (
        *("| `ü <b>` | `one · two` |", "3 tiles of", "learnt from 2 of these", "`digest`"),
        *("7 tiles have a label of a person", "**flat clusters**: fat: flat.", "2 random views"),
        *(NOT_AUDITED, inference.weights_digest(model), NO_LICENCE),
    ):
        assert said in text, said
    audited = write_model_card(where, tiles, name="t", alarms=[], audit=["0.9 of 50"]).read_text()
    write_model_card(where, tiles, name="t", alarms=[])
    write_audit(where / "README.md", ["0.9 of 50"])
    assert (where / "README.md").read_text() == audited
    assert "0.9 of 50" in audited and NOT_AUDITED not in audited and "None rang." in audited
    assert "of a person" not in audited
    file.unlink()
    description = json.loads((where / "classifier.json").read_text())
    assert "other tissue" not in audited
    description["made_from"]["other_tissue"] = ["c"]
    named = json.dumps(description | {"vlm": "plip+stand-in-demo_other_lab"})
    (where / "classifier.json").write_text(named)
    text = write_model_card(where, tiles, name="t", alarms=[]).read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == ["vinid/plip"]
    assert "other tissue that is none of the classes asked for: `c`." in text
    assert "PLIP" in text and "`stand-in-demo_other_lab`: Built here" in text


def test_another_vlm_of_that_name_is_refused(saved, small, tmp_path):
    where, _, _ = saved
    folder = make_tiles(tmp_path / "tiles")
    file = Path(small.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    before, weights = file.read_bytes(), load_file(file)
    weights["visual.proj"] = weights["visual.proj"] * 1.001
    try:
        save_file(weights, file)
        with pytest.raises(ValueError, match=r"was trained with another local-dir:.*its weights"):
            classifier.predict(where, folder)
    finally:
        file.write_bytes(before)
    assert len(classifier.predict(where, folder)) == 6


def test_a_folder_to_predict_is_refused_by_name_and_what_is_left_out_is_said(saved, tmp_path):
    where, _, _ = saved
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / 'none'} holds no image"):
        classifier.predict(where, tmp_path / "none")
    folder = make_tiles(tmp_path / "tiles")
    with pytest.raises(ValueError, match=r"groups, but 1\.png lies in none"):
        classifier.predict(where, folder, by_folder=True)
    (folder / "spoilt ü.png").write_text("words")
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"(?s)2 of 8 files.*cut\.png.*'spoilt ü\.png': no whole"):
        assert len(classifier.predict(where, folder)) == 6


def test_the_digest_is_of_every_weight_of_every_image_encoder(small):
    model = load_vlm(small, device="cpu")
    digests = [
        inference.weights_digest(model),
        inference.weights_digest(inference.ensemble([model, model])),
    ]
    for parameter in model.model.visual.parameters():
        with torch.no_grad():
            parameter[(-1,) * parameter.ndim] += 1e-3
        digests.append(inference.weights_digest(model))
    with torch.no_grad():
        model.model.logit_scale += 1
    assert inference.weights_digest(model) == digests[-1]  # no prediction depends on it
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("features", unlike.FEATURES)
@pytest.mark.parametrize("per_group", [1, 4])
def test_a_sentence_says_whether_tiles_are_unlike_those_that_trained(
    saved, tmp_path, features, per_group
):
    """Of plain tiles as of views; where cases trained it, tiles in no folder are of one."""
    _, heads, _ = saved
    new, file = tmp_path / "new", tmp_path / "new" / f"{features}.npy"
    new.mkdir()
    rng = np.random.default_rng(0)
    write_features(tmp_path, rng, 200)
    unlike.save_sample(tmp_path, unique_of(200, per_group), new, seed=0)
    what = "cases" if per_group > 1 else "tiles, taken as of different cases,"
    for shift, begins in {0: "No difference was found", 2: "These tiles are unlike"}.items():
        write_features(new, rng, 40, shift=shift)
        sentence = unlike.how_unlike(new, heads, file, unique_of(40, per_group))
        assert sentence.startswith(begins), sentence
        assert f"{40 // per_group} new against {200 // per_group} training {what}" in sentence
        assert len(sentence) < 500
    if per_group > 1:
        flat = unique_of(40).assign(path=[f"{number}.png" for number in range(40)])
        assert "1 new against 50 training cases" in unlike.how_unlike(new, heads, file, flat)


def test_where_nothing_can_be_compared_the_sentence_says_so(saved, tmp_path, capsys):
    """A classifier of before, one of few tiles, too few cases to tell; no prediction is lost."""
    where, heads, _ = saved
    write_features(tmp_path, np.random.default_rng(0), 30)
    file = tmp_path / "mean_features.npy"
    lines = {
        (8, 1): "its training tiles, taken as of different cases, are too few to compare with (8)",
        (24, 24): "its training cases are too few to compare with (1)",
        (24, 12): "2 new against 2 training cases are too few for a test",
    }
    for (n, per_group), why in lines.items():
        unlike.save_sample(tmp_path, unique_of(n, per_group), where, seed=0)
        said = unlike.how_unlike(where, heads, file, unique_of(24, per_group))
        assert "is not known: " in said and why in said
    for spoil in (lambda f: f.write_bytes(b"words"), Path.unlink):
        spoil(where / unlike.SAMPLE)
        folder = make_tiles(tmp_path / f"tiles {spoil.__name__}")
        assert len(classifier.predict(where, folder)) == 6
        assert "is not known: it was saved without a sample of them." in capsys.readouterr().out
