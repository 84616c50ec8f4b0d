"""Trials: which tiles each of them learns from, and that nothing else differs."""

import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

from lib import consensus
from lib.alarm import label_free_alarms
from lib.artefacts import locked
from lib.labels import UNLABELLED
from lib.learning import baselines, setups, trainer, trials
from lib.learning.losses import HighConfidenceCrossSupervision, Supervised

N, V, C, E = 40, 5, 2, 8
TRUTH = np.arange(N) % C
TILES = np.arange(N) + 10
TRAIN = pd.DataFrame({"tile": TILES, "label": TRUTH})
TEST = pd.DataFrame({"tile": np.arange(10)})
NAMES = ["a", "b"]


@pytest.fixture
def folder(tmp_path):
    """What the notebooks before leave of fifty tiles, of which the last forty are for training."""
    chance = np.random.default_rng(0)
    all_labels = np.append(np.arange(10) % C, TRUTH)
    features = chance.normal(size=(V + 1, 10 + N, E)) + 2 * all_labels[:, None]
    probs = chance.dirichlet(np.ones(C), 10 + N)
    arrays = {
        "view_features": features[:V].astype(np.float16),
        "backbone_features": features[V].astype(np.float16),
        "image_embeds": features[V, :, :4].astype(np.float16),
        "probs": probs.astype(np.float32),
        "view_probs": chance.dirichlet(np.ones(C), 10 + N).astype(np.float32),
        "votes": chance.integers(0, C, (V, 10 + N)).astype(np.int16),
        "agree": np.arange(10 + N) != 12,
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


@pytest.fixture
def evidence(folder):
    return trials.FilterInputs.load(folder, TILES, keep_ratio=0.5, seed=0)


def test_evidence_is_that_of_the_training_tiles(evidence, folder):
    probs = np.load(folder / "probs.npy")
    assert np.array_equal(evidence.prompt_labels, probs[10:].argmax(1))
    assert evidence.features["projected"].shape == (N, 4) and not evidence.agree[2]
    assert np.array_equal(evidence.votes, np.load(folder / "votes.npy")[:, TILES])
    assert np.array_equal(evidence.view_probs, np.load(folder / "view_probs.npy")[TILES])


def test_evidence_follows_the_order_of_the_tiles(evidence, folder):
    order = np.random.default_rng(0).permutation(N)
    moved = trials.FilterInputs.load(folder, TILES[order], keep_ratio=0.5, seed=0)
    for rules in consensus.VARIANTS.values():
        labels = evidence.pseudo_labels("mvc+pfc", **rules)
        assert np.array_equal(moved.pseudo_labels("mvc+pfc", **rules), labels[order])
    assert np.array_equal(moved.confident_labels(), evidence.confident_labels()[order])


def test_the_most_confident_are_as_many_of_each_class_as_the_views_keep(evidence):
    found, labels = evidence.confident_labels(), evidence.prompt_labels
    kept = found != UNLABELLED
    assert np.array_equal(found[kept], labels[kept])
    by_views = evidence.pseudo_labels("mvc", tie_break="probability", quota="class") != UNLABELLED
    assert np.array_equal(np.bincount(labels[kept]), np.bincount(labels[by_views]))
    for c in range(C):
        others = (labels == c) & evidence.agree & ~kept
        assert evidence.confidence[kept & (labels == c)].min() >= evidence.confidence[others].max()


@pytest.mark.parametrize("setting", consensus.VARIANTS)
def test_filters_keep_what_the_consensus_keeps_at_the_ratio_of_the_run(evidence, setting):
    rules = consensus.VARIANTS[setting]
    for order in consensus.ORDERS:
        expected = consensus.label_by_consensus(
            order, evidence.votes, evidence.view_probs, evidence.features, evidence.prompt_labels,
            keep_ratio=0.5, seed=0, tiles=TILES, candidates=evidence.agree, **rules,
        )  # fmt: skip
        assert np.array_equal(evidence.pseudo_labels(order, **rules), expected), order
    assert np.array_equal(evidence.pseudo_labels(""), evidence.prompt_labels)
    few = evidence.pseudo_labels("mvc", keep_ratio=0.1) != UNLABELLED
    assert few.sum() < (evidence.pseudo_labels("mvc") != UNLABELLED).sum()


def test_an_alarm_looks_at_the_labels_of_the_setting(evidence):
    """Contradictions are those of the labels that are learnt from, by prompt or by lift."""
    kept, predicted = np.ones(N, bool), np.eye(C)
    for setting, rules in consensus.VARIANTS.items():
        labels = consensus.labels_by_rule(
            rules["label_rule"], evidence.prompt_labels, evidence.view_probs, evidence.agree
        )
        expected = label_free_alarms(
            evidence.view_probs, labels, kept, *evidence.lift_clusters, NAMES,
            predicted=predicted,
        )  # fmt: skip
        assert evidence.alarms(setting, kept, NAMES, predicted) == expected


def test_every_filter_is_tried_in_every_setting(evidence):
    planned = trials.filter_trials(evidence)
    pairs = {(trial.method, trial.setting) for trial in planned}
    expected = {(m, s) for m in trials.PLAIN.values() for s in consensus.VARIANTS}
    assert pairs == expected | {("top-confidence", ""), ("ce-lift", "")}
    assert planned[1].kept.all()
    for trial in planned[2:]:
        assert trial.params["rules"] == consensus.VARIANTS[trial.setting]


def test_confident_learning_leaves_the_suspected_labels_out(evidence):
    suspected = np.arange(N) < 5
    plain, doubtful = trials.noisy_label_trials(evidence, {"ce-all": Supervised()}, suspected)
    assert plain.kept.all() and np.array_equal(doubtful.kept, ~suspected)


def test_only_the_named_methods_are_tried(evidence):
    planned = [*trials.filter_trials(evidence), trials.full_supervision(TRUTH)]
    assert trials.select_trials(planned, "") == planned
    some = trials.select_trials(planned, "ce-mvc,full-supervision")
    assert [trial.method for trial in some] == ["ce-mvc", "ce-mvc", "full-supervision"]
    with pytest.raises(ValueError, match="unknown method in only='ce'"):
        trials.select_trials(planned, "ce")


def test_a_trial_learns_from_the_labels_that_are_kept(folder, monkeypatch):
    seen = []

    def fit_predict(objective, data, tiles, *, setup, seed):
        seen.append((objective, data, tiles, setup, seed))
        return np.full((len(tiles), C), 0.5)

    monkeypatch.setattr(trials, "fit_predict", fit_predict)
    kept = np.arange(N) < 6
    planned = [
        trials.Trial(
            "ce-mvc", Supervised(), np.where(kept, TRUTH, UNLABELLED), "ours", params={"a": 1}
        ),
        trials.Trial("vlm-cpl", Supervised(), TRUTH, cross_all=True),
    ]
    one, both = trials.run_trials(planned, TRAIN, TEST, NAMES, setup="setup", seed=3)
    assert (one.method, one.setting, one.params, one.trial) == (
        "ce-mvc", "ours", {"a": 1}, planned[0],
    )  # fmt: skip
    data = seen[0][1]
    assert np.array_equal(data.labels, np.where(kept, TRUTH, UNLABELLED))
    assert len(seen[1][1].tiles) == 2 * N and (seen[1][1].labels == UNLABELLED).sum() == N
    for _, _, tiles, setup, seed in seen:
        assert (setup, seed) == ("setup", 3) and np.array_equal(tiles, TEST.tile)
    assert one.seconds >= 0 and both.probs.shape == (10, C)


def test_the_same_trial_gives_the_same_probabilities_whatever_ran_before(folder, evidence):
    setup = setups.frozen(folder, TILES, C, steps=10, seed=0)
    mine = trials.Trial("ce-all", Supervised(), TRUTH)
    few = np.where(np.arange(N) < 9, TRUTH, UNLABELLED)
    other = trials.Trial("vlm-cpl", HighConfidenceCrossSupervision(), few)
    (alone,) = trials.run_trials([mine], TRAIN, TEST, NAMES, setup=setup, seed=0)
    _, after = trials.run_trials([other, mine], TRAIN, TEST, NAMES, setup=setup, seed=0)
    assert alone.probs.tobytes() == after.probs.tobytes()


def test_an_ablation_follows_its_rules(evidence):
    ours = {"filters": "mvc", "n_views": 5, "keep_ratio": 0.5, "threshold": 0.9,
            "cross_weight": 0.5, **consensus.VARIANTS["ours"]}  # fmt: skip
    asked = []

    def vote(n_views):
        asked.append(n_views)
        return evidence.votes[:n_views], evidence.view_probs

    grid = [
        ours | {"filters": "", "varied": ["filters"]},
        ours | {"n_views": 2, "varied": ["n_views"]},
        ours | {"keep_ratio": 0.2, "varied": ["keep_ratio"]},
        ours | {"threshold": 0.6, "cross_weight": 2.0, "varied": ["threshold", "cross_weight"]},
    ]
    none, views, ratio, rest = trials.ablation_trials(grid, evidence, vote)
    assert asked == [2]
    assert none.cross_all and none.kept.all() and not views.cross_all
    assert ratio.kept.sum() < rest.kept.sum() and rest.params == grid[3]
    assert (rest.objective.threshold, rest.objective.weight) == (0.6, 2.0)


class Member:
    def __init__(self, scale):
        self.scale = scale


class Model(Member):
    """What `untrained_outcomes` needs of a VLM, or of an ensemble of two."""

    def __init__(self, sizes=()):
        super().__init__(5.0)
        self.sizes = sizes
        self.members = [Member(5.0), Member(9.0)][: len(sizes) or 1]


@pytest.mark.parametrize("sizes", [(), (2, 2)])
def test_methods_without_training_classify_the_tiles_that_are_asked_for(folder, evidence, sizes):
    text = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]), dim=1)
    tiles = np.array([3, 1, 7])
    outcomes = trials.untrained_outcomes(Model(sizes), folder, text, evidence, tiles)
    probs = {outcome.method: outcome.probs for outcome in outcomes}
    assert set(probs) == {"mean-of-views", "lift", "transductive", "stata", "centred", "sinkhorn",
                          "sinkhorn-clusters", "prior-em"}  # fmt: skip
    for method, found in probs.items():
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5, err_msg=method)
    assert np.array_equal(probs["mean-of-views"], np.load(folder / "view_probs.npy")[tiles])
    features = np.load(folder / "image_embeds.npy")
    halves = [(slice(0, 2), 5.0), (slice(2, 4), 9.0)] if sizes else [(slice(0, 4), 5.0)]
    centred = [
        baselines.centred_probabilities(features[:, half], text[:, half].numpy(), scale)[tiles]
        for half, scale in halves
    ]
    np.testing.assert_allclose(probs["centred"], np.mean(centred, axis=0))


def test_without_a_filter_every_tile_is_on_both_sides():
    labels = np.array([0, 1, 1])
    data = trainer.labelled_and_not(np.array([5, 6, 9]), labels, NAMES, labels)
    for side in (data.labelled, data.unlabelled):
        assert data.tiles[side].tolist() == [5, 6, 9] and data.truth[side].tolist() == [0, 1, 1]
    assert data.labels[data.unlabelled].tolist() == [UNLABELLED] * 3


# --- shifted tiles -------------------------------------------------------------------------------

SHIFTED = {"prompts": [["a"], ["b"]], "n_views": V, "hue": 0.05, "batch_size": 8,
           "keep_ratio": 0.5, "threshold": 0.9, "cross_weight": 0.5, "n_steps": 4}  # fmt: skip


@pytest.fixture
def embedded(folder, monkeypatch):
    """Stands in for the model: copies what the run has; returns the tiles of every call."""
    calls = []

    def copy(names, target):
        for name in names:
            np.save(target / f"{name}.npy", np.load(folder / f"{name}.npy"))

    def embed_views(model, store, tiles, text, target, **options):
        calls.append(len(tiles))
        copy(("votes", "view_probs", "view_features"), target)

    monkeypatch.setattr(trials, "embed_views", embed_views)
    monkeypatch.setattr(
        trials, "embed_tiles",
        lambda model, store, text, target: copy(
            ("probs", "image_embeds", "backbone_features", "agree"), target
        ),
    )  # fmt: skip
    return calls


def test_all_folds_share_the_views_of_shifted_tiles_unless_a_setting_differs(folder, embedded):
    np.save(folder / "store.npy", np.zeros((N + 10, 2, 2, 3), np.uint8))
    every = pd.DataFrame({"tile": np.arange(N + 10), "label": np.append(TEST.tile % C, TRUTH)})
    first, second = every[:10], every[10:20]
    for test, settings in ((first, {}), (second, {}), (second, {"n_views": V - 1})):
        train = every.drop(test.index)
        used = SHIFTED | settings
        (place,) = trials.embed_shifted(None, [folder / "store.npy"], folder, None, used, seed=0)
        outcomes = trials.shifted_outcomes(place, train, test, NAMES, used, seed=0)
        kinds = [(outcome.method, outcome.setting) for outcome in outcomes]
        assert kinds[:3] == [("zero-shot", ""), ("ce-all", ""), ("full-supervision", "")]
        assert all(outcome.probs.shape == (10, C) for outcome in outcomes)
        assert [o.alarms is not None for o in outcomes] == [m == "vlm-cpl" for m, _ in kinds]
    assert embedded == [N + 10, N + 10]


def test_shifted_tiles_that_another_fold_is_embedding_are_left_to_it(folder, embedded):
    stores = [folder / f"store{k}.npy" for k in range(3)]
    for store in stores:
        np.save(store, np.zeros((N + 10, 2, 2, 3), np.uint8))
    given = None, stores, folder, None, SHIFTED
    started, order = threading.Event(), []

    def other_fold():
        with locked(trials.embed_shifted(*given, seed=1)[0] / ".lock"):
            started.set()
            time.sleep(0.3)
            order.append("other")

    embedded.clear()
    thread = threading.Thread(target=other_fold)
    thread.start()
    started.wait()
    folders = trials.embed_shifted(*given, seed=1)
    order.append("mine")
    thread.join()
    assert order == ["other", "mine"] and len(embedded) == 3
    assert all((place / "view_probs.npy").is_file() for place in folders)
