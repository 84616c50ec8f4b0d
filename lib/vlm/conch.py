"""CONCH through its own package, with the interface of open_clip's models that `inference` uses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lib.vlm.model_files import limit_waiting

HUB = "hf_hub:MahmoodLab/conch"


def load(config: str) -> tuple["Conch", Callable[[list[str]], torch.Tensor]]:
    """The model and its tokenizer; `config` is the package's name, such as `conch_ViT-B-16`.

    The weights come from the hub, with the access of the account that is signed in there. Raises
    RuntimeError saying what to install when the package `conch` is not there.
    """
    try:
        from conch.open_clip_custom import create_model_from_pretrained, get_tokenizer
    except ImportError as error:
        raise RuntimeError(
            f"the package conch is not installed ({error}): "
            "pip install git+https://github.com/mahmoodlab/CONCH.git"
        ) from error
    limit_waiting()
    inner = create_model_from_pretrained(config, HUB, return_transform=False)
    return Conch(inner), _Tokenizer(get_tokenizer(), inner.context_length)


class _Tokenizer:
    """As the package's `tokenize`, which calls a method that transformers 5 no longer has."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        tokens = self.tokenizer(
            texts,
            # The last place is for the class token.
            max_length=(context_length or self.context_length) - 1,
            truncation=True,
            padding="max_length",
            return_tensors="pt",
        )["input_ids"]
        return F.pad(tokens, (0, 1), value=self.tokenizer.pad_token_id)


class Conch(nn.Module):
    """CONCH (Lu et al., Nature Medicine 2024): its contrastive embeddings, no captions."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.visual = _ImageTower(inner.visual)

    @property
    def logit_scale(self) -> torch.Tensor:
        return self.inner.logit_scale

    def encode_text(self, tokens: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Text features [B, D] from the tokens [B, L] of its tokenizer."""
        return self.inner.encode_text(tokens, normalize=normalize)


class _ImageTower(nn.Module):
    """Image features [B, D], or those before the projection [B, E] while `proj` is None."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        self.proj = tower.proj_contrast
        self.image_size = tower.image_size
        self.image_mean, self.image_std = tower.image_mean, tower.image_std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.tower.forward_no_head(images)
        return pooled if self.proj is None else pooled @ self.proj
