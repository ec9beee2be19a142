"""Writing: words by `generate` from a filled cache, or vectors without choosing a word."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.caches import growing_cache, has_holes, kept
from unspoken.backbone.decoding import Decoding
from unspoken.backbone.generation import Row, StopAt, writer, written_lengths
from unspoken.backbone.joining import join_aheads, join_contexts
from unspoken.backbone.reading import UNWHOLE
from unspoken.backbone.rereading import TokenCache
from unspoken.backbone.rollout import Expected, Step, aligned, alignment, drive
from unspoken.cancelling import stop_if_cancelled
from unspoken.errors import IncompatibleModels
from unspoken.types import (
    Ahead,
    Cache,
    CacheSegment,
    Context,
    KVCache,
    Need,
    OnText,
    Rollout,
    Settings,
    Spelling,
    Vectors,
    Words,
    left_pad,
)

__all__ = ["Writing"]


class Writing(Decoding):
    """A model that continues from a context."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(model, tokenizer, name=name)
        self._alignments: dict[bool, tuple[Tensor | None, Tensor]] = {}

    def _forget(self) -> None:
        super()._forget()
        self._alignments = {}

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Continue each row of a context with words, by `generate` from the prefilled cache.

        on_text: gets the number of a row and its new words, as they come.
        """
        return self._write(context, None, self.rows(context, settings, on_text))

    def proceed(
        self,
        context: Context,
        ahead: Ahead,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """`write` where the context's last token was read with the rest, which saves a pass."""
        return self._write(context, ahead, self.rows(context, settings, on_text))

    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
        aheads: Sequence[Ahead] = (),
    ) -> list[Words]:
        """What `write` gives for each context by its settings, all in one batch.

        on_text: one for each context. aheads: what comes of the contexts' last tokens, if they were
        read with the rest.
        """
        for context, own in zip(contexts, settings, strict=True):  # before any pass
            self._check_room(context.length, own.max_tokens, whole=_keeps_tensors(context))
        each = zip(contexts, settings, on_text or [None] * len(contexts), strict=True)
        rows = [row for one in each for row in self.rows(*one)]
        joined = join_contexts(contexts)
        ahead = join_aheads(contexts, aheads) if aheads else None
        return list(_apart(self._write(joined, ahead, rows), joined, contexts))

    def rows(
        self, context: Context, settings: Settings, on_text: OnText | None = None
    ) -> list[Row]:
        """How each row of a context is written."""
        thoughts, each = self.thoughts, Row.each(settings, context.batch, on_text)
        if thoughts is None:
            return each
        spelling = context.spelling
        read = zip(each, spelling.words, spelling.ends.tolist(), strict=True)
        return [row._replace(state=thoughts.state(words, ends)) for row, words, ends in read]

    @torch.no_grad()
    def _write(self, context: Context, ahead: Ahead | None, rows: Sequence[Row]) -> Words:
        most = max(row.settings.max_tokens for row in rows)
        self._check_room(context.length, most, whole=_keeps_tensors(context))
        stop_if_cancelled()
        if isinstance(context.cache, TokenCache):

            def generate(model: Any, given: dict[str, Any], places: Sequence[int]) -> Words:
                return self.generate(model, given, [rows[n] for n in places])

            return self.rewrite(context.cache, generate)
        cache = growing_cache(ahead.kv if ahead else context.kv)
        model = writer(self.model, cache, ahead.logits if ahead else None)
        given = {
            "input_ids": context.last[:, None],
            "attention_mask": context.mask.long(),
            "position_ids": self.begin + context.positions,
            "past_key_values": cache,
        }
        with self.seeing(context.seen):
            words = self.generate(model, given, rows)
        return replace(words, passes=words.passes - bool(ahead), cache=KVCache(kept(cache)))

    @torch.no_grad()
    def roll_out(self, context: Context, need: Need, settings: Settings = Settings()) -> Rollout:
        """Continue for `need.limit` positions without choosing words, see `Rollout`.

        An `expected` rollout ends where its most probable words end the sequence or complete a
        `stop` string, and otherwise after `settings.max_tokens` if there is no limit. The other
        kinds compute no vocabulary and run to the limit.
        """
        steps, first = need.limit or settings.max_tokens, self.embed(context.last[:, None])
        self._check_room(context.length, steps)
        if need.feed == "expected":
            return self._expected(context, first, steps, need.temperature, settings.stop)
        feed = aligned(*self._alignment(ridge=need.feed == "ridge"))
        if context.seen is not None:
            raise IncompatibleModels(UNWHOLE.format(name=self.name))
        driven = drive(self._state, context, first, feed, steps, whole=True)
        mask = context.mask.new_ones(context.batch, steps)
        places = context.length[:, None] + torch.arange(steps, device=self.device)
        ends = torch.cat((context.spelling.ends, torch.full_like(mask, -1, dtype=torch.long)), 1)
        spelling = Spelling(context.spelling.words, ends)
        return Rollout(
            Vectors(driven.states, mask),
            Vectors(driven.vectors, mask),
            CacheSegment(
                KVCache(driven.kv),
                torch.cat((context.mask, mask), 1),
                torch.cat((context.positions, places), 1),
                spelling,
            ),
            driven.passes,
        )

    def _expected(
        self, context: Context, first: Tensor, steps: int, temperature: float, stop: Sequence[str]
    ) -> Rollout:
        feed = Expected(self.table, temperature)
        halt = StopAt([stop] * context.batch, self.tokenizer) if stop else None
        over = torch.zeros(context.batch, dtype=torch.bool, device=self.device)
        known = torch.tensor(self.ends, device=self.device)

        def ended() -> bool:
            over.logical_or_(torch.isin(feed.likely[-1], known))
            if halt is not None:
                over.logical_or_(halt(torch.stack((context.last, *feed.likely), 1), None))
            return bool(over.all())

        def passed(**given: Any) -> Step:
            given["position_ids"] = given["position_ids"] + self.begin
            found = self.model(**given, output_hidden_states=True, **self.last_logits)
            return Step(found.hidden_states[-1][:, -1], found.logits[:, -1])

        with self.seeing(context.seen):
            driven = drive(passed, context, first, feed, steps, whole=False, ended=ended)
        lengths = written_lengths(torch.stack(feed.likely, 1), self.ends, halt)
        lengths = [n - int(out) for n, out in zip(lengths, over.tolist(), strict=True)]
        written = [
            Vectors(*left_pad([row[:n] for row, n in zip(part, lengths, strict=True)]))
            for part in (driven.states, driven.vectors)
        ]
        return Rollout(*written, cached=None, passes=driven.passes)

    def _state(self, **given: Any) -> Step:
        """A pass without a vocabulary."""
        given["position_ids"] = given["position_ids"] + self.begin
        return Step(self.body(**given).last_hidden_state[:, -1])

    def _alignment(self, *, ridge: bool) -> tuple[Tensor | None, Tensor]:
        if ridge not in self._alignments:
            self._alignments[ridge] = alignment(self.head, self.embed, ridge=ridge)
        return self._alignments[ridge]


def _keeps_tensors(context: Context) -> bool:
    return not isinstance(context.cache, TokenCache)


def _apart(words: Words, joined: Context, contexts: Sequence[Context]) -> Iterator[Words]:
    """The words of each context, out of those of all its rows in one batch."""
    begin = 0
    for context in contexts:
        own = slice(begin, begin + context.batch)
        begin = own.stop
        yield replace(
            words,
            words=words.words[own],
            tokens=words.tokens[own],
            passes=max(words.tokens[own]),
            ids=words.ids[own],
            cache=_own_part(words.cache, joined, context, own),
            reasoning=words.reasoning[own],
            finish=words.finish[own],
        )


def _own_part(cache: Cache | None, joined: Context, context: Context, rows: slice) -> Cache | None:
    """A context's rows of a cache, its own slots and what was written. None if it had holes."""
    front = joined.mask.shape[1] - context.mask.shape[1]
    if cache is None or front < 0 or has_holes(context.mask):
        return None
    return cache.rows(rows, torch.arange(_slots(cache), device=joined.mask.device) >= front)


def _slots(cache: Cache) -> int:
    return cache.kv()[0][0].shape[2]
