"""How many predictions are correct, estimated without a label.

Each estimate takes one source of predictions for the truth, or the agreement of several for
evidence of it. All fail alike: sources that rest on the same features are wrong on the same tiles,
and then they agree. So they are a ranking and an alarm, shown with the error that was measured, and
no number to report; that takes an audit (`quality.audit`). Nothing here sees a label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.alarm import CONTRADICTION

# In the order of the tables → what they are called there.
ESTIMATES = {
    "confidence": "mean confidence",
    "networks": "agreement of the networks",
    "views": "agreement of views",
    "prompts": "agreement with the prompts",
    "vlms": "agreement of two VLMs",
    "joint": "confident joint (cleanlab)",
    "dawid-skene": "Dawid–Skene",
}


@dataclass(frozen=True)
class PredictionSources:
    """What several sources predict for the M tiles whose predictions are to be judged.

    members: [K, M, C], softmaxes of the networks, whose mean is the prediction; views: [W, M, C],
    those of random views by each network; prompts: [M, C], zero-shot; view_labels: [M], of the mean
    of the VLM's views; cluster_labels: [M]; outside: [M, C], by a classifier that has not seen
    these tiles (`prediction_sources.outside_probabilities`).
    """

    members: np.ndarray
    views: np.ndarray
    prompts: np.ndarray
    view_labels: np.ndarray
    cluster_labels: np.ndarray
    outside: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Class of each tile, [M], whose accuracy is asked for."""
        return self.members.mean(0).argmax(1)


def mean_confidence(members: np.ndarray) -> float:
    """Average the largest probability of the mean prediction: the naive baseline.

    True where a confidence of 0.9 is correct nine times in ten (AC of Guillory et al., ICCV 2021).
    Fails with networks that learn hard pseudo labels: they are sure of nearly every tile, and of
    wrong classes as well. members: [K, M, C].
    """
    return float(members.mean(0).max(1).mean())


def agreement(predicted: np.ndarray, other: np.ndarray) -> float:
    """Share of tiles for which two sources predict the same class. predicted, other: int [M].

    It is the accuracy if the other is always correct, and below it if they never share an error.
    """
    return float((predicted == other).mean())


def network_agreement(members: np.ndarray) -> float:
    """Share of tiles on which two networks agree: generalisation disagreement equality.

    Test error = disagreement of two trainings of one method (Jiang et al., Assessing Generalization
    via Disagreement, ICLR 2022), if the ensemble of such trainings is calibrated. Fails here by
    construction: each learnt from the other, from the same pseudo labels. members: [2, M, C].
    Raises ValueError unless there are two networks.
    """
    if len(members) != 2:
        raise ValueError(f"agreement is of two networks, not of {len(members)}")
    return agreement(*members.argmax(2))


def view_agreement(predicted: np.ndarray, views: np.ndarray) -> float:
    """Share of random views, over all tiles, that get the predicted class.

    Invariance ranks models by their accuracy (Deng et al., On the Strong Correlation Between Model
    Invariance and Generalization, NeurIPS 2022). As a value it assumes that a tile is correct as
    often as its views are steady; fails where whole classes are wrong, steadily.
    predicted: [M]; views: [W, M, C].
    """
    return float((views.argmax(2) == predicted).mean())


def joint_accuracy(predicted: np.ndarray, outside: np.ndarray) -> float:
    """Trace the joint distribution of predicted and true classes by confident learning.

    `cleanlab.count.estimate_joint` (Northcutt, Jiang & Chuang, JAIR 70, 2021): a tile of predicted
    class i counts as truly j if the outside probability of j is above its mean over the tiles that
    are predicted j. Assumes noise that depends on the class alone, and probabilities that are out
    of sample and mostly correct. Fails where the outside classifier learnt the same errors.
    predicted: [M]; outside: [M, C]. Classes that are predicted nowhere are left out; with a single
    class there is nothing to estimate, and 1 is returned.
    """
    from cleanlab.count import estimate_joint

    present, labels = np.unique(predicted, return_inverse=True)
    if len(present) == 1:
        return 1.0
    probs = np.asarray(outside, np.float64)[:, present] + 1e-12
    return float(np.trace(estimate_joint(labels, probs / probs.sum(1, keepdims=True))))


def dawid_skene_accuracy(predicted: np.ndarray, labellers: Mapping[str, np.ndarray]) -> float:
    """Average the posterior probability of the predicted class, the sources being labellers.

    Every labeller has a confusion matrix of its own, estimated together with the true classes by EM
    (Dawid & Skene, Applied Statistics 28, 1979; `crowdkit.aggregation.DawidSkene`). Assumes that
    labellers err independently given the class. They do not: networks learnt from prompts and
    clusters, and where most share an error it becomes the truth; so it is too high. predicted: [M];
    labellers: name → labels [M].
    """
    from crowdkit.aggregation import DawidSkene

    tiles = np.arange(len(predicted))
    answers = pd.DataFrame({"task": tiles} | dict(labellers))
    answers = answers.melt("task", var_name="worker", value_name="label")
    posterior = DawidSkene(n_iter=100).fit_predict_proba(answers)
    posterior = posterior.reindex(index=tiles, columns=np.unique(predicted), fill_value=0.0)
    columns = posterior.columns.get_indexer(predicted)
    return float(posterior.values[tiles, columns].mean())


def label_free_estimates(
    sources: PredictionSources, other_vlm: np.ndarray | None = None
) -> dict[str, float]:
    """Make all estimates of the accuracy of `sources.predicted`, by the names of `ESTIMATES`.

    other_vlm: [M], classes by the same method with another VLM, where it was run.
    """
    predicted, prompt_labels = sources.predicted, sources.prompts.argmax(1)
    labellers = {f"network {k}": p.argmax(1) for k, p in enumerate(sources.members)}
    labellers |= {"prompts": prompt_labels, "views": sources.view_labels}
    labellers |= {"clusters": sources.cluster_labels}
    estimated = {
        "confidence": mean_confidence(sources.members),
        "networks": network_agreement(sources.members),
        "views": view_agreement(predicted, sources.views),
        "prompts": agreement(predicted, prompt_labels),
        "joint": joint_accuracy(predicted, sources.outside),
        "dawid-skene": dawid_skene_accuracy(predicted, labellers),
    }
    if other_vlm is not None:
        estimated["vlms"] = agreement(predicted, other_vlm)
    return {name: estimated[name] for name in ESTIMATES if name in estimated}


def low_estimates(estimated: Mapping[str, float]) -> list[str]:
    """Name the estimates so low that the predictions are not to be trusted: below two thirds.

    Where two sources differ on more than a third of the tiles, one of them is wrong on more than a
    sixth (`alarm.CONTRADICTION`). None is no reason to trust: sources may share their errors.
    """
    return [name for name, value in estimated.items() if value < 1 - CONTRADICTION]
