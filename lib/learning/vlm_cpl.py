"""VLM-CPL in one call: filter the pseudo labels, train two networks, raise the alarm."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from lib.alarm import Alarm, label_free_alarms
from lib.consensus import FilterInputs, filter_tiles
from lib.labels import missing_classes_expected
from lib.learning.batches import TrainingTiles
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.learning.networks import predict
from lib.learning.setups import Training, TrainingSetup, load_networks, train_all


@dataclass(frozen=True)
class TrainedVlmCpl:
    """What a training leaves.

    networks: two, in evaluation mode; pseudo: from `consensus.filter_tiles`; probs: [M, C], of the
    tiles to predict; alarms: what is suspicious; curve: see `trainer.train`, empty where
    the networks were read.
    """

    networks: Sequence[nn.Module]
    pseudo: pd.DataFrame
    probs: np.ndarray
    alarms: Sequence[Alarm]
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def training_labels(self) -> np.ndarray:
        """Label of each training tile, [N], `UNLABELLED` without one."""
        return self.pseudo.training_label.values


def train_vlm_cpl(
    inputs: FilterInputs,
    setup: TrainingSetup,
    class_names: Sequence[str],
    *,
    objective: HighConfidenceCrossSupervision | None = None,
    tiles: np.ndarray,
    pseudo: pd.DataFrame | None = None,
    folder: Path | None = None,
) -> TrainedVlmCpl:
    """Filter, train two networks by cross supervision, predict and raise the alarm.

    Parameters
    ----------
    inputs : of the N training tiles.
    setup : networks, views and schedule; its reader gives the tiles to predict.
    objective : with another threshold γ or weight λ than its defaults.
    tiles : int [M], numbers of the tiles to predict; a class that is predicted for none of them is
        an alarm.
    pseudo : from `consensus.filter_tiles`, by default in our variant. Where it has a column truth,
        that serves the curve alone.
    folder : for the networks; None: they are not kept.

    Raises
    ------
    ValueError
        When no tile is kept.
    """
    pseudo = filter_tiles(inputs) if pseudo is None else pseudo
    objective = objective or HighConfidenceCrossSupervision()
    truth = pseudo.truth.values if "truth" in pseudo else None
    with missing_classes_expected():  # an alarm says it
        labels = pseudo.training_label.values
        data = TrainingTiles(inputs.tiles, labels, class_names, truth)
    (trained,) = train_all([Training(setup, objective, data, inputs.seed, folder)])
    probs = predict(trained.networks, setup.reader, tiles)
    alarms = raise_alarms(inputs, pseudo, class_names, probs)
    return TrainedVlmCpl(trained.networks, pseudo, probs, alarms, trained.curve)


def read_vlm_cpl(
    inputs: FilterInputs,
    setup: TrainingSetup,
    class_names: Sequence[str],
    *,
    tiles: np.ndarray,
    pseudo: pd.DataFrame,
    folder: Path,
) -> TrainedVlmCpl:
    """Read what `train_vlm_cpl` has left in a folder, and predict; see there for the parameters.

    Raises FileNotFoundError where the networks are missing.
    """
    networks = load_networks(setup, folder)
    if len(networks) != 2:
        raise FileNotFoundError(
            f"{folder} holds {len(networks)} of 2 networks: run "
            "13_high_confidence_cross_supervision of this fold again"
        )
    probs = predict(networks, setup.reader, tiles)
    return TrainedVlmCpl(networks, pseudo, probs, raise_alarms(inputs, pseudo, class_names, probs))


def raise_alarms(
    inputs: FilterInputs,
    pseudo: pd.DataFrame,
    class_names: Sequence[str],
    probs: np.ndarray | None = None,
) -> list[Alarm]:
    """What is suspicious about pseudo labels and predictions, see `alarm.label_free_alarms`.

    probs: [M, C], of any tiles by the trained networks; None before the training.
    """
    return label_free_alarms(
        inputs.view_probs,
        pseudo.label.values,
        pseudo.kept.values,
        *inputs.lift_clusters(),
        class_names,
        predicted=probs,
    )
