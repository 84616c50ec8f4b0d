"""Classes and their words from one line of text."""

import unicodedata
from collections.abc import Sequence

from lib.labels import NONE_OF_THESE, OTHER_TISSUE
from lib.vlm.prompts import PAPERS, by_semicolon, fill


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
    is put into each template. Raises ValueError for fewer than two classes, a class without words,
    one called `NONE_OF_THESE`, and a name or a prompt that two classes share.
    """
    names: dict[str, list[str]] = {}
    for entry in by_semicolon(text):
        name, named, alternatives = entry.partition("=")
        if not named:
            name, alternatives = "", entry
        wordings = [wording.strip() for wording in alternatives.split("|") if wording.strip()]
        if not wordings:
            raise ValueError(f"the class {entry!r} has no words")
        name = name.strip() or wordings[0]
        if name == NONE_OF_THESE:
            raise ValueError(f"{name!r} stands for no class: call it otherwise")
        if unicodedata.normalize("NFC", name) in (unicodedata.normalize("NFC", n) for n in names):
            raise ValueError(f"two classes are called {name!r}")
        names[name] = wordings
    if len(names) < 2:
        raise ValueError(
            f"at least two classes are needed, by semicolon; there are {len(names)} in {text!r}"
        )
    flat = [wording for wordings in names.values() for wording in wordings]
    twice = sorted({wording for wording in flat if flat.count(wording) > 1})
    if twice:
        raise ValueError(f"two classes have the words {twice[0]!r}")
    return dict(zip(names, fill(list(names.values()), templates), strict=True))
