"""Cells of caches: moved, put into a prompt, left out of layers, kept in a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.anchors.plan import Ladder
from unspoken.channels import ProjectedMemory, SelectiveLayers
from unspoken.projectors import MemoryProjector
from unspoken.types import CacheSegment, KVCache, Prompt, Served, Text, Vectors
from unspoken.wire import Message

from .plain import join
from .world import CONTEXT, OTHER, QUESTION, SETTINGS, Pair, World, close, must, small

__all__ = ["layers", "memory", "middle", "pool_by", "pool_exact", "pool_shifted", "shift"]

_BY = 7
_BEFORE = "Now then, "


def shift(world: World) -> None:
    """A cache that is moved is the cache that is read at the new positions."""
    ids = world.ids(CONTEXT)
    kept, want = world.plain.read(ids), world.plain.read(ids, _BY)
    moved = world.model.shift(tuple(kept), _BY + world.spoil)
    for n, (got, right) in enumerate(zip(moved, want, strict=True)):
        for side, what in enumerate(("keys", "values")):
            close(got[side], right[side], f"{what} of layer {n}")


def middle(world: World) -> None:
    """A cache in the middle of a prompt, which has not seen what stands before it."""
    pair = world.pair(SelectiveLayers(ratio=1.0), template=_BEFORE + "{messages}{question}")
    before, context = world.ids(_BEFORE), world.ids(CONTEXT)
    asked, end = world.ids(QUESTION), len(before) + len(context)
    pairs = join(world.plain.read(before), world.plain.read(context, len(before)))
    rows = world.plain.after(pairs, [*asked, *world.answer], end)[len(asked) - 1 :]
    message = pair.message()
    if world.spoil:
        message = _later(world, message)
    world.agree(pair.read(message), rows)


def _later(world: World, message: Message) -> Message:
    """A message of a cache, its keys one position too far."""
    segment = message.payload
    assert isinstance(segment, CacheSegment)
    moved = KVCache(world.model.shift(segment.kv, 1))
    return Message(message.header, replace(segment, cache=moved))


def layers(world: World) -> None:
    """A cache of half of the layers: the others do not see it."""
    ratio = 1.0 if world.spoil else 0.5
    pair = world.pair(SelectiveLayers(ratio=ratio), template=_BEFORE + "{messages}{question}")
    before, context = world.ids(_BEFORE), world.ids(CONTEXT)
    asked, end = world.ids(QUESTION), len(before) + len(context)
    pairs = join(world.plain.read(before), world.plain.read(context, len(before)))
    unsent = set(range(len(pairs))) - set(SelectiveLayers(ratio=0.5).chosen(len(pairs)))
    tokens, hidden = [*asked, *world.answer], slice(len(before), end)
    rows = world.plain.after_some(pairs, tokens, end, hidden, unsent)[len(asked) - 1 :]
    world.agree(pair.read(pair.message()), rows)


def memory(world: World) -> None:
    """What an untrained projector makes of the tiny llama's cache, before the question."""
    source, target = small().spec, world.model.spec
    turns = [torch.stack(list(one.frequencies)[:1]) for one in (small(), world.model)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projector = MemoryProjector(
            source=(source.layers, source.kv_heads, source.head_dim),
            target=(target.layers, target.kv_heads, target.head_dim),
            rotary=(turns[0].shape[1], turns[1].shape[1]),
            target_width=target.width,
            width=40,
            hidden=24,
            source_weights=source.weights,
            target_weights=target.weights,
        ).eval()
    projector.source_turns.copy_(turns[0])
    projector.target_turns.copy_(turns[1])
    projector.tokenizer = world.tokenizer.backend_tokenizer
    scribe = Agent("scribe", small(), role=Role(template="{context}", chat=False))
    reader = world.agent("reader", "{messages}{question}")
    pair = Pair(ProjectedMemory(projector), scribe, reader)
    message = pair.message()
    payload = message.payload
    assert isinstance(payload, Vectors)
    pairs = [(k.detach(), v.detach()) for k, v in projector.decode(payload).kv]
    tokens = [*world.ids(QUESTION), *world.answer]
    rows = world.plain.after(pairs, tokens, pairs[0][0].shape[2])[-len(world.answer) - 1 :]
    if world.spoil:
        message = Message(message.header, replace(payload, values=payload.values.flip(1)))
    with torch.no_grad():
        world.agree(pair.read(message), rows)


# -- pools -----------------------------------------------------------------------------------------

_FIRST, _SECOND = "Read this.\n", "Before you answer, look at it:\n"
_DOCUMENT = CONTEXT[:36]
_END, _OTHER_END, _WRONG = "\nQ: Where?\nA:", "\nQ: Who has it?\nA:", "\nNo, why not?\nB:"


def _poison(thing: Any, seen: set[int] | None = None) -> None:
    """Set every tensor to zero that a pool keeps."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        if thing.is_floating_point():
            thing.zero_()
    elif isinstance(thing, Mapping):
        for part in thing.values():
            _poison(part, seen)
    elif isinstance(thing, Sequence) and not isinstance(thing, str | bytes):
        for part in thing:
            _poison(part, seen)
    elif type(thing).__module__.startswith("unspoken."):
        slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
        names = {*getattr(thing, "__dict__", ()), *slots} - {"__weakref__"}
        for name in names:
            _poison(getattr(thing, name, None), seen)


class _Reader:
    """A model as a pool wraps it, and what each read is compared with.

    loose: whether what a pool moves need not be right. wrong: whether other words are read than
    should be, in a twin of a model for which the pool reuses nothing.
    """

    def __init__(self, world: World, ladder: str | Ladder, *, loose: bool = False) -> None:
        self.world, self.pool, self.loose = world, AnchorPool(ladder), loose
        self.model, self.wrong = self.pool.wrap(world.model), False

    def read(self, *texts: Text, moved: Tensor | None = None, writes: bool = False) -> Served:
        """Read a prompt. What comes next is that of one plain pass, or of the rows `moved`.

        writes: whether a word is written then, which the pool keeps too.
        """
        world, words = self.world, "".join(text.words[0] for text in texts)
        rows = world.rows(world.ids(words))
        given = (*texts[:-1], Text((_WRONG,))) if self.wrong else texts
        read = self.model.read(Prompt(given))
        (served,) = read.served
        approximate = bool(served.shifted or served.anchored)
        if approximate and moved is not None:
            rows = moved
        if not (approximate and self.loose):
            world.agree(read.context, rows, f"{served}")
        if writes:
            written = self.model.write(read.context, replace(SETTINGS, max_tokens=2)).ids[0][0]
            likely = int(world.model.predict(read.context)[0].argmax())
            must(written == likely, f"{served} wrote {written}, not {likely}")
        must(bool(world.model.predict(read.context).isfinite().all()), "logits are not finite")
        return served

    def spoil(self) -> None:
        """In the twin: what is kept is lost, or if nothing is reused, other words are read."""
        if self.world.spoil:
            _poison(self.pool._stores)
            self.wrong = bool(self.world.note)


def _note(world: World, served: Served) -> None:
    if not (served.reused or world.spoil):
        world.note = f"nothing reused: {served.reason}"


def _shared(before: str, document: str, after: str) -> tuple[Text, ...]:
    return Text((before,)), Text((document,), share="document"), Text((after,))


def pool_exact(world: World) -> None:
    """A prompt, the same prompt again, and another with the same beginning."""
    reader = _Reader(world, "exact")
    reader.read(Text((_DOCUMENT,)), Text((_END,)))
    for end in (_END, _OTHER_END):
        reader.spoil()
        _note(world, reader.read(Text((_DOCUMENT,)), Text((end,)), writes=end == _OTHER_END))


def pool_shifted(world: World) -> None:
    """A document that was read elsewhere. No token of it is read again: `first` is 0."""
    reader = _Reader(world, Ladder(offsets="none", first=0, least=8))
    reader.read(*_shared(_FIRST, _DOCUMENT, _END))
    reader.spoil()
    moved = _moved(world) if reader.pool.state().bytes["bases"] else None
    served = reader.read(*_shared(_SECOND, _DOCUMENT, _OTHER_END), moved=moved, writes=True)
    _note(world, served)
    count = len(world.ids(_DOCUMENT))
    must(served.shifted in (0, count), f"moved {served.shifted} of {count} tokens")


def _moved(world: World) -> Tensor:
    """What comes next if the document is what was read after other words."""
    first, second, document = (world.ids(words) for words in (_FIRST, _SECOND, _DOCUMENT))
    begin, tokens = len(first), [*world.ids(_OTHER_END), *world.answer]
    elsewhere = world.plain.read([*first, *document], len(second) - begin)
    kept = [(k[:, :, begin:], v[:, :, begin:]) for k, v in elsewhere]
    pairs = join(world.plain.read(second), kept)
    rows = world.plain.after(pairs, tokens, len(second) + len(document))
    return rows[-len(world.answer) - 1 :]


def pool_by(world: World, ladder: str) -> None:
    """A ladder that corrects what it moves. What it does not move is right, the rest a number."""
    reader = _Reader(world, ladder, loose=True)
    reader.read(*_shared(_FIRST, _DOCUMENT, _END))
    reader.spoil()
    _note(world, reader.read(*_shared(_FIRST, _DOCUMENT, _END)))
    for before, document in ((_SECOND, _DOCUMENT), (_FIRST, OTHER[:36]), (_SECOND, OTHER[:36])):
        reader.read(*_shared(before, document, _OTHER_END), writes=before == _SECOND)
