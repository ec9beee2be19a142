"""Training by one seed: the same to the bit, run after run and after kills, whatever is drawn."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from tests.randomness import untouched
from unspoken.projectors import Fuser
from unspoken.seeding import seeded
from unspoken.training import History, TrainingPlan, fit

pytestmark = pytest.mark.numbers

PLAN = TrainingPlan(steps=24, batch_size=4, lr=0.01, warmup=3, every=5, bf16=False)


class Net(nn.Module):
    """Three numbers to one, with noise of every kind that torch has no generator for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 1)
        self.drop, self.alpha = nn.Dropout(0.2), nn.AlphaDropout(0.2)

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            values = values + 0.1 * torch.randn_like(values)
        states = self.alpha(self.drop(torch.tanh(self.inner(values))))
        return self.outer(dropout(states, 0.1, self.training))[:, 0]


class Rows:
    """Toy rows; the last eight validate. A fuser maps two caches to a third."""

    size = 24

    def __init__(self, module: nn.Module, before: Callable[[int], None]) -> None:
        self.module, self.before = module, before
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(32, 3, generator=rng)
        self.caches = [torch.randn(32, 2, 5, 4, generator=rng) for _ in range(3)]

    def length(self, row: int) -> int:
        return row % 5

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        self.before(step)
        return self._error(rows)

    def validate(self) -> float:
        return float(self._error(range(24, 32)))

    def _error(self, rows: Sequence[int]) -> Tensor:
        chosen = list(rows)
        if isinstance(self.module, Fuser):
            ours, theirs, wanted = (cache[chosen] for cache in self.caches)
            places = torch.arange(5).expand(len(chosen), -1)
            ((keys, values),) = self.module(((ours, ours),), ((theirs, theirs),), places)
            return (keys - wanted).square().mean() + (values - wanted).square().mean()
        x = self.x[chosen]
        return (self.module(x) - x.sum(1)).square().mean()


def net() -> Net:
    with seeded(0):
        return Net()


def fuser(**options: Any) -> Fuser:
    sizes = {"source_heads": 2, "source_dim": 4, "target_heads": 2, "target_dim": 4}
    with seeded(0):
        return Fuser(**sizes, layers=[[0, 0]], hidden=12, inner=12, **options)


MADE: dict[str, Callable[[], nn.Module]] = {
    "dropout": net,
    "fuser": fuser,
    "fuser-gumbel": lambda: fuser(noise="gumbel", dropout=0.3),
}


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    return MADE[request.param]


def train(
    module: nn.Module,
    checkpoint: Path,
    before: Callable[[int], None] = lambda step: None,
    plan: TrainingPlan = PLAN,
) -> tuple[History, dict[str, Tensor]]:
    with untouched():
        history = fit(module, Rows(module, before), plan, checkpoint, title="toy")
    return history, {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_two_runs_are_equal_and_another_seed_is_not(
    made: Callable[[], nn.Module], tmp_path: Path
) -> None:
    history, weights = train(made(), tmp_path / "one.pt")
    torch.rand(7)  # whatever was drawn before
    again, others = train(made(), tmp_path / "two.pt", lambda step: None)
    assert history == again
    assert same(weights, others)
    odd, _ = train(made(), tmp_path / "odd.pt", plan=replace(PLAN, seed=1))
    assert all(a != b for (_, a), (_, b) in zip(history.train, odd.train, strict=True))


def test_other_draws_between_the_steps_change_nothing(
    made: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(made(), tmp_path / "one.pt")[0]
    step = torch.optim.AdamW.step

    def drawing(optimizer: Any, *given: Any) -> Any:
        torch.rand(5)
        return step(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", drawing)
    module = made()
    rows = Rows(module, lambda step: None)
    assert fit(module, rows, PLAN, tmp_path / "two.pt", title="toy") == expected


def test_killed_five_times_it_ends_the_same(made: Callable[[], nn.Module], tmp_path: Path) -> None:
    expected, weights = train(made(), tmp_path / "whole.pt")
    left = [4, 5, 11, 13, 22]

    def kill(step: int) -> None:
        if left and step == left[0]:
            left.pop(0)
            raise KeyboardInterrupt

    while left:
        with pytest.raises(KeyboardInterrupt):
            train(made(), tmp_path / "c.pt", kill)
        torch.rand(7)  # the process that goes on has another random state
    found, after = train(made(), tmp_path / "c.pt", kill)
    assert found == expected
    assert same(after, weights)


_TRAINED_IN_CHILDREN = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.unit.test_repeated import MADE, train

def kill(step):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(int(sys.argv[3]) + 77)
history, weights = train(MADE[sys.argv[1]](), Path(sys.argv[2]), kill)
torch.save([history.train, history.validation, weights], sys.argv[2] + ".done")
"""


@pytest.mark.dist
def test_five_processes_that_were_killed_and_a_sixth_end_the_same(tmp_path: Path) -> None:
    expected, weights = train(fuser(), tmp_path / "whole.pt")
    for step in (3, 7, 8, 14, 21, -1):
        arguments = ["fuser", str(tmp_path / "c.pt"), str(step)]
        ended = subprocess.run([sys.executable, "-c", _TRAINED_IN_CHILDREN, *arguments])
        assert ended.returncode == (-signal.SIGKILL if step >= 0 else 0)
    losses, judged, after = torch.load(f"{tmp_path / 'c.pt'}.done", weights_only=True)
    assert (losses, judged) == (expected.train, expected.validation)
    assert same(after, weights)


def test_what_was_drawn_within_is_as_if_it_had_not_been() -> None:
    torch.manual_seed(5)
    plain = torch.rand(4)
    torch.manual_seed(5)
    with untouched(), seeded(1), seeded(2):
        torch.rand(9)
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert torch.equal(torch.rand(4), plain)
