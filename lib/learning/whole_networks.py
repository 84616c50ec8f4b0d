"""Train two networks of any kind on pixels or bags of tiles, for minutes or hours.

Runs on the CPU, on one GPU, and in several processes under `accelerate launch`. Heads on frozen
features, which take seconds, have a trainer of their own (`trainer`).
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lib.artefacts import atomic
from lib.labels import UNLABELLED
from lib.learning.batches import Schedule, TrainingTiles, draw_rows
from lib.learning.losses import Objective
from lib.learning.networks import save_networks
from lib.learning.samplers import ViewSampler
from lib.learning.trainer import check_losses, check_weights, confident_and_correct, curve_frame
from lib.random_draws import mixed_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_EVERY = 200
REPORT_EVERY = 20  # steps between two checks of the losses: each waits for the device
CHECKPOINT = "checkpoint.pt"


def train(
    objective: Objective,
    networks: list[nn.Module],
    sampler: ViewSampler,
    data: TrainingTiles,
    *,
    schedule: Schedule,
    seed: int,
    folder: Path,
) -> tuple[list[nn.Module], pd.DataFrame]:
    """Train two networks; returns those of the last step in evaluation mode, and the curve.

    See `trainer.train` for the parameters and the curve. When all is done `folder` holds them
    (`networks.save_networks`), until then a checkpoint: an interrupted training, called again, ends
    in the same bytes (on the same CPU) as one that was not. A checkpoint of another schedule, seed,
    objective, labelling or start is not continued; the sampler must be the same. Several processes
    share each batch and give the result of one, up to rounding; only batch normalisation and
    `losses.class_contrast` see the tiles of their own process alone.

    Raises FloatingPointError naming step and network when a loss is not finite, ValueError when a
    batch or the objective's state cannot be divided among the processes.
    """
    accelerator = _accelerator()
    check_division(objective, objective.state([data]), schedule, accelerator.num_processes)
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        run = _Run(objective, networks, data, schedule, seed, folder, accelerator)
        main = accelerator.is_main_process
        options = {"unit": "step", "initial": run.step} | ({} if main else {"disable": True})
        with tqdm(desc="training", total=schedule.steps, **options) as bar:
            while run.step < schedule.steps:
                run.advance(sampler)
                if run.step % REPORT_EVERY == 0 or run.pause:
                    bar.set_postfix(loss=f"{run.report():.3f}")
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


def check_division(
    objective: Objective, state: dict[str, Tensor], schedule: Schedule, processes: int
) -> None:
    """Refuse, by ValueError, a batch or an objective that so many processes cannot share."""
    if schedule.batch_size < 2 or schedule.batch_size // 2 % processes:
        raise ValueError(
            f"half of batch_size={schedule.batch_size} must divide among {processes} processes"
        )
    if processes > 1 and state:
        raise ValueError(
            f"{type(objective).__name__} keeps a state of its own, which only one process can"
        )


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
        self.objective, self.data, self.schedule, self.seed = objective, data, schedule, seed
        self.folder, self.accelerator = folder, accelerator
        self.start = _fingerprint(objective, networks, data, schedule, seed)
        self.batches = draw_rows(
            data, schedule, uses_unlabelled=objective.uses_unlabelled, seed=seed
        )
        self.state = {k: v.to(accelerator.device) for k, v in objective.state([data]).items()}
        self.networks = [accelerator.prepare(network).train() for network in networks]
        self.optimiser = torch.optim.SGD(
            [p for network in self.networks for p in network.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        curve = torch.full((schedule.steps, 4), torch.nan, dtype=torch.float64)
        self.curve = curve.to(accelerator.device)
        self.step = self.reported = 0
        self._load()

    @property
    def pause(self) -> bool:
        return self.step % CHECKPOINT_EVERY == 0 or self.step == self.schedule.steps

    @property
    def bare_networks(self) -> list[nn.Module]:
        return [
            network.module if isinstance(network, DistributedDataParallel) else network
            for network in self.networks
        ]

    def advance(self, sampler: ViewSampler) -> None:
        """One step of both networks."""
        device, step, processes = self.accelerator.device, self.step, self.accelerator
        _seed_dropout(device, mixed_seed(self.seed, step, processes.process_index))
        mine = slice(processes.process_index, None, processes.num_processes)
        labelled, unlabelled = (rows[step, mine] for rows in self.batches)
        tiles = self.data.tiles[np.concatenate([labelled, unlabelled])]
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(step)
        each = [
            network(sampler(tiles, k, step).to(device)) for k, network in enumerate(self.networks)
        ]
        losses, pseudo = self.objective(
            _as_one_training(each),
            torch.from_numpy(self.data.labels[labelled])[None].to(device, torch.int64),
            step / self.schedule.steps,
            rows=torch.from_numpy(labelled)[None].to(device),
            state=self.state,
        )
        self.optimiser.zero_grad()
        self.accelerator.backward(losses.sum())
        self.optimiser.step()
        truth = np.full(len(unlabelled), UNLABELLED)
        if self.data.truth is not None:
            truth = self.data.truth[unlabelled]
        self.curve[step, :2] = losses[0].detach()
        self.curve[step, 2:] = confident_and_correct(pseudo[0], torch.from_numpy(truth).to(device))
        self.step += 1

    def report(self) -> float:
        """Average the new rows of the curve over all processes, check them, return their loss."""
        new = self.curve[self.reported : self.step]
        new.copy_(self.accelerator.reduce(new.clone(), "mean"))
        try:
            check_losses(new[:, :2].cpu().numpy(), self.schedule, self.reported)
        except FloatingPointError:
            self._forget()
            raise
        self.reported = self.step
        return new[:, :2].mean().item()

    def _forget(self) -> None:
        if self.accelerator.is_main_process:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the checkpoint if all weights are finite."""
        try:
            check_weights(self.networks, self.schedule, self.step - 1)
        except FloatingPointError:
            self._forget()
            raise
        if self.accelerator.is_main_process:
            state = {
                "start": self.start,
                "step": self.step,
                "networks": [network.state_dict() for network in self.bare_networks],
                "optimiser": self.optimiser.state_dict(),
                "objective": self.state,
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
        self.step = self.reported = state["step"]
        self.state, self.curve[: self.step] = state["objective"], state["curve"]

    def finish(self) -> tuple[list[nn.Module], pd.DataFrame]:
        """Write weights and curve, and remove the checkpoint."""
        unwrap = self.accelerator.unwrap_model
        networks = [unwrap(n, keep_fp32_wrapper=False).eval() for n in self.networks]
        curve = curve_frame(self.curve)
        if self.accelerator.is_main_process:
            save_networks(networks, curve, self.folder)
        self._forget()
        self.accelerator.wait_for_everyone()
        return networks, curve


def _as_one_training(outputs: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Outputs of both networks, logits or pairs with projections, with the axes of `Outputs`."""
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs)[None], None
    logits, projections = (torch.stack(each)[None] for each in zip(*outputs, strict=True))
    return logits, projections


def _seed_dropout(device: torch.device, seed: int) -> None:
    """As torch.manual_seed, which without a GPU notes a stack trace at each call: 5 % of a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _fingerprint(
    objective: Objective,
    networks: list[nn.Module],
    data: TrainingTiles,
    schedule: Schedule,
    seed: int,
) -> str:
    """Digest of all that a checkpoint must share with the training that continues it."""
    digest = hashlib.blake2b(repr((objective, schedule, seed)).encode(), digest_size=16)
    digest.update(repr(data.class_counts).encode())
    tensors = [t for network in networks for t in network.state_dict().values()]
    weights = [] if data.weights is None else [data.weights]
    for array in [data.tiles, data.labels, *weights, *(t.detach().cpu().numpy() for t in tensors)]:
        digest.update(array.tobytes())
    return digest.hexdigest()
