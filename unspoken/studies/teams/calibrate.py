"""What a plan is based on: the measured decisions, and the numbers computed from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import log
from typing import cast

import torch
from torch import Tensor

from unspoken.errors import DataError
from unspoken.studies.teams.theory import Team

__all__ = [
    "Calibration",
    "Curve",
    "Law",
    "Sent",
    "Solo",
    "check_budgets",
    "correlation",
    "fit_law",
    "vote",
]

_BETAS = [n / 200 for n in range(401)]  # 0 to 2; a fit to a hundred items is no finer


@dataclass(frozen=True, slots=True)
class Law:
    """mu(x) = scale x^beta: the bias of one agent that reads x tokens; at most 1."""

    scale: float
    beta: float

    def at(self, read: float) -> float:
        return min(self.scale * read**self.beta, 1.0)


def fit_law(read: Sequence[float], biases: Sequence[float]) -> Law:
    """Least squares over budgets; beta within 0 and 2, scale not negative.

    arXiv 2601.17311 fits logarithms; with few items a bias may be negative, so the squares here
    are of the biases themselves. Raises `DataError` with fewer than three different budgets.

    >>> fit_law([1, 4, 16], [0.1, 0.2, 0.4])
    Law(scale=0.1, beta=0.5)
    """
    check_budgets(read)
    powers, squares = _powers(tuple(read))
    mu = torch.tensor(biases, dtype=torch.float64)
    scales = (powers @ mu / squares).clamp(min=0)
    best = int(((scales[:, None] * powers - mu) ** 2).sum(1).argmin())
    return Law(round(float(scales[best]), 12), _BETAS[best])


@cache
def _powers(read: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """x^beta for every beta of the grid, and the sums of their squares."""
    betas = torch.tensor(_BETAS, dtype=torch.float64)
    powers = torch.tensor(read, dtype=torch.float64) ** betas[:, None]
    return powers, (powers**2).sum(1)


def check_budgets(read: Sequence[float]) -> None:
    """Raise `DataError` unless an exponent can be fitted to what was read."""
    if len(set(read)) < 3:
        raise DataError(
            f"an exponent needs three budgets or more, all different, got {sorted(set(read))} "
            "tokens read; give smaller budgets too, or longer facts"
        )


def correlation(signs: Tensor) -> float:
    """rho: how the signed decisions (A, n) of A agents on n items correlate, one for all pairs.

    (E[s_a s_b] - mu^2) / (1 - mu^2), Pearson's with one mean for all agents; 1 for agents that
    never err. Below 0 if they avoid each other's errors.

    >>> correlation(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    1.0
    """
    agents = signs.shape[0]
    mean = float(signs.mean())
    together = float(((signs.sum(0) ** 2 - agents) / (agents * (agents - 1))).mean())
    spread = 1 - mean * mean
    return (together - mean * mean) / spread if spread > 1e-9 else 1.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over tokens read: straight lines in log x between points, level beyond them."""

    read: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, read: float) -> float:
        n = bisect_right(self.read, read)
        if n in (0, len(self.read)):
            return self.values[min(n, len(self.read) - 1)]
        low, high = self.read[n - 1], self.read[n]
        part = log(read / low) / log(high / low)
        return self.values[n - 1] + part * (self.values[n] - self.values[n - 1])


@dataclass(frozen=True)
class Solo:
    """What A agents decide alone on n items, each from a window: -1 and 1, (A, n)."""

    budget: int
    read: float
    signs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sent:
    """What a receiver decides on n items from the message of each of A senders alone, (A, n).

    positions: of a message. cost: in tokens, what one message adds to what is read and written.
    silent: what the receiver decides without any message, (n,); () where there is no receiver.
    """

    channel: str
    setting: str
    positions: float
    cost: float
    signs: tuple[tuple[int, ...], ...]
    silent: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """The measured decisions, and each number of the theory as a function of the items.

    solos: by budget, growing. leaf: which of them is what senders read. whole: tokens of a fact,
    the mean; no agent reads more. Items are given by their numbers, for a bootstrap over them.
    """

    solos: tuple[Solo, ...]
    leaf: int
    whole: float

    @property
    def items(self) -> range:
        return range(len(self.solos[0].signs[0]))

    @cached_property
    def _signs(self) -> Tensor:
        """(budgets, A, n)."""
        return torch.tensor([solo.signs for solo in self.solos], dtype=torch.float64)

    def biases(self, items: Sequence[int]) -> tuple[float, ...]:
        """mu at each budget."""
        chosen = self._signs[:, :, torch.as_tensor(items)]
        return tuple(cast(list[float], chosen.mean((1, 2)).tolist()))

    def law(self, items: Sequence[int]) -> Law:
        return fit_law([solo.read for solo in self.solos], self.biases(items))

    def rho(self, number: int, items: Sequence[int]) -> float:
        """rho at the numbered budget."""
        return correlation(self._signs[number][:, torch.as_tensor(items)])

    def shared(self, items: Sequence[int]) -> Curve:
        """rho over tokens read, as the recursion takes it: within 0 and 1."""
        reads = tuple(solo.read for solo in self.solos)
        return Curve(reads, tuple(_share(self.rho(n, items)) for n in range(len(reads))))

    def gamma(self, sent: Sent, items: Sequence[int]) -> float:
        """2 p - 1, p how often the receiver decides as the sender did; below 0 under one half."""
        return self._agreement(sent.signs, items)

    def unsaid(self, sent: Sent, items: Sequence[int]) -> float:
        """What gamma is without a message, from the question alone."""
        return self._agreement((sent.silent,), items)

    def _agreement(self, signs: Sequence[Sequence[int]], items: Sequence[int]) -> float:
        sender, receiver = self._signs[self.leaf], torch.tensor(signs, dtype=torch.float64)
        return float((sender * receiver)[:, torch.as_tensor(items)].mean())

    def fidelity(self, sent: Sent, items: Sequence[int]) -> float:
        """gamma as the recursion takes it: within 0 and 1."""
        return _share(self.gamma(sent, items))

    def team(
        self, sent: Sent, leaf: float, items: Sequence[int], *, fan_in: int = 3, depth: int = 1
    ) -> Team:
        """A team of this shape whose leaves read `leaf` tokens and send this way."""
        return Team(fan_in, depth, self.fidelity(sent, items), self.shared(items).at(leaf))


def vote(signs: Sequence[Sequence[int]]) -> tuple[bool, ...]:
    """Whether the majority of an odd number of voters is right, item by item."""
    total = cast(list[int], torch.tensor(signs).sum(0).tolist())
    return tuple(votes > 0 for votes in total)


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
