"""From the result of `90_your_own_tiles` to queries that a person answers, round by round."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from apps.labelling.answers import AnswersOracle
from apps.labelling.widget import Tiles
from apps.own_tiles import classifier
from lib.active import loop
from lib.active.cold_start import ColdStart
from lib.active.trainings import training_by_name, training_setup
from lib.labels import UNLABELLED
from lib.learning import networks, setups

TRAINING = "dual-view-aligned"


@dataclass(frozen=True)
class OwnTiles:
    """What `90_your_own_tiles` made of a folder.

    unique: a row per tile; probs: [N, C]; kept_labels: [N], of the filters, `UNLABELLED` elsewhere.
    """

    out: Path
    folder: Path
    table: pd.DataFrame
    unique: pd.DataFrame
    class_names: list[str]
    probs: np.ndarray
    kept_labels: np.ndarray


def own_tiles(out: Path, folder: Path) -> OwnTiles:
    """Read the result of notebook 90 in `out` for the tiles in `folder`.

    Raises ValueError, saying what to run, where there is none or the tiles have changed since.
    """
    again = "run 90_your_own_tiles with the same folder, or `make label TILES=folder CLASSES=...`"
    if not (out / "classifier" / classifier.DESCRIPTION).is_file():
        raise ValueError(f"{out} holds no result for {folder}: {again}")
    description, pair = classifier.read_classifier(out / "classifier")
    table = classifier.list_tiles(folder)
    unique = classifier.unique_tiles(table)
    made_from = description.get("made_from", {})
    if made_from.get("tiles") != classifier.made_from(unique, "")["tiles"]:
        raise ValueError(f"the tiles in {folder} are not those that {out} was made from: {again}")
    reader = setups.frozen(out, unique.tile.values, 2, steps=1, seed=0).reader
    probs = networks.predict(pair, reader, unique.tile.values)
    names = list(description["classes"])
    # A class may be called None, NA or 1.0: read as text.
    filtered = pd.read_csv(out / "pseudo_labels.csv", dtype=str, keep_default_na=False)
    filtered = filtered.set_index("path").loc[unique.path]
    numbers = filtered.prompt_class.map({name: c for c, name in enumerate(names)})
    kept = numbers.where(filtered.kept == "True", UNLABELLED).values.astype(np.int64)
    return OwnTiles(out, folder, table, unique, names, probs, kept)


class LabellingLoop:
    """UniSAL's rounds on a person's own tiles, with VLM-CPL as their `ColdStart`.

    strategy: see `strategies.select`; steps: of training in a round, dual-view-aligned. The rounds
    lie in `rounds/` of the result folder. Nobody's answer is left out: those to tiles that no query
    asked for take part in the training as well, and no tile that somebody has judged is queried.
    """

    def __init__(
        self,
        own: OwnTiles,
        oracle: AnswersOracle,
        *,
        strategy: str,
        query_size: int,
        steps: int,
        seed: int,
    ):
        self.own, self.oracle = own, oracle
        self.folder = own.out / "rounds" / strategy
        given, n_classes = (own.out, own.unique.tile.values), len(own.class_names)
        make = partial(setups.frozen, *given, n_classes, steps=steps, seed=seed)
        trained = setups.load_networks(make(), own.out / "hcs")
        start = ColdStart(trained, own.probs.argmax(1), own.kept_labels)
        self.config = loop.ActiveLearningConfig(
            own.unique.tile.values, own.class_names, strategy, training_by_name(TRAINING)[0],
            training_setup(TRAINING, make), query_size=query_size,
            seed=seed, cold_start=start,
            n_rounds=len(own.unique),  # a person stops when it is enough
        )  # fmt: skip

    def advance(self) -> np.ndarray:
        """Train on all answers once a query is done; the tiles that are to be labelled now."""
        known = self.oracle.known()
        nobody = np.zeros(0, np.int64)
        self.history = loop.run_rounds(self.folder, self.config, self.oracle, nobody, known=known)
        return loop.pending_query(self.folder)

    def predict(self) -> np.ndarray:
        """Mean softmax of the newest networks for all tiles, [N, C]; before any, VLM-CPL's."""
        newest = self.folder / f"networks{len(self.history.rounds) - 1}"
        if not newest.is_dir():
            return self.own.probs
        pair = setups.load_networks(self.config.setup, newest)
        return networks.predict(pair, self.config.setup.reader, self.config.tiles)


def pictures(own: OwnTiles, probs: np.ndarray) -> Tiles:
    """What the grid shows: files, their neighbours by the VLM's features, suggestions [N, C]."""
    features = np.load(own.out / "backbone_features.npy", mmap_mode="r", allow_pickle=False)
    unique = own.unique
    return Tiles(own.folder, unique.path.tolist(), unique.digest.tolist(), features, probs)
