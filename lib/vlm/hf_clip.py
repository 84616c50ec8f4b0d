"""Models published as a Hugging Face CLIP, in open_clip's layout."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from lib.artefacts import atomic, digest_of
from lib.vlm.model_files import Refused, fetch, fields_of, read_json, weights_in

if TYPE_CHECKING:
    import transformers

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "model-*.safetensors")


class CannotConvert(Refused):
    """The model computes something that open_clip's layout cannot express."""


def convert_clip(model: "transformers.CLIPModel") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and `model_cfg` of open_clip's CLIP that give the same embeddings and logits.

    Queries, keys and values become one matrix and the two projections are transposed. Raises
    CannotConvert (a ValueError) naming what open_clip's vision and text transformer cannot express.
    """
    config: Any = model.config
    text, vision = config.text_config, config.vision_config
    _check(config)
    model_cfg = {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {
            **_transformer(vision),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
        },
        "text_cfg": {
            **_transformer(text),
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
        },
    }
    return _weights(model), model_cfg


def _check(config: Any) -> None:
    import open_clip

    text, vision = config.text_config, config.vision_config
    acts = text.hidden_act, vision.hidden_act
    if acts[0] != acts[1]:
        raise CannotConvert(f"hidden_act differs between the towers: {acts[0]} and {acts[1]}")
    if acts[0] not in ("quick_gelu", "gelu"):
        raise CannotConvert(f"hidden_act {acts[0]!r} is neither quick_gelu nor gelu")
    size = open_clip.SimpleTokenizer().vocab_size
    if text.vocab_size != size:
        raise CannotConvert(f"vocab_size {text.vocab_size} is not the {size} of open_clip's BPE")
    if text.eos_token_id not in (2, size - 1):  # in old files 2 means the highest token
        raise CannotConvert(f"eos_token_id {text.eos_token_id} is not {size - 1}")
    if vision.num_channels != 3:
        raise CannotConvert(f"num_channels {vision.num_channels} is not 3")
    for field in ("image_size", "patch_size"):
        if not isinstance(getattr(vision, field), int):
            raise CannotConvert(f"{field} {getattr(vision, field)} is not one number")
    for tower in (text, vision):
        if int(tower.hidden_size * _ratio(tower)) != tower.intermediate_size:
            raise CannotConvert(
                f"intermediate_size {tower.intermediate_size} is no exact multiple of hidden_size"
            )


def _ratio(tower: Any) -> float:
    return tower.intermediate_size / tower.hidden_size


def _transformer(tower: Any) -> dict[str, Any]:
    return {
        "width": tower.hidden_size,
        "layers": tower.num_hidden_layers,
        "mlp_ratio": _ratio(tower),
        "norm_kwargs": {"eps": tower.layer_norm_eps},
    }


_BLOCK = {  # names inside a block: theirs, ours
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelt so in transformers
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}


def _weights(model: "transformers.CLIPModel") -> dict[str, torch.Tensor]:
    given = {
        name: tensor.float()
        for name, tensor in model.state_dict().items()
        if not name.endswith(".position_ids")  # a count, stored by older versions
    }
    state = {ours: given.pop(theirs) for theirs, ours in _OUTSIDE.items()}
    state["visual.proj"] = given.pop("visual_projection.weight").T
    state["text_projection"] = given.pop("text_projection.weight").T
    config: Any = model.config
    towers = {
        ("text_model", "transformer"): config.text_config,
        ("vision_model", "visual.transformer"): config.vision_config,
    }
    for (tower, transformer), sizes in towers.items():
        for layer in range(sizes.num_hidden_layers):
            block = _block(given, f"{tower}.encoder.layers.{layer}.")
            prefix = f"{transformer}.resblocks.{layer}."
            state |= {prefix + name: tensor for name, tensor in block.items()}
    if given:
        raise CannotConvert(f"open_clip has no place for {', '.join(sorted(given))}")
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _block(given: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Takes the tensors of one block out of `given`."""
    block = {}
    for kind in ("weight", "bias"):
        qkv = [given.pop(f"{prefix}self_attn.{letter}_proj.{kind}") for letter in "qkv"]
        block[f"attn.in_proj_{kind}"] = torch.cat(qkv)
        for theirs, ours in _BLOCK.items():
            block[f"{ours}.{kind}"] = given.pop(f"{prefix}{theirs}.{kind}")
    return block


def save_as_open_clip(name: str, folder: Path, pickled: str = "") -> None:
    """Write a Hugging Face CLIP as a folder that open_clip loads by `local-dir:`.

    name: a folder, else `<organisation>/<model>` on the hub. Input size and normalisation are those
    of the model's own image processor. pickled: see `model_files.weights_in`. Raises CannotConvert
    naming the model and what open_clip cannot express, Refused for files that are not read,
    FileNotFoundError where there are no safetensors; what cannot be fetched raises as the hub
    client does. After an error `folder` is as it was.
    """
    source, origin = fetch(name, FILES), origin_of(name)
    try:
        model, processor = _read(source, pickled)
        state, model_cfg = convert_clip(model)
        preprocess_cfg = _preprocessing(processor, model_cfg["vision_cfg"]["image_size"])
    except CannotConvert as error:
        raise CannotConvert(f"{name}: {error}") from error
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg, "converted_from": origin}
    with atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / CONFIG).write_text(json.dumps(config, indent=2))
        save_file(state, temporary / WEIGHTS)


def origin_of(name: str) -> dict[str, Any]:
    """What a conversion is made from: the content of its files and the commit on the hub."""
    source = fetch(name, FILES)
    files = sorted({file for pattern in FILES for file in source.glob(pattern)})
    commit = source.name if source.parent.name == "snapshots" else ""
    return {"commit": commit, "files": {file.name: digest_of({}, file) for file in files}}


def is_converted(name: str, folder: Path) -> bool:
    """Whether `folder` holds the conversion of this model as it is now."""
    file = folder / CONFIG
    return file.is_file() and read_json(file).get("converted_from") == origin_of(name)


def _weights_of(source: Path, pickled: str) -> dict[str, torch.Tensor]:
    shards = sorted(source.glob("model-*.safetensors"))
    whole = not shards or (source / "model.safetensors").is_file()
    files = [weights_in(source, ["model.safetensors"], pickled)] if whole else shards
    if files[0].name == pickled:
        return torch.load(files[0], map_location="cpu", weights_only=True)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _config_of(source: Path) -> Any:
    """The configuration, of the fields that CLIP's own classes define."""
    import transformers

    values = read_json(source / "config.json")
    if values.get("model_type") != "clip":
        raise CannotConvert(f"model_type {values.get('model_type')!r} is not clip")
    config = fields_of(transformers.CLIPConfig, values)
    towers = {"text": transformers.CLIPTextConfig, "vision": transformers.CLIPVisionConfig}
    for tower, kind in towers.items():
        for name in (f"{tower}_config", f"{tower}_config_dict"):  # the second in old files
            if values.get(name) is not None:
                config[name] = fields_of(kind, values[name])
    return transformers.CLIPConfig(**config)


def _read(source: Path, pickled: str) -> tuple["transformers.CLIPModel", Any]:
    import transformers

    config, state = _config_of(source), _weights_of(source, pickled)
    read_json(source / "preprocessor_config.json")
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        loaded: Any = transformers.CLIPModel.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
    finally:
        if bars:
            transformers.logging.enable_progress_bar()
    model, info = loaded
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:  # transformers would draw them at random
        raise CannotConvert(f"the weights lack {', '.join(sorted(map(str, absent)))}")
    return model, transformers.CLIPImageProcessor.from_pretrained(source)


def _preprocessing(processor: Any, image_size: int) -> dict[str, Any]:
    """open_clip's `preprocess_cfg`; `views` shows a model the whole tile at its input size."""
    values = processor.to_dict()
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not values[step]:
            raise CannotConvert(f"{step} of the image processor is off")
    if abs(values["rescale_factor"] * 255 - 1) > 1e-6:
        raise CannotConvert(f"rescale_factor {values['rescale_factor']} is not 1/255")
    for field in ("size", "crop_size") if values["do_center_crop"] else ("size",):
        if set(values[field].values()) != {image_size}:
            raise CannotConvert(
                f"{field} {dict(values[field])} of the image processor is not the model's "
                f"image_size {image_size}"
            )
    interpolation = {2: "bilinear", 3: "bicubic"}.get(int(values["resample"]))
    if interpolation is None:
        raise CannotConvert(f"resample {values['resample']} is neither bilinear nor bicubic")
    return {
        "size": image_size,
        "mean": list(values["image_mean"]),
        "std": list(values["image_std"]),
        "interpolation": interpolation,
    }
