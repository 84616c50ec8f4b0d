"""Cards of vision-language models: weights, input, prompts, licence and access of each name."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

from lib import paths
from lib.data.cards import Address, Share, Side, Text, checked, read_card
from lib.parameters import near_names
from lib.yaml_files import read_yaml

NOT_STATED = "not stated"
SCHEMES = ("local-dir:", "hf-hub:", "hf-clip:", "keep:", "conch:")  # of names without a card
Colours = Annotated[
    tuple[Share, Share, Share] | None, BeforeValidator(lambda v: None if v == NOT_STATED else v)
]


@dataclass(frozen=True)
class VLMCard:
    """One model, as `data/vlms.yaml` says.

    `weights` is the name that `lib.vlm.loading.load_vlm` resolves, `source` a web address.
    `input_size` is in pixels; `mean` and `std` of the three colours normalise pixels in 0 … 1 and
    are None where no source states them. `prompt_style` is how the authors word a prompt for a
    `{class}`. `access` is what a user must do before the weights can be fetched, or empty;
    `refused` why the model cannot be used here and what to use in its place, or empty.
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
    access: Text = ""
    refused: Text = ""

    @property
    def citation_line(self) -> str:
        """Title, licence and citation in one line, to be shown where the model is first used."""
        return f"{self.title}. Licence: {self.licence}. {self.citation}"


def vlm_citations(vlm: str) -> str:
    """Title, licence and citation: a line for each VLM of an ensemble that has a card."""
    known = read_vlm_cards()
    return "\n".join(known[name].citation_line for name in vlm.split("+") if name in known)


def read_vlm_cards() -> dict[str, VLMCard]:
    """All cards by name. Raises ValueError naming the file, the model and the wrong field."""
    file = paths.vlms_file()
    entries = read_yaml(file)
    if not isinstance(entries, dict):
        raise ValueError(f"{file} must hold named models")
    return {n: checked(VLMCard, entry, f"{file}, {n}", name=n) for n, entry in entries.items()}


def check_vlm(vlm: str) -> None:
    """Raise ValueError or FileNotFoundError, with the near names, for a VLM that there is not.

    ValueError too for one that cannot be used, with the reason in its card. Whether its weights are
    within reach is seen only when it is loaded.
    """
    if vlm.startswith(SCHEMES) or "/" in vlm:
        return
    known = read_vlm_cards()
    for name in vlm.split("+"):
        if name.startswith(paths.STAND_IN):
            read_card(paths.source_of(name))
        elif name not in known:
            raise ValueError(f"there is no VLM {name!r}{near_names(name, known)}")
        elif known[name].refused:
            raise ValueError(f"VLM {name!r} cannot be used: {known[name].refused}")


def describe_vlm(vlm: str) -> str:
    """A VLM in words for tables and figures: of a stand-in its name and what it learnt on."""
    if "+" in vlm:
        return " and ".join(map(describe_vlm, vlm.split("+")))
    if not vlm.startswith(paths.STAND_IN):
        return vlm
    return f"{vlm}, which learnt on: {read_card(paths.source_of(vlm)).title}"
