"""The wrong answer of each decision: as likely as the right one to an agent without the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from unspoken.errors import DataError
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected
from unspoken.pipeline import Pipeline
from unspoken.tasks import Item, matches, normalise

__all__ = ["answer_pairs", "without_fact"]

_DRAWN = 16


def answer_pairs(
    evaluator: Evaluator, decider: Pipeline, *, expected: Expected, seed: int
) -> list[tuple[str, str]]:
    """For each item its answer, and another item's answer that is about as likely without the fact.

    Of up to 16 answers that the seed draws, the one whose probability without the fact is nearest.
    So the bias of an agent that has read nothing is about 0, as the theory of weak signals needs,
    and a decision cannot be taken from the question alone. Raises `DataError` if an item has none.
    """
    items, agent = evaluator.items, decider.answerer
    drawn = [_wrong(item, items, Random(f"{seed} {item.id}")) for item in items]
    count = min(_DRAWN, *(len(wrong) for wrong in drawn))
    answers = [
        tuple(expected(agent, one) for one in (item, *wrong[:count]))
        for item, wrong in zip(items, drawn, strict=True)
    ]
    unread = evaluator.about([replace(item, context="") for item in items])
    asked = unread.likelihoods("alone, nothing read", without_fact(decider), answers)
    return [
        (written[0], written[1 + min(range(count), key=lambda n: abs(nats[1 + n] - nats[0]))])
        for written, nats in zip(answers, asked.nats, strict=True)
    ]


def without_fact(decider: Pipeline) -> Pipeline:
    """The same agent without the fact."""
    agent = decider.answerer
    template = agent.role.template.replace(" {context}", "").replace("{context}", "")
    role = replace(agent.role, template=template)
    return Pipeline([replace(agent, role=role)])


def _wrong(item: Item, items: Sequence[Item], draw: Random) -> list[Item]:
    """Other items, shuffled, whose answer is wrong for this one and is not in its fact."""
    fact = f" {normalise(item.context)} "
    found = [
        other
        for other in items
        if not matches(other.answers[0], item.answers)
        and not matches(item.answers[0], other.answers)
        and f" {normalise(other.answers[0])} " not in fact
    ]
    if not found:
        raise DataError(
            f"item {item.id!r} has no wrong answer among the {len(items)} items; give items with "
            "other answers, or more of them"
        )
    draw.shuffle(found)
    return found
