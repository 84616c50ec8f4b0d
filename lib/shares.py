"""The tiles of one run, encoded by several jobs: each writes a share, and one gathers them.

A share consists of whole batches, so what is gathered equals what one job writes. Each has a folder
of its own: no two machines write to one file.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import paths
from lib.artefacts import atomic, digest_of, new_array
from lib.run_folder import Run
from lib.vlm.inference import VLM, weights_digest

BY_VIEW = ("view_features.npy", "votes.npy")  # [V, N, …]; the others are [N, …]


def embed_in_parts(
    run: Run,
    embed: Callable,
    vlm: VLM,
    text: torch.Tensor,
    *,
    part: int,
    parts: int,
    **options: Any,
) -> None:
    """Embed a share of a run's tiles, or all that is missing of them, and gather the shares.

    A share that is done is passed over, if it was made by the same weights from the same tiles and
    settings. The gathered ones are removed when their notebook has ended, see `lib.runner`.

    Parameters
    ----------
    embed : `embed_tiles` or `embed_views`, which writes to the folder of the run
    text : [C, D], see there
    part : the share of this job, 0 … parts − 1; −1: what is missing of all, and then to gather
    parts : jobs that share the tiles; where batches are fewer, some have nothing to do
    options : of `embed`, with its batch_size
    """
    pixels_file, size = run.pixels_file(), options["batch_size"]
    tiles = np.arange(len(np.load(pixels_file, mmap_mode="r", allow_pickle=False)))
    of_all = {"text": text, **options}
    if part == -1 and parts == 1:
        return embed(vlm, pixels_file, tiles=tiles, run=run.folder, **of_all)
    used = {"settings": dict(run.settings), "weights": weights_digest(vlm)}
    made_from = digest_of(used | {"pixels": pixels_file.name})
    firsts = [batches for batches in np.array_split(tiles[::size], parts) if len(batches)]
    folder = paths.shares_folder(run.folder, run.notebook)
    shares = {
        folder / f"{made_from}-{number}of{parts}": tiles[batches[0] : batches[-1] + size]
        for number, batches in enumerate(firsts)
    }
    for number, (file, share) in enumerate(shares.items()):
        if part in (-1, number) and not file.is_dir():
            with atomic(file) as made:
                made.mkdir()
                embed(vlm, pixels_file, tiles=share, run=made, **of_all)
    if part == -1:
        _gather(shares, len(tiles), run.folder)


def _gather(shares: Mapping[Path, np.ndarray], n_tiles: int, run: Path) -> None:
    """Put the arrays of shares side by side. shares: the tiles of each, by its folder."""
    with ExitStack() as stack:
        for name in sorted(file.name for file in next(iter(shares)).glob("*.npy")):
            axis = 1 if name in BY_VIEW else 0
            mapped = [np.load(f / name, mmap_mode="r", allow_pickle=False) for f in shares]
            shape = (*mapped[0].shape[:axis], n_tiles, *mapped[0].shape[axis + 1 :])
            temporary = stack.enter_context(atomic(run / name))
            whole = new_array(temporary, shape, mapped[0].dtype).swapaxes(0, axis)
            for tiles, some in zip(shares.values(), mapped, strict=True):
                whole[tiles] = some.swapaxes(0, axis)
