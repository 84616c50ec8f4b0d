"""Wordings and models compared without a label, and notebook 93 from end to end."""

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from small_models import SMALL, write_model

from apps.own_tiles import steps, wordings
from apps.own_tiles.wordings import Reading
from lib import paths
from lib.alarm import Alarm, label_free_alarms
from lib.consensus import FilterInputs, filter_tiles
from lib.vlm import inference
from lib.vlm.loading import load_vlm

WORDS = "fat = adipose | lipid; <b>gland; muscle"
NAMES = ["fat", "<b>gland", "muscle"]


# --- words ----------------------------------------------------------------------------------------


def test_every_published_set_is_there_with_its_source_and_one_place_for_the_words():
    sets = wordings.published_templates()
    assert list(sets) == ["papers", "plip", "biomedclip", "quilt", "keep", "conch"]
    assert [len(templates) for templates in sets.values()] == [1, 1, 1, 4, 1, 22]
    for templates in sets.values():
        assert len(set(templates)) == len(templates)
        assert all(t.count("{}") == 1 and ";" not in t for t in templates)


def test_the_first_wording_is_what_make_own_takes_and_each_word_stands_alone_once():
    found = wordings.read_wordings(WORDS, "", demo=False)
    assert next(iter(found)) == "papers" and all(list(p) == NAMES for p in found.values())
    papers = found["papers"]
    assert papers["fat"] == ["An H&E image of adipose", "An H&E image of lipid"]
    assert len(found["conch"]["fat"]) == 44 and found["words alone"]["muscle"] == ["muscle"]
    alone = {name: prompts for name, prompts in found.items() if name.startswith("fat: ")}
    assert alone == {
        "fat: adipose": papers | {"fat": ["An H&E image of adipose"]},
        "fat: lipid": papers | {"fat": ["An H&E image of lipid"]},
    }
    mine = wordings.read_wordings(WORDS, "my {}; a {}", demo=False)
    assert next(iter(mine)) == "yours" and mine["fat: lipid"]["fat"] == ["my lipid", "a lipid"]
    assert mine["fat: lipid"]["muscle"] == ["my muscle", "a muscle"] and "papers" in mine
    demo = wordings.read_wordings("", "", demo=True)
    assert demo["keep"]["adipose"] == ["an H&E image of adipose tissue."]
    with pytest.raises(ValueError, match="needs one"):
        wordings.read_wordings(WORDS, "no place", demo=False)


# --- what they make of tiles ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Sixty tiles of four colours, encoded by two small models and by both of them."""
    root = tmp_path_factory.mktemp("encoded")
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (4, 1, 1, 3)).repeat(15, 0) + rng.normal(0, 20, (60, 37, 37, 3))
    np.save(root / "tiles.npy", tiles.clip(0, 255).astype(np.uint8))
    unique = pd.DataFrame({"tile": range(60), "digest": [f"{n}" for n in range(60)]})
    one, two = (write_model(root / str(n), SMALL, seed=n, scale=20.0) for n in (1, 2))
    models = {}
    for name in (one, f"{one}+{two}"):
        model = models[name] = load_vlm(name, device="cpu")
        wordings.encode(model, root / "tiles.npy", unique, root / str(len(models)) / "features")
    return root, unique, list(models.values())


def member_probabilities(model, embeds, text):
    """The softmax of each member, by hand."""
    n, parts = len(model.members), []
    split = zip(np.split(embeds, n, 1), np.split(text, n, 1), model.members, strict=True)
    for images, prompts, member in split:
        odds = np.exp(member.scale * n**0.5 * images @ prompts.T)
        parts.append(odds / odds.sum(1, keepdims=True))
    return np.stack(parts).astype(np.float32)


@pytest.mark.parametrize("number", [1, 2])
def test_a_reading_is_what_the_filters_make_of_one_look_at_each_tile(encoded, number):
    """As `filter_tiles` has it, with the plain tile as the only view."""
    root, _, models = encoded
    model, said = models[number - 1], wordings.read_wordings(WORDS, "", demo=False)
    folder = root / str(number) / "features"
    readings = wordings.read_tiles(model, folder, said, seed=3)
    assert list(readings) == list(said)
    embeds = np.load(folder / "image_embeds.npy").astype(np.float32)
    for name, reading in readings.items():
        text = inference.embed_prompts(model, [*said[name].values()]).numpy()
        members = member_probabilities(model, embeds, text)
        probs, agree = members.mean(0), (members.argmax(2) == members.argmax(2)[0]).all(0)
        inputs = FilterInputs(
            np.arange(60), probs.argmax(1), probs.max(1), probs.argmax(1)[None], probs, agree,
            backbone_features=np.load(folder / "backbone_features.npy"), seed=3,
        )  # fmt: skip
        pseudo = filter_tiles(inputs)
        assert (reading.labels == pseudo.label).mean() > 0.98
        if number == 1:  # of an ensemble, the filters cluster only where its members agree
            assert (reading.kept == pseudo.kept).mean() > 0.95
            alarms = label_free_alarms(
                probs, pseudo.label, pseudo.kept.values, *inputs.lift_clusters(), NAMES
            )
            assert [a.name for a in reading.alarms] == [a.name for a in alarms]
        assert not (reading.kept & ~agree).any()
        assert (reading.labels == reading.cluster_labels)[reading.kept].all()


def test_images_are_encoded_once_and_again_where_tiles_or_model_change(encoded, monkeypatch):
    root, unique, (model, _) = encoded
    folder, calls = root / "1" / "features", []
    real = inference.embed_tiles
    monkeypatch.setattr(inference, "embed_tiles", lambda *a: (calls.append(a), real(*a)))
    wordings.encode(model, root / "tiles.npy", unique, folder)
    assert not calls
    wordings.encode(model, root / "tiles.npy", unique.assign(digest="x"), folder)
    other = load_vlm(f"local-dir:{root / '2'}", device="cpu")
    wordings.encode(other, root / "tiles.npy", unique.assign(digest="x"), folder)
    assert len(calls) == 2
    wordings.encode(model, root / "tiles.npy", unique, folder)


def test_views_are_encoded_once_and_again_where_words_views_or_files_change(encoded, monkeypatch):
    root, unique, (model, _) = encoded
    out, calls, real = root / "views", [], inference.embed_views
    out.mkdir()
    monkeypatch.setattr(inference, "embed_views", lambda *a, **k: (calls.append(a), real(*a, **k)))

    def embed(*words, n_views=2, seed=0):
        before, given = len(calls), (model, root / "tiles.npy", unique, [[word] for word in words])
        seconds = steps.embed(*given, out, n_views=n_views, seed=seed)
        return len(calls) - before, seconds

    first = embed("fat", "muscle")
    assert first[0] == 1 and embed("fat", "muscle") == (0, first[1])
    for changed in ({"n_views": 3}, {"seed": 1}):
        assert embed("fat", "muscle", **changed)[0] == 1
    assert embed("fat", "stroma")[0] == embed("fat", "muscle")[0] == 1
    (out / "votes.npy").unlink()
    assert embed("fat", "muscle")[0] == 1 and (out / "votes.npy").is_file()


# --- tables ---------------------------------------------------------------------------------------


def reading(labels, of_clusters, alarms=()):
    labels, of_clusters = np.array(labels), np.array(of_clusters)
    return Reading(labels, of_clusters, labels == of_clusters, [Alarm(*a) for a in alarms])


FLAT = ("flat clusters", "<b>gland: its probability is 0.3.")
READINGS = {
    "one": {
        "papers": reading([0, 0, 1, 1, 2], [0, 0, 1, 2, 2], [FLAT]),
        "plip": reading([0, 0, 1, 2, 2], [0, 0, 1, 2, 1], [FLAT, ("x", "Prompts differ.")]),
    },
    "two": {
        "papers": reading([0, 0, 0, 0, 0], [0, 0, 1, 1, 1]),
        "plip": reading([0, 0, 1, 2, 1], [0, 0, 1, 2, 1]),
    },
}


def test_the_tables_count_as_by_hand():
    table = wordings.wordings_table(READINGS)
    assert table["labels that change"].tolist() == [0, 0.2, 0, 0.6]
    assert table["other than one"].tolist() == [0, 0, 0.6, 0.2]
    assert table["clusters agree"].tolist() == [0.8, 0.8, 0.4, 1] == table.kept.tolist()
    assert table.alarms.tolist() == [1, 2, 0, 0]
    assert "other than one" not in wordings.wordings_table({"one": READINGS["one"]})
    classes = wordings.classes_table(READINGS["one"], [*NAMES, "bone"])
    assert list(classes) == ["<b>gland", "muscle", "fat", "bone"]
    assert classes.values.tolist() == [
        ["50%", "50%", "100%", ""],
        ["2 (50%)", "1 (100%)", "2 (100%)", "0"],
        ["1 (100%)", "2 (50%)", "2 (100%)", "0"],
    ]
    assert list(classes.index) == ["same by all", "papers", "plip"]
    assert wordings.alarms_table(READINGS, NAMES).values.tolist() == [
        ["one", "flat clusters", "<b>gland", "all"],
        ["one", "x", "", "plip"],
    ]
    chosen = wordings.split_tiles(READINGS["one"], NAMES, 12)
    assert {n: t.values.tolist() for n, t in chosen.items()} == {
        "fat": [], "<b>gland": [[3, "<b>gland 1, muscle 1"]], "muscle": []
    }  # fmt: skip


def test_the_page_says_that_nothing_is_best_and_shows_names_as_they_are(tmp_path):
    said = {n: {c: [f"{n} {c}"] for c in NAMES} for n in ("papers", "plip")}
    wordings.write_page(
        tmp_path / "prompts.html",
        title="<b>",
        facts=wordings.page_facts(5, ["one", "two"], said),
        readings=READINGS,
        wordings=said,
        paths_of_tiles=[f"<b>{n}.png" for n in range(5)],
        pixels=np.zeros((5, 8, 8, 3), np.uint8),
    )
    page = Page((tmp_path / "prompts.html").read_text())
    heads = [
        "Wordings",
        "Classes, one",
        "Classes, two",
        "Alarms",
        "Prompts",
        "<b>gland",
        "muscle",
        "fat",
    ]
    assert page.by_tag["h2"] == heads and "b" not in page.tags
    assert page.by_tag["p"][1].startswith("No line is the best one, and none was chosen")
    assert page.values("img", "alt") == ["<b>3.png"]
    assert page.by_tag["p"].count("No tile: all wordings agree.") == 2


def test_a_wording_of_one_class_is_shown_by_that_class_and_many_prompts_are_cut():
    said = wordings.read_wordings(WORDS.replace("muscle", "muscle | myocytes"), "", demo=False)
    shown = wordings.prompts_table(said).set_index("wording")
    assert shown.loc["muscle: myocytes"].tolist() == ["muscle", "“An H&E image of myocytes”"]
    assert shown.loc["conch", "class"] == "fat"
    assert shown.loc["conch", "prompts"].endswith(" · 38 more")


# --- the notebook ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_compares_two_models_and_takes_their_features_again(
    encoded, tmp_path, capsys, main
):
    from PIL import Image

    root, _, (model, _) = encoded
    for number, tile in enumerate(np.load(root / "tiles.npy")[::5]):
        (tmp_path / "tiles").mkdir(exist_ok=True)
        Image.fromarray(tile).save(tmp_path / "tiles" / f"{number}.png")
    given = {"dataset": "mine", "folder": tmp_path / "tiles", "classes": WORDS}
    given |= {"vlm": model.name, "others": f" local-dir:{root / '2'};; {model.name}"}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    for _ in range(2):
        assert main(paths.notebook_file("93_compare_prompts"), *words) == 0
    (page,) = (tmp_path / "data").rglob("prompts.html")
    assert f"open {page}" in capsys.readouterr().err
    table = pd.read_csv(page.parent / "wordings.csv")
    assert len(table) == 2 * 9 and table.model.nunique() == 2
    assert len(list((tmp_path / "data").rglob("one_look/encoded_from.json"))) == 2
    assert Page(page.read_text()).by_tag["h2"][:3] == [
        "Wordings", f"Classes, {model.name}", f"Classes, local-dir:{root / '2'}"
    ]  # fmt: skip
