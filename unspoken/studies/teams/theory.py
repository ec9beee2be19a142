"""The bias of a vote in a tree of agents: "Phase Transition for Budgeted Multi-Agent Synergy".

arXiv 2601.17311. A decision is right or wrong, +1 or -1; its mean is the bias mu, -1 to 1. The
derivation of the recursion and the model of shared errors, a common cause that all siblings copy,
are ours. `Team.simulate` samples the tree that they describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, exp, lgamma, log, sqrt

import torch

from unspoken.errors import DataError

__all__ = ["Team", "majority", "slope"]


def majority(bias: float, voters: int) -> float:
    """f_b(mu) = 2 P[Bin(b, (1 + mu) / 2) > b / 2] - 1: the bias of the majority of b votes.

    >>> majority(1.0, 3), round(majority(0.2, 3), 3)
    (1.0, 0.296)
    """
    if abs(bias) >= 1:
        return 1.0 if bias > 0 else -1.0
    right, wrong = log((1 + bias) / 2), log((1 - bias) / 2)

    def share(votes: int) -> float:  # in logarithms: binomials of large teams overflow a float
        ways = lgamma(voters + 1) - lgamma(votes + 1) - lgamma(voters - votes + 1)
        return exp(ways + votes * right + (voters - votes) * wrong)

    most = range(voters // 2 + 1, voters + 1)
    return sum(share(votes) - share(voters - votes) for votes in most)


def slope(voters: int) -> float:
    """f_b'(0) = b C(b - 1, (b - 1) / 2) / 2^(b - 1), near sqrt(2 b / pi).

    >>> slope(3), slope(5)
    (1.5, 1.875)
    """
    return voters * comb(voters - 1, (voters - 1) // 2) / 2 ** (voters - 1)


@dataclass(frozen=True, slots=True)
class Team:
    """A tree: each parent receives from `fan_in` children over a channel and takes their majority.

    depth: levels of voting; the leaves are fan_in^depth. gamma: fidelity of a message, 0 to 1; a
    binary symmetric channel that flips a decision with probability (1 - gamma) / 2. rho: the
    probability that siblings share one cause and say the same, 0 to 1; their decisions correlate
    by it. Raises `DataError` for an even or smaller fan-in, no depth, or shares outside 0 to 1.

    >>> team = Team(fan_in=3, depth=5, gamma=0.9, rho=0.1)
    >>> round(team.alpha, 3), round(team.exponent, 3), round(team.bias(0.1), 3)
    (1.305, 0.242, 0.361)
    """

    fan_in: int
    depth: int
    gamma: float
    rho: float

    def __post_init__(self) -> None:
        if self.fan_in < 3 or self.fan_in % 2 == 0 or self.depth < 1:
            raise DataError(
                "a team votes with an odd fan-in of 3 or more over 1 level or more, got "
                f"fan_in={self.fan_in}, depth={self.depth}"
            )
        if not (0 <= self.gamma <= 1 and 0 <= self.rho <= 1):
            raise DataError(
                f"gamma and rho are shares, 0 to 1, got gamma={self.gamma}, rho={self.rho}"
            )

    @property
    def leaves(self) -> int:
        return self.fan_in**self.depth

    @property
    def edges(self) -> int:
        """Messages that are sent: every agent except the root sends one."""
        return sum(self.fan_in**level for level in range(1, self.depth + 1))

    @property
    def alpha(self) -> float:
        """alpha_rho: by how much a level multiplies a weak bias."""
        return self.gamma * (self.rho + (1 - self.rho) * slope(self.fan_in))

    @property
    def exponent(self) -> float:
        """s = log alpha_rho / log b: a weak bias grows as N^s with N leaves; -inf without gamma.

        With equal budgets a team of weak agents wins where s exceeds beta, the exponent of one.
        """
        return log(self.alpha) / log(self.fan_in) if self.alpha > 0 else float("-inf")

    @property
    def regime(self) -> str:
        """Whether more levels help weak agents: `amplifies` if alpha_rho > 1, else `fades`."""
        return "amplifies" if self.alpha > 1 else "fades"

    @property
    def fixed_point(self) -> float:
        """The bias mu* that a positive one approaches with depth; 0 if the team fades."""
        if self.alpha <= 1:
            return 0.0
        bias, before = self.level(1.0), 1.0
        while before - bias > 1e-12:
            bias, before = self.level(bias), bias
        return bias

    def level(self, bias: float) -> float:
        """mu_{k+1} = rho gamma mu_k + (1 - rho) f_b(gamma mu_k)."""
        arriving = self.gamma * bias
        return self.rho * arriving + (1 - self.rho) * majority(arriving, self.fan_in)

    def bias(self, leaf: float) -> float:
        """The bias of the root, if every leaf has bias `leaf`."""
        for _ in range(self.depth):
            leaf = self.level(leaf)
        return leaf

    def simulate(self, leaf: float, *, runs: int = 20_000, seed: int = 0) -> tuple[float, float]:
        """The bias of the root in `runs` simulated trees, and its standard error."""
        draw = torch.Generator().manual_seed(seed)

        def chance(share: float, *shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=draw) < share

        right = chance((1 + leaf) / 2, runs, self.leaves)
        for _ in range(self.depth):
            flipped = chance((1 - self.gamma) / 2, *right.shape)
            votes = torch.logical_xor(right, flipped).reshape(runs, -1, self.fan_in)
            voted = votes.sum(2) * 2 > self.fan_in
            right = torch.where(chance(self.rho, *voted.shape), votes[:, :, 0], voted)
        mean = float(right.float().mean()) * 2 - 1
        return mean, sqrt(max(1 - mean * mean, 1 / runs) / runs)
