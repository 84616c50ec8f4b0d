"""Several opinions on the test tiles of a run, as they are and shifted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from lib import paths
from lib.active.inputs import view_probabilities
from lib.artefacts import scratch_folder
from lib.clusters import lift_labels
from lib.consensus import VARIANTS
from lib.labels import UNLABELLED
from lib.learning import setups
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.learning.networks import predict_members
from lib.learning.setups import TrainingSetup
from lib.learning.trials import FilterInputs
from lib.quality.estimates import PredictionSources

# Networks of each setting, and the label of every training tile that they learnt from [N].
Trained = Mapping[str, tuple[Sequence[nn.Module], np.ndarray]]


def outside_probabilities(
    features: np.ndarray, labels: np.ndarray, tiles: np.ndarray, n_classes: int
) -> np.ndarray:
    """Of tiles by a logistic regression that learnt the pseudo labels of others, float64 [M, C].

    The tiles are of no group that was learnt from, so the probabilities are out of sample. As in
    `baselines.suspected_labels` the features are standardised. features: [N, E] of the labelled
    tiles; labels: [N]; tiles: features [M, E]. With labels of one class that is certain.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    present = np.unique(labels)
    probs = np.zeros((len(tiles), n_classes))
    if len(present) == 1:
        probs[:, present] = 1.0
        return probs
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    classifier.fit(np.asarray(features, np.float32), labels)
    probs[:, present] = classifier.predict_proba(np.asarray(tiles, np.float32))
    return probs


def load_trained(
    folder: Path, setup: TrainingSetup, pseudo: pd.DataFrame, train_tiles: np.ndarray
) -> Trained:
    """The networks that `13_high_confidence_cross_supervision` left, in each setting.

    folder: with a folder of networks per setting; pseudo: from `consensus.pseudo_label_table`.
    Raises FileNotFoundError where networks are missing.
    """
    trained = {}
    for setting in VARIANTS:
        place = folder / paths.file_name(setting)
        networks = setups.load_networks(setup, place)
        if len(networks) != 2:
            raise FileNotFoundError(
                f"{place} holds {len(networks)} of 2 networks: run "
                "13_high_confidence_cross_supervision of this fold again"
            )
        subset = pseudo[pseudo.setting == setting].set_index("tile").loc[train_tiles]
        trained[setting] = networks, np.where(subset.kept, subset.label, UNLABELLED)
    return trained


def train_at_shift(
    folder: Path,
    setup: TrainingSetup,
    train_tiles: np.ndarray,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> Trained:
    """Filters and training repeated on the tiles of a folder, in each setting, networks included.

    As in `16_robustness`, which keeps no networks of shifted tiles. folder: of
    `trials.embed_shifted`; settings: of the run.
    """
    evidence = FilterInputs.load(folder, train_tiles, keep_ratio=settings["keep_ratio"], seed=seed)
    objective = HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"])
    trained = {}
    for setting, rules in VARIANTS.items():
        labels = evidence.pseudo_labels("mvc+pfc", **rules)
        given = objective, setup, train_tiles, labels, class_names
        with scratch_folder() as scratch:
            trained[setting] = setups.fit(*given, scratch, seed=seed), labels
    return trained


def collect_at_shift(
    folder: Path,
    train_tiles: np.ndarray,
    test_tiles: np.ndarray,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> dict[str, PredictionSources]:
    """`collect` shifted tiles, by networks that are trained anew on them; see `train_at_shift`."""
    steps = settings["n_steps"]
    setup = setups.frozen(folder, train_tiles, len(class_names), steps=steps, seed=seed)
    trained = train_at_shift(folder, setup, train_tiles, class_names, settings, seed=seed)
    return collect(folder, setup, trained, train_tiles, test_tiles, seed=seed)


def collect(
    folder: Path,
    setup: TrainingSetup,
    trained: Trained,
    train_tiles: np.ndarray,
    test_tiles: np.ndarray,
    *,
    seed: int,
) -> dict[str, PredictionSources]:
    """What prompts, views, clusters and networks say of the test tiles, in each setting.

    folder: with the features and votes of all tiles, of the run or shifted. The lift clusters are
    of training and test tiles together: no label is needed for them, and the test tiles alone may
    be few.
    """

    def load(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    features, view_probs, rules = load("backbone_features"), load("view_probs"), VARIANTS["ours"]
    both = np.concatenate([train_tiles, test_tiles])
    clusters = lift_labels(
        features[both], view_probs[both], clusters_per_class=rules["clusters_per_class"],
        seed=seed, tiles=both,
    )[len(train_tiles) :]  # fmt: skip
    found = {}
    for setting, (networks, labels) in trained.items():
        known = labels != UNLABELLED
        found[setting] = PredictionSources(
            members=predict_members(networks, setup.reader, test_tiles)[0],
            views=view_probabilities(networks, setup, test_tiles),
            prompts=np.asarray(load("probs")[test_tiles]),
            view_labels=view_probs[test_tiles].argmax(1),
            cluster_labels=clusters,
            outside=outside_probabilities(
                features[train_tiles[known]], labels[known], features[test_tiles],
                view_probs.shape[1],
            ),
        )  # fmt: skip
    return found


def read_predictions(
    dataset: str, vlm: str, seed: int, fold: int, tiles: np.ndarray
) -> pd.DataFrame:
    """Classes of some tiles by another run, a column for each setting; tiles: [M].

    Raises FileNotFoundError naming the run that is missing.
    """
    file = paths.run_folder(dataset, vlm, seed, fold) / "predictions.parquet"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: run 13_high_confidence_cross_supervision with vlm={vlm} first, "
            f"with the same dataset, seed {seed} and fold {fold}"
        )
    table = pd.read_parquet(file).set_index("tile").loc[tiles]
    return pd.DataFrame({setting: table[f"{setting}_label"] for setting in VARIANTS})
