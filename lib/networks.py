"""Classifiers: pixels or features in, logits out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from lib import stand_in


class Classifier(nn.Module):
    """A body that turns standardised inputs into features [B, F], and a linear head: logits [B, C].

    mean, std: broadcast against one input; buffers, which are saved with the weights, not learnt.
    """

    def __init__(self, body: nn.Module, n_features: int, n_classes: int, mean: Tensor, std: Tensor):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        self.body = body
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body((inputs - self.mean) / self.std))


def frozen_head(
    mean: np.ndarray | Tensor, std: np.ndarray | Tensor, n_classes: int, *, hidden: int = 256
) -> Classifier:
    """One hidden layer on the standardised features [B, E] of a frozen encoder.

    mean, std: [E], of the training features (`feature_statistics`).
    """
    mean, std = torch.as_tensor(mean), torch.as_tensor(std)
    body = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU())
    return Classifier(body, hidden, n_classes, mean, std)


def feature_statistics(features: np.ndarray, chunk: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [E] of features [..., E], float32, a chunk of rows at a time.

    A feature that never changes gets the standard deviation 1.
    """
    rows = features.reshape(-1, features.shape[-1])
    # Shifted by the first row: sums of squares about a far-off origin lose their digits.
    shift = rows[0].astype(np.float64)
    total, squares = np.zeros_like(shift), np.zeros_like(shift)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk] - shift
        total += part.sum(0)
        squares += (part**2).sum(0)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    std[std < 1e-6] = 1
    return (shift + mean).astype(np.float32), std.astype(np.float32)


def fine_tune_network(n_classes: int, name: str = stand_in.IMAGE_TOWER) -> Classifier:
    """A timm backbone with ImageNet weights on pixels [B, 3, H, W] in 0 … 1.

    `tf_efficientnet_lite0` takes its weights from the installed package; any other name downloads
    its own. Raises RuntimeError when those are out of reach.
    """
    if name == stand_in.IMAGE_TOWER:
        backbone: Any = timm.create_model(name, num_classes=0)
        backbone.load_state_dict(stand_in.packaged_image_weights(backbone))
    else:
        backbone = _downloaded(name)
    about = timm.data.resolve_model_data_config(backbone)
    mean, std = _per_channel(about["mean"]), _per_channel(about["std"])
    backbone.to(memory_format=torch.channels_last)
    return Classifier(backbone, backbone.num_features, n_classes, mean, std)


def _downloaded(name: str) -> Any:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's, the network's and timm's own errors share no class
        raise RuntimeError(
            f"the backbone {name!r} or its weights are out of reach ({error}). Use a name of "
            f"timm.list_pretrained() with a connection, or {stand_in.IMAGE_TOWER!r} without"
        ) from error


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
