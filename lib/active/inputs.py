"""What the strategies look at: predictions of the pool, of its random views and with dropout."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lib.active.pool import Pool
from lib.active.strategies import WANT_DROPOUT, WANT_FROZEN, WANT_VIEWS
from lib.blocks import Rows
from lib.learning.networks import predict_members
from lib.learning.samplers import PlainReader
from lib.learning.setups import TrainingSetup

N_VIEWS = 5
N_DROPOUTS, DROPOUT = 3, 0.75  # of DropQuery


def make_pool(
    strategy: str,
    networks: Sequence[Any],
    setup: TrainingSetup,
    tiles: np.ndarray,
    *,
    labels: np.ndarray,
    unlabelled_mask: np.ndarray,
    seed: int,
) -> Pool:
    """Predict the pool, with all that a strategy wants beside the plain predictions.

    Parameters
    ----------
    tiles, labels, unlabelled_mask : [N], see `pool.Pool`.
    seed : of the dropout.
    """
    more: dict[str, np.ndarray] = {}
    if strategy in WANT_VIEWS:
        more["per_view_probs"] = predict_views(networks, setup, tiles)
    if strategy in WANT_DROPOUT:
        more["dropout_probs"] = predict_with_dropout(networks, setup.reader, tiles, seed=seed)
    predicted = predict_members(networks, setup.reader, tiles)
    pool = Pool(*predicted, labels, unlabelled_mask, **more)
    frozen: Any = frozen_features(setup.reader, tiles) if strategy in WANT_FROZEN else None
    return pool if frozen is None else replace(pool, features=frozen)


def frozen_features(reader: PlainReader, tiles: np.ndarray) -> Rows | None:
    """Features of the tiles [N, E]; None for pixels, whose distances say little of classes."""
    frozen = reader(tiles[:1]).ndim == 2
    return Rows(lambda some: reader(some).cpu().numpy(), tiles) if frozen else None


def predict_views(
    networks: Sequence[Any], setup: TrainingSetup, tiles: np.ndarray, n_views: int = N_VIEWS
) -> np.ndarray:
    """Predict the same random views of each tile by every network, softmaxes [K · V, N, C].

    The views are the sampler's: with frozen features those that the consensus has computed.
    """

    def read(view: int, wanted: np.ndarray) -> torch.Tensor:
        return setup.sampler(wanted, 0, view)

    views = [predict_members(networks, partial(read, view), tiles)[0] for view in range(n_views)]
    return np.concatenate(views)


@torch.inference_mode()
def predict_with_dropout(
    networks: Sequence[Any], reader: PlainReader, tiles: np.ndarray, *, seed: int
) -> np.ndarray:
    """Predict the tiles with dropout before the heads, mean of the networks, float32 [M, N, C].

    See `strategies.drop_query`; M = 3, three quarters of the features are dropped.
    """
    device, batch_size = next(networks[0].parameters()).device, 256
    batches = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(tiles), batch_size):
            inputs = reader(tiles[start : start + batch_size]).to(device)
            members = []
            for network in networks:
                features = network.body(network.standardised(inputs))
                dropped = F.dropout(features.expand(N_DROPOUTS, *features.shape), DROPOUT)
                members.append(torch.softmax(network.head(dropped).float(), dim=2))
            batches.append(torch.stack(members).mean(0).cpu().numpy())
    return np.concatenate(batches, axis=1)
