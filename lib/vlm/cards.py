"""Cards of vision-language models and encoders: what each name means, its licence and access."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from lib import paths
from lib.data.cards import Address, Share, Side, Text, Width, checked, read_card
from lib.parameters import near_names
from lib.yaml_files import read_yaml

NOT_STATED = "not stated"
SCHEMES = ("local-dir:", "hf-hub:", "hf-clip:", "keep:", "conch:")  # of names without a card
ENCODER_SCHEMES = ("local-dir:", "hf-hub:")
Colours = Annotated[
    tuple[Share, Share, Share] | None, BeforeValidator(lambda v: None if v == NOT_STATED else v)
]


class _Cited:
    title: str
    licence: str
    citation: str

    @property
    def citation_line(self) -> str:
        """Title, licence and citation in one line, to be shown where the model is first used."""
        return f"{self.title}. Licence: {self.licence}. {self.citation}"


@dataclass(frozen=True)
class VLMCard(_Cited):
    """One model, as `data/vlms.yaml` says.

    `weights` is the name that `lib.vlm.loading.load_vlm` resolves, `source` a web address.
    `input_size` is in pixels; `mean` and `std` of the three colours normalise pixels in 0 … 1 and
    are None where no source states them. `prompt_style` is how the authors word a prompt for a
    `{class}`. `tile_um` is how wide tiles should be, in µm, where that is documented. `access` is
    what a user must do before the weights can be fetched, or empty; `refused` why the model cannot
    be used here and what to use in its place, or empty.
    """

    name: str
    title: Text
    weights: Text
    source: Address
    input_size: Side
    mean: Colours
    std: Colours
    prompt_style: Text
    licence: Text
    citation: Text
    tile_um: Width | None = None
    access: Text = ""
    refused: Text = ""


@dataclass(frozen=True)
class EncoderCard(_Cited):
    """One image encoder that is no VLM, as `data/encoders.yaml` says.

    `weights` is `hf-hub:<organisation>/<model>`, or `packaged:<timm's name>` for those of
    `lib.packaged_weights`. `input_size`, `mean`, `std` and `access` are as of `VLMCard`. `pooling`:
    the class token, the same beside the mean of the patch tokens, or what timm's model does.
    `arguments` of timm's constructor win over those of the repository; `model_type` is one of
    transformers, where the repository's own is another.
    """

    name: str
    title: Text
    weights: Text
    source: Address
    input_size: Side
    mean: tuple[Share, Share, Share]
    std: tuple[Share, Share, Share]
    licence: Text
    citation: Text
    pooling: Literal["class", "class+patches", "timm"] = "class"
    arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    model_type: str = ""
    access: Text = ""


def split_name(vlm: str) -> tuple[list[str], str]:
    """The VLMs that a name joins by "+", and the encoder after "@", "" where there is none.

    The path of a VLM's folder may hold both signs; with an encoder behind, it may hold no "@".
    """

    def is_one(name: str) -> bool:
        scheme, _, folder = name.partition(":")
        is_folder = scheme in ("local-dir", "hf-clip", "keep") and Path(folder).is_dir()
        return is_folder or scheme == "checkpoint"  # whose own name has an "@"

    joined, _, encoder = (vlm, "", "") if is_one(vlm) else vlm.partition("@")
    return [joined] if is_one(joined) else joined.split("+"), encoder


def vlm_citations(vlm: str) -> str:
    """Title, licence and citation: a line for each VLM, and for an encoder, that has a card."""
    names, encoder = split_name(vlm)
    known = read_vlm_cards() | (read_encoder_cards() if encoder else {})
    return "\n".join(known[name].citation_line for name in [*names, encoder] if name in known)


def read_vlm_cards() -> dict[str, VLMCard]:
    """All cards by name. Raises ValueError naming the file, the model and the wrong field."""
    return _read_cards(paths.vlms_file(), VLMCard)


def read_encoder_cards() -> dict[str, EncoderCard]:
    """All encoders by name. Raises ValueError as `read_vlm_cards`."""
    return _read_cards(paths.encoders_file(), EncoderCard)


def _read_cards(file: Path, kind: type) -> dict[str, Any]:
    entries = read_yaml(file)
    if not isinstance(entries, dict):
        raise ValueError(f"{file} must hold named models")
    return {n: checked(kind, entry, f"{file}, {n}", name=n) for n, entry in entries.items()}


def check_vlm(vlm: str) -> None:
    """Raise ValueError or FileNotFoundError, with the near names, for a VLM that there is not.

    ValueError too for one that cannot be used, with the reason in its card, and for an encoder that
    there is not. Whether weights are within reach is seen only when they are loaded.
    """
    names, encoder = split_name(vlm)
    known = read_vlm_cards()
    if encoder or vlm.endswith("@"):
        check_encoder(encoder)
    if any(name.startswith(SCHEMES) or "/" in name for name in names):
        return
    for name in names:
        if name.startswith(paths.STAND_IN):
            read_card(paths.source_of(name))
        elif name not in known:
            raise ValueError(f"there is no VLM {name!r}{near_names(name, known)}")
        elif known[name].refused:
            raise ValueError(f"VLM {name!r} cannot be used: {known[name].refused}")


def check_encoder(name: str) -> None:
    """Raise ValueError, with the near names, for an encoder that there is not; see `check_vlm`."""
    known = read_encoder_cards()
    if name in known or name.startswith(ENCODER_SCHEMES):
        return
    import timm

    if not name or not timm.is_model(name):
        near = near_names(name, [*known, *timm.list_models(pretrained=True)] if name else known)
        raise ValueError(
            f"there is no encoder {name!r}{near}. Others are hf-hub:<organisation>/<model> and "
            "local-dir:<folder>"
        )


def describe_vlm(vlm: str) -> str:
    """A VLM in words for tables and figures: of a stand-in its name and what it learnt on."""
    names, encoder = split_name(vlm)
    if encoder:
        return f"{' and '.join(map(describe_vlm, names))}; clusters and heads read {encoder}"
    if len(names) > 1:
        return " and ".join(map(describe_vlm, names))
    if not vlm.startswith(paths.STAND_IN):
        return vlm
    return f"{vlm}, which learnt on: {read_card(paths.source_of(vlm)).title}"
