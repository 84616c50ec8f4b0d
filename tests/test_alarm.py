"""Alarms sound where a class is lost, and are silent where nothing is wrong."""

import numpy as np
import pytest

from lib import alarm
from lib.clusters import cluster_lift

NAMES = ["benign", "adenoma", "cancer"]
SHARES = ([0.34, 0.33, 0.33], [0.88, 0.07, 0.05])


def clean(shares, seed=0, n=600):
    """Tiles of which prompts, clusters and networks say the same; three clusters a class."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=shares)
    probs = 0.1 * rng.dirichlet(np.ones(3), n) + 0.9 * np.eye(3)[truth]
    clusters = 3 * truth + rng.integers(3, size=n)
    return {
        "view_probs": probs,
        "labels": truth,
        "kept": rng.random(n) < 0.6,
        "clusters": np.unique(clusters, return_inverse=True)[1],
    }


def sounded(given, predicted=None):
    lift = cluster_lift(given["clusters"], given["view_probs"])
    return alarm.label_free_alarms(**given, lift=lift, class_names=NAMES, predicted=predicted)


def names(alarms):
    return [found.name for found in alarms]


@pytest.mark.parametrize("shares", SHARES)
def test_nothing_sounds_where_all_agree_be_the_classes_even_or_not(shares):
    for seed in range(5):
        given = clean(shares, seed)
        assert sounded(given) == sounded(given, given["view_probs"]) == [], seed


def test_a_class_without_labels_is_named():
    given = clean(SHARES[0])
    given["kept"] &= given["labels"] != 1
    (found,) = sounded(given)
    assert found.name == "class without labels" and found.text.startswith("adenoma: 0 of")


def test_hardly_any_label_sounds_too_and_a_rare_class_does_not():
    given = clean([0.49, 0.5, 0.01], n=3000)
    assert sounded(given | {"kept": np.ones(3000, bool)}) != []
    given = clean([0.47, 0.5, 0.03], n=3000)
    assert sounded(given | {"kept": np.ones(3000, bool)}) == []


def test_a_class_that_is_never_predicted_is_named():
    given = clean(SHARES[0])
    predicted = np.eye(3)[[0, 1, 0, 1]]
    (found,) = sounded(given, predicted)
    assert found.name == "class never predicted" and "cancer" in found.text


def test_clusters_without_a_say_are_flat():
    given = clean(SHARES[0])
    given["clusters"] = np.arange(600) % 9
    found = sounded(given)
    assert names(found).count("flat clusters") == 3
    assert "prompts contradict clusters" in names(found)


def test_prompts_that_call_half_a_class_another_one_contradict_the_clusters():
    given = clean(SHARES[0])
    wrong = given["labels"] == 2
    swapped = np.flatnonzero(wrong)[: int(0.7 * wrong.sum())]
    given["labels"] = given["labels"].copy()
    given["labels"][swapped] = 0
    (found,) = sounded(given)
    assert found.name == "prompts contradict clusters" and found.text.startswith("cancer: of ")


def test_prompts_of_chance_contradict_in_all():
    given = clean(SHARES[0])
    given["labels"] = np.random.default_rng(0).integers(3, size=600)
    assert any("Prompts and clusters differ on 6" in found.text for found in sounded(given))
