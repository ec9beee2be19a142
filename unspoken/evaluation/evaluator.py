"""Asking pipelines about items: for their answers, for likelihoods, for scores of all messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unspoken.evaluation.arm import Arm, Prediction
from unspoken.evaluation.identity import key_of
from unspoken.evaluation.items import query
from unspoken.evaluation.likelihoods import Likelihoods, likelihoods
from unspoken.evaluation.scores import Scores, measure
from unspoken.evaluation.store import Store
from unspoken.evaluation.timing import Timed
from unspoken.files import file_name
from unspoken.pipeline import Pipeline
from unspoken.tasks import Item
from unspoken.types import FieldValue

__all__ = ["Evaluator"]


@dataclass(frozen=True)
class Evaluator:
    """Asks pipelines about the same items. Answers that the store has are not computed again.

    With a folder, the store keeps predictions/, likelihoods/ and information/ there. What took
    seconds says how they were measured, in `timed`, if that was in an earlier run.
    """

    items: Sequence[Item]
    batch_size: int = 16
    store: Store = field(default_factory=Store)

    @property
    def queries(self) -> list[dict[str, FieldValue]]:
        """What is asked about each item."""
        return [query(item) for item in self.items]

    def about(self, items: Sequence[Item]) -> Evaluator:
        """The same, about other items."""
        return replace(self, items=items)

    def arm(
        self, channel: str, condition: str, pipeline: Pipeline, other: Sequence[int] | None = None
    ) -> Arm:
        """How many answers are right in one condition, and what they cost; see `predictions`."""
        return Arm.of(channel, condition, self.predictions(channel, condition, pipeline, other))

    def predictions(
        self, channel: str, condition: str, pipeline: Pipeline, other: Sequence[int] | None = None
    ) -> list[Prediction]:
        """The answer to each item. other: the items that all but the answering agent work on."""
        queries, items = self.queries, self.items
        elsewhere = None if other is None else [queries[n] for n in other]

        def answer() -> list[Prediction]:
            runs = pipeline.run_many(
                queries,
                elsewhere=elsewhere,
                batch_size=self.batch_size,
                progress=f"{channel}, {condition}",
            )
            others = [None] * len(items) if other is None else [items[n] for n in other]
            timed = [Timed.now(self.batch_size)] * len(items)
            return list(map(Prediction.of, items, runs, others, timed))

        def sound(found: list[Prediction]) -> bool:
            return len(found) == len(items) and all(map(Prediction.about, found, items))

        name = f"predictions/{file_name(f'{channel}-{condition}')}.jsonl"
        key = key_of(pipeline, queries, elsewhere)
        found = self.store.get(name, key, list[Prediction], answer, sound)
        fresh = self.store.measured(key, list[Prediction])
        return [replace(row, timed=None) for row in found] if fresh else found

    def likelihoods(
        self, name: str, pipeline: Pipeline, answers: Sequence[Sequence[str]]
    ) -> Likelihoods:
        """The log probability of each of an item's answers; see `likelihoods`."""
        queries = self.queries
        return self.store.get(
            f"likelihoods/{file_name(name)}.json",
            key_of(pipeline, queries, answers),
            Likelihoods,
            lambda: likelihoods(
                pipeline, queries, answers, batch_size=self.batch_size, progress=name
            ),
        )

    def scores(
        self, name: str, pipeline: Pipeline, answers: Sequence[str], partners: Sequence[int]
    ) -> Scores:
        """The scores of every message with every question; see `measure`."""
        queries = self.queries

        def score() -> Scores:
            found = measure(
                pipeline,
                queries,
                answers,
                partners,
                batch_size=self.batch_size,
                progress=f"{name}, bits",
            )
            return replace(found, timed=Timed.now(self.batch_size))

        key = key_of(pipeline, queries, answers, partners)
        kept = f"information/{file_name(name)}.json"
        found = self.store.get(kept, key, Scores, score)
        return replace(found, timed=None) if self.store.measured(key, Scores) else found
