"""Other tiles than those that trained a classifier: a sample to compare with, and a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from lib.learning.networks import Classifier

SAMPLE = "training_tiles.safetensors"
FEATURES = ("backbone_features", "mean_features")  # that heads read of plain tiles, and of views


def save_sample(run: Path, unique: pd.DataFrame, folder: Path, *, seed: int) -> None:
    """Keep the features of some training tiles, as many of each case, and their cases.

    run: folder with what `steps.embed` wrote; unique: a row per tile.
    """
    from safetensors.numpy import save_file

    from lib.quality import drift

    by_folder = not unique.group.equals(unique.path)
    cases = pd.factorize(first_folder(unique) if by_folder else unique.path)[0]
    some = drift.draw_by_group(cases, drift.MOST_TILES, seed)
    sample = {"cases": cases[some]}
    for name in FEATURES:
        all_tiles = np.load(run / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        sample[name] = all_tiles[unique.tile.to_numpy()[some]]
    save_file(sample, folder / SAMPLE)


def first_folder(unique: pd.DataFrame) -> pd.Series:
    """The first folder of each path, which is a case; "" where a tile lies in none."""
    return unique.path.str.extract("^([^/]*)/", expand=False).fillna("")


def how_unlike(
    folder: Path, heads: Sequence["Classifier"], features: Path, unique: pd.DataFrame
) -> str:
    """Say in a sentence whether tiles are unlike those that trained the classifier in a folder.

    Parameters
    ----------
    folder : of the classifier
    heads : its networks
    features : file of `FEATURES`, a row per tile
    unique : a row per tile; where the training tiles had cases, the first folders are the cases of
        these, and all are of one case if any tile lies in none

    """
    import torch
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from lib.learning import networks
    from lib.quality import drift

    unknown = "Whether these tiles are unlike those that trained the classifier is not known: "
    try:
        sample = load_file(folder / SAMPLE)
        trained, cases = sample[features.stem].astype(np.float32), sample["cases"]
    except (OSError, LookupError, SafetensorError):
        return f"{unknown}it was saved without a sample of them. Train it again to know."
    as_tensor = torch.from_numpy(trained)
    probs = networks.predict(heads, as_tensor.__getitem__, np.arange(len(trained)))
    known = len(np.unique(cases)) < len(cases)
    own, what = np.arange(len(unique)), "tiles, taken as of different cases,"
    if known:
        folders = first_folder(unique)
        own, what = pd.factorize(folders)[0] * (folders != "").all(), "cases"
    new = np.load(features, mmap_mode="r", allow_pickle=False)
    found = drift.compare(trained, probs.argmax(1), cases, new, own)
    if found is None:
        n_trained = len(np.unique(cases))
        return f"{unknown}its training {what} are too few to compare with ({n_trained})."
    numbers = f"{found.n_new} new against {found.n_trained} training {what}"
    far = f"{found.far:.0%} of them lie farther from every class than 99% of the training tiles"
    if found.least > drift.LEVEL:
        return f"{unknown}{numbers} are too few for a test. {far}."
    numbers = f"(p = {found.p:.3f}; {numbers}); {far}."
    if not found.unlike:
        return f"No difference was found to the tiles that trained the classifier {numbers}"
    return (
        f"These tiles are unlike those that trained the classifier, class by class {numbers} They "
        "come from elsewhere (stain, scanner, magnification, focus), or hold other tissue or other "
        "classes: look at some of them before you rely on the predictions."
    )
