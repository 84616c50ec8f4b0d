"""VLM-CPL as the start of active learning: networks and pseudo labels before the first label.

Ours: neither paper joins the two. UniSAL draws its first tiles by chance, as it has no network to
ask; here the networks that learnt without a label say where they disagree, and the pseudo labels
that the filters kept teach on, ever less, as labels come in. How frequent the classes are comes
from both (`trainings.taught_counts`): a first query is often of one class alone.

Both rules, how fast pseudo labels fade and what they say of the classes, were changed after a look
at seed 0 of fold 0 of demo and of ebhi and of fold 1 of lc25k_colon: there a query of one class
cost six points, and pseudo labels of which two in five were right held UniSAL at 0.57.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lib.active.strategies import Pool, Query, select
from lib.alarm import Alarm
from lib.clusters import classes_by_lift, cluster_agreement
from lib.consensus import SETTINGS
from lib.labels import UNLABELLED
from lib.learning import setups
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.learning.networks import predict
from lib.learning.trials import Evidence

# All pseudo labels of a class weigh as much as so many labels of it. Fixed by argument, not by any
# result: as the prior of `losses.shrunk_marginal`.
PSEUDO_COUNTS = 10.0
LEAST_WORTH = 0.1  # before it is squared


@dataclass(frozen=True)
class ColdStart:
    """What is there before the first label.

    networks: two, whose disagreement chooses the first query; predicted: int [N], what they say of
    the pool; pseudo_labels: int [N], `UNLABELLED` for tiles without one; pseudo_counts m: of n
    labels of a class and its pseudo labels, a pseudo label is drawn with the chance m / (m + n),
    less where answers contradict, see `taught`; 0: pseudo labels are not used.
    doubtful: bool [N], tiles that the first query asks for before others, see `doubtful_tiles`;
    None where there is no alarm, or where it points at no cluster.
    """

    networks: Sequence[nn.Module]
    predicted: np.ndarray
    pseudo_labels: np.ndarray
    pseudo_counts: float = PSEUDO_COUNTS
    doubtful: np.ndarray | None = None

    def taught(
        self, labels: np.ndarray, refused: np.ndarray, n_classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels [N] joined by pseudo labels where there is none, and weights float64 [N].

        labels: [N], `UNLABELLED` without one; refused: bool [N]. A label weighs 1. A pseudo label
        is gone once its tile is answered. Those of a class weigh, together, m · worth. Queries
        hardly ever ask for tiles that have one, so what all answers say of the networks judges
        them: if `right` of `judged` tiles are as predicted, p = (m + right) / (m + judged), and
        labels of which (by symmetric noise) a share p is right tell as much as
        ((C p - 1) / (C - 1))² times as many clean ones. As queries go where the networks err, p
        falls faster than it should, and pseudo labels are soon replaced. They never weigh nothing:
        of a class without a label they are all there is. Those of doubtful tiles, which people are
        asked about, are not used.
        """
        weights, given, m = np.ones(len(labels)), self.pseudo_labels, self.pseudo_counts
        if not m:
            return labels, weights
        if self.doubtful is not None:
            given = np.where(self.doubtful, UNLABELLED, given)
        answered = refused | (labels != UNLABELLED)
        pseudo = (given != UNLABELLED) & ~answered
        right = (m + (labels == self.predicted)[answered].sum()) / (m + answered.sum())
        worth = max((n_classes * right - 1) / (n_classes - 1), LEAST_WORTH) ** 2
        n_pseudo = np.bincount(given[pseudo], minlength=n_classes)
        weights[pseudo] = (m * worth / np.maximum(n_pseudo, 1))[given[pseudo]]
        return np.where(pseudo, given, labels), weights

    def first_query(self, strategy: str, pool: Pool, n: int, seed: int) -> Query:
        """Compact tiles of the doubtful ones, then what the strategy asks for.

        Where the networks have learnt the same wrong labels they agree, so that disagreement says
        nothing about doubtful tiles: of each of n clusters of them one is taken. pool: of the
        networks of the start, without a label.
        """
        if self.doubtful is None:
            return select(strategy, pool, n, seed)
        of_doubtful = replace(pool, unlabelled_mask=pool.unlabelled_mask & self.doubtful)
        first = select("cs", of_doubtful, n, seed).rows
        left = pool.unlabelled_mask.copy()
        left[first] = False
        if len(first) == n or not left.any():
            return Query(first)
        others = select(strategy, replace(pool, unlabelled_mask=left), n - len(first), seed)
        return replace(others, rows=np.concatenate([first, others.rows]))

    def update(self, digest: Any) -> None:
        """Add all of this to the digest of a loop's settings."""
        rule = (self.pseudo_counts, "worth" if self.pseudo_counts else "")
        digest.update(repr(rule).encode() + self.pseudo_labels.tobytes())
        if self.doubtful is not None:
            digest.update(b"compact" + self.doubtful.tobytes())
        for network in self.networks:
            for values in network.state_dict().values():
                digest.update(values.cpu().numpy().tobytes())


def ways(start: ColdStart) -> dict[str, ColdStart]:
    """Ways to begin that are compared, by the names of `report.active_learning.COLD_STARTS`."""
    found = {"cold-start": start, "cold-start-labels": replace(start, pseudo_counts=0.0)}
    if start.doubtful is not None:
        found["cold-start-anywhere"] = replace(start, doubtful=None)
    return found


def doubtful_tiles(
    labels: np.ndarray, kept_labels: np.ndarray, clusters: np.ndarray, lift: np.ndarray
) -> np.ndarray:
    """Tiles of clusters for which prompts and clusters do not give the same class, bool [N].

    What the alarm points at (`alarm.label_free_alarms`): a cluster whose most frequent label is of
    another class than its lift says, and all clusters of a class of which no label was kept.
    labels: [N], what the prompts say by the label rule; kept_labels: [N], `UNLABELLED` elsewhere;
    clusters, lift: from `clusters.lift_clusters`, [N] and [K, C]. None are doubtful where all
    agree.
    """
    class_of = classes_by_lift(lift)
    agreement = cluster_agreement(clusters, labels, lift.shape[1])
    contradicted = agreement.argmax(1) != class_of[: len(agreement)]
    kept = np.bincount(kept_labels[kept_labels != UNLABELLED], minlength=lift.shape[1])
    doubtful = contradicted | (kept[class_of[: len(agreement)]] == 0)
    return (clusters != UNLABELLED) & doubtful[np.maximum(clusters, 0)]


def begin(
    folder: Path,
    tiles: np.ndarray,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    place: Path,
    *,
    seed: int,
    trained: bool = False,
) -> tuple[ColdStart, list[Alarm]]:
    """VLM-CPL in our setting on the features and votes of a folder, and what it warns of.

    folder: with the features and votes of all tiles (`embed_tiles`, `embed_views`); tiles: [N], the
    pool; settings: keep_ratio, threshold, hcs_weight and n_steps, of
    `13_high_confidence_cross_supervision`; place: folder of the networks, which are trained as
    there, or with `trained` are read. They have no projector: compactness is that of their
    features before the head (`networks.predict_members`). Where there is an alarm the first query
    goes to `doubtful_tiles`. Raises FileNotFoundError for trained networks that are not there.
    """
    rules = SETTINGS["ours"]
    evidence = Evidence.of_folder(folder, tiles, keep_ratio=settings["keep_ratio"], seed=seed)
    kept = evidence.pseudo_labels("mvc+pfc", **rules)
    setup = setups.frozen(folder, tiles, len(class_names), steps=settings["n_steps"], seed=seed)
    networks = setups.load_networks(setup, place) if trained else []
    if trained and not networks:
        raise FileNotFoundError(
            f"{place} holds no networks: run 13_high_confidence_cross_supervision first"
        )
    if not trained:
        objective = HighConfidenceCrossSupervision(settings["threshold"], settings["hcs_weight"])
        networks = setups.fit(objective, setup, tiles, kept, class_names, place, seed=seed)
    predicted = predict(networks, setup.reader, tiles)
    alarms = evidence.alarms("ours", kept != UNLABELLED, class_names, predicted)
    doubtful = None
    if alarms:
        before = evidence.pseudo_labels("", **rules)
        doubtful = doubtful_tiles(before, kept, *evidence.lift_clusters)
        doubtful = doubtful if doubtful.any() else None
    return ColdStart(networks, predicted.argmax(1), kept, doubtful=doubtful), alarms
