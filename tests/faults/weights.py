"""Folders of models, names of models, saved classifiers."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from small_models import SMALL, write_clip, write_model

from apps.own_tiles.classifier import read_classifier
from lib.vlm.loading import load_vlm

from .fault import Fault, nothing, put

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WAYS = "cannot be loaded"


@functools.cache
def made(kind):
    """A small model of open_clip or of Hugging Face, made once."""
    folder = Path(tempfile.mkdtemp(prefix="fault-model-")) / kind
    {"clip": write_clip}.get(kind, lambda f: write_model(f, SMALL))(folder)
    return folder


def model(change=lambda folder: None, kind="open"):
    """The folder `vlm` with a small model, changed."""

    def write(folder):
        shutil.copytree(made(kind), folder / "vlm")
        change(folder / "vlm")

    return write


def load(scheme="local-dir"):
    return lambda folder: str(load_vlm(f"{scheme}:{folder / 'vlm'}", device="cpu").image_size)


def config(change, name=CONFIG):
    """A configuration whose fields are changed by a function, or with another content."""

    def write(folder):
        file = folder / name
        if not callable(change):
            file.write_bytes(change)
            return
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return write


def part(section, **fields):
    return config(lambda values: values["model_cfg"][section].update(fields))


def weights(change, name=WEIGHTS):
    def write(folder):
        state = load_file(folder / name)
        save_file({n: t.clone() for n, t in change(state).items()}, folder / name)

    return write


def without(name):
    return lambda folder: (folder / name).unlink()


def raw(content, name=WEIGHTS):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(folder):
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def first_as(value):
    """The first tensor of the weights filled with a value."""
    return weights(
        lambda s: {n: torch.full_like(t, value) if n == "visual.proj" else t for n, t in s.items()}
    )


LARGE_HEADER = (2**40).to_bytes(8, "little") + b"{}"
OPEN = [
    ("no folder", lambda folder: shutil.rmtree(folder), [WAYS, "vlm", CONFIG]),
    ("no configuration", without(CONFIG), [WAYS, CONFIG]),
    ("no weights", without(WEIGHTS), [WAYS, WEIGHTS]),
    ("a pickle alone", pickled, [WAYS, "are pickles, which can hold code"]),
    ("an empty configuration", config(b""), [CONFIG, "is no JSON"]),
    ("a configuration of words", config(b"hello"), [CONFIG, "is no JSON"]),
    ("a list as the configuration", config(b"[1]"), [CONFIG, "does not hold named fields"]),
    ("a configuration in Latin-1", config(b'{"a": "\xfc"}'), [CONFIG, "is no JSON"]),
    ("a deep configuration", config(b"[" * 10**5), [CONFIG, "nested too deeply"]),
    ("a large configuration", config(b" " * (2**22 + 1)), [CONFIG, "is larger than"]),
    ("no model in it", config(b"{}"), [CONFIG, "model_cfg must hold named fields"]),
    ("code in it", config(b'{"auto_map": {}}'), ["auto_map asks to run code"]),
    ("an unknown field", part("vision_cfg", colour=1), [CONFIG, "the field 'colour' is not known"]),
    ("a tower that is none", part("vision_cfg", timm_model_name="x"), ["timm_model_name 'x' is"]),
    ("a tower of the hub", part("vision_cfg", timm_model_name="hf-hub:a/b"), ["is none of timm's"]),
    (
        "a number as a tower",
        part("vision_cfg", timm_model_name=3),
        ["timm_model_name must be a text"],
    ),
    ("a word as a width", part("vision_cfg", width="wide"), ["vision_cfg: width"]),
    ("no width", part("vision_cfg", width=0), ["vision_cfg: width"]),
    ("a size of a million", part("vision_cfg", image_size=10**6), ["vision_cfg: image_size"]),
    ("a million layers", part("text_cfg", layers=10**6), ["text_cfg: layers"]),
    ("a width of a million", part("text_cfg", width=10**6), ["text_cfg: width"]),
    ("layers below zero", part("text_cfg", layers=-1), ["text_cfg: layers"]),
    ("patches that do not fit", part("vision_cfg", patch_size=64), ["vlm"]),
    ("other weights", part("vision_cfg", width=64), [WAYS]),
    ("empty weights", raw(b""), [WAYS, WEIGHTS]),
    ("a page as weights", raw(b"<!DOCTYPE html>" * 99), [WAYS, WEIGHTS]),
    (
        "a text of Git LFS as weights",
        raw(b"version https://git-lfs.github.com/spec/v1\n"),
        [WAYS, WEIGHTS],
    ),
    ("weights that were cut", cut, [WAYS, WEIGHTS]),
    ("weights of a huge header", raw(LARGE_HEADER), [WAYS, WEIGHTS]),
    ("a pickle called safetensors", raw(b"\x80\x02}q\0."), [WAYS, WEIGHTS]),
    ("a tensor missing", weights(lambda s: {n: s[n] for n in [*s][1:]}), [WAYS]),
    ("a tensor more", weights(lambda s: s | {"more": torch.ones(1)}), [WAYS]),
    ("a tensor of another shape", weights(lambda s: s | {"visual.proj": torch.ones(2, 2)}), [WAYS]),
    ("NaN in the weights", first_as(float("nan")), ["vlm", "not finite"]),
    ("infinite weights", first_as(float("inf")), ["vlm", "not finite"]),
]
PRE = "preprocessor_config.json"
CLIP = [
    ("no configuration", without("config.json"), [WAYS, "config.json"]),
    ("no image processor", without(PRE), [PRE]),
    (
        "another kind of model",
        config(lambda v: v.update(model_type="bert"), "config.json"),
        ["model_type 'bert' is not clip"],
    ),
    (
        "another vocabulary",
        config(lambda v: v["text_config"].update(vocab_size=99), "config.json"),
        ["vocab_size 99"],
    ),
    (
        "no normalisation",
        config(lambda v: v.update(do_normalize=False), PRE),
        ["do_normalize of the image processor is off"],
    ),
    ("another size", config(lambda v: v.update(size={"shortest_edge": 99}), PRE), ["size"]),
    (
        "weights that were cut",
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"),
        [WAYS, "model.safetensors"],
    ),
    ("no weights", without("model.safetensors"), [WAYS, "model.safetensors"]),
]
NAMES = [
    ("a folder that is not there", "local-dir:/nowhere", [WAYS, "/nowhere"]),
    (
        "tag that is none",
        "ViT-B-32/none",
        ["open_clip lists no weights 'none' of a model 'ViT-B-32'"],
    ),
    ("a model that is none", "ViT-X/openai", ["open_clip lists no weights 'openai' of a model"]),
    ("no model of the hub", "hf-hub:", [WAYS]),
    ("no owner of the hub", "hf-hub:plip", [WAYS, "hf-hub:plip"]),
    ("a path of the hub", "hf-hub:../../etc", [WAYS]),
    ("not in the cache", "plip", [WAYS, "HF_HOME", "run once with a network"]),
    ("on request, not in the cache", "conch", [WAYS]),
    ("an unknown name", "plipp", ["there is no VLM 'plipp': did you mean plip?"]),
    ("an empty name", "", ["there is no VLM ''"]),
    ("a stand-in that is not built", "stand-in-demo_other_lab", ["is not built for seed 0"]),
]
HEAD = {"vlm": "plip", "vlm_seed": 0, "vlm_digest": "", "n_views": 1, "made_from": {}}
HEAD |= {"networks": 1, "classes": {"a": ["a"], "b": ["b"]}}
SAVED = "holds no classifier of this project"


def classifier(description, network=None):
    """A folder with classifier.json and, of bytes or tensors, a network."""

    def write(folder):
        (folder / "c").mkdir()
        text = description if isinstance(description, str) else json.dumps(description)
        (folder / "c" / "classifier.json").write_text(text)
        if isinstance(network, bytes):
            (folder / "c" / "network_a.safetensors").write_bytes(network)
        elif network:
            save_file(network, folder / "c" / "network_a.safetensors")

    return write


ONES = {n: torch.ones(2) for n in ("mean", "std")} | {"basis": torch.ones(2, 2)}
CLASSIFIERS = [
    ("no folder", nothing, [SAVED]),
    ("no description", put({"c/network_a.safetensors": b""}), ["classifier.json"]),
    ("words", classifier("hello"), [SAVED]),
    ("a list", classifier("[]"), [SAVED]),
    ("deep", classifier("[" * 10**5), [SAVED]),
    ("nothing in it", classifier({}), [SAVED, "classifier.json: vlm: Field required"]),
    (
        "without its views",
        classifier({n: v for n, v in HEAD.items() if n != "n_views"}),
        [SAVED, "n_views"],
    ),
    ("without its networks", classifier(HEAD), [SAVED, "0 networks of 1"]),
    ("a network of a page", classifier(HEAD, b"<html>"), [SAVED, "network_a.safetensors"]),
    ("a network cut", classifier(HEAD, b"\x08\0\0\0\0\0\0\0{}"), [SAVED, "network_a.safetensors"]),
    ("another network", classifier(HEAD, ONES), [SAVED, "network_a.safetensors"]),
    (
        "a network of nothing",
        classifier(HEAD, {"x": torch.ones(1)}),
        [SAVED, "network_a.safetensors"],
    ),
    ("classes that are a number", classifier(HEAD | {"classes": 3}, ONES), [SAVED, "classes"]),
    ("networks that are a word", classifier(HEAD | {"networks": "two"}, ONES), [SAVED, "networks"]),
]


def read_saved(folder):
    return str(read_classifier(folder / "c")[0])


FAULTS = [Fault("weights", f"open_clip: {n}", model(c), load(), says) for n, c, says in OPEN]
FAULTS += [
    Fault("weights", f"CLIP: {n}", model(c, "clip"), load("hf-clip"), says) for n, c, says in CLIP
]
FAULTS += [
    Fault("weights", f"name: {n}", nothing, lambda _, vlm=vlm: load_vlm(vlm).name, says)
    for n, vlm, says in NAMES
]
FAULTS += [
    Fault("weights", f"classifier: {n}", given, read_saved, says) for n, given, says in CLASSIFIERS
]
