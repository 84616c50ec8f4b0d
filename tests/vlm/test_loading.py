"""VLMs by name: folders, the hub, Hugging Face CLIPs, CONCH; checked against their cards."""

import json
import pickle
import shutil
import time
from fnmatch import fnmatch
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_models import MEAN, SMALL, STD, TIMM, small_clip, write_clip, write_model

from lib import paths
from lib.vlm import inference
from lib.vlm.cards import read_vlm_cards
from lib.vlm.loading import load_vlm

CARDS = read_vlm_cards()
WEIGHTS = "open_clip_model.safetensors"


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


def test_a_folder_without_weights_or_with_others_is_refused_rather_than_made_up(tmp_path, names):
    assert load_vlm(names["vit"]).scale == pytest.approx(1 / 0.07, rel=1e-4)
    name = write_model(tmp_path / "other", SMALL | {"width": 64}, weights=False)
    with pytest.raises(RuntimeError, match=r"other.*cannot be loaded"):
        load_vlm(name)
    weights = Path(names["vit"].removeprefix("local-dir:")) / WEIGHTS
    shutil.copy(weights, tmp_path / "other")
    with pytest.raises(RuntimeError, match=r"other.*cannot be loaded"):
        load_vlm(name)
    with pytest.raises(RuntimeError, match="open_clip lists no weights"):
        load_vlm(f"ViT-B-32/{weights}")  # a file is no weights tag


@pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:nobody/no-such-model", "hf-clip:nobody/no-such-model", "hf-clip:no/such/folder"),
        *("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/no_such_tag", "No-Such-Model/laion"),
        *("local-dir:nowhere", "plip", "clip-b-32", "biomedclip", "quiltnet-b-16", "conch"),
    ],
)
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


# --- folders of others ---------------------------------------------------------------------------

BERT = {"model_type": "bert", "vocab_size": 9, "hidden_size": 16, "intermediate_size": 16}
BERT |= {"num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = "[PAD] [UNK] [CLS] [SEP] a gland fat of muscle".split()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folders of repositories by name, of which only what is asked for is given out."""
    folders = {}

    def download(repository, allow_patterns):
        if repository not in folders:
            raise OSError(f"{repository} is neither on the hub nor in its cache")
        given_out = tmp_path / "given out" / repository
        given_out.mkdir(parents=True, exist_ok=True)
        for file in folders[repository].iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, given_out)
        return str(given_out)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return folders


@pytest.fixture
def hostile(tmp_path, monkeypatch, hub):
    """Folders and repositories whose Python file leaves a mark when it is run; all answer yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    def write(name, files, text=None, vision=None):
        folder = tmp_path / name.replace("/", "--")
        if "/" in name:
            hub[name] = folder
        write_model(folder, SMALL)
        file = folder / "open_clip_config.json"
        config = json.loads(file.read_text())
        config["model_cfg"]["text_cfg"] |= text or {}
        config["model_cfg"]["vision_cfg"] |= vision or {}
        file.write_text(json.dumps(config))
        (folder / "evil.py").write_text(
            f"open({str(tmp_path / 'mark')!r}, 'w')\nfrom transformers import BertTokenizer as Evil"
            ", BertConfig as EvilConfig, BertModel as EvilModel\n"
        )
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        for file_name, content in files.items():
            (folder / file_name).write_text(json.dumps(content))
        return folder

    yield write
    assert not (tmp_path / "mark").exists(), "code of a model was run"


EVIL_WORDS = {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}}
EVIL_BERT = {
    "config.json": BERT
    | {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
}


@pytest.mark.parametrize("name", ["local-dir:model", "hf-hub:them/model"])
@pytest.mark.parametrize(
    "files, text, named",
    [
        (EVIL_WORDS, {"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
        (EVIL_WORDS, {}, "tokenizer_config.json: auto_map"),
        (EVIL_BERT, {"hf_model_name": "them/words"}, "config.json: auto_map"),
        (EVIL_BERT, {"hf_model_name": "them/words", "hf_tokenizer_name": ""}, "auto_map"),
        ({}, {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "'bpe_path'"),
        ({}, {"tokenizer_kwargs": {"reduction_mask": "random"}}, "'reduction_mask'"),
        ({}, {"tokenizer_kwargs": ["a"]}, "tokenizer_kwargs must hold"),
        ({}, {"norm_kwargs": {"device": "cuda"}}, "'device'"),
        ({}, {"surprise": 1}, "'surprise'"),
        ({}, {"hf_tokenizer_name": ["them/words"]}, "hf_tokenizer_name must be a text"),
    ],
)
def test_code_of_a_model_is_refused_by_file_and_field(
    hostile, tmp_path, monkeypatch, name, files, text, named
):
    monkeypatch.chdir(tmp_path)
    hostile("them/words", files)
    hostile(name.partition(":")[2], files, {"hf_tokenizer_name": "them/words"} | text)
    with pytest.raises(ValueError, match=named) as error:
        load_vlm(name, device="cpu")
    assert ".json" in str(error.value)


@pytest.mark.parametrize("timm_name", ["local-dir:other", "hf-hub:them/other", "no_such_model"])
def test_a_vision_tower_that_is_not_timms_own_is_refused(hostile, timm_name):
    folder = hostile("model", {}, vision={"timm_model_name": timm_name})
    with pytest.raises(ValueError, match="timm_model_name"):
        load_vlm(f"local-dir:{folder}")


def test_text_towers_of_other_architectures_and_their_kernels_are_refused(hostile):
    for config, named in (
        ({"model_type": "vision-text-dual-encoder"}, "model_type 'vision-text-dual-encoder'"),
        ({"model_type": "clip"}, "model_type 'clip'"),
        (BERT | {"text_config": {"auto_map": {}}}, "auto_map"),
    ):
        hostile(f"them/{len(named)}", {"config.json": config})
        folder = hostile(f"model{len(named)}", {}, {"hf_model_name": f"them/{len(named)}"})
        with pytest.raises(ValueError, match=named):
            load_vlm(f"local-dir:{folder}")


@pytest.mark.parametrize("scheme", ["local-dir", "hf-hub", "stored elsewhere"])
def test_a_text_tower_of_the_hub_without_code_loads(hostile, tmp_path, monkeypatch, scheme):
    monkeypatch.chdir(tmp_path)
    kernel = {"attn_implementation": "nobody/kernel", "configuration_files": ["config.4.0.0.json"]}
    hostile(
        "them/words",
        {"config.json": BERT | kernel} | {"config.4.0.0.json": EVIL_BERT["config.json"]},
    )
    text = {
        "hf_model_name": "them/words",
        "hf_tokenizer_name": "them/words",
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": 16,
    }
    name = "them/model" if scheme == "hf-hub" else "model"
    folder = hostile(name, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}}, text)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    tower = {"hf_model_name": str(tmp_path / "plain"), "hf_model_pretrained": False}
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps(BERT))
    torch.manual_seed(1)
    model = open_clip.CustomTextCLIP(16, config["vision_cfg"], config["text_cfg"] | tower).eval()
    save_file(model.state_dict(), folder / WEIGHTS)
    if scheme == "stored elsewhere":
        config["text_cfg"]["hf_model_name"] = str(tmp_path / "them--words")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    found = load_vlm(f"{'hf-hub' if scheme == 'hf-hub' else 'local-dir'}:{name}", device="cpu")
    text = inference.embed_prompts(found, [["a gland"], ["fat"]])
    tokens = torch.tensor([[2, 4, 5, 3] + [0] * 12, [2, 6, 3] + [0] * 13])
    with torch.inference_mode():
        torch.testing.assert_close(text, model.encode_text(tokens, normalize=True))


def test_a_snapshot_with_the_configuration_of_another_library_beside_loads(hostile):
    folder = hostile("model", {"config.json": {"model_type": "clip", "text_config": {}}})
    assert load_vlm(f"local-dir:{folder}", device="cpu").image_size == 32


@pytest.mark.parametrize("preprocessing", [{"image_mean": [0.5] * 3}, [0.5] * 3])
def test_a_normalisation_that_open_clip_would_leave_out_is_refused(hostile, preprocessing):
    file = hostile("model", {}) / "open_clip_config.json"
    config = json.loads(file.read_text()) | {"preprocess_cfg": preprocessing}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"open_clip_config\.json: preprocess_cfg"):
        load_vlm(f"local-dir:{file.parent}")


@pytest.mark.parametrize("scheme", ["local-dir:", "hf-clip:"])
@pytest.mark.parametrize(
    "content, named",
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "' + "x" * 5_000_000 + '"}', "larger than"),
        ("{,", "no JSON"),
        ("[]", "named fields"),
        ('{"\xff": 1}', "no JSON"),
    ],
)
def test_a_configuration_that_is_none_is_refused_by_file(hostile, scheme, content, named):
    folder = hostile("model", {})
    file = folder / ("config.json" if scheme == "hf-clip:" else "open_clip_config.json")
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=named) as error:
        load_vlm(f"{scheme}{folder}")
    assert str(file) in str(error.value)


@pytest.fixture
def evil(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    return {"a": Evil()}


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "model.pth", "weights.pt"])
def test_pickled_weights_are_not_opened(hostile, evil, file):
    folder = hostile("model", {})
    (folder / WEIGHTS).unlink()
    (folder / file).write_bytes(pickle.dumps(evil))
    with pytest.raises(RuntimeError, match=rf"are pickles, .*{file}"):
        load_vlm(f"local-dir:{folder}")


def test_of_a_model_with_a_card_a_pickle_is_read_as_tensors_alone(hostile, carded, evil):
    folder = hostile("model", {})
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    carded(weights=f"local-dir:{folder}")
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    loaded = load_vlm("mine").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    torch.save(evil, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(RuntimeError, match="VLM 'mine' cannot be loaded"):
        load_vlm("mine")


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
    "field, value", [("input_size", 64), ("mean", [0.7, 0.5, 0.61]), ("std", [0.5, 0.5, 0.5])]
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


@pytest.mark.parametrize("name", ["musk", "hf-hub:MahmoodLab/conchv1_5"])
def test_a_model_that_cannot_be_used_is_refused_with_another_to_use(hub, name):
    with pytest.raises(ValueError, match=r"cannot be used: .*Use "):
        load_vlm(name)


def test_a_model_of_sigmoids_says_that_its_softmax_approximates(tmp_path, names):
    name = write_model(tmp_path / "siglip", SMALL, weights=False)
    file = tmp_path / "siglip" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["init_logit_bias"] = -10
    file.write_text(json.dumps(config))
    save_file(open_clip.create_model(name).state_dict(), tmp_path / "siglip" / WEIGHTS)
    assert load_vlm(names["vit"]).caveat == ""
    caveat = load_vlm(f"{names['vit']}+{name}").caveat
    assert caveat.startswith(f"note: {name} learnt by a sigmoid") and "softmax" in caveat


# --- the hub --------------------------------------------------------------------------------------


def test_models_of_the_hub_load_by_their_short_names_and_are_compared_with_their_cards(
    hub, tmp_path
):
    """Small models under the names of real ones; BiomedCLIP's differs from its card."""
    vision, plip = {"image_size": 224, "patch_size": 56}, CARDS["plip"]
    own = {"mean": plip.mean, "std": plip.std}
    clip = write_clip(tmp_path / "plip", small_clip(vision=vision), **own)
    write_model(tmp_path / "quiltnet-b-32", SMALL | vision, **own)
    write_model(tmp_path / "biomedclip", SMALL | vision, **own | {"std": (0.229, 0.224, 0.225)})
    for name in ("plip", "quiltnet-b-32", "biomedclip"):
        hub[CARDS[name].weights.partition(":")[2]] = tmp_path / name
        for unwanted in ("pytorch_model.bin", "tf_model.h5", "code.py"):
            (tmp_path / name / unwanted).write_bytes(b"not for us")
    for name in ("plip", "quiltnet-b-32"):
        found = load_vlm(name, device="cpu")
        assert (found.name, found.image_size, found.mean) == (name, 224, CARDS[name].mean)
        if name == "plip":
            text = inference.embed_prompts(found, [["a gland"]])
    tokens = open_clip.SimpleTokenizer()(["a gland"])
    with torch.inference_mode():
        same = clip(input_ids=tokens, pixel_values=torch.zeros(1, 3, 224, 224)).text_embeds
    torch.testing.assert_close(text, same, atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match=r"VLM 'biomedclip'.* std .*0\.229.*0\.26862954"):
        load_vlm("biomedclip")
    unwanted = {".bin", ".h5", ".py"}
    assert not [f for f in (tmp_path / "given out").rglob("*") if f.suffix in unwanted]
