"""Filter, training and alarm in one call, and that networks are read as they were trained."""

from dataclasses import replace

import numpy as np
import pytest
from small_models import write_embedded_tiles

from lib.alarm import label_free_alarms
from lib.consensus import VARIANTS, FilterInputs, filter_tiles
from lib.labels import UNLABELLED
from lib.learning import setups
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.learning.vlm_cpl import raise_alarms, read_vlm_cpl, train_vlm_cpl

N, C, V, E = 60, 3, 4, 8
NAMES = ["a", "b", "c"]
TILES, TRUTH = np.arange(10, N), (np.arange(N) % C)[10:]
OBJECTIVE = HighConfidenceCrossSupervision(0.9, 0.4)


@pytest.fixture
def folder(tmp_path):
    return write_embedded_tiles(tmp_path, N)


@pytest.fixture
def given(folder):
    inputs = FilterInputs.load(folder, TILES, keep_ratio=0.5, seed=3)
    return inputs, setups.frozen(folder, TILES, C, steps=30, seed=3), NAMES


def test_networks_learn_what_the_filters_keep_and_predict_what_is_asked(given, folder):
    tiles = np.arange(10)
    trained = train_vlm_cpl(*given, objective=OBJECTIVE, tiles=tiles, folder=folder / "hcs")
    ours = filter_tiles(given[0], VARIANTS["ours"])
    assert trained.pseudo.equals(ours) and not trained.alarms and len(trained.curve) == 30
    assert (trained.probs.argmax(1) == tiles % C).mean() > 0.8
    kept = {"tiles": tiles, "pseudo": ours, "folder": folder / "hcs"}
    read = read_vlm_cpl(*given, **kept)
    assert read.probs.tobytes() == trained.probs.tobytes() and read.alarms == trained.alarms
    again = train_vlm_cpl(*given, objective=OBJECTIVE, tiles=tiles)  # the networks are not kept
    assert again.probs.tobytes() == trained.probs.tobytes()
    (folder / "hcs" / "network_b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds 1 of 2 networks: run 13_"):
        read_vlm_cpl(*given, **kept)


def test_labels_that_somebody_set_right_are_learnt_in_place_of_the_filtered_ones(given):
    pseudo = filter_tiles(given[0]).assign(training_label=UNLABELLED, truth=TRUTH)
    with pytest.raises(ValueError, match="no tile is labelled"):
        train_vlm_cpl(*given, objective=OBJECTIVE, tiles=TILES, pseudo=pseudo)
    pseudo["training_label"] = np.where(np.arange(50) < 12, TRUTH, UNLABELLED)
    trained = train_vlm_cpl(*given, objective=OBJECTIVE, tiles=TILES, pseudo=pseudo)
    assert (trained.probs.argmax(1) == TRUTH).mean() > 0.8
    assert trained.curve.precision.notna().any(), "with the truth the curve can be judged"


def test_an_alarm_looks_at_the_labels_of_the_variant(given):
    """Contradictions are those of the labels that are learnt from, by prompt or by lift."""
    wrong = replace(given[0], prompt_labels=np.zeros(50, int))
    predicted = np.eye(C)[:2]
    for rules in VARIANTS.values():
        pseudo = filter_tiles(wrong, rules)
        expected = label_free_alarms(
            wrong.view_probs,
            pseudo.label.values,
            pseudo.kept.values,
            *wrong.lift_clusters(),
            NAMES,
            predicted=predicted,
        )
        assert raise_alarms(wrong, pseudo, NAMES, predicted) == expected
        assert "class never predicted" in {alarm.name for alarm in expected}
