# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""One row while it is written: what it has read, its tokens, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from unspoken.backbone.generation import Row
from unspoken.backbone.stopping import StopStrings
from unspoken.backbone.telling import Teller
from unspoken.types import KV, Ahead, Context, Finish, KVCache

__all__ = ["WritingRow", "rows_of"]


class WritingRow:
    """A row of a context that is being written.

    cache: L x (1, H, n, D), the real slots of what was read. last: the token that is read next.
    position: of that token. seen: (L, n), which slots each layer may see, None for all. first: the
    logits (1, V) after `last`, where that was read already and is in the cache. ids: what was
    written. finish: how it ended, None while it goes on.
    """

    def __init__(
        self,
        row: Row,
        cache: KV,
        last: int,
        position: int,
        seen: Tensor | None,
        first: Tensor | None,
        *,
        ends: Sequence[int],
        stop: StopStrings,
    ) -> None:
        self.row, self.cache, self.last, self.position = row, cache, last, position
        self.seen, self.first, self.ends, self.stop = seen, first, ends, stop
        self.begun, self.wait = perf_counter(), 0.0
        self.ids: list[int] = []
        self.passes = 0
        self.written: KV = ()
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self.draw: torch.Generator | None = None
        self.teller: Teller | None = None

    def listen(self, teller: Teller | None) -> None:
        """Tell what is written, and what was written already."""
        self.teller = teller
        if teller is None:
            return
        for token in self.ids:
            teller.put(token)
        if self.finish is not None:
            teller.end()

    def take(self, token: int) -> None:
        """Note the next token, and whether it is the last."""
        self.wait = self.wait or perf_counter() - self.begun
        self.ids.append(token)
        self.last, self.position = token, self.position + 1
        if self.teller is not None:
            self.teller.put(token)
        if token in self.ends or self.stop.found(self.ids):
            self._end("stop")
        elif len(self.ids) == self.row.settings.max_tokens:
            self._end("length")

    def cancel(self) -> None:
        """It ends with what there is."""
        self._end("cancelled")

    def _end(self, finish: Finish) -> None:
        self.finish = finish
        if self.teller is not None:
            self.teller.end()


def rows_of(
    context: Context,
    ahead: Ahead | None,
    each: Sequence[Row],
    nothing: KV,
    ends: Sequence[int],
    stop: Callable[[Row], StopStrings],
) -> list[WritingRow]:
    """The rows of a context.

    ahead: what comes of its last tokens, if they were read already. nothing: the cache of a row of
    one token, which is in no cache yet, L x (1, H, 0, D).
    """
    kv = context.kv if ahead is None else ahead.kv
    if not kv:
        kv = KVCache(nothing).expand(len(each)).kv()
    lasts: list[int] = context.last.tolist()
    positions: list[int] = context.positions[:, -1].tolist()
    rows: list[WritingRow] = []
    for b, row in enumerate(each):
        real = context.mask[b, : kv[0][0].shape[2]]
        seen = None if context.seen is None else context.seen[:, b, : len(real)][:, real]
        first = None if ahead is None else ahead.logits[b : b + 1]
        cache = _real(kv, b, real)
        rows.append(
            WritingRow(row, cache, lasts[b], positions[b], seen, first, ends=ends, stop=stop(row))
        )
    return rows


def _real(kv: KV, row: int, real: Tensor) -> KV:
    """The real slots of a row, L x (1, H, n, D). Without padding in between nothing is copied."""
    count = int(real.sum())
    whole = bool(real[len(real) - count :].all())

    def own(part: Tensor) -> Tensor:
        one = part[row : row + 1]
        return one[:, :, len(real) - count :] if whole else one[:, :, real]

    return tuple((own(keys), own(values)) for keys, values in kv)
