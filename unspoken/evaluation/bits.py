"""The usable bits of a channel's messages: scores of many items, as means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.scores import Scores
from unspoken.evaluation.statistics import Amount, Count, Estimate, Interval, Share, mean, wilson
from unspoken.evaluation.timing import Timed
from unspoken.pipeline import Pipeline
from unspoken.tasks import Item, partners

__all__ = ["Information", "informed"]


@dataclass(frozen=True)
class Information:
    """Usable bits of one channel's messages about N items: means over items, 95 % intervals.

    bits: what the right message tells of the answer, at most `ceiling` = log2 N. deranged: the same
    of another item's message (a mismatched message). pvi: against no message at all. identified:
    the share of items whose right message makes their answer likeliest, Wilson interval. positions,
    wire: of a message, in positions (words in the receiver's tokens) and bytes. seconds: of the
    whole measurement. items: bits, pvi and identified of each item. timed: how the seconds were
    measured, if that was in an earlier run.
    """

    channel: str
    n: Count
    ceiling: Amount
    bits: Estimate
    deranged: Estimate
    pvi: Estimate
    identified: Share
    identified_ci: Interval
    positions: Amount
    wire: Amount
    seconds: Amount
    items: tuple[dict[str, Any], ...]
    timed: Timed | None = field(default=None, compare=False)

    @classmethod
    def of(cls, channel: str, items: Sequence[Item], scores: Scores, seed: int) -> Information:
        n = len(items)
        rows = zip(items, scores.bits, scores.pvi, scores.identified, strict=True)
        return cls(
            channel=channel,
            n=n,
            ceiling=scores.ceiling,
            bits=mean(scores.bits, seed=seed),
            deranged=mean(scores.deranged, seed=seed),
            pvi=mean(scores.pvi, seed=seed),
            identified=sum(scores.identified) / n,
            identified_ci=wilson(round(sum(scores.identified)), n),
            positions=sum(scores.positions) / n,
            wire=sum(scores.wire) / n,
            seconds=scores.seconds,
            items=tuple(
                {"id": item.id, "bits": bits, "pvi": pvi, "identified": found}
                for item, bits, pvi, found in rows
            ),
            timed=scores.timed,
        )

    @property
    def per_position(self) -> float:
        """Usable bits for each position of a message; 0 if it has none."""
        return self.bits.value / self.positions if self.positions else 0.0

    @property
    def per_kib(self) -> float:
        """Usable bits for each KiB on the wire, header included."""
        return 1024 * self.bits.value / self.wire if self.wire else 0.0


def informed(
    pipelines: Mapping[str, Pipeline],
    evaluator: Evaluator,
    *,
    expected: Expected = expected_answer,
    seed: int = 0,
) -> dict[str, Information]:
    """The usable bits of each pipeline's messages about the evaluator's items."""
    items = evaluator.items
    others = partners(items, seed)
    found: dict[str, Information] = {}
    for name, pipeline in pipelines.items():
        answers = [expected(pipeline.answerer, item) for item in items]
        scores = evaluator.scores(name, pipeline, answers, others)
        found[name] = Information.of(name, items, scores, seed)
    return found
