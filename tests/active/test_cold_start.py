"""A cold start: who chooses the first query, and how pseudo labels fade as labels come in."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from lib.active import cold_start, loop, trainings
from lib.active.inputs import make_pool
from lib.active.strategies import select
from lib.consensus import FilterInputs
from lib.labels import UNLABELLED
from lib.learning import losses, setups
from lib.learning.batches import TrainingTiles
from lib.learning.networks import new_networks
from lib.learning.vlm_cpl import read_vlm_cpl, train_vlm_cpl
from lib.report.active_learning import BY_CHANCE, COLD_STARTS

N, V, E = 90, 3, 12
CHANCE = np.random.default_rng(3)
TRUTH = CHANCE.integers(0, 3, N)
POOL, TEST = np.arange(70), np.arange(70, N)
NONE = np.zeros(70, bool)  # no tile is refused
CELLS = np.ones(70)  # every label stands for one tile
PSEUDO = np.where(CHANCE.random(70) < 0.5, TRUTH[:70], UNLABELLED)


def with_features(run, apart):
    plain = CHANCE.normal(size=(N, E)) + apart * np.eye(3, E)[TRUTH]
    np.save(run / "view_features.npy", (plain + 0.3 * CHANCE.normal(size=(V, N, E))).astype("f2"))
    for name in ("backbone_features", "mean_features"):
        np.save(run / f"{name}.npy", plain.astype("f2"))
    return run


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    run = with_features(tmp_path_factory.mktemp("run"), 1.5)
    setup = setups.frozen(run, POOL, 3, steps=6, seed=0, projection=8)
    return replace(setup, schedule=replace(setup.schedule, batch_size=16))


@pytest.fixture(scope="module")
def start(setup):
    networks = new_networks(setup.make_network, 5)
    return cold_start.ColdStart([n.eval() for n in networks], TRUTH[:70], PSEUDO)


def config(setup, **other):
    given = {
        "tiles": POOL,
        "class_names": "abc",
        "strategy": "unisal",
        "setup": setup,
        "seed": 0,
        "objective": losses.DualViewTraining(0.5, alignment=0.5),
        "query_size": 5,
        "n_rounds": 3,
    }
    return loop.ActiveLearningConfig(**given | other)


def run(folder, setup, **other):
    oracle = loop.TableOracle(POOL, TRUTH[POOL])
    return loop.run_rounds(folder, config(setup, **other), oracle, TEST)


def pool_of(start, setup):
    nothing = {"labels": np.full(70, UNLABELLED), "unlabelled_mask": np.ones(70, bool)}
    return make_pool("unisal", start.networks, setup, POOL, **nothing, seed=0)


# --- the first query -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["cs", "unisal"])
def test_the_networks_of_the_start_choose_the_first_query(tmp_path, setup, start, first):
    begun = replace(start, first=first)
    history = run(tmp_path / "rounds", setup, cold_start=begun, n_rounds=1)
    pool = pool_of(start, setup)
    expected = POOL[select(first, pool, 5, 0).rows]
    assert history.queries.tile.tolist() == expected.tolist()
    by_chance = run(tmp_path / "chance", setup, n_rounds=1)
    assert history.queries.tile.tolist() != by_chance.queries.tile.tolist()


def test_doubtful_tiles_are_asked_for_first_whether_the_networks_agree_or_not(
    setup, start, tmp_path
):
    doubtful = np.arange(70) < 20
    history = run(tmp_path / "a", setup, cold_start=replace(start, doubtful=doubtful), n_rounds=2)
    first, second = (history.queries.tile[history.queries["round"] == r] for r in (0, 1))
    assert (first < 20).all() and not (second < 20).all()
    pool = pool_of(start, setup)
    compact = select("cs", replace(pool, unlabelled_mask=doubtful), 5, 0).rows
    assert first.tolist() == compact.tolist()
    history = run(
        tmp_path / "b", setup, cold_start=replace(start, doubtful=np.arange(70) < 2), n_rounds=1
    )
    assert set(history.queries.tile[:2]) == {0, 1} and len(history.queries) == 5
    left = replace(pool, unlabelled_mask=np.arange(70) >= 2)
    assert history.queries.tile[2:].tolist() == select("cs", left, 3, 0).rows.tolist()


# --- pseudo labels -------------------------------------------------------------------------------


def test_pseudo_labels_of_a_class_weigh_as_much_as_so_many_labels_of_it(start):
    labels = np.full(70, UNLABELLED)
    labels[:30] = TRUTH[:30]
    judged = (PSEUDO[:30] != UNLABELLED).nonzero()[0]
    joined, weights = replace(start, pseudo_counts=4.0).training_labels(labels, NONE, CELLS)
    assert (PSEUDO[judged] == TRUTH[judged]).all(), "none is contradicted"
    assert (joined[:30] == TRUTH[:30]).all() and (joined[30:] == PSEUDO[30:]).all()
    data = TrainingTiles(POOL, joined, "abc", weights=weights)
    rows, chances = data.labelled, data.balancing_chances
    assert chances.sum() == pytest.approx(1)
    for c in range(3):
        own = joined[rows] == c
        pseudo = own & (rows >= 30)
        n = (own & (rows < 30)).sum()
        assert chances[own].sum() == pytest.approx(1 / 3), "classes are drawn alike"
        assert chances[pseudo].sum() == pytest.approx(4 / (4 + n) / 3)


def test_a_pseudo_label_is_gone_once_its_tile_is_labelled_doubtful_or_weighs_nothing(start):
    wrong = replace(start, pseudo_labels=(TRUTH[:70] + 1) % 3)
    labels, doubtful = np.full(70, UNLABELLED), np.arange(70) < 30
    assert (wrong.training_labels(labels, NONE, CELLS)[0] == wrong.pseudo_labels).all()
    joined, _ = replace(start, doubtful=doubtful).training_labels(labels, NONE, CELLS)
    assert (joined[:30] == UNLABELLED).all() and (joined[30:] == PSEUDO[30:]).all()
    labels[7] = TRUTH[7]
    joined, weights = wrong.training_labels(labels, NONE, CELLS)
    assert joined[7] == TRUTH[7] and weights[7] == 1
    joined, weights = replace(start, pseudo_counts=0.0).training_labels(labels, NONE, CELLS)
    assert (joined == labels).all() and (weights == 1).all()


def test_pseudo_labels_are_used_while_the_labels_say_that_they_are_right(start):
    labels, refused = np.full(70, UNLABELLED), np.zeros(70, bool)
    labels[:8] = [0, 1, 2, 0, 1, 2, 0, 1]
    refused[9] = True  # says nothing of the classes
    for n_wrong, used in ((2, True), (3, False)):
        predicted = np.where(np.arange(70) < n_wrong, (labels + 1) % 3, labels)
        begun = replace(start, predicted=predicted, pseudo_counts=6.0)
        joined, weights = begun.training_labels(labels, refused, CELLS)
        assert begun.estimated_accuracy(labels, CELLS) == pytest.approx((1 + 8 - n_wrong) / (2 + 8))
        pseudo = (labels == UNLABELLED) & ~refused & (PSEUDO != UNLABELLED)
        expected = np.where(pseudo, PSEUDO, labels) if used else labels
        assert (joined == expected).all(), n_wrong
        together = [weights[pseudo & (PSEUDO == c)].sum() for c in range(3)]
        if used:
            assert together == pytest.approx([6] * 3)
        else:
            assert (weights == 1).all()


def test_labels_judge_the_start_for_the_tiles_that_they_stand_for(start):
    labels, cells = np.full(70, UNLABELLED), np.zeros(70)
    labels[:3], cells[:4] = TRUTH[:3], [60, 6, 4, 99]  # the last has no label
    begun = replace(start, predicted=(TRUTH[:70] + (np.arange(70) == 0)) % 3)
    n = 70**2 / (60**2 + 6**2 + 4**2)
    assert begun.estimated_accuracy(labels, cells) == pytest.approx((1 + n * 10 / 70) / (2 + n))
    assert begun.estimated_accuracy(np.full(70, UNLABELLED), cells) == 1


def test_a_first_query_of_one_class_does_not_stand_for_the_pool(
    tmp_path, setup, start, monkeypatch
):
    one_class = POOL[TRUTH[:70] == 0][:5]
    begun = replace(start, doubtful=np.isin(POOL, one_class))
    given, learn = [], loop.train_all
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_all", lambda wanted: given.extend(wanted) or learn(wanted))
        run(tmp_path / "rounds", setup, cold_start=begun, n_rounds=1)
    labels = np.where(np.isin(POOL, one_class), 0, UNLABELLED)
    features = setup.reader(POOL).numpy()
    taught, weights = begun.training_labels(
        labels, NONE, trainings.voronoi_weights(features, labels)
    )
    pseudo = np.where(labels == UNLABELLED, taught, UNLABELLED)
    shares, own = (trainings.voronoi_counts(features, known, 3) for known in (pseudo, labels))
    assert own[1:].sum() == 0 and own[0] > 0 and (shares > 0).all()
    expected = own + weights[pseudo != UNLABELLED].sum() * shares / shares.sum()
    assert given[0].data.class_counts == pytest.approx(expected, abs=1e-5)


def test_chances_without_weights_are_those_of_equal_weights():
    labels = np.array([0, 0, 1, UNLABELLED, 1, 1])
    plain = TrainingTiles(np.arange(6), labels, "ab").balancing_chances
    alike = TrainingTiles(np.arange(6), labels, "ab", weights=np.ones(6)).balancing_chances
    assert plain.tobytes() == alike.tobytes()
    np.testing.assert_allclose(plain, [1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])


# --- the loop ------------------------------------------------------------------------------------


def test_a_refused_tile_keeps_no_pseudo_label(tmp_path, setup, start):
    class Refuses:
        def label(self, tiles):
            return dict.fromkeys(tiles.tolist(), loop.REFUSED)

    watched = []
    original = loop.TrainingTiles

    def watch(tiles, labels, *rest):
        watched.append((tiles, labels))
        return original(tiles, labels, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingTiles", watch)
        begun = config(setup, cold_start=start, n_rounds=1)
        history = loop.run_rounds(tmp_path / "rounds", begun, Refuses(), TEST)
    ((tiles, labels),) = watched
    assert not set(history.queries.tile) & set(tiles.tolist())
    assert (labels == PSEUDO[np.isin(POOL, tiles)]).all(), "pseudo labels alone can be learnt from"
    assert history.rounds.labelled.tolist() == [0]
    unused = config(setup, cold_start=replace(start, pseudo_counts=0.0), n_rounds=1)
    with pytest.raises(ValueError, match="labelled none of the 5 tiles"):
        loop.run_rounds(tmp_path / "unused", unused, Refuses(), TEST)


def test_another_start_is_another_loop(setup, start):
    plain = config(setup).fingerprint(TEST)
    others = [
        start,
        replace(start, pseudo_counts=3.0),
        replace(start, pseudo_labels=np.roll(PSEUDO, 1)),
        replace(start, networks=start.networks[::-1]),
        replace(start, doubtful=np.arange(70) < 9),
        replace(start, first="unisal"),
    ]
    marks = {config(setup, cold_start=other).fingerprint(TEST) for other in others}
    assert len(marks | {plain}) == 7


# --- VLM-CPL as the start ------------------------------------------------------------------------

OBJECTIVE = losses.HighConfidenceCrossSupervision(0.9, 0.4)


def prompted(folder, said):
    """What `embed_tiles` and `embed_views` leave beside the features. said: [N], by the prompts."""
    probs = 0.05 + 0.85 * np.eye(3, dtype="f4")[said]
    views = {"votes": np.tile(said, (V, 1)), "view_probs": probs}
    views |= {"probs": probs, "agree": np.ones(N, bool)}
    for name, values in views.items():
        np.save(folder / f"{name}.npy", values)
    np.save(
        with_features(folder, 6) / "image_embeds.npy", np.load(folder / "backbone_features.npy")
    )
    inputs = FilterInputs.load(folder, POOL, keep_ratio=0.4, seed=0)
    setup = setups.frozen(folder, POOL, 3, steps=40, seed=0)
    given = inputs, setup, ["one", "two", "three"]
    trained = train_vlm_cpl(*given, objective=OBJECTIVE, tiles=POOL, folder=folder / "hcs")
    return given, trained


def test_networks_that_are_read_start_the_same_rounds(tmp_path):
    given, trained = prompted(tmp_path, TRUTH)
    read = read_vlm_cpl(*given, tiles=POOL, pseudo=trained.pseudo, folder=tmp_path / "hcs")
    digests = set()
    for each in (trained, read):
        start, doubtful = cold_start.vlm_cpl_cold_start(given[0], each)
        kept = start.pseudo_labels != UNLABELLED
        assert each.alarms == [] and doubtful is None
        assert (start.pseudo_labels == TRUTH[:70])[kept].all() and 20 < kept.sum() < 40
        digest = hashlib.blake2b()
        start.update(digest)
        digests.add(digest.digest())
    assert len(digests) == 1, "rounds that began with them go on"


def test_after_an_alarm_there_are_doubtful_tiles(tmp_path):
    given, trained = prompted(tmp_path, np.where(TRUTH == 2, 0, TRUTH))
    start, doubtful = cold_start.vlm_cpl_cold_start(given[0], trained)
    assert "class without labels" in {alarm.name for alarm in trained.alarms}
    assert doubtful[TRUTH[:70] == 2].mean() > doubtful[TRUTH[:70] == 1].mean()
    found, without = (cold_start.variants(start, asked) for asked in (doubtful, None))
    assert list(found) == [name for name in COLD_STARTS if name != BY_CHANCE]
    assert {*found} - {*without} == {"cold-start-doubtful"}
    assert without["cold-start-labels"].pseudo_counts == 0


# --- what an alarm points at ---------------------------------------------------------------------


def test_clusters_that_prompts_and_lift_call_differently_are_doubtful():
    clusters = np.repeat(np.arange(3), 4)
    lift = np.array([[2.0, 0.5], [0.4, 1.8], [1.6, 0.9]])
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0])
    doubtful = cold_start.doubtful_tiles(labels, labels, clusters, lift)
    assert doubtful.tolist() == [False] * 8 + [True] * 4
    none_kept = np.where(labels == 0, 0, UNLABELLED)
    doubtful = cold_start.doubtful_tiles(labels, none_kept, clusters, lift)
    assert doubtful.tolist() == [False] * 4 + [True] * 8, "no label of the second class was kept"
    outside = np.where(np.arange(12) == 9, UNLABELLED, clusters)
    assert not cold_start.doubtful_tiles(labels, labels, outside, lift)[9]
