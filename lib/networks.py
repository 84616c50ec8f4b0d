"""Classifiers: pixels or features in, logits out; and predictions of several of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from lib import stand_in
from lib.inputs import Read


class Classifier(nn.Module):
    """A body that turns standardised inputs into features [B, F], and a linear head: logits [B, C].

    mean, std: broadcast against one input; buffers, which are saved with the weights, not learnt.
    With a `projection` size P a linear projector without bias stands beside the head (UniSAL: 128),
    and the output is the pair (logits, projections [B, P]).
    """

    def __init__(
        self,
        body: nn.Module,
        n_features: int,
        n_classes: int,
        mean: Tensor,
        std: Tensor,
        projection: int = 0,
    ):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        self.body = body
        self.head = nn.Linear(n_features, n_classes)
        self.projector = nn.Linear(n_features, projection, bias=False) if projection else None

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits, features = self.look(inputs)
        return logits if self.projector is None else (logits, features)

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the projections [B, P], without a projector the features [B, F]."""
        features = self.body((inputs - self.mean) / self.std)
        return self.head(features), features if self.projector is None else self.projector(features)


def frozen_head(
    mean: np.ndarray | Tensor,
    std: np.ndarray | Tensor,
    n_classes: int,
    *,
    hidden: int = 256,
    projection: int = 0,
) -> Classifier:
    """One hidden layer on the standardised features [B, E] of a frozen encoder.

    mean, std: [E], of the training features (`feature_statistics`).
    """
    mean, std = torch.as_tensor(mean), torch.as_tensor(std)
    body = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU())
    return Classifier(body, hidden, n_classes, mean, std, projection)


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


def fine_tune_network(
    n_classes: int, name: str = stand_in.IMAGE_TOWER, *, projection: int = 0
) -> Classifier:
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
    return Classifier(backbone, backbone.num_features, n_classes, mean, std, projection)


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


@torch.inference_mode()
def predict_each(
    networks: Sequence[Any], read: Read, tiles: np.ndarray, *, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """What each of K networks says of the tiles, and features of them, in evaluation mode.

    `read(tiles)` gives the tiles as they are. Returns softmaxes, float32 [K, N, C], and features,
    float32: the mean of the projections [N, P], which the class-wise contrast brought together, or
    without projectors the features of all bodies side by side [N, K · F].
    """
    device = next(networks[0].parameters()).device
    probs, features = [], []
    for start in range(0, len(tiles), batch_size):
        inputs = read(tiles[start : start + batch_size]).to(device)
        logits, seen = zip(*(network.look(inputs) for network in networks), strict=True)
        probs.append(torch.softmax(torch.stack(logits).float(), dim=2).cpu().numpy())
        projected = networks[0].projector is not None
        together = torch.stack(seen).mean(0) if projected else torch.cat(seen, dim=1)
        features.append(together.float().cpu().numpy())
    return np.concatenate(probs, axis=1), np.concatenate(features)


def predict(networks: Sequence[Any], read: Read, tiles: np.ndarray) -> np.ndarray:
    """Mean of the networks' softmaxes, float32 [N, C]; see `predict_each`."""
    return predict_each(networks, read, tiles)[0].mean(0)
