"""Hugging Face CLIPs in open_clip's layout: the same embeddings, logits and preprocessing."""

import dataclasses
import json
import os
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

from lib import paths
from lib.vlm import hf_clip, inference, views
from lib.vlm.hf_clip import convert_clip, save_as_open_clip
from lib.vlm.loading import load_vlm

PROMPTS = ["An H&E image patch of adipose tissue.", "a gland", "Smooth   MUSCLE, isn't it?"]
OTHER_TEXT = {"hidden_size": 24, "intermediate_size": 72, "num_attention_heads": 3,
              "num_hidden_layers": 1, "max_position_embeddings": 20}  # fmt: skip
OTHER_VISION = {"hidden_size": 40, "intermediate_size": 100, "num_attention_heads": 5,
                "image_size": 50, "patch_size": 16, "num_hidden_layers": 3}  # fmt: skip
EXACT = {"layer_norm_eps": 1e-3, "hidden_act": "gelu"}
SIZES = {
    "as published": {},
    "other sizes": {"text": OTHER_TEXT, "vision": OTHER_VISION, "projection": 8},
    "gelu and another eps": {"text": EXACT, "vision": EXACT},
    "an old end-of-text": {"text": {"eos_token_id": 2}},
}


@pytest.fixture(params=SIZES)
def clip(request):
    return small_clip(seed=list(SIZES).index(request.param), **SIZES[request.param])


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def pixels_and_tokens(model):
    size = model.config.vision_config.image_size
    length = model.config.text_config.max_position_embeddings
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    return pixels, open_clip.SimpleTokenizer(context_length=length)(PROMPTS)


@torch.inference_mode()
def features_of(model, pixels, tokens):
    """Unnormalised image and text features, and logits, of a Hugging Face CLIP."""
    image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    text = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    return image, text, model(input_ids=tokens, pixel_values=pixels).logits_per_image


# --- the same model ------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_converted_model_gives_the_same_features_and_logits(clip):
    pixels, tokens = pixels_and_tokens(clip)
    state, model_cfg = convert_clip(clip)
    converted = open_clip.CLIP(**model_cfg).eval()
    converted.load_state_dict(state, strict=True)
    image, text, logits = features_of(clip, pixels, tokens)
    close(converted.encode_image(pixels), image)
    close(converted.encode_text(tokens), text)
    close(converted.get_logits(pixels, tokens)[0], logits)
    assert model_cfg["quick_gelu"] == (clip.config.text_config.hidden_act == "quick_gelu")


@torch.inference_mode()
def test_a_folder_loads_by_name_to_the_same_features_and_logits(clip, tmp_path):
    write_clip(tmp_path / "clip", clip)
    found = load_vlm(f"hf-clip:{tmp_path / 'clip'}", device="cpu")
    found = dataclasses.replace(found, dtype=torch.float32)
    pixels = torch.rand(4, 3, found.image_size, found.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    tokens = found.tokenizer(PROMPTS)
    given = clip(input_ids=tokens, pixel_values=(pixels - mean) / std)
    _, image = inference.encode_images(found, pixels)
    text = inference.embed_prompts(found, [[prompt] for prompt in PROMPTS])
    close(image, given.image_embeds)
    close(text, given.text_embeds)
    close(found.scale * image @ text.T, given.logits_per_image)


def test_the_wrong_activation_would_have_shown():
    clip = small_clip()
    pixels, tokens = pixels_and_tokens(clip)
    state, model_cfg = convert_clip(clip)
    wrong = open_clip.CLIP(**model_cfg | {"quick_gelu": False}).eval()
    wrong.load_state_dict(state)
    image, *_ = features_of(clip, pixels, tokens)
    with torch.inference_mode():
        assert (wrong.encode_image(pixels) - image).abs().max() > 1e-3


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
def test_normalisation_and_size_are_those_of_the_folder(tmp_path, mean, std):
    write_clip(tmp_path / "clip", mean=mean, std=std)
    found = load_vlm(f"hf-clip:{tmp_path / 'clip'}")
    assert found.mean == tuple(mean) and found.std == tuple(std) and found.image_size == 32


def test_pixels_are_near_those_of_the_models_own_image_processor(tmp_path):
    write_clip(tmp_path / "clip")
    found = load_vlm(f"hf-clip:{tmp_path / 'clip'}")
    tile = load_sample_image("flower.jpg")[100:400, 200:500]
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "clip")
    own = processor(images=Image.fromarray(tile), return_tensors="pt")["pixel_values"]
    pixels = views.plain_view(torch.from_numpy(tile.copy())[None], found.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (found.mean, found.std))
    # In grey levels; the processor rounds to whole ones after each direction.
    difference = ((pixels - mean) / std - own) * std * 255
    assert difference.abs().max() < 3 and difference.abs().mean() < 0.5


def test_sizes_as_older_files_write_them_are_read(tmp_path):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "preprocessor_config.json"
    old = json.loads(file.read_text()) | {"size": 32, "crop_size": 32}
    del old["do_rescale"], old["rescale_factor"], old["image_processor_type"]
    file.write_text(json.dumps(old | {"feature_extractor_type": "CLIPFeatureExtractor"}))
    assert load_vlm(f"hf-clip:{tmp_path / 'clip'}").image_size == 32


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"text": {"hidden_act": "gelu"}}, "differs between the towers: gelu and quick_gelu"),
        ({"text": {"hidden_act": "relu"}, "vision": {"hidden_act": "relu"}}, "hidden_act 'relu'"),
        ({"text": {"vocab_size": 500}}, "vocab_size 500 is not the 49408"),
        ({"text": {"eos_token_id": 7}}, "eos_token_id 7"),
        ({"vision": {"num_channels": 4}}, "num_channels 4"),
    ],
)
def test_a_model_that_open_clip_cannot_express_is_refused_by_name(changed, named):
    with pytest.raises(ValueError, match=named):
        convert_clip(small_clip(**changed))


def test_a_weight_without_a_place_is_named():
    clip = small_clip()
    clip.extra = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError, match=r"no place for extra\.weight"):
        convert_clip(clip)


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"size": {"shortest_edge": 40}}, "size .*40.* image_size 32"),
        ({"crop_size": {"height": 28, "width": 28}}, "crop_size .*28.* image_size 32"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 0}, "resample"),
    ],
)
def test_other_preprocessing_than_ours_is_refused_by_name(tmp_path, changed, named):
    write_clip(tmp_path / "clip", **changed)
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{named}"):
        load_vlm(f"hf-clip:{tmp_path / 'clip'}")
    assert not paths.converted_folder(f"hf-clip:{tmp_path / 'clip'}").exists()


def test_a_missing_weight_is_not_drawn_at_random(tmp_path):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    state = load_file(file)
    del state["vision_model.pre_layrnorm.bias"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack .*pre_layrnorm\.bias"):
        load_vlm(f"hf-clip:{tmp_path / 'clip'}")


def test_another_kind_of_model_is_refused(tmp_path):
    write_clip(tmp_path / "clip")
    transformers.BertConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="model_type 'bert' is not clip"):
        load_vlm(f"hf-clip:{tmp_path / 'clip'}")


# --- the written folder --------------------------------------------------------------------------


def test_weights_in_parts_come_out_as_one_file_of_safetensors(tmp_path):
    clip = write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    old = clip.state_dict() | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    for part in (0, 1):
        names = sorted(old)[part::2]
        file = tmp_path / "clip" / f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: old[name].contiguous() for name in names}, file)
    save_as_open_clip(str(tmp_path / "clip"), tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "open_clip_config.json", "open_clip_model.safetensors",
    }  # fmt: skip
    found, (expected, _) = load_file(tmp_path / "out" / hf_clip.WEIGHTS), convert_clip(clip)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_pickled_weights_are_not_opened_and_the_command_in_the_message_converts_them(tmp_path):
    clip = write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(clip.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    name = f"hf-clip:{tmp_path / 'clip'}"
    with pytest.raises(RuntimeError, match=r"pytorch_model\.bin") as error:
        load_vlm(name)
    code = re.search('python -c "(.*)"', str(error.value))[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "clip", check=True)
    assert load_vlm(name).image_size == 32


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation_internal"])
def test_a_compiled_kernel_that_a_configuration_names_is_not_asked_for(tmp_path, field):
    write_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "config.json"
    config = json.loads(file.read_text()) | {field: "nobody/kernel"}
    config["text_config"][field] = "nobody/kernel"
    file.write_text(json.dumps(config))
    assert load_vlm(f"hf-clip:{tmp_path / 'clip'}").image_size == 32


def test_a_model_is_converted_once_and_again_when_its_folder_changes(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        hf_clip, "save_as_open_clip", lambda *a: (made.append(a), save_as_open_clip(*a))
    )
    name = f"hf-clip:{tmp_path / 'clip'}"
    write_clip(tmp_path / "clip")
    first, second = load_vlm(name), load_vlm(name)
    assert len(made) == 1 and first.scale == second.scale
    write_clip(tmp_path / "clip", small_clip(seed=5), mean=[0.1, 0.1, 0.1])
    assert load_vlm(name).mean == (0.1, 0.1, 0.1) and len(made) == 2


@pytest.mark.slow
def test_a_model_of_the_same_size_and_time_is_converted_again(tmp_path):
    name, file = f"hf-clip:{tmp_path / 'clip'}", tmp_path / "clip" / "model.safetensors"
    write_clip(tmp_path / "clip")
    before, times = load_vlm(name).model.visual.proj.clone(), file.stat()
    write_clip(tmp_path / "other", small_clip(seed=5))
    file.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert not torch.equal(load_vlm(name).model.visual.proj, before)


@pytest.mark.slow
def test_the_same_relative_name_in_two_places_is_two_models(tmp_path, monkeypatch):
    scales = []
    for place, seed in (("one", 0), ("two", 5), ("one", None)):
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        if seed is not None:
            write_clip(tmp_path / place / "clip", small_clip(seed=seed))
        scales.append(load_vlm("hf-clip:clip").scale)
    assert scales[0] == scales[2] != scales[1]
    assert len(list(paths.converted_folder("hf-clip:clip").parents[1].glob("hf-clip*"))) == 2


def test_a_conversion_of_a_model_on_the_hub_belongs_to_its_commit(tmp_path):
    for commit in ("aaa", "bbb"):
        write_clip(tmp_path / "snapshots" / commit)
    one, other = (str(tmp_path / "snapshots" / commit) for commit in ("aaa", "bbb"))
    save_as_open_clip(one, tmp_path / "out")
    assert hf_clip.is_converted(one, tmp_path / "out")
    assert not hf_clip.is_converted(other, tmp_path / "out")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch, error):
    write_clip(tmp_path / "clip")
    name = f"hf-clip:{tmp_path / 'clip'}"

    def interrupted(state, file):
        file.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(hf_clip, "save_file", interrupted)
        with pytest.raises(RuntimeError if error is not KeyboardInterrupt else error):
            load_vlm(name)
    folder = paths.converted_folder(name)
    assert not folder.exists() and not list(folder.parent.glob(".part-*"))
    assert load_vlm(name).image_size == 32


def test_a_full_disk_is_not_called_weights_out_of_reach(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")

    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_clip, "save_file", full)
    with pytest.raises(OSError, match="the disk is full"):
        load_vlm(f"hf-clip:{tmp_path / 'clip'}")
