"""One pipeline in one condition: how many answers are right, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unspoken.evaluation.statistics import Amount, Count, Share, wilson
from unspoken.evaluation.timing import Timed, earlier_seconds
from unspoken.pipeline import Run
from unspoken.tasks import Item, matches
from unspoken.types import Finish, Usage

__all__ = ["Arm", "Prediction", "notes"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was answered about one item, and at what cost: a line of `predictions/*.jsonl`.

    messages: the words of each agent that wrote any, except the answering one. message_of: the id
    of the item that these agents worked on. usage: of all agents. costs: the same by agent. timed:
    how its seconds were measured; an `Evaluator` gives it for those of an earlier run alone.
    finish: how the answer ended, see `Turn`.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    prediction: str
    correct: bool
    messages: dict[str, str]
    message_of: str
    usage: Usage
    costs: dict[str, Usage]
    timed: Timed | None = None
    finish: Finish | None = None

    @classmethod
    def of(
        cls, item: Item, run: Run, other: Item | None = None, timed: Timed | None = None
    ) -> Prediction:
        """other: the item that all agents but the answering one worked on instead."""
        return cls(
            id=item.id,
            question=item.question,
            answers=item.answers,
            prediction=run.answer,
            correct=matches(run.answer, item.answers),
            messages={t.agent: t.text for t in run.turns[:-1] if t.text is not None},
            message_of=(other or item).id,
            usage=run.usage,
            costs=run.costs,
            timed=timed,
            finish=run.finish,
        )

    def about(self, item: Item) -> bool:
        """Whether it is about this item, and right exactly if its answer is accepted."""
        right = matches(self.prediction, item.answers)
        return (self.id, self.answers, self.correct) == (item.id, item.answers, right)


@dataclass(frozen=True)
class Arm:
    """One channel in one condition over n items. Costs are means per item, of all agents.

    accuracy, ci_low, ci_high: fractions, Wilson interval of 95 %. tokens_read, tokens_written:
    tokens; wire_bytes: bytes; seconds: an item's share of its batch. correct: item by item, empty
    where an arm is read back from results.json. timed: how the seconds were measured, if that was
    in an earlier run. cut: answers that were cut at `max_tokens`, None if that is not known.
    """

    channel: str
    condition: str
    n: Count
    accuracy: Share
    ci_low: Share
    ci_high: Share
    tokens_read: Amount
    tokens_written: Amount
    passes: Amount
    wire_bytes: Amount
    seconds: Amount
    correct: tuple[bool, ...] = ()
    timed: Timed | None = field(default=None, compare=False)
    cut: int | None = None

    @classmethod
    def of(cls, channel: str, condition: str, rows: Sequence[Prediction]) -> Arm:
        """An arm from its predictions, one an item."""
        correct = tuple(row.correct for row in rows)
        n, right = len(rows), sum(correct)
        interval = wilson(right, n)

        def mean(name: str) -> float:
            return sum(float(getattr(row.usage, name)) for row in rows) / n

        return cls(
            channel=channel,
            condition=condition,
            n=n,
            accuracy=right / n,
            ci_low=interval.low,
            ci_high=interval.high,
            tokens_read=mean("read"),
            tokens_written=mean("written"),
            passes=mean("passes"),
            wire_bytes=mean("wire"),
            seconds=mean("seconds"),
            correct=correct,
            timed=rows[0].timed,
            cut=sum(row.finish == "length" for row in rows) if rows[0].finish else None,
        )

    @property
    def name(self) -> str:
        """Channel and condition."""
        return f"{self.channel} {self.condition}"


_MANY = 0.1
"""The share of cut answers from which a report warns."""


def notes(arms: Sequence[Arm]) -> str:
    """What a reader of a table has to know, in sentences, '' for nothing.

    These are the arms whose seconds an earlier run has measured, and those of which many answers
    were cut.
    """
    said = [earlier_seconds((arm.name, arm.timed) for arm in arms), _cut_note(arms)]
    return " ".join(filter(None, said))


def _cut_note(arms: Sequence[Arm]) -> str:
    found = [arm for arm in arms if arm.cut and arm.cut >= _MANY * arm.n]
    if not found:
        return ""
    worst = sorted(found, key=lambda arm: arm.cut or 0, reverse=True)[:3]
    told = ", ".join(f"{arm.name} {arm.cut} of {arm.n}" for arm in worst)
    return (
        f"Many answers were cut at max_tokens, in {len(found)} of {len(arms)} arms: {told}"
        f"{' and others' if len(found) > len(worst) else ''}. Raise max_tokens to see their ends."
    )
