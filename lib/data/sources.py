"""The labelled tiles that a stand-in VLM learns on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.artefacts import atomic, digest_of, new_array
from lib.data import cards, datasets
from lib.data.tiles import decode_tiles, read_tile_table


def read_source(name: str, image_size: int) -> tuple[cards.Card, pd.DataFrame, Path]:
    """Card, tiles and decoded tiles of the dataset that the stand-in `name` learns on.

    Of a card that joins others, the classes and tiles of all of them, one after the other.
    """
    card = cards.read_card(paths.source_of(name))
    every = [card, *map(cards.read_card, card.joined)]
    parts = [_read_part(part, image_size) for part in every]
    if len(parts) == 1:
        return card, *parts[0]
    tables, classes = [], list[cards.TissueClass]()
    for part, (table, _) in zip(every, parts, strict=True):
        tables.append(table.assign(label=table.label + len(classes)))
        classes += [replace(c, name=f"{c.name}, {part.name}") for c in part.classes]
    joined = pd.concat(tables, ignore_index=True)
    joined["tile"] = np.arange(len(joined))
    pixels_files = [file for _, file in parts]
    # Named after the bytes: the parts are other tiles when a collection is.
    file = paths.pixels_folder(card.name) / f"joined-{digest_of({}, *pixels_files)}.npy"
    if not file.is_file():
        arrays = [np.load(part, mmap_mode="r", allow_pickle=False) for part in pixels_files]
        with atomic(file) as temporary:
            shape = (len(joined), *arrays[0].shape[1:])
            np.concatenate(arrays, out=new_array(temporary, shape, "uint8"))
    return replace(card, classes=tuple(classes)), joined, file


def _read_part(card: cards.Card, image_size: int) -> tuple[pd.DataFrame, Path]:
    folder = datasets.locate_tiles(card)
    table = read_tile_table(card, folder)
    return table, decode_tiles(table, folder, card.name, image_size, shift=card.shift)
