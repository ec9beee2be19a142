# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What `generate` needs besides a cache: where to stop, where text goes, how much was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import TextStreamer
from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["StopAt", "Teller", "Watch", "cut", "writer", "written_lengths"]


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


class StopAt(StoppingCriteria):
    """Ends a row when one of the strings appears in what it wrote, and counts its tokens."""

    def __init__(self, stop: Sequence[str], tokenizer: Any, begin: int = 1) -> None:
        self.stop, self.tokenizer, self.begin = stop, tokenizer, begin
        self.reach = max(len(s.encode()) for s in stop) + 4  # tokens to decode: a byte or more each
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        written = input_ids.shape[1] - self.begin
        tails = self.tokenizer.batch_decode(input_ids[:, self.begin :][:, -self.reach :])
        for row, tail in enumerate(tails):
            if any(stop in tail for stop in self.stop):
                self.ended.setdefault(row, written)
        done = [row in self.ended for row in range(len(tails))]
        return torch.tensor(done, device=input_ids.device)


class Watch(StoppingCriteria):
    """Stops nothing. Notes how many seconds passed until the first token came."""

    def __init__(self) -> None:
        self.start, self.first = perf_counter(), 0.0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.first = self.first or perf_counter() - self.start
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Teller(TextStreamer):
    """Passes text on as soon as it is whole, up to the first stop string.

    An end that may become a stop string is held back until more text comes.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop, self.tell = stop, tell
        self.waiting, self.ended = "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = "" if self.ended else self.waiting + text
        piece = cut(text, self.stop)
        self.ended = self.ended or piece != text
        starts = [stop[:n] for stop in self.stop for n in range(1, len(stop))]
        final = self.ended or stream_end
        kept = 0 if final else max((len(s) for s in starts if piece.endswith(s)), default=0)
        piece, self.waiting = piece[: len(piece) - kept], piece[len(piece) - kept :]
        if piece:
            self.tell(piece)


def cut(words: str, stop: Sequence[str]) -> str:
    for end in stop:
        words = words.split(end, 1)[0]
    return words


def written_lengths(out: Tensor, ends: Sequence[int], stop: StopAt | None) -> list[int]:
    """Tokens that each row wrote, its end-of-sequence token included, padding not."""
    ended = torch.isin(out, torch.tensor(ends, device=out.device))
    lengths = []
    for row, marks in enumerate(ended.tolist()):
        n = marks.index(True) + 1 if True in marks else len(marks)
        lengths.append(min(n, stop.ended.get(row, n)) if stop else n)
    return lengths
