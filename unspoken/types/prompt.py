"""What a model is asked to read: a prompt of segments, which are words, vectors or caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from unspoken.types.cache import KV, Cache, KVCache, counted

__all__ = [
    "SEGMENT_KINDS",
    "CacheSegment",
    "Prompt",
    "Reuse",
    "Segment",
    "SegmentKind",
    "Spelling",
    "Text",
    "Vectors",
    "left_pad",
]

SegmentKind = Literal["text", "vectors", "cache"]


@dataclass(frozen=True, slots=True)
class Text:
    """Words for each of B rows.

    Neighbouring texts are tokenised together, unless `shared`: such a text is equal in all rows,
    is tokenised separately, and a reader may read it once for the whole batch. share: what the
    words are, if other agents may read them too: a question, a document, an agent's answer. A pool
    that keeps caches finds them again in another prompt. It never changes a token. frame: the words
    are those of a role or a template, and a control token in them counts. In all others it is
    spelled like any word. cue: the words introduce the text with a share key that comes next, as a
    document's name does, and a pool moves both together.
    """

    words: tuple[str, ...]
    shared: bool = False
    share: str = ""
    frame: bool = False
    cue: bool = False

    @property
    def batch(self) -> int:
        return len(self.words)

    def rows(self, index: slice) -> Text:
        return replace(self, words=self.words[index])

    def repeat(self, batch: int) -> Text:
        """One row as B equal ones."""
        return replace(self, words=self.words * batch)


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Vectors in a model's input-embedding space (or its hidden states): (B, S, W), mask (B, S).

    shared: they are equal in all rows, like free vectors, and a reader may read them once.
    """

    values: Tensor
    mask: Tensor
    shared: bool = False

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    def rows(self, index: slice) -> Vectors:
        mask = self.mask[index]
        keep = mask.any(0)
        return Vectors(self.values[index][:, keep], mask[:, keep], self.shared)

    def repeat(self, batch: int) -> Vectors:
        """One row as B equal ones. Nothing is copied."""
        return Vectors(self.values.expand(batch, -1, -1), self.mask.expand(batch, -1))


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """The words that the positions of a cache come from.

    words: B strings, all text that was read, in order. ends: (B, S), the number of characters of
    `words` up to the end of each position; -1 where a position is no text (padding, vectors, a
    cache). `<bos>` is text without characters. Models with different tokenizers are aligned by it.
    begin: where in `words` the first position begins, above 0 if what comes before was left out.
    """

    words: tuple[str, ...]
    ends: Tensor
    begin: int = 0

    def rows(self, index: slice, keep: Tensor) -> Spelling:
        return replace(self, words=self.words[index], ends=self.ends[index][:, keep])

    def repeat(self, batch: int) -> Spelling:
        return replace(self, words=self.words * batch, ends=self.ends.expand(batch, -1))


@dataclass(frozen=True, slots=True, eq=False)
class CacheSegment:
    """A cache that is a part of a prompt: its slots, their positions, and what it spells.

    cache: B rows of S slots. mask: (B, S). positions: (B, S), counted from where the cache begins.
    Keys are rotated by them, and the reader moves them when something comes before. A compacted
    cache has fewer slots than positions. A layer that was left out has no heads, (B, 0, S, D):
    there the reader's own positions see nothing of the cache.
    """

    cache: Cache
    mask: Tensor
    positions: Tensor
    spelling: Spelling | None = None

    @classmethod
    def of(cls, kv: KV, mask: Tensor, spelling: Spelling | None = None) -> CacheSegment:
        """Keys and values, L x (B, H, S, D), every real slot of which is one position further."""
        return cls(KVCache(kv), mask, counted(mask), spelling)

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @property
    def kv(self) -> KV:
        """The keys and values. Raises `IncompatibleModels` if the cache holds no tensors."""
        return self.cache.kv()

    @property
    def length(self) -> Tensor:
        """(B,): how many positions it takes up."""
        return (self.positions + 1).masked_fill(~self.mask, 0).amax(1)

    @property
    def layers(self) -> tuple[bool, ...]:
        """Which layers it holds."""
        return tuple(keys.shape[1] > 0 for keys, _ in self.kv)

    def rows(self, index: slice) -> CacheSegment:
        """Some rows, without the slots that are padding in all of them."""
        mask = self.mask[index]
        keep = mask.any(0)
        spelling = self.spelling.rows(index, keep) if self.spelling else None
        cache, positions = self.cache.rows(index, keep), self.positions[index][:, keep]
        return CacheSegment(cache, mask[:, keep], positions, spelling)

    def repeat(self, batch: int) -> CacheSegment:
        """One row as B equal ones. Nothing is copied."""
        spelling = self.spelling.repeat(batch) if self.spelling else None
        mask, positions = (part.expand(batch, -1) for part in (self.mask, self.positions))
        return CacheSegment(self.cache.expand(batch), mask, positions, spelling)


Segment = Text | Vectors | CacheSegment
SEGMENT_KINDS: Mapping[type[Segment], SegmentKind] = {
    Text: "text",
    Vectors: "vectors",
    CacheSegment: "cache",
}
Reuse = Literal["any", "exact"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked to read: segments of one batch size, and the slot for messages.

    `slot` is the index at which the next message is inserted. `insert` moves it along, so that
    messages keep their order. reuse: whether a pool may serve moved caches, or `exact` ones only.
    candidates: the answers between which the reader chooses, if it is a judge. A pool's probe
    makes sure that the choice stays the same. bos: whether the tokenizer's `<bos>` begins it. A
    chat template writes its own.
    """

    segments: tuple[Segment, ...]
    slot: int = 0
    reuse: Reuse = "any"
    candidates: tuple[str, ...] = ()
    bos: bool = True

    @property
    def batch(self) -> int:
        return self.segments[0].batch

    def insert(self, segment: Segment) -> Prompt:
        """The prompt with `segment` at the slot."""
        before, after = self.segments[: self.slot], self.segments[self.slot :]
        return replace(self, segments=(*before, segment, *after), slot=self.slot + 1)

    def front(self, segment: Segment) -> Prompt:
        """The prompt with `segment` before everything else, but after the caches at its front."""
        n = next(
            (n for n, s in enumerate(self.segments) if not isinstance(s, CacheSegment)), self.slot
        )
        segments = (*self.segments[:n], segment, *self.segments[n:])
        return replace(self, segments=segments, slot=self.slot + 1)

    def row(self, index: int) -> Prompt:
        """Row `index` alone, as a prompt of batch size 1."""
        one = slice(index, index + 1)
        return replace(self, segments=tuple(segment.rows(one) for segment in self.segments))

    @property
    def opening(self) -> str:
        """The shared text with which the prompt begins, or ''."""
        first = self.front_text()
        return first.words[0] if first is not None else ""

    def front_text(self) -> Text | None:
        """The shared text with which the prompt begins, or None."""
        first = self.segments[0] if self.segments else None
        return first if isinstance(first, Text) and first.shared else None


def left_pad(rows: Sequence[Tensor], fill: float = 0) -> tuple[Tensor, Tensor]:
    """Stack tensors (S_b, ...) of unequal length: (B, S, ...) padded left, and the mask (B, S)."""
    longest = max(row.shape[0] for row in rows)
    out = rows[0].new_full((len(rows), longest, *rows[0].shape[1:]), fill)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=rows[0].device)
    for b, row in enumerate(rows):
        if row.shape[0]:
            out[b, -row.shape[0] :] = row
            mask[b, -row.shape[0] :] = True
    return out, mask
