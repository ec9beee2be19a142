"""One pipeline in one condition: how many answers are right, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unspoken.evaluation.statistics import wilson

__all__ = ["Arm"]


@dataclass(frozen=True)
class Arm:
    """One channel in one condition over n items; costs are means per item, of all agents.

    accuracy, ci_low, ci_high: fractions, Wilson interval of 95 %. tokens_read, tokens_written:
    tokens; wire_bytes: bytes; seconds: an item's share of its batch. correct: item by item; empty
    where an arm is read back from results.json.
    """

    channel: str
    condition: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    tokens_read: float
    tokens_written: float
    passes: float
    wire_bytes: float
    seconds: float
    correct: tuple[bool, ...] = ()

    @classmethod
    def of(cls, channel: str, condition: str, rows: Sequence[Mapping[str, Any]]) -> Arm:
        """An arm from its predictions, one row an item."""
        correct = tuple(bool(row["correct"]) for row in rows)
        n, right = len(rows), sum(correct)
        interval = wilson(right, n)

        def mean(name: str) -> float:
            return sum(float(row["usage"][name]) for row in rows) / n

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
        )
