"""The two ways to train, end to end on a few tiles; the same seed gives the same predictions."""

import numpy as np
import pytest
import torch

from lib.labels import UNLABELLED
from lib.learning import losses, setups
from lib.learning.trainer import TrainingTiles

N, V, E = 24, 3, 16
TRUTH = np.arange(N) % 2
NUMBERS = np.arange(N)


@pytest.fixture
def run(tmp_path):
    """Views and plain features, and decoded tiles, in which the class is plain to see."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(V + 1, N, E)) + 2 * TRUTH[:, None]
    np.save(tmp_path / "view_features.npy", features[:V].astype(np.float16))
    np.save(tmp_path / "unprojected.npy", features[V].astype(np.float16))
    store = chance.integers(0, 80, (N, 37, 37, 3)) + 120 * TRUTH[:, None, None, None]
    np.save(tmp_path / "store.npy", store.astype(np.uint8))
    return tmp_path


def way(kind, run, seed=0):
    if kind == "frozen":
        return setups.frozen(run, NUMBERS, 2, steps=30, seed=seed)
    return setups.fine_tune(run / "store.npy", 32, 2, steps=6, seed=seed)


def predictions(kind, run, seed=0):
    data = TrainingTiles(NUMBERS, np.where(NUMBERS < 12, TRUTH, UNLABELLED), ["a", "b"])
    objective = losses.HighConfidenceCrossSupervision()
    return setups.fit_predict(objective, data, NUMBERS, way=way(kind, run, seed), seed=seed)


@pytest.mark.parametrize("kind", ["frozen", "fine-tune"])
def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(kind, run):
    first, again, other = (predictions(kind, run, seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)
    assert first.shape == (N, 2) and np.allclose(first.sum(1), 1)


def test_heads_on_features_learn_what_is_plain_to_see(run):
    assert (predictions("frozen", run).argmax(1) == TRUTH).mean() > 0.9


def test_training_leaves_no_files_and_the_random_state_alone(run):
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    state = torch.random.get_rng_state()
    predictions("frozen", run)
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before
    assert torch.equal(torch.random.get_rng_state(), state)
