# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A wrapper of a model: known caches are put in place, and the rest is read in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from unspoken.anchors.assembly import assemble
from unspoken.anchors.plan import ReusePlan, Row, Source
from unspoken.anchors.probe import Probe, divergence
from unspoken.anchors.store import Store
from unspoken.backbone.caches import close_holes
from unspoken.layout import Chunk, Part, Share, spell
from unspoken.protocols import Fillable, Wrapper
from unspoken.scheduling import CHUNK
from unspoken.types import (
    CACHE,
    KV,
    TEXT,
    Ahead,
    CacheSegment,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Served,
    Settings,
    Spelling,
    Words,
)

if TYPE_CHECKING:
    from unspoken.anchors.pool import AnchorPool

__all__ = ["PooledModel"]


class _Seen(NamedTuple):
    """What belongs to a context that was read here: its rows, and what comes next if known.

    exact: whether the cache of each row is that of a dense read.
    """

    rows: Sequence[Row] = ()
    ahead: Ahead | None = None
    exact: Sequence[bool] = ()


class PooledModel(Wrapper):
    """Reads and writes as the model inside does, and reuses what its pool holds.

    The longest beginning that was read before is reused as it is. Texts with a share key are moved
    to their place. Everything else, with all fixed text and the first tokens of each moved text,
    is read in one pass over the filled cache.
    """

    def __init__(self, pool: AnchorPool, model: Fillable, owner: str = "") -> None:
        super().__init__(model)
        self.pool, self.model, self.owner = pool, model, owner
        self._seen = WeakKeyDictionary[Context, _Seen]()

    @torch.no_grad()
    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt as `Backbone.read` does. `served` says where each row came from."""
        parts = self.model.lay_out(prompt)
        if reason := self._unfit(parts, needs):
            read = self.model.read(prompt, needs=needs)
            return self._counted(read, [Served(dense=n, reason=reason) for n in read.tokens])
        rows = _rows(prompt, cast(list[Chunk], parts))
        store, now = self.pool.store(self.model, self.owner), self.pool.tick()
        with self.pool.lock:
            plans = [store.plan(row, now=now) for row in rows]
        ahead: Ahead | None = None
        # One pass also says what comes next, which saves the first step of a batch.
        plain = len(rows) == 1 and TEXT in needs and not store.ladder.moved
        short = plain and len(rows[0].ids) <= CHUNK
        if short or any(plan.beginning or plan.pieces for plan in plans):
            read, caches, ahead = self._assembled(parts, rows, plans, store, needs)
            if any(plan.pieces for plan in plans) and self.pool.prober.chooses():
                reused, read, ahead = read, self.model.read(prompt, needs=needs), None
                exact = _caches(read, rows)
                self._probe(prompt, (reused, read), (caches, exact), plans, store)
                caches = exact
        else:
            read = self.model.read(prompt, needs=needs)
            caches = _caches(read, rows)
        served = [self._served(row, plan) for row, plan in zip(rows, plans, strict=True)]
        templates = self._templates(store, rows)
        with self.pool.lock:
            for row, plan, kv in zip(rows, plans, caches, strict=True):
                store.keep(row, plan, kv, now=now)
            for row, kv, starts in templates:
                store.keep_template(row, kv, starts, now=now)
            self.pool.shrink()
            self._seen[read.context] = _Seen(rows, ahead, [not plan.pieces for plan in plans])
        return self._counted(read, served)

    @torch.no_grad()
    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Write as `Backbone.write` does, and keep the cache of what was written for its readers.

        The cue is kept with it: the last fixed words of the prompt, which name the sender and come
        before the answer in the readers' prompts too.
        """
        seen = self._seen.get(context, _Seen())
        if seen.ahead is None:
            words = self.model.write(context, settings, on_text)
        else:
            words = self.model.proceed(context, seen.ahead, settings, on_text)
        self._keep(context, words, seen)
        return words

    @torch.no_grad()
    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
    ) -> list[Words]:
        """`write` for several contexts, in one batch those of which as much is known."""
        tell = on_text or [None] * len(contexts)
        seen = [self._seen.get(context, _Seen()) for context in contexts]
        found: dict[int, Words] = {}
        for known in (True, False):
            some = [n for n, one in enumerate(seen) if (one.ahead is not None) is known]
            if some:
                aheads = [one for n in some if (one := seen[n].ahead) is not None]
                words = self.model.write_together(
                    [contexts[n] for n in some],
                    [settings[n] for n in some],
                    [tell[n] for n in some],
                    aheads,
                )
                found |= zip(some, words, strict=True)
        for n, context in enumerate(contexts):
            self._keep(context, found[n], seen[n])
        return [found[n] for n in range(len(contexts))]

    def _keep(self, context: Context, words: Words, seen: _Seen) -> None:
        """Keep the cache of what was written for those who will read it."""
        store, now = self.pool.store(self.model, self.owner), self.pool.tick()
        begin, lengths = context.mask.shape[1], context.mask.sum(1).tolist()
        if words.cache is None:  # the model has read again what it had read
            return
        written = words.cache.kv()
        with self.pool.lock:
            for b, (ids, at) in enumerate(zip(words.ids, lengths, strict=True)):
                cached = written[0][0].shape[2] - begin  # the last token of all has no cache
                cue, ids = seen.rows[b].cue if seen.rows else (), ids[:cached]
                first = begin - max(1, len(cue))
                kv = _row(written, b, slice(first, begin + len(ids)))
                if seen.rows and seen.exact[b]:
                    store.keep_written(seen.rows[b], ids, kv, now=now)
                kv = kv[:, :, :, begin - len(cue) - first :]
                store.keep_answer((*cue, *ids), kv, at - len(cue), cue=len(cue), now=now)
            self.pool.shrink()

    # -- serving -----------------------------------------------------------------------------------

    def _unfit(self, parts: Sequence[Part], needs: frozenset[Need]) -> str:
        """Why a prompt is read densely whatever is known, or ''."""
        if any(need.kind == "hidden" for need in needs):
            return "hidden states are asked for, and a cache has none"
        if any(isinstance(part, CacheSegment) for part in parts):
            return "another's cache is in the prompt"
        if any(isinstance(part, Chunk) and part.vectors is not None for part in parts):
            return "vectors are in the prompt"
        if not self.model.fills:
            return "the model does not read into a filled cache"
        if not self.spec.batches and max(len(part.mask) for part in parts) > 1:
            return "rows of the model cannot be padded"
        return ""

    def _assembled(
        self,
        parts: Sequence[Part],
        rows: Sequence[Row],
        plans: Sequence[ReusePlan],
        store: Store,
        needs: frozenset[Need],
    ) -> tuple[Read, list[Tensor], Ahead]:
        """What `Backbone.read` gives, out of known caches; each row's cache; what comes next."""
        share = store.ladder.share
        room, mask, ahead, passes = assemble(self.model, rows, plans, store.frequencies, share)
        spelling = _spelled(parts, len(rows))
        context = Context.of(
            tuple((k[:, :, :-1], v[:, :, :-1]) for k, v in ahead.kv),
            mask,
            torch.tensor([row.ids[-1] for row in rows], device=self.model.device),
            spelling,
        )
        read = Read(
            tokens=tuple(len(plan.missing) for plan in plans),
            passes=passes,
            found=context,
            cached=CacheSegment.of(ahead.kv, mask, spelling) if CACHE in needs else None,
        )
        return read, [room[:, :, b, :, -len(row.ids) :] for b, row in enumerate(rows)], ahead

    def _templates(self, store: Store, rows: Sequence[Row]) -> list[tuple[Row, Tensor, list[int]]]:
        """The prompts of new consumers with names instead of shares, read, if the ladder asks."""
        found: list[tuple[Row, Tensor, list[int]]] = []
        wanted = store.by_paper and store.frequencies is not None
        for row in rows if wanted else ():
            if row.shares and not store.knows_template(row):
                named, starts = row.named(self.model.tokens)
                ids = torch.tensor([named], device=self.model.device)
                mask = torch.ones_like(ids, dtype=torch.bool)
                kv = self.model.extend((), ids, mask, layers=self.model.spec.layers)
                found.append((row, _row(kv, 0, slice(None)), starts))
        return found

    # -- reporting ---------------------------------------------------------------------------------

    def _served(self, row: Row, plan: ReusePlan) -> Served:
        spec = self.model.spec
        sources = plan.sources.tolist()
        dense, exact, shifted, anchored, again = (sources.count(source) for source in Source)
        return Served(
            exact=exact,
            shifted=shifted,
            anchored=anchored,
            recomputed=again,
            dense=dense,
            width=2 * spec.layers * spec.kv_heads * spec.head_dim * self.model.dtype.itemsize,
            reason=plan.reason,
        )

    def _counted(self, read: Read, served: Sequence[Served]) -> Read:
        for row in served:
            self.pool.count(row)
        return replace(read, served=tuple(served))

    def _probe(
        self,
        prompt: Prompt,
        reads: tuple[Read, Read],
        caches: tuple[Sequence[Tensor], Sequence[Tensor]],
        plans: Sequence[ReusePlan],
        store: Store,
    ) -> None:
        """Compare what was reused with what was read densely, row by row. The latter is served."""
        reused, dense = (self.model.predict(read.context) for read in reads)
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
        """Which of the prompt's candidates each row prefers, or [] if it names none."""
        losses = [
            self.model.score(context, [candidate] * prompt.batch) for candidate in prompt.candidates
        ]
        return torch.stack(losses).argmin(0).tolist() if losses else []


def _rows(prompt: Prompt, runs: Sequence[Chunk]) -> list[Row]:
    rows: list[Row] = []
    for b in range(prompt.batch):
        ids, shares = list[int](), list[Share]()
        for run in runs:
            n = 0 if run.ids.shape[0] == 1 else b
            shares += [share.moved(len(ids)) for share in run.shares[n]]
            ids += run.ids[n][run.mask[n]].tolist()
        rows.append(Row(tuple(ids), tuple(shares), exact=prompt.reuse == "exact"))
    return rows


def _spelled(parts: Sequence[Part], batch: int) -> Spelling:
    """What was read, without padding between the parts."""
    mask = torch.cat([part.mask.expand(batch, -1) for part in parts], 1)
    return close_holes((), mask, spell(parts, batch))[2]


def _caches(read: Read, rows: Sequence[Row]) -> list[Tensor]:
    """The cache of each row, (L, 2, H, S, D), of all tokens or all but the last."""
    kv = read.cached.kv if read.cached is not None else read.context.kv
    if not kv:  # of one token, which is in no cache yet
        return [torch.zeros(0, 2, 0, 0, 0)] * len(rows)
    slots = read.context.mask.shape[1]
    return [_row(kv, b, slice(slots - len(row.ids), None)) for b, row in enumerate(rows)]


def _errors(reused: Tensor, dense: Tensor, where: Tensor) -> Tensor:
    """(L, 2): relative errors of keys and of values at some positions."""
    where = where.to(dense.device)
    got, want = (kv[:, :, :, where].float().flatten(2) for kv in (reused, dense))
    return (got - want).norm(dim=2) / want.norm(dim=2)


def _row(kv: KV, b: int, which: slice) -> Tensor:
    """A part of a row's cache in one tensor (L, 2, H, n, D)."""
    return torch.stack([torch.stack((k[b, :, which], v[b, :, which])) for k, v in kv])
