# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A reader around a backbone: what is known is put in place, and the rest is read in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from unspoken.anchors.assembly import assemble
from unspoken.anchors.plan import Plan, Row, Source
from unspoken.anchors.probe import Probe, divergence
from unspoken.anchors.store import Store
from unspoken.backbone import Backbone
from unspoken.backbone.caches import close_holes
from unspoken.layout import Part, Run, Share, spell
from unspoken.types import (
    KV,
    MEMORY,
    TEXT,
    Context,
    Memory,
    Need,
    Prompt,
    Read,
    Served,
    Settings,
    Spelling,
    Words,
)

if TYPE_CHECKING:
    from unspoken.anchors.pool import AnchorPool

__all__ = ["PooledReader"]


class PooledReader:
    """Reads and writes as its backbone does, and reuses what its pool holds.

    The longest beginning that was read before is taken as it is; texts with a share key are moved
    to their place; everything else, among it all fixed text and the first tokens of each moved
    text, is read in one pass over the filled cache.
    """

    def __init__(self, pool: AnchorPool, backbone: Backbone, owner: str = "") -> None:
        self.pool, self.backbone, self.owner = pool, backbone, owner

    @torch.no_grad()
    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt as `Backbone.read` does; `served` says where each row came from."""
        parts = self.backbone.lay_out(prompt)
        if reason := self._unfit(parts, needs):
            read = self.backbone.read(prompt, needs=needs)
            return self._told(read, [Served(dense=n, reason=reason) for n in read.tokens])
        rows = _rows(prompt, cast(list[Run], parts), whole=MEMORY in needs)
        store, now = self.pool.store(self.backbone, self.owner), self.pool.tick()
        with self.pool.lock:
            plans = [store.plan(row, now=now) for row in rows]
        if any(plan.beginning or plan.pieces for plan in plans):
            read, caches = self._assembled(parts, rows, plans, store)
            if any(plan.pieces for plan in plans) and self.pool.prober.chooses():
                reused, read = read, self.backbone.read(prompt, needs=needs)
                exact = _caches(read, rows)
                self._probe(prompt, (reused, read), (caches, exact), plans, store)
                caches = exact
        else:
            read = self.backbone.read(prompt, needs=needs)
            caches = _caches(read, rows)
        served = [self._served(row, plan) for row, plan in zip(rows, plans, strict=True)]
        templates = self._templates(store, rows)
        with self.pool.lock:
            for row, plan, kv in zip(rows, plans, caches, strict=True):
                store.keep(row, plan, kv, now=now)
            for row, kv, starts in templates:
                store.keep_template(row, kv, starts, now=now)
            self.pool.shrink()
        return self._told(read, served)

    @torch.no_grad()
    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: Callable[[str], None] | None = None,
    ) -> Words:
        """Write as `Backbone.write` does; the cache of what was written is kept for its readers."""
        words = self.backbone.write(context, settings, on_text)
        store, now = self.pool.store(self.backbone, self.owner), self.pool.tick()
        begin, lengths = context.mask.shape[1], context.mask.sum(1).tolist()
        with self.pool.lock:
            for b, (ids, at) in enumerate(zip(words.ids, lengths, strict=True)):
                cached = min(len(ids), words.passes - 1)  # the last token has no cache
                kv = _row(words.kv, b, slice(begin, begin + cached))
                store.keep_answer(ids[:cached], kv, at, now=now)
            self.pool.shrink()
        return words

    # -- serving -----------------------------------------------------------------------------------

    def _unfit(self, parts: Sequence[Part], needs: frozenset[Need]) -> str:
        """Why a prompt is read densely whatever is known, or ''."""
        if any(need.kind == "hidden" for need in needs):
            return "hidden states are asked for, and a cache has none"
        if any(isinstance(part, Memory) for part in parts):
            return "another's cache stands in the prompt"
        if any(isinstance(part, Run) and part.vectors is not None for part in parts):
            return "vectors stand in the prompt"
        if not self.backbone.fills:
            return "the model does not read into a filled cache"
        return ""

    def _assembled(
        self, parts: Sequence[Part], rows: Sequence[Row], plans: Sequence[Plan], store: Store
    ) -> tuple[Read, list[Tensor]]:
        """What `Backbone.read` gives, out of known caches; and the cache of each row."""
        share = store.ladder.share
        room, mask, passes = assemble(self.backbone, rows, plans, store.frequencies, share)
        kv: KV = tuple((layer[0], layer[1]) for layer in room)
        left = len(rows[0].ids) - rows[0].need  # 1 if the last token is left to the first decode
        full = torch.cat((mask, mask.new_ones(len(rows), left)), 1)
        spelling = _spelled(parts, len(rows))
        context = Context(
            kv if left else tuple((k[:, :, :-1], v[:, :, :-1]) for k, v in kv),
            full,
            torch.tensor([row.ids[-1] for row in rows], device=self.backbone.device),
            spelling,
        )
        read = Read(
            tokens=tuple(len(plan.missing) + left for plan in plans),
            passes=passes,
            found=context,
            memory=None if left else Memory(kv, full, spelling),
        )
        return read, [room[:, :, b, :, -row.need :] for b, row in enumerate(rows)]

    def _templates(self, store: Store, rows: Sequence[Row]) -> list[tuple[Row, Tensor, list[int]]]:
        """The prompts of new consumers with names instead of shares, read, if the ladder asks."""
        found: list[tuple[Row, Tensor, list[int]]] = []
        for row in rows if store.by_paper else ():
            if row.shares and row.consumers()[-1] not in store.templates:
                named, starts = row.named(self.backbone.tokens)
                ids = torch.tensor([named], device=self.backbone.device)
                mask = torch.ones_like(ids, dtype=torch.bool)
                kv = self.backbone.extend((), ids, mask, layers=self.backbone.spec.layers)
                found.append((row, _row(kv, 0, slice(None)), starts))
        return found

    # -- telling -----------------------------------------------------------------------------------

    def _served(self, row: Row, plan: Plan) -> Served:
        spec = self.backbone.spec
        sources = plan.sources.tolist()
        dense, exact, shifted, anchored, again = (sources.count(source) for source in Source)
        return Served(
            exact=exact,
            shifted=shifted,
            anchored=anchored,
            recomputed=again,
            dense=dense + len(row.ids) - row.need,
            width=2 * spec.layers * spec.kv_heads * spec.head_dim * self.backbone.dtype.itemsize,
            reason=plan.reason,
        )

    def _told(self, read: Read, served: Sequence[Served]) -> Read:
        for row in served:
            self.pool.count(row)
        return replace(read, served=tuple(served))

    def _probe(
        self,
        prompt: Prompt,
        reads: tuple[Read, Read],
        caches: tuple[Sequence[Tensor], Sequence[Tensor]],
        plans: Sequence[Plan],
        store: Store,
    ) -> None:
        """Compare what was reused with what was read densely, row by row; serve the latter."""
        reused, dense = (self.backbone.predict(read.context) for read in reads)
        kl = divergence(dense, reused).tolist()
        agrees = (dense.argmax(-1) == reused.argmax(-1)).tolist()
        chosen = [self._chosen(prompt, read.context) for read in reads]
        for b, plan in enumerate(plans):
            if plan.pieces:
                errors = _errors(caches[0][b], caches[1][b], plan.moved)
                probe = Probe(
                    consumer=plan.consumer,
                    keys=tuple(errors[:, 0].tolist()),
                    values=tuple(errors[:, 1].tolist()),
                    kl=kl[b],
                    agrees=agrees[b],
                    candidate=chosen[0][b] == chosen[1][b] if chosen[0] else None,
                )
                self.pool.note(store, probe)
            plan.forget("its read was probed")

    def _chosen(self, prompt: Prompt, context: Context) -> list[int]:
        """Which of the prompt's candidates each row prefers; [] if it names none."""
        losses = [
            self.backbone.score(context, [candidate] * prompt.batch)
            for candidate in prompt.candidates
        ]
        return torch.stack(losses).argmin(0).tolist() if losses else []


def _rows(prompt: Prompt, runs: Sequence[Run], *, whole: bool) -> list[Row]:
    rows: list[Row] = []
    for b in range(prompt.batch):
        ids, shares = list[int](), list[Share]()
        for run in runs:
            n = 0 if run.ids.shape[0] == 1 else b
            for name, first, last in run.shares[n]:
                shares.append(Share(name, first + len(ids), last + len(ids)))
            ids += run.ids[n][run.mask[n]].tolist()
        need = len(ids) if whole else len(ids) - 1
        rows.append(Row(tuple(ids), tuple(shares), need, exact=prompt.reuse == "exact"))
    return rows


def _spelled(parts: Sequence[Part], batch: int) -> Spelling:
    """What was read, without padding between the parts."""
    mask = torch.cat([part.mask.expand(batch, -1) for part in parts], 1)
    return close_holes((), mask, spell(parts, batch))[2]


def _caches(read: Read, rows: Sequence[Row]) -> list[Tensor]:
    """The cache of each row, (L, 2, H, S, D), as far as it is needed."""
    kv = read.memory.kv if read.memory is not None else read.context.kv
    return [_row(kv, b, slice(-row.need, None)) for b, row in enumerate(rows)]


def _errors(reused: Tensor, dense: Tensor, where: Tensor) -> Tensor:
    """(L, 2): relative errors of keys and of values at some positions."""
    where = where.to(dense.device)
    got, want = (kv[:, :, :, where].float().flatten(2) for kv in (reused, dense))
    return (got - want).norm(dim=2) / want.norm(dim=2)


def _row(kv: KV, b: int, which: slice) -> Tensor:
    """A part of a row's cache in one tensor (L, 2, H, n, D)."""
    return torch.stack([torch.stack((k[b, :, which], v[b, :, which])) for k, v in kv])
