"""Several VLMs as one, on two small random models that share nothing but the prompts."""

import dataclasses
import json

import numpy as np
import open_clip
import pytest
import torch
from cases import case
from PIL import Image
from safetensors.torch import save_file
from small_models import SMALL, TEXT
from torch.nn import functional as F

from lib.data import tiles
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

PROMPTS = [["fat"], ["a gland", "many glands"], ["muscle"]]
N = 40
# input size, D, logit scale, mean, std
KINDS = {
    "a": (32, 16, 30.0, (0.7, 0.5, 0.6), (0.2, 0.3, 0.25)),
    "b": (48, 24, 80.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "c": (32, 20, 55.0, (0.4, 0.6, 0.5), (0.3, 0.2, 0.4)),
}


def write(folder, seed, size, width, scale, mean, std):
    folder.mkdir()
    tower = SMALL | {"image_size": size}
    config = {
        "model_cfg": {"embed_dim": width, "vision_cfg": tower, "text_cfg": TEXT},
        "preprocess_cfg": {"mean": mean, "std": std},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    state["logit_scale"] = torch.tensor(scale).log()
    weights = {name: tensor.clone() for name, tensor in state.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        kind: write(root / kind, seed, *config)
        for seed, (kind, config) in enumerate(KINDS.items(), 1)
    }


@pytest.fixture(scope="module")
def alone(names):
    """Each on the CPU in float32."""
    return {
        kind: dataclasses.replace(load_vlm(name, device="cpu"), dtype=torch.float32)
        for kind, name in names.items()
    }


@pytest.fixture(scope="module", params=["ab", "ba", "ac", "abc"])
def members(request, alone):
    return [alone[kind] for kind in request.param]


@pytest.fixture(scope="module")
def pixels():
    """Batches at every size that is asked for, of one set of smooth images."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((N, 3, 5, 5), np.float32))
    return F.interpolate(coarse, (48, 48), mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tiles as they are stored for an input of 48 px."""
    rng = np.random.default_rng(3)
    size = tiles.stored_size(48)
    coarse = rng.integers(256, size=(N, 6, 6, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(c).resize((size, size), Image.BICUBIC)) for c in coarse]
    file = tmp_path_factory.mktemp("store") / "tiles.npy"
    np.save(file, np.stack(big))
    return file


def close(a, b, atol=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


def resized(pixels, size):
    return (
        F.interpolate(
            pixels, (size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        if pixels.shape[-1] != size
        else pixels
    )


def own_probs(member, pixels, text=None):
    """p(c|x) of one VLM by its own means, softmax written out."""
    text = inference.embed_prompts(member, PROMPTS) if text is None else text
    features = inference.encode_images(member, resized(pixels, member.image_size))[1]
    logits = member.scale * (features @ text.T)
    shares = torch.exp(logits - logits.max(1, keepdim=True).values)
    return shares / shares.sum(1, keepdim=True)


# --- features and probabilities ------------------------------------------------------------------


def test_an_ensemble_reads_at_the_largest_size_and_is_named_after_all(members):
    both = inference.ensemble(members)
    assert both.image_size == max(member.image_size for member in members)
    assert both.name == "+".join(member.name for member in members)
    assert both.members == tuple(members)
    sizes = [inference.feature_sizes(member) for member in members]
    assert inference.feature_sizes(both) == tuple(map(sum, zip(*sizes, strict=True)))


def test_features_stand_side_by_side_and_have_length_one(members, pixels):
    both = inference.ensemble(members)
    batch = resized(pixels, both.image_size)
    backbone_features, image_embeds = inference.encode_images(both, batch)
    close(image_embeds.norm(dim=1), torch.ones(N), 1e-5)
    start, before_start = 0, 0
    for member in members:
        before, after = inference.encode_images(member, resized(batch, member.image_size))
        width, before_width = after.shape[1], before.shape[1]
        close(image_embeds[:, start : start + width], after / len(members) ** 0.5)
        own = backbone_features[:, before_start : before_start + before_width]
        close(own, before / before.norm(dim=1, keepdim=True))
        start, before_start = start + width, before_start + before_width
    assert (start, before_start) == (image_embeds.shape[1], backbone_features.shape[1])


def test_a_member_of_another_size_sees_what_pillow_would_give_it(alone):
    smooth = torch.from_numpy(np.random.default_rng(5).random((1, 3, 8, 8), np.float32))
    batch = F.interpolate(smooth, (48, 48), mode="bilinear", align_corners=True)
    seen = []
    small = alone["a"]
    hook = small.model.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        inference.encode_images(inference.ensemble([alone["b"], small]), batch)
    finally:
        hook.remove()
    channels = [
        np.asarray(Image.fromarray(c.numpy()).resize((32, 32), Image.BICUBIC)) for c in batch[0]
    ]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (small.mean, small.std))
    expected = (torch.from_numpy(np.stack(channels)).clamp(0, 1) - mean) / std
    close(seen[-1][0], expected, 1e-4)


def test_a_prompt_that_one_member_would_not_read_to_its_end_is_refused(alone):
    short = dataclasses.replace(alone["b"], tokenizer=open_clip.SimpleTokenizer(context_length=6))
    both = inference.ensemble([alone["a"], short])
    lost = r"/b, class 1: the model reads 6 .* see 'muscle', the end of 'a gland"
    with pytest.raises(ValueError, match=lost):
        inference.embed_prompts(alone["a"], [["a gland of muscle"]])
        inference.embed_prompts(both, [["fat"], ["a gland of smooth muscle"]])


def test_prompts_stand_side_by_side(members):
    found = inference.embed_prompts(inference.ensemble(members), PROMPTS)
    expected = np.hstack([inference.embed_prompts(member, PROMPTS).numpy() for member in members])
    assert np.array_equal(found.numpy(), expected)
    with pytest.raises(ValueError, match="class 1 has no prompt"):
        inference.embed_prompts(inference.ensemble(members), [["fat"], []])


def test_probabilities_are_the_mean_of_the_members_own(members, pixels):
    both = inference.ensemble(members)
    batch = resized(pixels, both.image_size)
    text = inference.embed_prompts(both, PROMPTS)
    image_embeds = inference.encode_images(both, batch)[1]
    of_each = [own_probs(member, batch) for member in members]
    close(inference.member_probabilities(both, image_embeds, text), torch.stack(of_each), 1e-5)
    found = inference.class_probabilities(both, image_embeds, text)
    close(found, sum(of_each) / len(members), 5e-6)
    close(found.sum(1), torch.ones(N), 1e-5)
    assert (of_each[0] - of_each[1]).abs().max() > 0.05  # else the mean would say nothing


# --- arrays on disk ------------------------------------------------------------------------------


def read(folder):
    return {file.stem: np.load(file, allow_pickle=False) for file in sorted(folder.glob("*.npy"))}


def telling(member, store):
    """Class features [3, D] on which the random features of the tiles differ most.

    To a random model all images are nearly one, and prompts would give all of them one class.
    """
    plain = views.plain_view(torch.from_numpy(np.load(store)), member.image_size)
    features = inference.encode_images(member, plain)[1]
    mean = F.normalize(features.mean(0), dim=0)
    centred = features - (features @ mean)[:, None] * mean
    directions = torch.linalg.svd(centred - centred.mean(0), full_matrices=False).Vh[:2]
    corners = torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
    classes = corners @ directions
    shift = classes @ centred.mean(0)  # along the mean, where all tiles are alike
    return F.normalize(classes - torch.outer(shift / (features @ mean).mean(), mean), dim=1)


def embed(model, store, folder):
    """Arrays of the plain tiles and of three views."""
    text = torch.cat([telling(member, store) for member in model.members], dim=1)
    inference.embed_tiles(model, store, text, folder, batch_size=7)
    inference.embed_views(model, store, np.arange(N), text, folder, n_views=3, seed=2, batch_size=9)
    return read(folder)


def test_agree_and_probs_are_those_of_a_loop_over_tiles_and_members(members, store, tmp_path):
    both = inference.ensemble(members)
    found = embed(both, store, tmp_path / "both")
    stored = torch.from_numpy(np.load(store))
    texts = [telling(member, store) for member in members]
    agree, probs, clear = [], [], []
    for tile in range(N):
        plain = views.plain_view(stored[tile : tile + 1], both.image_size)
        each = [own_probs(m, plain, t)[0].numpy() for m, t in zip(members, texts, strict=True)]
        agree.append(len({int(p.argmax()) for p in each}) == 1)
        probs.append(sum(each) / len(each))
        clear.append(min(np.diff(np.sort(p))[-1] for p in each) > 1e-4)  # whatever the batch size
    assert found["agree"].dtype == bool and sum(clear) > 0.9 * N
    assert found["agree"][clear].tolist() == np.array(agree)[clear].tolist()
    assert 0 < sum(agree) < N
    assert set(np.argmax(probs, 1)) == {0, 1, 2}
    close(found["probs"], np.array(probs), 1e-5)
    close(np.linalg.norm(found["image_embeds"].astype("f4"), axis=1), np.ones(N, "f4"), 2e-3)


def test_votes_are_those_of_the_mean_of_each_view(members, store, tmp_path):
    both = inference.ensemble(members)
    found = embed(both, store, tmp_path / "both")
    stored, total = torch.from_numpy(np.load(store)), 0
    texts = [telling(member, store) for member in members]
    for number in range(3):
        view = views.random_view(stored, both.image_size, tiles=np.arange(N), view=number, seed=2)
        of_each = [own_probs(m, view, t) for m, t in zip(members, texts, strict=True)]
        mean = sum(of_each) / len(members)
        voted = mean.gather(1, torch.from_numpy(found["votes"][number]).long()[:, None])[:, 0]
        close(voted, mean.max(1).values, 1e-5)  # up to what another batch size may change
        total += mean / 3
    close(found["view_probs"], total, 1e-5)


def test_one_vlm_agrees_with_itself_everywhere(alone, store, tmp_path):
    for kind, member in alone.items():
        for model in (member, inference.ensemble([member])):
            with case(kind):
                found = embed(model, store, tmp_path / kind)
                assert found["agree"].all() and len(found["agree"]) == N


def test_a_folder_may_have_a_plus_in_its_name(names, tmp_path):
    (tmp_path / "a+b").symlink_to(names["a"].removeprefix("local-dir:"))
    loaded = load_vlm(f"local-dir:{tmp_path / 'a+b'}", device="cpu")
    assert not loaded.ensemble_members and loaded.name.endswith("a+b")


@pytest.mark.slow
def test_names_joined_by_plus_give_the_same(names, store, tmp_path):
    joined = load_vlm(f"{names['a']}+{names['b']}", device="cpu")
    expected = inference.ensemble([load_vlm(names[kind], device="cpu") for kind in "ab"])
    assert (joined.name, joined.image_size, joined.sizes) == (
        f"{names['a']}+{names['b']}",
        48,
        (16, 24),
    )
    found = embed(joined, store, tmp_path / "joined")
    for name, array in embed(expected, store, tmp_path / "expected").items():
        assert array.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize("name", ["{a}+nothing/here", "nothing/here+{a}"])
def test_a_part_of_a_joined_name_that_is_out_of_reach_is_named(names, name):
    with pytest.raises(RuntimeError, match=r"VLM 'nothing/here' cannot be loaded"):
        load_vlm(name.format(**names), device="cpu")


@pytest.mark.parametrize("name", ["{a}+", "+{a}"])
def test_an_empty_part_of_a_joined_name_is_refused(names, name):
    with pytest.raises(ValueError, match="there is no VLM ''"):
        load_vlm(name.format(**names), device="cpu")
