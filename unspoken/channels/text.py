"""Words: what every model can send and read, and the ceiling for other channels."""

from __future__ import annotations

from typing import ClassVar

from unspoken.channels.base import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import require
from unspoken.types import TEXT, Need, Prompt, Text, is_count
from unspoken.wire import Message

__all__ = ["TextChannel"]


class TextChannel(Channel):
    """The sender writes and the receiver reads. With `verbatim` the sender passes on its item.

    limit: the number of tokens, by the sender's tokenizer, after which the words are cut. A sender
    that thinks writes its thoughts within them. reasoning: the thoughts travel before the words.
    """

    name: ClassVar[str] = "text"
    carries = (Text,)

    def __init__(
        self, *, verbatim: bool = False, limit: int | None = None, reasoning: bool = False
    ) -> None:
        require(limit is None or is_count(limit), "limit", limit, "a number of tokens above 0")
        self.verbatim, self.limit, self.reasoning = verbatim, limit, reasoning

    @property
    def needs(self) -> frozenset[Need]:
        if self.verbatim:
            return frozenset()
        return frozenset({Need("text", limit=self.limit) if self.limit else TEXT})

    def send(self, state: SenderState) -> Message:
        words = state.given if self.verbatim else state.text
        assert words is not None, "the sender computes what `needs` asks for"
        if self.reasoning and state.reasoning:
            pairs = zip(state.reasoning, words, strict=True)
            words = tuple(f"{thought}\n\n{row}" if thought else row for thought, row in pairs)
        if self.limit is not None:
            words = tuple(state.model.shorten(row, self.limit) for row in words)
        return self._message(state, Text(words))

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        """Insert the words, if any, with a space before them."""
        assert isinstance(message.payload, Text)
        rows = (row.strip() for row in message.payload.words)
        words = tuple(f" {row}" if row else "" for row in rows)
        return prompt.insert(Text(words, share=message.header.sender))
