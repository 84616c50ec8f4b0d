"""Dataset cards: what a dataset's classes, prompts, folders and groups are."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.data import patches, synthetic
from lib import paths
from lib.artefacts import atomic


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

    `tiles` is the file pattern inside a class folder. `group` says what must not straddle a split:
    `{table, column, relative_to}` (a CSV with a `path` column, or with the column of file names
    that `name` says), `{pattern}` (a regular expression on the file name with one group), or None
    (every tile is its own group); `is` says in a word what a group is. `splits` is the dataset's own
    division: for train and for test the folder that holds the class folders, or a JSON list of
    `{name, label}`; a class's `folder` is then its label there. `patching` says how the images of a
    dataset that has masks in place of class folders become tiles (the arguments of
    `lib.patches.cut_images`). `counts` are the published numbers of tiles: of a class by its name,
    or for each part a number or those of its classes. `archives` are what `make data` fetches
    (`lib.data.download`), `access` what else it takes to get the dataset. `synthetic` holds the
    arguments of `lib.data.synthetic.write_dataset` for a dataset that is generated. `group_hash_range`
    (two shares, 0 to 1) takes only the groups whose name, hashed, lies between them: datasets with
    ranges that do not overlap share no group. `restain` is the stain shift of `lib.data.staining` that
    the tiles get when they are decoded.
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
    group_hash_range: Sequence[float] = (0, 1)
    restain: float = 0.0

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def published(self) -> dict[str, dict[str, int]]:
        """`counts` of each part ("" without splits), by class, or of "all" of it."""
        counts = self.counts or {}
        of_parts = counts if self.splits else {"": counts}
        return {p: dict(c) if isinstance(c, Mapping) else {"all": c} for p, c in of_parts.items()}


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
    for number, entry in enumerate(values["classes"], 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, class {number} must hold named fields")
        check_fields(TissueClass, entry, f"{file}, class {number}")
    if len(values["classes"]) < 2:
        raise ValueError(
            f"{file}: at least two classes are needed, it has {len(values['classes'])}"
        )
    _check_layout(values, str(file))
    classes = tuple(TissueClass(**entry) for entry in values.pop("classes"))
    return Card(name=dataset, classes=classes, **values)


def card_files(dataset: str) -> list[Path]:
    """The card's file, and those of the cards that it is `extends`."""
    base = yaml.safe_load(paths.card_file(dataset).read_text()).get("extends")
    return [paths.card_file(dataset), *(card_files(base) if base else [])]


def _read(file: Path) -> dict[str, Any]:
    """Fields of a card; one that is `extends` another has that one's fields but for its own."""
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
    group, parts, cut = (values.get(name) or {} for name in ("group", "splits", "patching"))
    if group and "pattern" not in group and not {"table", "column"} <= set(group):
        raise ValueError(f"{where}: group needs either 'pattern' or 'table' and 'column'")
    if parts and set(parts) != {"train", "test"}:
        raise ValueError(f"{where}: splits needs 'train' and 'test', nothing else")
    if cut and parts:
        raise ValueError(f"{where}: patching and splits exclude each other")
    if cut and set(cut) != {"images", *RULES}:
        raise ValueError(f"{where}: patching needs 'images' and {', '.join(map(repr, RULES))}")
    for number, entry in enumerate(cut.get("images", []), 1):
        if "images" not in entry or set(entry) - {"images", "masks", "count"}:
            raise ValueError(
                f"{where}: patching, images {number} needs 'images'; 'masks', 'count' may be"
            )
    if cut and len(values["classes"]) != 2:
        raise ValueError(f"{where}: patching gives two classes, classes has {len(values['classes'])}")
    for number, archive in enumerate(values.get("archives") or [], 1):
        if "contains" not in archive or set(archive) - {"contains", "url", "hash"}:
            raise ValueError(f"{where}: archives {number} needs 'contains'; 'url' and 'hash' may be")
    _check_counts(values, where)


def _check_counts(values: Mapping[str, Any], where: str) -> None:
    counts = values.get("counts") or {}
    if counts and values.get("splits"):
        if set(counts) != {"train", "test"}:
            raise ValueError(f"{where}: counts needs 'train' and 'test', as splits")
        of_parts = [c if isinstance(c, dict) else {"all": c} for c in counts.values()]
    else:
        of_parts = [counts]
    known = {"all", *(entry["name"] for entry in values["classes"])}
    for name, number in (item for of_part in of_parts for item in of_part.items()):
        if name not in known or type(number) is not int:
            raise ValueError(f"{where}: counts has {name!r}: {number!r}, no class and its number")


def check_fields(kind: Any, values: Mapping[str, Any], where: str, given: str = "") -> None:
    """Raise ValueError naming the field of a dataclass that is missing, or that it has not.

    `given` is a field that does not come from the file.
    """
    known = {f.name: f.default is MISSING for f in fields(kind) if f.name != given}
    for name in sorted(n for n, needed in known.items() if needed and n not in values):
        raise ValueError(f"{where}: the field {name!r} is missing")
    for name in sorted(set(values) - set(known)):
        raise ValueError(f"{where}: unknown field {name!r}. Valid: {', '.join(sorted(known))}")


def locate(card: Card) -> Path:
    """The folder that holds a dataset as its source gives it: in `data/raw`, else in `DATA_ROOT`.

    One that holds all that `archives` names goes before one that does not. Raises FileNotFoundError
    saying where it was looked for and how to get it.
    """
    tried = [root / card.folder for root in paths.raw_folders()]
    here = [folder for folder in tried if folder.is_dir()]
    if here:
        return min(here, key=lambda folder: bool(absent(card, folder)))
    raise FileNotFoundError(
        f"dataset {card.name!r} is not here. {how_to_get(card)} Or name the folder that holds "
        f"{card.folder!r} with DATA_ROOT. Looked in: " + ", ".join(map(str, tried))
    )


def absent(card: Card, folder: Path) -> list[Mapping[str, str]]:
    """Those of the card's archives whose content is not in the folder."""
    return [archive for archive in card.archives if not (folder / archive["contains"]).exists()]


def how_to_get(card: Card) -> str:
    """The command that downloads the dataset, or where to get it and where to put it."""
    command = f"`make data DATASET={card.name}`"
    if card.archives and not card.access:
        return f"Get it with {command}."
    what = f" ({card.access})" if card.access else ""
    unpacks = f"; {command} unpacks what lies there" if card.archives else ""
    place = paths.raw_folders()[0] / card.folder
    return f"Get it from {card.source}{what} and put it at {place}{unpacks}."


def prepare(card: Card) -> Path:
    """The folder of a dataset's tiles.

    That of `locate`, unless the card says that the tiles are drawn, or cut from larger images: both
    is done when they are first asked for, into `data/raw`. Raises FileNotFoundError as `locate` does.
    """
    kinds = [c.folder for c in card.classes]
    if card.synthetic is not None:
        folder = paths.raw_folders()[0] / card.folder
        return _made(folder, {**card.synthetic, "kinds": kinds}, synthetic.write_dataset)
    if card.patching is None:
        return locate(card)
    source = locate(card)
    folder = paths.raw_folders()[0] / f"{card.name}-tiles"
    recipe = {**card.patching, "kinds": kinds}
    return _made(folder, recipe, partial(patches.cut_images, source), patches.count(source, recipe))


def _made(folder: Path, recipe: dict[str, Any], write: Callable[..., None], n: int = 0) -> Path:
    """The folder, written anew unless it already holds what the recipe (of n images) gives."""
    recipe_file = folder / "recipe.json"
    wanted = recipe | ({"of_images": n} if n else {})
    if not (recipe_file.is_file() and json.loads(recipe_file.read_text()) == wanted):
        with atomic(folder) as temporary:
            write(temporary, **recipe)
            (temporary / recipe_file.name).write_text(json.dumps(wanted))
    return folder


# Those of the papers; cards of parts of them are for the results here.
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
        return f"cut from {sum(part.get('count', 0) for part in card.patching['images']):,} images"
    return f"{sum(sum(of_part.values()) for of_part in card.published.values()):,}"
