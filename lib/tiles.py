"""Tile tables, grouped splits, tiles decoded once, batches on a device."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from lib import cards, paths, staining
from lib.run import atomic

TEST_FOLDS = 5  # one of five parts: the papers' 4:1
VALIDATION_FOLDS = 10
THREADS = min(16, 2 * (os.cpu_count() or 1))


def read_tile_table(card: cards.Card, folder: Path) -> pd.DataFrame:
    """All tiles of a dataset, ordered by path.

    Columns: tile (int64, 0 … N−1), path (below `folder`), label (int64, index of the class),
    group (str), digest (of the file's bytes; equal digests are copies of one image).
    Raises ValueError naming the class folder that is missing or empty, two entries with one path,
    and a group table that names absent tiles or leaves tiles out.
    """
    found = []
    for label, tissue_class in enumerate(card.classes):
        files = sorted((folder / tissue_class.folder).glob(card.tiles))
        if not files:
            raise ValueError(
                f"class {tissue_class.name!r} has no tile: nothing matches {card.tiles!r} in "
                f"{folder / tissue_class.folder}"
            )
        found += [(file.relative_to(folder).as_posix(), label) for file in files]
    table = pd.DataFrame(found, columns=["path", "label"]).sort_values("path", ignore_index=True)
    twice = table.path[table.path.duplicated()]
    if len(twice):
        raise ValueError(f"{card.name}: two classes claim the tile {twice.iloc[0]}")
    table.insert(0, "tile", -1)
    table["group"] = _groups(card, folder, table.path)
    table = table[_between(table.group, *card.groups_between)].reset_index(drop=True)
    table["tile"] = np.arange(len(table))
    table["digest"] = _in_threads(lambda path: _digest(folder / path), table.path)
    return table


def _digest(file: Path) -> str:
    return blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _between(groups: pd.Series, low: float, high: float) -> pd.Series:
    """Which groups' names, hashed to 0 … 1, lie in [low, high)."""
    hashed = {g: blake2b(g.encode(), digest_size=8).digest() for g in groups.unique()}
    return groups.map({g: low <= int.from_bytes(h) / 2**64 < high for g, h in hashed.items()})


def _groups(card: cards.Card, folder: Path, tile_paths: pd.Series) -> pd.Series:
    if card.group is None:
        return tile_paths
    if "pattern" in card.group:
        names = tile_paths.map(lambda path: Path(path).name)
        groups = names.str.extract(re.compile(card.group["pattern"]), expand=False)
        where = f"the pattern {card.group['pattern']!r} of card {card.name!r}"
    else:
        file = folder / card.group["table"]
        if not file.is_file():
            raise ValueError(f"the group table {file} is missing. Get it from {card.groups_from}")
        rows = pd.read_csv(file, dtype=str)
        for column in ("path", card.group["column"]):
            if column not in rows:
                raise ValueError(f"{file} has no column {column!r}")
        start = Path(card.group.get("relative_to", "."))
        listed = rows.path.map(lambda path: (start / path).as_posix())
        absent = listed[[not (folder / path).is_file() for path in listed]]
        if len(absent):
            raise ValueError(
                f"{file} names {len(absent)} absent tiles, the first: {absent.iloc[0]}"
            )
        groups = tile_paths.map(dict(zip(listed, rows[card.group["column"]], strict=True)))
        where = str(file)
    without = tile_paths[groups.isna()]
    if len(without):
        raise ValueError(
            f"{where} gives no group to {len(without)} tiles, first: {without.iloc[0]}"
        )
    return groups


def split_by_group(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Give each tile "train", "validation" or "test"; a group is never divided.

    A fifth of the groups, stratified by class, is the test part (4:1, as in the papers). A tenth of
    the others is the validation part; only the supervised bound ever looks at it.
    labels, groups: [N]. Raises ValueError when there are too few groups for five parts.
    """
    n_groups = len(np.unique(groups))
    if n_groups < TEST_FOLDS:
        raise ValueError(f"a grouped 4:1 split needs {TEST_FOLDS} groups, there are {n_groups}")
    split = np.full(len(labels), "train", dtype=object)
    split[_one_fold(labels, groups, TEST_FOLDS, seed)] = "test"
    rest = np.flatnonzero(split == "train")
    folds = min(VALIDATION_FOLDS, len(np.unique(groups[rest])))
    split[rest[_one_fold(labels[rest], groups[rest], folds, seed)]] = "validation"
    return split


def _one_fold(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    # The splitter places groups in order of size: fold 0 would always get the same large ones.
    chosen = np.random.default_rng(seed).integers(folds)
    return list(splitter.split(labels, labels, groups))[chosen][1]


def decode_tiles(
    table: pd.DataFrame, folder: Path, dataset: str, image_size: int, *, restain: float = 0.0
) -> Path:
    """Decode every tile once into a uint8 array [N, S, S, 3] and return its `.npy` file.

    S is 8/7 of `image_size`, the size that random views are cropped from: shorter side resized to S
    (bicubic), centre crop; then, unless `restain` is 0, `staining.restain` by that shift. The file
    is named after the digests, so that it serves every run on the same images. Raises ValueError
    naming the files that cannot be read.
    """
    size = stored_size(image_size)
    content = blake2b(" ".join(table.digest).encode(), digest_size=8).hexdigest()
    stained = f"-restained{restain:+g}" if restain else ""
    file = paths.store_folder(dataset) / f"{size}px-{content}{stained}.npy"
    if file.is_file():
        return file
    with atomic(file) as temporary:
        shape = (len(table), size, size, 3)
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def decode(row: int) -> str | None:
            try:
                tile = _read_square(folder / table.path.iloc[row], size)
                store[row] = staining.restain(tile, restain) if restain else tile
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
                return f"{folder / table.path.iloc[row]} ({error})"
            return None

        failed = [f for f in _in_threads(decode, range(len(table)), "decoding tiles") if f]
        store.flush()
        if failed:
            more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
            raise ValueError(
                f"{len(failed)} tiles cannot be read; remove or replace them: "
                + "; ".join(failed[:3])
                + more
            )
    return file


def stored_size(image_size: int) -> int:
    return round(image_size * 8 / 7)


def _read_square(file: Path, size: int) -> np.ndarray:
    with Image.open(file) as opened:
        opened.draft("RGB", (size, size))  # JPEG: decode near the wanted size
        image = opened.convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _in_threads(function, items, title: str | None = None) -> list:
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(function, items)
        return list(tqdm(done, title, total=len(items), disable=title is None))


def read_batches(
    store: Path, rows: np.ndarray, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Batches of the store: positions in `rows` [b] and tiles uint8 [b, S, S, 3] on the device.

    The array is mapped anew for each batch, so that resident memory does not grow with N.
    """
    for start in range(0, len(rows), batch_size):
        at = np.arange(start, min(start + batch_size, len(rows)))
        images = torch.from_numpy(np.load(store, mmap_mode="r", allow_pickle=False)[rows[at]])
        yield at, images.to(device, non_blocking=True)


def tile_draws(tiles: np.ndarray, n: int, seed: int, stream: int = 0) -> np.ndarray:
    """Uniform random numbers in [0, 1), float64 [len(tiles), n], fixed by seed, stream and tile.

    A tile's numbers depend neither on the other tiles nor on their order, so results do not change
    with batch size or row order. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a hash of a
    counter.
    """
    with np.errstate(over="ignore"):
        start = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(stream))
        counter = np.asarray(tiles, np.uint64)[:, None] * np.uint64(n) + np.arange(
            n, dtype=np.uint64
        )
        bits = _mix(_mix(start + counter))
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
