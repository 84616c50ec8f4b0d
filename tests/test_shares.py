"""What several jobs encode, share by share, is what one job encodes."""

import dataclasses
import random
import shutil

import numpy as np
import pytest
import torch
from cases import case
from small_models import SMALL, write_model

from lib import paths
from lib.run_folder import Run
from lib.shares import embed_in_parts
from lib.vlm import inference
from lib.vlm.loading import load_vlm

NAMES = ("toy", "none/at all", 3)
EMBEDDINGS = {
    "10_zero_shot_inference": (inference.embed_tiles, {}),
    "11_multi_view_consensus": (inference.embed_views, {"n_views": 3, "seed": 3}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small random model with sentences for two classes, on the CPU in float32."""
    name = write_model(tmp_path_factory.mktemp("model") / "vit", SMALL)
    small = dataclasses.replace(load_vlm(name, device="cpu"), dtype=torch.float32)
    return small, inference.embed_prompts(small, [["fat"], ["a gland", "glandular tissue"]])


@pytest.fixture
def open_run(tmp_path):
    """Open a run of a notebook on some random tiles."""

    def opened(notebook, n_tiles=23, **settings):
        pixels = np.random.default_rng(0).integers(256, size=(n_tiles, 37, 37, 3), dtype=np.uint8)
        np.save(tmp_path / f"{n_tiles}.npy", pixels)
        run = Run(notebook, *NAMES, **settings)
        run.pixels_file = lambda: tmp_path / f"{n_tiles}.npy"
        return run

    return opened


def arrays(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.npy")}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", EMBEDDINGS)
def test_shares_gathered_are_what_one_job_writes(notebook, model, open_run):
    """Whichever of them are done before the gathering, in whatever order, of whatever sizes."""
    embed, options = EMBEDDINGS[notebook]
    draw = random.Random(0)
    for n_tiles, batch_size, parts in [(23, 4, 3), (23, 5, 2), (23, 64, 2), (8, 2, 4), (9, 2, 9)]:
        run = open_run(notebook, n_tiles)
        job = {"batch_size": batch_size, **options}
        embed_in_parts(run, embed, *model, part=-1, parts=1, **job)
        alone = arrays(run.folder)
        shutil.rmtree(run.folder)
        some = draw.sample(range(parts), draw.randint(0, parts))
        with case(n_tiles, batch_size, parts, some):
            run = open_run(notebook, n_tiles)
            for part in some:
                embed_in_parts(run, embed, *model, part=part, parts=parts, **job)
                assert not arrays(run.folder)
            embed_in_parts(run, embed, *model, part=-1, parts=parts, **job)
            assert len(alone) == 4
            assert arrays(run.folder) == alone
            shutil.rmtree(run.folder)


def test_a_share_is_passed_over_if_it_was_made_from_the_same(model, open_run):
    (vlm, text), notebook = model, "10_zero_shot_inference"
    passes: list[int] = []
    hook = vlm.model.visual.register_forward_pre_hook(lambda _, images: passes.append(len(images)))
    weights = next(vlm.model.visual.parameters())

    def encodes(n_tiles=23, parts=2, **settings):
        """Whether a job with a share, or the one that gathers, has called the encoder."""
        run = open_run(notebook, n_tiles, **settings)
        passes.clear()
        for part in (1, -1):
            options = {"part": part, "parts": parts, "batch_size": 6}
            embed_in_parts(run, inference.embed_tiles, vlm, text, **options)
        return bool(passes)

    try:
        for changed in ({}, {"templates": "a"}, {"n_tiles": 22}, {"parts": 3}):
            with case(changed):
                assert encodes(**changed) and not encodes(**changed)
        assert not encodes()
        with torch.no_grad():
            weights.add_(1)
        assert encodes()
    finally:
        hook.remove()
        with torch.no_grad():
            weights.sub_(1)
    assert paths.shares_folder(Run(notebook, *NAMES).folder, notebook).is_dir()
