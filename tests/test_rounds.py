"""History of asking and training: whom they ask for what, and that they can be cut off anywhere."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib.active.loop import (
    REFUSED,
    UNANSWERED,
    ActiveLearningConfig,
    TableOracle,
    read_rounds,
    run_rounds,
)
from lib.learning import losses, setups

pytestmark = pytest.mark.filterwarnings("ignore:no labelled tile of class")

N, V, E = 80, 3, 16
CHANCE = np.random.default_rng(7)
TRUTH = CHANCE.integers(0, 3, N)
NUMBERS = CHANCE.permutation(N)
POOL, TEST = NUMBERS[:60], NUMBERS[60:]
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module", autouse=True)
def modules_looked_up_once():
    """What the code of a course imports: half of the time of these tests otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "modules_used", cache(loop.modules_used))
        yield


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """Heads with projectors on features in which the class is to be seen, but not plainly."""
    run = tmp_path_factory.mktemp("run")
    plain = CHANCE.normal(size=(N, E)) + np.eye(3, E)[TRUTH]
    views = plain[POOL] + 0.3 * CHANCE.normal(size=(V, len(POOL), E))
    np.save(run / "view_features.npy", views.astype(np.float16))
    np.save(run / "unprojected.npy", plain.astype(np.float16))
    way = setups.frozen(run, POOL, 3, steps=8, seed=0, projection=8)
    return replace(way, plan=replace(setup.plan, batch_size=16, checkpoint_every=3))


class Asked(TableOracle):
    """Knows all labels, and remembers every tile that it was asked for, in order."""

    def __init__(self):
        super().__init__(np.arange(N), TRUTH)
        self.queries = []

    def label(self, tiles):
        self.queries.append(tiles.tolist())
        return super().ask(tiles)

    @property
    def tiles(self):
        return [tile for query in self.queries for tile in query]


def course(way, **other):
    settings = {
        "tiles": POOL, "class_names": CLASSES, "strategy": "unisal", "way": way, "query_size": 6,
        "objective": losses.DualViewTraining(threshold=0.5), "n_rounds": 3, "seed": 0,
    }  # fmt: skip
    return ActiveLearningConfig(**settings | other)


def run(folder, way, oracle=None, **other):
    return run_rounds(folder, course(way, **other), oracle or Asked(), TEST)


def assert_same(found, expected):
    """The same queries, answers and predictions; only the seconds may differ."""
    assert found.asked.equals(expected.asked)
    assert found.probs.tobytes() == expected.probs.tobytes()
    seconds = ["training_seconds", "selection_seconds"]
    assert found.about.drop(columns=seconds).equals(expected.about.drop(columns=seconds))


@pytest.fixture(scope="module")
def whole(way, tmp_path_factory):
    """A loop that ran through."""
    return run(tmp_path_factory.mktemp("whole") / "rounds", way)


# --- whom is asked for what ----------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["unisal", "unisal-weighted", "random", "typiclust", "Clue"])
def test_no_tile_is_asked_for_twice_and_none_outside_the_pool(tmp_path, way, strategy):
    oracle = Asked()
    found = run(tmp_path / "rounds", way, oracle, strategy=strategy)
    assert [len(query) for query in oracle.queries] == [6, 6, 6]
    assert len(set(oracle.tiles)) == 18 and set(oracle.tiles) <= set(POOL.tolist())
    assert found.asked.tile.tolist() == oracle.tiles
    assert found.asked.label.tolist() == TRUTH[oracle.tiles].tolist()
    assert found.asked["round"].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_every_round_trains_on_all_labels_so_far_and_predicts_the_test_part(whole):
    assert whole.probs.shape == (3, 20, 3) and whole.probs.dtype == np.float32
    np.testing.assert_allclose(whole.probs.sum(2), 1, atol=1e-5)
    assert whole.about.labelled.tolist() == [6, 12, 18]
    assert whole.about.disagreeing[:2].min() > 0 and whole.about.filled[:2].notna().all()
    assert whole.about.precision.isna().all()
    assert not np.array_equal(whole.probs[0], whole.probs[1])


def test_a_test_tile_in_the_pool_is_refused_before_anything_is_asked(tmp_path, way):
    oracle = Asked()
    with pytest.raises(ValueError, match="stand in the pool"):
        run_rounds(tmp_path / "rounds", course(way), oracle, np.append(TEST, POOL[3]))
    assert not oracle.queries and not (tmp_path / "rounds").exists()


def test_plain_training_asks_as_well(tmp_path, way):
    found = run(tmp_path / "rounds", projectionless(way), objective=losses.Supervised())
    assert len(set(found.asked.tile)) == 18
    assert found.about.confident.isna().all()


def projectionless(way):
    keywords = setup.make_network.keywords | {"projection": 0}
    return replace(
        way, make_network=lambda: setup.make_network.func(*setup.make_network.args, **keywords)
    )


def test_the_same_seed_asks_the_same_in_the_same_order(tmp_path, way, whole):
    assert_same(run(tmp_path / "again", way), whole)


def test_another_seed_asks_for_other_tiles(tmp_path, way, whole):
    other = run(tmp_path / "other", way, seed=1, n_rounds=1)
    assert set(other.asked.tile) != set(whole.asked.tile[:6])


def test_the_first_tiles_are_the_same_whatever_the_strategy_and_the_training(tmp_path, way, whole):
    first = whole.asked.tile[:6].tolist()
    for number, other in enumerate(({"strategy": "random"}, {"objective": losses.Supervised()})):
        ways_on = way if "strategy" in other else projectionless(way)
        found = run(tmp_path / str(number), ways_on, n_rounds=2, **other)
        assert found.asked.tile[:6].tolist() == first
        assert found.asked.tile[6:].tolist() != whole.asked.tile[6:12].tolist()


def test_the_truth_is_for_reports_alone(tmp_path, way, whole):
    known = run(tmp_path / "known", way, truth=TRUTH[POOL])
    assert known.asked.equals(whole.asked) and np.array_equal(known.probs, whole.probs)
    assert known.about.precision.notna().any()


# --- cut off and continued -----------------------------------------------------------------------


class Interrupted(Asked):
    """Answers all queries but one, at which it is interrupted the first time."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def label(self, tiles):
        if len(self.queries) == self.stop:
            self.stop = None
            raise KeyboardInterrupt
        return super().ask(tiles)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_oracle_that_is_interrupted_is_asked_the_same_again(tmp_path, way, whole, stop):
    oracle = Interrupted(stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "rounds", way, oracle)
    assert len(oracle.queries) == stop
    found = run(tmp_path / "rounds", way, oracle)
    assert_same(found, whole)
    assert oracle.tiles == whole.asked.tile.tolist()


STOPS = [
    ("_save_query", 0, "before"), ("_save_query", 0, "after"), ("train", 0, "after"),
    ("train", 2, "before"), ("train", 2, "after"), ("select", 1, "after"),
    ("_save_query", 1, "after"), ("predict_members", 1, "before"), ("predict", 1, "before"),
    ("predict", 2, "after"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "when"), STOPS)
def test_a_loop_that_is_cut_off_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path, way, whole, monkeypatch, name, call, when
):
    """Before or after the work that it does there; and no answer is asked for again."""
    real, calls, oracle = getattr(loop, name), [], Asked()

    def breaking(*args, **kwargs):
        calls.append(name)
        found = real(*args, **kwargs) if when == "after" or len(calls) != call + 1 else None
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(loop, name, breaking)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "rounds", way, oracle)
    monkeypatch.setattr(loop, name, real)
    assert_same(run(tmp_path / "rounds", way, oracle), whole)
    assert oracle.tiles == whole.asked.tile.tolist()
    assert leftovers(tmp_path / "rounds") == {"networks2"}


def test_networks_that_could_not_be_removed_in_time_are_removed_later(
    tmp_path, way, whole, monkeypatch
):
    """Cut off when a round is noted down and the networks of the one before are still there."""
    folder, real = tmp_path / "rounds", loop.shutil.rmtree

    def breaking(path, *args, **kwargs):
        if path == folder / "networks0":
            raise KeyboardInterrupt
        return real(path, *args, **kwargs)

    monkeypatch.setattr(loop.shutil, "rmtree", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(folder, way)
    monkeypatch.setattr(loop.shutil, "rmtree", real)
    assert len(read_rounds(folder).probs) == 2 and leftovers(folder) == {"networks0", "networks1"}
    assert_same(run(folder, way), whole)
    assert leftovers(folder) == {"networks2"}


def leftovers(folder):
    """What is there besides the files of the rounds."""
    mine = {"course.txt"} | {
        name.format(r)
        for name in ("round{}.parquet", "round{}.json", "probs{}.npy")
        for r in (0, 1, 2)
    }
    return {file.name for file in folder.iterdir()} - mine


@pytest.mark.parametrize("restart", [True, False])
def test_a_training_that_is_cut_off_is_continued(tmp_path, way, restart):
    seen, stops = [], [5]

    def breaking(tiles, network, step):
        seen.append(step)
        if seen.count(5) == 3 and step in stops:  # of the first network, in the second round
            stops.clear()
            raise KeyboardInterrupt
        return setup.sampler(tiles, network, step)

    expected = run(tmp_path / "whole", way, restart=restart)
    broken = replace(way, draw=breaking)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", broken, restart=restart)
    assert (len(read_rounds(tmp_path / "broken").probs), seen[-1]) == (1, 5)
    seen.clear()
    assert_same(run(tmp_path / "broken", broken, restart=restart), expected)
    assert seen[0] == 3  # from the checkpoint


def test_a_loop_that_is_done_asks_and_trains_no_more(tmp_path, way, whole):
    folder = tmp_path / "rounds"
    run(folder, way)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    oracle = Asked()
    assert_same(run(folder, way, oracle), whole)
    assert not oracle.queries
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_another_course_in_the_same_folder_moves_the_old_one_aside(tmp_path, way, whole):
    folder, oracle = tmp_path / "rounds", Asked()
    first = run(folder, way)
    other = run(folder, way, oracle, query_size=5)
    assert len(oracle.tiles) == 15 and len(other.asked) == 15
    assert_same(read_rounds(tmp_path / "rounds.before"), first)
    assert_same(run(folder, way), whole)
    assert_same(read_rounds(tmp_path / "rounds.before"), first)  # labels are never removed
    assert len(read_rounds(tmp_path / "rounds.before2").asked) == 15


@pytest.mark.parametrize(
    "other",
    [
        {"strategy": "random"}, {"query_size": 7}, {"n_rounds": 2}, {"seed": 1}, {"restart": False},
        {"class_names": ["a", "b", "d"]}, {"tiles": POOL[::-1].copy()},
        {"objective": losses.DualViewTraining(threshold=0.6)},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_courses_that_differ_are_told_apart(way, other):
    assert course(way).fingerprint(TEST) == course(way).fingerprint(TEST)
    assert course(way, **other).fingerprint(TEST) != course(way).fingerprint(TEST)


def test_other_inputs_and_another_plan_make_another_course(way):
    shifted = replace(way, read=lambda tiles: setup.reader(tiles) + 1)
    longer = replace(way, plan=replace(setup.plan, steps=9))
    marks = {course(of).fingerprint(TEST) for of in (way, shifted, longer)}
    assert len(marks) == 3


def test_other_tiles_to_predict_are_predicted(tmp_path, way):
    folder = tmp_path / "rounds"
    run(folder, way, n_rounds=1)
    few = run_rounds(folder, course(way, n_rounds=1), Asked(), TEST[:7])
    assert few.probs.shape == (1, 7, 3)


# --- answers -------------------------------------------------------------------------------------


class Choosy(Asked):
    """Answers what `judge` makes of tile and label; None is no answer."""

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def label(self, tiles):
        answers = {tile: self.judge(tile, label) for tile, label in super().ask(tiles).items()}
        return {tile: label for tile, label in answers.items() if label is not None}


def batches(way):
    """The way, and a list that gets the tiles of every step's batch."""
    seen = []

    def draw(tiles, network, step):
        seen.append(set(tiles.tolist()))
        return setup.sampler(tiles, network, step)

    return replace(way, draw=draw), seen


def test_tiles_left_unanswered_stay_unlabelled_and_are_not_asked_for_again(tmp_path, way):
    watched, seen = batches(way)
    oracle = Choosy(lambda tile, label: label if tile % 2 else None)
    found = run(tmp_path / "rounds", watched, oracle)
    tiles = found.asked.tile.values
    assert len(set(oracle.tiles)) == len(oracle.tiles) == 18
    expected = np.where(tiles % 2, TRUTH[tiles], UNANSWERED)
    assert found.asked.label.tolist() == expected.tolist()
    labelled = np.cumsum([(tiles[:6] % 2).sum(), (tiles[6:12] % 2).sum(), (tiles[12:] % 2).sum()])
    assert found.about.labelled.tolist() == labelled.tolist()
    assert 0 < labelled[-1] < 18
    unanswered = set(tiles[tiles % 2 == 0].tolist())
    assert len(unanswered & set.union(*seen[-2 * setup.plan.steps :])) > 1  # as unlabelled ones


def test_refused_tiles_are_neither_trained_on_nor_asked_for_again(tmp_path, way):
    watched, seen = batches(way)
    oracle = Choosy(lambda tile, label: REFUSED if tile % 3 == 0 else label)
    found = run(tmp_path / "rounds", watched, oracle)
    assert len(set(oracle.tiles)) == len(oracle.tiles) == 18
    steps = 2 * setup.plan.steps  # of two networks
    for r in range(3):
        refused = found.asked[(found.asked.label == REFUSED) & (found.asked["round"] <= r)].tile
        assert not set(refused) & set.union(*seen[r * steps : (r + 1) * steps])
    refused = found.asked.tile % 3 == 0
    assert refused.any() and found.asked.label[refused].eq(REFUSED).all()
    assert found.about.labelled.iloc[-1] == (~refused).sum()


def test_an_oracle_that_falls_silent_does_not_stop_the_loop(tmp_path, way):
    oracle = Choosy(lambda tile, label: label if len(oracle.queries) == 1 else None)
    found = run(tmp_path / "rounds", way, oracle)
    assert found.about.labelled.tolist() == [6, 6, 6] and len(set(oracle.tiles)) == 18
    assert found.asked.label[6:].eq(UNANSWERED).all()


@pytest.mark.parametrize("label", [3, -1, -3])
def test_a_class_that_there_is_not_is_refused_and_asked_for_again(tmp_path, way, label):
    wrong = Choosy(lambda tile, right: label)
    with pytest.raises(ValueError, match=rf"tile \d+ the label {label}: 0 … 2 are classes"):
        run(tmp_path / "rounds", way, wrong, n_rounds=1)
    oracle = Asked()
    found = run(tmp_path / "rounds", way, oracle, n_rounds=1)
    assert (
        oracle.tiles == wrong.tiles and found.asked.label.tolist() == TRUTH[oracle.tiles].tolist()
    )


def test_answers_that_were_not_asked_for_are_refused(tmp_path, way):
    class Eager(Asked):
        def label(self, tiles):
            return super().ask(tiles) | {int(TEST[0]): 0}

    with pytest.raises(ValueError, match=rf"not asked for: \[{TEST[0]}\]"):
        run(tmp_path / "rounds", way, Eager())


@pytest.mark.parametrize("answer", [None, REFUSED])
def test_an_oracle_that_labels_nothing_is_named(tmp_path, way, answer):
    with pytest.raises(ValueError, match="labelled none of the 6 tiles"):
        run(tmp_path / "rounds", way, Choosy(lambda tile, label: answer))


def test_the_order_of_the_answers_does_not_matter(tmp_path, way, whole):
    class Backwards(Asked):
        def label(self, tiles):
            return {np.int64(t): np.int64(y) for t, y in reversed(super().ask(tiles).items())}

    assert_same(run(tmp_path / "rounds", way, Backwards()), whole)


# --- a small pool --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query_size", "expected"), [(25, [25, 25, 10]), (60, [60]), (1000, [60]), (30, [30, 30])]
)
def test_when_the_pool_is_used_up_nothing_more_is_asked(tmp_path, way, query_size, expected):
    oracle = Asked()
    found = run(tmp_path / "rounds", way, oracle, query_size=query_size)
    assert [len(query) for query in oracle.queries] == expected
    assert sorted(oracle.tiles) == sorted(POOL.tolist())
    assert found.probs.shape == (3, 20, 3)
    labelled = np.cumsum([*expected, 0, 0])[:3]
    assert found.about.labelled.tolist() == labelled.tolist()


# --- networks ------------------------------------------------------------------------------------


def test_networks_that_go_on_from_the_round_before_end_elsewhere(tmp_path, way, whole):
    found = run(tmp_path / "rounds", way, restart=False)
    assert found.probs[0].tobytes() == whole.probs[0].tobytes()
    assert found.asked[:12].equals(whole.asked[:12])
    assert np.abs(found.probs[1] - whole.probs[1]).max() > 0.01
    assert found.about.labelled.tolist() == [6, 12, 18]


def test_a_round_starts_from_the_weights_that_the_one_before_left(tmp_path, way):
    """A rate of nothing leaves them as they are; each network goes on as itself."""
    still = replace(way, plan=replace(setup.plan, learning_rate=0.0))
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


def test_only_the_networks_of_the_last_round_are_kept_and_they_predict_what_it_says(tmp_path, way):
    folder = tmp_path / "rounds"
    found = run(folder, way)
    assert leftovers(folder) == {"networks2"}
    networks = setups.load(way, folder / "networks2")
    assert np.array_equal(setups.predict(networks, setup.reader, TEST), found.probs[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "nope"}, "unknown strategy 'nope'"),
        ({"tiles": np.append(POOL, POOL[0])}, "more than once"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path, way, given, message):
    oracle = Asked()
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "rounds", way, oracle, **given)
    assert not oracle.queries and not (tmp_path / "rounds").exists()
