"""Writing: words by `generate` from a filled cache, or vectors without choosing a word."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteriaList

from unspoken.backbone.caches import growing_cache, kept
from unspoken.backbone.generation import StopAt, Teller, Watch, cut, writer, written_lengths
from unspoken.backbone.reading import UNWHOLE
from unspoken.backbone.rereading import Rereading, TokenCache
from unspoken.backbone.rollout import Expected, Step, aligned, alignment, drive
from unspoken.errors import IncompatibleModels
from unspoken.types import (
    Ahead,
    CacheSegment,
    Context,
    KVCache,
    Need,
    Rollout,
    Settings,
    Spelling,
    Vectors,
    Words,
    left_pad,
)

__all__ = ["Writing"]


class Writing(Rereading):
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
        on_text: Callable[[str], None] | None = None,
    ) -> Words:
        """Continue each row of a context with words, by `generate` from the prefilled cache.

        `on_text` is called with pieces of text as they come (one row only).
        """
        return self._write(context, None, settings, on_text)

    def proceed(
        self,
        context: Context,
        ahead: Ahead,
        settings: Settings = Settings(),
        on_text: Callable[[str], None] | None = None,
    ) -> Words:
        """`write` where the context's last token was read with the rest, which saves a pass."""
        return self._write(context, ahead, settings, on_text)

    @torch.no_grad()
    def _write(
        self,
        context: Context,
        ahead: Ahead | None,
        settings: Settings,
        on_text: Callable[[str], None] | None,
    ) -> Words:
        reread = isinstance(context.cache, TokenCache)
        self._check_room(context, settings.max_tokens, whole=not reread)
        if isinstance(context.cache, TokenCache):
            return self.rewrite(
                context.cache, partial(self.generate, settings=settings, on_text=on_text)
            )
        cache = growing_cache(ahead.kv if ahead else context.kv)
        model = writer(self.model, cache, ahead.logits if ahead else None)
        given = {
            "input_ids": context.last[:, None],
            "attention_mask": context.mask.long(),
            "position_ids": self.begin + context.positions,
            "past_key_values": cache,
        }
        with self.seeing(context.seen):
            words = self.generate(model, given, settings, on_text)
        return replace(words, passes=words.passes - bool(ahead), cache=KVCache(kept(cache)))

    def generate(
        self,
        model: Any,
        given: dict[str, Any],
        settings: Settings,
        on_text: Callable[[str], None] | None,
    ) -> Words:
        """What `generate` of a `writer` writes after its inputs, of which input_ids is (B, N)."""
        begin, pad = given["input_ids"].shape[1], self.tokenizer.pad_token_id
        ends, sampling = self.ends, settings.temperature > 0
        stop = StopAt(settings.stop, self.tokenizer, begin) if settings.stop else None
        config = GenerationConfig(
            max_new_tokens=settings.max_tokens,
            do_sample=sampling,
            temperature=settings.temperature if sampling else None,
            top_p=settings.top_p if sampling else None,
            top_k=0 if sampling else None,
            use_cache=True,
            eos_token_id=list(ends) or None,
            pad_token_id=pad if pad is not None else (*ends, 0)[0],
        )
        watch = Watch()
        with torch.random.fork_rng(enabled=sampling):
            if sampling:
                torch.manual_seed(settings.seed)
            out = model.generate(
                **given,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([watch, stop] if stop else [watch]),
                streamer=Teller(self.tokenizer, settings.stop, on_text) if on_text else None,
            )[:, begin:]
        lengths = written_lengths(out, ends, stop)
        ids = [row[:n] for row, n in zip(out.tolist(), lengths, strict=True)]
        words = [
            cut(self.tokenizer.decode(row, skip_special_tokens=True), settings.stop) for row in ids
        ]
        return Words(
            tuple(words),
            tuple(lengths),
            passes=out.shape[1],
            ids=tuple(map(tuple, ids)),
            wait=watch.first,
        )

    @torch.no_grad()
    def roll_out(self, context: Context, need: Need, settings: Settings = Settings()) -> Rollout:
        """Continue for `need.limit` positions without choosing words, see `Rollout`.

        An `expected` rollout ends where its most probable words end the sequence or complete a
        `stop` string, and otherwise after `settings.max_tokens` if there is no limit. The other
        kinds compute no vocabulary and run to the limit.
        """
        steps, first = need.limit or settings.max_tokens, self.embed(context.last[:, None])
        self._check_room(context, steps)
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
        halt = StopAt(stop, self.tokenizer) if stop else None
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
