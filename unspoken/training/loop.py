"""A short training loop: one module, one objective, killed and resumed with the same result."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unspoken.backbone import few_tokens
from unspoken.errors import TrainingError
from unspoken.seeding import seeded
from unspoken.terminal import progress
from unspoken.training.checkpoint import read_checkpoint, write_checkpoint
from unspoken.training.precision import in_bfloat16

__all__ = ["History", "Objective", "TrainingPlan", "fit"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a module is trained.

    steps: optimiser steps. batch_size: rows a step, over all processes. lr: the peak, reached after
    `warmup` steps, from where a cosine falls to zero. clip: largest gradient norm. every: steps
    between validations, which are also checkpoints. bf16: autocast with float32 master weights,
    where the device has bfloat16 in hardware.
    """

    steps: int
    batch_size: int = 16
    lr: float = 1e-3
    warmup: int = 10
    weight_decay: float = 0.0
    clip: float = 1.0
    every: int = 50
    seed: int = 0
    bf16: bool = True

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


class Objective(Protocol):
    """What is minimised, over rows 0 ... size-1."""

    @property
    def size(self) -> int: ...
    def length(self, row: int) -> int:
        """About how long a row is. Rows of similar length share a batch."""
        ...

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        """The mean loss of some rows, a scalar. All randomness comes from `step`.

        `fit` sees to that for what torch draws, such as dropout.
        """
        ...

    def validate(self) -> float:
        """The loss on the validation rows. Lower is better."""
        ...


@dataclass(slots=True)
class History:
    """Losses (step, value) on training batches and validation rows, and the best of the latter."""

    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    validation: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    @property
    def best(self) -> float:
        return min((value for _, value in self.validation), default=math.inf)


def fit(
    module: nn.Module, objective: Objective, plan: TrainingPlan, checkpoint: Path, *, title: str
) -> History:
    """Train `module` in place and leave it at its best validation loss.

    The same seed gives the same result. A run that was killed resumes from the file `checkpoint`
    and ends with it too. The random state of the process stays as it was.
    Under torchrun each process takes its share of every batch. Raises `TrainingError` if a
    parameter did not move.
    """
    accelerator = Accelerator()
    _check_work(objective, plan, accelerator.num_processes, title)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.lr, betas=(0.9, 0.95), weight_decay=plan.weight_decay, fused=True
    )
    state = _State(module, optimizer, plan)
    state.load(checkpoint)
    batches = _batches(objective, plan)
    hidden = not accelerator.is_main_process
    with progress(title, plan.steps, done=state.step, disable=hidden) as tell:
        for step, rows in zip(range(plan.steps), batches, strict=False):
            if step < state.step:
                continue
            loss = _step(module, objective, rows, step, accelerator, parameters, plan)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{title}: the loss of step {step} is {loss}. Lower lr={plan.lr}, or set bf16 "
                    "to false"
                )
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            optimizer.step()
            state.step = step + 1
            state.history.train.append((state.step, loss))
            if state.step % plan.every == 0 or state.step == plan.steps:
                state.judge(objective)
                if accelerator.is_main_process:
                    state.save(checkpoint)
            tell(state.step, _told(state.history))
    module.load_state_dict(state.best)
    state.check_moved(title)
    return state.history


def _step(
    module: nn.Module,
    objective: Objective,
    rows: Sequence[int],
    step: int,
    accelerator: Accelerator,
    parameters: Sequence[nn.Parameter],
    plan: TrainingPlan,
) -> float:
    module.train().zero_grad()
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    seed = 1_000_003 * (plan.seed + 1009 * accelerator.process_index) + step
    with _passes(module, plan), seeded(seed):
        loss = objective.loss(mine, step)
    accelerator.backward(loss)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = _mean(parameter.grad, accelerator)
    nn.utils.clip_grad_norm_(parameters, plan.clip)
    return float(_mean(loss.detach(), accelerator))


def _check_work(objective: Objective, plan: TrainingPlan, processes: int, title: str) -> None:
    if objective.size < 1 or plan.steps < 1:
        raise TrainingError(
            f"{title}: {objective.size} rows and {plan.steps} steps; need 1 of each"
        )
    if min(plan.batch_size, objective.size) % processes:
        raise TrainingError(
            f"{title}: {processes} processes cannot share {objective.size} rows in batches of "
            f"{plan.batch_size} equally; choose a batch_size that is a multiple of {processes}"
        )


@contextmanager
def _passes(module: nn.Module, plan: TrainingPlan) -> Generator[None]:
    """bfloat16 if the plan says so. accelerate would keep one precision for a whole process.

    What is trained on comes after a shared opening, so its tokens are few, forwards and backwards.
    """
    with in_bfloat16(next(module.parameters()).device, asked=plan.bf16), few_tokens():
        yield


def _mean(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """The mean over processes."""
    return cast(Tensor, accelerator.reduce(tensor, "mean"))


def _batches(objective: Objective, plan: TrainingPlan) -> Iterator[list[int]]:
    """Endless batches, the same for the same seed. Rows of similar length share a batch."""
    rng = random.Random(plan.seed)
    size = min(plan.batch_size, objective.size)
    while True:
        rows = rng.sample(range(objective.size), objective.size)
        pools = [rows[n : n + 16 * size] for n in range(0, len(rows), 16 * size)]
        ordered = [row for pool in pools for row in sorted(pool, key=objective.length)]
        cuts = [ordered[n : n + size] for n in range(0, len(ordered) - size + 1, size)]
        rng.shuffle(cuts)
        yield from cuts


class _State:
    """All that a killed run needs: weights, optimiser, step, history, the best weights so far."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, plan: TrainingPlan
    ) -> None:
        self.module, self.optimizer, self.plan = module, optimizer, plan
        self.step, self.history = 0, History()
        self.first = _copy(module)
        self.best = self.first

    def judge(self, objective: Objective) -> None:
        self.module.eval()
        with torch.no_grad(), _passes(self.module, self.plan), seeded(self.plan.seed):
            value = objective.validate()
        if value < self.history.best:
            self.best = _copy(self.module)
        self.history.validation.append((self.step, value))

    def save(self, path: Path) -> None:
        content = {
            "plan": asdict(self.plan),
            "step": self.step,
            "train": self.history.train,
            "validation": [(step, repr(value)) for step, value in self.history.validation],
        }
        parts = {"module": self.module.state_dict(), "first": self.first, "best": self.best}
        write_checkpoint(path, content, parts, self.optimizer)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one. Raises `Damaged`, `TrainingError`."""
        if not path.exists():
            return
        found, parts = read_checkpoint(path, asdict(self.plan), self.module, self.optimizer)
        self.module.load_state_dict(parts["module"])
        self.step, self.first, self.best = found["step"], parts["first"], parts["best"]
        self.history = History(
            [(step, value) for step, value in found["train"]],
            [(step, float(value)) for step, value in found["validation"]],
        )

    def check_moved(self, title: str) -> None:
        trained = (item for item in self.module.named_parameters() if item[1].requires_grad)
        names = {name for name, parameter in trained if parameter.numel()}
        still = [name for name in sorted(names) if torch.equal(self.first[name], self.best[name])]
        if still:
            raise TrainingError(f"{title}: these parameters did not move: {', '.join(still)}")


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _told(history: History) -> str:
    loss = f"loss {history.train[-1][1]:.3f}"
    return loss + (f", validation {history.best:.3f}" if history.validation else "")
