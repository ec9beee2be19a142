"""Items asked over any part of a pipeline's edges, and with another item's messages on some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.identity import key_of
from unspoken.evaluation.items import query
from unspoken.evaluation.scores import positions
from unspoken.pipeline import Pipeline
from unspoken.studies.edges.replay import Carry, Replay, Sent
from unspoken.tasks import Item, matches
from unspoken.terminal import track
from unspoken.wire import Message

__all__ = ["Cost", "Edges", "Outcome", "Trials"]

Edges = frozenset[int]
"""Some of a pipeline's edges, by their place in `Pipeline.edges`."""


@dataclass(frozen=True)
class Outcome:
    """N items in one condition: log p of the right answer in nats; right or wrong, if written."""

    nats: tuple[float, ...]
    correct: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What an edge carries about an item, mean: bytes on the wire, positions of its receiver."""

    wire: float
    positions: float


class _Batch(NamedTuple):
    """Some items, by number, and the same number of others whose messages are the wrong ones."""

    rows: list[int]
    matched: Replay
    mismatched: Replay


class Trials:
    """N items, their wrong partners, and a pipeline's answers to them in each condition.

    partners: for each item another, whose message is the wrong one; it is what the edge carries in
    a run of the whole pipeline about that other item, the answering agent's own turns included.
    expected: the right answer as the answering agent would write it.

    A turn is taken again only if the agent receives other messages, see `Replay`. Each outcome is
    kept in the store as it comes. Those of the same models, items and settings are not computed
    again. The batch size is one of these settings: rounding depends on it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        evaluator: Evaluator,
        partners: Sequence[int],
        *,
        expected: Expected = expected_answer,
    ) -> None:
        self.pipeline, self.items, self.partners = pipeline, evaluator.items, partners
        self.answers = [expected(pipeline.answerer, item) for item in evaluator.items]
        self.batch_size, self.store = evaluator.batch_size, evaluator.store
        self.every: Edges = frozenset(range(len(pipeline.edges)))

    def ask(self, kept: Edges, wrong: Edges = frozenset(), *, write: bool = True) -> Outcome:
        """The items answered over the edges `kept`, some of them with another item's messages.

        Without `write` answers are only scored, which is cheaper.
        """
        key = f"kept {_listed(kept)} wrong {_listed(wrong)}"
        found = self._outcomes.get(key)
        if found is None or (write and not found.correct):
            self._outcomes[key] = found = self._ask(kept, wrong, write)
            self._keep()
        return found

    def costs(self) -> list[Cost]:
        """What each edge carries about an item."""
        if not self._costs:
            totals = [[0, 0] for _ in self.every]
            for batch in self._batches:
                for (_, edge), message in batch.matched.sent().items():
                    receiver = self.pipeline.agents[self.pipeline.edges[edge].receiver]
                    totals[edge][0] += sum(message.row_bytes())
                    totals[edge][1] += sum(positions(message.payload, receiver.model))
            n = len(self.items)
            self._costs.extend(Cost(wire / n, length / n) for wire, length in totals)
            self._keep()
        return self._costs

    def _ask(self, kept: Edges, wrong: Edges, write: bool) -> Outcome:
        nats, words = [0.0] * len(self.items), [""] * len(self.items)
        title = f"{len(kept)} of {len(self.every)} edges" + (", one of them wrong" if wrong else "")
        for batch in track(self._batches, title):
            found = batch.matched.ask(_carry(kept, wrong, batch), write=write)
            for place, row in enumerate(batch.rows):
                nats[row] = found.nats[place]
                words[row] = found.words[place] if write else ""
        pairs = zip(words, self.items, strict=True)
        right = tuple(matches(answer, item.answers) for answer, item in pairs)
        return Outcome(tuple(nats), right if write else ())

    @cached_property
    def _batches(self) -> list[_Batch]:
        order = sorted(range(len(self.items)), key=lambda n: _length(self.items[n]))
        cuts = [order[n : n + self.batch_size] for n in range(0, len(order), self.batch_size)]
        return [
            _Batch(rows, self._replay(rows), self._replay(self._partners_of(rows))) for rows in cuts
        ]

    def _partners_of(self, rows: Sequence[int]) -> list[int]:
        return [self.partners[row] for row in rows]

    def _replay(self, rows: Sequence[int]) -> Replay:
        queries = [query(self.items[row]) for row in rows]
        return Replay(self.pipeline, queries, [self.answers[row] for row in rows])

    # -- what is known -----------------------------------------------------------------------------

    @cached_property
    def _key(self) -> str:
        items = [item.to_dict() for item in self.items]
        return key_of(self.pipeline, items, self.answers, self.partners, self.batch_size)

    @cached_property
    def _known(self) -> _Known:
        return self.store.find(_FILE, self._key, _Known) or _Known()

    @property
    def _outcomes(self) -> dict[str, Outcome]:
        return self._known.outcomes

    @property
    def _costs(self) -> list[Cost]:
        return self._known.costs

    def _keep(self) -> None:
        self.store.keep(_FILE, self._key, _Known, self._known)


_FILE = "trials.json"


@dataclass
class _Known:
    """Outcomes by condition and the edges' costs, of a pipeline, items and settings."""

    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    costs: list[Cost] = field(default_factory=list[Cost])


def _carry(kept: Edges, wrong: Edges, batch: _Batch) -> Carry:
    sent: Sent = batch.mismatched.sent() if wrong else {}

    def carry(step: int, edge: int, message: Message) -> Message | None:
        if edge not in kept:
            return None
        return sent[step, edge] if edge in wrong else message

    return carry


def _listed(edges: Edges) -> str:
    return ",".join(map(str, sorted(edges))) or "none"


def _length(item: Item) -> int:
    return len(item.context) + len(item.question)
