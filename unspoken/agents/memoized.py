"""An agent that writes about each item once, for all arms of a comparison."""

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
    """Keeps the words it wrote about an item, and their cost, for the next call.

    Greedy writing gives the same words again, so the matched arm and the deranged arm (mismatched
    messages) share them. Every call is charged in full. Only words are kept, because states and
    caches take too much room.
    """

    @cached_property
    def _written(self) -> dict[tuple[object, ...], tuple[str, Usage]]:
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
        new = [n for n, key in enumerate(keys) if key not in self._written]
        if new:
            part = {name: tuple(values[n] for n in new) for name, values in fields.items()}
            state, usage = super().compute(part, needs=needs)
            for n, words, cost in zip(new, state.text or (), usage, strict=True):
                self._written[keys[n]] = (words, cost)
        found = [self._written[key] for key in keys]
        silent, _ = super().compute(fields, needs=frozenset())
        return replace(silent, text=tuple(words for words, _ in found)), [cost for _, cost in found]
