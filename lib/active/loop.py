"""Rounds of active learning: ask an oracle for labels, train, choose what to ask for next.

Everything that a round learns is on disk before the next begins: an interrupted loop continues,
with the same queries. No label is seen but through the oracle.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lib.active.cold_start import ColdStart
from lib.active.inputs import frozen_features, make_pool
from lib.active.pool import Pool, Query
from lib.active.strategies import OPEN_SET, select, strategy_by_name
from lib.active.trainings import training_label_counts, voronoi_weights
from lib.artefacts import atomic, locked
from lib.labels import REFUSED, UNANSWERED, UNLABELLED, WAITING, missing_classes_expected
from lib.learning.batches import TrainingTiles
from lib.learning.losses import DualViewTraining
from lib.learning.networks import new_networks, predict
from lib.learning.setups import Trained, Training, TrainingSetup, load_networks, train_all

# Of all code that decides what rounds give: the loop, the strategies, the objectives, the trainer,
# the networks and the views. Raise it together with a change there that gives other queries or
# other predictions for the same settings and data: rounds of an older version are then moved aside
# and begun again. Whatever changes no result, a docstring or a faster loop, leaves it as it is.
ALGORITHM = 3


class Waiting(Exception):
    """Raised by an oracle that cannot answer yet: the query stays, the rounds stop before it."""


class Oracle(Protocol):
    """Who gives labels: a column of a table, or a person."""

    def label(self, tiles: np.ndarray) -> Mapping[int, int]:
        """Give a label by tile number, or `REFUSED`. Tiles left out are not asked for again.

        tiles: tile numbers in the order in which their labels are wanted. Raises `Waiting` where
        an answer has yet to come, as from a person.
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
    by chance from the seed and the fold, or chosen by `first`, a strategy that looks at features
    alone, such as typiclust; where there is a `cold_start`, it chooses them. Networks start afresh
    in every round, or with `restart` off from those of the round before. truth: [N], for reports of
    pseudo labels alone; called: bool [N], tiles that prompts call a class, see `Pool`. Raises
    ValueError for an unknown strategy, one that wants `called` without it, and a tile that stands
    in the pool twice.
    """

    tiles: np.ndarray
    class_names: Sequence[str]
    strategy: str
    objective: Any
    setup: TrainingSetup
    query_size: int
    n_rounds: int
    seed: int
    fold: int = 0
    restart: bool = True
    truth: np.ndarray | None = None
    cold_start: ColdStart | None = None
    first: str = "random"
    called: np.ndarray | None = None

    def __post_init__(self) -> None:
        for strategy in (self.strategy, self.first):
            strategy_by_name(strategy)
            if strategy in OPEN_SET and self.called is None:
                raise ValueError(
                    f"{strategy} is for datasets whose card names targets, with prompts of the "
                    "other classes: there is nothing to tell tiles of no class by"
                )
        if len(np.unique(self.tiles)) < len(self.tiles):
            raise ValueError("a tile stands in the pool more than once")

    def fingerprint(self, predict_for: np.ndarray) -> str:
        """Digest all that decides what the rounds give: settings, data and the code's version."""
        sizes = (self.query_size, self.n_rounds, self.seed, self.fold, self.restart, self.first)
        names = list(self.class_names)
        settings = (ALGORITHM, self.strategy, self.objective, self.setup.schedule, sizes, names)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for tiles in (self.tiles, predict_for):
            digest.update(repr(tiles.shape).encode() + tiles.tobytes())
        few = self.tiles[:16]
        for inputs in (self.setup.reader(few), self.setup.sampler(few, 0, 0)):
            digest.update(inputs.cpu().numpy().tobytes())
        network = new_networks(self.setup.make_network, self.seed)[0]
        digest.update(repr(network).encode())
        for name, values in network.named_buffers():  # of frozen heads: the statistics of all views
            if name != "basis":  # which follows from the same views, up to rounding
                digest.update(values.cpu().numpy().tobytes())
        if self.cold_start is not None:
            self.cold_start.update(digest)
        if self.called is not None:
            digest.update(self.called.tobytes())
        return digest.hexdigest()

    def pool(
        self, strategy: str, networks: Sequence[Any], labels: np.ndarray, may_ask: np.ndarray
    ) -> Pool:
        """Predict the pool for a strategy. labels, may_ask (bool): [N]."""
        given = strategy, networks, self.setup, self.tiles
        pool = make_pool(*given, labels=labels, unlabelled_mask=may_ask, seed=self.seed)
        return replace(pool, called=self.called)


@dataclass(frozen=True)
class History:
    """What a loop leaves behind.

    queries: a line per queried tile, in order: tile, label (the answer, or `REFUSED`,
    `UNANSWERED`) and round; rounds: a line per round: how many tiles were labelled when it trained,
    its pseudo labels, what it chose and how long it took; probs: [R, M, C], predictions of every
    round.
    """

    queries: pd.DataFrame
    rounds: pd.DataFrame
    probs: np.ndarray


def run_loops(
    loops: Mapping[Path, ActiveLearningConfig],
    oracle: Oracle,
    predict_for: np.ndarray,
    *,
    known: Mapping[int, int] | None = None,
) -> list[History]:
    """Run several loops side by side, so that the trainings of a round share one computation.

    Each asks, trains, chooses what to ask next; `n_rounds` times, or until the oracle is `Waiting`.

    Parameters
    ----------
    loops : by folder, which gets, per round r, round<r>.parquet (the query, in order, with its
        answers), probs<r>.npy [M, C] and round<r>.json (how it went); and the networks of the last
        round. If it holds rounds of other settings, data or `ALGORITHM` these are moved aside to
        <folder>.before, or .before2 and so on: labels that somebody gave are never removed. Of two
        processes the second waits.
    predict_for : [M], tiles that every round predicts (a test set): never queried.
    known : answers by tile that came beside the queries, and answers to queries that have changed
        since (`UNANSWERED` for one that was taken back); they count from the next training on, and
        the rounds then end where no tile is left to ask for.

    Raises
    ------
    ValueError : the pool and `predict_for` share a tile; the oracle labels a tile that was not
        queried, or with a class that there is not; it labels none of the first query.
    """
    histories: dict[Path, History] = {}
    trained: dict[Path, Any] = dict.fromkeys(loops)
    with ExitStack() as stack:  # a loop that is closed gives its lock back
        running = {
            folder: stack.enter_context(
                closing(_rounds(folder, config, oracle, predict_for, known))
            )
            for folder, config in loops.items()
        }
        while trained:
            wanted = {}
            for folder, networks in trained.items():
                try:
                    wanted[folder] = running[folder].send(networks)
                except StopIteration as end:
                    histories[folder] = end.value
            trained = dict(zip(wanted, train_all([*wanted.values()]), strict=True))
    return [histories[folder] for folder in loops]


def run_rounds(
    folder: Path,
    config: ActiveLearningConfig,
    oracle: Oracle,
    predict_for: np.ndarray,
    *,
    known: Mapping[int, int] | None = None,
) -> History:
    """Run one loop, see `run_loops`."""
    return run_loops({folder: config}, oracle, predict_for, known=known)[0]


def _rounds(
    folder: Path,
    config: ActiveLearningConfig,
    oracle: Oracle,
    predict_for: np.ndarray,
    known: Mapping[int, int] | None,
) -> Generator[Training, Trained, History]:
    """The rounds of one loop; yields what is to be trained, and is sent the networks."""
    if np.isin(config.tiles, predict_for).any():
        raise ValueError("tiles that are to be predicted stand in the pool that is queried")
    with locked(folder.with_name(f".{folder.name}.lock")):
        _prepare(folder, config.fingerprint(predict_for))
        if not (folder / "round0.parquet").is_file():
            _save_query(folder, 0, config.tiles, _first_query(config, known or {}))
        if known:
            _take_over(folder, known, config)
        n_before = 0
        for r in range(config.n_rounds):
            try:
                queries = _answered(folder, r, config, oracle)
            except Waiting:
                break
            if known is not None and len(queries) == n_before:
                break
            n_before = len(queries)
            if not (folder / f"round{r}.json").is_file():
                trained = yield _training(folder, r, config, queries)
                _end_round(folder, r, config, queries, trained, predict_for)
            # Of a round that was ended before, too: its process may have been killed in here.
            shutil.rmtree(folder / f"networks{r - 1}", ignore_errors=True)
        return read_rounds(folder)


def read_rounds(folder: Path) -> History:
    """Read the rounds that are complete so far; there may be none yet."""
    n = len(list(folder.glob("round*.json")))
    if not n:
        queries_so_far = pd.DataFrame(columns=["tile", "label", "round"], dtype=np.int64)
        return History(queries_so_far, pd.DataFrame(), np.zeros((0, 0, 0), np.float32))
    queries = [pd.read_parquet(folder / f"round{r}.parquet").assign(round=r) for r in range(n)]
    rounds = [json.loads((folder / f"round{r}.json").read_text()) for r in range(n)]
    probs = [np.load(folder / f"probs{r}.npy", allow_pickle=False) for r in range(n)]
    return History(pd.concat(queries, ignore_index=True), pd.DataFrame(rounds), np.stack(probs))


def pending_query(folder: Path) -> np.ndarray:
    """List the tiles of the last query that wait for their answers, in order; empty if none."""
    n = len(list(folder.glob("round*.parquet")))
    query = pd.read_parquet(folder / f"round{n - 1}.parquet") if n else pd.DataFrame()
    return query.tile.values[query.label.values == WAITING] if n else np.zeros(0, np.int64)


def _prepare(folder: Path, fingerprint: str) -> None:
    """Make a folder ready for these rounds; rounds with another fingerprint are moved aside."""
    mark = folder / "config.txt"
    if mark.is_file() and mark.read_text() == fingerprint:
        return
    if folder.is_dir():
        ends = chain([".before"], (f".before{n}" for n in count(2)))
        asides = (folder.with_name(folder.name + end) for end in ends)
        folder.rename(next(aside for aside in asides if not aside.exists()))
    with atomic(mark) as file:
        file.write_text(fingerprint)


# --- queries and answers -------------------------------------------------------------------------


def _first_query(config: ActiveLearningConfig, known: Mapping[int, int]) -> Query:
    """Before any training: by chance, or what the networks of a cold start would ask for."""
    answers, start = pd.Series(known, dtype=np.int64).reindex(config.tiles), config.cold_start
    may_ask = (answers.isna() | answers.eq(UNANSWERED)).values
    if start is None and config.first != "random":
        networks = new_networks(config.setup.make_network, config.seed)
        pool = config.pool(config.first, networks, _labels(answers), may_ask)
        features: Any = frozen_features(config.setup.reader, config.tiles)
        if features is not None:  # those of untrained heads are mixed by chance
            pool = replace(pool, features=features)
        return select(config.first, pool, config.query_size, config.seed)
    if start is None:
        chance = np.random.default_rng([config.seed, config.fold])
        order = chance.permutation(len(config.tiles))
        return Query(order[may_ask[order]][: config.query_size])
    pool = config.pool(start.first, start.networks, _labels(answers), may_ask)
    return start.first_query(pool, config.query_size, config.seed)


def _save_query(folder: Path, r: int, tiles: np.ndarray, query: Query) -> None:
    with atomic(folder / f"round{r}.parquet") as file:
        pd.DataFrame({"tile": tiles[query.rows], "label": WAITING}).to_parquet(file)


def _take_over(folder: Path, known: Mapping[int, int], config: ActiveLearningConfig) -> None:
    """Bring answers to earlier queries up to date; those that no query asked for join the last."""
    left = {tile: label for tile, label in known.items() if label != UNANSWERED}
    _check_answers(left, config.tiles, config.class_names)
    files = [folder / f"round{r}.parquet" for r in range(len(list(folder.glob("round*.parquet"))))]
    for file in files:
        query = pd.read_parquet(file)
        left = {tile: label for tile, label in left.items() if tile not in set(query.tile)}
        newest = query.tile.map(known).fillna(query.label).astype(np.int64)
        updated = query.assign(label=newest.where(query.label != WAITING, WAITING))
        if file == files[-1] and left:
            updated = pd.concat([updated, pd.DataFrame(left.items(), columns=["tile", "label"])])
        if not updated.equals(query):
            with atomic(file) as temporary:
                updated.reset_index(drop=True).to_parquet(temporary)


def _answered(folder: Path, r: int, config: ActiveLearningConfig, oracle: Oracle) -> pd.DataFrame:
    """All queries up to a round; the oracle is asked now for what still waits for an answer."""
    file = folder / f"round{r}.parquet"
    query = pd.read_parquet(file)
    waiting = query.label.values == WAITING
    if waiting.any():
        tiles = query.tile.values[waiting]
        answers = {int(tile): int(label) for tile, label in oracle.label(tiles).items()}
        _check_answers(answers, tiles, config.class_names)
        query.loc[waiting, "label"] = [answers.get(tile, UNANSWERED) for tile in tiles.tolist()]
        with atomic(file) as temporary:
            query.to_parquet(temporary)
    earlier = [pd.read_parquet(folder / f"round{e}.parquet") for e in range(r)]
    return pd.concat([*earlier, query], ignore_index=True)


def _check_answers(answers: Mapping[int, int], tiles: np.ndarray, names: Sequence[str]) -> None:
    not_queried = sorted(set(answers) - set(tiles.tolist()))
    if not_queried:
        raise ValueError(f"answers for tiles that are not asked for: {not_queried[:5]}")
    for tile, label in answers.items():
        if label != REFUSED and not 0 <= label < len(names):
            raise ValueError(
                f"the oracle gave tile {tile} the label {label}: 0 … {len(names) - 1} are classes, "
                f"{REFUSED} refuses a tile"
            )


def _labels(answers: pd.Series) -> np.ndarray:
    """Answers as labels, int64 [N]; refused and unanswered tiles, NaN too, have none."""
    return answers.where(answers >= 0, UNLABELLED).values.astype(np.int64)


# --- a round -------------------------------------------------------------------------------------


def _answers(config: ActiveLearningConfig, queries: pd.DataFrame) -> pd.Series:
    """Answers of the pool, [N], NaN where none is there."""
    return pd.Series(queries.label.values, queries.tile.values).reindex(config.tiles)


def _training(
    folder: Path, r: int, config: ActiveLearningConfig, queries: pd.DataFrame
) -> Training:
    """What a round trains on the labels so far."""
    data = _what_is_learnt(folder, config, _answers(config, queries), queries)
    start: Sequence[Any] = ()
    if r and not config.restart:
        start = load_networks(config.setup, folder / f"networks{r - 1}")
    own = config.setup, config.objective, data, config.seed, folder / f"networks{r}"
    return Training(*own, start=start)


def _end_round(
    folder: Path,
    r: int,
    config: ActiveLearningConfig,
    queries: pd.DataFrame,
    trained: Trained,
    predict_for: np.ndarray,
) -> None:
    """Predict, choose the next query, and note it all."""
    started, curve = time.perf_counter(), trained.curve
    answers = _answers(config, queries)
    labels = _labels(answers)
    late = curve.tail(max(1, len(curve) // 10))[["confident", "precision"]].mean()
    notes: dict[str, Any] = {"round": r, "labelled": int((labels != UNLABELLED).sum())}
    notes |= late.astype(object).where(late.notna(), None).to_dict()
    if r + 1 < config.n_rounds:
        pool = config.pool(config.strategy, trained.networks, labels, answers.isna().values)
        query = select(config.strategy, pool, config.query_size, config.seed)
        _save_query(folder, r + 1, config.tiles, query)
        notes |= {"disagreeing": query.disagreeing, "filled": query.filled}
    with atomic(folder / f"probs{r}.npy") as file, file.open("wb") as opened:
        np.save(opened, predict(trained.networks, config.setup.reader, predict_for))
    notes |= {"training_seconds": trained.seconds}
    notes |= {"selection_seconds": time.perf_counter() - started}
    with atomic(folder / f"round{r}.json") as file:
        file.write_text(json.dumps(notes, allow_nan=False))


def _what_is_learnt(
    folder: Path, config: ActiveLearningConfig, answers: pd.Series, queries: pd.DataFrame
) -> TrainingTiles:
    """All tiles but refused ones, with labels and pseudo labels.

    answers: [N], of the pool. If the objective aligns pseudo labels there are counts of the labels
    so far: of frozen features `training_label_counts`, else those of tiles that chance drew.
    """
    reader, n_classes = config.setup.reader, len(config.class_names)
    labels, used = _labels(answers), (answers != REFUSED).values
    learnt, weights = labels, np.ones(len(labels))
    if config.cold_start is not None:
        stands_for = voronoi_weights(frozen_features(reader, config.tiles), labels)
        learnt, weights = config.cold_start.training_labels(labels, ~used, stands_for)
    if (learnt == UNLABELLED).all():
        raise ValueError(
            f"the oracle has labelled none of the {len(queries)} tiles asked for, and nothing is "
            f"learnt from nothing: remove {folder} to begin again"
        )
    labels, learnt, weights = labels[used], learnt[used], weights[used]
    tiles, truth = config.tiles[used], None if config.truth is None else config.truth[used]
    counts, features = np.zeros(n_classes), None
    aligns = isinstance(config.objective, DualViewTraining) and config.objective.alignment
    if aligns and (labels != UNLABELLED).any():
        features = frozen_features(reader, tiles)
    if features is not None:
        counts = training_label_counts(features, labels, learnt, weights, n_classes=n_classes)
    elif config.cold_start is None:  # whose first tiles are not drawn by chance
        first = len(queries) if config.strategy == "random" else config.query_size
        drawn = queries.label.values[:first]
        counts += np.bincount(drawn[drawn >= 0], minlength=n_classes)
    counts = np.round(counts, 6)
    with missing_classes_expected():  # early rounds often lack a class; the rows count labels
        return TrainingTiles(tiles, learnt, config.class_names, truth, weights, counts.tolist())
