"""Two training setups: heads on frozen features, and whole networks on pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

from lib.artefacts import scratch_folder
from lib.labels import missing_classes_expected
from lib.learning import networks, samplers
from lib.learning.backbones import fine_tune_network
from lib.learning.losses import Objective
from lib.learning.samplers import PlainReader, ViewSampler
from lib.learning.trainer import Schedule, TrainingTiles, train


@dataclass(frozen=True)
class TrainingSetup:
    """Networks, views and schedule of a training: all but the objective and the labels.

    See `trainer.train`; `reader` gives the plain tiles to predict.
    """

    make_network: Callable[[], nn.Module]
    sampler: ViewSampler
    reader: PlainReader
    schedule: Schedule


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
    )


def fine_tune(
    pixels_file: Path, size: int, n_classes: int, *, steps: int, seed: int, projection: int = 0
) -> TrainingSetup:
    """Whole ImageNet networks on augmented pixels, as in the papers; meant for a GPU.

    pixels_file: decoded tiles; size: of the input in pixels. A third of the heads'
    learning rate and half their batch, so that a few hundred steps are feasible on a CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TrainingSetup(
        partial(fine_tune_network, n_classes, projection=projection),
        samplers.pixel_views(pixels_file, size, seed=seed, device=device),
        samplers.plain_pixels(pixels_file, size, device=device),
        Schedule(steps=steps, learning_rate=0.01, batch_size=64),
    )


def load_networks(setup: TrainingSetup, folder: Path) -> list[nn.Module]:
    """The networks that `trainer.train` saved in a folder, in evaluation mode."""
    loaded = []
    for file in sorted(folder.glob("network_*.safetensors")):
        network = setup.make_network()
        network.load_state_dict(load_file(file))
        loaded.append(network.eval())
    return loaded


def train_with(
    objective: Objective, setup: TrainingSetup, data: TrainingTiles, folder: Path, *, seed: int
) -> tuple[list[nn.Module], pd.DataFrame]:
    """Networks and curve of a training in a setup, see `trainer.train`."""
    return train(
        objective,
        setup.make_network,
        setup.sampler,
        data,
        schedule=setup.schedule,
        seed=seed,
        folder=folder,
    )


def fit(
    objective: Objective,
    setup: TrainingSetup,
    tiles: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    folder: Path,
    *,
    seed: int,
) -> list[nn.Module]:
    """Networks that learn pseudo labels, see `trainer.train`. A class without any is no warning.

    It is one of the alarms. tiles, labels: [N], `UNLABELLED` without one; folder: for the networks.
    """
    with missing_classes_expected():
        data = TrainingTiles(tiles, labels, class_names)
    return train_with(objective, setup, data, folder, seed=seed)[0]


def fit_predict(
    objective: Objective, data: TrainingTiles, tiles: np.ndarray, *, setup: TrainingSetup, seed: int
) -> np.ndarray:
    """Train, and predict `tiles`: probabilities, float32 [N, C]. The networks are not kept."""
    with scratch_folder() as folder:
        trained, _ = train_with(objective, setup, data, folder, seed=seed)
    return networks.predict(trained, setup.reader, tiles)
