"""What a batch of dual-view training and a query look like, for people: numbers, no decisions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.active.strategies import Query, clusters, entropy
from lib.labels import UNLABELLED
from lib.learning.losses import class_contrast, confident_labels, cross_supervision
from lib.learning.samplers import ViewSampler


@dataclass(frozen=True)
class DualViewBatch:
    """What two networks make of their views of a batch of B tiles.

    labels: [B], `UNLABELLED` for unlabelled tiles; logits: [2, B, C]; projections: [2, B, P];
    threshold: τ, above which a pseudo label is used.
    """

    labels: Tensor
    logits: Tensor
    projections: Tensor
    threshold: float

    @property
    def unlabelled(self) -> Tensor:
        """Where the batch has no label: bool [B]."""
        return self.labels == UNLABELLED

    @property
    def probs(self) -> np.ndarray:
        """Predictions of both networks for the unlabelled tiles: [2, U, C]."""
        return torch.softmax(self.logits[:, self.unlabelled], dim=2).numpy()

    @property
    def known(self) -> Tensor:
        """Labels, and pseudo labels where both networks are above τ and agree; else none: [B]."""
        first, second = (confident_labels(logits, self.threshold) for logits in self.logits)
        agreed = first.where(first == second, UNLABELLED)
        return self.labels.where(~self.unlabelled, agreed)

    @property
    def cosines(self) -> np.ndarray:
        """What the contrast compares: cos(a_i, b_i) where i = j, else the mean of both networks'
        cosines of tile i and tile j. [B, B].
        """
        a, b = F.normalize(self.projections, dim=2)
        within = (a @ a.T + b @ b.T) / 2
        same_tile = torch.eye(len(a), dtype=torch.bool)
        return torch.where(same_tile, (a * b).sum(1), within).numpy()

    def terms(self) -> dict[str, float]:
        """The three terms of `losses.DualViewTraining`, without their weights."""
        given = self.labels[~self.unlabelled]
        labelled, a, b = self.logits[:, ~self.unlabelled], *self.logits[:, self.unlabelled]
        supervision = [cross_supervision(*pair, self.threshold) for pair in ((a, b), (b, a))]
        first, second = self.projections
        return {
            "cross-entropy": sum(F.cross_entropy(own, given).item() for own in labelled),
            "cross supervision": sum(term.item() for term in supervision),
            "contrast": class_contrast(first, second, self.known).item(),
        }


@torch.inference_mode()
def look_at_batch(
    networks: Sequence[nn.Module],
    sampler: ViewSampler,
    tiles: np.ndarray,
    labels: np.ndarray,
    threshold: float,
) -> DualViewBatch:
    """A batch as two networks with projectors see it. tiles, labels: [B]."""
    outputs = [network(sampler(tiles, k, 0)) for k, network in enumerate(networks)]
    logits, projections = (torch.stack(each).float().cpu() for each in zip(*outputs, strict=True))
    return DualViewBatch(torch.from_numpy(labels), logits, projections, threshold)


# --- one query -----------------------------------------------------------------------------------


def cluster_members(features: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    """Rows of each of n `strategies.clusters`, nearest to its centre first; the largest first."""
    cluster, centres = clusters(features, n, seed)
    distance = ((features - centres[cluster]) ** 2).sum(1) if len(features) else np.zeros(0)
    by_distance = np.argsort(distance, kind="stable")
    members = [by_distance[cluster[by_distance] == c] for c in np.unique(cluster)]
    return sorted(members, key=len, reverse=True)


def main_directions(features: np.ndarray) -> np.ndarray:
    """Tiles in the plane of their two principal components: [N, 2] from [N, P], of none as well."""
    if not len(features):
        return np.zeros((0, 2))
    centred = features - features.mean(0)
    left, scale, _ = np.linalg.svd(np.pad(centred, ((0, 1), (0, 1))), full_matrices=False)
    return (left * scale)[:-1, :2]


def describe_mask(mask: np.ndarray, probs: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Number of tiles, error and entropy of the mean prediction, NaN of no tile.

    mask, right (of the mean prediction): bool [N]; probs: [2, N, C].
    """
    any_tile = bool(mask.any())
    return {
        "tiles": int(mask.sum()),
        "mean prediction wrong": 1 - right[mask].mean() if any_tile else np.nan,
        "mean entropy": entropy(probs)[mask].mean() if any_tile else np.nan,
    }


def describe_query(
    query: Query, pool: pd.DataFrame, features: np.ndarray, disagree: np.ndarray, right: np.ndarray
) -> dict[str, float]:
    """What the answers to a query are worth: errors, disagreement, classes, groups, distances.

    pool: table of the N tiles with columns label and group; features: [N, P]; disagree, right: bool
    [N].
    """
    subset = pool.iloc[query.rows]
    unit = features[query.rows] / np.linalg.norm(features[query.rows], axis=1, keepdims=True)
    similarity = unit @ unit.T - 2 * np.eye(len(subset))
    return {
        "tiles": len(subset),
        "wrong now": 1 - right[query.rows].mean(),
        "networks disagree": disagree[query.rows].mean(),
        "classes": subset.label.nunique(),
        "groups": subset.group.nunique(),
        "distance to the nearest": 1 - similarity.max(1).mean(),
        "filled by entropy": query.filled or 0,
    }
