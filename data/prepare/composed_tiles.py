"""Datasets composed of real tiles of others, as where classes are wanted that none has together."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import cards, datasets
from lib.data.tiles import read_tile_table

GROUPS = "groups.csv"


def write_composed_tiles(folder: Path, *, tissue: Mapping[str, str], tiles: int) -> None:
    """Copy tiles of other datasets to a folder for each kind of tissue, and write their groups.

    tissue: by kind the card that has a class of that name; tiles: of a kind, at most, taken by
    whole groups in an order drawn by chance, the last of which may be cut. `groups.csv`: path and
    group, which is as in the card that it names, and has copies there, too.
    """
    lines = []
    for name in dict.fromkeys(tissue.values()):
        card = cards.read_card(name)
        source = datasets.locate_tiles(card)
        table = read_tile_table(card, source)
        order = np.random.default_rng(0).permutation(table.group.unique())
        table = table.set_index("group").loc[order].reset_index()
        for kind in [kind for kind, of in tissue.items() if of == name]:
            for row in table[table.label == card.class_names.index(kind)][:tiles].itertuples():
                path = f"{kind}/{Path(row.path).name}"
                (folder / kind).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / row.path, folder / path)
                lines.append({"path": path, "group": f"{name} {row.group}"})
    pd.DataFrame(lines).to_csv(folder / GROUPS, index=False)
