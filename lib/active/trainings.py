"""How the networks of a loop are trained, by name, and what a loop's labels say about the pool."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lib.blocks import SAMPLED, Rows, blocks, draw, unit_rows
from lib.labels import UNLABELLED
from lib.learning.losses import DualViewTraining, Objective, Supervised
from lib.learning.setups import TrainingSetup

TRAININGS = ("dual-view", "dual-view-aligned", "supervised")
PROBE = "linear-probe"  # see `setups.linear_probe`, in place of networks
OWN_WEIGHT = 0.1  # w of dual-view-aligned; of 0 … 0.5 the best on the worlds of `make choose`
ALIGNMENT = 0.5  # α; with 1 a frequent class loses more than rare ones gain (fold 0 of ebhi)
PROJECTION = 128  # size of the projectors, as published
CHUNK = 4096  # tiles that are compared at a time


def training_by_name(
    name: str,
    *,
    threshold: float = 0.7,
    cross_weight: float = 0.5,
    own_weight: float = OWN_WEIGHT,
    contrast: float = 0.1,
    alignment: float = ALIGNMENT,
) -> Objective:
    """Make the objective of a training. Raises ValueError for another name.

    dual-view: UniSAL's as published, but that the labelled half of a batch holds every class
    equally often. dual-view-aligned (ours): the same with pseudo labels that follow the labels, see
    `losses.DualViewTraining`. Its batches are balanced as well: drawn as the labels come they gain
    where a class is rare, but lose a class of four labels (`demo`). supervised: the labelled tiles
    alone, as does linear-probe.

    Parameters
    ----------
    threshold, contrast : threshold τ and weight β of both dual-view trainings.
    cross_weight, own_weight : w of dual-view, and of dual-view-aligned. Cross supervision takes
        from rare classes what it gives to frequent ones: most of its wrong labels are theirs.
    alignment : α of the aligned one.
    """
    if name not in (*TRAININGS, PROBE):
        raise ValueError(f"unknown training {name!r}: there are only {', '.join(TRAININGS)}")
    if name in ("supervised", PROBE):
        return Supervised()
    if name == "dual-view":
        return DualViewTraining(threshold, cross_weight, contrast=contrast)
    return DualViewTraining(threshold, own_weight, contrast=contrast, alignment=alignment)


def training_setup(
    name: str, make_setup: Callable[..., TrainingSetup], **schedule: Any
) -> TrainingSetup:
    """Make the setup that a training wants: projectors where it contrasts.

    make_setup: `setups.frozen` or `setups.fine_tune` with all arguments but `projection`; schedule:
    fields of the schedule that an ablation sets, as balance_classes.
    """
    dual_view = isinstance(training_by_name(name), DualViewTraining)
    setup = make_setup(projection=PROJECTION if dual_view else 0)
    return replace(setup, schedule=replace(setup.schedule, **schedule))


def voronoi_weights(features: np.ndarray | Rows | None, labels: np.ndarray) -> np.ndarray:
    """Count the tiles that each label stands for, float64 [N]: 0 without a label, in all N.

    Labels that margin or disagreement asked for are no sample of the pool: they lie where classes
    meet. What decided was the tile, not its class, so weights by density ratio set it right: a
    labelled tile weighs as many tiles as lie nearer to it than to any other labelled one (Loog,
    MLSP 2012). features: [N, E], compared by the cosine after standardising by the mean and the
    deviation of `SAMPLED` tiles at most; without them every label stands for one tile. labels: [N],
    `UNLABELLED` without one.
    """
    labelled = labels != UNLABELLED
    if features is None or not labelled.any():
        return labelled.astype(np.float64)
    weights, rows = np.zeros(len(labels)), np.flatnonzero(labelled)
    sampled = features[draw(len(features), SAMPLED, 0)]
    mean, scale = sampled.mean(0), sampled.std(0)

    def unit(own: np.ndarray) -> np.ndarray:
        return unit_rows((own - mean) / np.where(scale > 1e-6, scale, 1))

    of_labels = unit(features[rows]).T
    for block in blocks(len(features), CHUNK):
        nearest = (unit(features[block]) @ of_labels).argmax(1)
        weights[rows] += np.bincount(nearest, minlength=len(rows))
    return weights


def voronoi_counts(features: np.ndarray | Rows, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Count the labels of each class, float64 [C], every label with its `voronoi_weights`.

    The counts add up to the `effective_number` of labels, fewer than there are, so that a marginal
    of uneven weights is trusted less. features: [N, E]; labels: [N], of which one at
    least is not `UNLABELLED`.
    """
    weights, labelled = voronoi_weights(features, labels), labels != UNLABELLED
    counts = np.bincount(labels[labelled], weights=weights[labelled], minlength=n_classes)
    return counts * effective_number(weights) / weights.sum()


def effective_number(weights: np.ndarray) -> float:
    """(Σ w)² / Σ w², how many equal weights tell as much as these. weights: [N], not all 0."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def training_label_counts(
    features: np.ndarray | Rows,
    labels: np.ndarray,
    training_labels: np.ndarray,
    weights: np.ndarray,
    *,
    n_classes: int,
) -> np.ndarray:
    """Count labels and, as far as they are learnt from, pseudo labels of each class, [C].

    Labels that a cold start asks for are few and at first often of one class, which says nothing
    about the others. Pseudo labels count, together, as many labels as they weigh in training,
    shared out over the classes by the tiles that they stand for (`voronoi_counts`), among a draw of
    `SAMPLED` tiles where there are more: pseudo labels grow with the pool.

    Parameters
    ----------
    features : [N, E].
    labels : [N], `UNLABELLED` without one.
    training_labels : [N], labels joined by pseudo labels, see `ColdStart.training_labels`.
    weights : [N], of the training labels.
    """
    counts = voronoi_counts(features, labels, n_classes)
    pseudo = np.where(training_labels != labels, training_labels, UNLABELLED)
    some = draw(len(features), SAMPLED, 0)
    if (pseudo[some] == UNLABELLED).all():
        return counts
    shares = voronoi_counts(Rows(features.__getitem__, some), pseudo[some], n_classes)
    return counts + weights[pseudo != UNLABELLED].sum() * shares / shares.sum()
