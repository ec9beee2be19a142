"""Items asked over any part of a pipeline's edges, and with another item's messages on some."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track

from unspoken.agents import Agent
from unspoken.evaluation.identity import identity
from unspoken.evaluation.items import query
from unspoken.evaluation.scores import positions
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.studies.edges.replay import Carry, Replay, Sent
from unspoken.tasks import Item, matches
from unspoken.tasks.splits import digest
from unspoken.wire import Message

__all__ = ["Cost", "Edges", "Outcome", "Trials", "said"]

Edges = frozenset[int]
"""Some of a pipeline's edges, by their place in `Pipeline.edges`."""


def said(agent: Agent, item: Item) -> str:
    """The right answer as an agent would write it: behind a space, but not in a chat."""
    chats = agent.role.chat and agent.backbone.has_chat_template
    return item.answers[0] if chats else f" {item.answers[0]}"


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
    own: Replay
    other: Replay


class Trials:
    """N items, their wrong partners, and what a pipeline makes of them in one condition or another.

    partners: for each item another, whose message is the wrong one; it is what the edge carries in
    a run of the whole pipeline about that other item, the answering agent's own turns included.
    say: the right answer as the answering agent would write it.

    A turn is taken again only if what the agent hears has changed, see `Replay`. With `out`, each
    outcome is kept in the file as it comes; those of the same models, items and settings are not
    computed again. `batch_size` is part of that: rounding depends on it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        items: Sequence[Item],
        partners: Sequence[int],
        *,
        say: Callable[[Agent, Item], str] = said,
        batch_size: int = 16,
        out: Path | None = None,
    ) -> None:
        self.pipeline, self.items, self.partners = pipeline, items, partners
        self.answers = [say(pipeline.answerer, item) for item in items]
        self.batch_size, self.out = batch_size, out
        self.every: Edges = frozenset(range(len(pipeline.edges)))

    def ask(self, kept: Edges, wrong: Edges = frozenset(), *, write: bool = True) -> Outcome:
        """The items answered over the edges `kept`, some of them with another item's messages.

        Without `write` answers are only scored, which is cheaper.
        """
        key = f"kept {_listed(kept)} wrong {_listed(wrong)}"
        found = self._outcomes.get(key)
        if found is None or (write and not found.correct):
            self._outcomes[key] = found = self._ask(kept, wrong, write)
            self._store()
        return found

    def costs(self) -> list[Cost]:
        """What each edge carries about an item."""
        if not self._costs:
            totals = [[0, 0] for _ in self.every]
            for batch in self._batches:
                for (_, edge), message in batch.own.sent().items():
                    receiver = self.pipeline.agents[self.pipeline.edges[edge].receiver]
                    totals[edge][0] += sum(message.row_bytes())
                    totals[edge][1] += sum(positions(message.payload, receiver.backbone))
            n = len(self.items)
            self._costs.extend(Cost(wire / n, length / n) for wire, length in totals)
            self._store()
        return self._costs

    def _ask(self, kept: Edges, wrong: Edges, write: bool) -> Outcome:
        nats, words = [0.0] * len(self.items), [""] * len(self.items)
        title = f"{len(kept)} of {len(self.every)} edges" + (", one of them wrong" if wrong else "")
        told = Console(stderr=True)
        for batch in track(self._batches, title, console=told, transient=True):
            found = batch.own.ask(_carry(kept, wrong, batch), write=write)
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
        return [_Batch(rows, self._replay(rows), self._replay(self._others(rows))) for rows in cuts]

    def _others(self, rows: Sequence[int]) -> list[int]:
        return [self.partners[row] for row in rows]

    def _replay(self, rows: Sequence[int]) -> Replay:
        queries = [query(self.items[row]) for row in rows]
        return Replay(self.pipeline, queries, [self.answers[row] for row in rows])

    # -- what is known -----------------------------------------------------------------------------

    @cached_property
    def _key(self) -> str:
        items = [asdict(item) for item in self.items]
        told = [identity(self.pipeline), items, self.answers, self.partners, self.batch_size]
        return digest(json.dumps(told))[:16]

    @cached_property
    def _known(self) -> _Known:
        try:
            content: Any = json.loads(self.out.read_text(encoding="utf-8")) if self.out else {}
            found = TypeAdapter(_Known).validate_python(content)
        except (ValueError, OSError):
            found = _Known(self._key)
        return found if found.key == self._key else _Known(self._key)

    @property
    def _outcomes(self) -> dict[str, Outcome]:
        return self._known.outcomes

    @property
    def _costs(self) -> list[Cost]:
        return self._known.costs

    def _store(self) -> None:
        if self.out is not None:
            write_text(self.out, json.dumps(asdict(self._known)) + "\n")


@dataclass
class _Known:
    """Outcomes by condition and the edges' costs, of a pipeline, items and settings."""

    key: str
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    costs: list[Cost] = field(default_factory=list[Cost])


def _carry(kept: Edges, wrong: Edges, batch: _Batch) -> Carry:
    sent: Sent = batch.other.sent() if wrong else {}

    def carry(step: int, edge: int, message: Message) -> Message | None:
        if edge not in kept:
            return None
        return sent[step, edge] if edge in wrong else message

    return carry


def _listed(edges: Edges) -> str:
    return ",".join(map(str, sorted(edges))) or "none"


def _length(item: Item) -> int:
    return len(item.context) + len(item.question)
