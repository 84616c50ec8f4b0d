"""Several sources of predictions for the test tiles of a run, as they are and shifted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import paths
from lib.active.inputs import predict_views
from lib.consensus import VARIANTS, FilterInputs, cluster_labels, filter_tiles
from lib.labels import UNLABELLED
from lib.learning import setups
from lib.learning.baselines import logistic_regression
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.learning.networks import predict_members
from lib.learning.setups import TrainingSetup
from lib.learning.vlm_cpl import TrainedVlmCpl, train_vlm_cpl
from lib.quality.estimates import PredictionSources


def outside_probabilities(
    features: np.ndarray, labels: np.ndarray, tiles: np.ndarray, n_classes: int
) -> np.ndarray:
    """Predict tiles by a logistic regression that learnt the pseudo labels of others [M, C].

    The tiles are of no group that was learnt from, so the probabilities are out of sample. As in
    `baselines.suspected_labels` the features are standardised. features: [N, E] of the labelled
    tiles; labels: [N]; tiles: features [M, E]. With labels of one class that is certain.
    """
    present = np.unique(labels)
    probs = np.zeros((len(tiles), n_classes))
    if len(present) == 1:
        probs[:, present] = 1.0
        return probs
    classifier = logistic_regression().fit(np.asarray(features, np.float32), labels)
    probs[:, present] = classifier.predict_proba(np.asarray(tiles, np.float32))
    return probs


def collect_at_shift(
    folder: Path,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    train_tiles: np.ndarray,
    test_tiles: np.ndarray,
    seed: int,
) -> dict[str, PredictionSources]:
    """Repeat filters and training on shifted tiles, as in `16_robustness`, and `collect`.

    folder: of `trials.embed_shifted`; settings: keep_ratio, threshold, cross_weight and n_steps.
    """
    steps, keep_ratio = settings["n_steps"], settings["keep_ratio"]
    setup = setups.frozen(folder, train_tiles, len(class_names), steps=steps, seed=seed)
    inputs = FilterInputs.load(folder, train_tiles, keep_ratio=keep_ratio, seed=seed)
    objective = HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"])
    trained = {}
    for variant, rules in VARIANTS.items():
        pseudo = filter_tiles(inputs, rules)
        trained[variant] = train_vlm_cpl(
            inputs, setup, class_names, objective=objective, pseudo=pseudo, tiles=test_tiles
        )
    return collect(folder, setup, trained, test_tiles, seed=seed)


def collect(
    folder: Path,
    setup: TrainingSetup,
    trained: Mapping[str, TrainedVlmCpl],
    test_tiles: np.ndarray,
    *,
    seed: int,
) -> dict[str, PredictionSources]:
    """Collect what prompts, views, clusters and networks of each variant predict.

    The lift clusters are of training and test tiles together: no label is needed for them, and the
    test tiles alone may be few.

    Parameters
    ----------
    folder : with the features and votes of all tiles, of the run or shifted.
    setup : of the networks.
    test_tiles : [M], tile numbers.
    """
    train_tiles = next(iter(trained.values())).pseudo.tile.values
    both = np.concatenate([train_tiles, test_tiles])
    inputs = FilterInputs.load(folder, both, keep_ratio=1.0, seed=seed)
    inputs = replace(inputs, candidates=np.ones(len(both), bool))
    features, view_probs = inputs.backbone_features, inputs.view_probs
    assert features is not None
    clusters = cluster_labels(inputs, VARIANTS["ours"], inputs.prompt_labels, inputs.candidates)
    n, probs = len(train_tiles), np.load(folder / "probs.npy", mmap_mode="r", allow_pickle=False)
    sources = {}
    for variant, own in trained.items():
        labels = own.training_labels
        learnt = np.flatnonzero(labels != UNLABELLED)
        sources[variant] = PredictionSources(
            members=predict_members(own.networks, setup.reader, test_tiles)[0],
            views=predict_views(own.networks, setup, test_tiles),
            prompts=np.asarray(probs[test_tiles]),
            view_labels=view_probs[n:].argmax(1),
            cluster_labels=clusters[n:],
            outside=outside_probabilities(
                features[learnt], labels[learnt], features[n:], view_probs.shape[1]
            ),
        )
    return sources


def read_predictions(
    dataset: str, vlm: str, tiles: np.ndarray, *, seed: int, fold: int
) -> pd.DataFrame:
    """Read the classes of some tiles [M] by another run, a column for each variant.

    Raises FileNotFoundError naming the run that is missing.
    """
    file = paths.run_folder(dataset, vlm, seed, fold) / "predictions.parquet"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: run 13_high_confidence_cross_supervision with vlm={vlm} first, "
            f"with the same dataset, seed {seed} and fold {fold}"
        )
    table = pd.read_parquet(file).set_index("tile").loc[tiles]
    return pd.DataFrame({variant: table[f"{variant}_label"] for variant in VARIANTS})
