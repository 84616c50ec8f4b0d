"""Classes and their words from one line of text."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from lib.labels import NONE_OF_THESE, OTHER_TISSUE
from lib.vlm.prompts import PAPERS, by_semicolon, fill

NAMED = re.compile(r"(?<![<>=!])=(?!=)")  # not of >=, <=, == or !=
MOST, LONGEST = 500, 1000  # classes, and letters of a name or wording


def parse_words(
    classes: str, other_tissue: str, templates: Sequence[str] = (PAPERS,)
) -> tuple[dict[str, list[str]], list[str]]:
    """Prompts of the classes and, after them, of other tissue; the names of the latter.

    Both as of `parse_classes`, which says what is refused; so is other tissue called
    `OTHER_TISSUE`, which stands for all of it, and a class of that name beside it.
    """
    prompts = parse_classes(classes, templates)
    if not by_semicolon(other_tissue):
        return prompts, []
    every = parse_classes(f"{classes}; {other_tissue}", templates)
    if OTHER_TISSUE in every:
        raise ValueError(f"{OTHER_TISSUE!r} stands for all that is no class: name the tissue")
    return every, list(every)[len(prompts) :]


def parse_classes(text: str, templates: Sequence[str] = (PAPERS,)) -> dict[str, list[str]]:
    """Class names and their prompts from one line of text.

    `benign colonic tissue; colon adenocarcinoma`, or with names of their own and several wordings
    `benign = benign colonic tissue | normal mucosa; malignant = colon adenocarcinoma`. Each wording
    is put into each template. Raises ValueError for fewer than two classes or more than `MOST`, a
    class without words, one called `NONE_OF_THESE`, more than `LONGEST` letters or other signs than
    letters, and a name or a prompt that two classes share but for capitals and spaces.
    """
    names: dict[str, list[str]] = {}
    for entry in by_semicolon(text):
        *name, alternatives = NAMED.split(entry, maxsplit=1)
        wordings = [wording.strip() for wording in alternatives.split("|") if wording.strip()]
        if not wordings:
            raise ValueError(f"the class {entry!r:.100} has no words")
        called = "".join(name).strip() or wordings[0]
        if called == NONE_OF_THESE:
            raise ValueError(f"{called!r} stands for no class: call it otherwise")
        for words in (called, *wordings):
            _check_words(words)
        if called in names:
            raise ValueError(f"two classes are called {called!r}")
        names[called] = wordings
    if len(names) < 2:
        shown = f"there are {len(names)} in {text!r:.200}"
        raise ValueError(f"at least two classes are needed, by semicolon; {shown}")
    if len(names) > MOST:
        raise ValueError(f"there are {len(names)} classes, at most {MOST} are taken")
    for what, words in (
        ("are called", names),
        ("have the words", [wording for wordings in names.values() for wording in wordings]),
    ):
        if twice := shared(words):
            raise ValueError(f"two classes {what} {twice!r}")
    return dict(zip(names, fill(list(names.values()), templates), strict=True))


def shared(texts: Iterable[str]) -> str:
    """The first text that another one is, but for capitals, spaces and how accents are composed."""
    seen: set[str] = set()
    for text in texts:
        plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
        if plain in seen:
            return text
        seen.add(plain)
    return ""


def _check_words(words: str) -> None:
    if len(words) > LONGEST:
        raise ValueError(f"{words[:60]!r} … has {len(words)} letters, at most {LONGEST:,} are read")
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", words):
        raise ValueError(f"{words!r:.100} is no text: it holds control characters")
