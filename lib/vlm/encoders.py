"""Image encoders that are no VLM, by name; their files are read as data, and no code is run."""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.packaged_weights import packaged_image_weights
from lib.vlm.cards import ENCODER_SCHEMES, EncoderCard, check_encoder, read_encoder_cards
from lib.vlm.inference import VLM, as_vlm
from lib.vlm.model_files import (
    Refused,
    commit_of,
    fields_of,
    read_json,
    snapshot,
    weights_in,
)

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
PICKLED = "pytorch_model.bin"
MODEL_TYPES = ("dinov2", "dinov2_with_registers")  # of transformers
# Arguments of timm's constructors that a file may set: numbers and names, of which none is a path.
ARGUMENTS = set(
    "act_layer class_token depth dynamic_img_size embed_dim fc_norm final_norm global_pool "
    "img_size init_values mlp_layer mlp_ratio no_embed_class num_classes num_heads patch_size "
    "pos_embed pre_norm qk_norm qkv_bias reg_tokens".split()
)
MLP_LAYERS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")


def load_encoder(name: str, *, device: str | None = None, precision: str = "float32") -> VLM:
    """Load an image encoder for `inference.with_encoder`, in evaluation mode.

    A name is one in `data/encoders.yaml`, one of timm's models with weights on the hub,
    `hf-hub:<organisation>/<model>` or `local-dir:<folder>`, with files as timm or, for DINOv2,
    transformers write them. Without a card, size and normalisation are those of the files, and
    pooling is timm's or the class token. Tiles are shown whole at the input size, also where a
    model's authors cut out the middle.

    Raises ValueError naming the file for a configuration that is refused or says too little, for
    weights that are not those of the model, and for a name that there is not; RuntimeError, naming
    the encoder, for weights out of reach.
    """
    check_encoder(name)
    card = read_encoder_cards().get(name)
    try:
        tower = _open(name, card)
    except Refused:
        raise
    except Exception as error:  # timm and the hub client raise many kinds
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise RuntimeError(_out_of_reach(name, card, error)) from error
    encoder = as_vlm(name, nn.ModuleDict({"visual": tower}), None, device, precision)
    scheme, _, repository = _address(name, card).partition(":")
    return replace(encoder, commit=commit_of(repository) if scheme == "hf-hub" else "")


class _Tower(nn.Module):
    """Features [B, E] of images, with the preprocessing that open_clip's towers state.

    pooling: see `EncoderCard`; register tokens are left out.
    """

    def __init__(self, inner: Any, pooling: str, like: Mapping[str, Any]) -> None:
        super().__init__()
        self.inner, self.pooling = inner, pooling
        self.image_size = like["input_size"]
        self.image_mean, self.image_std = tuple(like["mean"]), tuple(like["std"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.pooling == "timm":
            return self.inner(images)
        if hasattr(self.inner, "forward_features"):
            tokens, prefix = self.inner.forward_features(images), self.inner.num_prefix_tokens
        else:
            tokens = self.inner(pixel_values=images).last_hidden_state
            prefix = 1 + getattr(self.inner.config, "num_register_tokens", 0)
        if self.pooling == "class":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=-1)


def _address(name: str, card: EncoderCard | None) -> str:
    """Where the weights are: a scheme, a colon and a repository, a folder or a package."""
    import timm

    if card or name.startswith(ENCODER_SCHEMES):
        return card.weights if card else name
    published: Any = timm.get_pretrained_cfg(name)
    return f"hf-hub:{published.hf_hub_id}"


def _open(name: str, card: EncoderCard | None) -> _Tower:
    import timm

    scheme, _, rest = _address(name, card).partition(":")
    if card and scheme == "packaged":
        model = timm.create_model(rest, num_classes=0)
        model.load_state_dict(packaged_image_weights(model))
        return _Tower(model, card.pooling, vars(card))
    pickled = PICKLED if card else ""
    folder = Path(rest) if scheme == "local-dir" else snapshot(rest, FILES, pickled)
    file = folder / "config.json"
    config = read_json(file, code_is_left=card is not None)  # what is named there is not used
    weights_file = weights_in(folder, FILES[-1:], pickled)
    kind = (card.model_type if card else "") or config.get("model_type")
    if kind in MODEL_TYPES:
        model, pooling = _transformers_model(kind, config, weights_file), "class"
        like = vars(card) if card else _like_hf(folder)
    else:
        model = _timm_model(config, file, card.arguments if card else {}, weights_file)
        like, pooling = vars(card) if card else _like_timm(config, file), "timm"
    return _Tower(model, card.pooling if card else pooling, like)


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    pickled = file.name == PICKLED
    state = torch.load(file, "cpu", weights_only=True) if pickled else load_file(file)
    return {name: tensor.float() for name, tensor in state.items()}


def _transformers_model(kind: str, config: Mapping[str, Any], file: Path) -> Any:
    """A model with these weights, of the fields that its own configuration defines."""
    import transformers

    config_class = transformers.CONFIG_MAPPING[kind]
    options = {"config": config_class(**fields_of(config_class, config)), "dtype": torch.float32}
    options |= {"state_dict": _read_weights(file), "output_loading_info": True}
    try:
        model_class: Any = transformers.MODEL_MAPPING[config_class]
        model, loaded = model_class.from_pretrained(None, **options)
    except RuntimeError as error:  # of another shape
        raise Refused(f"{file}: {error}") from error
    _refuse_others(file, loaded["missing_keys"], loaded["unexpected_keys"])
    return model


def _refuse_others(file: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise Refused for weights that are not those of the model."""
    for names, problem in ((missing, "lack"), (unexpected, "have more than the model:")):
        if names := sorted(names)[:5]:
            raise Refused(f"{file}: the weights {problem} {', '.join(names)}")


def _like_hf(folder: Path) -> dict[str, Any]:
    """Size and normalisation by the image processor's configuration."""
    file = folder / "preprocessor_config.json"
    values = read_json(file)
    shown = values.get("crop_size") or values.get("size")
    size = shown if isinstance(shown, int) else next(iter((shown or {}).values()), None)
    return _stated(file, size, values.get("image_mean"), values.get("image_std"))


def _like_timm(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    stated = config.get("pretrained_cfg") or {}
    shape, mean, std = (stated.get(field) for field in ("input_size", "mean", "std"))
    return _stated(file, shape[-1] if isinstance(shape, list) and shape else shape, mean, std)


def _timm_model(
    config: Mapping[str, Any], file: Path, arguments: Mapping[str, Any], weights: Path
) -> Any:
    """A model with these weights, as its configuration in `file` says; `arguments` win.

    What belongs to a classifier is left out; positions of a ViT are resampled to the input size.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    name, told = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise Refused(f"{file}: architecture {name!r} is none of timm's own models")
    for field, value in told.items() if isinstance(told, dict) else [("model_args", told)]:
        if field not in ARGUMENTS or not isinstance(value, bool | int | float | str | None):
            raise Refused(f"{file}: model_args: {field}: {value!r} is no argument that is read")
    arguments = {**told, **arguments, "num_classes": 0}
    if layer := arguments.get("mlp_layer"):
        if layer not in MLP_LAYERS:
            raise Refused(f"{file}: mlp_layer {layer!r} is none of {', '.join(MLP_LAYERS)}")
        arguments["mlp_layer"] = getattr(timm.layers, layer)
    model: Any = timm.create_model(name, **arguments)
    state = _read_weights(weights)
    if isinstance(model, VisionTransformer):
        state = checkpoint_filter_fn(state, model)
    head = f"{model.default_cfg.get('classifier')}."
    try:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of another shape
        raise Refused(f"{weights}: {error}") from error
    _refuse_others(weights, missing, unexpected)
    return model


def _stated(file: Path, size: Any, mean: Any, std: Any) -> dict[str, Any]:
    """Raises Refused naming what is missing: a wrong guess would only show in worse predictions."""
    values = {"input_size": size, "mean": mean, "std": std}
    for name, value in values.items():
        numbers = [value] * 3 if name == "input_size" else value
        if not (isinstance(numbers, list) and len(numbers) == 3 and all(map(_positive, numbers))):
            raise Refused(f"{file} does not state the {name} of the images: it has {value!r}")
    return values


def _positive(number: Any) -> bool:
    return isinstance(number, int | float) and number > 0


def _out_of_reach(name: str, card: EncoderCard | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    access = f"It takes first: {card.access}\n" if card and card.access else ""
    return (
        f"encoder {name!r} cannot be loaded: {reason}\n{access}Run once with a network, so that "
        "its weights enter the Hugging Face cache; or copy that cache here and name it with "
        "HF_HOME; or put config.json and model.safetensors into a folder and name it, as "
        f"local-dir:<folder>. Names in data/encoders.yaml: {', '.join(read_encoder_cards())}"
    )
