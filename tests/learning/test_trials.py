"""Trials: which tiles each of them learns from, and that nothing else differs."""

import threading
import time
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from lib.artefacts import locked
from lib.clusters import classes_by_lift
from lib.consensus import VARIANTS, FilterInputs, FilterRules, filter_tiles
from lib.labels import UNLABELLED
from lib.learning import baselines, setups, trials
from lib.learning.batches import labelled_and_not
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
        "mean_features": features[:V].mean(0).astype(np.float16),
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
def inputs(folder):
    return FilterInputs.load(folder, TILES, keep_ratio=0.5, seed=0)


@pytest.fixture
def pseudo(inputs):
    """As notebook 12 leaves them."""
    tables = [filter_tiles(inputs, rules).assign(setting=v) for v, rules in VARIANTS.items()]
    return pd.concat(tables, ignore_index=True)


def test_inputs_are_those_of_the_training_tiles(inputs, folder):
    assert np.array_equal(inputs.prompt_labels, np.load(folder / "probs.npy")[10:].argmax(1))
    assert inputs.image_embeds.shape == (N, 4) and inputs.backbone_features.shape == (N, E)
    assert not inputs.candidates[2] and inputs.candidates.sum() == N - 1
    assert np.array_equal(inputs.votes, np.load(folder / "votes.npy")[:, TILES])
    assert np.array_equal(inputs.view_probs, np.load(folder / "view_probs.npy")[TILES])


def test_the_most_confident_are_as_many_of_each_class_as_the_views_keep(inputs, folder):
    found, labels = trials.confident_labels(inputs), inputs.prompt_labels
    kept = found != UNLABELLED
    assert np.array_equal(found[kept], labels[kept])
    rules = FilterRules(tie_break="probability", quota="class")
    by_views = filter_tiles(inputs, rules, "mvc").kept
    assert np.array_equal(np.bincount(labels[kept]), np.bincount(labels[by_views]))
    for c in range(C):
        others = (labels == c) & inputs.candidates & ~kept
        assert inputs.confidence[kept & (labels == c)].min() >= inputs.confidence[others].max()
    order = np.random.default_rng(0).permutation(N)
    moved = FilterInputs.load(folder, TILES[order], keep_ratio=0.5, seed=0)
    assert np.array_equal(trials.confident_labels(moved), found[order])


def test_every_filter_is_tried_in_every_variant(inputs, pseudo):
    planned = trials.filter_trials(inputs, pseudo)
    expected = {(m, v) for m in ("ce-mvc", "ce-pfc", "ce-kept") for v in VARIANTS}
    expected |= {("top-confidence", ""), ("ce-lift", ""), ("clusters", "")}
    assert {(trial.method, trial.setting) for trial in planned} == expected
    assert planned[1].kept.all()
    found, lift = inputs.lift_clusters()
    assert np.array_equal(planned[2].labels[found >= 0], classes_by_lift(lift)[found[found >= 0]])
    assert np.array_equal(planned[2].labels == UNLABELLED, found < 0)
    orders = {"ce-mvc": "mvc", "ce-pfc": "pfc", "ce-kept": "mvc+pfc"}
    for trial in planned[3:]:
        rules = VARIANTS[trial.setting]
        assert trial.params["rules"] == asdict(rules)
        labels = filter_tiles(inputs, rules, orders[trial.method]).training_label
        assert np.array_equal(trial.labels, labels), trial.method


def test_three_opinions_are_the_mean_of_ours_of_prompts_and_of_clusters():
    chance = np.random.default_rng(0)
    probs = {name: chance.dirichlet(np.ones(C), 5) for name in ("elr", "co-teaching", "clusters")}
    ours = chance.dirichlet(np.ones(C), 5)
    found = trials.three_opinions(ours, [trials.Outcome(*own) for own in probs.items()])
    assert (found.method, found.setting) == ("opinions", "ours")
    assert np.allclose(found.probs, (ours + probs["elr"] + probs["clusters"]) / 3)


def test_confident_learning_leaves_the_suspected_labels_out(inputs):
    suspected = np.arange(N) < 5
    plain, doubtful = trials.noisy_label_trials(inputs, {"ce-all": Supervised()}, suspected)
    assert plain.kept.all() and np.array_equal(doubtful.kept, ~suspected)


def test_only_the_named_methods_are_tried(inputs, pseudo):
    planned = [*trials.filter_trials(inputs, pseudo), trials.full_supervision(TRUTH)]
    assert trials.select_trials(planned, "") == planned
    some = trials.select_trials(planned, "ce-mvc,full-supervision")
    assert [trial.method for trial in some] == ["ce-mvc", "ce-mvc", "full-supervision"]
    with pytest.raises(ValueError, match="unknown method in only='ce'"):
        trials.select_trials(planned, "ce")


def test_a_trial_learns_from_the_labels_that_are_kept(folder, monkeypatch):
    seen, learn = [], trials.train_all

    def watched(trainings):
        seen.extend(trainings)
        return learn(trainings)

    monkeypatch.setattr(trials, "train_all", watched)
    setup = setups.frozen(folder, TRAIN.tile.values, C, steps=2, seed=3)
    kept = np.arange(N) < 6
    planned = [
        trials.Trial(
            "ce-mvc", Supervised(), np.where(kept, TRUTH, UNLABELLED), "ours", params={"a": 1}
        ),
        trials.Trial("vlm-cpl", Supervised(), TRUTH, cross_all=True),
    ]
    one, both = trials.run_trials(planned, TRAIN, TEST, NAMES, setup=setup, seed=3)
    assert (one.method, one.setting, one.params, one.trial) == (
        "ce-mvc",
        "ours",
        {"a": 1},
        planned[0],
    )
    assert np.array_equal(seen[0].data.labels, np.where(kept, TRUTH, UNLABELLED))
    assert len(seen[1].data.tiles) == 2 * N and (seen[1].data.labels == UNLABELLED).sum() == N
    assert all((training.setup, training.seed) == (setup, 3) for training in seen)
    assert one.seconds >= 0 and both.probs.shape == (10, C)


def test_the_same_trial_gives_the_same_probabilities_whatever_ran_before(folder, inputs):
    setup = setups.frozen(folder, TILES, C, steps=10, seed=0)
    mine = trials.Trial("ce-all", Supervised(), TRUTH)
    few = np.where(np.arange(N) < 9, TRUTH, UNLABELLED)
    other = trials.Trial("vlm-cpl", HighConfidenceCrossSupervision(), few)
    (alone,) = trials.run_trials([mine], TRAIN, TEST, NAMES, setup=setup, seed=0)
    _, after = trials.run_trials([other, mine], TRAIN, TEST, NAMES, setup=setup, seed=0)
    assert alone.probs.tobytes() == after.probs.tobytes()


def test_an_ablation_follows_its_rules(inputs, pseudo):
    ours = {
        "filters": "mvc",
        "n_views": 5,
        "keep_ratio": 0.5,
        "threshold": 0.9,
        "cross_weight": 0.5,
        **asdict(VARIANTS["ours"]),
    }
    asked = []

    def vote(n_views):
        asked.append(n_views)
        return inputs.votes[:n_views], inputs.view_probs

    grid = [
        ours | {"filters": "", "varied": ["filters"]},
        ours | {"n_views": 2, "varied": ["n_views"]},
        ours | {"keep_ratio": 0.2, "varied": ["keep_ratio"]},
        ours | {"threshold": 0.6, "cross_weight": 2.0, "varied": ["threshold", "cross_weight"]},
    ]
    none, views, ratio, rest = trials.ablation_trials(grid, inputs, pseudo, vote)
    assert asked == [2]
    assert none.cross_all and none.kept.all() and not views.cross_all
    assert ratio.kept.sum() < rest.kept.sum() and rest.params == grid[3]
    assert (rest.objective.threshold, rest.objective.weight) == (0.6, 2.0)
    ours_kept = pseudo.training_label[pseudo.setting == "ours"]
    assert np.array_equal(rest.labels, ours_kept), "where no filter is varied, they are those of 12"


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
def test_methods_without_training_classify_the_tiles_that_are_asked_for(folder, inputs, sizes):
    text = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]), dim=1)
    tiles = np.array([3, 1, 7])
    outcomes = trials.untrained_outcomes(Model(sizes), folder, text, inputs, tiles)
    probs = {outcome.method: outcome.probs for outcome in outcomes}
    assert set(probs) == {
        "mean-of-views",
        "lift",
        "transductive",
        "stata",
        "centred",
        "sinkhorn",
        "sinkhorn-clusters",
        "prior-em",
    }
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


def test_transductive_methods_are_left_out_of_too_many_tiles(folder, inputs, monkeypatch):
    monkeypatch.setattr(trials, "MOST_NEIGHBOURED", N - 1)
    text = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]), dim=1)
    with pytest.warns(UserWarning, match=r"transductive and stata are left out: \d+ tiles"):
        outcomes = trials.untrained_outcomes(Model(), folder, text, inputs, np.arange(3))
    methods = {outcome.method for outcome in outcomes}
    assert "centred" in methods and not methods & {"transductive", "stata"}


def test_without_a_filter_every_tile_is_on_both_sides():
    labels = np.array([0, 1, 1])
    data = labelled_and_not(np.array([5, 6, 9]), labels, NAMES, labels)
    for side in (data.labelled, data.unlabelled):
        assert data.tiles[side].tolist() == [5, 6, 9] and data.truth[side].tolist() == [0, 1, 1]
    assert data.labels[data.unlabelled].tolist() == [UNLABELLED] * 3


# --- shifted tiles -------------------------------------------------------------------------------

SHIFTED = {
    "prompts": [["a"], ["b"]],
    "n_views": V,
    "hue": 0.05,
    "batch_size": 8,
    "keep_ratio": 0.5,
    "threshold": 0.9,
    "cross_weight": 0.5,
    "n_steps": 4,
}


@pytest.fixture
def embedded(folder, monkeypatch):
    """Stands in for the model: copies what the run has; returns the tiles of every call."""
    calls = []

    def copy(names, target):
        for name in names:
            np.save(target / f"{name}.npy", np.load(folder / f"{name}.npy"))

    def embed_views(model, store, tiles, text, target, **options):
        calls.append(len(tiles))
        copy(("votes", "view_probs", "view_features", "mean_features"), target)

    monkeypatch.setattr(trials, "embed_views", embed_views)
    monkeypatch.setattr(
        trials,
        "embed_tiles",
        lambda model, store, text, target: copy(
            ("probs", "image_embeds", "backbone_features", "agree"), target
        ),
    )
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
