"""KEEP with the interface of open_clip's models that `inference` uses.

Zhou et al., arXiv 2412.13126. Its repository on the hub comes with code, of which nothing is run:
the two towers are timm's and transformers' own.
"""

from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from lib.artefacts import scratch_folder
from lib.vlm.model_files import (
    TOKENIZER_CONFIGS,
    TOKENIZER_DATA,
    Refused,
    copy_tokenizer,
    fetch,
    fields_of,
    read_json,
    weights_in,
)

WEIGHTS = "model.safetensors"
# The image tower stands in its code, and not in its configuration.
TOWER: dict[str, Any] = {
    "model_name": "vit_large_patch16_224",
    "init_values": 1e-5,
    "num_classes": 0,
    "dynamic_img_size": True,
}
CONTEXT_LENGTH = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BUFFERS = ("position_ids", "token_type_ids")  # of a BERT, in old files


def load(name: str, pickled: str = "") -> tuple["Keep", Any]:
    """The model and its tokenizer.

    name: a folder, else `<organisation>/<model>` on the hub; pickled: see `model_files.weights_in`.
    Raises Refused naming weights that the model lacks or has no use for; FileNotFoundError where
    there are no safetensors; what cannot be fetched raises as the hub client does.
    """
    from open_clip.tokenizer import HFTokenizer

    source = fetch(name, (*TOKENIZER_CONFIGS, *TOKENIZER_DATA, WEIGHTS), pickled)
    config = read_json(source / "config.json", code_is_left=True)
    if config.get("model_type") != "keep":
        raise Refused(f"{name}: model_type {config.get('model_type')!r} is not keep")
    file = weights_in(source, [WEIGHTS], pickled)
    plain = file.name == pickled
    state = torch.load(file, "cpu", weights_only=True) if plain else load_file(file)
    model = Keep(config.get("text_config") or {}, config.get("projection_dim", 768))
    state = {n: t.float() for n, t in state.items() if not n.endswith(BUFFERS)}
    missing, unexpected = model.load_state_dict(_renamed(state), strict=False)
    if missing:
        raise Refused(f"{name}: the weights lack {', '.join(sorted(missing))}")
    if unexpected:
        raise Refused(f"{name}: the model has no use for {', '.join(sorted(unexpected))}")
    with scratch_folder() as scratch:
        copy_tokenizer(source, scratch / "tokenizer", model_type="bert")
        tokenizer = HFTokenizer(
            str(scratch / "tokenizer"),
            context_length=CONTEXT_LENGTH,
            do_lower_case=True,
            trust_remote_code=False,
        )
    return model, tokenizer


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Image tower and head as parts of one, as open_clip has them."""
    parts = {"visual_head": "visual.head", "visual": "visual.trunk"}
    split = {name: name.partition(".") for name in state}
    return {f"{parts.get(a, a)}{dot}{b}": state[name] for name, (a, dot, b) in split.items()}


class Keep(nn.Module):
    """A ViT-L/16 with a head of two layers, and a BERT whose pooled output is the text feature."""

    def __init__(self, text_config: dict[str, Any], projection: int) -> None:
        import transformers

        super().__init__()
        self.visual = _ImageTower(projection)
        own = fields_of(transformers.BertConfig, text_config)
        self.text = transformers.BertModel(transformers.BertConfig(**own))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.04).log())

    def encode_text(self, tokens: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Text features [B, D] from tokens [B, L]; what fills a row up is not attended to."""
        padding: Any = self.text.config.pad_token_id
        mask = tokens.ne(padding)
        features = self.text(input_ids=tokens, attention_mask=mask).pooler_output
        return nn.functional.normalize(features, dim=-1) if normalize else features


class _ImageTower(nn.Module):
    """Image features [B, D], as open_clip's timm towers give them."""

    def __init__(self, projection: int) -> None:
        import timm

        super().__init__()
        trunk: Any = timm.create_model(**TOWER)
        self.trunk = trunk
        self.head = nn.Sequential(
            nn.Linear(trunk.num_features, projection),
            nn.GELU(),
            nn.Linear(projection, projection),
        )
        self.image_size = trunk.patch_embed.img_size
        self.image_mean, self.image_std = IMAGENET_MEAN, IMAGENET_STD

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))
