# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What `generate` needs besides a cache: where to stop, what is drawn, how much was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.modeling_outputs import CausalLMOutputWithPast

from unspoken.backbone.thoughts import State
from unspoken.cancelling import is_cancelled
from unspoken.finite import no_words, not_finite
from unspoken.types import Finish, OnText, Settings

__all__ = [
    "Likeliest",
    "Row",
    "Sampler",
    "StopAt",
    "Watch",
    "cut",
    "finish_of",
    "writer",
    "written_lengths",
]


def writer(model: Any, cache: Any = None, logits: Tensor | None = None) -> Any:
    """The same model, weights and all, whose `generate` does only what it is told.

    Of a checkpoint's own settings for `generate` none is used. With the logits (B, V) of the last
    token, the first pass is taken as done. A copy, because other threads may be generating with the
    original.
    """
    twin = copy(model)
    twin.generation_config = GenerationConfig()
    if logits is not None:

        def done(*args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
            return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=cache)

        twin._prefill = done
    return twin


class Row(NamedTuple):
    """How one row is written. state: whether its prompt has begun or ended the model's thoughts.

    tell: gets its words as they come.
    """

    settings: Settings
    seed: int
    state: State = "none"
    tell: Callable[[str], None] | None = None

    @classmethod
    def each(cls, settings: Settings, batch: int, on_text: OnText | None = None) -> list[Row]:
        """A row for each of a batch."""
        return [
            cls(settings, seed, tell=on_text and partial(on_text, n))
            for n, seed in enumerate(settings.seeds(batch))
        ]


class StopAt(StoppingCriteria):
    """Ends a row when one of its strings appears in what it wrote, and counts its tokens.

    stops: for each row its strings. answer: what counts of a row's words, without its thoughts.
    """

    def __init__(
        self,
        stops: Sequence[Sequence[str]],
        tokenizer: Any,
        begin: int = 1,
        answer: Callable[[int, Sequence[int]], str] | None = None,
    ) -> None:
        self.stops, self.tokenizer, self.begin, self.answer = stops, tokenizer, begin, answer
        # How many tokens to decode: each has a byte or more.
        self.reach = max(len(stop.encode()) for row in stops for stop in row) + 4
        self.special: list[str] = tokenizer.all_special_tokens
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        written = input_ids[:, self.begin :]
        for row, tail in enumerate(self._tails(written)):
            said = (tail, self._without_special(tail))
            if any(stop in one for stop in self.stops[row] for one in said):
                self.ended.setdefault(row, written.shape[1])
        done = [row in self.ended for row in range(len(written))]
        return torch.tensor(done, device=input_ids.device)

    def _without_special(self, tail: str) -> str:
        for token in self.special:
            tail = tail.replace(token, "")
        return tail

    def _tails(self, written: Tensor) -> list[str]:
        if self.answer is None:
            return self.tokenizer.batch_decode(written[:, -self.reach :])
        return [self.answer(row, ids) for row, ids in enumerate(written.tolist())]


class Likeliest(LogitsProcessor):
    """Notes whether a row has no likeliest word, because its logits are NaN or infinite.

    The note stays on the device: `generate` reads it with all other reasons to stop, and stops.
    whose: whom the error names, and what it computes in.
    """

    def __init__(self, *whose: str) -> None:
        self.whose = whose
        self.missing = torch.tensor(False)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.missing = no_words(scores).any()
        return scores

    def check(self) -> None:
        """Raise `NotFinite` if a row has none."""
        if bool(self.missing):
            raise not_finite(*self.whose)


class Watch(StoppingCriteria):
    """Ends a row after its `max_tokens`; all rows when the run is cancelled, or a likeliest word is
    missing.

    first: seconds until the first token came.
    """

    def __init__(self, limits: Sequence[int], begin: int, likeliest: Likeliest) -> None:
        self.start, self.first, self.likeliest = perf_counter(), 0.0, likeliest
        self.limits, self.begin, self.cancelled = limits, begin, False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.first = self.first or perf_counter() - self.start
        self.cancelled = self.cancelled or is_cancelled()
        written = input_ids.shape[1] - self.begin
        if not self.cancelled and written < min(self.limits):  # as in nearly every step
            return torch.zeros(len(self.limits), dtype=torch.bool, device=input_ids.device)
        done = [self.cancelled or written >= limit for limit in self.limits]
        return torch.tensor(done, device=input_ids.device) | self.likeliest.missing


class Sampler(LogitsProcessor):
    """Draws a word for each row with a generator of its own, so that the likeliest is the draw.

    To log probabilities it adds noise of the Gumbel distribution: the largest sum falls on a word
    as often as the word is likely. So a row gives the same in every batch, and nothing is drawn
    from the process's own generator. Rows of temperature 0 stay as they are.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        hot = [n for n, row in enumerate(rows) if row.settings.temperature > 0]
        self.places = torch.tensor(hot, device=device)
        self.temperature, self.top_p = (
            torch.tensor([[getattr(rows[n].settings, name)] for n in hot], device=device)
            for name in ("temperature", "top_p")
        )
        self.draws = [torch.Generator(device).manual_seed(rows[n].seed) for n in hot]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        hot = scores[self.places].float() / self.temperature.clamp(min=1e-6)
        if bool((self.top_p < 1).any()):
            hot = _likeliest(hot, self.top_p)
        noise = [torch.empty_like(hot[0]).exponential_(generator=draw) for draw in self.draws]
        return scores.float().index_copy(0, self.places, hot - torch.stack(noise).log())


def _likeliest(scores: Tensor, share: Tensor) -> Tensor:
    """Scores (B, V) with -inf for words beyond the likeliest that add up to a share (B, 1)."""
    falling, order = scores.sort(dim=-1, descending=True, stable=True)
    shares = falling.softmax(-1)
    beyond = shares.cumsum(-1) - shares >= share
    beyond[:, 0] = False  # a share may be smaller than float32 can tell from 0
    return scores.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)


def cut(words: str, stop: Sequence[str]) -> str:
    """The words before the first stop string."""
    return words[: min((at for one in stop if (at := words.find(one)) >= 0), default=len(words))]


def written_lengths(
    out: Tensor, ends: Sequence[int], stop: StopAt | None, limits: Sequence[int] = ()
) -> list[int]:
    """Tokens that each row wrote, its end-of-sequence token included, padding not."""
    ended = torch.isin(out, torch.tensor(ends, device=out.device))
    lengths = []
    for row, marks in enumerate(ended.tolist()):
        n = marks.index(True) + 1 if True in marks else len(marks)
        n = min(n, limits[row]) if limits else n
        lengths.append(min(n, stop.ended.get(row, n)) if stop else n)
    return lengths


def finish_of(
    ids: Sequence[int], row: int, ends: Sequence[int], stop: StopAt | None, limit: int
) -> Finish:
    """How a row ended that wrote `ids`, `limit` at most."""
    stopped = stop is not None and stop.ended.get(row) == len(ids)
    if stopped or (ids and ids[-1] in ends):
        return "stop"
    return "length" if len(ids) == limit else "cancelled"
