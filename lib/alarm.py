"""Warnings that need no label: where prompts, views, clusters and networks cannot be right.

An alarm does not say how many labels are wrong; it says where to look before trusting the rest. The
thresholds are fixed by argument, not by what they do on any labelled data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.clusters import classes_by_lift, cluster_agreement
from lib.labels import UNLABELLED

# With labels for each class alike a class would have 1/C of them; one with a twentieth of that is
# drawn so rarely, or repeated so often, that nothing can be learnt of it. One tile is no class.
FEW_KEPT, FEW_SHARE = 2, 0.05
# Odds of a class in its best cluster ÷ in all tiles: for a class of one half, 0.6 instead of 0.5.
# Odds and not lifts, as the lift of a class that is nearly everywhere cannot be high.
FLAT_ODDS = 1.5
# Where two opinions differ, one of them is wrong: of a third of all tiles one is, on the average
# each on a sixth; of a class the more frequent opinion is another one.
CONTRADICTION, CLASS_CONTRADICTION = 1 / 3, 1 / 2


@dataclass(frozen=True)
class Alarm:
    """name: short, the same for all alarms of a kind; text: what is wrong and what to do."""

    name: str
    text: str


def label_free_alarms(
    view_probs: np.ndarray,
    labels: np.ndarray,
    kept: np.ndarray,
    clusters: np.ndarray,
    lift: np.ndarray,
    class_names: Sequence[str],
    *,
    predicted: np.ndarray | None = None,
) -> list[Alarm]:
    """What is suspicious about a run, without a label; empty when nothing is.

    view_probs: [N, C]; labels: [N], what the prompts say by the label rule of the variant; kept:
    bool [N], which of these are learnt from; clusters and lift: of `FilterInputs.lift_clusters`,
    [N] and [K, C]; predicted: [M, C], probabilities by the networks of any tiles. No class is taken
    to be as frequent as another.
    """
    found = [*_without_labels(labels, kept, class_names)]
    if predicted is not None:
        found += _never_predicted(predicted, class_names)
    class_of_cluster = classes_by_lift(lift)
    found += _flat_clusters(view_probs, clusters, lift, class_of_cluster, class_names)
    found += _contradictions(labels, clusters, class_of_cluster, class_names)
    return found


def _without_labels(
    labels: np.ndarray, kept: np.ndarray, class_names: Sequence[str]
) -> Iterator[Alarm]:
    counts = np.bincount(np.asarray(labels)[kept], minlength=len(class_names))
    least = max(FEW_KEPT, FEW_SHARE * kept.sum() / len(class_names))
    for name, n in zip(class_names, counts, strict=True):
        if n < least:
            yield Alarm(
                "class without labels",
                f"{name}: {n} of {kept.sum()} kept labels, too few to learn the class from. "
                "Describe it by other words, or label some of its tiles by hand.",
            )


def _never_predicted(predicted: np.ndarray, class_names: Sequence[str]) -> Iterator[Alarm]:
    counts = np.bincount(predicted.argmax(1), minlength=len(class_names))
    for name, n in zip(class_names, counts, strict=True):
        if not n:
            yield Alarm(
                "class never predicted",
                f"{name}: the networks predict it for none of {len(predicted)} tiles. If it should "
                "be there, do not use the predictions; describe it by other words or label tiles.",
            )


def _flat_clusters(
    view_probs: np.ndarray,
    clusters: np.ndarray,
    lift: np.ndarray,
    class_of_cluster: np.ndarray,
    class_names: Sequence[str],
) -> Iterator[Alarm]:
    overall = np.asarray(view_probs, np.float64)[clusters != UNLABELLED].mean(0)
    for c, name in enumerate(class_names):
        own = lift[class_of_cluster == c, c]
        inside = min(own.max(initial=0.0) * overall[c], 1.0)
        # p(1 − q) < 1.5 q(1 − p) is the odds of p below 1.5 times those of q, without a division
        if inside * (1 - overall[c]) < FLAT_ODDS * overall[c] * (1 - inside):
            yield Alarm(
                "flat clusters",
                f"{name}: its probability is {inside:.2f} in its best cluster and {overall[c]:.2f} "
                "in all tiles, so its clusters are a guess. Look at their tiles; if they are not "
                "this class, describe it by other words or use another model.",
            )


def _contradictions(
    labels: np.ndarray,
    clusters: np.ndarray,
    class_of_cluster: np.ndarray,
    class_names: Sequence[str],
) -> Iterator[Alarm]:
    inside = clusters != UNLABELLED
    of_clusters = class_of_cluster[clusters[inside]]
    n_classes = len(class_names)
    counts = cluster_agreement(of_clusters, np.asarray(labels)[inside], n_classes)
    counts = np.pad(counts, ((0, n_classes - len(counts)), (0, 0)))
    advice = "Look at tiles on which they differ, and see which of the two is right."
    differ = 1 - np.trace(counts) / counts.sum()
    if differ > CONTRADICTION:
        yield Alarm(
            "prompts contradict clusters",
            f"Prompts and clusters differ on {differ:.0%} of the tiles, so one of them is often "
            f"wrong. {advice}",
        )
    for c, name in enumerate(class_names):
        for n, what in ((counts[:, c].sum(), "prompts"), (counts[c].sum(), "clusters")):
            other = "clusters" if what == "prompts" else "prompts"
            if n and 1 - counts[c, c] / n > CLASS_CONTRADICTION:
                yield Alarm(
                    "prompts contradict clusters",
                    f"{name}: of {n} tiles that the {what} call so, the {other} call "
                    f"{n - counts[c, c]} another class. {advice}",
                )
