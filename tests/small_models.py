"""Small models with random weights, and what such a model might have made of some tiles."""

import json

import numpy as np
import open_clip
import torch
import transformers
from safetensors.torch import save_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SMALL = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
TIMM = {
    "timm_model_name": "test_resnet",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 32,
}
MEAN, STD = [0.7, 0.5, 0.6], [0.2, 0.3, 0.25]


def write_model(folder, tower, weights=True, mean=MEAN, std=STD, *, width=16, scale=0.0, seed=0):
    """An open_clip model folder with random weights; scale: of the logits, if another one."""
    folder.mkdir()
    config = {
        "model_cfg": {"embed_dim": width, "vision_cfg": tower, "text_cfg": TEXT},
        "preprocess_cfg": {"mean": list(mean), "std": list(std)},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if weights:
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}")
        state = {name: t.clone() for name, t in model.state_dict().items()}
        if scale:
            state["logit_scale"] = torch.tensor(scale).log()
        for name, tensor in state.items():  # fresh batch norms would hide a mistake in the mode
            if name.endswith("running_mean"):
                tensor.uniform_(-0.1, 0.1)
        save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def small_clip(seed=0, text=None, vision=None, projection=16):
    """A Hugging Face CLIP; no weight is left at zero or one, where a mistake would not show."""
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        | (text or {}),
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 32,
            "patch_size": 8,
        }
        | (vision or {}),
        projection_dim=projection,
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
    return model


def write_clip(folder, model=None, mean=MEAN, std=STD, **preprocessing):
    """A folder as Hugging Face publishes a CLIP: configuration, weights, image processor."""
    model = model or small_clip()
    size = model.config.vision_config.image_size
    values = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        image_mean=list(mean), image_std=list(std), **values | preprocessing
    ).save_pretrained(folder)
    return model


def write_embedded_tiles(folder, n, n_classes=3, n_views=4, width=8):
    """Features and votes of classes that can be told apart, as `embed_views` leaves them.

    Tile i is of class i modulo `n_classes`; most prompts are correct. Returns the folder.
    """
    chance = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    features = chance.normal(0, 0.4, (n, width)) + 2 * np.eye(n_classes, width)[labels]
    probs = chance.dirichlet(np.ones(n_classes), n) + 1.5 * np.eye(n_classes)[labels]
    probs = (probs / probs.sum(1, keepdims=True)).astype(np.float32)
    arrays = {
        "probs": probs,
        "view_probs": probs,
        "votes": np.tile(probs.argmax(1), (n_views, 1)),
        "image_embeds": features.astype("f2"),
        "backbone_features": features.astype("f2"),
        "mean_features": features.astype("f2"),
        "view_features": (features + chance.normal(0, 0.2, (n_views, n, width))).astype("f2"),
        "agree": np.ones(n, bool),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder
