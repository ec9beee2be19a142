"""The telephone game: a fact goes from agent to agent, and at every hop a question is asked.

A hop: a sender reads words and sends its message over the channel. A receiver, which sees nothing
but the message, restates it in words. The next sender reads these words in the place of the fact.
So any channel makes a hop, and a projector is needed one way only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from unspoken.errors import DataError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.statistics import difference, mean, wilson
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.telephone.report import Hop, TelephoneReport
from unspoken.tasks import Item, Task, normalise, partners

__all__ = ["Players", "play"]

_SILENCE = "..."
"""What an agent passes on if it wrote nothing: an empty fact cannot be read."""
_SHOWN = 3


@dataclass(frozen=True)
class Players:
    """One channel: a pipeline that answers after a message, and one that restates the message."""

    answering: Pipeline
    restating: Pipeline


def play(
    channels: Mapping[str, Players],
    task: Task,
    *,
    hops: int = 4,
    expected: Expected = expected_answer,
    limit: int | None = 64,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> TelephoneReport:
    """Pass the facts of a task on, `hops` times over each channel, and ask at every hop.

    limit, seed: the items are those of `compare`. expected: how the right answer is written. With
    `out`, predictions, restatements and likelihoods are kept there, and the report. Raises
    `DataError`.
    """
    items = sample(task.test, limit, seed)
    if len(items) < 2 or hops < 1:
        raise DataError(f"the game needs two items and a hop, got {len(items)} and hops={hops}")
    evaluator = Evaluator(items, batch_size, Store(out))
    game = _Game(evaluator, partners(items, seed), expected, seed)
    played = {name: game.chain(name, players, hops) for name, players in channels.items()}
    pipelines = [players.answering for players in channels.values()]
    report = TelephoneReport(
        channels={name: found for name, (found, _) in played.items()},
        alone=evaluator.arm("no message", "none", pipelines[0].without_messages()),
        told={name: read for name, (_, read) in played.items()},
        **about(pipelines, task, len(items), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report


@dataclass(frozen=True)
class _Game:
    """The items, for each the item whose message is the wrong one, and how they are asked."""

    evaluator: Evaluator
    other: Sequence[int]
    expected: Expected
    seed: int

    @property
    def items(self) -> Sequence[Item]:
        return self.evaluator.items

    def chain(
        self, name: str, players: Players, hops: int
    ) -> tuple[tuple[Hop, ...], tuple[tuple[str, ...], ...]]:
        """All hops over one channel, and what the senders read about the first items."""
        texts: list[list[str]] = [[item.context for item in self.items]]
        found: list[_Answers] = []
        for hop in range(1, hops + 1):
            restated = [
                replace(item, context=words)
                for item, words in zip(self.items, texts[-1], strict=True)
            ]
            at, evaluator = f"{name}, hop {hop}", self.evaluator.about(restated)
            found.append(self._ask(at, evaluator, players.answering))
            if hop < hops:
                written = evaluator.predictions(at, "restated", players.restating)
                texts.append([row.prediction or _SILENCE for row in written])
        measured = tuple(
            self._hop(n, one, found[0], words)
            for n, (one, words) in enumerate(zip(found, texts, strict=True), start=1)
        )
        shown = range(min(_SHOWN, len(self.items)))
        return measured, tuple(tuple(words[n] for words in texts) for n in shown)

    def _ask(self, at: str, evaluator: Evaluator, pipeline: Pipeline) -> _Answers:
        """Ask after the messages of one hop."""
        rows = evaluator.predictions(at, "matched", pipeline)
        answers = [(self.expected(pipeline.answerer, item),) for item in evaluator.items]
        asked = evaluator.likelihoods(at, pipeline, answers)
        return _Answers(
            matched=Arm.of(at, "matched", rows),
            deranged=evaluator.arm(at, "deranged", pipeline, self.other),
            given=[normalise(row.prediction) for row in rows],
            bits=[nats / log(2) for (nats,) in asked.nats],
        )

    def _hop(self, number: int, now: _Answers, first: _Answers, words: Sequence[str]) -> Hop:
        """What the numbered hop came to, against the first one."""
        n = len(self.items)
        kept = sum(one == two for one, two in zip(now.given, first.given, strict=True))
        drift = [after - before for after, before in zip(now.bits, first.bits, strict=True)]
        return Hop(
            hop=number,
            matched=now.matched,
            deranged=now.deranged,
            content=difference(now.matched.correct, now.deranged.correct),
            bits=mean(now.bits, seed=self.seed),
            drift=mean(drift, seed=self.seed),
            kept=kept / n,
            kept_ci=wilson(kept, n),
            words=sum(map(_left, self.items, words)) / n,
        )


@dataclass(frozen=True)
class _Answers:
    """After the messages of one hop: the answers, and log2 p of the right answers."""

    matched: Arm
    deranged: Arm
    given: list[str]
    bits: list[float]


def _left(item: Item, words: str) -> float:
    """The share of the fact's different words that are among these."""
    fact = set(normalise(item.context).split())
    return len(fact & set(normalise(words).split())) / len(fact)
