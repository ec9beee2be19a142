"""When a team pays: the theory against trees that are played out, plans on made-up decisions."""

from __future__ import annotations

from itertools import product
from math import log, sqrt
from random import Random

import pytest
import torch
from torch import Tensor

from unspoken.errors import DataError
from unspoken.evaluation.statistics import Difference, Estimate
from unspoken.studies.teams import Law, Team, Terms, Vote, correlation, fit_law, majority, slope
from unspoken.studies.teams.calibrate import Calibration, Curve, Sent, Solo, vote
from unspoken.studies.teams.options import Limits, Option, gain, options

# The theory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("voters", [3, 5, 7])
@pytest.mark.parametrize("bias", [-0.6, 0.0, 0.05, 0.9, 1.0])
def test_a_majority_is_what_counting_every_vote_gives(voters: int, bias: float) -> None:
    right, total = (1 + bias) / 2, 0.0
    for votes in product((1, -1), repeat=voters):
        share = right ** votes.count(1) * (1 - right) ** votes.count(-1)
        total += share * (1 if sum(votes) > 0 else -1)
    assert majority(bias, voters) == pytest.approx(total, abs=1e-12)


def test_the_slope_is_that_of_the_majority_at_zero() -> None:
    for voters, known in ((3, 1.5), (5, 1.875), (7, 2.1875)):
        assert slope(voters) == known
        assert majority(1e-6, voters) / 1e-6 == pytest.approx(known, rel=1e-6)
    assert slope(2001) == pytest.approx(sqrt(2 * 2001 / 3.14159265), rel=1e-3)


@pytest.mark.parametrize(
    ("team", "alpha", "exponent", "root"),
    [
        (Team(3, 5, 0.90, 0.1), 1.305, 0.242, 0.361),
        (Team(3, 5, 0.60, 0.1), 0.870, -0.127, 0.050),
        (Team(3, 5, 0.90, 0.6), 1.080, 0.070, 0.146),
        (Team(5, 4, 0.70, 0.2), 1.190, 0.108, 0.196),
        (Team(5, 4, 0.55, 0.2), 0.935, -0.042, 0.076),
    ],
)
def test_a_team_has_the_numbers_that_were_worked_out_before(
    team: Team, alpha: float, exponent: float, root: float
) -> None:
    found = (team.alpha, team.exponent, team.bias(0.1))
    assert found == pytest.approx((alpha, exponent, root), abs=5e-4)
    assert team.regime == ("amplifies" if alpha > 1 else "fades")


def _trees(count: int) -> list[tuple[Team, float]]:
    draw = Random(3)
    found: list[tuple[Team, float]] = []
    for _ in range(count):
        fan_in, depth = draw.choice([(3, 1), (3, 3), (3, 4), (5, 2), (7, 2)])
        team = Team(fan_in, depth, draw.uniform(0.4, 1), draw.uniform(0, 0.7))
        found.append((team, draw.uniform(0.05, 0.8)))
    return found


@pytest.mark.parametrize(("number", "tree"), list(enumerate(_trees(10))))
def test_the_recursion_is_what_a_tree_does_that_is_played_out(
    number: int, tree: tuple[Team, float]
) -> None:
    team, leaf = tree
    mean, error = team.simulate(leaf, runs=20_000, seed=number)
    assert abs(mean - team.bias(leaf)) < 2 * error
    alone = Team(team.fan_in, team.depth, team.gamma, 0.0)
    noiseless = Team(team.fan_in, team.depth, 1.0, team.rho)
    off = max(abs(mean - other.bias(leaf)) for other in (alone, noiseless))
    assert off > 4 * error  # leave one cause out, and it shows


def test_depth_leads_to_the_fixed_point() -> None:
    team = Team(3, 40, 0.9, 0.1)
    assert team.level(team.fixed_point) == pytest.approx(team.fixed_point, abs=1e-9)
    assert team.bias(0.01) == pytest.approx(team.fixed_point, abs=1e-6)
    assert 0 < team.fixed_point < 1
    assert Team(3, 40, 0.6, 0.1).fixed_point == 0.0
    assert Team(3, 40, 1.0, 0.1).fixed_point == 1.0
    assert Team(3, 1, 0.0, 0.0).exponent == float("-inf")


@pytest.mark.parametrize("beta", [0.2, 0.35, 0.5])
def test_a_team_wins_where_its_exponent_exceeds_that_of_one_agent(beta: float) -> None:
    team, law = Team(3, 4, 0.95, 0.1), Law(0.05, beta)
    wins = team.bias(law.at(1)) > law.at(team.leaves)
    assert wins == (team.exponent > beta)


@pytest.mark.parametrize(
    "wrong", [(4, 1, 0.9, 0.1), (1, 1, 0.9, 0.1), (3, 0, 0.9, 0.1), (3, 1, 1.1, 0.1), (3, 1, 1, -1)]
)
def test_what_is_no_team_is_refused(wrong: tuple[int, int, float, float]) -> None:
    with pytest.raises(DataError, match="got"):
        Team(*wrong)


def test_edges_are_all_messages() -> None:
    assert (Team(3, 2, 1, 0).leaves, Team(3, 2, 1, 0).edges) == (9, 12)


# Calibration -------------------------------------------------------------------------------------


def test_a_law_is_found_again() -> None:
    read = [2.0, 4.0, 8.0, 16.0]
    law = fit_law(read, [0.15 * x**0.43 for x in read])
    assert (law.scale, law.beta) == pytest.approx((0.15, 0.43), abs=1e-9)
    assert fit_law(read, [-0.1, -0.2, 0.0, -0.3]).scale == 0
    assert Law(0.5, 1.0).at(9) == 1.0
    with pytest.raises(DataError, match="three budgets or more"):
        fit_law([2, 2, 4], [0.1, 0.1, 0.2])


def _siblings(rho: float, bias: float, count: int, seed: int = 0) -> Tensor:
    """Three agents that say the same with probability rho, (3, count)."""
    draw = torch.Generator().manual_seed(seed)
    own = torch.where(torch.rand(3, count, generator=draw) < (1 + bias) / 2, 1.0, -1.0)
    return torch.where(torch.rand(count, generator=draw) < rho, own[:1], own)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
def test_the_correlation_is_the_chance_of_a_common_cause(rho: float) -> None:
    assert correlation(_siblings(rho, 0.4, 40_000)) == pytest.approx(rho, abs=0.02)


def test_clones_correlate_by_one_and_rivals_by_less_than_nothing() -> None:
    right = torch.ones(3, 8)
    assert correlation(right) == 1.0
    split = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert correlation(split) == -1.0


def test_a_curve_is_straight_in_log_x_and_level_beyond() -> None:
    curve = Curve((2.0, 8.0, 32.0), (0.0, 0.4, 0.6))
    assert [curve.at(x) for x in (1, 2, 4, 8, 32, 99)] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.6])


def test_a_vote_goes_with_the_majority() -> None:
    assert vote([(1, 1, -1), (1, -1, -1), (-1, 1, -1)]) == (True, True, False)


def _signs(signs: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(sign) for sign in row) for row in signs)


def _calibration(scale: float, beta: float, rho: float, count: int = 4000) -> Calibration:
    solos = tuple(
        Solo(x, x, _signs(_siblings(rho, Law(scale, beta).at(x), count, seed=x)))
        for x in (2, 4, 8, 16, 64)
    )
    return Calibration(solos, leaf=1, whole=64.0)


def _sent(found: Calibration, gamma: float, positions: float = 1.0) -> Sent:
    said = torch.tensor(found.solos[found.leaf].signs)
    flips = torch.rand(said.shape, generator=torch.Generator().manual_seed(9)) < (1 - gamma) / 2
    return Sent("words", "whole", positions, positions, _signs(torch.where(flips, -said, said)))


def test_the_calibration_finds_what_decisions_were_drawn_from() -> None:
    found = _calibration(0.1, 0.4, 0.3)
    law, sent = found.law(found.items), _sent(found, 0.7)
    assert (law.scale, law.beta) == pytest.approx((0.1, 0.4), abs=0.05)
    assert found.shared(found.items).at(5) == pytest.approx(0.3, abs=0.05)
    assert found.fidelity(sent, found.items) == pytest.approx(0.7, abs=0.03)
    upside_down = Sent("no", "whole", 1, 1, _signs(-torch.tensor(sent.signs)))
    assert found.gamma(upside_down, found.items) == -found.gamma(sent, found.items)
    assert found.fidelity(upside_down, found.items) == 0.0
    mute = Sent("mute", "whole", 1, 1, sent.signs, silent=(1,) * len(found.items))
    assert found.unsaid(mute, found.items) == found.biases(found.items)[found.leaf]


# Plans -------------------------------------------------------------------------------------------

LIMITS = Limits(budget=200, window=40, least=2, most=64)


def _best(found: Calibration, sent: Sent, limits: Limits = LIMITS) -> Option:
    return options(found, [sent], limits)[0]


def test_every_team_keeps_within_budget_and_window() -> None:
    found = _calibration(0.1, 0.4, 0.1)
    sent = _sent(found, 0.9, positions=5.0)
    teams = options(found, [sent], LIMITS)
    shapes = {(one.team.fan_in, one.team.depth) for one in teams}
    assert shapes == {(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)}
    for one in teams:
        assert one.team.leaves * one.leaf + one.team.edges * 5 <= 200 + 1e-9
        assert one.team.fan_in * 5 <= LIMITS.window
        assert 2 <= one.leaf <= 64
        assert one.bias == one.team.bias(found.law(found.items).at(one.leaf))
    assert [one.bias for one in teams] == sorted((one.bias for one in teams), reverse=True)
    assert not options(found, [sent], Limits(20, 40, 2, 64))  # three agents want 21


def test_cheap_faithful_messages_between_weak_independent_agents_make_a_team() -> None:
    found = _calibration(0.1, 0.1, 0.0)
    sent = _sent(found, 1.0)
    option = _best(found, sent)
    assert option.team.exponent > found.law(found.items).beta
    assert gain(found, sent, option, LIMITS, found.items) > 0.1


@pytest.mark.parametrize(
    ("beta", "rho", "gamma", "positions"),
    [(0.6, 0.0, 1.0, 1.0), (0.3, 1.0, 1.0, 1.0), (0.3, 0.0, 0.1, 1.0), (0.3, 0.0, 1.0, 60.0)],
    ids=["reading more pays", "clones", "noise", "dear messages"],
)
def test_otherwise_one_agent_with_the_budget_is_better(
    beta: float, rho: float, gamma: float, positions: float
) -> None:
    found, limits = _calibration(0.03, beta, rho), Limits(200, 400, 2, 200)
    sent = _sent(found, gamma, positions)
    assert gain(found, sent, _best(found, sent, limits), limits, found.items) < 0


def test_one_agent_reads_no_more_than_there_is() -> None:
    found = _calibration(0.03, 0.6, 0.0)
    sent = _sent(found, 1.0)
    assert gain(found, sent, _best(found, sent), LIMITS, found.items) > 0  # most is 64 of 200


def _vote(predicted: float, measured: Difference) -> Vote:
    return Vote(
        channel="text",
        setting="2 tokens",
        positions=2.0,
        cost=4.0,
        gamma=Estimate(0.5, 0.4, 0.6),
        unsaid=0.2,
        said=0.4,
        heard=0.6,
        alpha=0.9,
        exponent=log(0.9) / log(3),
        spent=24.0,
        alone_read=15.0,
        predicted=predicted,
        alone_predicted=0.5,
        measured=0.4,
        alone_measured=0.6,
        difference=measured,
    )


def test_a_vote_says_whether_the_sign_was_predicted_and_why_not() -> None:
    low, wide = Difference(-0.1, -0.2, -0.01, 0.03), Difference(-0.1, -0.2, 0.1, 0.4)
    assert _vote(0.4, low).verdict == "agrees"
    assert _vote(0.4, wide).verdict == "agrees, open"
    differs = _vote(0.6, low)
    assert differs.verdict == "differs"
    assert "bias of +0.60 from one message" in differs.reason(40)
    assert "gives +0.20" in differs.reason(40)
    assert _vote(0.6, wide).reason(40) == "40 items leave the measured sign open"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budgets": (2, 4)}, "in growing order"),
        ({"budgets": (4, 2, 8)}, "in growing order"),
        ({"leaf": 5}, "leaf is one of the budgets"),
        ({"budget": 0}, "greater than or equal to 1"),
    ],
)
def test_terms_that_calibrate_nothing_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Terms.model_validate(given)
