"""Writing: words from a filled cache, or vectors without choosing a word."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.decoding import Decoding
from unspoken.backbone.generation import Row, StopAt, written_lengths
from unspoken.backbone.grown import GrownCache
from unspoken.backbone.once import once
from unspoken.backbone.reading import UNWHOLE
from unspoken.backbone.rereading import TokenCache
from unspoken.backbone.rollout import Expected, Step, aligned, alignment, drive
from unspoken.backbone.rows import WritingRow, rows_of
from unspoken.backbone.running import RunningBatch, choose, sampler_of
from unspoken.backbone.stopping import StopStrings
from unspoken.cancelling import stop_if_cancelled
from unspoken.errors import IncompatibleModels
from unspoken.scheduling import Limits, Request, Scheduler
from unspoken.types import (
    KV,
    Ahead,
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
    """A model that continues from a context.

    Whatever is written after a cache goes through the model's scheduler, so that rows share steps
    with those of all other threads.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(model, tokenizer, name=name)
        self._alignments: dict[bool, tuple[Tensor | None, Tensor]] = {}
        self._schedulers: dict[torch.dtype | None, Scheduler[WritingRow]] = {}

    def _forget(self) -> None:
        super()._forget()
        self._alignments, self._schedulers = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_schedulers": {}}  # a copy has its own

    @property
    def scheduler(self) -> Scheduler[WritingRow]:
        """What lets rows share steps: one for each precision that threads ask for."""
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with self.lock:
            if dtype not in self._schedulers:
                limits = Limits() if self.spec.batches else Limits(max_rows=1)
                batch = RunningBatch(self, dtype)
                self._schedulers[dtype] = Scheduler(batch, limits, name=self.name)
            return self._schedulers[dtype]

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Continue each row of a context with words.

        on_text: gets the number of a row and its new words, as they come.
        """
        return self._write([context], [settings], [on_text], [])[0]

    def proceed(
        self,
        context: Context,
        ahead: Ahead,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """`write` where the context's last token was read with the rest, which saves a pass."""
        return self._write([context], [settings], [on_text], [ahead])[0]

    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
        aheads: Sequence[Ahead] = (),
    ) -> list[Words]:
        """What `write` gives for each context by its settings, all at once.

        on_text: one for each context. aheads: what comes of the contexts' last tokens, if they were
        read with the rest.
        """
        return self._write(contexts, settings, on_text, aheads)

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

    def _write(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None],
        aheads: Sequence[Ahead],
    ) -> list[Words]:
        for context, own in zip(contexts, settings, strict=True):  # before any pass
            whole = not isinstance(context.cache, TokenCache)
            self._check_room(context.length, own.max_tokens, whole=whole)
        stop_if_cancelled()
        each = zip(contexts, settings, on_text or [None] * len(contexts), strict=True)
        rows = [self.rows(*one) for one in each]
        found = {
            n: self._rewrite(context.cache, rows[n])
            for n, context in enumerate(contexts)
            if isinstance(context.cache, TokenCache)
        }
        kept = [n for n in range(len(contexts)) if n not in found]
        tasks = {n: self.tasks(contexts[n], rows[n], aheads[n] if aheads else None) for n in kept}
        if tasks:
            every = [task for one in tasks.values() for task in one]
            self._begin([task for task in every if task.first is not None])
            with self.scheduler.submit(every, self._listen) as request:
                request.wait()
            found |= {n: self._grown(contexts[n], tasks[n]) for n in kept}
        return [found[n] for n in range(len(contexts))]

    @torch.no_grad()
    def _begin(self, rows: Sequence[WritingRow]) -> None:
        """Choose the first token of rows that know its logits. It waits for no step of a batch."""
        for row in rows:
            assert row.first is not None
            choose(self, [row], row.first, sampler_of([row], self.device))

    def _grown(self, context: Context, rows: Sequence[WritingRow]) -> Words:
        cache = GrownCache.of(context.cache, [row.written for row in rows])
        return replace(self.finished(rows), cache=cache)

    def tasks(
        self, context: Context, rows: Sequence[Row], ahead: Ahead | None = None
    ) -> list[WritingRow]:
        """The rows of a context as its scheduler takes them."""
        return rows_of(context, ahead, rows, self._nothing_read, self.ends, self.stop_strings)

    @once
    def _nothing_read(self) -> KV:
        """The cache of no slots, L x (1, H, 0, D)."""
        make = partial(torch.zeros, dtype=self.dtype, device=self.device)
        return tuple((make(1, heads, 0, k), make(1, heads, 0, v)) for heads, k, v in self.shapes)

    def _listen(self, request: Request[WritingRow]) -> None:
        """Let rows tell their words in the thread that asked."""
        for task in request.tasks:
            if task.row.tell is not None:
                tell = partial(_later, request, task.row.tell)
                task.listen(self.teller(task.row._replace(tell=tell)))

    def finished(self, rows: Sequence[WritingRow]) -> Words:
        """The words of the rows of one context, once all are over."""
        return self.said(
            [row.row for row in rows],
            [tuple(row.ids) for row in rows],
            [row.finish or "cancelled" for row in rows],
            passes=max(row.passes for row in rows),
            wait=min(row.wait for row in rows),
        )

    @torch.no_grad()
    def _rewrite(self, read: TokenCache, rows: Sequence[Row]) -> Words:
        def generate(model: Any, given: dict[str, Any], places: Sequence[int]) -> Words:
            return self.generate(model, given, [rows[n] for n in places])

        return self.rewrite(read, generate)

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
        strings = StopStrings(stop, self.tokenizer)
        halt = StopAt([strings] * context.batch) if stop else None
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


def _later(request: Request[WritingRow], tell: Callable[[str], None], piece: str) -> None:
    request.later(partial(tell, piece))
