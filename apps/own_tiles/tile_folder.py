"""A folder of images: which files are tiles, what is left out and why, their pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lib import paths
from lib.data.images import FORMATS, conversions, open_image
from lib.data.tiles import (
    UnreadableTiles,
    decode_tiles,
    digest,
    files_below,
    holds_results,
    in_threads,
)

SHOWN = 20  # files that are left out, on the terminal


@dataclass(frozen=True)
class TileFolder:
    """The images below a folder, and what is left out.

    table: a row per image, ordered by path: tile (int64; copies of one file share a number), path
    (below the folder), group, digest (of the bytes). left_out: path and why of all other files, and
    of folders that are not entered. converted: what has to be converted, by path.
    """

    folder: Path
    table: pd.DataFrame
    left_out: pd.DataFrame
    converted: Mapping[str, str] = field(default_factory=dict)

    @property
    def unique(self) -> pd.DataFrame:
        """The first row of each tile number, in order: the table without copies."""
        return self.table.drop_duplicates("tile").reset_index(drop=True)

    def decode(self, dataset: str, image_size: int) -> tuple["TileFolder", Path]:
        """Decode each tile once, see `decode_tiles`; returns the folder and the pixels file.

        Tiles that cannot be decoded are left out of the folder that is returned. Raises ValueError
        where none is left.
        """
        unique = self.unique
        try:
            return self, decode_tiles(unique, self.folder, dataset, image_size)
        except UnreadableTiles as error:
            reasons = dict(zip(unique.digest, unique.path.map(error.reasons), strict=True))
        why = self.table.digest.map(reasons)  # of copies, that of the first one
        spoilt = self.table[["path"]].assign(why=why)[why.notna()]
        left_out = pd.concat([self.left_out, spoilt])
        tiles = _numbered(self.folder, self.table[why.isna()], left_out, self.converted)
        return tiles.decode(dataset, image_size)

    def left_out_lines(self) -> list[str]:
        """Say what is left out of how many files; no name can break a line."""
        n, n_files = len(self.left_out), len(self.left_out) + len(self.table)
        if not n:
            return []
        lines = [f"left out of {str(self.folder)!r}: {n} of {n_files} files"]
        shown = self.left_out[:SHOWN]
        lines += [f"left out: {p!r}: {why}" for p, why in zip(shown.path, shown.why, strict=True)]
        return lines + [f"left out: and {n - SHOWN} more"] * (n > SHOWN)

    def converted_lines(self) -> list[str]:
        """Say in one line what was converted of how many images."""
        if not self.converted:
            return []
        notes = self.table.path.map(self.converted).dropna()
        kinds, n = "; ".join(sorted(notes.unique())), len(self.table)
        such = "".join(f", such as {path!r}" for path in self.table.path[notes.index[:1]])
        return [f"converted: {len(notes)} of {n} images ({kinds}){such}"] * bool(len(notes))


def tiles_folder(folder: str) -> Path:
    """Return a user's folder; without a name that of the synthetic tiles of the demo."""
    if folder:
        return Path(folder).expanduser()
    from data.prepare.datasets import prepare
    from lib.data.cards import read_card

    return prepare(read_card("demo"))


def list_tiles(folder: Path, *, by_folder: bool = False) -> TileFolder:
    """List the images below a folder without reading their pixels.

    The group of a tile is its subfolder with `by_folder`, else its path. Raises ValueError naming
    the folder when it does not exist, lies among results, holds no image, or with `by_folder` has
    tiles in no subfolder.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder of tiles: {folder}")
    here, synthetic = folder.resolve(), paths.raw_folders()[0].resolve()
    if any(holds_results(parent) for parent in (here, *here.parents) if parent != synthetic):
        raise ValueError(f"{folder} lies among results of this project: name a folder of tiles")
    reasons = files_below(folder)

    def read(path: str) -> tuple[str, str, str]:
        """The digest of an image that opens, why it does not ("" if it does), what is converted."""
        try:
            with open_image(folder / path) as opened:
                return digest(folder / path), "", ", ".join(conversions(opened))
        except (OSError, ValueError) as error:
            return "", str(getattr(error, "strerror", None) or error), ""

    listed = [path for path, why in reasons.items() if not why]
    seen = dict(zip(listed, in_threads(read, listed, "reading tiles"), strict=True))
    reasons |= {path: why for path, (_, why, _) in seen.items()}
    table = pd.DataFrame({"path": [path for path, why in reasons.items() if not why]}, dtype=object)
    table["group"] = table.path.str.rpartition("/")[0] if by_folder else table.path
    table["digest"] = [seen[path][0] for path in table.path]
    if by_folder and (table.group == "").any():
        outside = table.path[table.group == ""].iloc[0]
        raise ValueError(f"subfolders are to be groups, but {outside} lies in none")
    left = [(path, why) for path, why in reasons.items() if why]
    converted = {path: notes for path, (_, _, notes) in seen.items() if notes}
    return _numbered(folder, table, pd.DataFrame(left, columns=["path", "why"]), converted)


def _numbered(
    folder: Path, table: pd.DataFrame, left_out: pd.DataFrame, converted: Mapping[str, str]
) -> TileFolder:
    """Number the tiles, copies alike. Raises ValueError, saying what was left out, without any."""
    numbers = pd.factorize(table.digest)[0]
    table = table.drop(columns="tile", errors="ignore").reset_index(drop=True)
    table.insert(0, "tile", numbers)
    left_out = left_out.sort_values("path", ignore_index=True)
    tiles = TileFolder(folder, table, left_out, converted)
    if not len(table):
        what = f"{folder} holds no image ({', '.join(FORMATS)})"
        raise ValueError("\n".join([what, *tiles.left_out_lines()]))
    return tiles
