"""What is proved on a model before use: its keys turn by position, its cache can be filled."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken import rope
from unspoken.backbone.caches import kept
from unspoken.layout import VECTOR, Chunk
from unspoken.types import KV, Context, KVCache, Spelling, counted

__all__ = [
    "beginnings",
    "embeds",
    "filled",
    "keeps",
    "moves",
    "near",
    "pads",
    "plain_logits",
    "probe",
    "rotary",
    "states",
    "turns_by_length",
]

_FIRST, _COUNT = 4, 12

_CANNOT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What foreign models raise at what they cannot do."""


@contextmanager
def _attempt() -> Generator[None]:
    """End quietly where a model cannot do something. A lack of memory says nothing of that."""
    try:
        yield
    except _CANNOT as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise


def probe(model: Any, count: int = _COUNT) -> Chunk:
    """Some tokens that no proof needs the meaning of, as a run of one row."""
    ids = torch.arange(_FIRST, _FIRST + count, device=model.device)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Chunk(ids, mask, Spelling(("",), torch.full_like(ids, -1)))


def beginnings(body: Any) -> tuple[int, ...]:
    """What a model may call its first position: 0, or, as RoBERTa does, one after its padding."""
    padding = getattr(getattr(body, "embeddings", None), "padding_idx", None)
    return (0,) if padding is None else (0, padding + 1)


@torch.no_grad()
def states(model: Any) -> list[Tensor]:
    """The states (1, S, W) of all layers for some tokens, [] if there are none of that shape."""
    ids, found = probe(model).ids, ()
    with _attempt():
        found = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    shaped = found and all(state.shape[:-1] == ids.shape for state in found)
    return list(found) if shaped else []


@torch.no_grad()
def keeps(model: Any) -> bool:
    """Whether reading in three passes, with a cache between, gives what one plain pass gives."""
    run = probe(model)

    def in_parts() -> Tensor:
        return _in_parts(model, run, (slice(0, 5), slice(5, _COUNT - 1)))

    return _same(model, in_parts, lambda: plain_logits(model))


@torch.no_grad()
def plain_logits(model: Any) -> Tensor:
    """Logits (1, V) after some tokens, by one plain pass."""
    return model.model(input_ids=probe(model).ids).logits[:, -1]


@torch.no_grad()
def pads(model: Any, *, gap: bool = False) -> bool:
    """Whether a row gives the same with padding before it, or in its middle, as alone."""
    run, at = probe(model), 3 if gap else 0

    def padded() -> Tensor:
        hole = torch.zeros_like(run.ids[:, :4])
        ids = torch.cat((run.ids[:, :at], hole, run.ids[:, at:]), 1)
        mask = torch.cat((run.mask[:, :at], hole.bool(), run.mask[:, at:]), 1)
        both = Chunk(
            torch.cat((ids, ids + 1)),
            torch.cat((mask, torch.ones_like(mask))),
            run.spelling,
        )
        return _in_parts(model, both, (slice(0, 6), slice(6, _COUNT + 3)))[:1]

    whole = (slice(0, _COUNT - 1),)
    return _same(model, padded, lambda: _in_parts(model, run, whole))


@torch.no_grad()
def embeds(model: Any) -> bool:
    """Whether embeddings that are given are read like the words that they are of."""
    run = probe(model, _COUNT - 1)
    none, words = torch.full_like(run.ids, VECTOR), model.embed(run.ids)[0]

    def given(vectors: Tensor) -> Tensor:
        chunk = replace(run, ids=none, vectors=vectors)
        return _last(model.pass_over((), run.mask[:, :0], chunk, counted(run.mask))[0])

    def known() -> Tensor:
        given(words.mean(0).expand_as(words))  # of no word, which some models cannot read
        return given(words)

    def read() -> Tensor:
        return _last(model.pass_over((), run.mask[:, :0], run, counted(run.mask))[0])

    return _same(model, known, read)


def _last(kv: KV) -> Tensor:
    return kv[-1][1]


def _in_parts(model: Any, run: Chunk, parts: Sequence[slice]) -> Tensor:
    """Logits (B, V) after the last token, which is read by itself after the parts."""
    kv: KV = ()
    at, ends = counted(run.mask), torch.full_like(run.ids, -1)
    for part in parts:
        piece = replace(run, ids=run.ids[:, part], mask=run.mask[:, part])
        kv, _ = model.pass_over(kv, run.mask[:, : part.start], piece, at[:, part])
    return model.next_logits(
        Context(KVCache(kv), run.mask, run.ids[:, -1], Spelling(("",), ends), at)
    )


def _same(model: Any, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> bool:
    """Whether two ways give the same. A way that fails on this model is another one."""
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
    with _attempt(), torch.autocast(model.device.type, enabled=False):
        a, b = one().float(), other().float()
        return a.shape == b.shape and float((a - b).norm()) <= tolerance * float(b.norm())
    return False


def near(one: KV, other: KV, dtype: torch.dtype) -> bool:
    """Whether two caches are the same in every layer, apart from rounding."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    return all(
        float((a - b).norm()) <= tolerance * float(b.norm())
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def rotary(base: Any, layers: int) -> list[Tensor] | None:
    """Rotary frequencies (R/2,) of L layers, in radians per position; None if there are none."""
    found = getattr(base, "rotary_emb", None)
    kinds = getattr(base.config, "layer_types", None) or ["full"] * layers
    turns: list[Any] = [
        getattr(found, f"{kind}_inv_freq", None)
        if hasattr(found, f"{kind}_inv_freq")
        else getattr(found, "inv_freq", None)
        for kind in kinds[:layers]
    ]
    return None if any(turn is None for turn in turns) else turns


def turns_by_length(base: Any) -> bool:
    """Whether keys turn by the length of all that is read, not by their position alone."""
    kind = getattr(getattr(base, "rotary_emb", None), "rope_type", "")
    return any(name in str(kind) for name in ("longrope", "dynamic"))


@torch.no_grad()
def moves(base: Any, frequencies: Sequence[Tensor], dtype: torch.dtype, limit: int | None) -> bool:
    """Whether keys moved by rotation equal keys that are read at the new position.

    Near and far away, because some models change their scale with the position.
    """
    device = base.device
    probe = torch.arange(4, device=device)[None]
    far = min(limit or _FAR, _FAR) - 4
    near_by, *moved = (_read(base, probe, probe + by) for by in (0, min(5, far), far))
    return all(
        near(rope.rotate(near_by, torch.tensor([by], device=device), frequencies), kv, dtype)
        for by, kv in zip((min(5, far), far), moved, strict=True)
    )


_FAR = 4096


@torch.no_grad()
def filled(base: Any, fill: Callable[..., object], dtype: torch.dtype, window: int | None) -> bool:
    """Whether `fill` gives what a dense read gives: four tokens are filled in.

    If the window has at most 1,024 positions, two of them lie so late that it no longer reaches the
    first tokens, so a wrong window shows.
    """
    count = 8 + (window if window and window <= 1024 else 0)
    at = torch.arange(count, device=base.device)[None]
    ids, slots = at % _COUNT, at[:, [2, 3, count - 3, count - 2]]
    mask, dense = torch.ones_like(ids, dtype=torch.bool), _read(base, ids, at)
    room = tuple((keys.clone(), values.clone()) for keys, values in dense)
    for keys, values in room:
        keys[:, :, slots[0]], values[:, :, slots[0]] = 0, 0
    with torch.autocast(base.device.type, enabled=False), _attempt():
        fill(room, ids.gather(1, slots), slots, mask)
    return near(room, dense, dtype)


def _read(base: Any, ids: Tensor, at: Tensor) -> KV:
    cache = DynamicCache()
    with torch.autocast(base.device.type, enabled=False):
        base(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True)
    return kept(cache)
