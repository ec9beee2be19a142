"""Reading and writing with models that keep no keys and values of their own.

The state of a hybrid or state-space model cannot be cut or moved, and some models keep nothing.
They read and write all the same: what was read is remembered as tokens, and read again by whatever
comes after it, as `generate` does. Rows of unlike length are never padded.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unspoken.backbone.caches import close_holes, gather_states
from unspoken.backbone.generation import writer
from unspoken.backbone.passes import Passes
from unspoken.errors import EmptyPrompt, IncompatibleModels
from unspoken.layout import Chunk, Part, spell
from unspoken.types import (
    KV,
    Context,
    Need,
    Read,
    Vectors,
    Words,
    counted,
    left_pad,
)

__all__ = ["Rereading", "TokenCache"]


@dataclass(frozen=True, slots=True, eq=False)
class TokenCache:
    """The tokens of B rows that were read, without padding. They are read again with what follows.

    >>> TokenCache(((5, 6, 7), (8,))).rows(slice(1)).ids
    ((5, 6, 7),)
    """

    ids: tuple[tuple[int, ...], ...]

    @property
    def batch(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 8 * sum(map(len, self.ids))

    def rows(self, index: slice, keep: Tensor | None = None) -> TokenCache:
        return TokenCache(self.ids[index])

    def expand(self, batch: int) -> TokenCache:
        return TokenCache(self.ids * batch)

    def kv(self) -> KV:
        raise IncompatibleModels(
            "what was read is remembered as tokens, because the model has no keys and values of "
            "its own. Send it over the channel 'text', or use a model that has"
        )


class Rereading(Passes):
    """What a model does with tokens alone, where it keeps no cache of what it has read."""

    def rereads(self, parts: Sequence[Part], needs: frozenset[Need]) -> bool:
        """Whether a prompt is words alone, and no cache is asked for."""
        plain = all(isinstance(part, Chunk) and part.vectors is None for part in parts)
        return plain and {need.kind for need in needs} <= {"text", "hidden"}

    def reread(self, parts: Sequence[Part], batch: int, needs: frozenset[Need]) -> Read:
        """Remember what is read as tokens. Raises `IncompatibleModels` if it is not words alone."""
        if not self.rereads(parts, needs):
            raise IncompatibleModels(_only_words(self.name, batch=self.keeps))
        rows = _Rows(cast(Sequence[Chunk], parts), batch)
        layers = sorted(need.layer for need in needs if need.kind == "hidden")
        return Read(
            tokens=tuple(map(len, rows.ids)),
            passes=int(bool(layers)),
            found=rows.context(parts),
            hidden=self._states(rows, layers) if layers else {},
        )

    def _states(self, rows: _Rows, layers: Sequence[int]) -> dict[int, Vectors]:
        if not any(map(any, rows.wanted)):
            raise EmptyPrompt("there are no states to pass on: nothing follows the opening")
        found = {layer: list[Tensor]() for layer in layers}
        for ids, wanted in zip(rows.ids, rows.wanted, strict=True):
            given = torch.tensor([ids], device=self.device)
            states = self._plain(given, output_hidden_states=True).hidden_states
            for layer in layers:
                found[layer].append(states[layer][0, torch.tensor(wanted, device=self.device)])
        return {layer: gather_states([left_pad(states)]) for layer, states in found.items()}

    def rewrite(self, read: TokenCache, generate: Callable[..., Words]) -> Words:
        """Write after what was read, rows of equal length together.

        generate: takes a `writer`, its inputs, and which of the rows they are.
        """
        found: dict[int, tuple[int, Words]] = {}
        for places, ids in _equally_long(read.ids):
            given = torch.tensor(ids, device=self.device)
            inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
            words = generate(writer(self.model), inputs, places)
            found |= {place: (n, words) for n, place in enumerate(places)}
        rows = [found[place] for place in range(read.batch)]
        return Words(
            tuple(words.words[n] for n, words in rows),
            tuple(words.tokens[n] for n, words in rows),
            passes=max(words.passes for _, words in rows),
            ids=tuple(words.ids[n] for n, words in rows),
            wait=max(words.wait for _, words in rows),
            reasoning=tuple(words.reasoning[n] for n, words in rows),
            finish=tuple(words.finish[n] for n, words in rows),
        )

    def relook(self, read: TokenCache, more: Sequence[Tensor]) -> Tensor:
        """Logits (B, N, V): after what each row has read, and after each of N - 1 more tokens."""
        rows = [self._after(ids, one.tolist()) for ids, one in zip(read.ids, more, strict=True)]
        return pad_sequence(rows, batch_first=True)

    def _after(self, read: Sequence[int], more: Sequence[int]) -> Tensor:
        ids = torch.tensor([[*read, *more]], device=self.device)
        return self._plain(ids).logits[0, len(read) - 1 :]

    def _plain(self, ids: Tensor, **asked: bool) -> Any:
        """A pass over ids (1, S), as `generate` begins."""
        mask = torch.ones_like(ids)
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False, **asked)


class _Rows:
    """What B rows have read: their tokens, and which of their states may be sent."""

    def __init__(self, runs: Sequence[Chunk], batch: int) -> None:
        self.ids: list[list[int]] = []
        self.wanted: list[list[bool]] = []
        for row in range(batch):
            ids, wanted = list[int](), list[bool]()
            for run in runs:
                n = 0 if run.ids.shape[0] == 1 else row
                real = run.mask[n]
                ids += run.ids[n][real].tolist()
                heard = run.mask & False if run.shared else run.heard
                wanted += heard[n][real].tolist()
            self.ids.append(ids)
            self.wanted.append(wanted)

    def context(self, parts: Sequence[Part]) -> Context:
        batch, device = len(self.ids), parts[0].mask.device
        ids, mask = left_pad([torch.tensor(row, device=device) for row in self.ids])
        whole = torch.cat([part.mask.expand(batch, -1) for part in parts], 1)
        spelling = close_holes((), whole, spell(parts, batch))[2]
        spelling = replace(spelling, ends=spelling.ends[:, whole.shape[1] - mask.shape[1] :])
        cache = TokenCache(tuple(map(tuple, self.ids)))
        return Context(cache, mask, ids[:, -1], spelling, counted(mask))


def _equally_long(
    rows: Sequence[Sequence[int]],
) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
    """Rows by their length: their places, and the rows."""
    for length in sorted(set(map(len, rows))):
        places = [n for n, row in enumerate(rows) if len(row) == length]
        yield places, [rows[n] for n in places]


def _only_words(name: str, *, batch: bool) -> str:
    if batch:
        return (
            f"rows of {name!r} cannot be padded, so it reads caches and vectors, and hands over "
            "its cache, one row at a time. Use batch_size=1"
        )
    return (
        f"{name!r} has no keys and values of its own that could be cut, moved or handed over: it "
        "reads words and gives words and states. Use the channel 'text', or a model whose layers "
        "are all full_attention or sliding_attention"
    )
