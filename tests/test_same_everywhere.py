"""The same results with another number of threads, and on processors of another instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
import torch

from data.prepare import stand_in
from data.prepare.datasets import prepare, prepare_source
from lib import consensus, paths
from lib.data import cards, tiles
from lib.learning import setups
from lib.learning.vlm_cpl import train_vlm_cpl
from lib.vlm import inference, prompts
from lib.vlm.loading import load_vlm

pytestmark = pytest.mark.slow
VLM, SIZE = "stand-in-smoke_other_lab", 48  # an EfficientNet-Lite0 with ImageNet weights
# What a processor without AVX-512 computes with; each library reads its own when it is loaded.
AVX2 = {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "AVX2"}
AVX2 |= {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}


def label(folder, threads):
    """VLM-CPL on a few synthetic tiles; features, kept tiles and predictions go to the folder."""
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    card = cards.read_card("smoke")
    table = tiles.read_tile_table(card, prepare(card))
    pixels, idx = tiles.decode_tiles(table, prepare(card), card.name, SIZE), table.tile.values
    vlm = load_vlm(VLM, device="cpu")
    text = inference.embed_prompts(vlm, prompts.class_prompts(card))
    inference.embed_tiles(vlm, pixels, text, folder)
    inference.embed_views(vlm, pixels, idx, text, folder, n_views=2, seed=0)
    inputs = consensus.FilterInputs.load(folder, idx, keep_ratio=0.4, seed=0)
    pseudo = consensus.filter_tiles(inputs)
    setup = setups.frozen(folder, idx, len(card.classes), steps=60, seed=0)
    trained = train_vlm_cpl(inputs, setup, card.class_names, tiles=idx, pseudo=pseudo)
    np.save(folder / "kept.npy", pseudo.kept.values)
    np.save(folder / "networks.npy", trained.probs)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Arrays by name, of processes of their own that differ in threads and instruction set."""
    folder = tmp_path_factory.mktemp("same")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(folder))
        prepare_source(VLM)
        stand_in.prepare(VLM, image_size=SIZE, seed=0, steps=100)
    code = "import sys; from test_same_everywhere import label, Path\n"
    code += "for n in sys.argv[2:]: label(Path(sys.argv[1], n), int(n))"
    made = {}
    for name, named, threads in (("native", {}, "124"), ("AVX2", AVX2, "1")):
        for n in threads:
            (folder / name / n).mkdir(parents=True)
        named = named | {"OUTPUT_ROOT": str(folder), "OMP_WAIT_POLICY": "passive"}
        named["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT), str(Path(__file__).parent)])
        command = [sys.executable, "-c", code, str(folder / name), *threads]
        subprocess.run(command, env=os.environ | named, check=True)
        for n in threads:
            made[name, n] = {f.stem: np.load(f) for f in (folder / name / n).glob("*.npy")}
    return made


@pytest.mark.parametrize(
    ("setting", "close"),
    [(("native", "2"), 1e-5), (("native", "4"), 1e-5), (("AVX2", "1"), 0.01)],
)
def test_threads_and_instruction_sets_change_last_digits_alone(results, setting, close):
    one, other = results["native", "1"], results[setting]
    for name in ("backbone_features", "view_features", "image_embeds"):
        a, b = one[name].astype("f4"), other[name].astype("f4")
        np.testing.assert_allclose(b, a, rtol=2**-9, atol=2**-9 * a.std())
    for name in ("probs", "view_probs"):
        np.testing.assert_allclose(other[name], one[name], atol=min(close, 1e-4))
    np.testing.assert_allclose(other["networks"], one["networks"], atol=close)
    for name in ("votes", "kept"):
        assert (one[name] == other[name]).all(), name
    assert (one["networks"].argmax(1) == other["networks"].argmax(1)).all()
