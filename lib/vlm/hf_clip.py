"""Hugging Face CLIPs with the interface of open_clip's models that `inference` uses."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from lib.vlm.model_files import Refused, fetch, fields_of, read_json, weights_in

FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "model-*.safetensors")


def load(name: str, pickled: str = "") -> tuple["HFClip", Any]:
    """The model and open_clip's tokenizer of the same words.

    name: a folder, else `<organisation>/<model>` on the hub; pickled: see `model_files.weights_in`.
    Raises Refused naming the model and what open_clip's tokenizer and our preprocessing, the whole
    tile at the input size, cannot do for it; FileNotFoundError where there are no safetensors; what
    cannot be fetched raises as the hub client does.
    """
    import transformers
    from open_clip import SimpleTokenizer

    source = fetch(name, FILES, pickled)
    try:
        config = _config_of(source)
        read_json(source / "preprocessor_config.json")
        processor = transformers.CLIPImageProcessor.from_pretrained(source).to_dict()
        _check_preprocessing(processor, config.vision_config.image_size)
        model = _model(config, source, pickled)
    except Refused as error:
        raise Refused(f"{name}: {error}") from error
    clip = HFClip(model, mean=processor["image_mean"], std=processor["image_std"])
    return clip, SimpleTokenizer(context_length=config.text_config.max_position_embeddings)


class HFClip(nn.Module):
    """The contrastive embeddings of a `transformers.CLIPModel`."""

    def __init__(self, inner: Any, *, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.text_model, self.text_projection = inner.text_model, inner.text_projection
        self.logit_scale = inner.logit_scale
        self.visual = _ImageTower(inner, mean, std)

    def encode_text(self, tokens: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Text features [B, D] from tokens [B, L]."""
        features = self.text_projection(self.text_model(input_ids=tokens).pooler_output)
        return nn.functional.normalize(features, dim=-1) if normalize else features


class _ImageTower(nn.Module):
    """Image features [B, D], or those before the projection [B, E] while `proj` is None."""

    def __init__(self, inner: Any, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.tower = inner.vision_model
        self.proj = nn.Parameter(inner.visual_projection.weight.detach().T.contiguous())
        self.image_size = inner.config.vision_config.image_size
        self.image_mean, self.image_std = mean, std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.tower(pixel_values=images).pooler_output
        return pooled if self.proj is None else pooled @ self.proj


def _config_of(source: Path) -> Any:
    """The configuration, of the fields that CLIP's own classes define."""
    import transformers
    from open_clip import SimpleTokenizer

    values = read_json(source / "config.json")
    if values.get("model_type") != "clip":
        raise Refused(f"model_type {values.get('model_type')!r} is not clip")
    fields = fields_of(transformers.CLIPConfig, values)
    towers = {"text": transformers.CLIPTextConfig, "vision": transformers.CLIPVisionConfig}
    for tower, tower_class in towers.items():
        for name in (f"{tower}_config", f"{tower}_config_dict"):  # the second in old files
            if values.get(name) is not None:
                fields[name] = fields_of(tower_class, values[name])
    config: Any = transformers.CLIPConfig(**fields)
    text, size = config.text_config, SimpleTokenizer().vocab_size
    if text.vocab_size != size:
        raise Refused(f"vocab_size {text.vocab_size} is not the {size} of open_clip's BPE")
    if text.eos_token_id not in (2, size - 1):  # in old files 2 means the highest token
        raise Refused(f"eos_token_id {text.eos_token_id} is not {size - 1}")
    if config.vision_config.num_channels != 3:
        raise Refused(f"num_channels {config.vision_config.num_channels} is not 3")
    return config


def _model(config: Any, source: Path, pickled: str) -> Any:
    """A `transformers.CLIPModel` with these weights, none of them made up or left out."""
    import transformers

    shards = sorted(source.glob("model-*.safetensors"))
    whole = not shards or (source / "model.safetensors").is_file()
    state: dict[str, torch.Tensor] = {}
    for file in [weights_in(source, ["model.safetensors"], pickled)] if whole else shards:
        plain = file.name == pickled
        state |= torch.load(file, "cpu", weights_only=True) if plain else load_file(file)
    model = transformers.CLIPModel(config)
    state = {name: tensor.float() for name, tensor in state.items() if "position_ids" not in name}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing:
        raise Refused(f"the weights lack {', '.join(sorted(missing))}")
    if unexpected:
        raise Refused(f"the model has no use for {', '.join(sorted(unexpected))}")
    return model


def _check_preprocessing(processor: dict[str, Any], image_size: int) -> None:
    """Raise Refused where the image processor does not show the whole tile at the input size."""
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not processor[step]:
            raise Refused(f"{step} of the image processor is off")
    if abs(processor["rescale_factor"] * 255 - 1) > 1e-6:
        raise Refused(f"rescale_factor {processor['rescale_factor']} is not 1/255")
    if processor["resample"] not in (2, 3):
        raise Refused(f"resample {processor['resample']} is neither bilinear nor bicubic")
    for field in ("size", "crop_size") if processor["do_center_crop"] else ("size",):
        if set(processor[field].values()) != {image_size}:
            raise Refused(
                f"{field} {dict(processor[field])} of the image processor is not the model's "
                f"image_size {image_size}"
            )
