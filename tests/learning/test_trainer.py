"""Pairs of heads side by side learn what a plain loop teaches one pair; and what that is."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from lib.labels import UNLABELLED
from lib.learning import losses, networks, setups, trainer
from lib.learning.batches import Schedule, TrainingTiles, draw_rows

N, SIZE, N_VIEWS = 120, 6, 4
CENTRES = np.random.default_rng(5).normal(size=(2, SIZE))
TRUTH = np.arange(N) % 2
FEATURES = CENTRES[TRUTH] + np.random.default_rng(6).normal(size=(N, SIZE))
NAMES = ["normal", "tumour"]
HCS = losses.HighConfidenceCrossSupervision(threshold=0.6, warm_up=0.2)
OBJECTIVES = [
    losses.Supervised(),
    losses.Supervised(q=0.7),
    losses.EarlyLearningRegularisation(),
    losses.CoTeaching(forget_rate=0.2),
    HCS,
    losses.DualViewTraining(threshold=0.6, warm_up=0.2),
    losses.DualViewTraining(threshold=0.6, warm_up=0.2, alignment=0.5),
]


class Sampler:
    """Gives what a function gives as the standardised views."""

    def __init__(self, standardised):
        self.standardised = standardised


@pytest.fixture
def make_setup(tmp_path):
    """Heads on made-up features of views and of plain tiles."""
    chance = np.random.default_rng(0)
    views = FEATURES + 0.1 * chance.normal(size=(N_VIEWS, N, SIZE))
    np.save(tmp_path / "view_features.npy", views.astype(np.float16))
    np.save(tmp_path / "mean_features.npy", FEATURES.astype(np.float16))

    def make(projection=0, **schedule):
        setup = setups.frozen(tmp_path, np.arange(N), 2, steps=45, seed=0, projection=projection)
        schedule = {"batch_size": 16} | schedule
        return replace(setup, schedule=replace(setup.schedule, **schedule))

    return make


def some_labelled(n=40, **more):
    labels = np.where(np.arange(N) < n, TRUTH, UNLABELLED)
    return TrainingTiles(np.arange(N), labels, NAMES, TRUTH, **more)


def train(setup, objective, *data, seed=0):
    return setups.train_all([setups.Training(setup, objective, own, seed) for own in data])


def slow_loop(setup, objective, data, seed=0):
    """One pair, one network after the other, with torch's modules; returns networks and losses."""
    pair = networks.new_networks(setup.make_network, seed)
    schedule, state, curve = setup.schedule, objective.state([data]), []
    optimiser = torch.optim.SGD(
        [own for network in pair for own in network.parameters()],
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
    drawn = draw_rows(data, schedule, uses_unlabelled=objective.uses_unlabelled, seed=seed)
    for step, (labelled, unlabelled) in enumerate(zip(*drawn, strict=True)):
        tiles = data.tiles[np.concatenate([labelled, unlabelled])]
        late = step >= 0.75 * schedule.steps
        optimiser.param_groups[0]["lr"] = schedule.learning_rate * (0.1 if late else 1)
        each = [network(setup.sampler(tiles, k, step)) for k, network in enumerate(pair)]
        projected = None
        if isinstance(each[0], tuple):
            each, projections = zip(*each, strict=True)
            projected = torch.stack(projections)[None]
        found, _ = objective(
            (torch.stack(list(each))[None], projected),
            torch.from_numpy(data.labels[labelled])[None],
            step / schedule.steps,
            rows=torch.from_numpy(labelled)[None],
            state=state,
        )
        optimiser.zero_grad()
        found.sum().backward()
        optimiser.step()
        curve.append(found[0].detach())
    return pair, torch.stack(curve).numpy()


def assert_close(found, expected, atol):
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_pairs_side_by_side_learn_what_a_slow_loop_teaches_each(make_setup, objective):
    contrasts = isinstance(objective, losses.DualViewTraining)
    setup = make_setup(projection=4 if contrasts else 0)
    order = np.random.default_rng(0).permutation(N)
    mixed = TrainingTiles(order, some_labelled(50).labels[order], NAMES, TRUTH[order])
    data = [some_labelled(), some_labelled(30, class_counts=(3.0, 9.0)), mixed]
    for own, trained in zip(data, train(setup, objective, *data), strict=True):
        pair, curve = slow_loop(setup, objective, own)
        np.testing.assert_allclose(trained.curve[["loss_a", "loss_b"]], curve, atol=1e-5)
        for found, expected in zip(trained.networks, pair, strict=True):
            assert not found.training
            assert_close(found.state_dict(), expected.state_dict(), atol=1e-5)


def test_plain_training_is_a_plain_loop_of_twenty_lines(make_setup):
    setup = make_setup(steps=30, learning_rate=0.1, balance_classes=False)
    (trained,) = train(setup, losses.Supervised(), some_labelled())
    rows, _ = draw_rows(some_labelled(), setup.schedule, uses_unlabelled=False, seed=0)
    for number, network in enumerate(networks.new_networks(setup.make_network, seed=0)):
        optimiser = torch.optim.SGD(
            network.parameters(), 0.1, momentum=0.9, weight_decay=setups.WEIGHT_DECAY
        )
        for step in range(30):
            optimiser.param_groups[0]["lr"] = 0.1 if step < 22.5 else 0.01
            logits = network(setup.sampler(rows[step], number, step))
            loss = F.cross_entropy(logits, torch.from_numpy(TRUTH[rows[step]]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert_close(trained.networks[number].state_dict(), network.state_dict(), atol=1e-5)


def test_what_is_in_a_folder_is_what_is_returned_and_the_curve_has_a_row_per_step(
    make_setup, tmp_path
):
    folder, setup = tmp_path / "kept", make_setup()
    training = setups.Training(setup, HCS, some_labelled(), 0, folder)
    (trained,) = setups.train_all([training])
    files = ["network_a.safetensors", "network_b.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == ["curve.parquet", *files]
    for network, again, file in zip(
        trained.networks, setups.load_networks(setup, folder), files, strict=True
    ):
        assert_close(load_file(folder / file), network.state_dict(), atol=0)
        assert_close(again.state_dict(), network.state_dict(), atol=0)
    curve = pd.read_parquet(folder / "curve.parquet")
    pd.testing.assert_frame_equal(curve, trained.curve)
    assert list(curve) == ["step", "loss_a", "loss_b", "confident", "precision"]
    assert curve.step.tolist() == list(range(45))


def test_a_training_goes_on_from_networks_and_leaves_them_as_they_were(make_setup):
    setup = make_setup()
    (first,) = train(setup, HCS, some_labelled())
    before = [dict(network.state_dict()) for network in first.networks]
    kept = [{k: v.clone() for k, v in own.items()} for own in before]
    onward = setups.Training(setup, HCS, some_labelled(), 0, start=first.networks)
    (second,) = setups.train_all([onward])
    for old, network, new in zip(kept, first.networks, second.networks, strict=True):
        assert_close(network.state_dict(), old, atol=0)
        assert not torch.equal(new.head.weight, network.head.weight)
    assert second.curve.loss_a[:5].mean() < first.curve.loss_a[:5].mean()


def test_trainings_of_other_objectives_setups_and_seeds_keep_their_order(make_setup):
    setup, other = make_setup(), make_setup(projection=4)
    trainings = [
        setups.Training(setup, losses.Supervised(), some_labelled(), 0),
        setups.Training(other, losses.DualViewTraining(), some_labelled(), 0),
        setups.Training(setup, losses.Supervised(), some_labelled(), 1),
        setups.Training(setup, HCS, some_labelled(N), 0),
        setups.Training(setup, HCS, some_labelled(30), 0),
    ]
    together = setups.train_all(trainings)
    for training, found in zip(trainings, together, strict=True):
        (alone,) = setups.train_all([training])
        assert_close(found.networks[0].state_dict(), alone.networks[0].state_dict(), atol=1e-5)
    assert together[3].curve.confident.isna().all() and together[4].curve.confident.notna().all()


def test_two_networks_start_and_end_apart_but_agree_on_the_tiles(make_setup):
    setup = make_setup(steps=200, batch_size=32)
    (trained,) = train(setup, HCS, some_labelled())
    a, b = (network.body[0].weight for network in trained.networks)
    assert (a - b).abs().max() > 0.01
    probs = networks.predict(trained.networks, setup.reader, np.arange(N))
    assert (probs.argmax(1) == TRUTH).mean() > 0.85


@pytest.mark.parametrize("off", [{"weight": 0.0}, {"threshold": 1.0}, {"warm_up": 1.0}])
def test_cross_supervision_that_is_off_is_plain_training(make_setup, off):
    setup, labelled = make_setup(), some_labelled()
    (found,) = train(setup, losses.HighConfidenceCrossSupervision(**off), labelled)
    only = TrainingTiles(labelled.tiles[:40], labelled.labels[:40], NAMES)
    (plain,) = train(setup, losses.Supervised(), only)
    for one, other in zip(found.networks, plain.networks, strict=True):
        assert_close(one.state_dict(), other.state_dict(), atol=1e-5)


@pytest.mark.slow
def test_cross_supervision_learns_more_than_plain_training_from_the_same_labels():
    """Two overlapping classes: 24 pseudo labels of 600, one in eight of them wrong."""
    schedule = Schedule(steps=200, batch_size=64, learning_rate=0.02)
    truth, gains = np.arange(600) % 2, []
    means = np.where(truth, 1.0, -1.0)[:, None] * 0.5
    head = partial(networks.frozen_head, np.zeros(16), np.ones(16), np.eye(16), 2)
    for seed in range(6):
        chance = np.random.default_rng(seed)
        features, unseen = (means + chance.normal(size=(600, 16)) for _ in range(2))
        views = torch.from_numpy(features + 0.5 * chance.normal(size=(20, 600, 16))).float()
        labels = np.full(600, UNLABELLED)
        labels[:24] = truth[:24]
        labels[:3] = 1 - truth[:3]
        data = TrainingTiles(np.arange(600), labels, ["a", "b"], truth)

        def view(tiles, network, step, views=views):
            return views[(7 * step + 3 * network + tiles) % len(views), tiles]

        scores = []
        for weight in (0.0, 0.5):
            pair = networks.new_networks(head, seed)
            objective = losses.HighConfidenceCrossSupervision(weight=weight)
            trainer.train(objective, [pair], Sampler(view), [data], schedule=schedule, seed=seed)
            read = torch.from_numpy(unseen).float()
            found = networks.predict(pair, lambda tiles, read=read: read[tiles], data.tiles)
            scores.append((found.argmax(1) == truth).mean())
        gains.append(scores[1] - scores[0])
    assert np.mean(gains) > 0.005 and (np.array(gains) > 0).sum() >= 4, gains


def test_dual_view_training_learns_from_three_labels(make_setup):
    """Fewer labels than half a batch; the projectors learn as well."""
    objective = losses.DualViewTraining(threshold=0.6, warm_up=0.2)
    setup = make_setup(projection=4, steps=60)
    (trained,) = train(setup, objective, some_labelled(3))
    probs = networks.predict(trained.networks, setup.reader, np.arange(N))
    assert (probs.argmax(1) == TRUTH).mean() > 0.7
    assert np.isfinite(trained.curve[["loss_a", "loss_b"]]).all(axis=None)
    assert trained.curve.confident.max() > 0.3
    starts = networks.new_networks(setup.make_network, 0)
    for network, start in zip(trained.networks, starts, strict=True):
        assert not torch.equal(network.projector.weight, start.projector.weight)


def test_the_curve_counts_confident_pseudo_labels_and_correct_ones():
    pseudo = torch.tensor([[[UNLABELLED, 0, 0, 0], [1, 0, UNLABELLED, UNLABELLED]]])
    found = trainer.confident_and_correct(pseudo, torch.zeros(1, 4))
    assert found.tolist() == [[5 / 8, 4 / 8]]
    unknown = trainer.confident_and_correct(pseudo, torch.full((1, 4), UNLABELLED))
    assert unknown[0, 0] == 5 / 8 and unknown[0, 1].isnan()
    curve = trainer.curve_frame(torch.tensor([[1.0, 2.0, 0.5, 0.25], [1.0, 2.0, 0.0, 0.0]]))
    assert curve.precision[0] == 0.5 and np.isnan(curve.precision[1])


def test_the_truth_changes_nothing_but_the_report(make_setup):
    labelled = some_labelled()
    unknown = TrainingTiles(labelled.tiles, labelled.labels, NAMES)
    (one,), (other,) = (train(make_setup(), HCS, data) for data in (labelled, unknown))
    assert_close(one.networks[0].state_dict(), other.networks[0].state_dict(), atol=0)
    assert one.curve.precision.notna().any() and other.curve.precision.isna().all()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(make_setup):
    setup, data = make_setup(), some_labelled()
    torch.rand(3)  # the state of the session's own random numbers does not matter
    before = torch.random.get_rng_state()
    (one,), (two,), (other,) = (train(setup, HCS, data, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert_close(one.networks[0].state_dict(), two.networks[0].state_dict(), atol=0)
    assert not torch.equal(one.networks[0].head.weight, other.networks[0].head.weight)


@pytest.mark.parametrize(("value", "step", "network"), [(np.nan, 7, 0), (np.inf, 33, 1)])
def test_a_loss_that_is_not_finite_is_named_and_leaves_nothing(
    make_setup, tmp_path, value, step, network
):
    setup = make_setup()

    def spoilt(tiles, networks_, own_step):
        views = setup.sampler.standardised(tiles, networks_, own_step)
        if own_step == step:
            views[:, network] *= value
        return views

    expected = f"network {'ab'[network]} is nan at step {step}: .*learning rate"
    bad = replace(setup, sampler=Sampler(spoilt))
    bad = setups.Training(bad, HCS, some_labelled(), 0, tmp_path / "out")
    with pytest.raises(FloatingPointError, match=expected):
        setups.train_all([bad])
    assert not (tmp_path / "out").exists()


def test_weights_spoilt_by_the_last_step_are_not_written(make_setup, tmp_path):
    setup = make_setup()

    def spoilt(tiles, networks_, step):
        views = setup.sampler.standardised(tiles, networks_, step)
        if step == setup.schedule.steps - 1:
            views[:, :, 8:] *= np.nan
        return views

    bad = replace(setup, sampler=Sampler(spoilt))
    bad = setups.Training(bad, HCS, some_labelled(), 0, tmp_path / "out")
    with pytest.raises(FloatingPointError, match=r"weight of network a .* at step 44"):
        setups.train_all([bad])
    assert not (tmp_path / "out").exists()
