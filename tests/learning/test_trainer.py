"""The trainer: what it learns, that it can be cut off anywhere, and what it says when it cannot."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import case
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from lib import paths
from lib.labels import UNLABELLED
from lib.learning import backbones, losses, networks, samplers, trainer
from lib.learning.trainer import Schedule, TrainingTiles

N, SIZE = 120, 6
CENTRES = np.random.default_rng(5).normal(size=(2, SIZE))
TRUTH = np.arange(N) % 2
FEATURES = CENTRES[TRUTH] + np.random.default_rng(6).normal(size=(N, SIZE))
SHORT = Schedule(steps=45, batch_size=16, checkpoint_every=10)


def draw(tiles, network, step):
    """A view: the features and a little noise that network and step alone decide."""
    noise = np.random.default_rng([network, step]).normal(scale=0.1, size=(N, SIZE))
    return torch.from_numpy(FEATURES[tiles] + noise[tiles]).float()


def read(tiles):
    return torch.from_numpy(FEATURES[tiles]).float()


def small_network(projection=0):
    body = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU())
    return networks.Classifier(body, 8, 2, torch.zeros(SIZE), torch.ones(SIZE), projection)


def some_labelled(n=40):
    labels = np.where(np.arange(N) < n, TRUTH, UNLABELLED)
    return TrainingTiles(np.arange(N), labels, ["normal", "tumour"], TRUTH)


def train(
    folder,
    objective=None,
    data=None,
    *,
    sampler=draw,
    network=small_network,
    schedule=SHORT,
    seed=0,
):
    objective = objective or losses.HighConfidenceCrossSupervision(threshold=0.6, warm_up=0.2)
    return trainer.train(
        objective,
        network,
        sampler,
        data or some_labelled(),
        schedule=schedule,
        seed=seed,
        folder=folder,
    )


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*")}


def weights(folder):
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_close(found, expected, atol):
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)


# --- what is learnt ------------------------------------------------------------------------------


def test_the_files_hold_the_networks_and_the_curve_that_are_returned(tmp_path):
    trained, curve = train(tmp_path)
    assert set(contents(tmp_path)) == {
        "network_a.safetensors",
        "network_b.safetensors",
        "curve.parquet",
    }
    for network, saved in zip(trained, weights(tmp_path).values(), strict=True):
        assert not network.training
        assert_close(saved, network.state_dict(), atol=0)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "curve.parquet"), curve)
    assert list(curve) == ["step", "loss_a", "loss_b", "confident", "precision"]
    assert curve.step.tolist() == list(range(SHORT.steps))


def test_two_networks_start_and_end_apart_but_agree_on_the_tiles(tmp_path):
    trained, _ = train(tmp_path, schedule=Schedule(steps=200, batch_size=32))
    a, b = (network.body[0].weight for network in trained)
    assert (a - b).abs().max() > 0.01
    probs = networks.predict(trained, read, np.arange(N))
    assert (probs.argmax(1) == TRUTH).mean() > 0.85


def test_plain_training_is_a_plain_loop(tmp_path):
    """The trainer against twenty lines of PyTorch."""
    schedule = Schedule(steps=30, batch_size=16, learning_rate=0.1, balance_classes=False)
    found, curve = train(tmp_path, losses.Supervised(), schedule=schedule)
    starts = trainer.new_networks(small_network, 2, seed=0)
    for number, (letter, network) in enumerate(zip("ab", starts, strict=True)):
        optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=8e-4)
        for step in range(30):
            chance = np.random.default_rng([0, step])
            rows = chance.choice(np.arange(40), 8, replace=False)
            optimiser.param_groups[0]["lr"] = 0.1 if step < 22.5 else 0.01
            loss = F.cross_entropy(network(draw(rows, number, step)), torch.from_numpy(TRUTH[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert curve[f"loss_{letter}"][step] == pytest.approx(loss.item(), abs=1e-6)
        assert_close(found[number].state_dict(), network.state_dict(), atol=1e-6)


def test_classes_are_drawn_as_often_whatever_their_number(tmp_path):
    drawn = []

    class Watching(losses.Supervised):
        def forward(self, outputs, labels, rows, progress):
            drawn.extend(labels.tolist())
            return super().forward(outputs, labels, rows, progress)

        def __deepcopy__(self, memo):
            return self

    labels = np.where(np.arange(N) < 40, np.arange(N) < 4, UNLABELLED).astype(int)
    data = TrainingTiles(np.arange(N), labels, ["many", "few"])
    for balanced, expected in ((True, 0.5), (False, 0.1)):
        drawn.clear()
        schedule = Schedule(steps=60, batch_size=32, balance_classes=balanced)
        train(tmp_path / str(balanced), Watching(), data, schedule=schedule)
        assert np.mean(drawn) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("off", [{"weight": 0.0}, {"threshold": 1.0}, {"warm_up": 1.0}])
def test_cross_supervision_that_is_off_is_plain_training(tmp_path, off):
    train(tmp_path / "off", losses.HighConfidenceCrossSupervision(**off))
    labelled = some_labelled()
    only = TrainingTiles(labelled.tiles[:40], labelled.labels[:40], labelled.class_names)
    train(tmp_path / "plain", losses.Supervised(), only)
    found, plain = weights(tmp_path / "off"), weights(tmp_path / "plain")
    assert_close(found["network_a.safetensors"], plain["network_a.safetensors"], atol=1e-6)


def test_swapped_networks_end_swapped(tmp_path):
    def seeded(order):
        seeds = iter(order)
        return lambda: (torch.manual_seed(next(seeds)), small_network())[1]

    train(tmp_path / "ab", network=seeded([1, 2]))
    train(tmp_path / "ba", network=seeded([2, 1]), sampler=lambda t, n, s: draw(t, 1 - n, s))
    ab, ba = (list(weights(tmp_path / name).values()) for name in ("ab", "ba"))
    for one, other in zip(ab, ba[::-1], strict=True):
        assert_close(one, other, atol=1e-6)


def noisy_problem(seed):
    """Two overlapping classes: 24 pseudo labels of 600, one in eight of them wrong."""
    chance = np.random.default_rng(seed)
    truth = np.arange(600) % 2
    features = np.where(truth, 1.0, -1.0)[:, None] * 0.5 + chance.normal(size=(600, 16))
    labels = np.full(600, UNLABELLED)
    labels[:24] = truth[:24]
    labels[:3] = 1 - truth[:3]

    def view(tiles, network, step):
        noise = np.random.default_rng([seed, network, step]).normal(size=(len(tiles), 16))
        return torch.from_numpy(features[tiles] + 0.5 * noise).float()

    unseen = np.where(truth, 1.0, -1.0)[:, None] * 0.5 + chance.normal(size=(600, 16))

    def read_unseen(tiles):
        return torch.from_numpy(unseen[tiles]).float()

    return TrainingTiles(np.arange(600), labels, ["a", "b"], truth), view, read_unseen


def bare_head():
    return networks.Classifier(nn.Identity(), 16, 2, torch.zeros(16), torch.ones(16))


@pytest.mark.slow
def test_cross_supervision_learns_more_than_plain_training_from_the_same_labels(tmp_path):
    schedule = Schedule(steps=200, batch_size=64, learning_rate=0.02, checkpoint_every=1000)
    scores = {"plain": [], "hcs": []}
    for seed in range(6):
        data, view, read_unseen = noisy_problem(seed)
        for name, weight in (("plain", 0.0), ("hcs", 0.5)):
            trained, _ = train(
                tmp_path,
                losses.HighConfidenceCrossSupervision(weight=weight),
                data,
                sampler=view,
                network=bare_head,
                schedule=schedule,
                seed=seed,
            )
            found = networks.predict(trained, read_unseen, data.tiles)
            scores[name].append((found.argmax(1) == data.truth).mean())
    gain = np.subtract(scores["hcs"], scores["plain"])
    assert gain.mean() > 0.005 and (gain > 0).sum() >= 5, scores


def test_dual_view_training_learns_from_three_labels(tmp_path):
    """Fewer labels than half a batch; the projectors learn as well."""
    objective = losses.DualViewTraining(threshold=0.6, warm_up=0.2)
    make_network = partial(small_network, projection=4)
    schedule = Schedule(steps=60, batch_size=16)
    trained, curve = train(
        tmp_path, objective, some_labelled(3), network=make_network, schedule=schedule
    )
    probs = networks.predict(trained, read, np.arange(N))
    assert (probs.argmax(1) == TRUTH).mean() > 0.7
    assert np.isfinite(curve[["loss_a", "loss_b"]]).all(axis=None) and curve.confident.max() > 0.3
    starts = trainer.new_networks(make_network, 2, seed=0)
    for network, start, letter in zip(trained, starts, "ab", strict=True):
        assert not torch.equal(network.projector.weight, start.projector.weight)
        saved = weights(tmp_path)[f"network_{letter}.safetensors"]
        assert torch.equal(saved["projector.weight"], network.projector.weight)


@pytest.mark.slow
def test_both_kinds_of_network_go_through_the_same_trainer(tmp_path):
    """Pixels and whole networks, features and heads."""
    noise = np.random.default_rng(0).normal(scale=25, size=(N, 37, 37, 3))
    pixels = np.clip(np.where(TRUTH, 150, 90)[:, None, None, None] + noise, 0, 255)
    np.save(tmp_path / "store.npy", pixels.astype(np.uint8))
    view_features = FEATURES + np.random.default_rng(0).normal(scale=0.1, size=(3, N, SIZE))
    np.save(tmp_path / "view_features.npy", view_features.astype(np.float16))
    np.save(tmp_path / "backbone_features.npy", FEATURES.astype(np.float16))
    statistics = networks.feature_statistics(view_features, np.arange(N))
    kinds = {
        "frozen": (
            lambda: networks.frozen_head(*statistics, 2, hidden=16),
            samplers.feature_views(tmp_path / "view_features.npy", seed=0),
            samplers.plain_features(tmp_path / "backbone_features.npy"),
            Schedule(steps=60),
        ),
        "fine-tune": (
            lambda: backbones.fine_tune_network(2),
            samplers.pixel_views(tmp_path / "store.npy", 32, seed=0),
            samplers.plain_pixels(tmp_path / "store.npy", 32),
            Schedule(steps=10, batch_size=32, learning_rate=0.01, checkpoint_every=5),
        ),
    }
    for name, (network, view, plain, schedule) in kinds.items():
        found, curve = train(tmp_path / name, network=network, sampler=view, schedule=schedule)
        probs = networks.predict(found, plain, np.arange(N))
        np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
        loss = curve[["loss_a", "loss_b"]].mean(axis=1)
        assert loss[-3:].mean() < 0.9 * loss[:3].mean(), name


# --- batches -------------------------------------------------------------------------------------


def seen_batches(folder, data, batch_size=16, steps=30, **settings):
    batches = []

    def spy(tiles, network, step):
        if network == 0:
            batches.append(tiles)
        return draw(tiles, network, step)

    train(
        folder,
        data=data,
        sampler=spy,
        schedule=Schedule(steps=steps, batch_size=batch_size, **settings),
    )
    return batches


def test_a_batch_is_half_labelled_and_half_not_without_repetition(tmp_path):
    batches = seen_batches(tmp_path, some_labelled(40), steps=200, balance_classes=False)
    for tiles in batches:
        assert (tiles[:8] < 40).all() and (tiles[8:] >= 40).all() and len(set(tiles)) == 16
    counts = np.bincount(np.concatenate([tiles[:8] for tiles in batches]), minlength=40)
    assert counts.min() > 20 and counts.max() < 65


def test_few_labelled_or_unlabelled_tiles_fill_their_half(tmp_path):
    for n in (2, N - 3):
        for tiles in seen_batches(tmp_path, some_labelled(n)):
            assert ((tiles[:8] < n).all(), (tiles[8:] >= n).all(), len(tiles)) == (True, True, 16)


def test_tile_numbers_need_not_be_row_numbers(tmp_path):
    data = some_labelled()
    order = np.random.default_rng(0).permutation(N)
    mixed = TrainingTiles(order, data.labels[order], data.class_names, TRUTH[order])
    for tiles in seen_batches(tmp_path, mixed):
        assert (tiles[:8] < 40).all() and (tiles[8:] >= 40).all()


def test_without_unlabelled_tiles_it_is_training_on_the_labels(tmp_path):
    with np.errstate(all="raise"):
        trained, curve = train(tmp_path, data=some_labelled(N))
    assert len(trained) == 2 and curve.confident.isna().all() and curve.precision.isna().all()
    assert np.isfinite(curve.loss_a).all()


# --- reports -------------------------------------------------------------------------------------


def test_the_curve_counts_confident_pseudo_labels_and_right_ones(tmp_path):
    class Fixed(nn.Module):
        networks = 1
        uses_unlabelled = True

        def forward(self, outputs, labels, rows, progress):
            pseudo = torch.tensor([[UNLABELLED, 0, 0, 0, 1, UNLABELLED, UNLABELLED, UNLABELLED]])
            return outputs[0].sum()[None] * 0, pseudo

    truth = np.zeros(N, np.int64)
    data = TrainingTiles(np.arange(N), some_labelled().labels, ["normal", "tumour"], truth)
    _, curve = train(tmp_path, Fixed(), data)
    assert (curve.confident == 4 / 8).all() and (curve.precision == 3 / 4).all()
    unknown = TrainingTiles(data.tiles, data.labels, data.class_names)
    _, curve = train(tmp_path, Fixed(), unknown)
    assert (curve.confident == 4 / 8).all() and curve.precision.isna().all()


def test_the_truth_changes_nothing_but_the_report(tmp_path):
    data = some_labelled()
    train(tmp_path / "known")
    train(tmp_path / "unknown", data=TrainingTiles(data.tiles, data.labels, data.class_names))
    known, unknown = contents(tmp_path / "known"), contents(tmp_path / "unknown")
    assert known.pop("curve.parquet") != unknown.pop("curve.parquet")
    assert known == unknown


def test_the_rate_falls_to_a_tenth_after_three_quarters(tmp_path):
    class Slope(nn.Module):
        networks = 1
        uses_unlabelled = True

        def forward(self, outputs, labels, rows, progress):
            return outputs[0].mean()[None], labels.new_full(
                (1, len(outputs[0]) - len(labels)), UNLABELLED
            )

    class Height(nn.Module):
        def __init__(self):
            super().__init__()
            self.height = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, inputs):
            return self.height.expand(len(inputs))

    schedule = Schedule(steps=40, learning_rate=1.0, momentum=0, weight_decay=0)
    (network,), _ = train(tmp_path, Slope(), network=Height, schedule=schedule)
    assert network.height.item() == pytest.approx(-(30 * 1 + 10 * 0.1))


# --- the same again, and after an interruption ---------------------------------------------------


def dropping_network():
    return nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


OBJECTIVES = [
    losses.HighConfidenceCrossSupervision(threshold=0.6, warm_up=0.2),
    losses.EarlyLearningRegularisation(N, 2),
    losses.DualViewTraining(0.6, alignment=0.5, label_counts=(3, 9)),
]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.rand(len(name))  # the state of the session's own random numbers does not matter
        before = torch.random.get_rng_state()
        train(tmp_path / name, network=dropping_network, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert all(one[name] != other[name] for name in one)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, objective):
    contrasts = isinstance(objective, losses.DualViewTraining)
    network = partial(small_network, projection=4) if contrasts else dropping_network
    train(tmp_path / "whole", objective, network=network)
    for stop in (3, 10, 27, 44):
        steps, folder = [], tmp_path / str(stop)

        def breaking(tiles, network, step, steps=steps, stop=stop):
            steps.append(step)
            if step == stop and steps.count(stop) == 1:
                raise KeyboardInterrupt
            return draw(tiles, network, step)

        with case(stop):
            with pytest.raises(KeyboardInterrupt):
                train(folder, objective, network=network, sampler=breaking)
            assert set(contents(folder)) == ({trainer.CHECKPOINT} if stop >= 10 else set())
            train(folder, objective, network=network, sampler=breaking)
            assert steps.count(0) == objective.networks * (1 if stop >= 10 else 2)
            assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"schedule": Schedule(steps=46, batch_size=16)},
        {"data": some_labelled(41)},
        {"network": dropping_network},
        {"objective": losses.HighConfidenceCrossSupervision(threshold=0.7)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpoint_of_another_run_is_not_continued(tmp_path, other):
    def breaking(tiles, network, step):
        if step == 15:
            raise KeyboardInterrupt
        return draw(tiles, network, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", sampler=breaking)
    train(tmp_path / "run", **other)
    train(tmp_path / "fresh", **other)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


SCRIPT = """
import os, signal, sys
from pathlib import Path
import test_trainer as t

def draw(tiles, network, step):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return t.draw(tiles, network, step)

t.train(Path(sys.argv[1]), sampler=draw)
"""


def run_script(folder, *launcher, stop=-1):
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    places = [here, here.parent, paths.ROOT, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, places))
    threads = str(torch.get_num_threads())  # equal bytes can be asked of equal threads alone
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
    command = [sys.executable, *launcher, script, folder, str(stop)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path):
    killed = run_script(tmp_path / "killed", stop=33)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert set(contents(tmp_path / "killed")) == {trainer.CHECKPOINT}
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_write_once(tmp_path):
    launcher = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1".split()
    launcher += "--mixed_precision no --dynamo_backend no --main_process_port 0".split()
    done = run_script(tmp_path / "two", *launcher)
    assert done.returncode == 0, done.stderr
    _, curve = train(tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert set(contents(tmp_path / "two")) == set(contents(tmp_path / "one"))
    for name in one:
        assert_close(two[name], one[name], atol=1e-4)
    found = pd.read_parquet(tmp_path / "two" / "curve.parquet")
    pd.testing.assert_frame_equal(found, curve, atol=1e-4, check_exact=False)
    assert not done.stderr.count("step/s")  # no progress bar where nobody watches


# --- when things go wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "step", "network"), [(np.nan, 7, 0), (np.inf, 33, 1)])
def test_a_loss_that_is_not_finite_is_named_and_leaves_nothing(tmp_path, value, step, network):
    def spoilt(tiles, own_network, own_step):
        views = draw(tiles, own_network, own_step)
        return views * value if (own_network, own_step) == (network, step) else views

    expected = f"network {'ab'[network]} is nan at step {step}: .*learning rate"
    with pytest.raises(FloatingPointError, match=expected):
        train(tmp_path, sampler=spoilt)
    assert contents(tmp_path) == {}


def test_weights_spoilt_by_the_last_step_are_not_written(tmp_path):
    def spoilt(tiles, network, step):
        views = draw(tiles, network, step)
        views[8:] *= np.nan if step == SHORT.steps - 1 else 1
        return views

    with pytest.raises(FloatingPointError, match=r"weight of network a .* at step 44"):
        train(tmp_path, sampler=spoilt)
    assert contents(tmp_path) == {}


def test_no_labelled_tile_is_an_error():
    with pytest.raises(ValueError, match="no tile is labelled"):
        TrainingTiles(np.arange(3), np.full(3, UNLABELLED), ["a", "b"])


def test_a_class_without_labels_is_named():
    with pytest.warns(UserWarning, match="no labelled tile of class b, d"):
        TrainingTiles(np.arange(3), np.array([0, 2, UNLABELLED]), ["a", "b", "c", "d"])


@pytest.mark.parametrize("labels", [[0, 2, 1], [0, -2, 1], [0, 1]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        TrainingTiles(np.arange(3), np.array(labels), ["a", "b"])


def test_what_cannot_be_divided_among_processes_is_refused():
    with pytest.raises(ValueError, match="batch_size=10 must divide among 2"):
        trainer.check_division(losses.Supervised(), Schedule(batch_size=10), 2)
    with pytest.raises(ValueError, match="EarlyLearningRegularisation keeps a state"):
        trainer.check_division(OBJECTIVES[1], Schedule(), 2)
    trainer.check_division(OBJECTIVES[1], Schedule(), 1)
