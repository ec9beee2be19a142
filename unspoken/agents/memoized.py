"""An agent that writes about each item once, for all arms of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from unspoken.agents import Agent, Incoming
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps
from unspoken.channels.sender_state import SenderState
from unspoken.types import TEXT, Finish, Need, OnText, Usage

__all__ = ["MemoizedAgent"]


class _Kept(NamedTuple):
    """What was written about an item."""

    words: str
    reasoning: str | None
    finish: Finish | None
    usage: Usage


class MemoizedAgent(Agent):
    """Keeps the words it wrote about an item, and their cost, for the next call.

    Greedy writing gives the same words again, so the matched arm and the deranged arm (mismatched
    messages) share them. Every call is charged in full. Only words are kept, because states and
    caches take too much room.
    """

    @cached_property
    def _written(self) -> dict[tuple[object, ...], _Kept]:
        return {}

    def work(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
        on_text: OnText | None = None,
    ) -> Steps[tuple[SenderState, list[Usage]]]:
        words_only = {need.kind for need in needs} == {"text"} and on_text is None
        if incoming or not words_only or self.settings.temperature > 0:
            return (yield from super().work(fields, incoming, needs=needs, on_text=on_text))
        rows = zip(*(fields[name] for name in self.role.fields), strict=True)
        keys: list[tuple[object, ...]] = [(needs, *row) for row in rows]
        known = self._written
        new = [n for n, key in enumerate(keys) if key not in known]
        fresh: dict[tuple[object, ...], _Kept] = {}
        if new:
            part = {name: tuple(values[n] for n in new) for name, values in fields.items()}
            state, usage = yield from super().work(part, needs=needs)
            thoughts = state.reasoning or [None] * len(new)
            ends = state.finish or [None] * len(new)
            written = map(_Kept, state.text or (), thoughts, ends, usage)
            fresh = dict(zip((keys[n] for n in new), written, strict=True))
            known.update({key: one for key, one in fresh.items() if one.finish != "cancelled"})
        found = [fresh.get(key) or known[key] for key in keys]
        silent, _ = yield from super().work(fields, needs=frozenset())
        told = replace(
            silent,
            text=tuple(one.words for one in found),
            reasoning=tuple(one.reasoning for one in found),
            finish=tuple(one.finish for one in found if one.finish),
        )
        return told, [one.usage for one in found]
