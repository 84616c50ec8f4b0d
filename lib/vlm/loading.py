"""Vision-language models by name: where their weights are, and how they become open_clip models."""

import errno
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib import paths
from lib.artefacts import remove_leftovers
from lib.vlm import conch, hf_clip
from lib.vlm.cards import VLMCard, read_vlm_cards
from lib.vlm.inference import VLM, as_vlm, ensemble


def load_vlm(name: str, *, seed: int = 0, device: str | None = None) -> VLM:
    """Load a model by name, in evaluation mode.

    A name is one in `data/vlms.yaml`, `stand-in-<source card>` (the folder that 01_stand_in_vlm
    built for this seed), `local-dir:<folder>`, `hf-hub:<organisation>/<model>`, `hf-clip:
    <organisation>/<model>` or `hf-clip:<folder>` (published as a Hugging Face CLIP; converted
    once), `conch:<configuration>`, or open_clip's `<model>/<weights tag>`, such as
    `ViT-B-32/laion2b_s34b_b79k`. Names joined by "+" give `inference.ensemble` of them. Weights in
    the Hugging Face cache are used offline. Raises FileNotFoundError for a stand-in that is not
    built, ValueError for a Hugging Face CLIP that open_clip cannot represent, and RuntimeError,
    naming the model, for weights out of reach (with the ways to get them) and for a model whose
    input size or normalisation is not that of its card.
    """
    names = _split(name)
    if len(names) > 1:
        return ensemble([load_vlm(member, seed=seed, device=device) for member in names])
    card = _card_of(name)
    weights = card.weights if card else _built(name, seed)
    try:
        model, tokenizer = _open(weights)
    except hf_clip.CannotConvert:
        raise
    except Exception as error:  # open_clip and the hub client raise many kinds
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise RuntimeError(_out_of_reach(name, card, error)) from error
    vlm = as_vlm(name, model, tokenizer, device)
    if card:
        _check_preprocessing(vlm, card)
    return vlm


def _split(name: str) -> list[str]:
    """Names joined by "+", which the path of a folder may hold too."""
    scheme, _, folder = name.partition(":")
    if scheme in ("local-dir", "hf-clip") and Path(folder).is_dir():
        return [name]
    return name.split("+")


def _card_of(name: str) -> VLMCard | None:
    """The card of this name, or of these weights."""
    cards = read_vlm_cards()
    return cards.get(name) or next((c for c in cards.values() if c.weights == name), None)


def _built(name: str, seed: int) -> str:
    """The folder of a stand-in; other names as they are."""
    if not name.startswith(paths.STAND_IN):
        return name
    folder = paths.model_folder(name, seed)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is not built for seed {seed} (no {folder}): run notebooks/01_stand_in_vlm.py"
        )
    return f"local-dir:{folder}"


def _open(weights: str) -> tuple[Any, Any]:
    """Model and tokenizer."""
    import open_clip

    scheme, _, rest = weights.partition(":")
    if scheme == "conch":
        return conch.load(rest)
    if scheme == "hf-clip":
        weights = f"local-dir:{_converted(rest)}"
    model_name, tag, kwargs = _locate(weights)
    model = open_clip.create_model(model_name, tag, require_pretrained=True, **kwargs)
    return model, open_clip.get_tokenizer(model_name)


def _converted(name: str) -> Path:
    """The open_clip folder of a Hugging Face CLIP, written when it is not there or out of date."""
    folder = paths.converted_folder(f"hf-clip:{name}")
    if not hf_clip.is_converted(name, folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # for runs side by side
            if not hf_clip.is_converted(name, folder):
                remove_leftovers(folder.parent)
                hf_clip.save_as_open_clip(name, folder)
    return folder


def _locate(weights: str) -> tuple[str, str | None, dict[str, Any]]:
    """open_clip's model name, weights tag and further arguments."""
    if weights.startswith("local-dir:"):
        return weights, None, _own_text_tower(Path(weights.removeprefix("local-dir:")))
    if weights.startswith("hf-hub:"):
        return weights, None, {}
    model, _, tag = weights.partition("/")
    return model, tag or None, {}


def _own_text_tower(folder: Path) -> dict[str, Any]:
    """A folder that holds the configuration of its text tower works wherever it is moved."""
    file = folder / "open_clip_config.json"
    if not ((folder / "config.json").is_file() and file.is_file()):
        return {}
    text = json.loads(file.read_text())["model_cfg"]["text_cfg"]
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


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
            raise RuntimeError(
                f"VLM {vlm.name!r}: the loaded model has {field} {loaded[field]}, its card in "
                f"data/vlms.yaml says {values}"
            )
