"""Hugging Face CLIPs by name: the embeddings, logits and preprocessing of transformers."""

import dataclasses
import json
import re
import subprocess
import sys

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from small_models import MEAN, STD, small_clip, write_clip

from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

PROMPTS = ["An H&E image patch of adipose tissue.", "a gland", "Smooth   MUSCLE, isn't it?"]
OTHER_TEXT = {"hidden_size": 24, "intermediate_size": 72, "num_attention_heads": 3}
OTHER_TEXT |= {"num_hidden_layers": 1, "max_position_embeddings": 20}
OTHER_VISION = {"hidden_size": 40, "intermediate_size": 100, "num_attention_heads": 5}
OTHER_VISION |= {"image_size": 50, "patch_size": 16, "num_hidden_layers": 3}
EXACT = {"layer_norm_eps": 1e-3, "hidden_act": "gelu"}
MODELS = {
    "as published": lambda: small_clip(seed=0),
    "other sizes": lambda: small_clip(1, OTHER_TEXT, OTHER_VISION, projection=8),
    "gelu and another eps": lambda: small_clip(2, EXACT, EXACT),
    "an old end-of-text": lambda: small_clip(3, {"eos_token_id": 2}),
    "full size, ViT-B/32": lambda: transformers.CLIPModel(transformers.CLIPConfig()).eval(),
}


def load(folder):
    return load_vlm(f"hf-clip:{folder}", device="cpu")


@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_features_and_logits_are_those_of_transformers(model, tmp_path):
    torch.manual_seed(0)
    clip = write_clip(tmp_path / "clip", MODELS[model]())
    vlm = dataclasses.replace(load(tmp_path / "clip"), dtype=torch.float32)
    pixels = torch.rand(4, 3, vlm.image_size, vlm.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    shown = (pixels - mean) / std
    theirs = clip(input_ids=vlm.tokenizer(PROMPTS), pixel_values=shown)
    unprojected, image = inference.encode_images(vlm, pixels)
    text = inference.embed_prompts(vlm, [[prompt] for prompt in PROMPTS])
    for ours, wanted, atol in (
        (unprojected, clip.vision_model(pixel_values=shown).pooler_output, 1e-5),
        (image, theirs.image_embeds, 1e-6),
        (text, theirs.text_embeds, 1e-6),
        (vlm.scale * image @ text.T, theirs.logits_per_image, 1e-5),
    ):
        torch.testing.assert_close(ours, wanted, atol=atol, rtol=1e-5)


def test_open_clips_tokens_are_those_of_hugging_faces_tokenizer():
    ours = open_clip.SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {ends.get(word, word): number for word, number in ours.encoder.items()}
    merges = sorted(ours.bpe_ranks, key=ours.bpe_ranks.get)
    theirs = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    for prompt in PROMPTS:
        tokens = theirs(prompt)["input_ids"]
        assert ours(prompt)[0][: len(tokens)].tolist() == tokens
        assert not ours(prompt)[0][len(tokens) :].any()


# --- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize("mean, std", [(MEAN, STD), ([0.1, 0.2, 0.3], [1.0, 0.5, 0.25])])
def test_normalisation_and_pixels_are_those_of_the_models_own_processor(tmp_path, mean, std):
    write_clip(tmp_path / "clip", mean=mean, std=std)
    vlm = load(tmp_path / "clip")
    assert vlm.mean == tuple(mean) and vlm.std == tuple(std) and vlm.image_size == 32
    tile = load_sample_image("flower.jpg")[100:400, 200:500]
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "clip")
    theirs = processor(images=Image.fromarray(tile), return_tensors="pt")["pixel_values"]
    pixels = views.plain_view(torch.from_numpy(tile.copy())[None], vlm.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    # In grey levels; the processor rounds to whole ones after each direction.
    difference = ((pixels - mean) / std - theirs) * std * 255
    assert difference.abs().max() < 3 and difference.abs().mean() < 0.5


def test_sizes_as_older_files_write_them_are_read(tmp_path):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "preprocessor_config.json"
    old = json.loads(file.read_text()) | {"size": 32, "crop_size": 32}
    del old["do_rescale"], old["rescale_factor"], old["image_processor_type"]
    file.write_text(json.dumps(old | {"feature_extractor_type": "CLIPFeatureExtractor"}))
    assert load(tmp_path / "clip").image_size == 32


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, processor, named",
    [
        ({"text": {"vocab_size": 500}}, {}, "vocab_size 500 is not the 49408"),
        ({"text": {"eos_token_id": 7}}, {}, "eos_token_id 7"),
        ({"vision": {"num_channels": 4}}, {}, "num_channels 4"),
        ({}, {"size": {"shortest_edge": 40}}, "size .*40.* image_size 32"),
        ({}, {"crop_size": {"height": 28, "width": 28}}, "crop_size .*28.* image_size 32"),
        ({}, {"do_normalize": False}, "do_normalize"),
        ({}, {"do_resize": False}, "do_resize"),
        ({}, {"rescale_factor": 1.0}, "rescale_factor"),
        ({}, {"resample": 0}, "resample"),
    ],
)
def test_a_model_or_processor_that_is_not_ours_is_refused_by_name(
    tmp_path, model, processor, named
):
    write_clip(tmp_path / "clip", small_clip(**model), **processor)
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{named}"):
        load(tmp_path / "clip")


def test_another_architecture_is_refused_and_a_kernel_that_is_named_not_asked_for(tmp_path):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "config.json"
    for field in ("attn_implementation", "_attn_implementation_internal"):
        config = json.loads(file.read_text()) | {field: "nobody/kernel"}
        config["text_config"][field] = "nobody/kernel"
        file.write_text(json.dumps(config))
        assert load(tmp_path / "clip").image_size == 32
    transformers.BertConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="model_type 'bert' is not clip"):
        load(tmp_path / "clip")


# --- weights -------------------------------------------------------------------------------------


def test_weights_are_neither_made_up_nor_left_out(tmp_path):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    whole = load_file(file)
    bias = whole["vision_model.pre_layrnorm.bias"]
    lacking = {name: t for name, t in whole.items() if t is not bias}
    for state, named in (
        (lacking, r"lack .*pre_layrnorm\.bias"),
        (whole | {"extra.weight": bias.clone()}, r"no use for extra\.weight"),
    ):
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=named):
            load(tmp_path / "clip")


def test_weights_in_parts_and_of_older_files_are_read(tmp_path):
    clip = write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    old = clip.state_dict() | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    for part in (0, 1):
        names = sorted(old)[part::2]
        file = tmp_path / "clip" / f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: old[name].contiguous() for name in names}, file)
    vlm = load(tmp_path / "clip")
    theirs = clip.vision_model.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in vlm.model.visual.tower.state_dict().items())


@pytest.mark.slow
def test_pickled_weights_are_not_opened_and_the_command_in_the_message_converts_them(tmp_path):
    clip = write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(clip.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match=r"pytorch_model\.bin") as error:
        load(tmp_path / "clip")
    code = re.search('python -c "(.*)"', str(error.value))[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "clip", check=True)
    assert load(tmp_path / "clip").image_size == 32
