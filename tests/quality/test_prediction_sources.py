"""Prediction sources are of the test tiles, by networks as trained, also on shifted tiles."""

import numpy as np
import pandas as pd
import pytest
from small_models import write_embedded_tiles

from lib import paths
from lib.consensus import VARIANTS
from lib.learning import trials
from lib.quality import prediction_sources

N, C, V, E = 90, 3, 4, 8
NAMES = ["a", "b", "c"]
RULES = {"keep_ratio": 0.5, "threshold": 0.9, "cross_weight": 0.4, "n_steps": 30}


@pytest.fixture
def folder(tmp_path):
    return write_embedded_tiles(tmp_path, N)


@pytest.fixture
def split():
    table = pd.DataFrame({"tile": np.arange(N), "label": np.arange(N) % C, "group": np.arange(N)})
    return table.iloc[:60], table.iloc[60:]


@pytest.mark.slow
def test_networks_at_a_shift_are_those_of_the_robustness_notebook(folder, split):
    train, test = split
    outcomes = trials.shifted_outcomes(folder, train, test, NAMES, RULES, seed=3)
    tiles = {"train_tiles": train.tile.values, "test_tiles": test.tile.values}
    sources = prediction_sources.collect_at_shift(folder, NAMES, RULES, **tiles, seed=3)
    assert [*sources] == [*VARIANTS]
    for variant, own in sources.items():
        (same,) = [o for o in outcomes if (o.method, o.setting) == ("vlm-cpl", variant)]
        np.testing.assert_array_equal(own.members.mean(0), same.probs)
        assert own.members.shape == (2, 30, C) and own.views.shape[1:] == (30, C)
        for labels in (own.predicted, own.cluster_labels, own.outside.argmax(1)):
            assert (labels == test.label.values).mean() > 0.8
        np.testing.assert_array_equal(own.prompts, np.load(folder / "probs.npy")[60:])


def test_an_outside_classifier_gives_a_class_without_labels_no_probability():
    features = np.random.default_rng(0).normal(size=(40, E))
    labels = np.where(features[:, 0] > 0, 2, 0)
    probs = prediction_sources.outside_probabilities(features, labels, features, C)
    assert probs.sum(1) == pytest.approx(1) and (probs[:, 1] == 0).all()
    assert (probs.argmax(1) == labels).mean() > 0.9
    alone = prediction_sources.outside_probabilities(features, np.full(40, 2), features[:3], C)
    assert alone.tolist() == [[0, 0, 1]] * 3


def test_another_run_is_read_by_tile_and_named_where_it_is_missing():
    place = paths.run_folder("d", "w", 0, 2)
    with pytest.raises(FileNotFoundError, match="with vlm=w first, with the same dataset, seed 0"):
        prediction_sources.read_predictions("d", "w", np.array([1]), seed=0, fold=2)
    place.mkdir(parents=True)
    columns = {f"{setting}_label": [0, 1, 2] for setting in VARIANTS}
    table = pd.DataFrame({"tile": [7, 8, 9]} | columns)
    table.to_parquet(place / "predictions.parquet")
    found = prediction_sources.read_predictions("d", "w", np.array([9, 7]), seed=0, fold=2)
    assert found.ours.tolist() == [2, 0] and [*found] == [*VARIANTS]
