"""The right answer in the words in which an agent would write it."""

from __future__ import annotations

from collections.abc import Callable

from unspoken.agents import Agent
from unspoken.tasks import Item

__all__ = ["Expected", "expected_answer"]

Expected = Callable[[Agent, Item], str]
"""A rule for the words of the right answer, whose probability an agent computes."""


def expected_answer(agent: Agent, item: Item, *, end: str = "") -> str:
    """The item's first answer: after a space, or as it is where a chat template ends the prompt.

    end: what an agent writes after its answer if it was trained to end it, such as a new line. Its
    probability is then part of the answer's.
    """
    chats = agent.role.chat and agent.spec.chats
    return f"{item.answers[0]}{end}" if chats else f" {item.answers[0]}{end}"
