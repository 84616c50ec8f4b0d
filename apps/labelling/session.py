"""From the result of `90_your_own_tiles` to queries that a person answers, round by round."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from apps.labelling.answers import AnswersOracle
from apps.labelling.audit import Predictions, of_classifier
from apps.own_tiles.classifier import DESCRIPTION, read_classifier
from apps.own_tiles.results import made_from
from apps.own_tiles.tile_folder import list_tiles
from lib.active import loop
from lib.active.cold_start import ColdStart
from lib.active.trainings import training_by_name, training_setup
from lib.labels import OTHER_TISSUE, REFUSED, UNLABELLED
from lib.learning import networks, samplers, setups
from lib.slides.open_set import others_as_one

TRAINING = "dual-view-aligned"


@dataclass(frozen=True)
class OwnTiles:
    """What `90_your_own_tiles` made of a folder.

    out, folder: of the result and of the tiles; table, unique: a row per file and per tile;
    features: [N, E], of the VLM; probs: [N, C]; kept_labels: [N], `UNLABELLED` where none was kept;
    others: names of other tissue, which is one more class after the C of `class_names` in probs and
    kept labels, whatever it is called; taught: digests of the tiles whose labels notebook 90 was
    given.
    """

    out: Path
    folder: Path
    table: pd.DataFrame
    unique: pd.DataFrame
    class_names: Sequence[str]
    features: np.ndarray
    probs: np.ndarray
    kept_labels: np.ndarray
    others: Sequence[str] = ()
    taught: Sequence[str] = ()

    @property
    def learnt_names(self) -> list[str]:
        """Names of the classes of probs and kept labels."""
        return [*self.class_names, *[OTHER_TISSUE] * bool(self.others)]

    @property
    def none(self) -> int:
        """The label of a tile of which people say that it shows no class."""
        return len(self.class_names) if self.others else REFUSED


def own_tiles(out: Path, folder: Path) -> OwnTiles:
    """Read the result of notebook 90 in `out` for the tiles in `folder`.

    Raises ValueError, saying what to run, where there is none or the tiles have changed since.
    """
    again = "run 90_your_own_tiles with the same folder, or `make label TILES=folder CLASSES=...`"
    if not (out / "classifier" / DESCRIPTION).is_file():
        raise ValueError(f"{out} holds no result for {folder}: {again}")
    description, pair = read_classifier(out / "classifier")
    if description["made_from"]["tiles"] != made_from(list_tiles(folder).unique, "")["tiles"]:
        raise ValueError(f"the tiles in {folder} are not those that {out} was made from: {again}")
    # A class may be called None, NA or 1.0: read as text.
    table = pd.read_csv(out / "pseudo_labels.csv", dtype=str, keep_default_na=False)
    table.insert(0, "tile", pd.factorize(table.digest)[0])
    unique = table.drop_duplicates("tile").reset_index(drop=True)
    others = description["made_from"].get("other_tissue", [])
    names = list(description["classes"])[: len(description["classes"]) - len(others)]
    number_of = {name: c for c, name in enumerate(names)} | dict.fromkeys(others, len(names))
    numbers = unique.prompt_class.map(number_of)
    kept = numbers.where(unique.kept == "True", UNLABELLED).to_numpy(np.int64)
    if description["made_from"]["labels"] and "labelled" not in unique:
        raise ValueError(f"{out} does not say which tiles had a label: {again}")
    taught = unique.digest[unique.labelled == "True"].tolist() if "labelled" in unique else []
    file = out / "mean_features.npy"
    features = np.load(file, mmap_mode="r", allow_pickle=False)
    probs = networks.predict(pair, samplers.plain_features(file), unique.tile.values)
    if others:
        probs = others_as_one(probs, len(names))
    return OwnTiles(out, folder, table, unique, names, features, probs, kept, others, taught)


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
        tiles, names = own.unique.tile.values, own.learnt_names
        make = partial(setups.frozen, own.out, tiles, n_classes=len(names), steps=steps, seed=seed)
        n_before = len(own.class_names) + len(own.others)
        trained = setups.load_networks(make(n_classes=n_before), own.out / "hcs")
        self.config = loop.ActiveLearningConfig(
            tiles,
            names,
            strategy,
            training_by_name(TRAINING),
            training_setup(TRAINING, make),
            query_size=query_size,
            n_rounds=len(tiles),  # a person stops when it is enough
            seed=seed,
            cold_start=ColdStart(trained, own.probs.argmax(1), own.kept_labels),
        )

    def advance(self) -> np.ndarray:
        """Train on all answers once a query is done; returns the tiles to be labelled now."""
        known, nobody = self.oracle.known(), np.zeros(0, np.int64)
        self.history = loop.run_rounds(self.folder, self.config, self.oracle, nobody, known=known)
        return loop.pending_query(self.folder)

    def pause(self) -> None:
        """Read the rounds that are there, of these settings and tiles, and train none."""
        mark = self.folder / "config.txt"
        same = mark.is_file() and mark.read_text() == self.config.fingerprint(np.zeros(0, np.int64))
        self.history = loop.read_rounds(self.folder if same else self.folder / "none")

    def predictions(self) -> Predictions:
        """Predict all tiles by the newest networks; before any round, by VLM-CPL's."""
        n, own = len(self.history.rounds), self.own
        digests, newest = own.unique.digest.tolist(), self.folder / f"networks{n - 1}"
        if not newest.is_dir():
            return of_classifier(own.out, digests, own.probs, own.class_names, own.others)
        pair = setups.load_networks(self.config.setup, newest)
        probs = networks.predict(pair, self.config.setup.reader, self.config.tiles)
        labelled = self.history.rounds.labelled.iloc[-1]
        name = (
            f"predictions_labelled.csv after round {n} of {self.config.strategy}, {labelled} labels"
        )
        return Predictions(name, newest, own.learnt_names, digests, probs, bool(own.others))

    def predict(self) -> np.ndarray:
        """Mean softmax of the newest networks for all tiles, [N, C]."""
        return self.predictions().probs
