"""History of training and asking: the loop of active learning, and whom it asks.

Everything that a round learns is on disk before the next begins: an interrupted loop continues,
with the same queries. No label is seen but through the oracle.
"""

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from lib.active.strategies import Pool, Query, select, strategy_by_name
from lib.artefacts import atomic
from lib.labels import UNLABELLED
from lib.learning.networks import predict, predict_members
from lib.learning.setups import TrainingSetup, load_networks
from lib.learning.trainer import TrainingTiles, new_networks, train
from lib.runner import modules_used

REFUSED = -2  # an answer: this tile shows none of the classes, or cannot be judged
UNANSWERED = -3  # asked, and no answer came: the tile stays without a label
WAITING = -4  # chosen, not asked yet


class Oracle(Protocol):
    """Who gives labels: a column of a table, or a person."""

    def label(self, tiles: np.ndarray) -> Mapping[int, int]:
        """Label by tile number, or `REFUSED`. May leave tiles out, which are not asked for again.

        tiles: tile numbers in the order in which their labels are wanted.
        """
        ...


class TableOracle:
    """An oracle that looks the labels up. tiles, labels: [N]."""

    def __init__(self, tiles: np.ndarray, labels: np.ndarray):
        self.labels = dict(zip(tiles.tolist(), labels.tolist(), strict=True))

    def label(self, tiles: np.ndarray) -> dict[int, int]:
        return {tile: self.labels[tile] for tile in tiles.tolist()}


@dataclass(frozen=True)
class ActiveLearningConfig:
    """What all rounds of a loop share.

    tiles: [N], the pool; strategy: see `strategies.select`; the first `query_size` tiles are drawn
    by chance from the seed alone. Networks start afresh in every round, or with `restart` off from
    those of the round before. truth: [N], for reports of pseudo labels alone. Raises ValueError
    for an unknown strategy and a tile that stands in the pool twice.
    """

    tiles: np.ndarray
    class_names: Sequence[str]
    strategy: str
    objective: Any
    setup: TrainingSetup
    query_size: int
    n_rounds: int
    seed: int
    restart: bool = True
    truth: np.ndarray | None = None

    def __post_init__(self) -> None:
        strategy_by_name(self.strategy)
        if len(np.unique(self.tiles)) < len(self.tiles):
            raise ValueError("a tile stands in the pool more than once")

    def fingerprint(self, predict_for: np.ndarray) -> str:
        """Of all that decides what the rounds give: settings, tiles, inputs and this code."""
        sizes = (self.query_size, self.n_rounds, self.seed, self.restart, list(self.class_names))
        about = repr((self.strategy, self.objective, self.setup.plan, sizes))
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        for tiles in (self.tiles, predict_for):
            digest.update(repr(tiles.shape).encode() + tiles.tobytes())
        digest.update(self.setup.reader(self.tiles[:16]).cpu().numpy().tobytes())
        with torch.random.fork_rng([]):
            network = new_networks(self.setup.make_network, 1, self.seed)[0]
        digest.update(repr(network).encode())
        for values in network.buffers():  # of frozen heads: the statistics of all views
            digest.update(values.cpu().numpy().tobytes())
        for code in (Path(__file__), Path(inspect.getfile(type(self.objective)))):
            for file in [code, *modules_used(code)]:
                digest.update(file.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class History:
    """What a loop leaves: a line per asked tile, a line per round, predictions [R, M, C]."""

    asked: pd.DataFrame
    about: pd.DataFrame
    probs: np.ndarray


def run_rounds(
    folder: Path, config: ActiveLearningConfig, oracle: Oracle, predict_for: np.ndarray
) -> History:
    """Ask, train, choose what to ask next; `n_rounds` times.

    predict_for: [M], tiles that every round predicts (a test set): never asked for, which is
    checked. folder gets, per round r, round<r>.parquet (what was asked, in order, with its
    answers), probs<r>.npy [M, C] and round<r>.json (how it went); and the networks of the last
    round. If it holds rounds of another config these are moved aside to <folder>.before, or
    .before2 and so on: labels that somebody gave are never removed.

    Raises ValueError when the pool and `predict_for` share a tile, when the oracle answers what it
    was not asked or a class that there is not, and when it labels no tile of the first query.
    """
    if np.isin(config.tiles, predict_for).any():
        raise ValueError("tiles that are to be predicted stand in the pool that is asked about")
    _begin(folder, config.fingerprint(predict_for))
    if not (folder / "round0.parquet").is_file():
        first = np.random.default_rng(config.seed).permutation(len(config.tiles))
        _save_query(folder, 0, config.tiles, Query(first[: config.query_size]))
    for number in range(config.n_rounds):
        asked = _answered(folder, number, config, oracle)
        if not (folder / f"round{number}.json").is_file():
            _train_and_choose(folder, number, config, asked, predict_for)
    return read_rounds(folder)


def read_rounds(folder: Path) -> History:
    """The rounds that are complete so far."""
    n = len(list(folder.glob("round*.json")))
    asked = [pd.read_parquet(folder / f"round{r}.parquet").assign(round=r) for r in range(n)]
    about = [json.loads((folder / f"round{r}.json").read_text()) for r in range(n)]
    probs = [np.load(folder / f"probs{r}.npy", allow_pickle=False) for r in range(n)]
    return History(pd.concat(asked, ignore_index=True), pd.DataFrame(about), np.stack(probs))


def _begin(folder: Path, fingerprint: str) -> None:
    mark = folder / "config.txt"
    if mark.is_file() and mark.read_text() == fingerprint:
        return
    if folder.is_dir():
        ends = chain([".before"], (f".before{n}" for n in count(2)))
        asides = (folder.with_name(folder.name + end) for end in ends)
        folder.rename(next(aside for aside in asides if not aside.exists()))
    with atomic(mark) as file:
        file.write_text(fingerprint)


def _save_query(folder: Path, number: int, tiles: np.ndarray, query: Query) -> None:
    with atomic(folder / f"round{number}.parquet") as file:
        pd.DataFrame({"tile": tiles[query.rows], "label": WAITING}).to_parquet(file)


def _answered(
    folder: Path, number: int, config: ActiveLearningConfig, oracle: Oracle
) -> pd.DataFrame:
    """All that was asked up to a round; what still waits for an answer is asked now."""
    file = folder / f"round{number}.parquet"
    query = pd.read_parquet(file)
    waiting = query.label.values == WAITING
    if waiting.any():
        tiles = query.tile.values[waiting]
        answers = {int(tile): int(label) for tile, label in oracle.label(tiles).items()}
        _check_answers(answers, tiles, config.class_names)
        query.loc[waiting, "label"] = [answers.get(tile, UNANSWERED) for tile in tiles.tolist()]
        with atomic(file) as temporary:
            query.to_parquet(temporary)
    earlier = [pd.read_parquet(folder / f"round{r}.parquet") for r in range(number)]
    return pd.concat([*earlier, query], ignore_index=True)


def _check_answers(answers: Mapping[int, int], tiles: np.ndarray, names: Sequence[str]) -> None:
    unasked = sorted(set(answers) - set(tiles.tolist()))
    if unasked:
        raise ValueError(f"the oracle labelled tiles that it was not asked for: {unasked[:5]}")
    for tile, label in answers.items():
        if label != REFUSED and not 0 <= label < len(names):
            raise ValueError(
                f"the oracle gave tile {tile} the label {label}: 0 … {len(names) - 1} are classes, "
                f"{REFUSED} refuses a tile"
            )


def _train_and_choose(
    folder: Path,
    number: int,
    config: ActiveLearningConfig,
    asked: pd.DataFrame,
    predict_for: np.ndarray,
) -> None:
    """One round: train on the labels so far, predict, choose the next query, and note it all."""
    started = time.perf_counter()
    answers = pd.Series(asked.label.values, asked.tile.values).reindex(config.tiles)
    labels = answers.where(answers >= 0, UNLABELLED).values.astype(np.int64)
    if (labels == UNLABELLED).all():
        raise ValueError(
            f"the oracle has labelled none of the {len(asked)} tiles asked for, and nothing is "
            f"learnt from nothing: remove {folder} to ask anew"
        )
    networks, curve = _train(folder, number, config, labels, (answers == REFUSED).values)
    trained = time.perf_counter()
    late = curve.tail(max(1, len(curve) // 10))[["confident", "precision"]].mean()
    about: dict[str, Any] = {"round": number, "labelled": int((labels != UNLABELLED).sum())}
    about |= late.astype(object).where(late.notna(), None).to_dict()
    if number + 1 < config.n_rounds:
        seen = predict_members(networks, config.setup.reader, config.tiles)
        pool = Pool(*seen, labels, answers.isna().values)
        query = select(config.strategy, pool, config.query_size, config.seed)
        _save_query(folder, number + 1, config.tiles, query)
        about |= {"disagreeing": query.disagreeing, "filled": query.filled}
    with atomic(folder / f"probs{number}.npy") as file, file.open("wb") as opened:
        np.save(opened, predict(networks, config.setup.reader, predict_for))
    about |= {"training_seconds": trained - started}
    about |= {"selection_seconds": time.perf_counter() - trained}
    with atomic(folder / f"round{number}.json") as file:
        file.write_text(json.dumps(about, allow_nan=False))
    for old in set(folder.glob("networks*")) - {folder / f"networks{number}"}:
        shutil.rmtree(old, ignore_errors=True)


def _train(
    folder: Path, number: int, config: ActiveLearningConfig, labels: np.ndarray, refused: np.ndarray
) -> tuple[list[nn.Module], pd.DataFrame]:
    """Networks and curve of one round; refused tiles are no part of it."""
    setup = config.setup
    if number and not config.restart:
        before = load_networks(setup, folder / f"networks{number - 1}")
        setup = replace(setup, make_network=iter(before).__next__)
    used = ~refused
    truth = None if config.truth is None else config.truth[used]
    data = TrainingTiles(config.tiles[used], labels[used], config.class_names, truth)
    return train(
        config.objective, setup.make_network, setup.sampler, data, plan=setup.plan, seed=config.seed,
        folder=folder / f"networks{number}",
    )  # fmt: skip
