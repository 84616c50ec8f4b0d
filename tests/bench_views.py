"""Views per second of `embed_views` beside the bare encoder: python tests/bench_views.py [VLM].

The bare encoder gets batches that are in memory; nothing is read, drawn or written. Both are timed
in turn on each fifth of the tiles, so that other work on the machine slows both.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from small_models import write_model

from lib.data.tiles import read_batches, stored_size
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

VIT = {"image_size": 224, "layers": 2, "width": 96, "head_width": 32, "patch_size": 16}
BATCH = 64


def now(vlm: inference.VLM) -> float:
    if vlm.device.type == "cuda":
        torch.cuda.synchronize(vlm.device)
    return time.perf_counter()


def rates(vlm: inference.VLM, store: Path, tiles: np.ndarray, folder: Path) -> dict[str, float]:
    """Images per second by the encoder alone, and by `embed_views` with two views."""
    text = inference.embed_prompts(vlm, [["benign tissue"], ["carcinoma"]])
    batches = [
        views.plain_view(images, vlm.image_size)
        for _, images in read_batches(store, tiles, BATCH, vlm.device)
    ]
    inference.encode_images(vlm, batches[0])
    started = now(vlm)
    for batch in batches:
        inference.encode_images(vlm, batch)
    encoded = now(vlm)
    drawing = {"n_views": 2, "seed": 0, "batch_size": BATCH, "progress": False}
    inference.embed_views(vlm, store, tiles, text, folder, **drawing)
    encoder, both = len(tiles) / (encoded - started), 2 * len(tiles) / (now(vlm) - encoded)
    return {"encoder": encoder, "views": both, "ratio": both / encoder}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        folder, names = Path(scratch), sys.argv[1:]
        if not names:
            write_model(folder / "model", VIT)
        vlm = load_vlm(names[0] if names else f"local-dir:{folder / 'model'}", seed=0)
        side = stored_size(vlm.image_size)
        shape = (10 * BATCH, side, side, 3)
        np.save(folder / "tiles.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        fifths = np.array_split(np.arange(shape[0]), 5)
        timings = [rates(vlm, folder / "tiles.npy", fifth, folder / "run") for fifth in fifths]
    print(pd.DataFrame(timings).median().round(2).to_string())
