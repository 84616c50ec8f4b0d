"""Image encoders beside a VLM, on small made-up weights in the layouts that the published have."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
import yaml
from cases import case
from PIL import Image
from safetensors.torch import save_file
from small_models import SMALL, write_model

from lib import paths
from lib.data.tiles import stored_size
from lib.vlm import inference, views
from lib.vlm.cards import check_vlm, describe_vlm, read_encoder_cards, split_name, vlm_citations
from lib.vlm.encoders import load_encoder
from lib.vlm.loading import load_vlm

MEAN, STD = [0.7, 0.5, 0.6], [0.2, 0.3, 0.25]
# As UNI2-h and Virchow2: registers behind the class token, gated MLP, layer scale.
VIT = {"img_size": 28, "patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2}
VIT |= {"reg_tokens": 3, "init_values": 0.5, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
VIT |= {"mlp_ratio": 4.0, "no_embed_class": True}
HF = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42}
HF |= {"patch_size": 7}
PROMPTS = [["fat"], ["a gland", "many glands"], ["muscle"]]


def shaken(model):
    """No weight is left at zero or one, where a mistake would not show."""
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.2 * torch.randn_like(tensor)
    return model.eval()


def write_timm(folder, arguments=VIT, architecture="vit_tiny_patch16_224", **config):
    """A folder as timm publishes a model, and the model."""
    folder.mkdir(exist_ok=True)
    built = dict(arguments)
    if "mlp_layer" in built:
        built["mlp_layer"] = getattr(timm.layers, built["mlp_layer"])
    torch.manual_seed(0)
    model = shaken(timm.create_model(architecture, num_classes=0, **built))
    like = {"input_size": [3, 28, 28], "mean": MEAN, "std": STD}
    values = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": like}
    (folder / "config.json").write_text(json.dumps(values | config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


def write_hf(folder, registers=0):
    """A folder as Hugging Face publishes a DINOv2, and the model."""
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**HF, **more)
    model = shaken(getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(folder)
    values = {"crop_size": {"height": 28, "width": 28}, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return model


def carded(monkeypatch, tmp_path, weights, **fields):
    """A card named `named` of these weights."""
    card = {"title": "t", "weights": weights, "source": "https://example.org/a/b", "mean": MEAN}
    card |= {"std": STD, "input_size": 28, "licence": "l", "citation": "c"}
    (tmp_path / "encoders.yaml").write_text(yaml.safe_dump({"named": card | fields}))
    monkeypatch.setattr(paths, "encoders_file", lambda: tmp_path / "encoders.yaml")


def close(a, b, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


def tokens_by_hand(vit, images):
    """Tokens of a timm ViT after its last norm, block by block: class, registers, patches."""
    patches = vit.patch_embed(images)
    if vit.no_embed_class:
        patches = patches + vit.pos_embed
    first = [vit.cls_token.expand(len(images), -1, -1), vit.reg_token.expand(len(images), -1, -1)]
    tokens = torch.cat([*first, patches], 1)
    for block in vit.blocks:
        tokens = tokens + block.ls1(block.attn(block.norm1(tokens)))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return vit.norm(tokens)


def normalised(pixels):
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


# --- features of an encoder ----------------------------------------------------------------------


@torch.inference_mode()
def test_pooling_is_that_of_the_card_and_leaves_registers_out(tmp_path, monkeypatch):
    model, pixels = write_timm(tmp_path / "vit"), torch.rand(5, 3, 28, 28)
    tokens = tokens_by_hand(model, normalised(pixels))
    means = [sum(tile[4:]) / len(tile[4:]) for tile in tokens]  # behind class and three registers
    wanted = {
        "timm": tokens[:, 0],
        "class": tokens[:, 0],
        "class+patches": torch.cat([tokens[:, 0], torch.stack(means)], 1),
    }
    for pooling, expected in wanted.items():
        carded(monkeypatch, tmp_path, f"local-dir:{tmp_path / 'vit'}", pooling=pooling)
        encoder = load_encoder("named", device="cpu")
        with case(pooling):
            close(inference.encode_images(encoder, pixels)[0], expected)
    alone = load_encoder(f"local-dir:{tmp_path / 'vit'}", device="cpu")
    assert (alone.image_size, alone.mean, alone.std) == (28, tuple(MEAN), tuple(STD))
    close(inference.encode_images(alone, pixels)[0], tokens[:, 0])


@torch.inference_mode()
@pytest.mark.parametrize("registers", [0, 3])
def test_a_dinov2_of_transformers_gives_its_class_token(tmp_path, monkeypatch, registers):
    model, pixels = write_hf(tmp_path / "hf", registers), torch.rand(4, 3, 28, 28)
    found = model(pixel_values=normalised(pixels)).last_hidden_state
    name = f"local-dir:{tmp_path / 'hf'}"
    close(inference.encode_images(load_encoder(name, device="cpu"), pixels)[0], found[:, 0])
    carded(monkeypatch, tmp_path, name, pooling="class+patches")
    both = torch.cat([found[:, 0], found[:, 1 + registers :].mean(1)], 1)
    close(inference.encode_images(load_encoder("named", device="cpu"), pixels)[0], both)


@torch.inference_mode()
def test_code_that_a_carded_model_names_is_passed_over_and_that_of_others_refused(
    tmp_path, monkeypatch
):
    """As Hibou, whose own class is DINOv2 with registers under another name."""
    model, pixels = write_hf(tmp_path / "hf", 3), torch.rand(2, 3, 28, 28)
    file = tmp_path / "hf" / "config.json"
    values = json.loads(file.read_text())
    values |= {"model_type": "theirs", "auto_map": {"AutoModel": "evil.Evil"}}
    file.write_text(json.dumps(values))
    (tmp_path / "hf" / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    name = f"local-dir:{tmp_path / 'hf'}"
    with pytest.raises(ValueError, match=r"config\.json: auto_map asks to run code"):
        load_encoder(name)
    carded(monkeypatch, tmp_path, name, model_type="dinov2_with_registers")
    found = inference.encode_images(load_encoder("named", device="cpu"), pixels)[0]
    close(found, model(pixel_values=normalised(pixels)).last_hidden_state[:, 0])
    assert not (tmp_path / "mark").exists()


@torch.inference_mode()
def test_a_network_that_is_no_vit_is_pooled_as_timm_does_without_its_classifier(tmp_path):
    model = write_timm(tmp_path / "cnn", {}, "test_resnet")
    full = timm.create_model("test_resnet", num_classes=7)
    state = full.state_dict() | model.state_dict()
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "cnn/model.safetensors")
    encoder, pixels = (
        load_encoder(f"local-dir:{tmp_path / 'cnn'}", device="cpu"),
        torch.rand(3, 3, 28, 28),
    )
    close(inference.encode_images(encoder, pixels)[0], model(normalised(pixels)), 1e-3)


def test_positions_are_resampled_to_the_input_size_of_a_card(tmp_path, monkeypatch):
    write_timm(tmp_path / "vit")
    carded(
        monkeypatch,
        tmp_path,
        f"local-dir:{tmp_path / 'vit'}",
        arguments={"img_size": 42},
        input_size=42,
    )
    encoder = load_encoder("named", device="cpu")
    assert encoder.image_size == 42 and inference.feature_sizes(encoder)[0] == 24


def test_what_is_wrong_with_a_folder_is_refused_by_name(tmp_path):
    def refused(message, change=lambda folder: None, error=ValueError, **config):
        folder = tmp_path / "vit"
        write_timm(folder, **config)
        change(folder)
        with case(message), pytest.raises(error, match=message):
            load_encoder(f"local-dir:{folder}")

    def weights(change):
        def apply(folder):
            state = {n: t for n, t in timm_state(folder).items()}
            change(state)
            save_file(state, folder / "model.safetensors")

        return apply

    def timm_state(folder):
        from safetensors.torch import load_file

        return load_file(folder / "model.safetensors")

    def pickled(folder):
        torch.save(timm_state(folder), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    for fields, message in (
        ({"architecture": "hf-hub:a/b"}, "architecture 'hf-hub:a/b' is none of timm's"),
        ({"model_args": {"checkpoint_path": "/x"}}, "model_args: checkpoint_path: '/x'"),
        ({"model_args": {**VIT, "norm_layer": "x"}}, "model_args: norm_layer"),
        ({"model_args": {**VIT, "mlp_layer": "Linear"}}, "mlp_layer 'Linear' is none of Mlp"),
        ({"pretrained_cfg": {"input_size": [3, 28, 28], "std": STD}}, "does not state the mean"),
        ({"pretrained_cfg": {"mean": MEAN, "std": STD}}, "does not state the input_size"),
    ):

        def rewrite(folder, fields=fields):
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | fields))

        refused(r"config\.json.*" + message, rewrite)
    refused("the weights lack norm.weight", weights(lambda s: s.pop("norm.weight")))
    refused("have more than the model: extra", weights(lambda s: s.update(extra=torch.ones(1))))
    refused("size mismatch", weights(lambda s: s.update({"norm.weight": torch.ones(9)})))
    refused("cannot be loaded: there is no model.safetensors", pickled, RuntimeError)
    with pytest.raises(RuntimeError, match="encoder 'hf-hub:no/where' cannot be loaded"):
        load_encoder("hf-hub:no/where")


# --- beside a VLM --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A VLM of 32 px and an encoder of 28 or 60 px, alone and together."""
    folder = tmp_path_factory.mktemp("models")
    vlm = write_model(folder / "vlm", SMALL)
    write_timm(folder / "small")
    like = {"input_size": [3, 60, 60], "mean": [0.5] * 3, "std": [0.5] * 3}
    write_timm(folder / "large", {}, "test_resnet", pretrained_cfg=like)
    return {
        size: (f"{vlm}@local-dir:{folder / size}", vlm, f"local-dir:{folder / size}")
        for size in ("small", "large")
    }


@pytest.mark.parametrize("size", ["small", "large"])
def test_prompts_are_the_vlms_and_features_the_encoders_of_the_same_tiles_and_views(
    pair, size, tmp_path
):
    name, vlm_name, encoder_name = pair[size]
    both, vlm = load_vlm(name, device="cpu"), load_vlm(vlm_name, device="cpu")
    encoder, side = load_encoder(encoder_name, device="cpu"), {"small": 32, "large": 60}[size]
    assert both.name == name and both.image_size == side and len(both.members) == 1
    text = inference.embed_prompts(both, PROMPTS)
    assert torch.equal(text, inference.embed_prompts(vlm, PROMPTS))
    stored = stored_size(side)
    coarse = np.random.default_rng(0).integers(256, size=(9, 6, 6, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(c).resize((stored, stored), Image.BICUBIC)) for c in coarse]
    np.save(tmp_path / "tiles.npy", np.stack(large))
    tiles, given = np.arange(9), {"n_views": 3, "seed": 2}
    inference.embed_tiles(both, tmp_path / "tiles.npy", text, tmp_path / "run", batch_size=4)
    inference.embed_views(both, tmp_path / "tiles.npy", tiles, text, tmp_path / "run", **given)
    found = {file.stem: np.load(file) for file in (tmp_path / "run").glob("*.npy")}
    assert found["agree"].all() and found["view_features"].dtype == np.float16
    images = torch.from_numpy(np.stack(large))
    shown = [views.random_view(images, side, tiles=tiles, view=v, seed=2) for v in range(3)]
    shown.append(views.plain_view(images, side))
    features, probs = [], []
    for pixels in shown:  # each tower by itself
        own, others = (views.resize(pixels, m.image_size) for m in (vlm, encoder))
        features.append(inference.encode_images(encoder, others)[0])
        embeds = inference.encode_images(vlm, own)[1]
        probs.append(inference.class_probabilities(vlm, embeds, text))
    tolerance = 2e-3 * torch.stack(features).abs().max().item()
    close(found["backbone_features"].astype("f4"), features[3], tolerance)
    close(found["view_features"].astype("f4"), torch.stack(features[:3]), tolerance)
    close(found["mean_features"].astype("f4"), sum(features[:3]) / 3, tolerance)
    close(found["probs"], probs[3], 1e-4)
    close(found["view_probs"], sum(probs[:3]) / 3, 1e-4)
    close(found["image_embeds"].astype("f4"), embeds, 1e-3)


def test_weights_of_either_tower_tell_models_apart(pair):
    both = load_vlm(pair["small"][0], device="cpu")
    digests = {inference.weights_digest(both), inference.weights_digest(both.members[0])}
    with torch.no_grad():
        next(both.encoder.model.visual.parameters()).add_(1)
    assert len(digests | {inference.weights_digest(both)}) == 3


def test_a_tile_of_a_slide_covers_what_the_vlm_looks_at(pair):
    small, large = (load_vlm(pair[size][0], device="cpu") for size in ("small", "large"))
    assert small.tile(0.5) == (32, 0.5)
    pixels, mpp = large.tile(0.5)
    assert pixels == 60 and pixels * mpp == pytest.approx(32 * 0.5)


@torch.inference_mode()
def test_the_packaged_encoder_is_there_by_name(pair):
    both = load_vlm(f"{pair['small'][1]}@efficientnet-lite2", device="cpu")
    assert both.image_size == 260 and inference.feature_sizes(both) == (1280, 16)
    reference = timm.create_model("tf_efficientnet_lite2", num_classes=0).eval()
    reference.load_state_dict(both.encoder.model.visual.inner.state_dict())
    pixels = torch.rand(1, 3, 260, 260)
    close(inference.encode_images(both, pixels)[0], reference(2 * pixels - 1), 1e-4)
    assert "Tan M" in vlm_citations(both.name) and "efficientnet-lite2" in describe_vlm(both.name)


# --- names and cards -----------------------------------------------------------------------------


def test_names_are_split_at_the_signs_but_for_those_of_a_folder(tmp_path):
    (tmp_path / "a+b@c").mkdir()
    (tmp_path / "a+b").mkdir()
    for name, expected in {
        "plip": (["plip"], ""),
        "plip+conch@uni2-h": (["plip", "conch"], "uni2-h"),
        "plip@local-dir:x@y": (["plip"], "local-dir:x@y"),
        f"local-dir:{tmp_path}/a+b@c": ([f"local-dir:{tmp_path}/a+b@c"], ""),
        f"local-dir:{tmp_path}/a+b@uni2-h": ([f"local-dir:{tmp_path}/a+b"], "uni2-h"),
    }.items():
        assert split_name(name) == expected


@pytest.mark.parametrize(
    "name, message",
    [
        ("plip@uni2h", "no encoder 'uni2h': did you mean uni2-h"),
        ("plip@", "no encoder ''"),
        ("plop@uni2-h", "no VLM 'plop': did you mean plip"),
    ],
)
def test_an_encoder_that_there_is_not_is_refused_with_the_near_ones(name, message):
    for call in (check_vlm, load_vlm):
        if call is check_vlm or "plop" in name:
            with pytest.raises(ValueError, match=message):
                call(name)


def test_timms_names_and_those_of_cards_are_let_through():
    for name in ("vit_base_patch14_dinov2.lvd142m", *read_encoder_cards()):
        check_vlm(f"plip@{name}")


@pytest.mark.parametrize("name", read_encoder_cards())
def test_a_card_can_be_built_as_far_as_it_says_itself(name):
    """Arguments are timm's, and none is one that a repository could not have."""
    card = read_encoder_cards()[name]
    assert card.citation_line.endswith(".") and card.weights.startswith(("hf-hub:", "packaged:"))
    assert bool(card.access) == (
        name not in ("efficientnet-lite2", "dinov2-b", "phikon-v2", "hibou-b")
    )
