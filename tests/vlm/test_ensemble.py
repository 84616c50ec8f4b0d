"""Several VLMs as one, on small random models that share nothing but the prompts."""

import dataclasses

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from small_models import SMALL, write_model
from torch.nn import functional as F

from lib.data import tiles
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

PROMPTS = [["fat"], ["a gland", "many glands"], ["muscle"]]
N = 40
KINDS = {  # input size and more
    "a": (32, {"width": 16, "scale": 30.0}),
    "b": (48, {"width": 24, "scale": 80.0, "mean": [0.5] * 3, "std": [0.5] * 3}),
    "c": (32, {"width": 20, "scale": 55.0, "mean": [0.4, 0.6, 0.5], "std": [0.3, 0.2, 0.4]}),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        kind: write_model(root / kind, SMALL | {"image_size": size}, seed=seed, **more)
        for seed, (kind, (size, more)) in enumerate(KINDS.items(), 1)
    }


@pytest.fixture(scope="module")
def alone(names):
    """Each on the CPU in float32."""
    loaded = {kind: load_vlm(name, device="cpu") for kind, name in names.items()}
    return {k: dataclasses.replace(model, dtype=torch.float32) for k, model in loaded.items()}


@pytest.fixture(scope="module", params=["ab", "ba", "ac", "abc"])
def both(request, alone):
    return inference.ensemble([alone[kind] for kind in request.param])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Smooth tiles as they are stored for an input of 48 px."""
    size = tiles.stored_size(48)
    coarse = np.random.default_rng(3).integers(256, size=(N, 6, 6, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(c).resize((size, size), Image.BICUBIC)) for c in coarse]
    file = tmp_path_factory.mktemp("store") / "tiles.npy"
    np.save(file, np.stack(big))
    return file


def close(a, b, atol=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


def resized(pixels, size):
    if pixels.shape[-1] == size:
        return pixels
    kwargs = {"mode": "bicubic", "antialias": True, "align_corners": False}
    return F.interpolate(pixels, (size, size), **kwargs).clamp(0, 1)


def smooth(size, n=N):
    coarse = torch.from_numpy(np.random.default_rng(0).random((n, 3, 5, 5), np.float32))
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)


def own_probs(member, pixels, text):
    """p(c|x) of one VLM by its own means, softmax written out."""
    features = inference.encode_images(member, resized(pixels, member.image_size))[1]
    shares = torch.exp(member.scale * (features @ text.T - 1))
    return shares / shares.sum(1, keepdim=True)


# --- features and probabilities ------------------------------------------------------------------


def test_features_stand_side_by_side_and_have_length_one(both):
    assert both.image_size == max(member.image_size for member in both.members)
    assert both.name == "+".join(member.name for member in both.members)
    batch, encoded = smooth(both.image_size), []
    for member in both.members:
        before, after = inference.encode_images(member, resized(batch, member.image_size))
        assert inference.feature_sizes(member) == (before.shape[1], after.shape[1])
        encoded.append((F.normalize(before, dim=1), after / len(both.members) ** 0.5))
    found = inference.encode_images(both, batch)
    for own, parts in zip(found, zip(*encoded, strict=True), strict=True):
        close(own, torch.cat(parts, 1))
    close(found[1].norm(dim=1), torch.ones(N), 1e-5)
    assert inference.feature_sizes(both) == tuple(features.shape[1] for features in found)


def test_a_member_of_another_size_sees_what_pillow_would_give_it(alone):
    batch, seen, small = smooth(48, 1), [], alone["a"]
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


def test_prompts_stand_side_by_side_and_are_read_to_their_end_by_all(both, alone):
    found = inference.embed_prompts(both, PROMPTS)
    expected = [inference.embed_prompts(member, PROMPTS) for member in both.members]
    assert torch.equal(found, torch.cat(expected, 1))
    with pytest.raises(ValueError, match="class 1 has no prompt"):
        inference.embed_prompts(both, [["fat"], []])
    short = dataclasses.replace(alone["b"], tokenizer=open_clip.SimpleTokenizer(context_length=6))
    lost = r"/b, class 1: the model reads 6 .* see 'muscle', the end of 'a gland"
    with pytest.raises(ValueError, match=lost):
        inference.embed_prompts(
            inference.ensemble([alone["a"], short]), [["fat"], ["a gland of smooth muscle"]]
        )


def test_probabilities_are_the_mean_of_the_members_own(both):
    batch, text = smooth(both.image_size), inference.embed_prompts(both, PROMPTS)
    image_embeds = inference.encode_images(both, batch)[1]
    of_each = torch.stack(
        [own_probs(m, batch, inference.embed_prompts(m, PROMPTS)) for m in both.members]
    )
    close(inference.member_probabilities(both, image_embeds, text), of_each, 1e-5)
    close(inference.class_probabilities(both, image_embeds, text), of_each.mean(0), 5e-6)
    assert (of_each[0] - of_each[1]).abs().max() > 0.05  # else the mean would say nothing


# --- arrays on disk ------------------------------------------------------------------------------


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
    return {file.stem: np.load(file) for file in sorted(folder.glob("*.npy"))}


def test_what_is_written_is_that_of_all_members_on_each_tile_and_view(both, store, tmp_path):
    found, stored = embed(both, store, tmp_path / "both"), torch.from_numpy(np.load(store))

    def of_each(pixels):
        return torch.stack([own_probs(m, pixels, telling(m, store)) for m in both.members])

    plain = of_each(views.plain_view(stored, both.image_size))
    first, second = plain.sort(2).values[..., -1], plain.sort(2).values[..., -2]
    clear = (first - second > 1e-4).all(0).numpy()  # whatever the batch size
    agree = (plain.argmax(2) == plain[0].argmax(1)).all(0).numpy()
    assert found["agree"].dtype == bool and clear.mean() > 0.9 and 0 < agree.sum() < N
    assert np.array_equal(found["agree"][clear], agree[clear])
    close(found["probs"], plain.mean(0), 1e-5)
    assert set(found["probs"].argmax(1)) == {0, 1, 2}
    total = 0
    for number in range(3):
        view = views.random_view(stored, both.image_size, tiles=np.arange(N), view=number, seed=2)
        mean = of_each(view).mean(0)
        voted = mean.gather(1, torch.from_numpy(found["votes"][number]).long()[:, None])[:, 0]
        close(voted, mean.max(1).values, 1e-5)  # up to what another batch size may change
        total += mean / 3
    close(found["view_probs"], total, 1e-5)


# --- by name -------------------------------------------------------------------------------------


def test_one_vlm_agrees_with_itself_everywhere_and_its_folder_may_have_a_plus(
    names, alone, store, tmp_path
):
    for model in (alone["a"], inference.ensemble([alone["b"]])):
        assert embed(model, store, tmp_path / str(model.image_size))["agree"].all()
    (tmp_path / "a+b").symlink_to(names["a"].removeprefix("local-dir:"))
    loaded = load_vlm(f"local-dir:{tmp_path / 'a+b'}", device="cpu")
    assert not loaded.ensemble_members and loaded.name.endswith("a+b")


@pytest.mark.slow
def test_names_joined_by_plus_give_the_same(names, store, tmp_path):
    joined = load_vlm(f"{names['a']}+{names['b']}", device="cpu")
    expected = inference.ensemble([load_vlm(names[kind], device="cpu") for kind in "ab"])
    assert joined.name == expected.name and (joined.image_size, joined.sizes) == (48, (16, 24))
    found = embed(joined, store, tmp_path / "joined")
    for name, array in embed(expected, store, tmp_path / "expected").items():
        assert array.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("{a}+nothing/here", RuntimeError, "VLM 'nothing/here' cannot be loaded"),
        ("nothing/here+{a}", RuntimeError, "VLM 'nothing/here' cannot be loaded"),
        ("{a}+", ValueError, "there is no VLM ''"),
        ("+{a}", ValueError, "there is no VLM ''"),
    ],
)
def test_a_part_of_a_joined_name_that_is_not_there_is_named(names, name, error, message):
    with pytest.raises(error, match=message):
        load_vlm(name.format(**names), device="cpu")
