"""Calibrate on a task what a team would need, plan the best one, and check a vote of three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.errors import DataError, PipelineError
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.statistics import Estimate, difference, mean, resampled
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.teams.calibrate import Calibration, Sent, check_budgets, vote
from unspoken.studies.teams.decisions import AGENTS, Room
from unspoken.studies.teams.options import Limits, Option, gain, options
from unspoken.studies.teams.report import Measured, PlanReport, Vote
from unspoken.studies.teams.settings import Terms
from unspoken.tasks import Item, Task

__all__ = ["plan_team"]

_DRAWS = 4_000_000


def plan_team(
    pipelines: Mapping[str, Mapping[str, Pipeline]],
    alone: Pipeline,
    task: Task,
    terms: Terms = Terms(),
    *,
    expected: Expected = expected_answer,
    limit: int | None = 64,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> PlanReport:
    """Measure beta, gamma and rho, enumerate the teams, and let three senders vote.

    pipelines: channel -> length of its messages -> a pipeline of a sender and a receiver that sees
    the message alone. alone: the sender's model, which reads the fact and decides itself: which of
    two answers is likelier, see `answer_pairs`. expected: how an answer is written. out: keeps the
    report and all likelihoods. Raises `DataError`, and `PipelineError` for another sender's model.
    """
    drawn = sample(task.test, limit, seed)
    if len(drawn) < 2:
        raise DataError(f"a plan is calibrated on two items or more, got {len(drawn)}")
    _check(pipelines, alone)
    evaluator = Evaluator(drawn, batch_size, Store(out))
    room = Room.of(evaluator, alone, expected=expected, seed=seed)
    check_budgets([room.read(budget) for budget in terms.budgets])
    solos = tuple(room.solo(budget) for budget in terms.budgets)
    found = Calibration(solos, terms.budgets.index(terms.leaf), room.whole)
    sent = [
        room.sent(channel, setting, pipeline, terms.leaf)
        for channel, settings in pipelines.items()
        for setting, pipeline in settings.items()
    ]
    window = terms.window or min(
        _left(pipeline, drawn) for settings in pipelines.values() for pipeline in settings.values()
    )
    limits = Limits(terms.budget, window, solos[0].read, room.whole)
    ranked = options(found, sent, limits)
    report = PlanReport(
        solos=tuple(_measured(found, n, seed) for n in range(len(solos))),
        law=found.law(found.items),
        beta=resampled(lambda items: found.law(items).beta, found.items, seed=seed),
        votes=tuple(_vote(room, found, way) for way in (_counted(found), *sent)),
        options=tuple(ranked),
        gain=_gain(found, sent, ranked, limits, seed) if ranked else None,
        played=_played(found, ranked, seed) if ranked else None,
        limits=limits,
        leaf=terms.leaf,
        **about(
            [pipeline for settings in pipelines.values() for pipeline in settings.values()],
            task,
            len(drawn),
            seed,
            notes,
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _check(pipelines: Mapping[str, Mapping[str, Pipeline]], alone: Pipeline) -> None:
    if not any(pipelines.values()):
        raise PipelineError("a plan needs a channel over which agents send messages; name one")
    weights = alone.answerer.spec.weights
    for channel, settings in pipelines.items():
        for pipeline in settings.values():
            for name in pipeline.order[:-1]:
                spec = pipeline.agents[name].spec
                if spec.weights != weights:
                    raise PipelineError(
                        f"over {channel!r} {spec.name!r} is the sender, but the plan is about "
                        f"agents of {alone.answerer.spec.name!r}; make a plan for each sender"
                    )


def _left(pipeline: Pipeline, items: Sequence[Item]) -> int:
    """Positions that the receiver's model has left after the longest prompt, at least one."""
    agent = pipeline.answerer
    positions = agent.spec.positions
    if positions is None:
        return 1 << 20
    count = agent.model.tokens
    longest = max(len(count(item.question)) + len(count(item.answers[0])) for item in items)
    return max(positions - len(count(agent.role.instructions + agent.role.template)) - longest, 1)


def _measured(found: Calibration, number: int, seed: int) -> Measured:
    solo = found.solos[number]
    bias = mean([found.biases([item])[number] for item in found.items], seed=seed)
    rho = resampled(lambda items: found.rho(number, items), found.items, seed=seed)
    return Measured(solo.budget, solo.read, bias, rho)


def _counted(found: Calibration) -> Sent:
    """The senders' decisions, counted: a vote without messages and their cost."""
    return Sent("no channel", "counted", 0.0, 0.0, found.solos[found.leaf].signs)


def _vote(room: Room, found: Calibration, way: Sent) -> Vote:
    """Three senders, a receiver for each message, and one agent that spends as many tokens."""
    items, leaf = found.items, found.solos[found.leaf]
    spent = AGENTS * (leaf.read + way.cost)
    budget = max(round(spent), 1)
    team, law = found.team(way, leaf.read, items), found.law(items)
    together, single = vote(way.signs), tuple(sign > 0 for sign in room.alone(budget, 0))
    agreed = [found.gamma(way, [item]) for item in items]
    return Vote(
        channel=way.channel,
        setting=way.setting,
        positions=way.positions,
        cost=way.cost,
        gamma=mean(agreed, seed=room.seed),
        unsaid=found.unsaid(way, items) if way.silent else None,
        heard=sum(map(sum, way.signs)) / AGENTS / len(items),
        said=found.biases(items)[found.leaf],
        alpha=team.alpha,
        exponent=team.exponent if team.alpha > 0 else None,
        spent=spent,
        alone_read=room.read(budget),
        predicted=team.bias(law.at(leaf.read)),
        alone_predicted=law.at(min(spent, found.whole)),
        measured=2 * sum(together) / len(items) - 1,
        alone_measured=2 * sum(single) / len(items) - 1,
        difference=difference(together, single),
    )


def _gain(
    found: Calibration, sent: Sequence[Sent], ranked: Sequence[Option], limits: Limits, seed: int
) -> Estimate:
    option = ranked[0]
    way = next(w for w in sent if (w.channel, w.setting) == (option.channel, option.setting))
    return resampled(lambda items: gain(found, way, option, limits, items), found.items, seed=seed)


def _played(found: Calibration, ranked: Sequence[Option], seed: int) -> tuple[float, float]:
    """The best team, simulated: a check of the recursion."""
    option = ranked[0]
    runs = min(20_000, max(_DRAWS // option.team.leaves, 100))
    return option.team.simulate(found.law(found.items).at(option.leaf), runs=runs, seed=seed)
