"""What an agent asks of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from torch import Tensor

from unspoken.types import (
    TEXT,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Settings,
    Spec,
    Words,
)

__all__ = ["Model"]


class Model(Protocol):
    """A language model as an agent uses it: its identity, its words, how it reads and writes.

    It may be weights in this process, a serving engine, or a script. What `read` returns holds a
    cache that only the same model has to understand.
    """

    @property
    def spec(self) -> Spec:
        """Shapes, identity and abilities, which `Channel.check` compares."""
        ...

    def tokens(self, words: str) -> list[int]:
        """Token ids of `words` alone, without special tokens around them."""
        ...

    def encode(
        self, words: str, frames: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids of `words`, and where each token ends in them, in characters; -1 if unknown.

        frames: where control tokens count, as (begin, end) in characters; None for anywhere. In
        other places they are spelled like any word.
        """
        ...

    def chat(
        self,
        system: str,
        user: str,
        *,
        past: Sequence[tuple[str, str]] = (),
        now: datetime | None = None,
        **options: Any,
    ) -> str:
        """A user's turn in the chat template, open for the assistant; see `Spec.chats`.

        past: earlier turns, the user's words and the assistant's. now: the date, if the template
        writes one. options: what it is told besides, such as enable_thinking. Raises
        `TemplateError` for a template that does not show both texts.
        """
        ...

    def shorten(self, words: str, limit: int) -> str:
        """The words of the first `limit` tokens."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) to input embeddings (..., W), the space of `Vectors`."""
        ...

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt of B rows and compute what is needed."""
        ...

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Continue each row of a context with words.

        on_text: gets the number of a row and its new words, as they come.
        """
        ...

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """Negative log-likelihood (B,) of each row's answer, in nats."""
        ...
