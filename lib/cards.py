"""Dataset cards: what a dataset's classes, prompts, folders and groups are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lib import paths, synthetic
from lib.run import atomic


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
    `{table, column, relative_to}` (a CSV with a `path` column), `{pattern}` (a regular expression
    on the file name with one group), or None (every tile is its own group). `synthetic` holds the
    arguments of `lib.synthetic.write_dataset` for a dataset that is generated. `groups_between`
    (two shares, 0 to 1) takes only the groups whose name, hashed, lies between them: datasets with
    ranges that do not overlap share no group. `restain` is the stain shift of `lib.staining` that
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
    synthetic: Mapping[str, Any] | None = None
    groups_between: Sequence[float] = (0, 1)
    restain: float = 0.0

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]


def read_card(dataset: str) -> Card:
    """The card of a dataset.

    Raises FileNotFoundError naming the known cards, and ValueError naming the file and the missing
    or unknown field.
    """
    file = paths.card_file(dataset)
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no card {file} for dataset {dataset!r}. Known datasets: {known}")
    values = yaml.safe_load(file.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold named fields")
    _check_fields(Card, values | {"name": dataset}, str(file))
    if not isinstance(values["classes"], list):
        raise ValueError(f"{file}: classes must be a list")
    for number, entry in enumerate(values["classes"], 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, class {number} must hold named fields")
        _check_fields(TissueClass, entry, f"{file}, class {number}")
    if len(values["classes"]) < 2:
        raise ValueError(
            f"{file}: at least two classes are needed, it has {len(values['classes'])}"
        )
    group = values.get("group")
    if group and "pattern" not in group and not {"table", "column"} <= set(group):
        raise ValueError(f"{file}: group needs either 'pattern' or 'table' and 'column'")
    classes = tuple(TissueClass(**entry) for entry in values.pop("classes"))
    return Card(name=dataset, classes=classes, **values)


def about_vlm(vlm: str) -> str:
    """What a stand-in learnt on, for wherever its numbers stand; the name alone for other VLMs."""
    if not vlm.startswith(paths.STAND_IN):
        return vlm
    return f"{vlm}, which learnt on: {read_card(vlm.removeprefix(paths.STAND_IN)).title}"


def _check_fields(kind: type, values: Mapping[str, Any], where: str) -> None:
    known = {f.name for f in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING}
    for name in sorted(needed - set(values)):
        raise ValueError(f"{where}: the field {name!r} is missing")
    for name in sorted(set(values) - known):
        raise ValueError(f"{where}: unknown field {name!r}. Valid: {', '.join(sorted(known))}")


def locate(card: Card) -> Path:
    """The dataset's folder: in `data/raw`, else in `DATA_ROOT`; a synthetic one is made if needed.

    Raises FileNotFoundError saying where it was looked for and where to get it.
    """
    if card.synthetic is not None:
        folder = paths.raw_folders()[0] / card.folder
        _make(folder, card)
        return folder
    tried = [root / card.folder for root in paths.raw_folders()]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"dataset {card.name!r} is not here. Get it from {card.source} and put it at {tried[0]}, "
        f"or name the folder that holds {card.folder!r} with DATA_ROOT. Looked in: "
        + ", ".join(map(str, tried))
    )


def _make(folder: Path, card: Card) -> None:
    """Generate a synthetic dataset unless the folder already holds the one that is asked for."""
    recipe = dict(card.synthetic or {}) | {"kinds": [c.folder for c in card.classes]}
    recipe_file = folder / "recipe.json"
    if recipe_file.is_file() and json.loads(recipe_file.read_text()) == recipe:
        return
    with atomic(folder) as temporary:
        synthetic.write_dataset(temporary, **recipe)
        (temporary / recipe_file.name).write_text(json.dumps(recipe))
