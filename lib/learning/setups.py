"""Two training setups: heads on frozen features, and whole networks on pixels."""

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

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


# Chosen by `make choose`, where heads with it are as good as the probe with all labels, and better
# with few; the papers' 8e-4 is for whole networks.
WEIGHT_DECAY = 0.1
PROBE_C = 0.003  # inverse of the regularisation of the linear probe, chosen likewise
NEVER = -1e4  # logit of a class that is not known


@dataclass(frozen=True)
class TrainingSetup:
    """Networks, views and schedule of a training: all but the objective and the labels.

    make_network: called once per network, each time with a random state of its own; sampler: gives
    each network its view of the tiles of a batch; reader: gives the tiles to predict;
    side_by_side: whether the networks are heads, which `trainer.train` trains many at a time; fit:
    gives what is taught in one go, without steps, views or objective.
    """

    make_network: Callable[[], nn.Module]
    sampler: ViewSampler
    reader: PlainReader
    schedule: Schedule
    side_by_side: bool = False
    fit: Callable[[TrainingTiles], Sequence[nn.Module]] | None = None


def frozen(
    run: Path, tiles: np.ndarray, n_classes: int, *, steps: int, seed: int, projection: int = 0
) -> TrainingSetup:
    """Small heads on the features that the frozen VLM gave to the random views. Needs no GPU.

    run: folder with view_features.npy [V, all tiles, E] and their means mean_features.npy
    [all tiles, E], which are read to predict. The features are standardised by those of `tiles`
    [N], the training tiles, alone.
    """
    sampler = samplers.FeatureViews(run / "view_features.npy", tiles, seed=seed)
    seen = sampler.inputs
    given = seen.mean, seen.std, seen.basis, n_classes
    return TrainingSetup(
        partial(networks.frozen_head, *given, projection=projection),
        sampler,
        samplers.plain_features(run / "mean_features.npy"),
        Schedule(steps=steps, weight_decay=WEIGHT_DECAY),
        side_by_side=True,
    )


def linear_probe(
    run: Path, tiles: np.ndarray, n_classes: int, *, c: float = PROBE_C
) -> TrainingSetup:
    """Logistic regression on the mean of the views: what a user does in ten lines.

    Every class weighs as much. run: folder with mean_features.npy [all tiles, E], standardised by
    those of `tiles` [N]; c: inverse of the regularisation.
    """
    file = run / "mean_features.npy"
    statistics = samplers.feature_statistics(samplers.mapped(file)[None], tiles)
    mean, std = map(torch.from_numpy, statistics)
    make = partial(networks.Classifier, nn.Identity(), len(mean), n_classes, mean, std)
    reader = samplers.plain_features(file)
    return TrainingSetup(
        make,
        lambda tiles, *_: reader(tiles),
        reader,
        Schedule(),
        fit=partial(_probe, make, reader, c),
    )


def _probe(
    make: Callable[[], networks.Classifier], reader: PlainReader, c: float, data: TrainingTiles
) -> list[nn.Module]:
    """A network with the weights of the regression; classes without a label are never predicted."""
    from sklearn.linear_model import LogisticRegression

    network, labels = make().eval(), data.labels[data.labelled]
    known = np.unique(labels)
    weights, bias = np.zeros((len(known), network.head.in_features)), np.zeros(len(known))
    if len(known) > 1:
        inputs = network.standardised(reader(data.tiles[data.labelled])).numpy()
        probe = LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
        probe.fit(inputs, labels)
        weights[-len(probe.coef_) :], bias[-len(probe.coef_) :] = probe.coef_, probe.intercept_
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(NEVER)
        network.head.weight[known] = torch.from_numpy(weights).float()
        network.head.bias[known] = torch.from_numpy(bias).float()
    return [network]


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
        [*setup.fit(own.data)]
        if setup.fit is not None
        else [*copy.deepcopy(own.start)] or networks.new_networks(setup.make_network, first.seed)
        for own in together
    ]
    fixed: dict[str, Any] = {"schedule": setup.schedule, "seed": first.seed}
    if setup.fit is not None:
        curves = [trainer.curve_frame(torch.zeros(0, 4)) for _ in together]
    elif setup.side_by_side:
        data = [own.data for own in together]
        for network in (network for pair in pairs for network in pair):
            network.to(DEVICE)
        sampler = cast(samplers.FeatureViews, setup.sampler)
        curves = trainer.train(objective, pairs, sampler, data, **fixed)
    else:
        with ExitStack() as stack:
            folder = first.folder or stack.enter_context(scratch_folder())
            pair, curve = whole_networks.train(
                objective, pairs[0], setup.sampler, first.data, folder=folder, **fixed
            )
        return [Trained(pair, curve, time.perf_counter() - started)]
    for own, pair, curve in zip(together, pairs, curves, strict=True):
        if own.folder is not None:
            networks.save_networks(pair, curve, own.folder)
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
