"""The words in which an agent would write the right answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.evaluation.expected import expected_answer
from unspoken.tasks import Item

ITEM = Item("q1", "Ada keeps a parrot.", "What does Ada keep?", ("a parrot", "parrots"))


@pytest.mark.parametrize(
    ("kind", "chat", "end", "words"),
    [
        ("llama", False, "", " a parrot"),
        ("llama", False, "\n", " a parrot\n"),
        ("llama", True, "", "a parrot"),
        ("llama", True, "\n", "a parrot\n"),
        ("gemma", True, "", " a parrot"),
    ],
)
def test_a_space_comes_first_but_not_after_a_chat_template(
    kind: str, chat: bool, end: str, words: str, tiny: Callable[..., Backbone]
) -> None:
    """Of the tiny models gemma has no chat template, whatever its role says."""
    model = tiny(kind)
    assert model.spec.chats == (kind == "llama")
    agent = Agent("solver", model, role=Role(chat=chat))
    assert expected_answer(agent, ITEM, end=end) == words
