"""VLM-CPL as the start of active learning: networks and pseudo labels before the first label.

Ours: neither paper joins the two. UniSAL draws its first tiles by chance, as it has no network to
ask; here the networks that learnt without a label choose them, and the pseudo labels that the
filters kept are learnt from as well, ever less as labels come in. How frequent the classes are
comes from both (`trainings.training_label_counts`).

What was chosen with labels: the first query is compact in the whole pool, and pseudo labels have to
be correct as often as `LEAST_CORRECT`, after a look at seed 0 of folds 0 and 1 of ebhi, and at fold
1 of lc25k_colon and folds 0 and 1 of ebhi_binary with seed 1. On ebhi, where VLM-CPL is correct on
two tiles in five, its networks agree on whole classes that they miss: a first query where they
disagree never finds these, and such pseudo labels hold UniSAL down even when they weigh a tenth.
That later queries cover the pool with one half was kept after seed 0 of fold 0 of demo and of ebhi.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from lib.active.pool import Pool, Query
from lib.active.strategies import select
from lib.active.trainings import effective_number
from lib.clusters import classes_by_lift, cluster_agreement
from lib.consensus import FilterInputs
from lib.labels import UNLABELLED
from lib.learning.vlm_cpl import TrainedVlmCpl

# All pseudo labels of a class weigh as much as so many labels of it. Fixed by argument, not by any
# result: as the prior of `losses.shrunk_marginal`.
PSEUDO_COUNTS = 10.0
LEAST_CORRECT = 0.7  # UniSAL's τ, above which it uses a pseudo label of its own


@dataclass(frozen=True)
class ColdStart:
    """What is there before the first label.

    networks: two, which choose the first query; predicted: int [N], their classes of the pool;
    pseudo_labels: int [N], `UNLABELLED` for tiles without one; pseudo_counts m: of n labels of a
    class and its pseudo labels, a pseudo label is drawn with the chance m / (m + n); 0: pseudo
    labels are not used. first: the strategy of the first query. doubtful: bool [N], tiles that it
    asks for before others, see `doubtful_tiles`; None: there are none.
    """

    networks: Sequence[nn.Module]
    predicted: np.ndarray
    pseudo_labels: np.ndarray
    pseudo_counts: float = PSEUDO_COUNTS
    first: str = "cs"
    doubtful: np.ndarray | None = None

    def training_labels(
        self, labels: np.ndarray, refused: np.ndarray, stands_for: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Join labels by pseudo labels where there is none: labels [N], weights float64 [N].

        A label weighs 1, all pseudo labels of a class m. A pseudo label is gone once its tile is
        answered, and all are while the labels say that VLM-CPL is correct less often than
        `LEAST_CORRECT`. Those of doubtful tiles, which people are asked about, are not used.
        labels: [N], `UNLABELLED` without one; refused: bool [N]; stands_for: [N], see
        `estimated_accuracy`.
        """
        weights, pseudo_labels = np.ones(len(labels)), self.pseudo_labels
        if not self.pseudo_counts or self.estimated_accuracy(labels, stands_for) < LEAST_CORRECT:
            return labels, weights
        if self.doubtful is not None:
            pseudo_labels = np.where(self.doubtful, UNLABELLED, pseudo_labels)
        pseudo = (pseudo_labels != UNLABELLED) & (labels == UNLABELLED) & ~refused
        n_pseudo = np.bincount(pseudo_labels[pseudo])
        weights[pseudo] = self.pseudo_counts / n_pseudo[pseudo_labels[pseudo]]
        return np.where(pseudo, pseudo_labels, labels), weights

    def estimated_accuracy(self, labels: np.ndarray, stands_for: np.ndarray) -> float:
        """Estimate from the labels how often VLM-CPL is correct in the pool; 1 without any.

        Most labels are of tiles that are hard for its networks, so each counts for the tiles that
        lie nearest to it: stands_for [N], of `trainings.voronoi_weights`. By Laplace's rule of
        succession, (1 + n a) / (2 + n) for a share a of these tiles and the `effective_number` n of
        labels. labels: [N], `UNLABELLED` without one.
        """
        weights = stands_for[labels != UNLABELLED]
        if not weights.sum():
            return 1.0
        n = effective_number(weights)
        correct = (stands_for * (labels == self.predicted))[labels != UNLABELLED].sum()
        return float((1 + n * (correct / weights.sum())) / (2 + n))

    def first_query(self, pool: Pool, n: int, seed: int) -> Query:
        """Choose by `first`; before that compact tiles of the doubtful ones, where there are any.

        By default UniSAL's compact selector in the whole pool: its answers find classes on which
        the networks agree wrongly, and say how often these are correct. Of doubtful tiles one of
        each of n clusters is taken. pool: of the networks of the start, without a label.
        """
        if self.doubtful is None:
            return select(self.first, pool, n, seed)
        doubtful = replace(pool, unlabelled_mask=pool.unlabelled_mask & self.doubtful)
        asked = select("cs", doubtful, n, seed).rows
        left = pool.unlabelled_mask.copy()
        left[asked] = False
        if len(asked) == n or not left.any():
            return Query(asked)
        others = select(self.first, replace(pool, unlabelled_mask=left), n - len(asked), seed)
        return replace(others, rows=np.concatenate([asked, others.rows]))

    def update(self, digest: Any) -> None:
        """Add all of this to the digest of a loop's settings."""
        rules = (self.pseudo_counts, LEAST_CORRECT if self.pseudo_counts else 0, self.first)
        digest.update(repr(rules).encode() + self.pseudo_labels.tobytes())
        if self.doubtful is not None:
            digest.update(self.doubtful.tobytes())
        for network in self.networks:
            for values in network.state_dict().values():
                digest.update(values.cpu().numpy().tobytes())


def variants(start: ColdStart, doubtful: np.ndarray | None) -> dict[str, ColdStart]:
    """Name the cold starts that are compared, as in `report.active_learning.COLD_STARTS`.

    doubtful: bool [N], from `vlm_cpl_cold_start`.
    """
    starts = {
        "cold-start": start,
        "cold-start-labels": replace(start, pseudo_counts=0.0),
        "cold-start-disagreement": replace(start, first="unisal"),
    }
    if doubtful is not None:
        starts["cold-start-doubtful"] = replace(start, doubtful=doubtful)
    return starts


def doubtful_tiles(
    labels: np.ndarray, kept_labels: np.ndarray, clusters: np.ndarray, lift: np.ndarray
) -> np.ndarray:
    """Find the tiles of clusters for which prompts and clusters name different classes, bool [N].

    What the alarm points at (`alarm.label_free_alarms`): a cluster whose most frequent label is of
    another class than its lift says, and all clusters of a class of which no label was kept. None
    are doubtful where all agree.

    Parameters
    ----------
    labels : [N], of the prompts by the label rule.
    kept_labels : [N], `UNLABELLED` elsewhere.
    clusters, lift : [N] and [K, C], of `FilterInputs.lift_clusters`.
    """
    class_of = classes_by_lift(lift)
    agreement = cluster_agreement(clusters, labels, lift.shape[1])
    contradicted = agreement.argmax(1) != class_of[: len(agreement)]
    kept = np.bincount(kept_labels[kept_labels != UNLABELLED], minlength=lift.shape[1])
    doubtful = contradicted | (kept[class_of[: len(agreement)]] == 0)
    return (clusters != UNLABELLED) & doubtful[np.maximum(clusters, 0)]


def vlm_cpl_cold_start(
    inputs: FilterInputs, trained: TrainedVlmCpl
) -> tuple[ColdStart, np.ndarray | None]:
    """Start from VLM-CPL in our variant; second, where it raises an alarm, its doubtful tiles.

    inputs: of the pool; trained: see `vlm_cpl.train_vlm_cpl`, with probabilities of the pool. The
    networks have no projector: compactness is that of their features before the head
    (`networks.predict_members`). The doubtful tiles are `doubtful_tiles`, bool [N], None where
    there are none.
    """
    labels = trained.training_labels
    start = ColdStart(trained.networks, trained.probs.argmax(1), labels)
    if not trained.alarms:
        return start, None
    doubtful = doubtful_tiles(trained.pseudo.label.values, labels, *inputs.lift_clusters())
    return start, doubtful if doubtful.any() else None
