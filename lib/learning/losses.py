"""Losses, functions of logits, and the objectives that a training minimises."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.labels import UNLABELLED

# --- losses --------------------------------------------------------------------------------------


def confident_labels(logits: Tensor, threshold: float) -> Tensor:
    """argmax_c p_c where max_c p_c > `threshold`, else `UNLABELLED`; detached.

    logits: [B, C]; returns int64 [B].
    """
    best, labels = torch.softmax(logits.detach(), dim=1).max(dim=1)
    return torch.where(best > threshold, labels, UNLABELLED)


def aligned_logits(logits: Tensor, marginal: Tensor, mean: Tensor, strength: float) -> Tensor:
    """Logits whose softmax is p · (q/p̄)^α, renormalised, p the softmax of `logits`.

    Distribution alignment (ReMixMatch, Berthelot et al., ICLR 2020, section 3.1), α = 1 there.
    logits: [B, C]; marginal: q [C]; mean: p̄ [C], of the predictions; strength: α.
    """
    ratio = marginal.clamp(min=1e-6) / mean.clamp(min=1e-6)
    return logits + strength * ratio.log()


def shrunk_marginal(counts: Tensor, mean: Tensor, pseudo_counts: float) -> Tensor:
    """Mean of a Dirichlet posterior whose prior is centred on p̄: q = (n_c + κ p̄_c) / (n + κ).

    With few labels q stays near the predictions, which then are hardly moved. counts: n_c [C], of
    labels, n = Σ n_c; mean: p̄ [C]; pseudo_counts: κ.
    """
    return (counts + pseudo_counts * mean) / (counts.sum() + pseudo_counts)


def cross_supervision(logits: Tensor, partner_logits: Tensor, threshold: float) -> Tensor:
    """High-confidence cross supervision of one network by the other (VLM-CPL, arXiv 2403.15836).

    1/B Σ_i 1[max_c p_c(partner) > γ] · CE(own logits_i, argmax_c p_c(partner)): a mean over the
    whole unlabelled batch, so that few confident tiles weigh little. The partner gets no gradient.
    logits, partner_logits: [B, C]; returns a scalar, 0 for an empty batch.
    """
    labels = confident_labels(partner_logits, threshold)
    losses = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
    return losses / max(1, len(logits))


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """Mean of (1 − p_y^q) / q (Zhang and Sabuncu, NeurIPS 2018), q in (0, 1].

    Cross-entropy as q → 0, the mean absolute error at q = 1. logits: [B, C]; labels: [B].
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])
    return (-torch.expm1(q * log_p) / q).mean()  # through the logarithm: p = 0 keeps its gradient


def class_contrast(a: Tensor, b: Tensor, labels: Tensor, temperature: float = 0.15) -> Tensor:
    """Class-wise contrastive loss between two networks (UniSAL, Med. Image Anal. 102:103542).

    With s(u, v) = e^{cos(u, v)/T} and N_i = {j: y_j ≠ y_i}, the mean over the tiles i that have a
    label and an N_i of

        −log s(a_i, b_i) / ( s(a_i, b_i) + Σ_{j ∈ N_i} [ s(a_i, a_j) + s(b_i, b_j) ] )

    a, b: projections [B, P]; labels: [B], `UNLABELLED` for tiles that take no part. Returns a
    scalar, 0 where no two labels differ. Deviation: the authors' public loop takes j > i alone,
    leaves the last tile of the batch out and divides by one more than the count; this is the whole
    formula.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    known = labels != UNLABELLED
    negative = known[:, None] & known[None] & (labels[:, None] != labels[None])
    same_tile = (a * b).sum(1, keepdim=True) / temperature
    others = [(z @ z.T / temperature).masked_fill(~negative, -torch.inf) for z in (a, b)]
    losses = torch.logsumexp(torch.cat([same_tile, *others], dim=1), dim=1) - same_tile[:, 0]
    takes_part = negative.any(1)
    return losses.where(takes_part, 0).sum() / takes_part.sum().clamp(min=1)


# --- objectives ----------------------------------------------------------------------------------
# All train two networks and are judged by the mean of both, so that what differs between two rows
# of a table is the objective and not the number of networks.


class Objective(Protocol):
    """What `trainer.train` minimises: a module that gives each of its `networks` a loss.

    uses_unlabelled: whether a batch also holds tiles without a label.
    """

    networks: int
    uses_unlabelled: bool

    def __call__(
        self, outputs: Sequence[Any], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Loss of each network [K], and their pseudo labels of the unlabelled tiles [K, U].

        outputs: of each network on the batch, first its L labelled tiles, then the U unlabelled
        ones; labels: [L]; rows: [L], which of the training tiles the labelled ones are; progress:
        the share of the steps that are done.
        """
        ...

    def to(self, device: torch.device, /) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


class Supervised(nn.Module):
    """A loss of (logits, labels) on the labelled tiles; the networks learn side by side."""

    networks = 2
    uses_unlabelled = False

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy):
        super().__init__()
        self.loss = loss

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        losses = [self.loss(own[: len(labels)], labels) for own in outputs]
        return torch.stack(losses), _no_pseudo_labels(outputs, labels)

    def extra_repr(self) -> str:
        return getattr(self.loss, "__name__", repr(self.loss))


class EarlyLearningRegularisation(nn.Module):
    """Early-learning regularisation (Liu et al., NeurIPS 2020), for each network by itself.

    CE + λ/B Σ_i log(1 − ⟨p_i, t_i⟩), where the target of each tile runs along as
    t ← β t + (1 − β) p, p detached, updated before it is used as in the authors' code. The targets
    [networks, n_tiles, C] are state, which checkpoints hold; `rows` says which of them a batch is
    about. Deviation: p is clamped below 1 only where the logarithm needs it, not throughout.
    """

    networks = 2
    uses_unlabelled = False

    def __init__(self, n_tiles: int, n_classes: int, weight: float = 3.0, momentum: float = 0.7):
        super().__init__()
        self.weight, self.momentum = weight, momentum
        self.targets: Tensor
        self.register_buffer("targets", torch.zeros(self.networks, n_tiles, n_classes))

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        losses = []
        for targets, own in zip(self.targets, outputs, strict=True):
            logits = own[: len(labels)]
            probs = torch.softmax(logits, dim=1)
            new = self.momentum * targets[rows] + (1 - self.momentum) * probs.detach()
            targets[rows] = new
            agreement = (probs * new).sum(1).clamp(max=1 - 1e-4)
            regulariser = torch.log1p(-agreement).mean()
            losses.append(F.cross_entropy(logits, labels) + self.weight * regulariser)
        return torch.stack(losses), _no_pseudo_labels(outputs, labels)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, momentum={self.momentum}"


class CoTeaching(nn.Module):
    """Co-teaching (Han et al., NeurIPS 2018): each network learns what the other finds easy.

    Of a labelled batch each network picks the share R(t) with its smallest cross-entropy, and its
    partner learns from those: L_A = mean CE_A over the picks of B. R(t) = 1 − τ · min(t/t_k, 1),
    with τ the `forget_rate`, which ought to be the share of wrong labels, and t_k = `ramp` of all
    steps (10 of 200 epochs, as published). At least one tile is picked.
    """

    networks = 2
    uses_unlabelled = False

    def __init__(self, forget_rate: float, ramp: float = 0.05):
        super().__init__()
        self.forget_rate, self.ramp = forget_rate, ramp

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        share = 1 - self.forget_rate * min(progress / self.ramp, 1)
        n = max(1, int(share * len(labels) + 1e-9))
        each = [F.cross_entropy(own[: len(labels)], labels, reduction="none") for own in outputs]
        picks = [losses.detach().argsort(stable=True)[:n] for losses in each]
        losses = [own[easy].mean() for own, easy in zip(each, picks[::-1], strict=True)]
        return torch.stack(losses), _no_pseudo_labels(outputs, labels)

    def extra_repr(self) -> str:
        return f"forget_rate={self.forget_rate}, ramp={self.ramp}"


class HighConfidenceCrossSupervision(nn.Module):
    """Two networks, each taught by the labels and by the other's confident pseudo labels (VLM-CPL).

    L = CE(labelled) + λ(t) · `cross_supervision`(unlabelled), λ(t) = 0 for the share `warm_up` of
    the steps and `weight` after it. Neither the authors' code nor their text gives γ (`threshold`),
    λ or a warm-up: ours are the confidence of FixMatch, and the weight and start (epoch 15 of 200)
    of the authors' code for UniSAL.
    """

    networks = 2
    uses_unlabelled = True

    def __init__(self, threshold: float = 0.95, weight: float = 0.5, warm_up: float = 0.075):
        super().__init__()
        self.threshold, self.weight, self.warm_up = threshold, weight, warm_up

    def forward(
        self, outputs: Sequence[Tensor], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        n = len(labels)
        weight = self.weight if progress >= self.warm_up else 0.0
        teachers = self.teachers([own[n:] for own in outputs])
        losses = [
            F.cross_entropy(own[:n], labels)
            + weight * cross_supervision(own[n:], teacher, self.threshold)
            for own, teacher in zip(outputs, teachers[::-1], strict=True)
        ]
        pseudo = [confident_labels(own, self.threshold) for own in teachers]
        return torch.stack(losses), torch.stack(pseudo)

    def teachers(self, logits: Sequence[Tensor]) -> Sequence[Tensor]:
        """What each network's pseudo labels are read from. logits: of the unlabelled, [U, C]."""
        return logits

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, weight={self.weight}, warm_up={self.warm_up}"


class DualViewTraining(HighConfidenceCrossSupervision):
    """Dual-view high-confidence pseudo training with class-wise contrast (UniSAL).

    The loss of `HighConfidenceCrossSupervision` plus β · `class_contrast` (half of it to each
    network) over the labelled tiles and those unlabelled ones of which both networks are sure and
    agree. Each network's output is a pair (logits, projection). Defaults are those of the authors'
    public code: τ = 0.7, w = 0 before epoch 15 of 200 and 0.5 after it, β = 0.1, T = 0.15.

    Ours, off by default: pseudo labels that follow the labels. With an `alignment` α > 0 a
    network's probabilities become p · (q/p̄)^α before the threshold (`aligned_logits`). p̄ is the
    running mean of its predictions of unlabelled tiles, q the `shrunk_marginal` of `label_counts`
    [C]. These must come from labels whose tiles were drawn by chance, or be weighted so as to stand
    for the pool. Without counts q is p̄ and nothing is moved. The running sums (`momentum` a step,
    over about 100 steps; ReMixMatch has 128 batches) are state, which checkpoints hold. κ = 10
    `pseudo_counts` were fixed on fold 0 of ebhi, where 30 gained less.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        weight: float = 0.5,
        warm_up: float = 0.075,
        contrast: float = 0.1,
        temperature: float = 0.15,
        alignment: float = 0.0,
        label_counts: Sequence[float] = (),
        pseudo_counts: float = 10.0,
        momentum: float = 0.99,
    ):
        super().__init__(threshold, weight, warm_up)
        self.contrast, self.temperature = contrast, temperature
        self.alignment, self.label_counts = alignment, tuple(map(float, label_counts))
        self.pseudo_counts, self.momentum = pseudo_counts, momentum
        self.predicted: Tensor
        if self.aligns:
            sums = torch.zeros(self.networks, len(self.label_counts))
            self.register_buffer("predicted", sums)

    @property
    def aligns(self) -> bool:
        return self.alignment > 0 and sum(self.label_counts) > 0

    def with_label_counts(self, counts: Sequence[float]) -> "DualViewTraining":
        """The same training whose q comes from these counts [C]."""
        names = ("threshold", "weight", "warm_up", "contrast", "temperature", "alignment")
        own = {name: getattr(self, name) for name in (*names, "pseudo_counts", "momentum")}
        return DualViewTraining(**own, label_counts=counts)

    def forward(
        self, outputs: Sequence[Any], labels: Tensor, rows: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        logits, projections = zip(*outputs, strict=True)
        losses, pseudo = super().forward(logits, labels, rows, progress)
        agreed = pseudo[0].where(pseudo[0] == pseudo[1], UNLABELLED)
        known = torch.cat([labels, agreed])
        contrast = class_contrast(projections[0], projections[1], known, self.temperature)
        return losses + self.contrast / len(losses) * contrast, pseudo

    def teachers(self, logits: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.aligns or not len(logits[0]):
            return logits
        teachers = []
        for sums, own in zip(self.predicted, logits, strict=True):
            own = own.detach().float()
            # Not yet divided by its weight: after the first steps the sum is below one.
            sums.mul_(self.momentum).add_((1 - self.momentum) * torch.softmax(own, 1).mean(0))
            mean = sums / sums.sum()
            counts = mean.new_tensor(self.label_counts)
            marginal = shrunk_marginal(counts, mean, self.pseudo_counts)
            teachers.append(aligned_logits(own, marginal, mean, self.alignment))
        return teachers

    def extra_repr(self) -> str:
        own = f"contrast={self.contrast}, temperature={self.temperature}"
        if self.alignment:
            own += (
                f", alignment={self.alignment}, label_counts={self.label_counts}, "
                f"pseudo_counts={self.pseudo_counts}, momentum={self.momentum}"
            )
        return f"{super().extra_repr()}, {own}"


def _no_pseudo_labels(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    return labels.new_full((len(outputs), len(outputs[0]) - len(labels)), UNLABELLED)
