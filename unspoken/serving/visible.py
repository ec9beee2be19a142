"""What a user sees of a conversation: what system words say, what was asked and answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unspoken.serving.protocol import Message
from unspoken.serving.refusals import Refusal

__all__ = ["Visible", "visible"]


@dataclass(frozen=True, slots=True)
class Visible:
    """A conversation up to a question.

    system: what all agents are told besides their own instructions. turns: questions with answers.
    """

    system: str
    turns: tuple[tuple[str, str], ...]
    question: str


def visible(messages: Sequence[Message]) -> Visible:
    """The conversation that the messages of a chat are, every word of them.

    Messages of the system and of a developer are system words, wherever they are. What a tool has
    said is read as part of the next question. Several messages of one side in a row are one, with
    an empty line between them. Raises `Refusal` unless a question ends it.

    >>> chat = [("system", "Be brief."), ("user", "Who?"), ("assistant", "Ada."), ("user", "Why?")]
    >>> visible([Message(role=role, content=words) for role, words in chat])
    Visible(system='Be brief.', turns=(('Who?', 'Ada.'),), question='Why?')
    """
    system, sides = list[str](), list[tuple[str, list[str]]]()
    tools = {call.id: call.function.name for one in messages for call in one.tool_calls or ()}
    for one in messages:
        if one.role in ("system", "developer"):
            system.append(_named(one))
        elif one.role == "assistant" and not sides:
            system.append(f"The conversation begins with your words: {_said(one)}")
        else:
            side = "assistant" if one.role == "assistant" else "user"
            words = _of_tool(one, tools) if one.role == "tool" else _said(one)
            if not sides or sides[-1][0] != side:
                sides.append((side, []))
            sides[-1][1].append(words)
    if not sides or sides[-1][0] != "user":
        raise Refusal(
            400,
            "the last message is of the assistant, or there is none but of the system; end with a "
            "message of the user or of a tool",
            param="messages",
        )
    said = [_joined(words) for _, words in sides]
    turns = tuple(zip(said[:-1:2], said[1::2], strict=True))
    return Visible(_joined(system), turns, said[-1])


def _joined(words: Sequence[str]) -> str:
    return "\n\n".join(filter(None, words))


def _named(message: Message) -> str:
    words = message.words
    return f"{message.name}: {words}" if message.name and words else words


def _said(message: Message) -> str:
    calls = [f"{one.function.name}({one.function.arguments})" for one in message.tool_calls or ()]
    return _joined([_named(message), *calls])


def _of_tool(message: Message, tools: dict[str, str]) -> str:
    name = message.name or tools.get(message.tool_call_id or "", "")
    return f"Result of {name or 'a tool'}:\n{message.words}"
