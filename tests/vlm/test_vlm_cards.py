"""Cards of VLMs: every field is read and checked, and open_clip's own names agree with them."""

import re

import open_clip
import pytest
import yaml

from figures.card_tables import vlms_table
from lib import paths
from lib.vlm.cards import VLMCard, check_vlm, describe_vlm, read_vlm_cards

CARDS = read_vlm_cards()
NAMES = ["clip-b-32", "clip-b-16", "plip", "biomedclip", "quiltnet-b-32", "quiltnet-b-16", "conch"]
NAMES += ["keep", "pathgen-clip-l", "omiclip", "conch-1.5", "musk"]
GOOD = {
    "title": "A model",
    "weights": "local-dir:somewhere",
    "source": "https://example.org/a/model",
    "input_size": 32,
    "mean": [0.5, 0.5, 1],
    "std": [0.2, 0.2, 0.2],
    "prompt_style": "a {class}",
    "licence": "MIT",
    "citation": "Nobody, 2024.",
    "access": "ask first",
    "refused": "not public",
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads cards from values in place of those of the repository."""

    def from_values(entries):
        (tmp_path / "vlms.yaml").write_text(yaml.safe_dump(entries))
        monkeypatch.setattr(paths, "vlms_file", lambda: tmp_path / "vlms.yaml")
        return read_vlm_cards()

    return from_values


def test_the_models_that_we_promise_have_a_card():
    assert list(CARDS) == NAMES
    assert all(name == card.name for name, card in CARDS.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_where_what_and_under_which_licence(name):
    card = CARDS[name]
    assert re.fullmatch(r"https://(github\.com|huggingface\.co)/[\w-]+/[\w.-]+", card.source)
    assert "{class}" in card.prompt_style
    assert card.input_size % 16 == 0
    assert card.title and card.licence and re.search(r"\b20\d\d\b", card.citation)
    for part in (card.title, card.licence, card.citation):
        assert part in card.citation_line
    assert "\n" not in card.citation_line


def test_who_has_to_be_asked_for_says_so_and_what_cannot_be_used_names_another():
    assert [name for name, card in CARDS.items() if card.access] == ["conch", "omiclip"]
    refused = [name for name, card in CARDS.items() if card.refused]
    assert refused == ["conch-1.5", "musk"]
    for name in refused:
        with pytest.raises(ValueError, match=rf"'{name}' cannot be used: .*Use (conch|keep)"):
            check_vlm(f"plip+{name}")
    for step in ("pip install git+https://github.com/mahmoodlab/CONCH", CARDS["conch"].source):
        assert step in CARDS["conch"].access


@pytest.mark.parametrize("name", [n for n in NAMES if ":" not in CARDS[n].weights])
def test_open_clips_own_names_exist_with_this_size_and_normalisation(name):
    card = CARDS[name]
    model, tag = card.weights.split("/")
    assert (model, tag) in open_clip.list_pretrained()
    config = open_clip.get_model_config(model)
    published = open_clip.get_pretrained_cfg(model, tag)
    assert config["vision_cfg"]["image_size"] == card.input_size
    assert tuple(published["mean"]) == card.mean and tuple(published["std"]) == card.std
    assert published["quick_gelu"] == config["quick_gelu"]  # else a silent error


def test_every_field_is_read_and_what_no_source_states_can_be_left_open(read):
    expected = GOOD | {"name": "mine", "mean": (0.5, 0.5, 1.0), "std": (0.2, 0.2, 0.2)}
    assert read({"mine": GOOD})["mine"] == VLMCard(**expected)
    card = read({"mine": GOOD | {"mean": "not stated", "std": "not stated"}})["mine"]
    assert card.mean is None and card.std is None
    assert "normalisation not stated" in vlms_table().input[0]


@pytest.mark.parametrize(
    "field, value, named",
    [
        ("colour", "red", "unknown field 'colour'"),
        ("name", "other", "unknown field 'name'"),
        ("mean", [0.5, 0.5], "mean, 3: "),
        ("mean", [123.0, 116.0, 103.0], "mean, 1: .* less than or equal to 1"),
        ("std", "unknown", "std: "),
        ("input_size", "224", "input_size: "),
        ("input_size", True, "input_size: "),
        ("licence", "", "licence: "),
        ("source", "file:///etc/passwd", "source: "),
        ("citation", None, "citation: "),
    ],
)
def test_a_wrong_field_is_named(read, field, value, named):
    with pytest.raises(ValueError, match=rf"vlms\.yaml, mine: {named}"):
        read({"mine": GOOD | {field: value}})


def test_a_missing_field_and_a_file_or_a_model_without_fields_are_refused(read):
    for field in GOOD.keys() - {"access", "refused"}:
        with pytest.raises(ValueError, match=rf"vlms\.yaml, mine: {field}: it is missing"):
            read({"mine": {n: v for n, v in GOOD.items() if n != field}})
    with pytest.raises(ValueError, match="must hold named models"):
        read(["mine"])
    with pytest.raises(ValueError, match="mine must hold named fields"):
        read({"mine": "plip"})


def test_the_table_has_a_short_row_per_card():
    table = vlms_table()
    assert list(table.columns) == ["model", "from", "input", "prompts", "licence"]
    assert table.model.tolist() == [f"`{name}`" for name in NAMES]
    notes = table["from"].str.partition(", ")[2].tolist()
    assert notes[6:] == ["on request", "", "", "on request", "refused", "refused"]
    assert not table.map(lambda cell: "|" in cell or "\n" in cell).any(axis=None)
    assert table.drop(columns="from").map(len).max(axis=None) < 70


@pytest.mark.parametrize(
    "vlm, message",
    [
        ("plipp", "there is no VLM 'plipp': did you mean plip?"),
        ("plip+biomedclp", "there is no VLM 'biomedclp': did you mean biomedclip or omiclip?"),
        ("gpt", f"there is no VLM 'gpt': there are {', '.join(NAMES)}"),
        ("stand-in-ebi", "there is no dataset 'ebi': did you mean ebhi?"),
    ],
)
def test_a_name_that_there_is_not_gets_one_line_with_the_near_ones(vlm, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        check_vlm(vlm)
    assert str(error.value) == message


def test_names_of_others_are_left_to_the_loader_and_a_stand_in_says_what_it_learnt_on():
    assert "a fifth of its source tiles, re-st" in describe_vlm("stand-in-lc25k_restained")
    assert describe_vlm("ViT-B-32/openai") == "ViT-B-32/openai"
    for vlm in (
        *NAMES[:-2],
        "plip+stand-in-ebhi",
        "ViT-B-32/openai",
        "hf-hub:a/b",
        "local-dir:a+b",
    ):
        check_vlm(vlm)
