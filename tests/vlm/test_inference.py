"""VLMs on small random models: what is loaded, embedded and written is open_clip's own result."""

import ctypes
import dataclasses
import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from small_models import SMALL, TIMM, write_model
from torch.nn import functional as F

from lib import paths
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
TOWERS = {"vit": SMALL, "timm": TIMM, "resnet": RESNET}
PROMPTS = [["fat"], ["a gland", "glandular tissue", "many glands"], ["muscle", "smooth muscle"]]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: write_model(folder / kind, tower) for kind, tower in TOWERS.items()}


@pytest.fixture(scope="module")
def loaded(names):
    """The models on the CPU in float32."""
    return {
        kind: dataclasses.replace(load_vlm(name, device="cpu"), dtype=torch.float32)
        for kind, name in names.items()
    }


@pytest.fixture(params=TOWERS)
def any_model(request, loaded):
    return loaded[request.param]


@pytest.fixture
def model(loaded):
    return loaded["vit"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """23 stored tiles of 37 px, for an input of 32."""
    file = tmp_path_factory.mktemp("store") / "37px.npy"
    rng = np.random.default_rng(0)
    coarse = rng.integers(256, size=(23, 5, 5, 3), dtype=np.uint8)
    tiles = [np.asarray(Image.fromarray(c).resize((37, 37), Image.BICUBIC)) for c in coarse]
    np.save(file, np.stack(tiles))
    return file


def close(a, b, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


# --- embedding -----------------------------------------------------------------------------------


def test_preprocessing_is_open_clips_own(any_model):
    tile = np.random.default_rng(1).integers(256, size=(32, 32, 3), dtype=np.uint8)
    _, _, preprocess = open_clip.create_model_and_transforms(any_model.name)
    with torch.inference_mode():
        expected = any_model.model.encode_image(
            preprocess(Image.fromarray(tile))[None], normalize=True
        )
    pixels = views.plain_view(torch.from_numpy(tile)[None], 32)
    backbone_features, found = inference.encode_images(any_model, pixels)
    close(found, expected)
    close(found.norm(dim=-1), torch.ones(1))
    assert backbone_features.dtype == found.dtype == torch.float32
    assert inference.feature_sizes(any_model) == (backbone_features.shape[1], 16)


def test_backbone_features_times_the_projection_are_the_embeddings(loaded):
    pixels = torch.rand(5, 3, 32, 32)
    maps = {
        "vit": lambda visual, before: before @ visual.proj,
        "timm": lambda visual, before: visual.head(before),
        "resnet": lambda visual, before: before,  # no map to be told apart
    }
    for kind, project in maps.items():
        model = loaded[kind]
        before, image_embeds = inference.encode_images(model, pixels)
        with torch.inference_mode():
            close(F.normalize(project(model.model.visual, before), dim=-1), image_embeds)
        assert before.shape == (5, {"vit": 48, "resnet": 16}.get(kind, before.shape[1]))
    visual = loaded["vit"].model.visual
    projection = visual.proj
    with pytest.raises(RuntimeError):
        inference.encode_images(loaded["vit"], torch.rand(2, 3, 32, 40))
    assert visual.proj is projection, "after an error too"


def test_prompts_are_averaged_per_class_after_normalising_each(model):
    found = inference.embed_prompts(model, PROMPTS)
    tokenizer = open_clip.get_tokenizer(model.name)
    for row, class_prompts in zip(found, PROMPTS, strict=True):
        with torch.inference_mode():
            each = [model.model.encode_text(tokenizer([prompt]))[0] for prompt in class_prompts]
        mean = sum(e / e.norm() for e in each) / len(each)
        close(row, mean / mean.norm())
    assert found.dtype == torch.float32 and found.shape == (3, 16)
    with pytest.raises(ValueError, match="class 1 has no prompt"):
        inference.embed_prompts(model, [["fat"], [], ["muscle"]])


def test_probabilities_are_the_softmax_of_scaled_cosines(model):
    text = inference.embed_prompts(model, PROMPTS)
    _, image_embeds = inference.encode_images(model, torch.rand(6, 3, 32, 32))
    probs = inference.class_probabilities(model, image_embeds, text)
    cosines = F.cosine_similarity(image_embeds[:, None], text[None], dim=-1)
    expected = torch.exp(model.scale * cosines)
    close(probs, expected / expected.sum(1, keepdim=True))
    close(probs.sum(1), torch.ones(6))


def test_the_faster_precision_gives_nearly_the_same_embeddings(model):
    pixels = torch.rand(8, 3, 32, 32)
    half = dataclasses.replace(model, dtype=torch.bfloat16)
    for fast, exact in zip(
        inference.encode_images(half, pixels), inference.encode_images(model, pixels), strict=True
    ):
        assert fast.dtype == torch.float32
        assert F.cosine_similarity(fast, exact).min() > 0.999


def test_a_precision_that_there_is_not_is_refused_by_name(model):
    with pytest.raises(ValueError, match="float32, bfloat16, not 'float16'"):
        inference.as_vlm("any", model.model, model.tokenizer, precision="float16")


# --- arrays on disk ------------------------------------------------------------------------------


def read(folder):
    return {f.stem: np.load(f, allow_pickle=False) for f in sorted(folder.glob("*.npy"))}


def test_embed_tiles_writes_what_the_plain_tiles_give(any_model, store, tmp_path):
    text = inference.embed_prompts(any_model, PROMPTS)
    inference.embed_tiles(any_model, store, text, tmp_path / "run", batch_size=5)
    pixels = views.plain_view(torch.from_numpy(np.load(store)), 32)
    backbone_features, image_embeds = inference.encode_images(any_model, pixels)
    found = read(tmp_path / "run")
    kinds = {"image_embeds": "f2", "backbone_features": "f2", "probs": "f4", "agree": "?"}
    assert {name: array.dtype for name, array in found.items()} == kinds and found["agree"].all()
    close(found["image_embeds"], image_embeds.half(), atol=1e-3)
    atol = 2e-3 * backbone_features.abs().max().item()
    close(found["backbone_features"], backbone_features.half(), atol=atol)
    close(found["probs"], inference.class_probabilities(any_model, image_embeds, text), atol=1e-4)
    assert found["probs"].sum(1) == pytest.approx(np.ones(23), abs=1e-5)


def embed_views(model, store, run, tiles, **options):
    options = {"n_views": 4, "seed": 6, "batch_size": 7} | options
    text = inference.embed_prompts(model, PROMPTS)
    inference.embed_views(model, store, tiles, text, run, **options)
    return read(run)


TILES = np.array([3, 0, 22, 10, 5, 6, 7, 8, 1])


def test_votes_and_mean_probabilities_are_those_of_each_view(any_model, store, tmp_path):
    found = embed_views(any_model, store, tmp_path / "run", TILES, hue=0.1)
    assert set(found) == {"view_features", "mean_features", "votes", "view_probs"}
    assert found["votes"].dtype == np.int16 and found["votes"].shape == (4, 9)
    features, probs = views_one_by_one(any_model, store, hue=0.1)
    for view, expected in zip(found["view_features"], features, strict=True):
        close(view, expected.half(), atol=2e-3 * expected.abs().max().item())
    means = features.mean(0)
    close(found["mean_features"], means.half(), atol=2e-3 * means.abs().max().item())
    assert_best(found["votes"], probs)
    close(found["view_probs"], probs.mean(0))
    assert found["view_probs"].sum(1) == pytest.approx(np.ones(9), abs=1e-5)


def test_several_sets_of_prompts_vote_as_each_alone_does(model, store, tmp_path):
    texts = {"all": inference.embed_prompts(model, PROMPTS)}
    texts["few"] = texts["all"][:2]
    options = {"n_views": 4, "seed": 6, "batch_size": 7}
    inference.embed_tiles(model, store, texts, tmp_path / "both", batch_size=7)
    inference.embed_views(model, store, TILES, texts, tmp_path / "both", **options)
    for name, text in texts.items():
        inference.embed_tiles(model, store, text, tmp_path / name, batch_size=7)
        inference.embed_views(model, store, TILES, text, tmp_path / name, **options)
        alone, together = read(tmp_path / name), read(tmp_path / "both" / name)
        assert set(together) == {"probs", "agree", "votes", "view_probs"}
        shared = read(tmp_path / "both")
        of_all = {"image_embeds", "backbone_features", "view_features", "mean_features"}
        assert set(shared) == of_all
        assert all(np.array_equal(alone[n], found) for n, found in (together | shared).items())


def views_one_by_one(model, store, hue=0.05):
    """Unprojected features [V, N, E] and probabilities [V, N, C] of each view, in one batch."""
    text = inference.embed_prompts(model, PROMPTS)
    images, features, probs = torch.from_numpy(np.load(store)[TILES]), [], []
    for view in range(4):
        pixels = views.random_view(images, 32, tiles=TILES, view=view, seed=6, hue=hue)
        backbone_features, image_embeds = inference.encode_images(model, pixels)
        features.append(backbone_features)
        probs.append(inference.class_probabilities(model, image_embeds, text))
    return torch.stack(features), torch.stack(probs)


def assert_best(votes, probs, atol=1e-5):
    """Each vote is for the most probable class, up to what another batch size may change."""
    voted = probs.gather(2, torch.as_tensor(votes).long()[..., None])[..., 0]
    close(voted, probs.max(2).values, atol=atol)


def test_a_vote_is_that_of_the_views_and_leaves_no_files(model, store, tmp_path):
    written = embed_views(model, store, tmp_path / "run", TILES)
    text = inference.embed_prompts(model, PROMPTS)
    options = {"n_views": 4, "seed": 6}
    votes, view_probs = inference.vote(model, store, TILES, text, **options, batch_size=7)
    assert np.array_equal(votes, written["votes"])  # of the same batches
    assert np.array_equal(view_probs, written["view_probs"])
    votes, view_probs = inference.vote(model, store, TILES, text, **options)
    assert_best(votes, views_one_by_one(model, store)[1])
    close(view_probs, written["view_probs"])
    assert {file.name for file in tmp_path.iterdir()} <= {"run", store.name}


def test_views_do_not_depend_on_batch_size_row_order_or_the_number_of_views(model, store, tmp_path):
    one = embed_views(model, store, tmp_path / "one", TILES, batch_size=2)
    other = embed_views(model, store, tmp_path / "other", TILES[::-1], batch_size=64)
    close(one["view_probs"], other["view_probs"][::-1].copy())
    close(one["view_features"], other["view_features"][:, ::-1].copy(), atol=5e-3)
    _, probs = views_one_by_one(model, store)
    assert_best(one["votes"], probs)
    assert_best(other["votes"][:, ::-1].copy(), probs)
    few = embed_views(model, store, tmp_path / "few", TILES, n_views=2, batch_size=2)
    assert np.array_equal(few["votes"], one["votes"][:2])
    assert not np.array_equal(one["view_features"][0], one["view_features"][1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("what", ["tiles", "views"])
def test_an_interrupted_embedding_leaves_no_file(model, store, tmp_path, what, error):
    run, passes = tmp_path / "run", []

    def interrupt(*_):
        passes.append(0)
        if len(passes) == 4:
            raise error

    text = inference.embed_prompts(model, PROMPTS)
    hook = model.model.visual.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(error):
            if what == "tiles":
                inference.embed_tiles(model, store, text, run, batch_size=4)
            else:
                embed_views(model, store, run, TILES, n_views=2, batch_size=2)
    finally:
        hook.remove()
    assert len(passes) == 4 and not list(run.iterdir())


def test_an_interrupted_embedding_keeps_the_arrays_of_the_last_one(model, store, tmp_path):
    before = embed_views(model, store, tmp_path / "run", TILES)
    with pytest.raises(IndexError):
        embed_views(model, store, tmp_path / "run", np.array([0, 1, 99]), batch_size=2)
    after = read(tmp_path / "run")
    assert {n: a.tobytes() for n, a in before.items()} == {n: a.tobytes() for n, a in after.items()}


# --- memory --------------------------------------------------------------------------------------

MEMORY = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from numpy.lib.format import open_memmap
from lib.vlm import inference
from lib.vlm.loading import load_vlm

torch.set_num_threads(1)
name, folder = sys.argv[1], Path(sys.argv[2])
model = load_vlm(name, device="cpu")
text = inference.embed_prompts(model, [["fat"], ["gland"]])
peaks, written, stored = [], [], []
for n in (1_000, 4_000):
    run = folder / str(n)
    run.mkdir()
    store = run / "store"
    chunk = np.random.default_rng(0).integers(256, size=(500, 55, 55, 3), dtype=np.uint8)
    tiles = open_memmap(store, mode="w+", dtype=np.uint8, shape=(n, 55, 55, 3))
    for start in range(0, n, 500):
        tiles[start : start + 500] = chunk
        tiles.flush()
        tiles = open_memmap(store, mode="r+")  # drops the pages that were written
    del tiles, chunk
    inference.embed_tiles(model, store, text, run, batch_size=100)
    inference.embed_views(model, store, np.arange(n), text, run, n_views=2, seed=0, batch_size=100)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    written.append(sum(f.stat().st_size for f in run.glob("*.npy")))
    stored.append(store.stat().st_size)
print(json.dumps([peaks, written, stored]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss differs elsewhere")
def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path):
    tower = SMALL | {"image_size": 48, "patch_size": 24, "layers": 1}
    name = write_model(tmp_path / "model", tower)
    shown = {"cwd": paths.ROOT, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([sys.executable, "-c", MEMORY, name, str(tmp_path)], **shown)
    assert done.returncode == 0, done.stderr[-2000:]
    peaks, written, stored = json.loads(done.stdout.splitlines()[-1])
    growth = peaks[1] - peaks[0] - (written[1] - written[0])
    assert growth < 0.1 * peaks[0]
    assert growth < 0.25 * (stored[1] - stored[0])  # tighter: most of the peak is imports


class _Usage(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()] + [
        ("rest", ctypes.c_size_t * 5)
    ]


def test_a_large_buffer_is_not_mapped_afresh():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this is no glibc, or an old one")
    libc.mallinfo2.restype, libc.malloc.restype = _Usage, ctypes.c_void_p
    inference.keep_buffers()
    mapped = libc.mallinfo2().hblks
    buffer = libc.malloc(ctypes.c_size_t(2**27))  # by default all above 2**25 are mapped
    assert libc.mallinfo2().hblks == mapped
    libc.free(ctypes.c_void_p(buffer))
