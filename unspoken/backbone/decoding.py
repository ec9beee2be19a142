"""One call of `generate`: how each row is written, and what it said."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from unspoken.backbone.generation import (
    Likeliest,
    Row,
    Sampler,
    StopAt,
    Watch,
    cut,
    finish_of,
    written_lengths,
)
from unspoken.backbone.rereading import Rereading
from unspoken.backbone.telling import Teller, Tellers
from unspoken.backbone.thoughts import Thoughts, Told
from unspoken.types import Words

__all__ = ["Decoding"]


class Decoding(Rereading):
    """A model whose `generate` writes rows, each by settings of its own."""

    def generate(self, model: Any, given: dict[str, Any], rows: Sequence[Row]) -> Words:
        """What `generate` of a `writer` writes after its inputs, of which input_ids is (B, N)."""
        begin, pad = given["input_ids"].shape[1], self.tokenizer.pad_token_id
        ends, limits = self.ends, [row.settings.max_tokens for row in rows]
        config = GenerationConfig(
            max_new_tokens=max(limits),
            do_sample=False,  # a `Sampler` makes the draw the likeliest word
            use_cache=True,
            eos_token_id=list(ends) or None,
            pad_token_id=pad if pad is not None else (*ends, 0)[0],
        )
        likeliest = Likeliest(*self._who)
        watch, stop = Watch(limits, begin, likeliest), self._stop(rows, begin)
        draws = any(row.settings.temperature > 0 for row in rows)
        sampler = [Sampler(rows, given["input_ids"].device)] if draws else []
        out = model.generate(
            **given,
            generation_config=config,
            logits_processor=LogitsProcessorList([likeliest, *sampler]),
            stopping_criteria=StoppingCriteriaList([watch, stop] if stop else [watch]),
            streamer=self._tellers(rows, likeliest),
        )[:, begin:]
        likeliest.check()
        lengths = written_lengths(out, ends, stop, limits)
        ids = [tuple(row[:n]) for row, n in zip(out.tolist(), lengths, strict=True)]
        told = [self._told(row, one) for row, one in zip(ids, rows, strict=True)]
        return Words(
            tuple(cut(one.answer, row.settings.stop) for one, row in zip(told, rows, strict=True)),
            tuple(lengths),
            passes=out.shape[1],
            ids=tuple(ids),
            wait=watch.first,
            reasoning=tuple(one.reasoning for one in told),
            finish=tuple(finish_of(row, n, ends, stop, limits[n]) for n, row in enumerate(ids)),
        )

    def _stop(self, rows: Sequence[Row], begin: int) -> StopAt | None:
        stops = [row.settings.stop for row in rows]
        if not any(stops):
            return None
        if self.thoughts is None:
            return StopAt(stops, self.tokenizer, begin)
        return StopAt(
            stops, self.tokenizer, begin, lambda row, ids: self._told(ids, rows[row]).answer
        )

    def _tellers(self, rows: Sequence[Row], likeliest: Likeliest) -> Tellers | None:
        heard = any(row.tell for row in rows)
        return Tellers(list(map(self._teller, rows)), likeliest) if heard else None

    def _teller(self, row: Row) -> Teller | None:
        thoughts, settings = self.thoughts, row.settings
        if row.tell is None:
            return None

        def answer(written: str, final: bool) -> str:
            assert thoughts is not None
            settled = written if final else thoughts.settled(written)
            return self._split(settled, row, thoughts).answer.lstrip()

        return Teller(
            self.tokenizer,
            row.tell,
            stop=settings.stop,
            ends=self.ends,
            limit=settings.max_tokens,
            answer=answer if thoughts else None,
        )

    def _told(self, ids: Sequence[int], row: Row) -> Told:
        """Thoughts and answer of a row, without special tokens."""
        thoughts = self.thoughts
        if thoughts is not None:
            whole = self.tokenizer.decode(ids)
            if row.state != "none" or thoughts.open in whole or thoughts.close in whole:
                return self._split(whole, row, thoughts)
        return Told(None, self.tokenizer.decode(ids, skip_special_tokens=True))

    def _split(self, written: str, row: Row, thoughts: Thoughts) -> Told:
        reasoning, answer = thoughts.split(written, row.state)
        return Told(reasoning and self._plain_words(reasoning), self._plain_words(answer))

    def _plain_words(self, words: str) -> str:
        for token in self.tokenizer.all_special_tokens:
            words = words.replace(token, "")
        return words
