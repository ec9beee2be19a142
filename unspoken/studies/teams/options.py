"""Every team that a budget allows, and what the recursion promises of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unspoken.studies.teams.calibrate import Calibration, Curve, Law, Sent
from unspoken.studies.teams.theory import Team

__all__ = ["Limits", "Option", "gain", "options"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may spend, in tokens. budget: in all; window: on messages to one receiver.

    least, most: what a leaf reads at the least and at the most.
    """

    budget: float
    window: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Option:
    """A team, how its messages travel, what each leaf reads, and the bias that is predicted."""

    channel: str
    setting: str
    team: Team
    leaf: float
    bias: float


def options(calibration: Calibration, sent: Sequence[Sent], limits: Limits) -> list[Option]:
    """All odd fan-ins and depths, over each way to send; best first, smaller teams among equals.

    N leaves read x tokens each, and each message has a cost: B = N x + edges cost(m). At most W / m
    messages of m positions reach one receiver.
    """
    items = calibration.items
    law, shared = calibration.law(items), calibration.shared(items)
    found = [
        option
        for way in sent
        for option in _of(way, calibration.fidelity(way, items), law, shared, limits)
    ]
    return sorted(found, key=lambda option: (-option.bias, option.team.leaves))


def _of(way: Sent, gamma: float, law: Law, shared: Curve, limits: Limits) -> Iterator[Option]:
    most = int(limits.window // max(way.positions, 1.0))
    for fan_in in range(3, most + 1, 2):
        depth = 1
        while (leaf := _leaf(Team(fan_in, depth, 1.0, 0.0), way, limits)) is not None:
            team = Team(fan_in, depth, gamma, shared.at(leaf))
            yield Option(way.channel, way.setting, team, leaf, team.bias(law.at(leaf)))
            depth += 1
        if depth == 1:  # a wider team costs even more
            return


def _leaf(team: Team, way: Sent, limits: Limits) -> float | None:
    """What the budget leaves each leaf to read; None if it is too little."""
    leaf = (limits.budget - team.edges * way.cost) / team.leaves
    return min(leaf, limits.most) if leaf >= limits.least else None


def gain(
    calibration: Calibration,
    way: Sent,
    option: Option,
    limits: Limits,
    items: Sequence[int],
) -> float:
    """By how much the team is predicted to exceed one agent with the whole budget, in bias."""
    law, shape = calibration.law(items), option.team
    team = calibration.team(way, option.leaf, items, fan_in=shape.fan_in, depth=shape.depth)
    return team.bias(law.at(option.leaf)) - law.at(min(limits.budget, limits.most))
