"""Reading a prompt: part by part into one cache, each slot at its position."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.attention import proof_of_narrowing
from unspoken.backbone.caches import (
    append,
    close_holes,
    counts,
    expand,
    filled_layers,
    gather_states,
    has_holes,
    left_order,
    seen_slots,
)
from unspoken.backbone.joining import join_reads
from unspoken.backbone.moving import Moving
from unspoken.backbone.once import once
from unspoken.backbone.passes import CHUNK
from unspoken.backbone.proofs import near
from unspoken.backbone.rereading import Rereading
from unspoken.cancelling import Cancelled
from unspoken.errors import ContextTooLong, EmptyPrompt, IncompatibleModels
from unspoken.layout import Chunk, Part, lay_out, spell
from unspoken.types import (
    CACHE,
    KV,
    TEXT,
    CacheSegment,
    Context,
    KVCache,
    Need,
    Prompt,
    Read,
    counted,
)

__all__ = ["UNWHOLE", "Reading"]

FRONT = 64
"""The most positions between an opening and a message that are kept."""

UNWHOLE = (
    "{name!r} has read a cache that leaves out layers, so its cache is not whole and cannot be "
    "passed on. Send all layers to it, or let it answer over the channel 'text'"
)


class Reading(Moving, Rereading):
    """A model that reads prompts of words, vectors and caches.

    The shared text with which a prompt begins is read once and kept until another opening comes.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(model, tokenizer, name=name)
        self._opening: tuple[object, KV] = ((), ())
        self._front: tuple[object, KV] = ((), ())

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt of B rows and compute what is needed, without vocabulary logits.

        The last segment must be text, so that generation has a token to continue from. A shared
        opening is read once for the whole batch. Raises `EmptyPrompt`, `ContextTooLong` and
        `IncompatibleModels` before any forward pass, and `Cancelled` between two.
        """
        parts = self.lay_out(prompt)
        if not (self.keeps and (self.pads or prompt.batch == 1)):
            return self.reread(parts, prompt.batch, needs)
        if self.border is not None:
            if self.rereads(parts, needs):
                return self.reread(parts, prompt.batch, needs)
            self._check_border(_lengths(parts, prompt.batch))
        if self._holes_matter(parts, prompt.batch):
            return join_reads([self.read(prompt.row(b), needs=needs) for b in range(prompt.batch)])
        return self.read_parts(parts, prompt.batch, needs=needs)

    def read_parts(self, parts: Sequence[Part], batch: int, *, needs: frozenset[Need]) -> Read:
        """Read what `lay_out` made of a prompt of B rows, or parts that were cut otherwise."""
        pass_ = _Reading(self, parts, batch, needs)
        for n, part in enumerate(parts):
            try:
                pass_.take(part, last=part is parts[-1])
            except Cancelled as end:
                read = [one.mask for one in parts[:n] if isinstance(one, Chunk)]
                read.append(part.mask[:, : end.slots])
                passes = sum(ceil(mask.shape[1] / CHUNK) for mask in read)
                raise Cancelled(tokens=counts(read, batch), passes=passes) from None
        return pass_.result()

    def _forget(self) -> None:
        super()._forget()
        self._opening = self._front = ((), ())

    def lay_out(self, prompt: Prompt) -> list[Part]:
        """The prompt as tokens, vectors and caches, checked as `read` checks it."""
        _ = self.spec  # what was known of the model is forgotten if it has changed
        parts = self.parts_of(prompt)
        for n, part in enumerate(parts):
            if isinstance(part, CacheSegment):
                self._check_cached(part)
                assert n == 0 or self.frequencies  # raises if it cannot be moved
        return parts

    def parts_of(self, prompt: Prompt) -> list[Part]:
        """The prompt as tokens, vectors and caches. Of caches nothing but the length is checked.

        Raises `EmptyPrompt`, `ContextTooLong` and `IncompatibleModels`.
        """
        parts = lay_out(prompt, self.encode, self._bos if prompt.bos else (), self.device)
        self._check_limit(_lengths(parts, prompt.batch))
        for part in parts:
            self._check_width(part)
        return parts

    def foresee(self, prompt: Prompt, needs: frozenset[Need], more: int = 0) -> CacheSegment:
        """The cache that reading B rows would give, its layers without heads. Nothing is read.

        more: positions that the model goes on for afterwards. Raises `ContextTooLong` where `read`
        or what follows would. Caches of the prompt may be without heads too.
        """
        parts = self.parts_of(prompt)
        whole = self.keeps and not self.rereads(parts, needs)
        lengths = _lengths(parts, prompt.batch)
        if whole:
            self._check_border(lengths)
        self.check_room(lengths, more, whole=whole)
        mask = torch.cat([part.mask.expand(prompt.batch, -1) for part in parts], 1)
        return CacheSegment.of(self._bare(*mask.shape), mask, spell(parts, prompt.batch))

    def _bare(self, batch: int, slots: int) -> KV:
        """A cache whose layers have no heads, and so no numbers."""
        shapes = self.shapes if self.keeps else ()
        none = torch.empty(batch, 0, slots, 1, dtype=self.dtype, device=self.device)
        return tuple((none.expand(-1, -1, -1, k), none.expand(-1, -1, -1, v)) for _, k, v in shapes)

    @torch.no_grad()
    def read_opening(self, run: Chunk) -> KV:
        """The cache of a shared opening, of one row, kept until another opening comes."""
        precise = torch.is_autocast_enabled(self.device.type)
        key = (tuple(run.ids[0].tolist()), precise)
        kept, kv = self._opening
        if kept != key:
            kv, _ = self.pass_over((), run.mask[:, :0], run, counted(run.mask))
            self._opening = (key, kv)
        return kv

    @torch.no_grad()
    def read_front(self, kv: KV, read: Sequence[Chunk], run: Chunk, at: Tensor) -> KV:
        """The cache of what was `read` and of a short run after it, of one row. The run's slots are
        kept until other runs come: words of a role and free vectors before a message.
        """
        precise = torch.is_autocast_enabled(self.device.type)
        key = (*map(_told, (*read, run)), precise)
        kept, slots = self._front
        if kept != key:
            begin = at.shape[1] and int(at[0, 0])
            mask = run.mask.new_ones(1, begin)
            whole, _ = self.pass_over(kv, mask, run, at)
            slots = tuple((k[:, :, begin:].clone(), v[:, :, begin:].clone()) for k, v in whole)
            self._front = (key, slots)
        return append(kv, slots)

    def top(self, needs: frozenset[Need]) -> int | None:
        """The layer at which reading may end, when nothing but states up to it is needed."""
        if {need.kind for need in needs} != {"hidden"}:
            return None
        if len(getattr(self.body, "layers", ())) != self.facts.layers:
            return None
        layers = [need.layer for need in needs]  # negative ones count from the top
        return max(layers) if min(layers) >= 0 and max(layers) < self.facts.layers else None

    @once
    def narrows(self) -> bool:
        """Whether layers can be kept from seeing a cache. Proved once on this model."""
        found = proof_of_narrowing(self.body, len(self.shapes))
        return found is not None and near(*found, self.dtype)

    def _check_border(self, lengths: Tensor) -> None:
        longest = int(lengths.max())
        if self.border is not None and longest > self.border:
            raise ContextTooLong(
                f"the prompt has {longest} positions, and beyond {self.border} all keys of "
                f"{self.name!r} turn otherwise, so that it has to be read in one pass. Shorten it, "
                "or use the channel 'text'"
            )

    def _check_limit(self, lengths: Tensor) -> None:
        longest, limit = int(lengths.max()), self.facts.positions
        if limit is not None and longest > limit:
            raise ContextTooLong(
                f"the prompt has {longest} positions, but {self.name!r} reads at most {limit}. "
                "Shorten it or choose a model with a longer context"
            )

    def _check_width(self, part: Part) -> None:
        vectors = part.vectors if isinstance(part, Chunk) else None
        if vectors is not None and vectors.shape[-1] != self.facts.width:
            raise IncompatibleModels(
                f"the vectors are {vectors.shape[-1]} wide, but {self.name!r} embeds "
                f"{self.facts.width}. Project them into its space first"
            )

    def _check_cached(self, cached: CacheSegment) -> None:
        spec, shapes = self.facts, self.shapes
        given = [(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in cached.kv]
        fits = len(given) == len(shapes) and all(
            one[1:] == layer[1:] and one[0] in (0, layer[0])
            for one, layer in zip(given, shapes, strict=True)
        )
        if not fits:
            raise IncompatibleModels(
                f"the cache has {_shaped(given)}, but {self.name!r} has {_shaped(shapes)}. Use the "
                "same weights"
            )
        if not all(cached.layers) and not self.narrows:
            raise IncompatibleModels(
                f"the cache leaves out layers, but those of {self.name!r} cannot be kept from "
                "seeing it. Send all layers, or load the model with attn_implementation='sdpa'"
            )
        compact = (cached.positions != counted(cached.mask)) & cached.mask
        if spec.window is not None and bool(compact.any()):
            raise IncompatibleModels(
                f"the cache has fewer slots than positions, but {self.name!r} has a sliding "
                "window, which counts slots. Send the whole cache"
            )

    def _holes_matter(self, parts: Sequence[Part], batch: int) -> bool:
        """Whether padding between parts could push a position out of the sliding window.

        transformers counts the window in cache slots, not in positions, and some models count all
        distances so. Rows with padding in their middle would see too little. Such prompts are rare,
        and their rows are read one by one.
        """
        if batch == 1 or len(parts) == 1:
            return False
        mask = torch.cat([part.mask.expand(batch, -1) for part in parts], 1)
        window = self.facts.window
        if not has_holes(mask) or (window is None and self.gaps):
            return False
        return window is None or mask.shape[1] >= window or not self.gaps


def _trained(vectors: Tensor | None) -> bool:
    return vectors is not None and vectors.requires_grad and torch.is_grad_enabled()


def _told(run: Chunk) -> object:
    """What the first row of a run reads."""
    vectors = [] if run.vectors is None else run.vectors.flatten().tolist()
    return tuple(run.ids[0].tolist()), tuple(vectors)


class _Reading:
    """B rows of a prompt, read part by part.

    kv: the cache of what was read, of one row while all rows are equal. mask and positions: (B, S).
    end: (B,), the position that comes next. hidden: states by layer and which of their positions
    are wanted. seen: (L, B, S), which slots each layer may see, None for all. whole: whether the
    last token is read too. If not, the first decode reads it. top: the layer at which the last
    pass ends, None for all layers.
    """

    def __init__(
        self, model: Reading, parts: Sequence[Part], batch: int, needs: frozenset[Need]
    ) -> None:
        self.model, self.parts, self.batch, self.needs = model, parts, batch, needs
        self.runs = [part for part in parts if isinstance(part, Chunk)]
        self.layers = sorted(need.layer for need in needs if need.kind == "hidden")
        if self.layers and all(run.shared for run in self.runs):
            raise EmptyPrompt("there are no states to pass on: nothing follows the opening")
        every = (True,) * len(model.shapes)
        held = [part.layers if isinstance(part, CacheSegment) else every for part in parts]
        self.seen = seen_slots([part.mask.expand(batch, -1) for part in parts], held)
        if self.seen is not None and CACHE in needs:
            raise IncompatibleModels(UNWHOLE.format(name=model.name))
        self.whole, self.top = bool(self.layers) or CACHE in needs, model.top(needs)
        self.kv: KV = ()
        self.positions = torch.zeros(batch, 0, dtype=torch.long, device=model.device)
        self.mask, self.end = self.positions.bool(), self.positions.sum(1)
        self.hidden: list[tuple[dict[int, Tensor], Tensor]] = []

    def take(self, part: Part, *, last: bool) -> None:
        """Read one part. What all rows begin with is read once, for one row."""
        alone = len(part.mask) == 1 and not last and (not self.kv or len(self.kv[0][0]) == 1)
        rows = 1 if alone else self.batch
        self.kv = tuple((expand(k, rows), expand(v, rows)) for k, v in self.kv)
        at = self._places(part)
        if isinstance(part, CacheSegment):
            self._append(part, rows)
        elif part.shared and part is self.parts[0] and not last:
            self.kv = self.model.read_opening(part)
        elif alone and (before := self._before(part)) is not None:
            self.kv = self.model.read_front(self.kv, before, part, at[:1])
        else:
            self._run(part, rows, at, last=last)
        self.mask = torch.cat((self.mask, part.mask.expand(self.batch, -1)), 1)
        self.positions = torch.cat((self.positions, at), 1)
        self.end = self.end + _length(part)

    def _before(self, part: Chunk) -> list[Chunk] | None:
        """The runs before a part that is worth keeping, as all rows begin with them and with it.

        It comes right after the opening and is short, and nothing of it is trained.
        """
        first = self.parts[: self.parts.index(part)]
        before = [one for one in first if isinstance(one, Chunk)]
        trained = any(_trained(one.vectors) for one in (*before, part))
        plain = self.seen is None and not self.layers and not trained
        short = part.mask.shape[1] <= FRONT and len(before) == len(first) <= 1
        return before if plain and short else None

    @property
    def _slotted(self) -> bool:
        """Whether the model counts slots, so that padding in the middle would be counted too."""
        return self.model.facts.window is not None or not self.model.gaps

    def _places(self, part: Part) -> Tensor:
        """The positions (B, S) of a part that comes next."""
        if isinstance(part, CacheSegment):
            return self.end[:, None] + part.positions
        return (self.end[:, None] + part.mask.long().cumsum(1) - 1).clamp(min=0)

    def _append(self, cached: CacheSegment, rows: int) -> None:
        model = self.model
        added = filled_layers(cached, [heads for heads, _, _ in model.shapes])
        added = tuple((k.to(model.dtype), v.to(model.dtype)) for k, v in added)
        self.kv = append(self.kv, model.shift(added, self.end[:rows]) if self.kv else added)

    def _run(self, part: Chunk, rows: int, at: Tensor, *, last: bool) -> None:
        run, top = part.expand(rows), self.top if last else None
        read = run.without_last() if last and not self.whole else run
        at = at[:rows, : read.ids.shape[1]]
        with self.model.seeing(self.seen, self.mask.shape[1]):
            self.kv, states = self.model.pass_over(
                self.kv, self.mask[:rows], read, at, self.layers, top
            )
        if self.layers and not part.shared:
            states = {n: expand(state, self.batch) for n, state in states.items()}
            self.hidden.append((states, run.heard.expand(self.batch, -1)))

    def _passes(self, run: Chunk) -> int:
        unread = run is self.runs[-1] and not self.whole
        return max(1, ceil((run.ids.shape[1] - unread) / CHUNK))

    def result(self) -> Read:
        """What has been read, without padding in the middle where a window would count it."""
        kv, mask, positions, seen = self.kv, self.mask, self.positions, self.seen
        spelling = spell(self.parts, self.batch)
        several = len(self.parts) > 1 and self.batch > 1
        if several and has_holes(mask) and self._slotted:  # what is written may reach it
            order = left_order(mask)
            seen = None if seen is None else seen.take_along_dim(order[None], 2)
            positions = positions.gather(1, order)
            kv, mask, spelling = close_holes(kv, mask, spelling)
        known = tuple((k[:, :, :-1], v[:, :, :-1]) for k, v in kv) if self.whole else kv
        last = self.runs[-1].expand(self.batch).ids[:, -1]
        found = Context(KVCache(known), mask, last, spelling, positions, seen=seen)
        cached = (
            CacheSegment(KVCache(kv), mask, positions, spelling) if CACHE in self.needs else None
        )
        return Read(
            tokens=counts([run.mask for run in self.runs], self.batch),
            passes=sum(map(self._passes, self.runs)),
            found=found if self.top is None else None,
            hidden={
                n: gather_states([(s[n], wanted) for s, wanted in self.hidden]) for n in self.layers
            },
            cached=cached,
        )


def _shaped(shapes: Sequence[tuple[int, int, int]]) -> str:
    """The layers of a cache in words."""
    found = {
        f"{heads} x {keys}" if keys == values else f"{heads} x {keys} and {values}"
        for heads, keys, values in shapes
    }
    return f"{len(shapes)} layers of {' or '.join(sorted(found))}"


def _lengths(parts: Sequence[Part], batch: int) -> Tensor:
    """(B,): the positions that all parts take up."""
    return torch.as_tensor(sum(_length(part).expand(batch) for part in parts))


def _length(part: Part) -> Tensor:
    """(B,) or (1,): the positions that a part takes up."""
    return part.length if isinstance(part, CacheSegment) else part.mask.sum(1)
