"""How a prompt becomes what a model can read: runs of tokens and vectors, and caches between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from unspoken.errors import EmptyPrompt
from unspoken.types import Memory, Prompt, Text, Vectors, left_pad

__all__ = ["VECTOR", "Part", "Run", "lay_out"]

VECTOR = -1
"""Stands among token ids where a vector goes."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Tokens and vectors that are read in one forward pass, padded left.

    ids: (B, S), or (1, S) when `shared`. mask: (B, S). vectors: (N, W), those of all rows in row
    order, or None. bos: whether the rows begin with the tokenizer's `<bos>`.
    """

    ids: Tensor
    mask: Tensor
    vectors: Tensor | None = None
    shared: bool = False
    bos: bool = False

    @property
    def heard(self) -> Tensor:
        """(B, S): the positions whose hidden states are part of a thought; `<bos>` is none."""
        if not self.bos:
            return self.mask
        return self.mask & (self.mask.cumsum(1) > 1)

    def expand(self, batch: int) -> Run:
        if self.ids.shape[0] == batch:
            return self
        return replace(self, ids=self.ids.expand(batch, -1), mask=self.mask.expand(batch, -1))

    def without_last(self) -> Run:
        return replace(self, ids=self.ids[:, :-1], mask=self.mask[:, :-1])


Part = Run | Memory


def lay_out(
    prompt: Prompt, encode: Callable[[str], list[int]], bos: Sequence[int], device: torch.device
) -> list[Part]:
    """Cut a prompt into caches and runs; neighbouring texts are tokenised together.

    `bos` is put before the first token unless a cache stands there. Raises `EmptyPrompt` when a
    row has nothing to read or does not end with a token.
    """
    parts: list[Part] = []
    loose: list[Text | Vectors] = []

    def settle() -> None:
        if loose:
            parts.append(_run(loose, encode, () if parts else bos, device))
            loose.clear()

    for segment in prompt.segments:
        if segment.batch != prompt.batch:
            raise EmptyPrompt(
                f"a segment has {segment.batch} rows and the prompt {prompt.batch}; "
                "give every segment one entry for each row"
            )
        if isinstance(segment, Memory):
            if not segment.mask.shape[1]:  # nothing stands there
                continue
            settle()
            parts.append(segment)
        elif isinstance(segment, Text) and segment.shared:
            settle()
            one = Text(segment.words[:1], shared=True)
            run = _run([one], encode, () if parts else bos, device)
            parts.append(replace(run, shared=True))
        else:
            loose.append(segment)
    settle()
    parts = [part for part in parts if part.mask.shape[1]]
    _check_end(parts)
    return parts


def _run(
    segments: Sequence[Text | Vectors],
    encode: Callable[[str], list[int]],
    bos: Sequence[int],
    device: torch.device,
) -> Run:
    rows: list[Tensor] = []
    vectors: list[Tensor] = []
    for b in range(segments[0].batch):
        ids, words = list(bos), ""
        for segment in segments:
            if isinstance(segment, Text):
                words += segment.words[b]
                continue
            real = segment.values[b][segment.mask[b]]
            ids += [*(encode(words) if words else ()), *[VECTOR] * real.shape[0]]
            words = ""
            vectors.append(real)
        ids += encode(words) if words else []
        if len(bos) and ids[1:2] == list(bos):  # a chat template wrote it already
            del ids[0]
        rows.append(torch.tensor(ids, dtype=torch.long))
    ids, mask = left_pad(rows)
    flat = torch.cat(vectors) if vectors else None
    return Run(ids.to(device), mask.to(device), flat, bos=bool(bos))


def _check_end(parts: Sequence[Part]) -> None:
    last = parts[-1] if parts else None
    if not isinstance(last, Run):
        raise EmptyPrompt("a prompt must end with text: generation continues from its last token")
    ends = last.ids[:, -1].masked_fill(~last.mask[:, -1], VECTOR)
    empty = cast(list[int], (ends == VECTOR).nonzero().flatten().tolist())
    if empty:
        raise EmptyPrompt(
            f"rows {empty} of the prompt do not end with a token; give each row some text to read"
        )
