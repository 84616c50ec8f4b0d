"""Rounds of active learning: what they query, and that they can be cut off anywhere."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cases import case
from safetensors.numpy import load_file
from torch import nn

from lib import paths
from lib.active import loop, trainings
from lib.active.loop import (
    REFUSED,
    UNANSWERED,
    ActiveLearningConfig,
    TableOracle,
    read_rounds,
    run_rounds,
)
from lib.active.strategies import Pool, select
from lib.learning import losses, networks, samplers, setups
from lib.report.active_evaluation import evaluate_loop

N, V, E = 80, 3, 16
CHANCE = np.random.default_rng(7)
TRUTH = CHANCE.integers(0, 3, N)
NUMBERS = CHANCE.permutation(N)
POOL, TEST = NUMBERS[:60], NUMBERS[60:]
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Heads with projectors on features in which the class is to be seen, but not plainly."""
    run = tmp_path_factory.mktemp("run")
    plain = CHANCE.normal(size=(N, E)) + np.eye(3, E)[TRUTH]
    views = plain + 0.3 * CHANCE.normal(size=(V, N, E))
    np.save(run / "view_features.npy", views.astype(np.float16))
    np.save(run / "mean_features.npy", plain.astype(np.float16))
    setup = setups.frozen(run, POOL, 3, steps=8, seed=0, projection=8)
    return replace(setup, schedule=replace(setup.schedule, batch_size=16))


class Watched:
    """A sampler whose calls somebody watches."""

    def __init__(self, sampler, watch):
        self.sampler, self.watch = sampler, watch

    def __call__(self, *which):
        self.watch(*which)
        return self.sampler(*which)

    def standardised(self, *which):
        self.watch(*which)
        return self.sampler.standardised(*which)


class WatchedOracle(TableOracle):
    """Knows all labels, and remembers every tile that it was asked for, in order."""

    def __init__(self):
        super().__init__(np.arange(N), TRUTH)
        self.queries = []

    def label(self, tiles):
        self.queries.append(tiles.tolist())
        return super().label(tiles)

    @property
    def tiles(self):
        return [tile for query in self.queries for tile in query]


def config_with(setup, **other):
    settings = {
        "tiles": POOL,
        "class_names": CLASSES,
        "strategy": "unisal",
        "setup": setup,
        "objective": losses.DualViewTraining(threshold=0.5),
        "query_size": 6,
        "n_rounds": 3,
        "seed": 0,
    }
    return ActiveLearningConfig(**settings | other)


def run(folder, setup, oracle=None, **other):
    return run_rounds(folder, config_with(setup, **other), oracle or WatchedOracle(), TEST)


def assert_same(history, expected):
    """The same queries, answers and predictions; only the seconds may differ."""
    assert history.queries.equals(expected.queries)
    assert history.probs.tobytes() == expected.probs.tobytes()
    seconds = ["training_seconds", "selection_seconds"]
    assert history.rounds.drop(columns=seconds).equals(expected.rounds.drop(columns=seconds))


@pytest.fixture(scope="module")
def whole(setup, tmp_path_factory):
    """A loop that ran through."""
    return run(tmp_path_factory.mktemp("whole") / "rounds", setup)


@pytest.mark.slow
def test_of_two_that_run_the_same_rounds_at_once_the_second_takes_up_those_of_the_first(
    tmp_path, setup, whole
):
    oracles = [WatchedOracle(), WatchedOracle()]
    with ThreadPoolExecutor(2) as pool:
        histories = list(pool.map(lambda oracle: run(tmp_path / "rounds", setup, oracle), oracles))
    for history in histories:
        assert_same(history, whole)
    assert sorted(len(oracle.queries) for oracle in oracles) == [0, 3]
    assert sorted(file.name for file in tmp_path.rglob("network*")) == [
        "network_a.safetensors",
        "network_b.safetensors",
        "networks2",
    ]


# --- pools with tiles of no class -----------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["openpath", "unisal-coverage-open"])
def test_tiles_of_no_class_are_refused_and_lost(tmp_path, setup, strategy):
    """Of three classes two are targets; the prompts are right on nine tiles in ten."""
    labels = np.where(TRUTH < 2, TRUTH, REFUSED)
    wrong = np.random.default_rng(1).random(N) < 0.1
    called = ((TRUTH < 2) ^ wrong)[POOL]
    oracle = TableOracle(np.arange(N), labels)
    config = config_with(setup, strategy=strategy, first="openpath", called=called)
    history = run_rounds(tmp_path / "rounds", config, oracle, TEST)
    assert history.queries.label.tolist() == labels[history.queries.tile].tolist()
    n_labels = (history.queries.label >= 0).groupby(history.queries["round"]).sum().cumsum()
    assert history.rounds.labelled.tolist() == n_labels.tolist()
    by_prompts = history.queries[(history.queries["round"] == 0) | (strategy != "openpath")]
    assert np.isin(by_prompts.tile, POOL[called]).all() and len(by_prompts) in (6, 18)
    test = pd.DataFrame({"label": TRUTH[TEST], "group": "g"})
    rounds = evaluate_loop(strategy, history, test, CLASSES)[:-1]
    precision = (history.queries.label >= 0).mean()
    assert rounds[-1]["labels"]["query_precision"] == pytest.approx(precision) and precision < 1
    other = replace(config, called=np.ones_like(called))
    anew = run_rounds(tmp_path / "rounds", other, oracle, TEST)
    assert not history.queries.equals(anew.queries), "other prompts begin anew"


def test_a_strategy_that_wants_prompts_is_refused_without_them(setup):
    for wanted in ({"strategy": "openpath"}, {"first": "random-open"}):
        with pytest.raises(ValueError, match="is for datasets whose card names targets"):
            config_with(setup, **wanted)


# --- which tiles are queried ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["unisal-coverage", "random", "typiclust", "Clue", "unisal-jsd", "dropquery"]
)
def test_no_tile_is_queried_twice_and_none_outside_the_pool(tmp_path, setup, strategy):
    oracle = WatchedOracle()
    history = run(tmp_path / "rounds", setup, oracle, strategy=strategy)
    assert [len(query) for query in oracle.queries] == [6, 6, 6]
    assert len(set(oracle.tiles)) == 18 and set(oracle.tiles) <= set(POOL.tolist())
    assert history.queries.tile.tolist() == oracle.tiles
    assert history.queries.label.tolist() == TRUTH[oracle.tiles].tolist()
    assert history.queries["round"].tolist() == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.slow
def test_the_first_tiles_may_be_typical_of_the_clusters_of_the_pool(tmp_path, setup):
    typical = run(tmp_path / "a", setup, strategy="random", first="typiclust").queries
    chance = run(tmp_path / "b", setup, strategy="random").queries
    first, by_chance = (queries.tile[queries["round"] == 0] for queries in (typical, chance))
    assert len(first) == 6 and set(first) <= set(POOL.tolist()) and set(first) != set(by_chance)
    features = setup.reader(POOL).numpy()
    unknown = (
        np.zeros((2, len(POOL), 3)),
        features,
        np.full(len(POOL), -1),
        np.ones(len(POOL), bool),
    )
    expected = select("typiclust", Pool(*unknown), 6, 0).rows
    assert set(first) == set(POOL[expected]), "of the features, whatever untrained networks say"
    with pytest.raises(ValueError, match="unknown strategy 'typical'"):
        run(tmp_path / "c", setup, first="typical")


def test_every_round_trains_on_all_labels_so_far_and_predicts_the_test_set(whole):
    assert whole.probs.shape == (3, 20, 3) and whole.probs.dtype == np.float32
    np.testing.assert_allclose(whole.probs.sum(2), 1, atol=1e-5)
    assert whole.rounds.labelled.tolist() == [6, 12, 18]
    assert whole.rounds.disagreeing[:2].min() > 0 and whole.rounds.filled[:2].notna().all()
    assert whole.rounds.precision.isna().all()
    assert not np.array_equal(whole.probs[0], whole.probs[1])


def test_a_test_tile_in_the_pool_is_refused_before_anything_is_asked(tmp_path, setup):
    oracle = WatchedOracle()
    with pytest.raises(ValueError, match="stand in the pool"):
        run_rounds(tmp_path / "rounds", config_with(setup), oracle, np.append(TEST, POOL[3]))
    assert not oracle.queries and not (tmp_path / "rounds").exists()


def projectionless(setup):
    keywords = setup.make_network.keywords | {"projection": 0}
    return replace(
        setup, make_network=lambda: setup.make_network.func(*setup.make_network.args, **keywords)
    )


def test_the_same_seed_asks_the_same_in_the_same_order(tmp_path, setup, whole):
    assert_same(run(tmp_path / "again", setup), whole)


def test_the_first_tiles_are_the_seeds_whatever_the_strategy_and_the_training(
    tmp_path, setup, whole
):
    first = whole.queries.tile[:6].tolist()
    supervised = run(tmp_path / "a", projectionless(setup), objective=losses.Supervised())
    assert supervised.rounds.confident.isna().all() and len(set(supervised.queries.tile)) == 18
    for history in (supervised, run(tmp_path / "b", setup, n_rounds=2, strategy="random")):
        assert history.queries.tile[:6].tolist() == first
        assert history.queries.tile[6:12].tolist() != whole.queries.tile[6:12].tolist()
    other = run(tmp_path / "c", setup, seed=1, n_rounds=1)
    assert set(other.queries.tile) != set(first)


def test_the_truth_is_for_reports_alone(tmp_path, setup, whole):
    known = run(tmp_path / "known", setup, truth=TRUTH[POOL])
    assert known.queries.equals(whole.queries) and np.array_equal(known.probs, whole.probs)
    assert known.rounds.precision.notna().any()


# --- several loops side by side ------------------------------------------------------------------


def test_loops_side_by_side_ask_and_predict_what_each_does_alone(tmp_path, setup, whole):
    """One that is done already, one with other networks, one that ends sooner."""
    run(tmp_path / "done", setup)
    loops = {
        tmp_path / "done": config_with(setup),
        tmp_path / "margin": config_with(setup, strategy="margin"),
        tmp_path / "supervised": config_with(
            projectionless(setup), objective=losses.Supervised(), strategy="random"
        ),
        tmp_path / "short": config_with(setup, n_rounds=2),
    }
    histories = loop.run_loops(loops, WatchedOracle(), TEST)
    assert_same(histories[0], whole)
    for (folder, config), found in zip(loops.items(), histories, strict=True):
        alone = loop.run_rounds(tmp_path / "alone" / folder.name, config, WatchedOracle(), TEST)
        pd.testing.assert_frame_equal(found.queries, alone.queries)
        np.testing.assert_allclose(found.probs, alone.probs, atol=1e-5)
    assert [len(found.rounds) for found in histories] == [3, 3, 3, 2]


def test_when_one_loop_fails_the_others_give_their_locks_back(tmp_path, setup):
    loops = {tmp_path / str(n): config_with(setup, seed=n) for n in range(2)}
    wrong = Choosy(lambda tile, label: 9 if len(wrong.tiles) > 6 else label)
    with pytest.raises(ValueError, match="label 9") as raised:
        loop.run_loops(loops, wrong, TEST)
    assert len(loop.run_loops(loops, WatchedOracle(), TEST)) == 2
    assert raised.value  # whose traceback holds the loops that failed until here


# --- cut off and continued -----------------------------------------------------------------------


STOPS = [  # one after the other: at which call of each continued loop
    ("_save_query", 0, "before"),
    ("_answered", 0, "before"),
    ("_save_query", 0, "after"),
    ("train_all", 0, "after"),
    ("predict", 0, "before"),
    ("predict", 1, "before"),
    ("make_pool", 0, "before"),
    ("select", 0, "after"),
    ("_save_query", 0, "after"),
    ("train_all", 1, "before"),
    ("train_all", 0, "after"),
    ("predict", 0, "after"),
]


@pytest.mark.slow
def test_a_loop_that_is_cut_off_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path, setup, whole, monkeypatch
):
    """Before or after the work that it does there; and no answer is asked for again."""
    folder, oracle, rounds = tmp_path / "rounds", WatchedOracle(), []
    for name, call, when in STOPS:
        with case(name, call, when), monkeypatch.context() as patch:
            patch.setattr(loop, name, breaking(getattr(loop, name), call, when))
            with pytest.raises(KeyboardInterrupt):
                run(folder, setup, oracle)
        rounds.append(len(read_rounds(folder).probs))
    assert rounds == sorted(rounds) and set(rounds) == {0, 1, 2}
    assert_same(run(folder, setup, oracle), whole)
    assert oracle.tiles == whole.queries.tile.tolist()
    assert leftovers(folder) == {"networks2"}


def breaking(function, call, when):
    """The function, interrupted before or after its work at one of its calls."""
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        stops = len(calls) == call + 1
        result = None if stops and when == "before" else function(*args, **kwargs)
        if stops:
            raise KeyboardInterrupt
        return result

    return called


@pytest.mark.parametrize("r", [0, 1], ids=["with rounds to come", "in the last round"])
def test_networks_that_could_not_be_removed_in_time_are_removed_later(
    r, tmp_path, setup, whole, monkeypatch
):
    """Cut off when a round is noted down and the networks of the one before are still there."""
    folder, remove = tmp_path / "rounds", loop.shutil.rmtree
    both = {f"networks{r}", f"networks{r + 1}"}

    def interrupted(path, *args, **kwargs):
        if path == folder / f"networks{r}":
            raise KeyboardInterrupt
        return remove(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder, setup)
    assert len(read_rounds(folder).probs) == r + 2 and leftovers(folder) == both
    assert_same(run(folder, setup), whole)
    assert leftovers(folder) == {"networks2"}


def leftovers(folder):
    """What is there besides the files of the rounds."""
    mine = {"config.txt"} | {
        name.format(r)
        for name in ("round{}.parquet", "round{}.json", "probs{}.npy")
        for r in (0, 1, 2)
    }
    return {file.name for file in folder.iterdir()} - mine


@pytest.mark.slow
def test_a_training_that_is_cut_off_is_done_again(tmp_path, setup):
    for restart in (True, False):
        with case(restart):
            assert_continued(tmp_path / str(restart), setup, restart)


def assert_continued(folder, setup, restart):
    seen, stops = [], [5]

    def watch(tiles, network, step):
        seen.append(step)
        if seen.count(5) == 2 and step in stops:  # in the second round
            stops.clear()
            raise KeyboardInterrupt

    expected = run(folder / "whole", setup, restart=restart)
    broken = replace(setup, sampler=Watched(setup.sampler, watch))
    with pytest.raises(KeyboardInterrupt):
        run(folder / "broken", broken, restart=restart)
    assert (len(read_rounds(folder / "broken").probs), seen[-1]) == (1, 5)
    seen.clear()
    assert_same(run(folder / "broken", broken, restart=restart), expected)
    assert seen[:3] == [0, 0, 1]  # the fingerprint looks at a view; then from the start


def test_a_loop_that_is_done_asks_and_trains_no_more(tmp_path, setup, whole):
    folder = tmp_path / "rounds"
    run(folder, setup)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    oracle = WatchedOracle()
    assert_same(run(folder, setup, oracle), whole)
    assert not oracle.queries
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


# --- whose rounds they are -----------------------------------------------------------------------


@pytest.mark.slow
def test_another_config_in_the_same_folder_moves_the_old_rounds_aside(tmp_path, setup, whole):
    folder, oracle = tmp_path / "rounds", WatchedOracle()
    first = run(folder, setup)
    other = run(folder, setup, oracle, query_size=5)
    assert len(oracle.tiles) == 15 and len(other.queries) == 15
    assert_same(read_rounds(tmp_path / "rounds.before"), first)
    assert_same(run(folder, setup), whole)
    assert_same(read_rounds(tmp_path / "rounds.before"), first)  # labels are never removed
    assert len(read_rounds(tmp_path / "rounds.before2").queries) == 15


def test_configs_that_differ_in_a_setting_and_versions_are_told_apart(setup, monkeypatch):
    settings = [
        {"strategy": "random"},
        {"query_size": 7},
        {"n_rounds": 2},
        {"seed": 1},
        {"restart": False},
        {"class_names": ["a", "b", "d"]},
        {"tiles": POOL[::-1].copy()},
        {"objective": losses.DualViewTraining(threshold=0.6)},
        {"objective": losses.DualViewTraining(threshold=0.5, contrast=0.2)},
        {"setup": replace(setup, schedule=replace(setup.schedule, steps=9))},
    ]
    plain = config_with(setup).fingerprint(TEST)
    assert plain == config_with(setup).fingerprint(TEST)
    for other in settings:
        assert config_with(**{"setup": setup} | other).fingerprint(TEST) != plain, other
    monkeypatch.setattr(loop, "ALGORITHM", loop.ALGORITHM + 1)
    assert config_with(setup).fingerprint(TEST) != plain


def test_other_data_are_told_apart(setup):
    plain = config_with(setup).fingerprint(TEST)
    for name, other in {
        "features": replace(setup, reader=lambda tiles: setup.reader(tiles) + 1),
        "views": replace(setup, sampler=lambda *args: setup.sampler(*args) + 1),
        "statistics": replace(setup, make_network=lambda: shifted(setup.make_network())),
    }.items():
        assert config_with(other).fingerprint(TEST) != plain, name
    assert config_with(setup).fingerprint(TEST[:7]) != plain


def shifted(network):
    network.mean = network.mean + 1  # not in place: the array behind it is the setup's
    return network


def test_a_fingerprint_is_of_no_source_file(setup):
    """An edited docstring leaves the rounds of a labeller where they are."""
    opened = []
    listening = [True]  # a hook cannot be taken off again
    sys.addaudithook(
        lambda event, args: opened.append(str(args[0])) if listening and event == "open" else None
    )
    samplers._opened.cache_clear()  # or the features are mapped already
    config_with(setup).fingerprint(TEST)
    listening.clear()
    assert [file for file in opened if file.endswith(".npy")]  # the features: the hook hears
    assert not [file for file in opened if file.endswith((".py", ".pyc"))]


def counts_of_rounds(folder, setup, monkeypatch, **other):
    """History of aligned rounds, and the counts of labels that each of them trained with."""
    given, learn = [], loop.train_all

    def watched(wanted):
        given.extend(training.data.class_counts for training in wanted)
        return learn(wanted)

    objective = trainings.training_by_name("dual-view-aligned", threshold=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_all", watched)
        return run(folder, setup, objective=objective, **other), given


def test_training_on_features_follows_all_labels_by_the_tiles_they_stand_for(
    tmp_path, setup, monkeypatch
):
    history, given = counts_of_rounds(tmp_path / "rounds", setup, monkeypatch)
    features = setup.reader(POOL).numpy()
    for r, counts in enumerate(given):
        queried = history.queries[history.queries["round"] <= r]
        labels = pd.Series(queried.label.values, queried.tile.values).reindex(POOL, fill_value=-1)
        expected = trainings.voronoi_counts(features, labels.values, 3)
        assert counts == pytest.approx(expected, abs=1e-5)


def test_training_on_pixels_follows_the_labels_that_chance_drew(tmp_path, setup, monkeypatch):
    reader, sampler = setup.reader, setup.sampler
    pictures = replace(
        setup,
        make_network=lambda: Flattened(setup.make_network()),
        reader=lambda tiles: reader(tiles)[:, :, None],
        sampler=lambda *which: sampler(*which)[:, :, None],
        side_by_side=False,
    )
    for strategy in ("unisal", "random"):
        history, given = counts_of_rounds(
            tmp_path / strategy, pictures, monkeypatch, strategy=strategy
        )
        for r, counts in enumerate(given):
            until = r if strategy == "random" else 0
            drawn = history.queries.label[history.queries["round"] <= until]
            assert counts == np.bincount(drawn, minlength=3).tolist()


class Flattened(nn.Module):
    """A network on vectors that is given them with one more axis."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    @property
    def projector(self):
        return self.network.projector

    def forward(self, inputs):
        return self.network(inputs[..., 0])

    def forward_features(self, inputs):
        return self.network.forward_features(inputs[..., 0])


def test_the_loop_imports_neither_scikit_activeml_nor_timm():
    """They take seconds, and most loops need neither."""
    code = "import sys, lib.active.loop; print({'timm', 'skactiveml'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# --- answers -------------------------------------------------------------------------------------


class Choosy(WatchedOracle):
    """Answers what `judge` makes of tile and label; None is no answer."""

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def label(self, tiles):
        answers = {tile: self.judge(tile, label) for tile, label in super().label(tiles).items()}
        return {tile: label for tile, label in answers.items() if label is not None}


def batches(setup):
    """The setup, and a list that gets the tiles of each time that views are drawn."""
    seen = []

    def watch(tiles, network, step):
        seen.append(set(tiles.ravel().tolist()))

    return replace(setup, sampler=Watched(setup.sampler, watch)), seen


def test_tiles_left_unanswered_stay_unlabelled_and_are_not_asked_for_again(tmp_path, setup):
    watched, seen = batches(setup)
    oracle = Choosy(lambda tile, label: label if tile % 2 else None)
    history = run(tmp_path / "rounds", watched, oracle)
    tiles = history.queries.tile.values
    assert len(set(oracle.tiles)) == len(oracle.tiles) == 18
    expected = np.where(tiles % 2, TRUTH[tiles], UNANSWERED)
    assert history.queries.label.tolist() == expected.tolist()
    labelled = np.cumsum([(tiles[:6] % 2).sum(), (tiles[6:12] % 2).sum(), (tiles[12:] % 2).sum()])
    assert history.rounds.labelled.tolist() == labelled.tolist()
    assert 0 < labelled[-1] < 18
    unanswered = set(tiles[tiles % 2 == 0].tolist())
    assert len(unanswered & set.union(*seen[-setup.schedule.steps :])) > 1  # as unlabelled ones


def test_refused_tiles_are_neither_trained_on_nor_asked_for_again(tmp_path, setup):
    watched, seen = batches(setup)
    oracle = Choosy(lambda tile, label: REFUSED if tile % 3 == 0 else label)
    history = run(tmp_path / "rounds", watched, oracle)
    assert len(set(oracle.tiles)) == len(oracle.tiles) == 18
    steps = setup.schedule.steps
    batches_of_rounds = seen[1:]  # the first is what the fingerprint looks at
    assert len(batches_of_rounds) == 3 * steps
    for r in range(3):
        queries = history.queries[history.queries["round"] <= r]
        refused = queries.tile[queries.label == REFUSED]
        assert not set(refused) & set.union(*batches_of_rounds[r * steps : (r + 1) * steps])
    refused = history.queries.tile % 3 == 0
    assert refused.any() and history.queries.label[refused].eq(REFUSED).all()
    assert history.rounds.labelled.iloc[-1] == (~refused).sum()


def test_an_oracle_that_falls_silent_does_not_stop_the_loop_but_one_that_never_spoke_does(
    tmp_path, setup
):
    oracle = Choosy(lambda tile, label: label if len(oracle.queries) == 1 else None)
    history = run(tmp_path / "rounds", setup, oracle)
    assert history.rounds.labelled.tolist() == [6, 6, 6] and len(set(oracle.tiles)) == 18
    assert history.queries.label[6:].eq(UNANSWERED).all()
    for answer in (None, REFUSED):
        with pytest.raises(ValueError, match=rf"labelled none of the 6 tiles.*{tmp_path}"):
            run(tmp_path / str(answer), setup, Choosy(lambda tile, label, answer=answer: answer))


class Backwards(WatchedOracle):
    """Answers in another order, perhaps beside the question."""

    def __init__(self, **more):
        super().__init__()
        self.more = more.get("more", {})

    def label(self, tiles):
        answers = reversed(super().label(tiles).items())
        return {np.int64(t): np.int64(y) for t, y in answers} | self.more


def test_the_order_of_the_answers_does_not_matter_and_others_are_refused(tmp_path, setup, whole):
    assert_same(run(tmp_path / "rounds", setup, Backwards()), whole)
    with pytest.raises(ValueError, match=rf"not asked for: \[{TEST[0]}\]"):
        run(tmp_path / "other", setup, Backwards(more={int(TEST[0]): 0}))


def test_a_class_that_there_is_not_is_refused_and_asked_for_again(tmp_path, setup):
    for label in (3, -1, -3):
        wrong = Choosy(lambda tile, right, label=label: label)
        with pytest.raises(ValueError, match=rf"tile \d+ the label {label}: 0 … 2 are classes"):
            run(tmp_path / str(label), setup, wrong, n_rounds=1)
        oracle = WatchedOracle()
        history = run(tmp_path / str(label), setup, oracle, n_rounds=1)
        assert oracle.tiles == wrong.tiles, label
        assert history.queries.label.tolist() == TRUTH[oracle.tiles].tolist(), label


# --- a small pool --------------------------------------------------------------------------------


def test_when_the_pool_is_used_up_nothing_more_is_queried(tmp_path, setup):
    sizes = {25: [25, 25, 10], 60: [60], 1000: [60], 30: [30, 30]}
    for query_size, expected in sizes.items():
        with case(query_size):
            oracle = WatchedOracle()
            history = run(tmp_path / str(query_size), setup, oracle, query_size=query_size)
            assert [len(query) for query in oracle.queries] == expected
            assert sorted(oracle.tiles) == sorted(POOL.tolist())
            assert history.probs.shape == (3, 20, 3)
            labelled = np.cumsum([*expected, 0, 0])[:3]
            assert history.rounds.labelled.tolist() == labelled.tolist()


# --- networks ------------------------------------------------------------------------------------


def test_a_round_starts_from_the_weights_that_the_one_before_left(tmp_path, setup):
    """A rate of nothing leaves them as they are; each network goes on as itself."""
    still = replace(setup, schedule=replace(setup.schedule, learning_rate=0.0))
    run(tmp_path / "one", still, n_rounds=1)
    run(tmp_path / "two", still, n_rounds=2, restart=False)
    for letter in "ab":
        one, two = (
            load_file(tmp_path / name / f"network_{letter}.safetensors")
            for name in ("one/networks0", "two/networks1")
        )
        assert all(np.array_equal(one[name], two[name]) for name in one)
    a, b = (load_file(tmp_path / f"one/networks0/network_{letter}.safetensors") for letter in "ab")
    assert not np.array_equal(a["head.weight"], b["head.weight"])


def test_only_the_networks_of_the_last_round_are_kept_and_they_predict_what_it_says(
    tmp_path, setup
):
    folder = tmp_path / "rounds"
    history = run(folder, setup)
    assert leftovers(folder) == {"networks2"}
    members = setups.load_networks(setup, folder / "networks2")
    assert np.array_equal(networks.predict(members, setup.reader, TEST), history.probs[2])


def test_what_is_wrong_is_said_before_anything_is_queried(tmp_path, setup):
    mistakes = {
        "unknown strategy 'nope'": {"strategy": "nope"},
        "more than once": {"tiles": np.append(POOL, POOL[0])},
    }
    for message, given in mistakes.items():
        oracle = WatchedOracle()
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "rounds", setup, oracle, **given)
        assert not oracle.queries and not (tmp_path / "rounds").exists(), message


# --- answers that take their time ----------------------------------------------------------------


class Slow(WatchedOracle):
    """Waits the first time that it is asked for each query."""

    def label(self, tiles):
        first = not self.queries or self.queries[-1] != tiles.tolist()
        answers = super().label(tiles)
        if first:
            raise loop.Waiting
        return answers


def test_a_loop_waits_for_answers_with_its_query_and_goes_on(tmp_path, setup, whole):
    folder, oracle, expected = tmp_path / "rounds", Slow(), whole.queries.tile.tolist()
    for r in range(3):
        history = run(folder, setup, oracle)
        assert len(history.rounds) == len(history.probs) == r == history.queries["round"].nunique()
        assert loop.pending_query(folder).tolist() == expected[6 * r : 6 * r + 6]
        assert loop.pending_query(folder).tolist() == oracle.queries[-1]
    assert_same(run(folder, setup, oracle), whole)
    assert not len(loop.pending_query(folder)) and not len(loop.pending_query(tmp_path))


def test_known_answers_join_the_training_and_are_not_asked_for(tmp_path, setup):
    """First those that no query asked for; then one that is changed, and one that is taken back."""
    folder, oracle = tmp_path / "rounds", Slow()
    known = {int(POOL[k]): int(TRUTH[POOL[k]]) for k in range(10, 15)} | {int(POOL[15]): REFUSED}
    config = config_with(setup)

    def go_on(given):
        return run_rounds(folder, config, oracle, TEST, known=given)

    go_on(known)
    first = loop.pending_query(folder).tolist()
    assert len(first) == 6 and not set(first) & set(known)
    history = go_on(known)
    assert history.rounds.labelled.tolist() == [6 + 5]
    assert set(history.queries.tile) == {*first, *known}
    pending = loop.pending_query(folder)
    assert len(pending) == 6 and not set(pending) & set(history.queries.tile)
    taken_back, changed = first[0], int(POOL[10])
    other = (TRUTH[changed] + 1) % 3
    history = go_on(known | {taken_back: UNANSWERED, changed: int(other), int(pending[0]): 0})
    answers = history.queries.set_index("tile").label
    assert answers[taken_back] == UNANSWERED and answers[changed] == other
    assert history.rounds.labelled.tolist() == [11, 16]
    assert answers[pending].tolist() == TRUTH[pending].tolist()  # the query's own answers


def test_with_known_answers_the_rounds_end_where_nothing_is_left_to_ask(tmp_path, setup):
    known = {int(tile): int(TRUTH[tile]) for tile in POOL[6:]}
    folder, config = tmp_path / "rounds", config_with(setup, n_rounds=30)
    history = run_rounds(folder, config, WatchedOracle(), TEST, known=known)
    assert history.rounds.labelled.tolist() == [60]


def test_a_known_answer_that_cannot_be_is_refused(tmp_path, setup):
    for known in ({int(POOL[0]): 3}, {int(TEST[0]): 0}):
        with pytest.raises(ValueError, match=r"label 3|not asked for"):
            run_rounds(tmp_path / "rounds", config_with(setup), Slow(), TEST, known=known)


@pytest.mark.parametrize("n", [0, 7])
def test_any_tiles_or_none_can_be_predicted(tmp_path, setup, n):
    config = config_with(setup, n_rounds=1)
    history = run_rounds(tmp_path / "rounds", config, WatchedOracle(), TEST[:n])
    assert history.probs.shape == (1, n, 3)
