"""What a training is given: labelled tiles, a schedule, and which rows each batch holds."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.labels import NO_LABEL_OF, UNLABELLED


@dataclass(frozen=True)
class Schedule:
    """Schedule of a training: SGD, the rate ×0.1 after the fraction `decay_at` of the steps.

    Half of a batch is labelled, half is not. With `balance_classes` the labelled half draws every
    class equally often (not in the papers: labels that a filter kept are seldom balanced). Batch,
    momentum, weight decay and decay are those of the papers' public code (200 epochs, ×0.1 at 150).
    Steps and rate are chosen for heads on frozen features, so that the training loss no longer
    falls at the decay; the papers' code trains whole networks with 1e-3.
    """

    steps: int = 1000
    learning_rate: float = 0.03
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 8e-4
    decay_at: float = 0.75
    balance_classes: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * (0.1 if step >= self.decay_at * self.steps else 1)


@dataclass(frozen=True)
class TrainingTiles:
    """Tile numbers [N], (pseudo) labels [N] or `UNLABELLED`, and the names of the classes.

    `truth` [N], where it is known, serves reports alone. `weights` [N] say how often a labelled
    tile is drawn beside others of its class, with balanced classes; without them all alike.
    `class_counts` [C] are of labels that stand for the pool: drawn by chance, or weighted. Raises
    ValueError for lengths or labels that do not fit and when no tile is labelled; warns of classes
    without a labelled tile.
    """

    tiles: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    truth: np.ndarray | None = None
    weights: np.ndarray | None = None
    class_counts: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for labels in (self.labels, self.truth, self.weights):
            if labels is not None and len(labels) != len(self.tiles):
                raise ValueError(f"{len(labels)} labels, but {len(self.tiles)} tiles")
        if len(self.labels) and not (
            UNLABELLED <= self.labels.min() and self.labels.max() < len(self.class_names)
        ):
            raise ValueError(f"labels must lie in {UNLABELLED} … {len(self.class_names) - 1}")
        if not len(self.labelled):
            raise ValueError("no tile is labelled: no filter kept any; raise the keep ratio")
        present = set(self.labels.tolist())
        missing = [name for c, name in enumerate(self.class_names) if c not in present]
        if missing:
            warnings.warn(
                f"{NO_LABEL_OF} {', '.join(missing)}: it will never be predicted; "
                "raise the keep ratio, or keep a quota of every class",
                stacklevel=3,
            )

    @cached_property
    def labelled(self) -> np.ndarray:
        """Rows of the labelled tiles."""
        return np.flatnonzero(self.labels != UNLABELLED)

    @cached_property
    def unlabelled(self) -> np.ndarray:
        """Rows of the tiles without a label."""
        return np.flatnonzero(self.labels == UNLABELLED)

    @cached_property
    def balancing_chances(self) -> np.ndarray:
        """Probability of drawing each labelled tile that makes all classes equally frequent."""
        labels = self.labels[self.labelled]
        weights = np.ones(len(labels)) if self.weights is None else self.weights[self.labelled]
        chances = weights / np.bincount(labels, weights)[labels]
        return chances / chances.sum()


def labelled_and_not(
    tiles: np.ndarray, labels: np.ndarray, class_names: Sequence[str], truth: np.ndarray
) -> TrainingTiles:
    """Every tile with its label and again without: for cross supervision without a filter."""
    both = np.append(labels, np.full_like(labels, UNLABELLED))
    return TrainingTiles(np.tile(tiles, 2), both, class_names, np.tile(truth, 2))


def draw_rows(
    data: TrainingTiles, schedule: Schedule, *, uses_unlabelled: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the labelled [S, L] and the unlabelled tiles [S, U] in the batch of each step.

    L = U = half a batch. Balanced classes are drawn with replacement; all else in epochs, each of
    which holds every tile once. U = 0 if every tile has a label or the objective ignores the
    others.
    """
    chance = np.random.default_rng([seed, 0])
    shape = schedule.steps, schedule.batch_size // 2
    if schedule.balance_classes:
        upto = np.cumsum(data.balancing_chances)
        drawn = np.searchsorted(upto, chance.random(shape) * upto[-1], side="right")
        labelled = data.labelled[np.minimum(drawn, len(upto) - 1)]
    else:
        labelled = _epochs(data.labelled, shape, chance)
    if not uses_unlabelled or not len(data.unlabelled):
        return labelled, np.zeros((schedule.steps, 0), np.int64)
    return labelled, _epochs(data.unlabelled, shape, np.random.default_rng([seed, 1]))


def _epochs(rows: np.ndarray, shape: tuple[int, int], chance: np.random.Generator) -> np.ndarray:
    n = -(-shape[0] * shape[1] // len(rows))
    epochs = chance.permuted(np.tile(rows, (n, 1)), axis=1)
    return epochs.ravel()[: shape[0] * shape[1]].reshape(shape)
