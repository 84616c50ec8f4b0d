"""Bring a dataset here: fetch what its card names, then paint, paste or cut what it describes.

What stands under its final name is complete. What is on its way lies in `data/raw/.downloads`
until then; any interruption is taken up again by the next call.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pooch.utils import unique_file_name

from data.prepare import composed_tiles, patches, synthetic, synthetic_slides
from data.prepare.archives import arriving, check_contains, is_archive, unpack
from data.prepare.download import download, wrong_hash
from lib import paths
from lib.artefacts import atomic, locked, remove_leftovers
from lib.data.cards import Card, read_card
from lib.data.datasets import absent, locate, made_folder

RECIPE = "recipe.json"  # in a folder that was made here


def prepare(card: Card) -> Path:
    """Make the tiles or slides that a card describes, unless they are there; return their folder.

    Raises FileNotFoundError, as `locate` does, for a dataset that has to be fetched first.
    """
    folder, classes = made_folder(card), [c.folder for c in card.classes]
    if folder is None:
        return locate(card)
    if card.synthetic is not None:
        return made(folder, {**card.synthetic, "kinds": classes}, synthetic.write_dataset)
    if card.patching is not None:
        source, recipe = locate(card), {**card.patching, "kinds": classes}
        cut = partial(patches.cut_images, source)
        return made(folder, recipe, cut, patches.count(source, recipe))
    slides = card.slides or {}
    if "drawn" in slides:
        recipe = {**slides["drawn"], "targets": classes}
        return made(folder, recipe, synthetic_slides.write_synthetic_slides)
    for name in card.needs:
        prepare(read_card(name))
    if card.composed is not None:
        return made(folder, dict(card.composed), composed_tiles.write_composed_tiles)
    recipe = {**slides["composed"], "targets": classes}
    return made(folder, recipe, synthetic_slides.write_composed_slides)


def prepare_source(vlm: str) -> None:
    """Make the datasets that a stand-in VLM learns on; nothing for any other name."""
    if vlm.startswith(paths.STAND_IN):
        source = read_card(paths.source_of(vlm))
        for card in (source, *map(read_card, source.joined)):
            prepare(card)


def made(folder: Path, recipe: dict[str, Any], write: Callable[..., None], n: int = 0) -> Path:
    """The folder, written unless it already holds what the recipe (of n images) gives.

    Of several processes that ask at once, one writes and the others wait for it. Raises
    FileExistsError for a folder that is there and was not made so: it is left as it is.
    """
    wanted = recipe | ({"of_images": n} if n else {})
    lock = _lock_of(folder)
    if _recipe(folder) == wanted and not lock.exists():  # on a read-only disk, too
        return folder
    with locked(lock):
        remove_leftovers(folder.parent)
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


def _lock_of(folder: Path) -> Path:
    """Is there while a folder is written, or since a process was killed that has left something."""
    return folder.with_name(f".{folder.name}.lock")


def _recipe(folder: Path) -> dict[str, Any]:
    """What a folder was made by; nothing if it was not made here."""
    try:
        recipe = json.loads((folder / RECIPE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


# --- fetching ----------------------------------------------------------------------------------


def fetch(card: Card) -> Path:
    """The folder of a dataset as its source gives it, downloaded and unpacked if it is not here.

    Raises FileNotFoundError saying where to get it and where to put it if no address is known, and
    what `download` and `unpack` raise.
    """
    if not card.archives:
        return locate(card)
    raw = paths.raw_folders()[0]
    folder, downloads = raw / card.folder, raw / ".downloads" / paths.file_name(card.folder)
    lock = _lock_of(folder)
    for root in paths.raw_folders():
        if not absent(card, root / card.folder) and not (root == raw and lock.exists()):
            return root / card.folder
    with locked(lock):
        try:
            remove_leftovers(raw)
            missing = absent(card, folder)
            for n_done, archive in enumerate(missing, 1):
                needed_again = [later.get("url") for later in missing[n_done:]]
                if "url" not in archive:
                    unpack(_brought(card, archive), folder, archive["contains"])
                    continue
                file = _downloaded(card, archive, downloads)
                _put(archive, file, folder)
                if archive["url"] not in needed_again:
                    for done in downloads.glob(f"{file.name}*"):
                        done.unlink()
            for left in downloads.glob("*"):  # by one that was killed before the line above
                left.unlink()
        finally:
            with suppress(OSError):  # where something waits for the next call
                downloads.rmdir()
                downloads.parent.rmdir()
    return folder


def _downloaded(card: Card, archive: Mapping[str, str], folder: Path) -> Path:
    file = folder / unique_file_name(archive["url"])
    try:
        download(archive["url"], file, archive.get("hash"))
    except ConnectionError as error:
        raise ConnectionError(f"{error}. The page of the dataset is {card.source}") from error
    return file


def _put(archive: Mapping[str, str], file: Path, folder: Path) -> None:
    """Bring a downloaded file to its place: unpacked, or as it is if it is no archive."""
    contains = archive["contains"]
    try:
        if is_archive(file):
            unpack(file, folder, contains)
            return
        with file.open("rb") as opened:
            begins = opened.read(256).lstrip().lower()
        if not Path(contains).suffix or begins.startswith((b"<!doctype html", b"<html")):
            raise ValueError(f"{archive['url']} gives no archive; perhaps it asks for a login")
        with arriving(folder, contains) as place:
            shutil.copyfile(file, place)
    except ValueError:
        if "hash" not in archive:  # it may be another file: the next call asks for it again
            file.unlink()
        raise


def _brought(card: Card, archive: Mapping[str, str]) -> Path:
    """The archive that the user has put into the dataset's folder."""
    folder, contains = paths.raw_folders()[0] / card.folder, archive["contains"]
    others = ""
    for file in sorted(folder.glob("*")):
        if file.is_file() and is_archive(file):
            problem = _problem(file, archive)
            if not problem:
                return file
            others += f" {file.name} is not it: {problem}."
    access = f" ({card.access})" if card.access else ""
    known = f" with {archive['hash']}" if "hash" in archive else ""
    raise FileNotFoundError(
        f"{contains!r} of dataset {card.name!r} is not here and has to be fetched by hand. Get it "
        f"from {card.source}{access}, put the archive{known} into {folder} and give the same "
        f"command again, or put {contains!r} itself there.{others}"
    )


def _problem(file: Path, archive: Mapping[str, str]) -> str:
    """Why a file is not the archive that is looked for; empty if it is."""
    if "hash" in archive:
        return wrong_hash(file, archive["hash"])
    try:
        check_contains(file, archive["contains"])
    except ValueError as error:
        return str(error)
    return ""


# --- is all of it here? ------------------------------------------------------------------------


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
