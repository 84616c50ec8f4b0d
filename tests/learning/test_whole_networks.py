"""Whole networks: what they learn, that it can be cut off anywhere, what several processes do."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from cases import case
from safetensors.torch import load_file
from torch import nn

from lib import paths
from lib.labels import UNLABELLED
from lib.learning import backbones, losses, networks, samplers, trainer, whole_networks
from lib.learning.batches import Schedule, TrainingTiles

N, SIZE = 120, 6
CENTRES = np.random.default_rng(5).normal(size=(2, SIZE))
TRUTH = np.arange(N) % 2
FEATURES = CENTRES[TRUTH] + np.random.default_rng(6).normal(size=(N, SIZE))
SHORT = Schedule(steps=45, batch_size=16)


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(whole_networks, "CHECKPOINT_EVERY", 10)


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
    pair = networks.new_networks(network, seed)
    data = data or some_labelled()
    fixed = {"schedule": schedule, "seed": seed, "folder": folder}
    return whole_networks.train(objective, pair, sampler, data, **fixed)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*")}


def weights(folder):
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_close(found, expected, atol):
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)


@pytest.mark.slow
def test_a_network_learns_pixels(tmp_path):
    noise = np.random.default_rng(0).normal(scale=25, size=(N, 37, 37, 3))
    pixels = np.clip(np.where(TRUTH, 150, 90)[:, None, None, None] + noise, 0, 255)
    np.save(tmp_path / "pixels.npy", pixels.astype(np.uint8))
    trained, curve = train(
        tmp_path / "out",
        network=partial(backbones.fine_tune_network, 2),
        sampler=samplers.pixel_views(tmp_path / "pixels.npy", 32, seed=0),
        schedule=Schedule(steps=30, batch_size=32, learning_rate=0.01),
    )
    read = samplers.plain_pixels(tmp_path / "pixels.npy", 32)
    np.testing.assert_allclose(networks.predict(trained, read, np.arange(N)).sum(1), 1, atol=1e-5)
    loss = curve[["loss_a", "loss_b"]].mean(axis=1)
    assert loss[-8:].mean() < 0.6 * loss[:5].mean()


def test_heads_learn_what_the_trainer_of_heads_teaches(tmp_path):
    """The two trainers draw the same batches and minimise the same."""
    head = partial(networks.frozen_head, np.zeros(SIZE), np.ones(SIZE), np.eye(SIZE), 2)
    trained, curve = train(tmp_path, losses.Supervised(), some_labelled(N), network=head)
    pair = networks.new_networks(head, 0)

    def both(tiles, network, step):
        return torch.stack([draw(tiles[0, 0], k, step) for k in range(2)])[None]

    fixed = {"schedule": SHORT, "seed": 0}
    both = SimpleNamespace(standardised=both)
    (found,) = trainer.train(losses.Supervised(), [pair], both, [some_labelled(N)], **fixed)
    pd.testing.assert_frame_equal(found, curve, atol=1e-5, check_exact=False)
    for one, other in zip(trained, pair, strict=True):
        assert_close(one.state_dict(), other.state_dict(), atol=1e-5)


# --- the same again, and after an interruption ---------------------------------------------------


def dropping_network():
    return nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


OBJECTIVES = [
    losses.HighConfidenceCrossSupervision(threshold=0.6, warm_up=0.2),
    losses.EarlyLearningRegularisation(),
    losses.DualViewTraining(0.6, alignment=0.5),
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
            assert set(contents(folder)) == ({whole_networks.CHECKPOINT} if stop >= 10 else set())
            train(folder, objective, network=network, sampler=breaking)
            assert steps.count(0) == 2 * (1 if stop >= 10 else 2)
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
import test_whole_networks as t

t.whole_networks.CHECKPOINT_EVERY = 10

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
    assert set(contents(tmp_path / "killed")) == {whole_networks.CHECKPOINT}
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


def test_what_cannot_be_divided_among_processes_is_refused():
    divide = whole_networks.check_division
    with pytest.raises(ValueError, match="batch_size=10 must divide among 2"):
        divide(losses.Supervised(), {}, Schedule(batch_size=10), 2)
    state = {"targets": torch.zeros(1)}
    with pytest.raises(ValueError, match="EarlyLearningRegularisation keeps a state"):
        divide(OBJECTIVES[1], state, Schedule(), 2)
    divide(OBJECTIVES[1], state, Schedule(), 1)
