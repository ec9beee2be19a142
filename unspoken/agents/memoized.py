"""An agent that writes about each item once, however many arms of a comparison ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from unspoken.agents import Agent, Incoming
from unspoken.agents.roles import Fields
from unspoken.channels.sender_state import SenderState
from unspoken.types import TEXT, Need, Usage

__all__ = ["MemoizedAgent"]


class MemoizedAgent(Agent):
    """Keeps the words it wrote about an item, and what they cost, for the next time it is asked.

    Greedy writing gives the same words again, so the matched and the deranged arm need them once.
    The cost is charged in full every time. Only words are kept: states and caches would not fit.
    """

    @cached_property
    def _said(self) -> dict[tuple[object, ...], tuple[str, Usage]]:
        return {}

    def compute(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
        on_text: Callable[[str], None] | None = None,
    ) -> tuple[SenderState, list[Usage]]:
        words_only = {need.kind for need in needs} == {"text"} and on_text is None
        if incoming or not words_only or self.settings.temperature > 0:
            return super().compute(fields, incoming, needs=needs, on_text=on_text)
        rows = zip(*(fields[name] for name in self.role.fields), strict=True)
        keys: list[tuple[object, ...]] = [(needs, *row) for row in rows]
        new = [n for n, key in enumerate(keys) if key not in self._said]
        if new:
            part = {name: tuple(values[n] for n in new) for name, values in fields.items()}
            state, usage = super().compute(part, needs=needs)
            for n, words, cost in zip(new, state.text or (), usage, strict=True):
                self._said[keys[n]] = (words, cost)
        said = [self._said[key] for key in keys]
        silent, _ = super().compute(fields, needs=frozenset())
        return replace(silent, text=tuple(words for words, _ in said)), [cost for _, cost in said]
