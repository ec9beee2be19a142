"""Whose fault a wrong answer is: the planner's, or the executor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unspoken.evaluation.arm import Prediction
from unspoken.studies.planner.report import Blame
from unspoken.tasks import normalise

__all__ = ["attribute", "holds"]


def holds(plan: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer is in a plan, whole words, both normalised.

    >>> holds("Ada keeps the parrot.", ["parrot"]), holds("Ada keeps parrots.", ["parrot"])
    (True, False)
    """
    words = f" {normalise(plan)} "
    return any(f" {normalise(answer)} " in words for answer in answers)


def attribute(
    predictions: Mapping[str, Sequence[Prediction]], oracle: Sequence[Prediction], planner: str
) -> tuple[Blame, ...]:
    """Blame for each channel, from the answers over it, item by item.

    oracle: the same items over the channel on which the executor reads the fact. planner: the agent
    whose words are the plan; a channel over which it wrote none is left out.
    """
    best = {row.id: row.correct for row in oracle}
    found: list[Blame] = []
    for channel, rows in predictions.items():
        if not all(planner in row.messages for row in rows):
            continue
        wrong = [row for row in rows if not row.correct]
        held = sum(holds(row.messages[planner], row.answers) for row in wrong)
        swapped = sum(best[row.id] for row in wrong)
        right = len(rows) - len(wrong)
        found.append(Blame(channel, len(rows), right, len(wrong) - held, held, swapped))
    return tuple(found)
