"""Two training setups: heads on frozen features, and whole networks on pixels."""

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

from lib.artefacts import scratch_folder
from lib.learning import networks, samplers, trainer, whole_networks
from lib.learning.backbones import fine_tune_network
from lib.learning.batches import Schedule, TrainingTiles
from lib.learning.losses import Objective
from lib.learning.samplers import PlainReader, ViewSampler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TrainingSetup:
    """Networks, views and schedule of a training: all but the objective and the labels.

    make_network: called once per network, each time with a random state of its own; sampler: gives
    each network its view of the tiles of a batch; reader: gives the plain tiles to predict;
    side_by_side: whether the networks are heads, which `trainer.train` trains many at a time.
    """

    make_network: Callable[[], nn.Module]
    sampler: ViewSampler
    reader: PlainReader
    schedule: Schedule
    side_by_side: bool = False


def frozen(
    run: Path, tiles: np.ndarray, n_classes: int, *, steps: int, seed: int, projection: int = 0
) -> TrainingSetup:
    """Small heads on the features that the frozen VLM gave to the random views. Needs no GPU.

    run: folder with view_features.npy [V, all tiles, E] and backbone_features.npy [all tiles, E].
    The features are standardised by those of `tiles` [N], the training tiles, alone.
    """
    file = run / "view_features.npy"
    view_features = np.load(file, mmap_mode="r", allow_pickle=False)
    mean, std = networks.feature_statistics(view_features, tiles)
    return TrainingSetup(
        partial(networks.frozen_head, mean, std, n_classes, projection=projection),
        samplers.feature_views(file, seed=seed),
        samplers.plain_features(run / "backbone_features.npy"),
        Schedule(steps=steps),
        side_by_side=True,
    )


def fine_tune(
    pixels_file: Path, size: int, n_classes: int, *, steps: int, seed: int, projection: int = 0
) -> TrainingSetup:
    """Whole ImageNet networks on augmented pixels, as in the papers; meant for a GPU.

    pixels_file: decoded tiles; size: of the input in pixels. A third of the heads'
    learning rate and half their batch, so that a few hundred steps are feasible on a CPU.
    """
    return TrainingSetup(
        partial(fine_tune_network, n_classes, projection=projection),
        samplers.pixel_views(pixels_file, size, seed=seed, device=DEVICE),
        samplers.plain_pixels(pixels_file, size, device=DEVICE),
        Schedule(steps=steps, learning_rate=0.01, batch_size=64),
    )


@dataclass(frozen=True)
class Training:
    """One training: its setup, what it minimises and the labels.

    folder: where networks and curve are kept; a training of whole networks continues there. start:
    networks to go on from; by default new ones.
    """

    setup: TrainingSetup
    objective: Objective
    data: TrainingTiles
    seed: int
    folder: Path | None = None
    start: Sequence[nn.Module] = ()

    def runs_beside(self, number: int) -> Hashable:
        """What is equal for trainings that run in one computation. number: of this training."""
        both = self.objective.uses_unlabelled and len(self.data.unlabelled) > 0
        alone = None if self.setup.side_by_side else number
        return self.setup, self.objective, self.seed, both, alone


@dataclass(frozen=True)
class Trained:
    """Both networks in evaluation mode, the curve (see `trainer.train`), and how long it took.

    seconds: of a share in a computation where several ran in it.
    """

    networks: Sequence[nn.Module]
    curve: pd.DataFrame
    seconds: float


def train_all(trainings: Sequence[Training]) -> list[Trained]:
    """Train all, those of one setup and objective in one computation where they are heads.

    Raises FloatingPointError, see `trainer.train`.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, training in enumerate(trainings):
        groups.setdefault(training.runs_beside(number), []).append(number)
    done: dict[int, Trained] = {}
    for numbers in groups.values():
        together = [trainings[number] for number in numbers]
        done |= zip(numbers, _train_together(together), strict=True)
    return [done[number] for number in range(len(trainings))]


def _train_together(together: Sequence[Training]) -> list[Trained]:
    started, first = time.perf_counter(), together[0]
    setup, objective = first.setup, first.objective
    pairs = [
        [*copy.deepcopy(own.start)] or networks.new_networks(setup.make_network, first.seed)
        for own in together
    ]
    fixed: dict[str, Any] = {"schedule": setup.schedule, "seed": first.seed}
    if setup.side_by_side:
        data = [own.data for own in together]
        for network in (network for pair in pairs for network in pair):
            network.to(DEVICE)
        curves = trainer.train(objective, pairs, setup.sampler, data, **fixed)
        for own, pair, curve in zip(together, pairs, curves, strict=True):
            if own.folder is not None:
                networks.save_networks(pair, curve, own.folder)
    else:
        with ExitStack() as stack:
            folder = first.folder or stack.enter_context(scratch_folder())
            pair, curve = whole_networks.train(
                objective, pairs[0], setup.sampler, first.data, folder=folder, **fixed
            )
        pairs, curves = [pair], [curve]
    seconds = (time.perf_counter() - started) / len(together)
    return [Trained(pair, curve, seconds) for pair, curve in zip(pairs, curves, strict=True)]


def load_networks(setup: TrainingSetup, folder: Path) -> list[nn.Module]:
    """The networks that a training has left in a folder, in evaluation mode."""
    loaded = []
    for file in sorted(folder.glob("network_*.safetensors")):
        network = setup.make_network()
        network.load_state_dict(load_file(file))
        loaded.append(network.eval())
    return loaded


def fit_predict(
    objective: Objective, data: TrainingTiles, tiles: np.ndarray, *, setup: TrainingSetup, seed: int
) -> np.ndarray:
    """Train, and predict `tiles`: probabilities, float32 [N, C]. The networks are not kept."""
    (trained,) = train_all([Training(setup, objective, data, seed)])
    return networks.predict(trained.networks, setup.reader, tiles)
