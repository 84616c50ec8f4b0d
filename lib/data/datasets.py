"""Where a dataset lies, and how to get it. `data/prepare` brings it here."""

import os
from collections.abc import Mapping
from pathlib import Path

from lib import paths
from lib.artefacts import digest_of
from lib.data.cards import Card


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
        # This folder and those on the way may be links; a class folder could be any folder.
        splits = (card.splits or {"": ""}).values()
        parts = [chosen / split for split in splits if not split.endswith(".json")]
        for inside in [part / c.folder for part in parts for c in card.classes]:
            if inside.is_symlink():
                raise ValueError(f"the class folder {inside} is a link; put the tiles there")
        return chosen
    raise FileNotFoundError(
        f"dataset {card.name!r} is not here. {how_to_get(card)} Or name the folder that holds "
        f"{card.folder!r} with DATA_ROOT. Looked in: " + ", ".join(map(str, tried))
    )


def made_folder(card: Card) -> Path | None:
    """The folder of tiles or slides that are made here; None where the source's own are used."""
    raw = paths.raw_folders()[0]
    if card.patching is not None:
        return raw / f"{card.name}-tiles"
    made = card.drawn or card.composed or "composed" in (card.slides or {})
    return raw / card.folder if made else None


def locate_tiles(card: Card) -> Path:
    """The folder of a dataset's tiles or slides, where `data.prepare` has made them if need be.

    Raises FileNotFoundError saying how to get them.
    """
    folder = made_folder(card)
    if folder is not None and not folder.is_dir():
        command = f"make data DATASET={card.name}"
        raise FileNotFoundError(f"{folder} is not made yet: run `{command}`")
    return folder or locate(card)


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
