"""A sparse graph for a pipeline, learned from the receiver's answers. All models stay frozen."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import cast

import torch
from torch import Tensor, nn

from unspoken.agents import Edge, Incoming
from unspoken.channels import Channel
from unspoken.errors import IncompatibleModels, TrainingError
from unspoken.pipeline import Pipeline, Query, TurnRequest, edges_to, fields_of
from unspoken.training.gates import EdgeGates, Gated, check_gateable
from unspoken.wire import LOSSLESS

__all__ = ["GraphAnswers", "frozen_channels", "gateable", "gates_for", "kept"]


def gateable(pipeline: Pipeline) -> tuple[int, ...]:
    """The edges, by number, whose gates get a gradient: latent ones, on latent ways to the answer.

    The answer's loss reaches a message through the prompt of its receiver. From there it passes
    only through the states that this agent computes, not through its words or rollouts.
    """
    last = pipeline.order[-1]
    smooth = [edge for edge in pipeline.edges if _smooth(edge)]
    ends = {edge.sender for edge in edges_to(smooth, last)} | {last}
    return tuple(
        n for n, edge in enumerate(pipeline.edges) if edge.receiver in ends and _latent(edge)
    )


def _latent(edge: Edge) -> bool:
    try:
        check_gateable(edge.channel)
    except IncompatibleModels:
        return False
    return True


def _smooth(edge: Edge) -> bool:
    """Whether what the sender has received reaches the receiver with a gradient."""
    kinds = {need.kind for need in edge.channel.needs}
    return bool(kinds) and kinds <= {"hidden", "cache"} and edge.pack == LOSSLESS


def gates_for(
    pipeline: Pipeline, learned: Sequence[int], *, senders: int, temperature: float, seed: int
) -> EdgeGates:
    """A gate for each of the edges `learned`. Raises `TrainingError` if there is no choice."""
    names = [pipeline.edges[n].receiver for n in learned]
    if all(names.count(name) <= senders for name in names):
        counted = {name: names.count(name) for name in names} or "no latent edges"
        raise TrainingError(
            f"there is no graph to learn: receivers have {counted} latent edges, and keep "
            f"{senders}. Lower `senders`, or add edges over vectors or caches"
        )
    order = list(dict.fromkeys(names))
    receivers = [order.index(name) for name in names]
    return EdgeGates(receivers=receivers, senders=senders, temperature=temperature, seed=seed)


def kept(pipeline: Pipeline, gates: EdgeGates, learned: Sequence[int]) -> tuple[int, ...]:
    """The edges of a pipeline that are used: those without a gate, and the open ones."""
    closed = set(learned) - {learned[n] for n in gates.chosen()}
    return tuple(n for n in range(len(pipeline.edges)) if n not in closed)


class GraphAnswers:
    """-log p(answer | messages over the open edges) through the frozen models, in nats.

    The loss is a mean over rows. An edge that is closed at a step is not in the pipeline of that
    step, and its sender computes nothing. Messages of open ones are blurred, see `Gated`. The last
    `validation` rows are never trained on. Their messages go over the edges that are open in use,
    without blur. learned: the edges with a gate, by number. All other edges are always used.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        gates: EdgeGates,
        learned: Sequence[int],
        queries: Sequence[Query],
        answers: Sequence[str],
        *,
        validation: int,
    ) -> None:
        self.pipeline, self.gates, self.learned = pipeline, gates, tuple(learned)
        self.queries, self.answers = queries, answers
        self.size = len(queries) - validation

    def length(self, row: int) -> int:
        query = self.queries[row]
        return len(query) if isinstance(query, str) else sum(map(len, query.values()))

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        gates = self.gates.draw(step)
        open_ = cast(list[int], gates.detach().nonzero().flatten().tolist())
        blur = Random(f"{self.gates.seed} {step}").random()
        pipeline = self._pipeline({self.learned[n]: gates[n] for n in open_}, blur)
        return self._score(pipeline, rows).mean()

    def validate(self, batch: int = 32) -> float:
        open_ = kept(self.pipeline, self.gates, self.learned)
        pipeline = self.pipeline.with_edges([self.pipeline.edges[n] for n in open_])
        rows = sorted(range(self.size, len(self.queries)), key=self.length)
        scores = [self._score(pipeline, rows[n : n + batch]) for n in range(0, len(rows), batch)]
        return float(torch.cat(scores).mean())

    def _pipeline(self, gates: dict[int, Tensor], blur: float) -> Pipeline:
        """The pipeline of a step, in which these edges are open."""
        edges = [
            replace(edge, channel=Gated(edge.channel, gates[n], blur)) if n in gates else edge
            for n, edge in enumerate(self.pipeline.edges)
            if n in gates or n not in self.learned
        ]
        return self.pipeline.with_edges(edges)

    def _score(self, pipeline: Pipeline, rows: Sequence[int]) -> Tensor:
        fields = fields_of([self.queries[row] for row in rows])
        agents = pipeline.agents

        def take(requests: Sequence[TurnRequest]) -> list[Sequence[object]]:
            return [
                agents[request.agent]
                .take_turn(fields, request.received, request.outgoing, step=request.step)
                .messages
                for request in requests
            ]

        received = [Incoming(edge.channel, message) for edge, message in pipeline.run_turns(take)]
        read = pipeline.answerer.read(fields, received)
        return pipeline.answerer.model.score(read.context, [self.answers[row] for row in rows])


@contextmanager
def frozen_channels(pipeline: Pipeline) -> Generator[None]:
    """While it is on, the trained modules of channels are frozen."""
    modules = [part for edge in pipeline.edges for part in _modules(edge.channel)]
    parameters = [one for module in modules for one in module.parameters() if one.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _modules(channel: Channel) -> list[nn.Module]:
    parts = vars(channel).values()
    inner = [part for one in parts if isinstance(one, Channel) for part in _modules(one)]
    return inner + [part for part in parts if isinstance(part, nn.Module)]
