"""What the networks learn from: losses, and the objectives that give each network its own.

A loss is a function of logits. An objective is what `lib.training.train` minimises: it names how
many `networks` it trains and, from their outputs on one batch, returns the loss of each network and
the pseudo labels that it gave to the unlabelled tiles. The rows of a batch are first the labelled
tiles, then the unlabelled ones; `progress` is the share of the steps that are done.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.consensus import NONE

# --- losses --------------------------------------------------------------------------------------


def confident_labels(logits: Tensor, threshold: float) -> Tensor:
    """argmax_c p_c where max_c p_c > `threshold`, else `NONE`: int64 [B] from [B, C]; detached."""
    best, labels = torch.softmax(logits.detach(), dim=1).max(dim=1)
    return torch.where(best > threshold, labels, NONE)


def cross_supervision(logits: Tensor, partner_logits: Tensor, threshold: float) -> Tensor:
    """High-confidence cross supervision of one network by the other (VLM-CPL, arXiv 2403.15836).

    1/B Σ_i 1[max_c p_c(partner) > γ] · CE(own logits_i, argmax_c p_c(partner)): a mean over the
    whole unlabelled batch, so that few confident tiles weigh little. The partner gets no gradient.
    logits, partner_logits: [B, C]; returns a scalar, 0 for an empty batch.
    """
    labels = confident_labels(partner_logits, threshold)
    losses = F.cross_entropy(logits, labels, ignore_index=NONE, reduction="sum")
    return losses / max(1, len(logits))


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """Mean of (1 − p_y^q) / q (Zhang and Sabuncu, NeurIPS 2018), q in (0, 1].

    Cross-entropy as q → 0, the mean absolute error at q = 1. logits: [B, C]; labels: [B].
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])
    return (-torch.expm1(q * log_p) / q).mean()  # through the logarithm: p = 0 keeps its gradient


# --- objectives ----------------------------------------------------------------------------------


class Supervised(nn.Module):
    """One network, a loss of (logits, labels) on the labelled tiles; the baselines' objective."""

    networks = 1

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy):
        super().__init__()
        self.loss = loss

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        loss = self.loss(outputs[0][: len(labels)], labels)
        return loss[None], _no_pseudo_labels(outputs, labels)

    def extra_repr(self) -> str:
        return getattr(self.loss, "__name__", repr(self.loss))


class EarlyLearningRegularisation(nn.Module):
    """One network, early-learning regularisation (Liu et al., NeurIPS 2020).

    CE + λ/B Σ_i log(1 − ⟨p_i, t_i⟩), where the target of each tile runs along as
    t ← β t + (1 − β) p, p detached, updated before it is used as in the authors' code. The targets
    [n_tiles, C] are state, which checkpoints hold; `rows` says which of them a batch is about.
    Deviation: p is clamped below 1 only where the logarithm needs it, not throughout.
    """

    networks = 1

    def __init__(self, n_tiles: int, n_classes: int, weight: float = 3.0, momentum: float = 0.7):
        super().__init__()
        self.weight, self.momentum = weight, momentum
        self.targets: Tensor
        self.register_buffer("targets", torch.zeros(n_tiles, n_classes))

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        logits = outputs[0][: len(labels)]
        probs = torch.softmax(logits, dim=1)
        new = self.momentum * self.targets[rows] + (1 - self.momentum) * probs.detach()
        self.targets[rows] = new
        agreement = (probs * new).sum(1).clamp(max=1 - 1e-4)
        loss = F.cross_entropy(logits, labels) + self.weight * torch.log1p(-agreement).mean()
        return loss[None], _no_pseudo_labels(outputs, labels)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, momentum={self.momentum}"


class HighConfidenceCrossSupervision(nn.Module):
    """Two networks, each taught by the labels and by the other's confident pseudo labels (VLM-CPL).

    L = CE(labelled) + λ(t) · `cross_supervision`(unlabelled), λ(t) = 0 for the share `warm_up` of
    the steps and `weight` after it. Neither the authors' code nor their text gives γ (`threshold`),
    λ or a warm-up: ours are the confidence of FixMatch, and the weight and start (epoch 15 of 200)
    of the authors' code for UniSAL.
    """

    networks = 2

    def __init__(self, threshold: float = 0.95, weight: float = 0.5, warm_up: float = 0.075):
        super().__init__()
        self.threshold, self.weight, self.warm_up = threshold, weight, warm_up

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        n = len(labels)
        weight = self.weight if progress >= self.warm_up else 0.0
        losses = [
            F.cross_entropy(own[:n], labels)
            + weight * cross_supervision(own[n:], partner[n:], self.threshold)
            for own, partner in (outputs, outputs[::-1])
        ]
        pseudo = [confident_labels(own[n:], self.threshold) for own in outputs]
        return torch.stack(losses), torch.stack(pseudo)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, weight={self.weight}, warm_up={self.warm_up}"


def _no_pseudo_labels(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    return labels.new_full((len(outputs), len(outputs[0]) - len(labels)), NONE)
