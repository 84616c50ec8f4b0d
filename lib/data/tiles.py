"""Tile tables, tiles decoded once, batches on a device."""

import os
import posixpath
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from lib import paths
from lib.artefacts import atomic, new_array
from lib.csv_tables import path_key, read_table, refuse
from lib.data import shifts
from lib.data.cards import Card, beside, groups_by_pattern
from lib.data.images import FORMATS, read_square
from lib.json_files import read_json

if TYPE_CHECKING:
    import torch

THREADS = min(16, 2 * (os.cpu_count() or 1))
WRITTEN = ("raw", "runs", "models", "labels", "record")  # in `data`
# What a folder of results has beside its pictures, one of own tiles and one of slides.
RESULTS = ({"classifier/classifier.json", "pseudo_labels.csv"}, {"viewer/openseadragon.min.js"})


class UnreadableTiles(ValueError):
    """Raised for images that cannot be decoded; reasons: why, by path."""

    def __init__(self, folder: Path, reasons: Mapping[str, str]):
        named = [f"{folder / path} ({reasons[path]})" for path in sorted(reasons)]
        more = f" and {len(named) - 10} more" if len(named) > 10 else ""
        super().__init__(
            f"{len(named)} tiles cannot be read; remove or replace them: "
            + "; ".join(named[:10])
            + more
        )
        self.reasons = dict(reasons)


def files_below(folder: Path) -> dict[str, str]:
    """Every file below a folder, ordered by path, and why it is no tile ("" where it may be one).

    A folder that is not entered (hidden, a link, results of this project) ends in "/".
    """
    reasons: dict[str, str] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(here.iterdir())
        except OSError as error:
            reasons[f"{here.relative_to(folder).as_posix()}/"] = str(error.strerror)
            continue
        for entry in entries:
            why = _why_no_tile(entry)
            is_folder = os.path.isdir(entry)
            if is_folder and not why:
                waiting.append(entry)
            else:  # letters that are not UTF-8 are spelt, as no table can hold them
                name = os.fsencode(entry.relative_to(folder)).decode(errors="backslashreplace")
                reasons[name + "/" * is_folder] = why
    return dict(sorted(reasons.items()))


def _why_no_tile(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.name.encode(errors="ignore") != os.fsencode(path.name):
        return "its name is not UTF-8"
    if os.path.isdir(path):
        if path.is_symlink():
            return "a link to a folder"
        return "results of this project" if holds_results(path) else ""
    if path.suffix.lower() not in FORMATS:
        return f"not {', '.join(FORMATS)}"
    return "" if os.path.isfile(path) else "no regular file"


def holds_results(folder: Path) -> bool:
    """Whether a folder is one that this project writes, or a copy of one: no place for tiles."""
    data = paths.output_root() / "data"
    written = [data / name for name in WRITTEN] + [paths.figures_folder()]
    is_written = folder.resolve() in [known.resolve() for known in written]
    beside = (all(os.path.isfile(folder / name) for name in names) for names in RESULTS)
    return is_written or any(beside)


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
    table = table[table.group.notna()]  # of a sample, those that its table names
    table = table[_between(table.group, *card.group_hash_range)].reset_index(drop=True)
    table["tile"] = np.arange(len(table))
    table["digest"] = in_threads(lambda path: digest(folder / path), table.path)
    return table


def _in_folders(card: Card, folder: Path, where: str) -> list[tuple[str, int]]:
    """Path and label of every tile in the class folders below `folder/where`."""
    if not (folder / where).is_dir():
        raise ValueError(f"{card.name}: the folder {folder / where} is missing")
    labelled = []
    for label, tissue_class in enumerate(card.classes):
        of_class = folder / where / tissue_class.folder
        matching = {file.relative_to(of_class).as_posix() for file in of_class.glob(card.tiles)}
        reasons = {
            path: why or ("" if path in matching else f"not {card.tiles}")
            for path, why in files_below(of_class).items()
        }
        tiles = [path for path, why in reasons.items() if not why]
        if not tiles:
            raise ValueError(
                f"class {tissue_class.name!r} has no tile: nothing matches {card.tiles!r} in "
                f"{of_class}"
            )
        if left := {path: why for path, why in reasons.items() if why}:
            first = next(iter(left))
            warnings.warn(
                f"left out of {card.name}, {tissue_class.name}: {len(left)} of {len(reasons)} "
                f"files, such as {first!r}: {left[first]}",
                stacklevel=3,
            )
        labelled += [((of_class / path).relative_to(folder).as_posix(), label) for path in tiles]
    return labelled


def _in_list(card: Card, folder: Path, where: str) -> list[tuple[str, int]]:
    """Path and label of every tile in a JSON list of `{name, label}`, refused by its entry."""
    file = folder / where
    if not file.is_file():
        raise ValueError(f"{card.name}: the list {file} is missing")
    entries = read_json(file, "list of names and labels")
    try:
        named = [(str(entry["name"]), str(entry["label"])) for entry in entries]
    except (TypeError, KeyError) as error:
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
        if not os.path.isfile(folder / path):  # which takes names that are too long, too
            raise ValueError(f"{file} names the absent tile {name!r}")
        labels[path.as_posix()] = label_of[label]
    for c, tissue_class in enumerate(card.classes):
        if c not in labels.values():
            raise ValueError(f"class {tissue_class.name!r} has no tile in {file}")
    return list(labels.items())


def digest(file: Path) -> str:
    """Digest the bytes of a file: equal digests are copies of one file."""
    with file.open("rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()


def _between(groups: pd.Series, low: float, high: float) -> pd.Series:
    """Which groups' names, hashed to 0 … 1, lie in [low, high)."""
    hashed = {g: blake2b(g.encode(), digest_size=8).digest() for g in groups.unique()}
    return groups.map({g: low <= int.from_bytes(h) / 2**64 < high for g, h in hashed.items()})


def _groups(card: Card, folder: Path, tile_paths: pd.Series) -> pd.Series:
    if card.group is None:
        return tile_paths
    rule, names = card.group, tile_paths.map(lambda path: path_key(Path(path).name))
    if "pattern" in rule:
        groups = pd.Series(groups_by_pattern(rule["pattern"], names.tolist()), names.index)
        where = f"the pattern {rule['pattern']!r} of card {card.name!r}"
    else:
        file = beside(card, rule["sample"]) if "sample" in rule else folder / rule["table"]
        if not file.is_file():
            raise ValueError(f"the group table {file} is missing. Get it from {card.groups_from}")
        listed, where = _listed_groups(rule, folder, file), str(file)
        if "copies" in rule:
            listed = _with_copies(listed, beside(card, rule["copies"]))
        twice = names[names.duplicated()]
        if "name" in rule and len(twice):
            raise ValueError(f"{file} goes by file names, and two tiles have {twice.iloc[0]!r}")
        groups = (names if "name" in rule else tile_paths.map(path_key)).map(listed)
        if "sample" in rule and groups.notna().any():
            return groups
    without = tile_paths[groups.isna()]
    if len(without):
        raise ValueError(
            f"{where} gives no group to {len(without)} tiles, first: {without.iloc[0]}"
        )
    return groups


def _listed_groups(rule: Mapping[str, str], folder: Path, file: Path) -> dict[str, str]:
    """Groups of a table by the `path_key` of tiles; by their names if the rule says so.

    A table of names may cover more than is here, one of paths may not. A tile has one row: a second
    one could put it into another group, in another fold than its like.
    """
    key, column = rule.get("name", "path"), rule["column"]
    start = "." if "name" in rule else rule.get("relative_to", ".")
    rows = read_table(file, (key, column))
    line_of: dict[str, int] = {}
    problems, absent = [], []
    for path, group, line in zip(rows[key], rows[column], rows.line, strict=True):
        tile = path_key(posixpath.join(start, path.replace("\\", "/")))
        if not path or not group:
            problems.append(f"line {line}: no {column if path else key}")
        elif line_of.setdefault(tile, line) != line:
            problems.append(f"line {line}: two rows have {path!r}, see line {line_of[tile]}")
        elif "name" not in rule and not _lies_in(folder, tile):
            absent.append(f"line {line}: {path!r}")
    refuse(str(file), problems)
    refuse(f"{file} names {len(absent)} absent tiles", absent)
    return dict(zip(line_of, rows[column], strict=True))


def _lies_in(folder: Path, tile: str) -> bool:
    spellings = [folder / normalize(form, tile) for form in ("NFC", "NFD")]
    return not tile.startswith(("/", "../")) and any(map(os.path.isfile, spellings))


def _with_copies(listed: Mapping[str, str], file: Path) -> dict[str, str]:
    """Join groups that hold near-copies of one picture: each has the smallest of their names.

    listed: groups by the path or name of a tile; file: a CSV of pairs of file names, `tile` and
    `copy`, which may name more than is listed. Raises ValueError for a name of several tiles.
    """
    tiles_named: dict[str, list[str]] = {}
    for tile, group in listed.items():
        tiles_named.setdefault(posixpath.basename(tile), []).append(group)
    rows, problems, pairs = read_table(file, ("tile", "copy")), [], [(0, 0)]
    names = sorted(set(listed.values())) or [""]
    number = {name: n for n, name in enumerate(names)}
    for *pair, line in zip(rows.tile, rows["copy"], rows.line, strict=True):
        groups = [tiles_named.get(posixpath.basename(path_key(name)), []) for name in pair]
        if max(map(len, groups)) > 1:
            problems.append(f"line {line}: several tiles have one of the names {pair}")
        elif all(groups):
            pairs.append((number[groups[0][0]], number[groups[1][0]]))
    refuse(str(file), problems)
    ends = tuple(np.array(pairs).T)
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(names), len(names)))
    joined = pd.Series(names).groupby(connected_components(graph)[1]).transform("first")
    return {tile: joined[number[group]] for tile, group in listed.items()}


def decode_tiles(
    table: pd.DataFrame, folder: Path, dataset: str, image_size: int, *, shift: str = ""
) -> Path:
    """Decode every tile once into a uint8 array [N, S, S, 3] and return its `.npy` file.

    The file is named after the digests of the tiles, so that it serves all runs on these images.

    Parameters
    ----------
    table : columns path and digest
    image_size : input of the model in pixels; S is 8/7 of it, for random crops of that size
    shift : a name of `lib.data.shifts`, or none

    Raises
    ------
    UnreadableTiles
        for images that cannot be decoded
    ValueError
        for a shift that is none
    """
    size = stored_size(image_size)
    content = blake2b(" ".join(table.digest).encode(), digest_size=8).hexdigest()
    if shift:
        shifts.parse(shift)
    shifted = f"-{shift}" if shift else ""
    file = paths.pixels_folder(dataset) / f"{size}px-{content}{shifted}.npy"
    if file.is_file():
        return file
    failed: dict[str, str] = {}
    converted: dict[str, str] = {}
    with atomic(file) as temporary:
        shape = (len(table), size, size, 3)
        pixels = new_array(temporary, shape, np.uint8)

        def decode(row: int) -> None:
            path = table.path.iloc[row]
            try:
                tile, converted[path] = read_square(folder / path, size)
                pixels[row] = shifts.shift(tile, shift)
            except (OSError, ValueError) as error:
                failed[path] = str(getattr(error, "strerror", None) or error)

        in_threads(decode, range(len(table)), "decoding tiles")
        if failed:
            raise UnreadableTiles(folder, failed)
    for kind in sorted({*converted.values()} - {""}):
        named = sorted(path for path, note in converted.items() if note == kind)
        warnings.warn(
            f"converted to 8-bit RGB ({kind}): {len(named)} of {len(converted)} tiles, "
            f"such as {named[0]}",
            stacklevel=2,
        )
    return file


def stored_size(image_size: int) -> int:
    return round(image_size * 8 / 7)


def in_threads(function: Callable, items: Sequence, title: str | None = None) -> list:
    """Apply a function of files to items, in their order."""
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(function, items)
        return list(tqdm(done, title, len(items), unit="tile") if title else done)


def read_batches(
    pixels_file: Path, rows: np.ndarray, batch_size: int, device: "torch.device | str" = "cpu"
) -> Iterator[tuple[np.ndarray, "torch.Tensor"]]:
    """Batches of decoded tiles: positions in `rows` [b] and uint8 [b, S, S, 3] on the device.

    The array is mapped again for each batch, so that resident memory does not grow with N.
    """
    import torch

    for start in range(0, len(rows), batch_size):
        idx = np.arange(start, min(start + batch_size, len(rows)))
        pixels = np.load(pixels_file, mmap_mode="r", allow_pickle=False)
        images = torch.from_numpy(pixels[rows[idx]])
        yield idx, images.to(device, non_blocking=True)
