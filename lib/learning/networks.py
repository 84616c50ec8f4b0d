"""Classifiers of pixels or features, and their predictions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.artefacts import atomic
from lib.learning.samplers import PlainReader
from lib.random_draws import mixed_seed

HIDDEN = 64  # features of a head


class Classifier(nn.Module):
    """A body that turns standardised inputs into features [B, F], and a linear head: logits [B, C].

    mean, std: broadcast against one input; basis: what standardised inputs are multiplied by, or
    None; buffers, which are saved with the weights, not learnt.
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
        basis: Tensor | None = None,
    ):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.basis: Tensor | None
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        self.register_buffer("basis", basis)
        self.body = body
        self.head = nn.Linear(n_features, n_classes)
        self.projector = nn.Linear(n_features, projection, bias=False) if projection else None

    def standardised(self, inputs: Tensor) -> Tensor:
        """Inputs as the body takes them."""
        scaled = (inputs - self.mean) / self.std
        return scaled if self.basis is None else scaled @ self.basis

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits, features = self.forward_features(inputs)
        return logits if self.projector is None else (logits, features)

    def forward_features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the projections [B, P], without a projector the features [B, F]."""
        features = self.body(self.standardised(inputs))
        return self.head(features), features if self.projector is None else self.projector(features)


def frozen_head(
    mean: np.ndarray | Tensor,
    std: np.ndarray | Tensor,
    basis: np.ndarray | Tensor,
    n_classes: int,
    *,
    projection: int = 0,
) -> Classifier:
    """One hidden layer on principal components of the features [B, E] of a frozen encoder.

    mean, std: [E], and basis: [E, D], of the training features, see `samplers.FeatureViews`.
    """
    mean, std, basis = map(torch.as_tensor, (mean, std, basis))
    body = nn.Sequential(nn.Linear(basis.shape[1], HIDDEN), nn.ReLU())
    return Classifier(body, HIDDEN, n_classes, mean, std, projection, basis.float())


def new_networks(make_network: Callable[[], nn.Module], seed: int) -> list[nn.Module]:
    """Both networks as a training with this seed starts them."""
    networks = []
    with torch.random.fork_rng([]):
        for network in range(2):
            torch.default_generator.manual_seed(mixed_seed(seed, network))
            networks.append(make_network())
    return networks


def save_networks(networks: Sequence[nn.Module], curve: pd.DataFrame, folder: Path) -> None:
    """Write network_a.safetensors, of a pair network_b.safetensors too, and curve.parquet."""
    for letter, network in zip("ab", networks, strict=False):
        with atomic(folder / f"network_{letter}.safetensors") as file:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    with atomic(folder / "curve.parquet") as file:
        curve.to_parquet(file)


@torch.inference_mode()
def _outputs(
    networks: Sequence[Any], reader: PlainReader, tiles: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, Sequence[Tensor]]]:
    """Softmaxes [K, B, C] of a batch of tiles, and the features of each network."""
    device = next(networks[0].parameters()).device
    for start in range(0, max(1, len(tiles)), batch_size):  # once for no tile: shapes are kept
        inputs = reader(tiles[start : start + batch_size]).to(device)
        outputs = (network.forward_features(inputs) for network in networks)
        logits, members = zip(*outputs, strict=True)
        yield torch.softmax(torch.stack(logits).float(), dim=2).cpu().numpy(), members


def predict_members(
    networks: Sequence[Any], reader: PlainReader, tiles: np.ndarray, *, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Softmaxes of each of K networks, float32 [K, N, C], and features of the tiles, float32.

    The features are the mean of the projections [N, P], which the class-wise contrast brought
    together, or without projectors the features of all bodies, concatenated [N, K · F].
    """
    projected, start = networks[0].projector is not None, 0
    for own, members in _outputs(networks, reader, tiles, batch_size):
        joined = torch.stack([*members]).mean(0) if projected else torch.cat([*members], dim=1)
        if not start:  # joined at the end they would take their room twice
            probs = np.empty((len(own), len(tiles), own.shape[2]), np.float32)
            features = np.empty((len(tiles), joined.shape[1]), np.float32)
        end = start + len(joined)
        probs[:, start:end], features[start:end] = own, joined.float().cpu().numpy()
        start = end
    return probs, features


def predict(
    networks: Sequence[Any], reader: PlainReader, tiles: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Mean of the networks' softmaxes, float32 [N, C]."""
    outputs = _outputs(networks, reader, tiles, batch_size)
    return np.concatenate([probs.mean(0) for probs, _ in outputs])
