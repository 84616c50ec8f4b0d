"""Vision-language models by name: where their weights are, and how they become open_clip models."""

import errno
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lib import paths
from lib.artefacts import scratch_folder
from lib.vlm import checkpoint, conch, hf_clip, keep
from lib.vlm.cards import VLMCard, check_vlm, read_vlm_cards, split_name
from lib.vlm.encoders import load_encoder
from lib.vlm.inference import VLM, as_vlm, ensemble, with_encoder
from lib.vlm.model_files import (
    RECIPE,
    TOKENIZER_CONFIGS,
    TOKENIZER_DATA,
    Refused,
    announce,
    commit_of,
    copy_tokenizer,
    fetch,
    fields_of,
    read_json,
    snapshot,
    weights_in,
)

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
PICKLED = ("open_clip_pytorch_model.bin", "pytorch_model.bin")  # of open_clip, of transformers
MODEL_FIELDS = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "multimodal_cfg",
    "custom_text",
    "quick_gelu",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "pad_id",
}
LARGEST_SIZES = {"layers": 200, "width": 10_000, "image_size": 4096, "patch_size": 4096}
LARGEST_SIZES |= {"heads": 1000, "context_length": 10_000, "vocab_size": 10**6}
KWARGS = {  # fields whose content open_clip passes on to a constructor: what its own models use
    "tokenizer_kwargs": {"clean", "strip_sep_token"},
    "norm_kwargs": {"eps"},
    "act_kwargs": {"approximate"},
}


class OutOfReach(RuntimeError):
    """A model that cannot be had, or is not the one that its card says; the message says why."""


def load_vlm(
    name: str, *, seed: int = 0, device: str | None = None, precision: str = "float32"
) -> VLM:
    """Load a model by name, in evaluation mode.

    A name is one in `data/vlms.yaml`, `stand-in-<source card>` (the folder that 01_stand_in_vlm
    built for this seed), `local-dir:<folder>`, `hf-hub:<organisation>/<model>`, `hf-clip:` with a
    folder or repository of a Hugging Face CLIP, `keep:` with one of KEEP, `conch:<configuration>`,
    or open_clip's `<model>/<weights tag>`, such as `ViT-B-32/laion2b_s34b_b79k`. Names joined by
    "+" give `inference.ensemble` of them; behind an "@" stands the name of another image encoder,
    see `inference.with_encoder` and `encoders.load_encoder`. Weights in the Hugging Face cache are
    used offline. Of a folder or repository only safetensors and plain fields that are known are
    read, and no code is run.
    precision: of the image encoders, see `inference.PRECISIONS`.

    Raises FileNotFoundError for a stand-in that is not built; ValueError naming the file for a
    configuration that is refused, or saying why a model cannot be used; OutOfReach, naming the
    model, for weights out of reach (with the ways to get them) and for a model whose input size or
    normalisation is not that of its card.
    """
    names, encoder = split_name(name)
    if encoder or name.endswith("@"):
        alone = name.removesuffix(f"@{encoder}")
        vlm = load_vlm(alone, seed=seed, device=device, precision=precision)
        return with_encoder(vlm, load_encoder(encoder, device=device, precision=precision))
    if len(names) > 1:
        return ensemble(
            [load_vlm(own, seed=seed, device=device, precision=precision) for own in names]
        )
    cards = read_vlm_cards()
    card = cards.get(name) or next((c for c in cards.values() if c.weights == name), None)
    weights = card.weights if card else name
    if name.startswith(paths.STAND_IN):
        folder = paths.model_folder(name, seed)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{name} is not built for seed {seed} (no {folder}): run "
                "notebooks/01_stand_in_vlm.py"
            )
        weights = f"local-dir:{folder}"
    else:
        check_vlm(card.name if card else name)
    try:
        model, tokenizer = _open(weights, pickled=card is not None)
    except Refused:
        raise
    except Exception as error:  # open_clip and the hub client raise many kinds
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise OutOfReach(_out_of_reach(name, card, error)) from error
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise OutOfReach(f"VLM {name!r}: its weights hold numbers that are not finite")
    vlm = as_vlm(name, model, tokenizer, device, precision)
    repository, _ = _on_hub(weights)
    vlm = replace(vlm, commit=commit_of(repository) if repository else "")
    if card:
        _check_preprocessing(vlm, card)
    return vlm


def _open(weights: str, *, pickled: bool) -> tuple[Any, Any]:
    """Model and tokenizer; of files of others open_clip sees a checked copy and nothing else.

    pickled: whether weights that are published as a pickle alone may be read, by PyTorch's reader
    of plain tensors: those of the models in `data/vlms.yaml`.
    """
    import open_clip

    scheme, _, rest = weights.partition(":")
    if scheme == "conch":
        return conch.load(rest)
    if scheme == "hf-clip":
        return hf_clip.load(rest, PICKLED[1] if pickled else "")
    if scheme == "keep":
        return keep.load(rest, PICKLED[1] if pickled else "")
    if scheme == "checkpoint" and pickled:
        return checkpoint.load(rest)
    with scratch_folder() as scratch:
        folder = scratch
        if scheme in ("local-dir", "hf-hub"):
            allowed = PICKLED[0] if pickled else ""
            files = [CONFIG, *WEIGHTS]
            folder = Path(rest) if scheme == "local-dir" else snapshot(rest, files, allowed)
            config = _read_config(folder / CONFIG)
            (scratch / CONFIG).write_text(json.dumps(config))
            file = weights_in(folder, WEIGHTS, allowed)
            name = PICKLED[0] if file.name == PICKLED[0] else WEIGHTS[0]
            (scratch / name).symlink_to(file.resolve())
            text, name, tag = config["model_cfg"]["text_cfg"], f"local-dir:{scratch}", None
        else:
            name, _, tag = weights.partition("/")
            text = _published_text_tower(name, tag)
            repository, own_file = _on_hub(weights)
            problem = announce(repository, [own_file or WEIGHTS[0]])
            if problem and not commit_of(repository):
                raise ConnectionError(problem)
        tokenizer = _tokenizer(text, folder if scheme == "local-dir" else None, scratch)
        if text.get("hf_model_name"):
            text |= {"hf_model_name": _text_tower(text["hf_model_name"], folder, scratch)}
            text["hf_model_pretrained"] = False
        model = open_clip.create_model(
            name,
            tag,
            text_cfg=text,
            require_pretrained=True,
            pretrained_text=False,
            weights_only=True,
        )
    return model, tokenizer


def _on_hub(weights: str) -> tuple[str, str]:
    """The repository that weights are from, empty where from elsewhere, and their file if said."""
    from open_clip.pretrained import get_pretrained_cfg

    scheme, colon, rest = weights.partition(":")
    if not colon:  # open_clip has `<organisation>/<model>/` and perhaps a file
        name, _, tag = weights.partition("/")
        repository, _, file = get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
        return repository, file
    if scheme == "conch":
        return conch.HUB.partition(":")[2], ""
    if scheme == "checkpoint":
        rest = rest.partition("@")[2].rpartition("/")[0]
    return "" if scheme == "local-dir" or Path(rest).is_dir() else rest, ""


def _read_config(file: Path) -> dict[str, Any]:
    """What open_clip_config.json says. Raises Refused naming the file and the unknown field."""
    import timm
    from open_clip.coca_model import MultimodalCfg
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from open_clip.transform import PreprocessCfg

    config = read_json(file)
    if "preprocess_cfg" in config:  # open_clip leaves out what it does not know
        _section(config, "preprocess_cfg", {f.name for f in fields(PreprocessCfg)}, file)
    model = _section(config, "model_cfg", MODEL_FIELDS, file)
    towers = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}
    if "multimodal_cfg" in model:
        towers["multimodal_cfg"] = MultimodalCfg
    for name, tower in towers.items():
        section = _section(model, name, {f.name for f in fields(tower)}, file)
        for kwargs, known in KWARGS.items():
            if section.get(kwargs) is not None:
                _section(section, kwargs, known, file)
        for field in ("hf_model_name", "hf_tokenizer_name", "timm_model_name"):
            if not isinstance(section.get(field, ""), str | None):
                raise Refused(f"{file}: {name}: {field} must be a text")
        _check_sizes(tower, section, f"{file}: {name}")
    timm_name = model["vision_cfg"].get("timm_model_name")
    # timm would fetch the configuration of other names, and the constructor's arguments with it.
    if timm_name and (":" in timm_name or not timm.is_model(timm_name)):
        raise Refused(f"{file}: timm_model_name {timm_name!r} is none of timm's own models")
    return config


def _check_sizes(tower: Any, section: dict[str, Any], where: str) -> None:
    """Raise Refused for a field of another type, or a size that would fill any memory."""
    try:
        TypeAdapter(tower).validate_python(section)
    except ValidationError as error:
        first = error.errors()[0]
        field, value = first["loc"][0], repr(first["input"])[:80]
        raise Refused(f"{where}: {field}: {first['msg']}, not {value}") from None
    for field, most in LARGEST_SIZES.items():
        values = section.get(field, 1)
        for value in values if isinstance(values, list) else [values]:
            if not 1 <= (value or 1) <= most or value == 0:
                raise Refused(f"{where}: {field} must be 1 … {most:,}, not {value!r}")


def _section(values: dict[str, Any], name: str, known: set[str], file: Path) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict):
        raise Refused(f"{file}: {name} must hold named fields")
    if unknown := sorted(set(section) - known):
        names = ", ".join(sorted(known))
        raise Refused(f"{file}: {name}: the field {unknown[0]!r} is not known, only {names}")
    return section


def _published_text_tower(model: str, tag: str) -> dict[str, Any]:
    """Of a model and weights that open_clip itself lists; a file of weights is no tag."""
    from open_clip.factory import get_model_config
    from open_clip.pretrained import is_pretrained_cfg

    config = get_model_config(model)
    if config is None or not is_pretrained_cfg(model, tag):
        raise FileNotFoundError(f"open_clip lists no weights {tag!r} of a model {model!r}")
    return config["text_cfg"]


def _tokenizer(text: dict[str, Any], local: Path | None, scratch: Path) -> Any:
    """As open_clip makes it, for which a local folder holds the tokenizer, whatever its name."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    kwargs = {"context_length": text.get("context_length", 77)}
    kwargs |= text.get("tokenizer_kwargs") or {}
    if not text.get("hf_tokenizer_name"):
        return SimpleTokenizer(**kwargs)
    source = local or fetch(text["hf_tokenizer_name"], TOKENIZER_CONFIGS + TOKENIZER_DATA)
    copy_tokenizer(source, scratch / "tokenizer")
    mode = text.get("tokenizer_mode")
    return HFTokenizer(
        str(scratch / "tokenizer"), tokenizer_mode=mode, trust_remote_code=False, **kwargs
    )


def _text_tower(name: str, folder: Path, scratch: Path) -> str:
    """A folder with the text tower's configuration, of the fields that its class defines.

    A stand-in names the folder it was built at, and holds that configuration wherever it is moved.
    """
    from open_clip.hf_configs import arch_dict
    from transformers import CONFIG_MAPPING

    stand_in = (folder / RECIPE).is_file() or not Path(name).is_dir()
    if not (Path(name).is_absolute() and stand_in):
        folder = fetch(name, ["config.json"])
    file = folder / "config.json"
    config = read_json(file)
    model_type = str(config.get("model_type"))
    if model_type not in arch_dict:
        raise Refused(f"{file}: model_type {model_type!r} is none of {', '.join(arch_dict)}")
    kept = {"model_type": model_type} | fields_of(CONFIG_MAPPING[model_type], config)
    (scratch / "text").mkdir()
    (scratch / "text" / "config.json").write_text(json.dumps(kept))
    return str(scratch / "text")


def _out_of_reach(name: str, card: VLMCard | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    access = f"It takes first: {card.access}\n" if card and card.access else ""
    return (
        f"VLM {name!r} cannot be loaded: {reason}\n{access}Ways to get it: run once with a "
        "network, so that the weights enter the Hugging Face cache; or copy that cache here and "
        "name it with HF_HOME; or put open_clip_config.json and open_clip_model.safetensors into a "
        "folder and use vlm=local-dir:<folder>. A folder of a Hugging Face CLIP is "
        f"vlm=hf-clip:<folder>. Names in data/vlms.yaml: {', '.join(read_vlm_cards())}. "
        "open_clip's own names are <model>/<weights tag> as listed by open_clip.list_pretrained()."
    )


def _check_preprocessing(vlm: VLM, card: VLMCard) -> None:
    """A wrong input size or normalisation would only show in worse predictions."""
    loaded = {"input_size": (vlm.image_size,), "mean": vlm.mean, "std": vlm.std}
    stated = {"input_size": (card.input_size,), "mean": card.mean, "std": card.std}
    for field, values in stated.items():
        if values and any(abs(a - b) > 1e-4 for a, b in zip(values, loaded[field], strict=True)):
            raise OutOfReach(
                f"VLM {vlm.name!r}: the loaded model has {field} {loaded[field]}, its card in "
                f"data/vlms.yaml says {values}"
            )
