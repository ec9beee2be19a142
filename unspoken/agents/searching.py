"""An agent that knows the question, and passes on the sentences that fit it best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from time import perf_counter
from typing import Any

from unspoken.agents.agent import Agent, Incoming
from unspoken.agents.roles import Fields, Role
from unspoken.agents.together import Steps
from unspoken.channels.sender_state import SenderState
from unspoken.errors import MissingExtra
from unspoken.projectors import FreeVectors
from unspoken.protocols import Model
from unspoken.types import TEXT, Need, OnText, Settings, Usage

__all__ = ["SearchingAgent", "best_sentences", "check_search", "fits"]

_BOTH = Role(template="{context}\n{question}", chat=False)
_ASKED = Role(template="{question}", chat=False)
_BETWEEN = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, eq=False, init=False, repr=False)
class SearchingAgent(Agent):
    """Sends the `count` sentences of its context that fit the question best, in their order.

    The fit is BM25 (Robertson and Zaragoza 2009), by the library bm25s. No model reads or writes.
    Raises `MissingExtra` without that library.
    """

    count: int

    def __init__(
        self,
        name: str,
        model: Model | str,
        *,
        role: Role | str = _BOTH,
        settings: Settings = Settings(),
        soft: FreeVectors | None = None,
        count: int = 1,
    ) -> None:
        check_search()
        super().__init__(name, model, role=role, settings=settings, soft=soft)
        vars(self).update(count=count)

    def work(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
        on_text: OnText | None = None,
    ) -> Steps[tuple[SenderState, list[Usage]]]:
        start = perf_counter()
        silent, _ = yield from super().work(fields, needs=frozenset())
        pairs = zip(silent.given, _ASKED.given(fields), strict=True)
        found = tuple(best_sentences(text, question, self.count) for text, question in pairs)
        if on_text is not None:
            for n, words in enumerate(found):
                on_text(n, words)
        each = (perf_counter() - start) / len(found)
        return replace(silent, text=found), [Usage(seconds=each) for _ in found]


def best_sentences(text: str, question: str, count: int) -> str:
    """The `count` sentences that fit a question best, in the order of the text.

    Raises `MissingExtra` without bm25s.

    >>> best_sentences("It rained. The bridge was built in 1345.", "When was it built?", 1)
    'The bridge was built in 1345.'
    """
    sentences = _BETWEEN.split(text.strip())
    check_search()
    if len(sentences) <= count:
        return text
    scores = fits(sentences, question)
    best = sorted(range(len(sentences)), key=lambda n: (-scores[n], n))[:count]
    return " ".join(sentences[n] for n in sorted(best))


def fits(texts: Sequence[str], question: str) -> list[float]:
    """How well each text fits a question, 0 for one that shares no word with it but stop words.

    Raises `MissingExtra` without bm25s.
    """
    library = _library()
    words, (asked,) = (
        library.tokenize(some, stopwords="en", show_progress=False, return_ids=False)
        for some in (list(texts), [question])
    )
    if not (any(words) and asked):  # nothing but stop words
        return [0.0] * len(texts)
    index = library.BM25()
    index.index(words, show_progress=False)
    return [float(score) for score in index.get_scores(asked)]


def check_search() -> None:
    """Raise `MissingExtra` without bm25s."""
    _library()


def _library() -> Any:
    """bm25s. Any, because it ships no types."""
    try:
        return import_module("bm25s")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "a search for sentences needs bm25s, which is not installed; "
            "install it with: pip install 'unspoken[search]'"
        ) from error
