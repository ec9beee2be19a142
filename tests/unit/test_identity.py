"""Fingerprints: of values alone, in one precision, and what they can see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unspoken.backbone import Backbone
from unspoken.identity import fingerprint, module_fingerprint
from unspoken.testing import tiny_backbone
from unspoken.types import CACHE, CacheSegment, Prompt, Text
from unspoken.wire import Header, Message

pytestmark = pytest.mark.numbers


def linear(width: int = 300) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, width)


def test_a_fingerprint_is_of_values_not_of_places():
    one, other = linear(), linear()
    assert fingerprint(one.named_parameters()) == fingerprint(other.named_parameters())
    turned = reversed(list(other.named_parameters()))
    assert fingerprint(one.named_parameters()) == fingerprint(turned)


def test_names_and_shapes_count():
    values = torch.arange(6.0)
    found = {
        fingerprint({"a": values}.items()),
        fingerprint({"b": values}.items()),
        fingerprint({"a": values.view(2, 3)}.items()),
        fingerprint({"a": values.view(3, 2)}.items()),
    }
    assert len(found) == 4


def test_precision_is_recorded_apart():
    model, half = tiny_backbone("llama"), tiny_backbone("llama")
    half.model.bfloat16()
    assert model.fingerprint == half.fingerprint
    assert (model.spec.dtype, half.spec.dtype) == ("float32", "bfloat16")
    assert model.spec != half.spec


def test_a_slight_change_of_any_one_tensor_is_another_model():
    """A relative change of a thousandth, a quarter of what bfloat16 resolves."""
    model = tiny_backbone("qwen", width=64)
    whole = model.fingerprint
    seen, count = {whole}, 0
    for _, parameter in model.model.named_parameters():
        if parameter.numel() < 1000:  # a norm of 64 numbers, all of them ones
            continue
        before = parameter.detach().clone()
        torch.manual_seed(count)
        with torch.no_grad():
            parameter.mul_(1 + 1e-3 * torch.randn_like(parameter))
        seen.add(model.fingerprint)
        with torch.no_grad():
            parameter.copy_(before)
        count += 1
    assert len(seen) == count + 1 > 15
    assert model.fingerprint == whole


def test_a_module_is_looked_at_again_when_it_has_changed():
    module = linear()
    before = module_fingerprint(module)
    assert before == module_fingerprint(module) == module_fingerprint(linear())
    with torch.no_grad():
        module.bias.mul_(2)
    after = module_fingerprint(module)
    assert after == fingerprint(module.state_dict().items()) != before
    module.load_state_dict(linear().state_dict())
    assert module_fingerprint(module) == before


def bits(model: Backbone, memory: CacheSegment) -> CacheSegment:
    """A cache, sent as bytes."""
    header = Header(channel="handoff", sender="s", weights=model.fingerprint, tokenizer="")
    payload = Message.from_bytes(Message(header, memory).to_bytes()).payload
    assert isinstance(payload, CacheSegment)
    return payload


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_beyond_its_window_survives_bit_for_bit(dtype: torch.dtype):
    """Layers with a window keep all positions: what follows is what follows the text."""
    model = tiny_backbone("gemma")
    model.model.to(dtype)
    text, behind = "a long story about a key " * 8, "where is it?"
    memory = model.read(Prompt((Text((text,)),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    assert memory.mask.shape[1] > 10 * 16
    loaded = bits(model, memory)
    for read, sent in zip(loaded.kv, memory.kv, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(read, sent, strict=True))
    handed = model.predict(model.read(Prompt((loaded, Text((behind,))))).context)
    if dtype == torch.float32:
        whole = model.predict(model.read(Prompt((Text((text + behind,)),))).context)
        torch.testing.assert_close(handed, whole, atol=1e-4, rtol=1e-4)
    again = model.predict(model.read(Prompt((memory, Text((behind,))))).context)
    assert torch.equal(handed, again)
