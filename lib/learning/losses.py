"""Losses, functions of logits, and the objectives that a training minimises.

Leading axes are trainings that run side by side: [..., B, C] is a batch of one network or of many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.labels import UNLABELLED
from lib.learning.batches import TrainingTiles

# --- losses --------------------------------------------------------------------------------------


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p_y of each tile, 0 where it is `UNLABELLED`.

    logits: [..., B, C]; labels: [..., B]; returns [..., B].
    """
    log_p = F.log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -log_p.where(labels != UNLABELLED, 0)


def confident_labels(logits: Tensor, threshold: float) -> Tensor:
    """argmax_c p_c where max_c p_c > `threshold`, else `UNLABELLED`; detached.

    logits: [..., B, C]; returns int64 [..., B].
    """
    best, labels = torch.softmax(logits.detach(), dim=-1).max(dim=-1)
    return torch.where(best > threshold, labels, UNLABELLED)


def aligned_logits(logits: Tensor, marginal: Tensor, mean: Tensor, strength: float) -> Tensor:
    """Logits whose softmax is p · (q/p̄)^α, renormalised, p the softmax of `logits`.

    Distribution alignment (ReMixMatch, Berthelot et al., ICLR 2020, section 3.1), α = 1 there.
    logits: [..., B, C]; marginal: q [..., C]; mean: p̄ [..., C], of the predictions; strength: α.
    """
    ratio = marginal.clamp(min=1e-6) / mean.clamp(min=1e-6)
    return logits + strength * ratio.log()[..., None, :]


def shrunk_marginal(counts: Tensor, mean: Tensor, pseudo_counts: float) -> Tensor:
    """Mean of a Dirichlet posterior whose prior is centred on p̄: q = (n_c + κ p̄_c) / (n + κ).

    With few labels q stays near the predictions, which then are hardly moved. counts: n_c [..., C],
    of labels, n = Σ n_c; mean: p̄ [..., C]; pseudo_counts: κ.
    """
    n = counts.sum(-1, keepdim=True)
    return (counts + pseudo_counts * mean) / (n + pseudo_counts)


def cross_supervision(logits: Tensor, partner_logits: Tensor, threshold: float) -> Tensor:
    """High-confidence cross supervision of one network by the other (VLM-CPL, arXiv 2403.15836).

    1/B Σ_i 1[max_c p_c(partner) > γ] · CE(own logits_i, argmax_c p_c(partner)): a mean over the
    whole unlabelled batch, so that few confident tiles weigh little. The partner gets no gradient.
    logits, partner_logits: [..., B, C]; returns [...], 0 for an empty batch.
    """
    losses = cross_entropies(logits, confident_labels(partner_logits, threshold))
    return losses.sum(-1) / max(1, losses.shape[-1])


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """Mean of (1 − p_y^q) / q (Zhang and Sabuncu, NeurIPS 2018), q in (0, 1].

    Cross-entropy as q → 0, the mean absolute error at q = 1. logits: [..., B, C]; labels: [..., B];
    returns [...].
    """
    # Through the logarithm: p = 0 keeps its gradient.
    return (-torch.expm1(-q * cross_entropies(logits, labels)) / q).mean(-1)


def class_contrast(a: Tensor, b: Tensor, labels: Tensor, temperature: float = 0.15) -> Tensor:
    """Class-wise contrastive loss between two networks (UniSAL, Med. Image Anal. 102:103542).

    With s(u, v) = e^{cos(u, v)/T} and N_i = {j: y_j ≠ y_i}, the mean over the tiles i that have a
    label and an N_i of

        −log s(a_i, b_i) / ( s(a_i, b_i) + Σ_{j ∈ N_i} [ s(a_i, a_j) + s(b_i, b_j) ] )

    a, b: projections [..., B, P]; labels: [..., B], `UNLABELLED` for tiles that take no part.
    Returns [...], 0 where no two labels differ. Deviation: the authors' public loop takes j > i
    alone, leaves the last tile of the batch out and divides by one more than the count; this is the
    whole formula.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    known, one, other = labels != UNLABELLED, labels[..., :, None], labels[..., None, :]
    negative = (one != other) & known[..., :, None] & known[..., None, :]
    same_tile = (a * b).sum(-1, keepdim=True) / temperature
    others = [(z @ z.mT / temperature).masked_fill(~negative, -torch.inf) for z in (a, b)]
    losses = torch.logsumexp(torch.cat([same_tile, *others], dim=-1), dim=-1) - same_tile[..., 0]
    takes_part = negative.any(-1)
    return losses.where(takes_part, 0).sum(-1) / takes_part.sum(-1).clamp(min=1)


# --- objectives ----------------------------------------------------------------------------------
# All train two networks and are judged by the mean of both, so that what differs between two rows
# of a table is the objective and not the number of networks.

# Logits [..., 2, B, C] and projections [..., 2, B, P], if there are any, of both networks.
Outputs = tuple[Tensor, Tensor | None]


class Objective(Protocol):
    """What a training minimises. Two of equal settings are equal, and may run side by side.

    uses_unlabelled: whether a batch also holds tiles without a label.
    """

    uses_unlabelled: ClassVar[bool]

    def state(self, data: Sequence[TrainingTiles]) -> dict[str, Tensor]:
        """What is kept from step to step, with a leading axis for the trainings; often nothing."""
        ...

    def __call__(
        self,
        outputs: Outputs,
        labels: Tensor,
        progress: float,
        *,
        rows: Tensor | None = None,
        state: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss of each network [..., 2], and their pseudo labels of unlabelled tiles [..., 2, U].

        outputs: first of the L labelled tiles of the batch, then of the U unlabelled ones; labels:
        [..., L]; progress: the share of the steps that are done; rows: [..., L], which of the
        training tiles the labelled ones are; state: updated in place.
        """
        ...


class _Stateless:
    def state(self, data: Sequence[TrainingTiles]) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Supervised(_Stateless):
    """Cross-entropy of the labelled tiles, with q > 0 `generalised_cross_entropy`."""

    q: float = 0.0
    uses_unlabelled: ClassVar[bool] = False

    def __call__(
        self, outputs: Outputs, labels: Tensor, progress: float, **_: object
    ) -> tuple[Tensor, Tensor]:
        logits, each = _labelled(outputs, labels)
        if self.q:
            return generalised_cross_entropy(logits, each, self.q), _no_pseudo_labels(each)
        return cross_entropies(logits, each).mean(-1), _no_pseudo_labels(each)


@dataclass(frozen=True)
class EarlyLearningRegularisation:
    """Early-learning regularisation (Liu et al., NeurIPS 2020), for each network by itself.

    CE + λ/B Σ_i log(1 − ⟨p_i, t_i⟩), where the target of each tile runs along as
    t ← β t + (1 − β) p, p detached, updated before it is used as in the authors' code. λ is the
    `weight`, β the `momentum`. Deviation: p is clamped below 1 only where the logarithm needs it,
    not throughout.
    """

    weight: float = 3.0
    momentum: float = 0.7
    uses_unlabelled: ClassVar[bool] = False

    def state(self, data: Sequence[TrainingTiles]) -> dict[str, Tensor]:
        """Targets [trainings, 2, tiles, C], all zero."""
        sizes = {(len(tiles.tiles), len(tiles.class_names)) for tiles in data}
        n_tiles, n_classes = max(n for n, _ in sizes), max(c for _, c in sizes)
        return {"targets": torch.zeros(len(data), 2, n_tiles, n_classes)}

    def __call__(
        self,
        outputs: Outputs,
        labels: Tensor,
        progress: float,
        *,
        rows: Tensor,
        state: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        logits, each = _labelled(outputs, labels)
        probs = torch.softmax(logits, dim=-1)
        at = rows[:, None, :, None].expand_as(probs)
        new = self.momentum * state["targets"].gather(2, at) + (1 - self.momentum) * probs.detach()
        state["targets"].scatter_(2, at, new)
        agreement = (probs * new).sum(-1).clamp(max=1 - 1e-4)
        losses = cross_entropies(logits, each) + self.weight * torch.log1p(-agreement)
        return losses.mean(-1), _no_pseudo_labels(each)


@dataclass(frozen=True)
class CoTeaching(_Stateless):
    """Co-teaching (Han et al., NeurIPS 2018): each network learns what the other finds easy.

    Of a labelled batch each network picks the share R(t) with its smallest cross-entropy, and its
    partner learns from those: L_A = mean CE_A over the picks of B. R(t) = 1 − τ · min(t/t_k, 1),
    with τ the `forget_rate`, which ought to be the share of wrong labels, and t_k = `ramp` of all
    steps (10 of 200 epochs, as published). At least one tile is picked.
    """

    forget_rate: float = 0.2  # of the authors' code
    ramp: float = 0.05
    uses_unlabelled: ClassVar[bool] = False

    def __call__(
        self, outputs: Outputs, labels: Tensor, progress: float, **_: object
    ) -> tuple[Tensor, Tensor]:
        logits, each = _labelled(outputs, labels)
        share = 1 - self.forget_rate * min(progress / self.ramp, 1)
        n = max(1, int(share * each.shape[-1] + 1e-9))
        losses = cross_entropies(logits, each)
        easy = losses.detach().argsort(dim=-1, stable=True)[..., :n]
        return losses.gather(-1, easy.flip(-2)).mean(-1), _no_pseudo_labels(each)


@dataclass(frozen=True)
class HighConfidenceCrossSupervision(_Stateless):
    """Two networks, each taught by the labels and by the other's confident pseudo labels (VLM-CPL).

    L = CE(labelled) + λ(t) · `cross_supervision`(unlabelled), λ(t) = 0 for the share `warm_up` of
    the steps and `weight` after it. Neither the authors' code nor their text gives γ (`threshold`),
    λ or a warm-up: ours are the confidence that does best on the worlds of `make choose`, where
    heads are seldom as sure as the 0.95 of FixMatch, and the weight and start (epoch 15 of 200) of
    the authors' code for UniSAL.
    """

    threshold: float = 0.8
    weight: float = 0.5
    warm_up: float = 0.075
    uses_unlabelled: ClassVar[bool] = True

    def __call__(
        self,
        outputs: Outputs,
        labels: Tensor,
        progress: float,
        *,
        state: dict[str, Tensor] | None = None,
        **_: object,
    ) -> tuple[Tensor, Tensor]:
        logits, each = _labelled(outputs, labels)
        unlabelled = outputs[0][..., labels.shape[-1] :, :]
        teachers = self.teachers(unlabelled.detach(), state or {})
        weight = self.weight if progress >= self.warm_up else 0.0
        crossed = cross_supervision(unlabelled, teachers.flip(-3), self.threshold)
        losses = cross_entropies(logits, each).mean(-1) + weight * crossed
        return losses, confident_labels(teachers, self.threshold)

    def teachers(self, logits: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What pseudo labels are read from. logits: of the unlabelled tiles, [..., 2, U, C]."""
        return logits


@dataclass(frozen=True)
class DualViewTraining(HighConfidenceCrossSupervision):
    """Dual-view high-confidence pseudo training with class-wise contrast (UniSAL).

    The loss of `HighConfidenceCrossSupervision` plus β · `class_contrast` (half of it to each
    network) over the labelled tiles and those unlabelled ones of which both networks are sure and
    agree. Defaults are those of the authors' public code: τ = 0.7, w = 0 before epoch 15 of 200 and
    0.5 after it, β = 0.1, T = 0.15.

    Ours, off by default: pseudo labels that follow the labels. With an `alignment` α > 0 a
    network's probabilities become p · (q/p̄)^α before the threshold (`aligned_logits`). p̄ is the
    running mean of its predictions of unlabelled tiles, q the `shrunk_marginal` of the
    `class_counts` of the training tiles; without any q is p̄ and nothing is moved. The running sums
    (`momentum` a step, over about 100 steps; ReMixMatch has 128 batches) are state. κ = 10
    `pseudo_counts` were fixed on fold 0 of ebhi, where 30 gained less.
    """

    threshold: float = 0.7
    contrast: float = 0.1
    temperature: float = 0.15
    alignment: float = 0.0
    pseudo_counts: float = 10.0
    momentum: float = 0.99

    def state(self, data: Sequence[TrainingTiles]) -> dict[str, Tensor]:
        """Counts [trainings, 1, C] and running sums of predictions [trainings, 2, C]."""
        if not self.alignment:
            return {}
        n_classes = len(data[0].class_names)
        counts = torch.zeros(len(data), 1, n_classes)
        for own, tiles in zip(counts, data, strict=True):
            own += torch.tensor(tiles.class_counts or [0.0])
        return {"counts": counts, "predicted": torch.zeros(len(data), 2, n_classes)}

    def __call__(
        self,
        outputs: Outputs,
        labels: Tensor,
        progress: float,
        *,
        state: dict[str, Tensor] | None = None,
        **_: object,
    ) -> tuple[Tensor, Tensor]:
        losses, pseudo = super().__call__(outputs, labels, progress, state=state)
        first, second = pseudo.unbind(-2)
        known = torch.cat([labels, first.where(first == second, UNLABELLED)], dim=-1)
        assert outputs[1] is not None, "dual-view training needs networks with a projector"
        a, b = outputs[1].unbind(-3)
        contrast = class_contrast(a, b, known, self.temperature)
        return losses + self.contrast / 2 * contrast[..., None], pseudo

    def teachers(self, logits: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state or not logits.shape[-2]:
            return logits
        # Not yet divided by its weight: after the first steps the sum is below one.
        new = torch.softmax(logits.float(), dim=-1).mean(-2)
        sums = state["predicted"].mul_(self.momentum).add_(new, alpha=1 - self.momentum)
        mean = sums / sums.sum(-1, keepdim=True)
        marginal = shrunk_marginal(state["counts"], mean, self.pseudo_counts)
        return aligned_logits(logits.float(), marginal, mean, self.alignment)


def _labelled(outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [..., 2, L, C] and labels [..., 2, L] of the labelled tiles for both networks."""
    logits = outputs[0][..., : labels.shape[-1], :]
    return logits, labels[..., None, :].expand(logits.shape[:-1])


def _no_pseudo_labels(labels: Tensor) -> Tensor:
    return labels[..., :0]
