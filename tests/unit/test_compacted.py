"""A cache with fewer slots than positions: transformers, told the positions, is the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken.backbone import Backbone
from unspoken.backbone.caches import fresh_cache
from unspoken.errors import ContextTooLong, IncompatibleModels
from unspoken.types import CACHE, TEXT, CacheSegment, KVCache, Need, Prompt, Settings, Text, counted
from unspoken.wire import Header, Message

Tiny = Callable[..., Backbone]
FACTS = ("Ada keeps the green key in a drawer.", "Bo left it under the third bench.")
KEPT = [0, 1, 5, 6, 7, 11, 12, 13, 14, 20, 29]
ASKED = " Where is it?"
KINDS = ["llama", "qwen", "gpt2"]


def read(model: Backbone, *facts: str) -> CacheSegment:
    memory = model.read(Prompt((Text(facts),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    return memory


def compacted(memory: CacheSegment, keep: list[int]) -> CacheSegment:
    """Some slots of a memory; their positions stay."""
    slots = torch.zeros(memory.mask.shape[1], dtype=torch.bool)
    slots[keep] = True
    cache = memory.cache.rows(slice(None), slots)
    return CacheSegment(cache, memory.mask[:, slots], memory.positions[:, slots])


def recounted(memory: CacheSegment) -> CacheSegment:
    """The same slots as if no position had been left out: what must not be taken for right."""
    return replace(memory, positions=counted(memory.mask))


def plain(model: Backbone, memory: CacheSegment, asked: str) -> tuple[DynamicCache, Tensor, Tensor]:
    """A cache, the ids that follow it and their positions, as plain transformers takes them."""
    ids = torch.tensor([model.tokens(asked)])
    return fresh_cache(memory.kv), ids, memory.length[:, None] + torch.arange(ids.shape[1])


def prompt(memory: CacheSegment, *asked: str) -> Prompt:
    return Prompt((memory, Text(asked)))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_token_is_that_of_transformers(kind: str, tiny: Tiny):
    model = tiny(kind)
    memory = compacted(read(model, FACTS[0]), KEPT)
    cache, ids, at = plain(model, memory, ASKED)
    expected = model.model(ids, position_ids=at, past_key_values=cache).logits[:, -1]
    context = model.read(prompt(memory, ASKED)).context
    torch.testing.assert_close(model.predict(context), expected, atol=1e-4, rtol=1e-4)
    assert context.length.tolist() == [KEPT[-1] + 1 + len(ASKED)]
    wrong = model.read(prompt(recounted(memory), ASKED)).context
    assert (model.predict(wrong) - expected).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_words_and_scores_are_those_of_transformers(kind: str, tiny: Tiny):
    model = tiny(kind)
    memory = compacted(read(model, FACTS[0]), KEPT)
    cache, ids, at = plain(model, memory, ASKED)
    written: list[int] = []
    while len(written) < 8:
        logits = model.model(ids, position_ids=at, past_key_values=cache).logits[:, -1]
        written.append(int(logits.argmax()))
        ids, at = torch.tensor([[written[-1]]]), at[:, -1:] + 1
    context = model.read(prompt(memory, ASKED)).context
    found = model.write(context, Settings(max_tokens=8))
    assert list(found.ids[0]) == written[: len(found.ids[0])]

    answer = model.tokens(" in a drawer")
    cache, ids, at = plain(model, memory, ASKED)
    whole = torch.cat((ids, torch.tensor([answer])), 1)
    at = at[:, :1] + torch.arange(whole.shape[1])
    logits = model.model(whole, position_ids=at, past_key_values=cache).logits
    log_p = logits[0, -len(answer) - 1 : -1].log_softmax(-1)
    expected = -log_p.gather(1, torch.tensor(answer)[:, None]).sum()
    torch.testing.assert_close(model.score(context, [answer])[0], expected, atol=1e-3, rtol=1e-4)
    wrong = model.read(prompt(recounted(memory), ASKED)).context
    assert abs(float(model.score(wrong, [answer])[0] - expected)) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_behind_other_words_its_positions_move_along(kind: str, tiny: Tiny):
    model, lead = tiny(kind), "Read this. "
    memory = compacted(read(model, FACTS[0]), KEPT)
    opened = Prompt((Text((lead,), shared=True), memory, Text((ASKED,))))
    context = model.read(opened).context
    begin = model.read(Prompt((Text((lead,)),)), needs=frozenset({CACHE})).cached
    assert begin is not None
    moved = model.shift(memory.kv, len(lead))
    both = tuple(
        (torch.cat((k, a), 2), torch.cat((v, b), 2))
        for (k, v), (a, b) in zip(begin.kv, moved, strict=True)
    )
    _, ids, at = plain(model, memory, ASKED)
    cache = fresh_cache(both)
    expected = model.model(ids, position_ids=at + len(lead), past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(model.predict(context), expected, atol=1e-4, rtol=1e-4)
    places = [*range(len(lead)), *(len(lead) + n for n in KEPT)]
    assert context.positions[0, : len(places)].tolist() == places


@torch.no_grad()
def test_a_batch_is_as_its_rows_alone(tiny: Tiny):
    model = tiny("llama")
    rows = [compacted(read(model, FACTS[0]), KEPT), compacted(read(model, FACTS[1]), KEPT[:7])]
    left = len(KEPT) - 7
    pad = torch.nn.functional.pad
    kv = tuple(
        (
            torch.cat((k, pad(a, (0, 0, left, 0)))),
            torch.cat((v, pad(b, (0, 0, left, 0)))),
        )
        for (k, v), (a, b) in zip(rows[0].kv, rows[1].kv, strict=True)
    )
    mask = torch.cat((rows[0].mask, pad(rows[1].mask, (left, 0))))
    positions = torch.cat((rows[0].positions, pad(rows[1].positions, (left, 0))))
    both = CacheSegment(KVCache(kv), mask, positions)
    asked = (ASKED, " Which bench was it?")
    together = model.read(prompt(both, *asked)).context
    for row, memory in enumerate(rows):
        alone = model.read(prompt(memory, asked[row])).context
        for of in (model.predict, lambda c: model.score(c, [" here"] * c.batch)):
            torch.testing.assert_close(of(together)[row], of(alone)[0], atol=1e-4, rtol=1e-4)
        assert both.rows(slice(row, row + 1)).positions.tolist() == memory.positions.tolist()


@torch.no_grad()
def test_latent_steps_go_on_from_its_positions(tiny: Tiny):
    model = tiny("llama")
    memory = compacted(read(model, FACTS[0]), KEPT)
    need = Need("rollout", limit=3)
    context = model.read(prompt(memory, ASKED), needs=frozenset({need, TEXT})).context
    found = model.roll_out(context, need).cached
    assert found is not None
    after = KEPT[-1] + 1 + len(ASKED)
    assert found.positions[0, -3:].tolist() == [after, after + 1, after + 2]


def test_it_travels_with_its_positions(tiny: Tiny):
    model = tiny("llama")
    memory = compacted(read(model, FACTS[0]), KEPT)
    header = Header(channel="handoff", sender="one", weights="w", tokenizer="t")
    message = Message(header, memory)
    assert len(message.to_bytes()) == message.nbytes == message.row_bytes()[0]
    back = Message.from_bytes(message.to_bytes()).payload
    assert isinstance(back, CacheSegment)
    assert back.positions.tolist() == memory.positions.tolist() == [KEPT]
    whole = Message(header, read(model, FACTS[0]))
    assert b"positions.0" not in whole.to_bytes()
    assert b"compact" not in whole.to_bytes()


def test_a_window_that_counts_slots_refuses_it(tiny: Tiny):
    model = tiny("gemma")
    memory = compacted(read(model, FACTS[0]), KEPT)
    with pytest.raises(IncompatibleModels, match=r"fewer slots than positions, .* sliding window"):
        model.read(prompt(memory, ASKED))


def test_its_positions_count_against_the_limit(tiny: Tiny):
    model = tiny("llama")
    memory = compacted(read(model, FACTS[0]), KEPT)
    far = replace(memory, positions=memory.positions + 243 - KEPT[-1])
    with pytest.raises(ContextTooLong, match=r"has 257 positions, .* at most 256"):
        model.read(prompt(far, ASKED))
    assert len(KEPT) + len(ASKED) < 256
