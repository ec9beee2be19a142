# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The batch of a model: one step writes a token of every row, and rows come and go between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from unspoken.backbone.attention import few_tokens
from unspoken.backbone.generation import Sampler
from unspoken.backbone.rows import WritingRow
from unspoken.backbone.slots import SlotCache
from unspoken.finite import no_words, not_finite

if TYPE_CHECKING:
    from unspoken.backbone.decoding import Decoding

__all__ = ["RunningBatch", "choose", "sampler_of"]


class RunningBatch:
    """Rows of any contexts of one model, as a scheduler's `Runner`.

    Each row has positions, settings and a random generator of its own, so its words are the same
    alone and in company. In float32 rows of a batch are added up in another order, which can decide
    between two words that are almost equally likely.

    dtype: the precision that the rows' threads asked for by autocast, None for none.
    """

    def __init__(self, model: Decoding, dtype: torch.dtype | None = None) -> None:
        self.model, self.dtype, self.slots = model, dtype, SlotCache()
        self.rows: list[WritingRow] = []
        self._over: list[WritingRow] = []
        self._sampler: Sampler | None = None
        self._seen: Tensor | None = None

    @torch.no_grad()
    def join(self, tasks: Sequence[WritingRow]) -> None:
        """Take rows into the batch. Some may be over with the token that came with their prompt."""
        joining = [row for row in tasks if row.finish is None and row.error is None]
        if joining:
            more = max(row.row.settings.max_tokens for row in joining)
            self.slots.join([row.cache for row in joining], more)
            for row in joining:
                row.cache = ()  # what was read is free as soon as its context is
            self.rows += joining
            self._changed()
        self._over += [row for row in tasks if row not in joining]

    @torch.no_grad()
    def leave(self, tasks: Sequence[WritingRow]) -> None:
        """Let rows go, with a copy of the slots that they wrote."""
        for row in tasks:
            if row in self.rows:
                place = self.rows.index(row)
                row.written = self.slots.latest(place, len(row.ids))
                self.slots.leave(place)
                self.rows[place] = self.rows[-1]
                self.rows.pop()
        if tasks:
            self._changed()

    @torch.no_grad()
    def step(self) -> Sequence[WritingRow]:
        """Write one token of every row. Returns the rows that are over."""
        if self.rows:
            choose(self.model, self.rows, self._pass(), self._sampler)
        ended = [row for row in self.rows if row.finish is not None or row.error is not None]
        self.leave(ended)
        over, self._over = [*self._over, *ended], []
        return over

    def _pass(self) -> Tensor:
        """Logits (B, V) after the last token of every row, which is read here."""
        model, rows = self.model, self.rows
        self.slots.make_room()
        given = torch.tensor([(row.last, row.position) for row in rows], device=model.device)
        kind = model.device.type
        asked = torch.autocast(kind, self.dtype, enabled=self.dtype is not None)
        with asked, few_tokens(), self._seeing(), model.turns.step():
            out = model.model(
                input_ids=given[:, :1],
                attention_mask=self.slots.mask.long(),
                position_ids=model.begin + given[:, 1:],
                past_key_values=self.slots.cache,
                use_cache=True,
            )
        for row in rows:
            row.passes += 1
        return out.logits[:, -1].to(model.device)

    def _seeing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._seen is None else self.model.seeing(self._seen)

    def _changed(self) -> None:
        """Rows have come or gone."""
        self._sampler = sampler_of(self.rows, self.model.device)
        self._seen = None
        if any(row.seen is not None for row in self.rows):
            lengths, seen = self.slots.lengths, list[Tensor]()
            for row, length in zip(self.rows, lengths, strict=True):
                seen.append(self._padded(row, length, max(lengths)))
            self._seen = torch.stack(seen, 1)

    def _padded(self, row: WritingRow, length: int, width: int) -> Tensor:
        """(L, W): what each layer may see of a row of `length` slots that ends with the others."""
        if row.seen is None:
            layers, device = len(self.slots.rooms), self.model.device
            return torch.ones(layers, width, dtype=torch.bool, device=device)
        return pad(row.seen, (width - length, length - row.seen.shape[1]), value=True)


def choose(
    model: Decoding, rows: Sequence[WritingRow], logits: Tensor, sampler: Sampler | None
) -> None:
    """Give each row its next token by logits (B, V), with one look at the device."""
    missing = no_words(logits)
    scores = logits if sampler is None else sampler(None, logits)
    chosen = torch.stack((scores.argmax(-1), missing.long())).tolist()
    for row, token, lacks in zip(rows, *chosen, strict=True):
        try:
            if lacks:
                raise not_finite(*model.whose)
            row.take(token)
        except Exception as error:  # of this row alone
            row.error = error


def sampler_of(rows: Sequence[WritingRow], device: torch.device) -> Sampler | None:
    """What draws for the rows, each with its own generator; None if all are greedy."""
    hot = [row for row in rows if row.row.settings.temperature > 0]
    for row in hot:
        row.draw = row.draw or torch.Generator(device).manual_seed(row.row.seed)
    if not hot:
        return None
    draws = [row.draw for row in hot if row.draw is not None]
    return Sampler([row.row for row in rows], device, draws)
