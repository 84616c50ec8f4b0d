"""Both training setups end to end on a few tiles; the same seed gives the same predictions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lib.labels import UNLABELLED, missing_classes_expected
from lib.learning import losses, networks, setups
from lib.learning.batches import TrainingTiles

N, V, E = 24, 3, 16
TRUTH = np.arange(N) % 2
NUMBERS = np.arange(N)


@pytest.fixture
def run(tmp_path):
    """Views and plain features, and decoded tiles, in which the class is plain to see."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(V + 1, N, E)) + 2 * TRUTH[:, None]
    np.save(tmp_path / "view_features.npy", features[:V].astype(np.float16))
    np.save(tmp_path / "mean_features.npy", features[V].astype(np.float16))
    store = chance.integers(0, 80, (N, 37, 37, 3)) + 120 * TRUTH[:, None, None, None]
    np.save(tmp_path / "store.npy", store.astype(np.uint8))
    return tmp_path


def setup_of(kind, run, seed=0):
    if kind == "frozen":
        return setups.frozen(run, NUMBERS, 2, steps=30, seed=seed)
    return setups.fine_tune(run / "store.npy", 32, 2, steps=1, seed=seed)


def predictions(kind, run, seed=0):
    data = TrainingTiles(NUMBERS, np.where(NUMBERS < 12, TRUTH, UNLABELLED), ["a", "b"])
    objective = losses.HighConfidenceCrossSupervision()
    return setups.fit_predict(objective, data, NUMBERS, setup=setup_of(kind, run, seed), seed=seed)


@pytest.mark.parametrize("kind", ["frozen", pytest.param("fine-tune", marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(kind, run):
    first, again = (predictions(kind, run, seed) for seed in (0, 0))
    assert first.tobytes() == again.tobytes()
    if kind == "frozen":  # whole networks take seconds
        assert not np.array_equal(first, predictions(kind, run, 1))
    assert first.shape == (N, 2) and np.allclose(first.sum(1), 1)


def test_heads_on_features_learn_what_is_plain_to_see(run):
    assert (predictions("frozen", run).argmax(1) == TRUTH).mean() > 0.9


@pytest.mark.parametrize("kind", ["frozen", pytest.param("fine-tune", marks=pytest.mark.slow)])
def test_networks_that_were_saved_predict_what_the_trained_ones_do(kind, run, tmp_path_factory):
    setup, folder = setup_of(kind, run), tmp_path_factory.mktemp("networks")
    data = TrainingTiles(NUMBERS, np.where(NUMBERS < 12, TRUTH, UNLABELLED), ["a", "b"])
    training = setups.Training(setup, losses.Supervised(), data, 0, folder)
    trained = setups.train_all([training])[0].networks
    loaded = setups.load_networks(setup, folder)
    assert len(loaded) == 2 and not any(network.training for network in loaded)
    found, expected = (networks.predict(n, setup.reader, NUMBERS) for n in (loaded, trained))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("projection", [0, 5])
def test_a_projection_is_passed_on_to_the_heads(projection, run):
    setup = setups.frozen(run, NUMBERS, 3, steps=30, seed=0, projection=projection)
    head = setup.make_network()
    assert head.head.out_features == 3 and setup.schedule.steps == 30
    assert (head.projector.out_features if projection else head.projector) == (projection or None)


def test_heads_standardise_with_the_statistics_of_the_views_of_their_tiles_alone(run):
    some = NUMBERS[: N // 2]
    head = setups.frozen(run, some, 2, steps=30, seed=0).make_network()
    rows = np.load(run / "view_features.npy")[:, some].reshape(-1, E).astype(np.float64)
    np.testing.assert_allclose(head.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(head.std, rows.std(0), atol=1e-5)


def test_training_leaves_no_files_and_the_random_state_alone(run):
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    state = torch.random.get_rng_state()
    predictions("frozen", run)
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_linear_probe_is_that_of_scikit_learn_and_misses_unknown_classes(run):
    means = np.load(run / "view_features.npy").astype("f4").mean(0)
    np.save(run / "mean_features.npy", means)
    labelled, setup = NUMBERS < 12, setups.linear_probe(run, NUMBERS, 3)
    for n_known in (2, 1):
        truth = np.minimum(TRUTH, n_known - 1)
        with missing_classes_expected():
            data = TrainingTiles(NUMBERS, np.where(labelled, truth, UNLABELLED), ["a", "b", "c"])
        found = setups.fit_predict(losses.Supervised(), data, NUMBERS, setup=setup, seed=0)
        expected = np.eye(3)[np.zeros(N, int)]
        if n_known == 2:
            inputs = (means - means.mean(0)) / means.std(0)
            probe = LogisticRegression(C=setups.PROBE_C, class_weight="balanced")
            probe.fit(inputs[labelled], truth[labelled])
            expected = np.column_stack([probe.predict_proba(inputs), np.zeros(N)])
        np.testing.assert_allclose(found, expected, atol=1e-5)
