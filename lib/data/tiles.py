"""Tile tables, tiles decoded once, batches on a device."""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import paths
from lib.artefacts import atomic
from lib.data import shifts
from lib.data.cards import Card, copies_file
from lib.data.images import read_square
from lib.progress import progress

if TYPE_CHECKING:
    import torch

THREADS = min(16, 2 * (os.cpu_count() or 1))


def read_tile_table(card: Card, folder: Path) -> pd.DataFrame:
    """All tiles of a dataset, ordered by path.

    Columns: tile (int64, 0 … N−1), path (below `folder`), label (int64, index of the class), part
    ("train" or "test" where the dataset has its own division, else ""), group (str), digest (of the
    file's bytes; equal digests are copies of one image). Hidden files are no tiles.
    Raises ValueError naming the class folder that is missing or empty, the folder or list of a
    split that is missing, the entry of a list that is not a tile and a class, two entries with one
    path, and a group table that names absent tiles or leaves tiles out.
    """
    rows: list[tuple[str, int, str]] = []
    for split, where in (card.splits or {"": ""}).items():
        tiles_in = _in_list if where.endswith(".json") else _in_folders
        rows += [(path, label, split) for path, label in tiles_in(card, folder, where)]
    table = pd.DataFrame(rows, columns=["path", "label", "part"])
    table = table.sort_values("path", ignore_index=True)
    twice = table[table.path.duplicated(keep=False)]
    if len(twice):
        claim = "both splits" if twice.part.nunique() > 1 else "two classes"
        raise ValueError(f"{card.name}: {claim} claim the tile {twice.path.iloc[0]}")
    table.insert(0, "tile", -1)
    table["group"] = _groups(card, folder, table.path)
    table = table[_between(table.group, *card.group_hash_range)].reset_index(drop=True)
    table["tile"] = np.arange(len(table))
    table["digest"] = digests(folder, table.path)
    return table


def _in_folders(card: Card, folder: Path, where: str) -> list[tuple[str, int]]:
    """Path and label of every tile in the class folders below `folder/where`."""
    if not (folder / where).is_dir():
        raise ValueError(f"{card.name}: the folder {folder / where} is missing")
    labelled = []
    for label, tissue_class in enumerate(card.classes):
        files = (folder / where / tissue_class.folder).glob(card.tiles)
        tiles = sorted(file for file in files if not file.name.startswith("."))
        if not tiles:
            raise ValueError(
                f"class {tissue_class.name!r} has no tile: nothing matches {card.tiles!r} in "
                f"{folder / where / tissue_class.folder}"
            )
        labelled += [(file.relative_to(folder).as_posix(), label) for file in tiles]
    return labelled


def _in_list(card: Card, folder: Path, where: str) -> list[tuple[str, int]]:
    """Path and label of every tile in a JSON list of `{name, label}`, refused by its entry."""
    file = folder / where
    if not file.is_file():
        raise ValueError(f"{card.name}: the list {file} is missing")
    try:
        entries = json.loads(file.read_text())
        named = [(str(entry["name"]), str(entry["label"])) for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no list of names and labels: {error!r}") from error
    label_of = {tissue_class.folder: c for c, tissue_class in enumerate(card.classes)}
    labels: dict[str, int] = {}
    for name, label in named:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file}: {name!r} leaves the folder of the dataset")
        if path.as_posix() in labels:
            raise ValueError(f"{file} names {name!r} twice")
        if label not in label_of:
            known = ", ".join(label_of)
            raise ValueError(f"{file}: {name!r} has the unknown label {label!r}. Known: {known}")
        if not (folder / path).is_file():
            raise ValueError(f"{file} names the absent tile {name!r}")
        labels[path.as_posix()] = label_of[label]
    for c, tissue_class in enumerate(card.classes):
        if c not in labels.values():
            raise ValueError(f"class {tissue_class.name!r} has no tile in {file}")
    return list(labels.items())


def digests(folder: Path, tile_paths: Iterable[str]) -> list[str]:
    """Of the bytes of each file: equal digests are copies of one file."""
    return _in_threads(lambda path: _digest(folder / path), list(tile_paths))


def _digest(file: Path) -> str:
    return blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _between(groups: pd.Series, low: float, high: float) -> pd.Series:
    """Which groups' names, hashed to 0 … 1, lie in [low, high)."""
    hashed = {g: blake2b(g.encode(), digest_size=8).digest() for g in groups.unique()}
    return groups.map({g: low <= int.from_bytes(h) / 2**64 < high for g, h in hashed.items()})


def _groups(card: Card, folder: Path, tile_paths: pd.Series) -> pd.Series:
    if card.group is None:
        return tile_paths
    names = tile_paths.map(lambda path: Path(path).name)
    if "pattern" in card.group:
        groups = names.str.extract(re.compile(card.group["pattern"]), expand=False)
        where = f"the pattern {card.group['pattern']!r} of card {card.name!r}"
    else:
        file = folder / card.group["table"]
        if not file.is_file():
            raise ValueError(f"the group table {file} is missing. Get it from {card.groups_from}")
        by_name = "name" in card.group
        listed = _listed_groups(card.group, folder, file)
        if "copies" in card.group:
            listed = _with_copies(listed, copies_file(card))
        groups = _once(names, "tiles", file).map(listed) if by_name else tile_paths.map(listed)
        where = str(file)
    without = tile_paths[groups.isna()]
    if len(without):
        raise ValueError(
            f"{where} gives no group to {len(without)} tiles, first: {without.iloc[0]}"
        )
    return groups


def _listed_groups(rule: Mapping[str, str], folder: Path, file: Path) -> dict[str, str]:
    """Groups of a table by the paths of tiles; by their names if the rule says so.

    A table of names may cover more than is here, one of paths may not.
    """
    rows = pd.read_csv(file, dtype=str)
    key = rule.get("name", "path")
    for column in (key, rule["column"]):
        if column not in rows:
            raise ValueError(f"{file} has no column {column!r}")
    listed = rows[key]
    if "name" in rule:
        _once(listed, "rows", file)
    else:
        start = Path(rule.get("relative_to", "."))
        listed = listed.map(lambda path: (start / path).as_posix())
        absent = listed[[not (folder / path).is_file() for path in listed]]
        if len(absent):
            raise ValueError(
                f"{file} names {len(absent)} absent tiles, the first: {absent.iloc[0]}"
            )
    return dict(zip(listed, rows[rule["column"]], strict=True))


def _with_copies(listed: Mapping[str, str], file: Path) -> dict[str, str]:
    """Groups that hold near-copies of one picture, joined: each has the smallest of their names.

    listed: groups by the path or name of a tile; file: a CSV of pairs of file names, `tile` and
    `copy`, which may name more than is listed.
    """
    by_name = {Path(tile).name: group for tile, group in listed.items()}
    joined = {group: group for group in listed.values()}

    def smallest(group: str) -> str:
        return group if joined[group] == group else smallest(joined[group])

    pairs = pd.read_csv(file, dtype=str)[["tile", "copy"]].itertuples(index=False)
    for pair in pairs:
        if all(name in by_name for name in pair):
            low, high = sorted(smallest(by_name[name]) for name in pair)
            joined[high] = low
    return {tile: smallest(group) for tile, group in listed.items()}


def _once(names: pd.Series, what: str, file: Path) -> pd.Series:
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(f"{file} goes by file names, and two {what} have {twice.iloc[0]!r}")
    return names


def decode_tiles(
    table: pd.DataFrame, folder: Path, dataset: str, image_size: int, *, shift: str = ""
) -> Path:
    """Decode every tile once into a uint8 array [N, S, S, 3] and return its `.npy` file.

    S is 8/7 of `image_size`, the size that random views are cropped from: see `images.read_square`;
    then `shifts.shift` by that name. The file is named after the digests, so that it serves every
    run on the same images. Raises ValueError naming the files that cannot be read, and a shift that
    is none.
    """
    size = stored_size(image_size)
    content = blake2b(" ".join(table.digest).encode(), digest_size=8).hexdigest()
    if shift:
        shifts.parse(shift)
    shifted = f"-{shift}" if shift else ""
    file = paths.store_folder(dataset) / f"{size}px-{content}{shifted}.npy"
    if file.is_file():
        return file
    failed: dict[str, Exception] = {}
    converted: dict[str, str] = {}
    with atomic(file) as temporary:
        shape = (len(table), size, size, 3)
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def decode(row: int) -> None:
            path = table.path.iloc[row]
            try:
                tile, converted[path] = read_square(folder / path, size)
                store[row] = shifts.shift(tile, shift)
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
                failed[path] = error

        _in_threads(decode, range(len(table)), "decoding tiles")
        store.flush()
        _refuse(failed, folder)
    _warn(converted)
    return file


def _refuse(failed: Mapping[str, Exception], folder: Path) -> None:
    if failed:
        named = [f"{folder / path} ({failed[path]})" for path in sorted(failed)]
        more = f" and {len(named) - 10} more" if len(named) > 10 else ""
        raise ValueError(
            f"{len(named)} tiles cannot be read; remove or replace them: "
            + "; ".join(named[:10])
            + more
        )


def _warn(converted: Mapping[str, str]) -> None:
    """One warning for each kind of conversion that `read_square` reports."""
    for kind in sorted({*converted.values()} - {""}):
        named = sorted(path for path, note in converted.items() if note == kind)
        warnings.warn(
            f"converted to 8-bit RGB ({kind}): {len(named)} of {len(converted)} tiles, "
            f"such as {named[0]}",
            stacklevel=3,
        )


def stored_size(image_size: int) -> int:
    return round(image_size * 8 / 7)


def _in_threads(function, items, title: str | None = None) -> list:
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(function, items)
        return list(progress(done, title or "", "tile", total=len(items), shown=title is not None))


def read_batches(
    store: Path, rows: np.ndarray, batch_size: int, device: "torch.device | str" = "cpu"
) -> Iterator[tuple[np.ndarray, "torch.Tensor"]]:
    """Batches of the store: positions in `rows` [b] and tiles uint8 [b, S, S, 3] on the device.

    The array is mapped again for each batch, so that resident memory does not grow with N.
    """
    import torch

    for start in range(0, len(rows), batch_size):
        idx = np.arange(start, min(start + batch_size, len(rows)))
        images = torch.from_numpy(np.load(store, mmap_mode="r", allow_pickle=False)[rows[idx]])
        yield idx, images.to(device, non_blocking=True)
