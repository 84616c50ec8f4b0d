"""Train one network or two on partly labelled tiles.

One trainer for every kind of network (`networks`, `backbones`), of input (`samplers`) and of
objective (`losses`). Runs on the CPU, on one GPU, and in several processes under `accelerate
launch`.
"""

import copy
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lib.artefacts import atomic
from lib.labels import NO_LABEL_OF, UNLABELLED
from lib.learning.losses import Objective
from lib.learning.samplers import ViewSampler

if TYPE_CHECKING:
    from accelerate import Accelerator

REPORT_EVERY = 20  # steps between two checks of the losses: each waits for the device
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Schedule:
    """Schedule of a training: SGD, the rate ×0.1 after the fraction `decay_at` of the steps.

    Half of a batch is labelled, half is not. With `balance_classes` the labelled half draws every
    class equally often (not in the papers: labels that a filter kept are seldom balanced). Batch,
    momentum, weight decay and decay are those of the papers' public code (200 epochs, ×0.1 at 150).
    Steps and rate are chosen for heads on frozen features, so that the training loss no longer
    falls at the decay; the papers' code trains whole networks with 1e-3.
    """

    steps: int = 1000
    learning_rate: float = 0.03
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 8e-4
    decay_at: float = 0.75
    checkpoint_every: int = 200
    balance_classes: bool = True


@dataclass(frozen=True)
class TrainingTiles:
    """Tile numbers [N], (pseudo) labels [N] or `UNLABELLED`, and the names of the classes.

    `truth` [N], where it is known, serves reports alone. `weights` [N] say how often a labelled
    tile is drawn beside others of its class, with balanced classes; without them all alike. Raises
    ValueError for lengths or labels that do not fit and when no tile is labelled; warns of classes
    without a labelled tile.
    """

    tiles: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    truth: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        for labels in (self.labels, self.truth, self.weights):
            if labels is not None and len(labels) != len(self.tiles):
                raise ValueError(f"{len(labels)} labels, but {len(self.tiles)} tiles")
        if len(self.labels) and not (
            UNLABELLED <= self.labels.min() and self.labels.max() < len(self.class_names)
        ):
            raise ValueError(f"labels must lie in {UNLABELLED} … {len(self.class_names) - 1}")
        if not len(self.labelled):
            raise ValueError("no tile is labelled: no filter kept any; raise the keep ratio")
        present = set(self.labels.tolist())
        missing = [name for c, name in enumerate(self.class_names) if c not in present]
        if missing:
            warnings.warn(
                f"{NO_LABEL_OF} {', '.join(missing)}: it will never be predicted; "
                "raise the keep ratio, or keep a quota of every class",
                stacklevel=3,
            )

    @cached_property
    def labelled(self) -> np.ndarray:
        return np.flatnonzero(self.labels != UNLABELLED)

    @cached_property
    def balancing_chances(self) -> np.ndarray:
        """Probability of drawing each labelled tile that makes all classes equally frequent."""
        labels = self.labels[self.labelled]
        weights = np.ones(len(labels)) if self.weights is None else self.weights[self.labelled]
        chances = weights / np.bincount(labels, weights)[labels]
        return chances / chances.sum()

    @cached_property
    def unlabelled(self) -> np.ndarray:
        return np.flatnonzero(self.labels == UNLABELLED)


def train(
    objective: Objective,
    make_network: Callable[[], nn.Module],
    sampler: ViewSampler,
    data: TrainingTiles,
    *,
    schedule: Schedule,
    seed: int,
    folder: Path,
) -> tuple[list[nn.Module], pd.DataFrame]:
    """Train as many networks as the objective wants; returns those of the last step and the curve.

    make_network: called once per network, each time with a random state of its own. sampler: gives
    each network its view of the tiles of a batch. The networks are returned in evaluation mode. The
    curve has one row per step: step, loss_a, loss_b, confident (fraction of unlabelled tiles that
    got a pseudo label), precision (of these pseudo labels, where the truth is known).

    When all is done `folder` holds network_a.safetensors, network_b.safetensors and curve.parquet,
    until then a checkpoint: an interrupted training, called again, ends in the same bytes (on the
    same CPU) as one that was not. A checkpoint of another schedule, seed, objective, labelling or
    start is not continued; the sampler must be the same. Several processes share each batch and
    give the result of one, up to rounding; only batch normalisation and `losses.class_contrast` see
    the tiles of their own process alone.

    Raises FloatingPointError naming step and network when a loss is not finite, ValueError when a
    batch or the objective's state cannot be divided among the processes.
    """
    accelerator = _accelerator()
    check_division(objective, schedule, accelerator.num_processes)
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        networks = new_networks(make_network, objective.networks, seed)
        run = _Run(objective, networks, data, schedule, seed, folder, accelerator)
        main = accelerator.is_main_process
        options = {"unit": "step", "initial": run.step} | ({} if main else {"disable": True})
        with tqdm(desc="training", total=schedule.steps, **options) as bar:
            while run.step < schedule.steps:
                run.advance(sampler)
                if run.step % REPORT_EVERY == 0 or run.pause:
                    bar.set_postfix(run.report())
                    bar.update(run.step - bar.n)
                if run.pause:
                    run.save()
    return run.finish()


def _accelerator() -> "Accelerator":
    """bfloat16 where the GPU computes in it; `accelerate launch` sets the number of processes."""
    from accelerate import Accelerator

    cuda = torch.cuda.is_available()
    fast = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return Accelerator(cpu=not cuda, mixed_precision="bf16" if fast else "no")


def check_division(objective: Objective, schedule: Schedule, processes: int) -> None:
    """Refuse, by ValueError, a batch or an objective that so many processes cannot share."""
    if schedule.batch_size < 2 or schedule.batch_size // 2 % processes:
        raise ValueError(
            f"half of batch_size={schedule.batch_size} must divide among {processes} processes"
        )
    if processes > 1 and objective.state_dict():
        raise ValueError(
            f"{type(objective).__name__} keeps a state of its own, which only one process can"
        )


def new_networks(make_network: Callable[[], nn.Module], n: int, seed: int) -> list[nn.Module]:
    """The networks as a training with this seed starts them. Sets torch's random state."""
    networks = []
    for network in range(n):
        torch.manual_seed(_mixed(seed, network))
        networks.append(make_network())
    return networks


def _seed_dropout(device: torch.device, seed: int) -> None:
    """As torch.manual_seed, which without a GPU notes a stack trace at each call: 5 % of a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _letter(network: int) -> str:
    return "abcdefgh"[network]


class _Run:
    """The state of a training: everything that a checkpoint holds, and what changes it."""

    def __init__(
        self,
        objective: Objective,
        networks: list[nn.Module],
        data: TrainingTiles,
        schedule: Schedule,
        seed: int,
        folder: Path,
        accelerator: "Accelerator",
    ):
        self.data, self.schedule, self.seed, self.folder = data, schedule, seed, folder
        self.accelerator = accelerator
        self.start = _fingerprint(objective, networks, data, schedule, seed)
        self.objective = copy.deepcopy(objective).to(accelerator.device)  # its state is ours
        self.networks = [accelerator.prepare(network).train() for network in networks]
        self.optimiser = torch.optim.SGD(
            [p for network in self.networks for p in network.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        # Columns: the loss of each network, then the shares of confident and correct pseudo labels
        self.curve = torch.full((schedule.steps, len(networks) + 2), torch.nan, dtype=torch.float64)
        self.curve = self.curve.to(accelerator.device)
        self.step = self.reported = 0
        self._load()

    @property
    def pause(self) -> bool:
        return self.step % self.schedule.checkpoint_every == 0 or self.step == self.schedule.steps

    @property
    def bare_networks(self) -> list[nn.Module]:
        return [
            network.module if isinstance(network, DistributedDataParallel) else network
            for network in self.networks
        ]

    def advance(self, sampler: ViewSampler) -> None:
        """One step of all networks."""
        device, step = self.accelerator.device, self.step
        _seed_dropout(device, _mixed(self.seed, step, self.accelerator.process_index))
        labelled, unlabelled = self._batch()
        rows = np.concatenate([labelled, unlabelled])
        labels = torch.from_numpy(self.data.labels[labelled]).to(device, torch.int64)
        for group in self.optimiser.param_groups:
            late = step >= self.schedule.decay_at * self.schedule.steps
            group["lr"] = self.schedule.learning_rate * (0.1 if late else 1)
        outputs = [
            network(sampler(self.data.tiles[rows], k, step).to(device))
            for k, network in enumerate(self.networks)
        ]
        labelled_rows = torch.from_numpy(labelled).to(device)
        losses, pseudo = self.objective(outputs, labels, labelled_rows, step / self.schedule.steps)
        self.optimiser.zero_grad()
        self.accelerator.backward(losses.sum())
        self.optimiser.step()
        self.curve[step, :-2] = losses.detach()
        self.curve[step, -2:] = self._judge(pseudo, unlabelled)
        self.step += 1

    def _batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Labelled and unlabelled rows of the step for this process, from seed and step alone.

        Balanced classes are drawn with replacement, as is a pool smaller than half a batch. There
        are no unlabelled rows if every tile has a label or the objective ignores those without.
        """
        rng = np.random.default_rng([self.seed, self.step])
        half = self.schedule.batch_size // 2
        mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        labelled, unlabelled = self.data.labelled, self.data.unlabelled
        if self.schedule.balance_classes:
            drawn = rng.choice(labelled, half, p=self.data.balancing_chances)
        else:
            drawn = rng.choice(labelled, half, replace=len(labelled) < half)
        if not self.objective.uses_unlabelled or not len(unlabelled):
            return drawn[mine], unlabelled[:0]
        return drawn[mine], rng.choice(unlabelled, half, replace=len(unlabelled) < half)[mine]

    def _judge(self, pseudo: Tensor, unlabelled: np.ndarray) -> Tensor:
        """Shares of the unlabelled tiles with a pseudo label and a correct one, all networks."""
        confident = (pseudo != UNLABELLED).double()
        correct = torch.full_like(confident, torch.nan)
        if self.data.truth is not None:
            truth = torch.from_numpy(self.data.truth[unlabelled]).to(pseudo.device)
            correct = confident * (pseudo == truth)
        return torch.stack([confident.mean(), correct.mean()])

    def report(self) -> dict[str, str]:
        """Average the new rows of the curve over all processes and check them."""
        new = self.curve[self.reported : self.step]
        new.copy_(self.accelerator.reduce(new.clone(), "mean"))
        infinite = (~torch.isfinite(new[:, :-2])).nonzero()
        if len(infinite):
            step, network = infinite[0].tolist()
            value = new[step, network].item()
            self._fail(f"the loss of network {_letter(network)} is {value}", self.reported + step)
        self.reported = self.step
        loss, confident, correct = new[:, :-2].mean(), *new[:, -2:].mean(0)
        shown = {"loss": loss, "confident": confident, "precision": correct / confident}
        return {name: f"{value:.3f}" for name, value in shown.items() if not torch.isnan(value)}

    def _fail(self, fault: str, step: int) -> None:
        if self.accelerator.is_main_process:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        raise FloatingPointError(
            f"{fault} at step {step}: check the inputs, or lower the learning rate "
            f"({self.schedule.learning_rate}). Nothing was written to {self.folder}"
        )

    def save(self) -> None:
        """Write the checkpoint if all weights are finite."""
        for k, network in enumerate(self.networks):
            if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
                self._fail(f"a weight of network {_letter(k)} is not finite", self.step - 1)
        if self.accelerator.is_main_process:
            state = {
                "start": self.start,
                "step": self.step,
                "networks": [network.state_dict() for network in self.bare_networks],
                "optimiser": self.optimiser.state_dict(),
                "objective": self.objective.state_dict(),
                "curve": self.curve[: self.step].cpu(),
            }
            with atomic(self.folder / CHECKPOINT) as file:
                torch.save(state, file)

    def _load(self) -> None:
        self.accelerator.wait_for_everyone()
        file = self.folder / CHECKPOINT
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.accelerator.device, weights_only=True)
        if state["start"] != self.start:
            return
        for network, weights in zip(self.bare_networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        self.optimiser.load_state_dict(state["optimiser"])
        self.objective.load_state_dict(state["objective"])
        self.step = self.reported = state["step"]
        self.curve[: self.step] = state["curve"]

    def finish(self) -> tuple[list[nn.Module], pd.DataFrame]:
        """Write weights and curve, and remove the checkpoint."""
        unwrap = self.accelerator.unwrap_model
        networks = [unwrap(n, keep_fp32_wrapper=False).eval() for n in self.networks]
        curve = _curve_table(self.curve.cpu().numpy())
        if self.accelerator.is_main_process:
            for k, network in enumerate(networks):
                with atomic(self.folder / f"network_{_letter(k)}.safetensors") as file:
                    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
            with atomic(self.folder / "curve.parquet") as file:
                curve.to_parquet(file)
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return networks, curve


def _curve_table(values: np.ndarray) -> pd.DataFrame:
    *losses, confident, correct = values.T
    columns = {"step": np.arange(len(values))}
    columns |= {f"loss_{_letter(k)}": loss for k, loss in enumerate(losses)}
    unknown = np.full_like(correct, np.nan)
    precision = np.divide(correct, confident, out=unknown, where=confident > 0)
    return pd.DataFrame(columns | {"confident": confident, "precision": precision})


def _fingerprint(
    objective: Objective,
    networks: list[nn.Module],
    data: TrainingTiles,
    schedule: Schedule,
    seed: int,
) -> str:
    """Digest of all that a checkpoint must share with the training that continues it."""
    digest = hashlib.blake2b(repr((objective, schedule, seed)).encode(), digest_size=16)
    tensors = [t for network in networks for t in network.state_dict().values()]
    weights = [] if data.weights is None else [data.weights]
    for array in [data.tiles, data.labels, *weights, *(t.detach().cpu().numpy() for t in tensors)]:
        digest.update(array.tobytes())
    return digest.hexdigest()


def labelled_and_not(
    tiles: np.ndarray, labels: np.ndarray, class_names: Sequence[str], truth: np.ndarray
) -> TrainingTiles:
    """Every tile with its label and again without: for cross supervision without a filter."""
    both = np.append(labels, np.full_like(labels, UNLABELLED))
    return TrainingTiles(np.tile(tiles, 2), both, class_names, np.tile(truth, 2))
