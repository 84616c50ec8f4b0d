"""Tables of data/README.md: what the cards of datasets and models say, in short."""

import pandas as pd

from lib.data.cards import Card, read_card
from lib.vlm.cards import (
    NOT_STATED,
    EncoderCard,
    VLMCard,
    read_encoder_cards,
    read_vlm_cards,
)

# Those of the papers; cards of subsets of them are for the results here.
PUBLIC = ("hph", "lc25000", "nct_crc", "digestpath", "crc5000", "chaoyang", "ebhi")


def datasets_table() -> pd.DataFrame:
    """How to get each public dataset, its published number of tiles, how it is divided."""
    return pd.DataFrame([_in_short(read_card(name)) for name in PUBLIC])


def _in_short(card: Card) -> dict[str, str]:
    return {
        "dataset": f"[`{card.name}`]({card.source}) {card.title}",
        "to get it": card.access or f"`make data DATASET={card.name}`",
        "tiles": _published_tiles(card),
        "split": "its own" if card.splits else "4:1",
        "grouped by": (card.group or {}).get("is", "tile"),
        "licence": card.licence,
    }


def _published_tiles(card: Card) -> str:
    if card.patching is not None:
        images = sum(entry.get("count", 0) for entry in card.patching["images"])
        return f"cut from {images:,} images"
    return f"{sum(sum(counts.values()) for counts in card.published.values()):,}"


def vlms_table() -> pd.DataFrame:
    """One row per card for the README. Columns: model, from, input, prompts, licence."""
    cards = read_vlm_cards().values()
    return pd.DataFrame(
        [_model(c) | {"prompts": c.prompt_style, "licence": c.licence} for c in cards]
    )


def encoders_table() -> pd.DataFrame:
    """As `vlms_table`, of the image encoders, with their pooling in the place of prompts."""
    pooled = {
        "class": "class token",
        "class+patches": "class token, mean of patches",
        "timm": "mean",
    }
    cards = read_encoder_cards().values()
    return pd.DataFrame(
        [_model(c) | {"pooling": pooled[c.pooling], "licence": c.licence} for c in cards]
    )


def _model(card: VLMCard | EncoderCard) -> dict[str, str]:
    repository = "/".join(card.source.split("/")[-2:])
    refused = getattr(card, "refused", "")
    how = ", refused" if refused else ", on request" if card.access else ""
    return {
        "model": f"`{card.name}`",
        "from": f"[{repository}]({card.source})" + how,
        "input": f"{card.input_size} px, {_normalisation(card)}",
    }


def _normalisation(card: VLMCard | EncoderCard) -> str:
    if card.mean is None or card.std is None:
        return f"normalisation {NOT_STATED}"
    mean, std = (" ".join(f"{v:.3f}" for v in values) for values in (card.mean, card.std))
    return f"mean {mean}, std {std}"
