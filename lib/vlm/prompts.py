"""Prompts of the classes from templates, and what a model reads of them."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lib.data.cards import Card

if TYPE_CHECKING:
    import torch

# Texts and, if another one than the model's, the number of tokens of a row → tokens [N, L].
Tokenizer = Callable[..., "torch.Tensor"]

LONGEST = 1000  # letters of a template
PAPERS = "An H&E image of {}"  # VLM-CPL's
# Common wordings; ours.
TEMPLATES = (
    PAPERS,
    "{}",
    "an image of {} under the microscope",
    "histopathology of {}, haematoxylin and eosin",
    "a tile of a pathology slide that shows {}",
    "{} is present in this tissue section",
)


def by_semicolon(text: str) -> list[str]:
    """The words between the semicolons, without those that are empty.

    Raises ValueError for bytes of a command line that are no text.
    """
    if text != text.encode(errors="replace").decode():
        raise ValueError(f"{text!r:.200} is no text in UTF-8")
    return [words.strip() for words in text.split(";") if words.strip()]


def parse_templates(text: str) -> list[str]:
    """Templates by semicolon, each with one {} for the class.

    Raises ValueError naming a template without it, or of more than `LONGEST` letters.
    """
    templates = by_semicolon(text)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r:.100} needs one {{}} for the class")
        if len(template) > LONGEST:
            raise ValueError(f"the template {template!r:.60} … has {len(template)} letters")
    return templates


def fill(names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[list[str]]:
    """Every template with every name of each class."""
    return [[t.replace("{}", name) for t in templates for name in synonyms] for synonyms in names]


def class_prompts(card: Card, templates: Sequence[str] = ()) -> list[list[str]]:
    """Prompts of each class: the card's own, or `templates` about the same tissue.

    The tissue is what follows the words of the papers' template in a prompt of the card, or the
    whole prompt where it does not begin with them.
    """
    own = [list(c.prompts) for c in card.classes]
    if not templates:
        return own
    words = PAPERS.partition("{}")[0]
    return fill([[prompt.removeprefix(words) for prompt in prompts] for prompts in own], templates)


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str], where: str) -> "torch.Tensor":
    """Tokens [N, L] of the texts. Raises ValueError with the words that the model would not see."""
    for text in texts:
        if _is_cut(tokenizer, text):
            # Words, and single characters of scripts without spaces.
            words = list(re.finditer(r"[!-\u2dff]+|\S", text))
            first = bisect_left(
                words, True, key=lambda word: _is_cut(tokenizer, text[: word.end()])
            )
            raise ValueError(
                f"{where}: the model reads {len(tokenizer([text])[0])} tokens and would not see "
                f"{text[words[first].start() :]!r}, the end of {text!r}: use fewer words"
            )
    return tokenizer(list(texts))


def _is_cut(tokenizer: Tokenizer, text: str) -> bool:
    tokens, padding = _all_tokens(tokenizer, text)
    seen = tokenizer([text])[0]
    return seen[seen != padding].tolist() != tokens


def _all_tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], int]:
    """Tokens of a text of any length, and the one that fills a row up."""
    room = 2 * tokenizer([text]).shape[1] + 32 * len(text)
    row = tokenizer([text], context_length=room)[0]
    padding = int(row.mode().values)  # most of it
    return row[row != padding].tolist(), padding


def refuse_alike(tokenizer: Tokenizer, prompts: Sequence[Sequence[str]], where: str) -> None:
    """Raise ValueError naming two prompts of different classes that are one for the model.

    For a tokenizer all characters that it does not know are one, and capitals often small.
    """
    unknown = getattr(getattr(tokenizer, "tokenizer", None), "unk_token_id", None)
    seen: dict[tuple[int, ...], tuple[int, str]] = {}
    for c, prompt in ((c, prompt) for c, of_class in enumerate(prompts) for prompt in of_class):
        known = tuple(t for t in _all_tokens(tokenizer, prompt)[0] if t != unknown)
        other, alike = seen.setdefault(known, (c, prompt))
        if other != c and alike != prompt:
            raise ValueError(
                f"{where}: the prompts {alike!r} of class {other} and {prompt!r} of class {c} are "
                "the same for the model: use words that it can tell apart"
            )
