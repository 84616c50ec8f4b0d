"""Train pairs of heads on frozen features, many pairs in one computation.

The trainings of a comparison or of several strategies differ in their labels alone. Stacked, their
small products become few large ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import trange

from lib.labels import UNLABELLED
from lib.learning.batches import Schedule, TrainingTiles, draw_rows
from lib.learning.losses import Objective, Outputs
from lib.learning.networks import Classifier
from lib.learning.samplers import FeatureViews


def train(
    objective: Objective,
    pairs: Sequence[Sequence[Any]],
    sampler: FeatureViews,
    data: Sequence[TrainingTiles],
    *,
    schedule: Schedule,
    seed: int,
) -> list[pd.DataFrame]:
    """Train P pairs of heads in place, side by side; returns the curve of each.

    All minimise one objective with one schedule, and draw batches and views by one seed, so that a
    pair learns the same, up to rounding, whatever is beside it.

    Parameters
    ----------
    pairs : P pairs of `networks.frozen_head`, as they start; evaluation mode at the end.
    sampler : gives each network its view of the tiles of a batch.
    data : P label sets, with unlabelled tiles all or none.

    Returns
    -------
    P curves with a row per step: step, loss_a, loss_b, confident (fraction of unlabelled tiles that
    got a pseudo label), precision (of these pseudo labels, where the truth is known).

    Raises
    ------
    FloatingPointError
        Naming step and network, when a loss or a weight is not finite.
    """
    device = pairs[0][0].mean.device
    heads = _StackedHeads(pairs)
    state = {name: kept.to(device) for name, kept in objective.state(data).items()}
    optimiser = torch.optim.SGD(
        heads.weights,
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    drawing = {"uses_unlabelled": objective.uses_unlabelled, "seed": seed}
    batches = _Batches(data, schedule, device, **drawing)
    curve = torch.full((schedule.steps, len(data), 4), torch.nan, dtype=torch.float64)
    curve = curve.to(device)
    with fastest_float32():
        for step in trange(schedule.steps, desc="training", unit="step"):
            optimiser.param_groups[0]["lr"] = schedule.rate(step)
            views = sampler.standardised(batches.tiles[step][:, None], np.arange(2)[:, None], step)
            losses, pseudo = objective(
                heads(views.to(device)),
                batches.labels[step],
                step / schedule.steps,
                rows=batches.labelled[step],
                state=state,
            )
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            curve[step, :, :2] = losses.detach()
            curve[step, :, 2:] = confident_and_correct(pseudo, batches.truth[step])
    check_losses(curve[..., :2].cpu().numpy(), schedule)
    heads.copy_to(pairs)
    trained = [network for pair in pairs for network in pair]
    check_weights(trained, schedule, schedule.steps - 1)
    return [curve_frame(own) for own in curve.unbind(1)]


class _Batches:
    """Rows, tile numbers and labels of the batches of all steps [S, P, …]."""

    def __init__(
        self,
        data: Sequence[TrainingTiles],
        schedule: Schedule,
        device: torch.device,
        **drawing: Any,
    ):
        drawn = [draw_rows(own, schedule, **drawing) for own in data]
        labelled, unlabelled = (np.stack(each, 1) for each in zip(*drawn, strict=True))
        rows = np.concatenate([labelled, unlabelled], axis=2)

        def of_rows(name: str, at: np.ndarray) -> np.ndarray:
            values = [getattr(own, name) for own in data]
            return np.stack([own[at[:, p]] for p, own in enumerate(values)], 1)

        known = all(own.truth is not None for own in data)
        truth = of_rows("truth", unlabelled) if known else np.full_like(unlabelled, UNLABELLED)
        self.tiles = of_rows("tiles", rows)
        self.labelled, self.labels, self.truth = (
            torch.from_numpy(each.astype(np.int64)).to(device)
            for each in (labelled, of_rows("labels", labelled), truth)
        )


class _StackedHeads:
    """The weights of K = 2 P heads: [K, D, H], [K, 1, H], [K, H, C], [K, 1, C] and [K, H, P]."""

    def __init__(self, pairs: Sequence[Sequence[Classifier]]):
        self.n_pairs = len(pairs)
        each = [_weights(network) for pair in pairs for network in pair]
        stacked = (torch.stack(own).contiguous() for own in zip(*each, strict=True))
        self.weights = [own.requires_grad_() for own in stacked]

    def __call__(self, views: Tensor) -> Outputs:
        """views: [P, 2, B, D], standardised."""
        first, bias, head, head_bias, *projector = self.weights
        hidden = torch.baddbmm(bias, views.flatten(0, 1), first).relu_()
        outputs = [torch.baddbmm(head_bias, hidden, head)] + [hidden @ own for own in projector]
        logits, *projected = (own.unflatten(0, (self.n_pairs, 2)) for own in outputs)
        return logits, projected[0] if projected else None

    def copy_to(self, pairs: Sequence[Sequence[Classifier]]) -> None:
        with torch.no_grad():
            for k, network in enumerate(network for pair in pairs for network in pair):
                for own, stacked in zip(_weights(network), self.weights, strict=True):
                    own.copy_(stacked[k])
                network.eval()


def _weights(network: Classifier) -> list[Tensor]:
    """Weights of a head as the stack holds them: inputs first, a row for the batch."""
    hidden: nn.Linear = network.body[0]  # type: ignore[index]
    own = [hidden.weight.T, hidden.bias[None], network.head.weight.T, network.head.bias[None]]
    if network.projector is not None:
        own.append(network.projector.weight.T)
    return [weights.detach() for weights in own]


@contextmanager
def fastest_float32() -> Iterator[None]:
    """Let oneDNN multiply where it does so in float32 and is faster than MKL: with AVX-512.

    "medium" allows bfloat16, which oneDNN uses only where the processor has AMX.
    """
    before = torch.get_float32_matmul_precision()
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if avx512 and not torch.cpu._is_amx_tile_supported():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def confident_and_correct(pseudo: Tensor, truth: Tensor) -> Tensor:
    """Shares of pseudo labels [..., 2, U] that there are and that are correct, [..., 2].

    truth: [..., U], `UNLABELLED` where it is not known. NaN for no tile or an unknown truth.
    """
    confident = (pseudo != UNLABELLED).double()
    known = torch.where(truth == UNLABELLED, torch.nan, 1.0)[..., None, :]
    correct = confident * (pseudo == truth[..., None, :]) * known
    return torch.stack([confident.mean((-2, -1)), correct.mean((-2, -1))], dim=-1)


def check_losses(losses: np.ndarray, schedule: Schedule, first_step: int = 0) -> None:
    """Raise FloatingPointError for the first loss that is not finite. losses: [S, ..., 2]."""
    infinite = np.argwhere(~np.isfinite(losses))
    if len(infinite):
        step, network = infinite[0][0], infinite[0][-1]
        value = losses[tuple(infinite[0])]
        _fail(f"the loss of network {'ab'[network]} is {value}", first_step + step, schedule)


def check_weights(networks: Sequence[nn.Module], schedule: Schedule, step: int) -> None:
    """Raise FloatingPointError for a weight that is not finite."""
    for k, network in enumerate(networks):
        if not all(bool(torch.isfinite(own).all()) for own in network.parameters()):
            fault = f"a weight of network {'ab'[k % 2]} is not finite"
            _fail(fault, step, schedule)


def _fail(fault: str, step: int, schedule: Schedule) -> None:
    raise FloatingPointError(
        f"{fault} at step {step}: check the inputs, or lower the learning rate "
        f"({schedule.learning_rate}). Nothing was written"
    )


def curve_frame(curve: Tensor) -> pd.DataFrame:
    """The curve of a training from losses and shares [S, 4]; see `train`."""
    loss_a, loss_b, confident, correct = curve.cpu().numpy().T
    unknown = np.full_like(correct, np.nan)
    precision = np.divide(correct, confident, out=unknown, where=confident > 0)
    columns = {"step": np.arange(len(curve)), "loss_a": loss_a, "loss_b": loss_b}
    return pd.DataFrame(columns | {"confident": confident, "precision": precision})
