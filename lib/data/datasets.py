"""Where a dataset lies, what of it is missing, and the tiles that are drawn or cut for it."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from data.prepare import patches, synthetic
from lib import paths
from lib.artefacts import atomic, digest_of, locked
from lib.data.cards import Card, read_card

RECIPE = "recipe.json"  # in a folder that was made here
# Those of the papers; cards of subsets of them are for the results here.
PUBLIC = ("hph", "lc25000", "nct_crc", "digestpath", "crc5000", "chaoyang", "ebhi")


def locate(card: Card) -> Path:
    """The folder that holds a dataset as its source gives it: in `data/raw`, else in `DATA_ROOT`.

    One that holds all that `archives` names goes before one that does not. Raises FileNotFoundError
    naming the folders that were tried and how to get the dataset, and ValueError naming a class
    folder that is a link.
    """
    tried = [root / card.folder for root in paths.raw_folders()]
    existing = [folder for folder in tried if folder.is_dir()]
    if existing:
        chosen = min(existing, key=lambda folder: bool(absent(card, folder)))
        _refuse_links(card, chosen)
        return chosen
    raise FileNotFoundError(
        f"dataset {card.name!r} is not here. {how_to_get(card)} Or name the folder that holds "
        f"{card.folder!r} with DATA_ROOT. Looked in: " + ", ".join(map(str, tried))
    )


def _refuse_links(card: Card, folder: Path) -> None:
    """A dataset's folder and those on the way may be links; a class folder could be any folder."""
    parts = [split for split in (card.splits or {"": ""}).values() if not split.endswith(".json")]
    for inside in [folder / part / c.folder for part in parts for c in card.classes]:
        if inside.is_symlink():
            raise ValueError(f"the class folder {inside} is a link; put the tiles there")


def state_of(folder: Path) -> str:
    """A digest of the names, sizes and times of all files below a folder but hidden ones."""
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            stat = os.stat(os.path.join(parent, name))
            files.append([os.path.relpath(parent, folder), name, stat.st_size, stat.st_mtime_ns])
    return digest_of({"files": files})


def absent(card: Card, folder: Path) -> list[Mapping[str, str]]:
    """Those of the card's archives whose content is not in the folder."""
    return [archive for archive in card.archives if not (folder / archive["contains"]).exists()]


def how_to_get(card: Card) -> str:
    """The command that downloads the dataset, or where to get it and where to put it."""
    command = f"`make data DATASET={card.name}`"
    if card.archives and not card.access:
        return f"Get it with {command}."
    access = f" ({card.access})" if card.access else ""
    unpacks = f"; {command} unpacks what lies there" if card.archives else ""
    place = paths.raw_folders()[0] / card.folder
    return f"Get it from {card.source}{access} and put it at {place}{unpacks}."


def prepare(card: Card) -> Path:
    """The folder of a dataset's tiles.

    That of `locate`, unless the card says that the tiles are drawn, or cut from larger images: then
    they are made in `data/raw` by the first call. Raises FileNotFoundError as `locate` does.
    """
    kinds = [c.folder for c in card.classes]
    if card.synthetic is not None:
        folder = paths.raw_folders()[0] / card.folder
        return made(folder, {**card.synthetic, "kinds": kinds}, synthetic.write_dataset)
    if card.patching is None:
        return locate(card)
    source = locate(card)
    folder = paths.raw_folders()[0] / f"{card.name}-tiles"
    recipe = {**card.patching, "kinds": kinds}
    return made(folder, recipe, partial(patches.cut_images, source), patches.count(source, recipe))


def made(folder: Path, recipe: dict[str, Any], write: Callable[..., None], n: int = 0) -> Path:
    """The folder, written unless it already holds what the recipe (of n images) gives.

    Of several processes that ask at once, one writes and the others wait for it. Raises
    FileExistsError for a folder that is there and was not made so: it is left as it is.
    """
    wanted = recipe | ({"of_images": n} if n else {})
    if _recipe(folder) == wanted:  # where nothing may be written, such as on a read-only disk, too
        return folder
    with locked(folder.with_name(f".{folder.name}.lock")):
        made_before = _recipe(folder)
        if made_before == wanted:
            return folder
        alike = made_before.keys() - {"of_images"} == recipe.keys()
        if os.path.lexists(folder) and not alike:
            raise FileExistsError(
                f"{folder} was not made by this card, and is left alone. Move it away, or name "
                "another folder in the card"
            )
        with atomic(folder) as temporary:
            write(temporary, **recipe)
            (temporary / RECIPE).write_text(json.dumps(wanted))
    return folder


def _recipe(folder: Path) -> dict[str, Any]:
    """What a folder was made by; nothing if it was not made here."""
    try:
        recipe = json.loads((folder / RECIPE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def missing_tiles(card: Card, table: pd.DataFrame) -> list[str]:
    """What differs from the published numbers of tiles, a line each; nothing if complete.

    table: as `tiles.read_tile_table` gives it. Where tiles are cut, the images are counted.
    """
    if card.patching is not None:
        return _missing_images(card)
    lines = []
    for split, published in card.published.items():
        labels = table.label[table.part == split]
        counts = {name: int((labels == c).sum()) for c, name in enumerate(card.class_names)}
        counts["all"] = len(labels)
        differing = [f"{c} {counts[c]:,} of {n:,}" for c, n in published.items() if counts[c] != n]
        if differing:
            title = f"{card.name}, {split}" if split else card.name
            total = f"{len(labels):,} of {sum(published.values()):,} tiles"
            per_class = ", ".join(line for line in differing if not line.startswith("all "))
            lines.append(f"{title}: {total}" + (f"; {per_class}" if per_class else ""))
    return lines


def _missing_images(card: Card) -> list[str]:
    assert card.patching is not None
    lines = []
    for entry in card.patching["images"]:
        n, published = patches.count(locate(card), {"images": [entry]}), entry.get("count")
        if published not in (None, n):
            lines.append(f"{card.name}, {entry['images']}: {n:,} of {published:,} images")
    return lines


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
