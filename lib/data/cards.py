"""Dataset cards: what a dataset's classes, prompts, folders and groups are."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lib import paths


@dataclass(frozen=True)
class TissueClass:
    """One class: its name, its folder below the dataset's, its prompts.

    `captions` describe its tiles when the dataset is the source of a stand-in VLM.
    """

    name: str
    folder: str
    prompts: Sequence[str] = ()
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Card:
    """One dataset, as `data/cards/<name>.yaml` says.

    tiles: the file pattern inside a class folder.
    group: what must not straddle a split: `{table, column, relative_to}` (a CSV with a `path`
    column, or with the column of file names that `name` says), `{pattern}` (a regular expression on
    the file name with one group), or None (every tile is its own group). Its `is` says in a word
    what a group is; `groups_from` says where to get the table. With a table there may be `copies`, a
    CSV beside the card: pairs of file names, `tile` and `copy`, that show one picture, so that their
    groups are one group, by the smallest of their names.
    splits: the dataset's own division: for `train` and for `test` the folder that holds the class
    folders, or a JSON list of `{name, label}`; a class's `folder` is then its label there.
    patching: how the images of a dataset that has masks in place of class folders become tiles (the
    arguments of `lib.data.patches.cut_images`).
    counts: the published numbers of tiles: of a class by its name, or for each of the `splits` a
    number or those of its classes.
    archives: what `make data` fetches (`lib.data.download`), each with the file or folder that it
    `contains`; `access` is what else it takes to get the dataset.
    synthetic: the arguments of `lib.data.synthetic.write_dataset` for a dataset that is generated.
    slides: of a dataset of whole slides, which has no tiles: `table`, a CSV below the folder with
    columns path and label (a class's `folder`), and perhaps case, mpp and fold; `drawn` or
    `composed`, the arguments of `lib.slides.made_slides.write_drawn_slides` for slides that are
    generated, or of `write_composed_slides` for those made of real tiles, by kind the card whose
    class of that name they are from.
    other_tissue: what is in the slides and is no target class, in words for prompts.
    group_hash_range: two numbers, 0 to 1: takes only the groups whose name, hashed, lies between
    them. Datasets with ranges that do not overlap share no group.
    restain: how far the tiles move to the other laboratory of `lib.data.staining` when they are
    decoded as the source of a stand-in VLM.
    joined: cards whose classes and tiles a stand-in VLM learns on beside those of this card.
    """

    name: str
    title: str
    folder: str
    tiles: str
    classes: Sequence[TissueClass]
    licence: str
    citation: str
    source: str
    group: Mapping[str, str] | None = None
    groups_from: str = ""
    splits: Mapping[str, str] | None = None
    patching: Mapping[str, Any] | None = None
    counts: Mapping[str, Any] | None = None
    archives: Sequence[Mapping[str, str]] = ()
    access: str = ""
    synthetic: Mapping[str, Any] | None = None
    slides: Mapping[str, Any] | None = None
    other_tissue: Sequence[str] = ()
    group_hash_range: Sequence[float] = (0, 1)
    restain: float = 0.0
    joined: Sequence[str] = ()

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def drawn(self) -> bool:
        """Whether the dataset is made here, so that nothing has to be found."""
        return self.synthetic is not None or "drawn" in (self.slides or {})

    @property
    def needs(self) -> list[str]:
        """Cards of the datasets that have to be found before this one can be used."""
        composed = (self.slides or {}).get("composed")
        own = [] if self.drawn else [self.name] if composed is None else composed["tissue"].values()
        return list(dict.fromkeys([*own, *self.joined]))

    @property
    def shift(self) -> str:
        """`restain` by its name in `lib.data.shifts`, where "stain-" leads to that laboratory."""
        return f"stain{-self.restain:+g}" if self.restain else ""

    @property
    def published(self) -> dict[str, dict[str, int]]:
        """`counts` of each split ("" without splits), by class, or of "all" of it."""
        counts = self.counts or {}
        per_split = counts if self.splits else {"": counts}
        return {s: dict(c) if isinstance(c, Mapping) else {"all": c} for s, c in per_split.items()}


def read_card(dataset: str) -> Card:
    """The card of a dataset.

    Raises FileNotFoundError naming the known cards, and ValueError naming the file and the missing
    or unknown field.
    """
    file = paths.card_file(dataset)
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no card {file} for dataset {dataset!r}. Known datasets: {known}")
    values = _read(file)
    check_fields(Card, values, str(file), given="name")
    if not isinstance(values["classes"], list):
        raise ValueError(f"{file}: classes must be a list")
    for n, entry in enumerate(values["classes"], 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, class {n} must hold named fields")
        check_fields(TissueClass, entry, f"{file}, class {n}")
    if len(values["classes"]) < 2:
        raise ValueError(
            f"{file}: at least two classes are needed, it has {len(values['classes'])}"
        )
    _check_layout(values, str(file))
    classes = tuple(TissueClass(**entry) for entry in values.pop("classes"))
    return Card(name=dataset, classes=classes, **values)


def card_files(dataset: str) -> list[Path]:
    """The card's file, and those of the cards that it extends or is made of."""
    base = yaml.safe_load(paths.card_file(dataset).read_text()).get("extends")
    more = [name for name in read_card(dataset).needs if name != dataset]
    files = [file for name in [*([base] if base else []), *more] for file in card_files(name)]
    return list(dict.fromkeys([paths.card_file(dataset), *files]))


def copies_file(card: Card) -> Path:
    """The table of near-copies that the card's rule for groups names."""
    assert card.group is not None
    return paths.card_file(card.name).with_name(card.group["copies"])


def _read(file: Path) -> dict[str, Any]:
    """Fields of a card; one that extends another has that one's fields but for its own."""
    values = yaml.safe_load(file.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold named fields")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not paths.card_file(str(base)).is_file():
        raise ValueError(f"{file} extends {base!r}, which has no card")
    return _read(paths.card_file(base)) | values


def credits(card: Card) -> str:
    """Three lines to show with a dataset: title, licence, whom to cite and where it is from."""
    return f"{card.title}\nLicence: {card.licence}\nCitation: {card.citation} From: {card.source}"


RULES = ("size", "overlap", "tissue", "above", "share")


def _check_layout(values: Mapping[str, Any], where: str) -> None:
    """Refuse, by file and field, a rule that a card leaves unfinished."""
    group, splits, patching = (values.get(f) or {} for f in ("group", "splits", "patching"))
    if group and "pattern" not in group and not {"table", "column"} <= set(group):
        raise ValueError(f"{where}: group needs either 'pattern' or 'table' and 'column'")
    if "copies" in group and ("pattern" in group or Path(str(group["copies"])).suffix != ".csv"):
        raise ValueError(f"{where}: group, copies must be a CSV beside the card, and needs a table")
    if splits and set(splits) != {"train", "test"}:
        raise ValueError(f"{where}: splits needs 'train' and 'test', nothing else")
    if patching and splits:
        raise ValueError(f"{where}: patching and splits exclude each other")
    if patching and set(patching) != {"images", *RULES}:
        raise ValueError(f"{where}: patching needs 'images' and {', '.join(map(repr, RULES))}")
    for n, entry in enumerate(patching.get("images", []), 1):
        if "images" not in entry or set(entry) - {"images", "masks", "count"}:
            raise ValueError(
                f"{where}: patching, images {n} needs 'images'; 'masks', 'count' may be"
            )
    if patching and len(values["classes"]) != 2:
        n_classes = len(values["classes"])
        raise ValueError(f"{where}: patching gives two classes, classes has {n_classes}")
    for n, archive in enumerate(values.get("archives") or [], 1):
        if "contains" not in archive or set(archive) - {"contains", "url", "hash"}:
            raise ValueError(f"{where}: archives {n} needs 'contains'; 'url' and 'hash' may be")
    _check_counts(values, where)


def _check_counts(values: Mapping[str, Any], where: str) -> None:
    counts = values.get("counts") or {}
    if counts and values.get("splits"):
        if set(counts) != {"train", "test"}:
            raise ValueError(f"{where}: counts needs 'train' and 'test', as splits")
        per_split = [c if isinstance(c, dict) else {"all": c} for c in counts.values()]
    else:
        per_split = [counts]
    known = {"all", *(entry["name"] for entry in values["classes"])}
    for name, n in (item for split_counts in per_split for item in split_counts.items()):
        if name not in known or type(n) is not int:
            raise ValueError(f"{where}: counts has {name!r}: {n!r}, no class and its number")


def check_fields(kind: Any, values: Mapping[str, Any], where: str, given: str = "") -> None:
    """Raise ValueError naming the field of a dataclass that is missing, or that it has not.

    `given` is a field that does not come from the file.
    """
    known = {f.name: f.default is MISSING for f in fields(kind) if f.name != given}
    for name in sorted(n for n, needed in known.items() if needed and n not in values):
        raise ValueError(f"{where}: the field {name!r} is missing")
    for name in sorted(set(values) - set(known)):
        raise ValueError(f"{where}: unknown field {name!r}. Valid: {', '.join(sorted(known))}")
