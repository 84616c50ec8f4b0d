"""VLMs by name: folders, the hub, Hugging Face CLIPs, CONCH; checked against their cards."""

import json
import os
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import open_clip
import pytest
import tokenizers
import torch
import transformers
import yaml
from small_models import MEAN, SMALL, STD, small_clip, write_clip, write_model
from torch import nn
from torch.nn import functional as F

from lib import paths
from lib.vlm import hf_clip
from lib.vlm.cards import read_vlm_cards
from lib.vlm.loading import load_vlm

TIMM = {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear", "image_size": 32}  # fmt: skip
CARDS = read_vlm_cards()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {k: write_model(folder / k, tower) for k, tower in (("vit", SMALL), ("timm", TIMM))}


# --- open_clip folders and names -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_a_folder_gives_its_own_preprocessing_and_weights(names, kind):
    found = load_vlm(names[kind], device="cpu")
    assert found.name == names[kind] and found.image_size == 32
    assert found.mean == tuple(MEAN) and found.std == tuple(STD)
    assert not found.model.training
    own = open_clip.create_model(found.name)
    for key, tensor in own.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[key]), key


def test_the_scale_is_the_models_own(names):
    found = load_vlm(names["vit"])
    assert found.scale == pytest.approx(found.model.logit_scale.exp().item())
    assert found.scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_folder_without_weights_is_refused_rather_than_made_up(tmp_path):
    name = write_model(tmp_path / "hollow", SMALL, weights=False)
    with pytest.raises(RuntimeError, match=r"hollow.*cannot be loaded"):
        load_vlm(name)


def test_weights_of_another_shape_are_refused(tmp_path, names):
    folder = tmp_path / "other"
    name = write_model(folder, SMALL | {"width": 64}, weights=False)
    weights = names["vit"].removeprefix("local-dir:") + "/open_clip_model.safetensors"
    (folder / "open_clip_model.safetensors").write_bytes(Path(weights).read_bytes())
    with pytest.raises(RuntimeError, match=r"other.*cannot be loaded"):
        load_vlm(name)


@pytest.mark.parametrize(
    "name",
    ["hf-hub:nobody/no-such-model", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/no_such_tag",
     "No-Such-Model/laion", "no-such-model", "local-dir:nowhere", "hf-clip:nobody/no-such-model",
     "hf-clip:no/such/folder", "plip", "clip-b-32", "biomedclip", "quiltnet-b-16", "conch"],
)  # fmt: skip
def test_weights_out_of_reach_name_the_model_and_the_ways_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    start = time.monotonic()
    with pytest.raises(RuntimeError) as error:
        load_vlm(name)
    assert time.monotonic() - start < 5
    for named in (name, "Hugging Face cache", "HF_HOME", "local-dir:<folder>", "list_pretrained"):
        assert named in str(error.value)
    for card in CARDS:
        assert card in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_stand_in_that_is_not_built_names_its_notebook_and_seed(output_root):
    with pytest.raises(FileNotFoundError, match=r"seed 3.*01_stand_in_vlm") as error:
        load_vlm("stand-in-toy", seed=3)
    assert str(output_root) in str(error.value)
    assert (paths.ROOT / "lib").is_dir() and not list(output_root.iterdir())


# --- cards ---------------------------------------------------------------------------------------


@pytest.fixture
def carded(names, tmp_path, monkeypatch):
    """Gives the small model a card, with some fields changed."""

    def write(**changed):
        plip = yaml.safe_load(paths.ROOT.joinpath("data", "vlms.yaml").read_text())["plip"]
        own = {"weights": names["vit"], "input_size": 32, "mean": MEAN, "std": STD}
        (tmp_path / "vlms.yaml").write_text(yaml.safe_dump({"mine": plip | own | changed}))
        monkeypatch.setattr(paths, "vlms_file", lambda: tmp_path / "vlms.yaml")

    return write


def test_a_model_that_agrees_with_its_card_keeps_the_short_name(carded):
    carded()
    assert load_vlm("mine").name == "mine"
    carded(mean="not stated", std="not stated")
    assert load_vlm("mine").mean == tuple(MEAN)


@pytest.mark.parametrize(
    "field, value",
    [("input_size", 64), ("mean", [0.7, 0.5, 0.61]), ("std", [0.5, 0.5, 0.5])],
)
def test_a_model_that_differs_from_its_card_is_refused_with_both_values(
    carded, names, field, value
):
    carded(**{field: value})
    for name in ("mine", names["vit"]):  # also when its weights are named directly
        with pytest.raises(RuntimeError) as error:
            load_vlm(name)
        own = {"input_size": [32], "mean": MEAN, "std": STD}[field]
        stated = [value] if field == "input_size" else value
        for named in (name, field, str(tuple(own)), str(tuple(stated)), "data/vlms.yaml"):
            assert named in str(error.value)


# --- a hub on this machine -----------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """What the hub client asks for: a repository's files, and each file with its etag."""

    files: dict  # repository → {name: bytes}
    asked: list
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        path = self.path.split("?")[0].strip("/")
        self.asked.append(path)
        organisation, model, verb, *rest = [*path.removeprefix("api/models/").split("/"), "", ""]
        files = self.files.get(f"{organisation}/{model}")
        name = "/".join(part for part in rest[1:] if part)
        if files is None:
            self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        elif path.startswith("api/"):
            self.reply(200, {}, self.listing(f"{organisation}/{model}", files, verb), body)
        elif verb == "resolve" and name in files:
            self.reply(200, {"ETag": f'"{sha256(files[name]).hexdigest()}"'}, files[name], body)
        else:
            self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"", body)

    def listing(self, repository, files, verb):
        if verb == "tree":
            entries = [{"type": "file", "path": n, "size": len(f), "oid": sha256(f).hexdigest()}
                       for n, f in files.items()]  # fmt: skip
            return json.dumps(entries).encode()
        siblings = [{"rfilename": n} for n in files]
        return json.dumps({"id": repository, "sha": self.COMMIT, "siblings": siblings}).encode()

    def reply(self, status, headers, content, body):
        self.send_response(status)
        known = {"X-Repo-Commit": self.COMMIT, "Content-Length": str(len(content))}
        for name, value in (known | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub_of(files):
    """The address of a hub with these files, and the paths that it was asked for."""
    handler = type("OwnHub", (Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LOAD = """
import json, sys
from lib.vlm import inference
from lib.vlm.loading import load_vlm

found = {}
for name in sys.argv[1:]:
    try:
        model = load_vlm(name, device="cpu")
        text = inference.embed_prompts(model, [["a gland"]])[0]
        found[name] = [model.name, model.image_size, list(model.mean), text.tolist()]
    except RuntimeError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def load_apart(names, home, output, **environment):
    """Load in a process of its own, as the hub client reads its settings once."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("HF_") and "proxy" not in n}
    own = {"HF_HOME": str(home), "OUTPUT_ROOT": str(output), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        cwd=paths.ROOT, env=kept | own | environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small models under the names of real ones, with the files that those have on the hub.

    BiomedCLIP's differs from its card, QuiltNet-B-16 is not there.
    """
    folder = tmp_path_factory.mktemp("hub")
    vision = {"image_size": 224, "patch_size": 56}
    own = {"mean": CARDS["plip"].mean, "std": CARDS["plip"].std}
    clip = write_clip(folder / "plip", small_clip(vision=vision), **own)
    (folder / "plip" / "model.safetensors").unlink()
    torch.save(clip.state_dict(), folder / "plip" / "pytorch_model.bin")
    (folder / "plip" / "tf_model.h5").write_bytes(b"not for us")
    write_model(folder / "quiltnet-b-32", SMALL | vision, **own)
    write_model(folder / "biomedclip", SMALL | vision, **own | {"std": (0.229, 0.224, 0.225)})
    return clip, {
        CARDS[name].weights.partition(":")[2]: {
            file.name: file.read_bytes() for file in (folder / name).iterdir()
        }
        for name in ("plip", "quiltnet-b-32", "biomedclip")
    }


@pytest.fixture(scope="module")
def loads(tmp_path_factory, published):
    """What loads from the hub, then from its cache alone without earlier conversions; the paths."""
    folder = tmp_path_factory.mktemp("loads")
    names = ["plip", "quiltnet-b-32", "biomedclip", "quiltnet-b-16"]
    with hub_of(published[1]) as (address, asked):
        online = load_apart(names, folder / "home", folder / "one", HF_ENDPOINT=address)
    gone = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": address}
    return online, load_apart(names, folder / "home", folder / "two", **gone), asked


def test_models_come_from_the_hub_and_then_from_its_cache(loads, published):
    online, offline, asked = loads
    for name in ("plip", "quiltnet-b-32"):
        assert online[name][:3] == [name, 224, list(CARDS[name].mean)]
        assert online[name] == offline[name]
    tokens = open_clip.SimpleTokenizer()(["a gland"])
    with torch.inference_mode():
        text = published[0](input_ids=tokens, pixel_values=torch.zeros(1, 3, 224, 224)).text_embeds
    torch.testing.assert_close(torch.tensor(online["plip"][3]), text[0], atol=1e-5, rtol=0)
    assert not [path for path in asked if "discussions" in path or path.endswith(".h5")]


def test_without_hub_and_cache_the_error_names_the_model_and_the_ways(loads):
    for found in loads[:2]:
        for named in ("VLM 'quiltnet-b-16' cannot be loaded", "HF_HOME", "hf-clip:<folder>"):
            assert named in found["quiltnet-b-16"]


def test_a_model_of_the_hub_that_differs_from_its_card_is_refused(loads):
    for found in loads[:2]:
        for named in ("VLM 'biomedclip'", "std", "0.229", "0.26862954"):
            assert named in found["biomedclip"]


def test_runs_side_by_side_convert_once(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    made, save = [], hf_clip.save_as_open_clip
    monkeypatch.setattr(
        hf_clip, "save_as_open_clip", lambda *a: (made.append(a), time.sleep(0.5), save(*a))
    )
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(load_vlm, [f"hf-clip:{tmp_path / 'clip'}"] * 3))
    assert len(made) == 1 and len({model.scale for model in found}) == 1


# --- CONCH ---------------------------------------------------------------------------------------


class TinyTower(nn.Module):
    """The image tower of CONCH in small: tokens, pooled to one vector, projected."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 12, 64, 64)
        self.head = nn.Sequential()
        self.pool = nn.Linear(12, 10)
        self.proj_contrast = nn.Parameter(torch.randn(10, 10))
        self.image_size = (448, 448)
        self.image_mean, self.image_std = CARDS["conch"].mean, CARDS["conch"].std

    def forward_no_head(self, images, normalize=False):
        pooled = self.pool(self.trunk(images).flatten(2).mean(2))
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def forward(self, images):
        return self.forward_no_head(images) @ self.proj_contrast, self.trunk(images)


class TinyConch(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = TinyTower()
        self.words = nn.Embedding(20, 10)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))
        self.context_length = 128

    def encode_image(self, images, normalize=True, proj_contrast=True):
        if not proj_contrast:
            return self.visual.forward_no_head(images, normalize=normalize)
        features = self.visual(images)[0]
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text, normalize=True, embed_cls=True):
        text = text[:, :-1] if embed_cls else text
        places = torch.linspace(0.5, 1, text.shape[1])[:, None]
        features = (self.words(text) * places).mean(1)
        return F.normalize(features, dim=-1) if normalize else features


def tiny_tokenizer():
    words = ["<pad>", "<start_of_text>", "<end_of_text>", "[UNK]", "fat", "a", "gland", "muscle"]
    vocab = {word: number for number, word in enumerate(words)}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>",
        special_tokens=[("<start_of_text>", 1), ("<end_of_text>", 2)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token=words[1], eos_token=words[2], pad_token=words[0]
    )


@pytest.fixture
def tiny_conch(monkeypatch):
    """A package `conch` with the interface of the real one; what it was asked for is in `asked`."""
    torch.manual_seed(0)
    inner, asked = TinyConch(), []

    def create(model_cfg, checkpoint_path=None, return_transform=True, hf_auth_token=None):
        asked.append((model_cfg, checkpoint_path))
        return (inner, None) if return_transform else inner

    package = types.ModuleType("conch.open_clip_custom")
    package.create_model_from_pretrained, package.get_tokenizer = create, tiny_tokenizer
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", package)
    return inner, asked


def test_without_its_package_conch_says_what_to_install_and_whom_to_ask(monkeypatch):
    monkeypatch.setitem(sys.modules, "conch", None)
    for name in ("conch", "conch:conch_ViT-B-16"):
        with pytest.raises(RuntimeError) as error:
            load_vlm(name)
        for named in (name, "package conch is not installed", "pip install git+https://github.com",
                      "https://huggingface.co/MahmoodLab/conch", "hf auth login"):  # fmt: skip
            assert named in str(error.value)


def test_conchs_embeddings_are_its_contrastive_ones(tiny_conch):
    """Against a tiny package with CONCH's interface; the real package and weights were not run."""
    inner, asked = tiny_conch
    found = load_vlm("conch", device="cpu")
    assert asked == [("conch_ViT-B-16", "hf_hub:MahmoodLab/conch")]
    assert found.name == "conch" and found.image_size == 448 and found.mean == CARDS["conch"].mean
    pixels = torch.rand(2, 3, 448, 448)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (found.mean, found.std))
    batch = (pixels - mean) / std
    unprojected, projected = inference.encode_images(found, pixels)
    close = {"atol": 1e-5, "rtol": 0} if found.dtype is torch.float32 else {"atol": 0.05, "rtol": 0}
    with torch.inference_mode():
        bare = inner.encode_image(batch, normalize=False, proj_contrast=False)
        torch.testing.assert_close(unprojected, bare, **close)
        torch.testing.assert_close(projected, inner.encode_image(batch), **close)
    assert found.scale == pytest.approx(torch.tensor(4.0).exp().item())
    assert found.model.visual.proj is inner.visual.proj_contrast


def test_conchs_tokens_leave_the_last_place_free(tiny_conch):
    """As the real package's `tokenize` does; that one was read, not run."""
    inner, _ = tiny_conch
    found = load_vlm("conch", device="cpu")
    tokens = found.tokenizer(["a gland", "fat " * 200])
    assert tokens.shape == (2, 128)
    assert tokens[0].tolist() == [1, 5, 6, 2] + [0] * 124
    assert tokens[1].tolist() == [1] + [4] * 125 + [2, 0]
    text = inference.embed_prompts(found, [["a gland"], ["fat", "muscle"]])
    with torch.inference_mode():
        each = inner.encode_text(found.tokenizer(["a gland", "fat", "muscle"]))
    torch.testing.assert_close(text[0], each[0])
    torch.testing.assert_close(text[1], F.normalize(each[1:].mean(0), dim=0))
