"""Checkpoints as open_clip's training writes them, of a small CoCa in OmiCLIP's place."""

import json

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from lib.vlm import checkpoint, inference
from lib.vlm.cards import read_vlm_cards
from lib.vlm.loading import load_vlm

pytestmark = pytest.mark.slow

TOWER = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
COCA = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 48, "head_width": 16, "patch_size": 56}
    | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": TOWER | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TOWER | {"attn_pooler_heads": 2},
    "custom_text": True,
}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A model after a step of training, and the folder with what is kept of it."""
    (tmp_path / "coca_small.json").write_text(json.dumps(COCA))
    open_clip.add_model_config(tmp_path / "coca_small.json")
    torch.manual_seed(0)
    model = open_clip.create_model("coca_small")
    for tensor in model.parameters():  # some are left as they are in memory
        tensor.data.normal_(0, 0.1)
    optimiser = torch.optim.AdamW(model.parameters())
    optimiser.param_groups[0]["lr"] = 1e-3 * (1 + np.cos(np.float64(0.1)))  # as its schedule does
    tokens = open_clip.get_tokenizer("coca_small")(["a gland"])
    sum(t.sum() for t in model(torch.rand(1, 3, 224, 224), tokens).values()).backward()
    optimiser.step()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    kept = {"epoch": 1, "name": "x", "state_dict": state, "optimizer": optimiser.state_dict()}
    torch.save(kept, tmp_path / "checkpoint.pt")
    monkeypatch.setattr(checkpoint, "fetch", lambda where, files: tmp_path)
    real = checkpoint.load
    small = "coca_small@WangGuangyuLab/Loki/checkpoint.pt"
    monkeypatch.setattr(checkpoint, "load", lambda name: real(small))
    return model.eval(), kept, tmp_path / "checkpoint.pt"


@torch.no_grad()
def test_weights_are_read_beside_the_state_of_the_optimiser(trained):
    model, _, _ = trained
    vlm = load_vlm("omiclip", device="cpu")
    pixels, card = torch.rand(2, 3, 224, 224), read_vlm_cards()["omiclip"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (card.mean, card.std))
    _, image = inference.encode_images(vlm, pixels)
    wanted = model.encode_image((pixels - mean) / std, normalize=True)
    torch.testing.assert_close(image, wanted, atol=1e-5, rtol=1e-5)
    tokens = open_clip.get_tokenizer("coca_small")(["a gland", "fat"])
    text = inference.embed_prompts(vlm, [["a gland"], ["fat"]])
    wanted = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(text, wanted, atol=1e-5, rtol=1e-5)


def test_code_in_a_checkpoint_is_not_run_and_a_card_is_needed(trained, tmp_path):
    _, kept, file = trained

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    torch.save(kept | {"scaler": Evil()}, file)
    with pytest.raises(RuntimeError, match="VLM 'omiclip' cannot be loaded"):
        load_vlm("omiclip")
    assert not (tmp_path / "mark").exists()
    del kept["state_dict"]["module.logit_scale"]
    torch.save(kept, file)
    with pytest.raises(ValueError, match="the weights lack logit_scale"):
        load_vlm("omiclip")
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        load_vlm(f"checkpoint:coca_small@{file}")
    file.unlink()
    with pytest.raises(RuntimeError, match=r"there is no checkpoint\.pt in WangGuangyuLab/Loki"):
        load_vlm("omiclip")
