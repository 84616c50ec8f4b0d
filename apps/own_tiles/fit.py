"""What a newcomer asks: are the tiles enough, are they as wide as the model expects, how long."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from apps.own_tiles.tile_folder import TileFolder
from lib import paths
from lib.alarm import FEW_KEPT
from lib.blocks import draw
from lib.data import cards
from lib.data.images import open_image, tagged_mpp
from lib.vlm.cards import read_vlm_cards, split_name

if TYPE_CHECKING:
    from lib.vlm.inference import VLM

PER_CLASS = 2  # tiles; of one there is nothing to choose from
LOOKED_AT = 200  # tiles whose files are asked for µm per pixel
FITS = 2**0.5  # times as wide or as narrow; farther, the next objective of a microscope is nearer


def refuse_too_few(n_tiles: int, names: Sequence[str]) -> None:
    """Raise ValueError for fewer than `PER_CLASS` tiles for each class.

    Some class then has a single tile or none, whatever the prompts say: the views cannot rank it,
    its cluster is the tile itself, and no filter can leave it out.
    """
    least = PER_CLASS * len(names)
    if n_tiles < least:
        raise ValueError(
            f"{n_tiles} tiles are too few for {len(names)} classes: at least {least} are needed, "
            f"{PER_CLASS} for each, or the filters have nothing to choose from. Add tiles"
        )


def enough(unique: pd.DataFrame, names: Sequence[str], keep_ratio: float) -> str:
    """Say how many tiles it takes, and of which class there are fewest.

    A class needs `FEW_KEPT` kept labels, or an alarm rings; of its tiles the share `keep_ratio` is
    kept at most. unique: a row per tile with prompt_class.
    """
    needed = math.ceil(FEW_KEPT / keep_ratio - 1e-9)
    counts = unique.prompt_class.value_counts().reindex(list(names), fill_value=0)
    rarest = counts.index[counts.to_numpy().argmin()]
    return (
        f"How many tiles it takes: {PER_CLASS} for each class to run at all, {needed} that the "
        f"prompts give to a class for {FEW_KEPT} of its labels to be kept, and dozens for clusters "
        f"to mean much. Here the prompts gave {rarest} the fewest: {counts.min()}."
    )


def expected_um(member: str) -> float | None:
    """Width in µm of the tiles that a VLM has learnt from, where its card or its source's says."""
    if member.startswith(paths.STAND_IN):
        return cards.read_card(paths.source_of(member)).tile_um
    card = read_vlm_cards().get(member)
    return card.tile_um if card else None


def tagged_um(tiles: TileFolder) -> np.ndarray:
    """Width in µm of those of some tiles whose files give µm per pixel, by the shorter side."""
    widths = []
    for path in tiles.unique.path.iloc[draw(len(tiles.unique), LOOKED_AT, 0)]:
        with open_image(tiles.folder / path) as opened:
            if mpp := tagged_mpp(opened):
                widths.append(mpp * min(opened.size))
    return np.array(widths)


def width(tiles: TileFolder, vlm: str) -> str:
    """Say how wide the tiles are, how wide the model expects them, and whether that fits.

    Pixels alone do not tell: of 15 folders of CRC-5000 and CRC-VAL-HE-7K, one tissue each at 0.5 µm
    per pixel, the mean wavelength of haematoxylin is 10 to 23 pixels, the scale of its blobs 1.6 to
    8, so tissue changes them by more than another objective does.
    """
    n, widths = min(LOOKED_AT, len(tiles.unique)), tagged_um(tiles)
    here = (
        f"the tiles are {np.median(widths):.0f} µm wide (median; {len(widths)} of {n} files give "
        "their µm per pixel)"
        if len(widths)
        else "the files do not give µm per pixel, so how wide the tiles are is not known"
    )
    names, encoder = split_name(vlm)
    texts = []
    for member in [*names, *[encoder] * bool(encoder)]:
        expected = expected_um(member)
        if expected is None:
            texts.append(f"how wide a tile {member} expects is not known")
            continue
        text = f"{member} has learnt from tiles {expected:.0f} µm wide"
        if len(widths):
            times = float(np.median(widths)) / expected
            fits = 1 / FITS <= times <= FITS
            text += ", which fits" if fits else f": these are {times:.2g} times as wide. Cut others"
        texts.append(text)
    return f"Magnification: {here}; {'; '.join(texts)}."


def pace(model: "VLM", n_tiles: int, n_views: int, seconds: float) -> str:
    """Say where the model ran, and how long 10,000 tiles would take at the pace of this run."""
    import torch

    n_threads = torch.get_num_threads()
    where = f"the processor with {n_threads} thread{'s' * (n_threads > 1)}"
    if model.device.type == "cuda":
        where = torch.cuda.get_device_name(model.device)
    minutes = 10_000 * seconds / n_tiles / 60
    return (
        f"It ran on {where}: {n_tiles} tiles with {n_views} views of each were read in "
        f"{seconds:.0f} seconds. At this pace 10,000 take {max(minutes, 1):.0f} minutes; training "
        "takes as long as here."
    )
