"""Classes and their words from one line of text."""

import unicodedata
from collections.abc import Sequence

from lib.labels import NONE_OF_THESE
from lib.vlm.prompts import PAPERS, by_semicolon, fill


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
