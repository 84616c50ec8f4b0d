"""From tiles to slides: poolings of probabilities, and gated attention learnt from labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.learning.batches import Schedule
from lib.learning.networks import Classifier
from lib.learning.samplers import feature_statistics, mapped
from lib.learning.setups import TrainingSetup
from lib.random_draws import BAGS, tile_draws

BATCH = 32  # slides; a cohort is small
TOP_J = (1, 5, 10, 50, 100)  # as in MI-Zero (CVPR 2023)


# --- without learning ----------------------------------------------------------------------------


def mean_pooling(probs: np.ndarray) -> np.ndarray:
    """Mean of the tile probabilities, [C] from [N, C] (VLM-CPL)."""
    return probs.mean(0)


def top_j_pooling(probs: np.ndarray, j: int) -> np.ndarray:
    """Mean of each class over the j tiles in which it is most probable, made to add up to one.

    [C] from [N, C]; all tiles where there are fewer than j (MI-Zero, CVPR 2023).
    """
    top = -np.sort(-probs, axis=0)[:j]
    means = top.mean(0)
    return means / means.sum()


def tile_share(probs: np.ndarray) -> np.ndarray:
    """Share of the tiles that each class is most probable in, [C] from [N, C] (KEEP)."""
    return np.bincount(probs.argmax(1), minlength=probs.shape[1]) / len(probs)


def poolings() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """All of them, by the name that the record calls them by."""
    top = {f"top-{j}": partial(top_j_pooling, j=j) for j in TOP_J}
    return {"mean": mean_pooling, "share": tile_share, **top}


def pool_slides(
    probs: np.ndarray,
    slide_of: np.ndarray,
    n_slides: int,
    pooling: Callable[[np.ndarray], np.ndarray] = mean_pooling,
) -> np.ndarray:
    """Probabilities of each slide, float64 [S, C].

    probs: [N, C], of the tiles that count; slide_of: int [N]. A slide of which no tile counts has
    equal probabilities: nothing is known of it.
    """
    pooled = np.full((n_slides, probs.shape[1]), 1 / probs.shape[1])
    order = np.argsort(slide_of, kind="stable")
    slides, starts = np.unique(slide_of[order], return_index=True)
    for slide, rows in zip(slides, np.split(order, starts[1:]), strict=True):
        pooled[slide] = pooling(np.asarray(probs[rows], np.float64))
    return pooled


# --- gated attention -----------------------------------------------------------------------------


class AttentionClassifier(Classifier):
    """Gated attention over tiles and a linear head (Ilse et al., ICML 2018, Eq. 8 and 9).

    z = Σ_k a_k h_k with a_k = softmax_k( wᵀ ( tanh(V h_k) ⊙ sigm(U h_k) ) ); h_k: one hidden layer
    on the standardised features of tile k. Inputs: [B, T, E + 1], features and in the last place 1
    for a tile, 0 for padding, whose features count for nothing. mean, std: [E], buffers.
    """

    def __init__(
        self, mean: Tensor, std: Tensor, n_classes: int, hidden: int = 256, attention: int = 128
    ):
        body = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU())
        super().__init__(body, hidden, n_classes, mean, std)
        self.tanh = nn.Linear(hidden, attention)
        self.gate = nn.Linear(hidden, attention)
        self.weight = nn.Linear(attention, 1, bias=False)

    def forward_features(self, bags: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and attention [B, T], which adds up to one over the tiles of a slide.

        A slide without a tile pools nothing: its logits are those of the head's bias.
        """
        inside = bags[..., -1] > 0
        tiles = self.body((bags[..., :-1] - self.mean) / self.std)
        gated = torch.tanh(self.tanh(tiles)) * torch.sigmoid(self.gate(tiles))
        scores = self.weight(gated)[..., 0].masked_fill(~inside, -torch.inf)
        attention = torch.softmax(scores, dim=1).nan_to_num()
        pooled = (attention[..., None] * tiles).sum(1)
        return self.head(pooled), attention


@dataclass(frozen=True)
class Bags:
    """Features of the tiles of slides: [M, E] in a file, and the rows of each slide.

    rows: per slide the rows of its tiles, perhaps none. Numbers of slides index `rows`.
    """

    file: Path
    rows: tuple[np.ndarray, ...]

    def padded(self, chosen: list[np.ndarray]) -> Tensor:
        """[B, T, E + 1] of some rows for each slide, padded to the longest; see the network."""
        features = mapped(self.file)
        longest = max(1, *map(len, chosen))
        bags = torch.zeros(len(chosen), longest, features.shape[1] + 1)
        for bag, rows in zip(bags, chosen, strict=True):
            bag[: len(rows), :-1] = torch.from_numpy(np.asarray(features[rows], np.float32))
            bag[: len(rows), -1] = 1
        return bags

    def sample(
        self, slides: np.ndarray, network: int, step: int, *, seed: int, max_tiles: int
    ) -> Tensor:
        """Bags of slides [B] for a step of training, of at most `max_tiles` tiles drawn by chance.

        The draws depend on tile, network, step and seed alone.
        """
        chosen = []
        for slide in slides:
            rows = self.rows[slide]
            if len(rows) > max_tiles:
                draws = tile_draws(rows, 1, seed, BAGS + 2 * step + network)[:, 0]
                rows = np.sort(rows[np.argpartition(draws, max_tiles)[:max_tiles]])
            chosen.append(rows)
        return self.padded(chosen)


def attention_setup(
    bags: Bags, slides: np.ndarray, n_classes: int, *, steps: int, seed: int, max_tiles: int = 256
) -> TrainingSetup:
    """Attention classifiers on the features of slides, for `trainer.train`; its tiles are slides.

    slides: [S], those to train on; only their tiles give the mean and deviation that features are
    standardised by; a step draws no more of them than there are. max_tiles: of a slide in a step.
    Raises ValueError where no slide has a tile.
    """
    rows = np.concatenate([bags.rows[slide] for slide in slides])
    if not len(rows):
        raise ValueError("no slide to train on has a tile that counts")
    mean, std = feature_statistics(mapped(bags.file)[None], rows)
    return TrainingSetup(
        partial(AttentionClassifier, torch.as_tensor(mean), torch.as_tensor(std), n_classes),
        partial(bags.sample, seed=seed, max_tiles=max_tiles),
        lambda chosen: bags.padded([bags.rows[slide] for slide in chosen]),
        Schedule(steps=steps, batch_size=min(BATCH, 2 * len(slides))),  # half of it has labels
    )


@torch.inference_mode()
def predict_slides(
    networks: Sequence[Any], bags: Bags, slides: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean softmax of the networks, float32 [S, C], and their mean attention to each tile.

    The attention of a slide is in the order of its rows. All tiles count, one slide at a time. A
    slide without a tile has equal probabilities: nothing is known of it.
    """
    probs, attention = [], []
    for slide in slides:
        bag = bags.padded([bags.rows[slide]])
        outputs = [network.forward_features(bag.to(network.mean.device)) for network in networks]
        mean = torch.stack([torch.softmax(logits[0], dim=0) for logits, _ in outputs]).mean(0)
        n_tiles = len(bags.rows[slide])
        probs.append(mean if n_tiles else torch.full_like(mean, 1 / len(mean)))
        weights = torch.stack([weight[0] for _, weight in outputs]).mean(0)
        attention.append(weights[:n_tiles].cpu().numpy())
    return torch.stack(probs).cpu().numpy(), attention
