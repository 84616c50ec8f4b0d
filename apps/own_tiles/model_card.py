"""The card of a classifier of own tiles: what it learnt from, how good it is, its licence."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from apps.own_tiles.classifier import read_classifier
from lib import paths
from lib.alarm import Alarm
from lib.artefacts import atomic
from lib.quality.drift import MOST_TILES
from lib.vlm.cards import describe_vlm, read_encoder_cards, read_vlm_cards, split_name

HUB = "https://huggingface.co/"
QUALITY = "How good it is"
NOT_AUDITED = (
    "Nobody has audited this classifier: how often it is correct is not known. Label tiles that "
    "are drawn by chance before you rely on it."
)
LIMITS = (
    "Not for diagnosis. It gives every tile one of the classes above, also a tile that shows none "
    "of them; a confidence is the networks' own opinion. Tiles of another scanner, stain or "
    "magnification may be told apart less well than those that it learnt from."
)
NO_LICENCE = "Its licence is not known here: read it where the model comes from."
STAND_IN = "Built here; its towers are networks of open packages, its tiles those of the source."


def write_model_card(
    classifier: Path,
    tiles: pd.DataFrame,
    *,
    name: str,
    alarms: Sequence[Alarm],
    n_labelled: int = 0,
    audit: Sequence[str] = (),
) -> Path:
    """Write README.md beside a saved classifier, with the header that the Hugging Face hub reads.

    Parameters
    ----------
    classifier : folder of `save_classifier`
    tiles : those that it learnt from, a row each, with the column kept
    name : of their folder
    alarms : what is suspicious without a label
    n_labelled : tiles with a label of a person
    audit : sentences of an audit, if there was one

    """
    description, _ = read_classifier(classifier)
    vlm, origin = description["vlm"], description["made_from"]
    classes = [
        f"| {_code(c)} | {_code(' · '.join(p))} |" for c, p in description["classes"].items()
    ]
    if others := ", ".join(map(_code, origin.get("other_tissue", []))):
        classes += ["", f"Of these, other tissue that is none of the classes asked for: {others}."]
    by_people = f" {n_labelled} tiles have a label of a person instead." if n_labelled else ""
    sections = {
        "": ["| class | prompts |", "| --- | --- |", *classes],
        "Data": [
            f"{len(tiles)} tiles of the folder {_code(name)}, without copies; digest of their "
            f"names and bytes: `{origin['tiles']}`. {description['n_views']} random views of "
            f"each were read at {description['image_size']} px. Features of up to {MOST_TILES} of "
            "them, and no pictures, lie beside the networks: other tiles are held to them."
        ],
        "Labels": [
            f"{_code(vlm)} labelled the tiles from the prompts. Two networks learnt from "
            f"{tiles.kept.sum()} of these labels, which views and clusters confirm.{by_people}"
        ],
        QUALITY: audit or [NOT_AUDITED],
        "Alarms": [f"- **{a.name}**: {a.text}" for a in alarms] or ["None rang."],
        "Limits": [LIMITS],
        "Model and licence": [
            f"The networks read features of {_code(describe_vlm(vlm))} and are of no use without "
            f"it; digest of its weights: `{description['vlm_digest']}`.",
            *(f"- {line}" for line in _licences(vlm)),
        ],
    }
    lines = [f"# Classifier of the tiles of {_code(name)}"]
    for title, texts in sections.items():
        lines += ["", *([f"## {title}", ""] if title else []), *texts]
    header = yaml.safe_dump(_header(vlm), sort_keys=False)
    with atomic(classifier / "README.md") as file:
        file.write_text("\n".join([f"---\n{header}---", "", *lines, ""]), encoding="utf-8")
    return classifier / "README.md"


def write_audit(card: Path, audit: Sequence[str]) -> None:
    """Put the sentences of an audit into a card of `write_model_card`."""
    before, title, rest = card.read_text(encoding="utf-8").partition(f"\n## {QUALITY}\n")
    _, following, after = rest.partition("\n## ")
    with atomic(card) as file:
        text = before + title + "\n" + "\n".join([*audit, ""]) + following + after
        file.write_text(text, encoding="utf-8")


def _header(vlm: str) -> dict[str, object]:
    names, encoder = split_name(vlm)
    known = read_vlm_cards() | read_encoder_cards()
    sources = [known[member].source for member in [*names, encoder] if member in known]
    bases = [source.removeprefix(HUB) for source in sources if source.startswith(HUB)]
    return {
        "license": "other",
        "license_name": "that-of-the-vision-language-model",
        "pipeline_tag": "image-classification",
        "tags": ["histopathology", "vlm-cpl"],
        **({"base_model": bases} if bases else {}),
    }


def _licences(vlm: str) -> list[str]:
    """Licence and citation of each model of an ensemble."""
    names, encoder = split_name(vlm)
    known, lines = read_vlm_cards() | read_encoder_cards(), []
    for member in [*names, *([encoder] if encoder else [])]:
        other = STAND_IN if member.startswith(paths.STAND_IN) else NO_LICENCE
        lines.append(
            known[member].citation_line if member in known else f"{_code(member)}: {other}"
        )
    return lines


def _code(text: str) -> str:
    """A text of a user, in a line or a cell of Markdown, as it is."""
    return "`" + " ".join(text.replace("`", "'").split()).replace("|", "\\|") + "`"
