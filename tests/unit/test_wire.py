"""Messages as bytes: exact sizes, exact round trips, and what is no message."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from unspoken.errors import WireError
from unspoken.types import CacheSegment, Segment, Spelling, Text, Vectors
from unspoken.wire import Header, Message
from unspoken.wire.codec import chunks
from unspoken.wire.payload import tensors_of

HEADER = Header(channel="embedding", sender="planner", weights="w", tokenizer="t")


def vectors(dtype: torch.dtype = torch.float32) -> Vectors:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    return Vectors(torch.randn(2, 3, 4).to(dtype), mask)


def memory(dtype: torch.dtype = torch.float32, layers: int = 12) -> CacheSegment:
    kv = tuple((torch.randn(2, 2, 3, 4).to(dtype), torch.randn(2, 2, 3, 4)) for _ in range(layers))
    return CacheSegment.of(kv, torch.ones(2, 3, dtype=torch.bool))


def spelled(begin: int = 0) -> CacheSegment:
    bare = memory(layers=2)
    ends = torch.tensor([[-1, 0, 5], [0, 2, 11]])
    return CacheSegment.of(bare.kv, bare.mask, Spelling(("naïve", "北京 is a city"), ends, begin))


def tensors(payload: Segment) -> list[Tensor]:
    match payload:
        case Text():
            return []
        case Vectors(values, mask):
            return [values, mask]
        case CacheSegment(cache, mask):
            kv = cache.kv()
            return [*(tensor for pair in kv for tensor in pair), mask]


PAYLOADS: dict[str, Callable[[], Segment]] = {
    "words": lambda: Text(("look up", "then left")),
    "many rows": lambda: Text(tuple(f"row {n}" for n in range(120))),
    "no words": lambda: Text(("", "a", "")),
    "odd words": lambda: Text(("naïve 北京 🙂", 'a "quoted"\n\\line\x00\x1f\x7f')),
    "float32": vectors,
    "bfloat16": lambda: vectors(torch.bfloat16),
    "float16": lambda: vectors(torch.float16),
    "no positions": lambda: Vectors(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)),
    "strided": lambda: Vectors(torch.randn(3, 2, 4).transpose(0, 1), vectors().mask),
    "expanded": lambda: Vectors(torch.randn(3, 4).expand(2, 3, 4), vectors().mask),
    "with a gradient": lambda: Vectors(vectors().values.requires_grad_(), vectors().mask),
    "cache": memory,
    "spelled cache": spelled,
    "spelled without its lead": lambda: spelled(begin=4),
    "cache of two precisions": lambda: memory(torch.bfloat16),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_bytes_are_counted_and_come_back(name: str):
    message = Message(HEADER, PAYLOADS[name]())
    data = message.to_bytes()
    assert message.nbytes == len(data)
    loaded = Message.from_bytes(data)
    assert loaded.header == message.header
    assert isinstance(loaded.payload, type(message.payload))
    if isinstance(message.payload, Text):
        assert loaded.payload == message.payload
    for got, want in zip(tensors(loaded.payload), tensors(message.payload), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want.detach())
    assert loaded.to_bytes() == data


@pytest.mark.parametrize(
    "sender", ["planner", "Plänner ✓", 'the "best"', "a\\b\n\tc", "\x01", "é" * 100, "</s>"]
)
def test_headers_of_any_name(sender: str):
    message = Message(HEADER.model_copy(update={"sender": sender}), Text(("hi",)))
    assert message.nbytes == len(message.to_bytes())
    assert Message.from_bytes(message.to_bytes()).header.sender == sender


@pytest.mark.parametrize("payload", [vectors, memory])
def test_a_row_has_no_padding(payload: Callable[[], Vectors | CacheSegment]):
    whole = payload()
    mask = torch.tensor([[False, False, True], [True, True, True]])
    whole = (
        Vectors(whole.values, mask)
        if isinstance(whole, Vectors)
        else CacheSegment.of(whole.kv, mask)
    )
    first, second = (Message(HEADER, whole).row(n) for n in range(2))
    assert first.payload.mask.tolist() == [[True]]
    assert second.payload.mask.tolist() == [[True, True, True]]
    assert first.nbytes < second.nbytes
    assert first.nbytes == len(first.to_bytes())
    assert torch.equal(tensors(first.payload)[0], tensors(whole)[0][:1, ..., 2:, :])


def framed(header: object, tail: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + tail


TEXT = Message(HEADER, Text(("look up", "")))
VECTORS = Message(HEADER, vectors())
CACHE = Message(HEADER, memory(layers=2))
SPELLED = Message(HEADER, spelled())


def edited(message: Message, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A message whose header was changed by somebody who knows the format."""
    envelope = json.loads(message.envelope.words())
    changed = change(envelope)
    words = json.dumps(envelope if changed is None else changed, separators=(",", ":"))
    return b"".join(chunks(tensors_of(message.payload, message.layout), words))


def other(message: Message, take: str = "", **parts: Tensor) -> bytes:
    """A message without a tensor, or with others."""
    found = tensors_of(message.payload, message.layout) | parts
    return b"".join(chunks({k: v for k, v in found.items() if k != take}, message.envelope.words()))


def put(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(envelope: Any) -> None:
        for step in path[:-1]:
            envelope = envelope[step]
        envelope[path[-1]] = to

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(envelope: Any) -> None:
        for step in path[:-1]:
            envelope = envelope[step]
        del envelope[path[-1]]

    return change


MASK = torch.ones(2, 3, dtype=torch.bool)
BROKEN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "seven bytes": lambda: b"\x01" * 7,
    "size only": lambda: (4).to_bytes(8, "little"),
    "garbage": lambda: bytes(range(256)) * 4,
    "zeros": lambda: bytes(64),
    "an oversize header": lambda: (1 << 40).to_bytes(8, "little") + b"{}" * 50,
    "a header of more than a megabyte": lambda: framed(b" " * ((1 << 20) + 8)),
    "no json": lambda: framed(b"{not json}"),
    "no utf-8": lambda: framed(b"\xff\xfe\xfd\xfc"),
    "deep json": lambda: framed(b"[" * 100_000),
    "deep json inside": lambda: framed({"__metadata__": {"unspoken": "[" * 100_000}}),
    "a list": lambda: framed([1, 2]),
    "a number": lambda: framed(7),
    "no metadata": lambda: save({"mask": MASK}),
    "metadata of another kind": lambda: framed({"__metadata__": "header"}),
    "no header": lambda: save({"mask": MASK}, {"format": "pt"}),
    "a header that is no json": lambda: save({"mask": MASK}, {"unspoken": "not json"}),
    "a header that is a number": lambda: save({"mask": MASK}, {"unspoken": "7"}),
    "no version": lambda: edited(VECTORS, drop("version")),
    "wrong version": lambda: edited(VECTORS, put("version", to=3)),
    "unknown field": lambda: edited(VECTORS, put("priority", to="high")),
    "unknown header field": lambda: edited(VECTORS, put("header", "priority", to="high")),
    "unknown layout field": lambda: edited(VECTORS, put("layout", "priority", to="high")),
    "missing header field": lambda: edited(VECTORS, drop("header", "sender")),
    "a field of another type": lambda: edited(VECTORS, put("header", "sender", to=7)),
    "a sender of a thousand letters": lambda: edited(
        VECTORS, put("header", "sender", to="x" * 999)
    ),
    "a default that is spelled out": lambda: edited(VECTORS, put("header", "lead", to="")),
    "a fingerprint with a space": lambda: edited(VECTORS, put("header", "weights", to="a b")),
    "a step before the first": lambda: edited(VECTORS, put("header", "step", to=-1)),
    "a step that is no number": lambda: edited(VECTORS, put("header", "step", to=float("nan"))),
    "tasks for other rows": lambda: edited(VECTORS, put("header", "task", to=["a"])),
    "shadows for other rows": lambda: edited(VECTORS, put("header", "shadow", to=["a"] * 3)),
    "kinds for other layers": lambda: edited(CACHE, put("header", "kinds", to=["full"])),
    "an unknown kind of layer": lambda: edited(CACHE, put("header", "kinds", to=["ring"] * 2)),
    "an unknown payload": lambda: edited(VECTORS, put("layout", "kind", to="picture")),
    "an unknown packing": lambda: edited(VECTORS, put("layout", "packing", to={"kind": "zip"})),
    "a packing that is not": lambda: edited(VECTORS, put("layout", "packing", to={"kind": "bf16"})),
    "packed words": lambda: edited(TEXT, put("layout", "packing", to={"kind": "bf16"})),
    "an unknown type": lambda: edited(VECTORS, put("layout", "dtype", to="float64")),
    "another type": lambda: edited(VECTORS, put("layout", "dtype", to="bfloat16")),
    "another width": lambda: edited(VECTORS, put("layout", "width", to=5)),
    "a negative width": lambda: edited(VECTORS, put("layout", "width", to=-4)),
    "other positions": lambda: edited(VECTORS, put("layout", "positions", to=[3, 3])),
    "a fraction of a position": lambda: edited(VECTORS, put("layout", "positions", to=[2.5, 3])),
    "an infinity of positions": lambda: edited(
        VECTORS, put("layout", "positions", to=[float("inf"), 3])
    ),
    "more positions than there are": lambda: edited(VECTORS, put("layout", "positions", to=[2, 4])),
    "no rows": lambda: edited(VECTORS, put("layout", "positions", to=[])),
    "another length": lambda: edited(VECTORS, put("layout", "length", to=4)),
    "more than memory holds": lambda: edited(VECTORS, put("layout", "width", to=1 << 31)),
    "other heads": lambda: edited(CACHE, put("layout", "layers", 0, "heads", to=1)),
    "other layers": lambda: edited(CACHE, put("layout", "layers", 0, "count", to=3)),
    "no layers": lambda: edited(CACHE, put("layout", "layers", to=[])),
    "a million layers": lambda: edited(CACHE, put("layout", "layers", 0, "count", to=1000000)),
    "fewer words": lambda: edited(TEXT, put("layout", "words", to=[6, 0])),
    "more words": lambda: edited(TEXT, put("layout", "words", to=[8, 0])),
    "words for other rows": lambda: edited(SPELLED, put("layout", "words", to=[24])),
    "words that begin behind their end": lambda: edited(SPELLED, put("layout", "begin", to=7)),
    "a missing tensor": lambda: other(VECTORS, "mask"),
    "an extra tensor": lambda: other(VECTORS, more=torch.ones(1)),
    "a missing layer": lambda: other(CACHE, "keys.1"),
    "words that are no utf-8": lambda: other(TEXT, words=_bytes("look\xff\xff", "latin-1")),
    "half a letter": lambda: edited(
        Message(HEADER, Text(("é", ""))), put("layout", "words", to=[1, 1])
    ),
    "words of floats": lambda: other(TEXT, words=torch.ones(7)),
    "a mask of floats": lambda: other(VECTORS, mask=torch.ones(2, 3)),
    "a mask of twos": lambda: other(VECTORS, mask=twos(VECTORS.payload.mask)),
    "a mask for other rows": lambda: other(VECTORS, mask=torch.ones(1, 3, dtype=torch.bool)),
    "another mask": lambda: other(VECTORS, mask=MASK),
    "flat vectors": lambda: other(VECTORS, values=torch.ones(2, 3)),
    "a cache for other positions": lambda: other(CACHE, **{"values.0": torch.ones(2, 2, 2, 4)}),
    "ends behind the words": lambda: other(SPELLED, ends=torch.full((2, 3), 99).int()),
    "ends before the words": lambda: other(SPELLED, ends=torch.full((2, 3), -2).int()),
}


def twos(mask: Tensor) -> Tensor:
    """A mask as nobody makes it: True as the byte 2."""
    return (mask.to(torch.uint8) * 2).view(torch.bool)


def _bytes(words: str, encoding: str = "utf-8") -> Tensor:
    return torch.tensor(list(words.encode(encoding)), dtype=torch.uint8)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_message_is_refused(name: str):
    with pytest.raises(WireError, match=r"message"):
        Message.from_bytes(BROKEN[name]())


@pytest.mark.parametrize("payload", [Text(("look up", "")), vectors(), memory(layers=2)])
def test_half_a_message_is_refused(payload: Segment):
    data = Message(HEADER, payload).to_bytes()
    for length in {*range(0, len(data), 37), len(data) - 1, 8, 9}:
        with pytest.raises(WireError):
            Message.from_bytes(data[:length])
    with pytest.raises(WireError):
        Message.from_bytes(data + b"\x00")


def test_the_error_names_the_version():
    with pytest.raises(WireError, match="version"):
        Message.from_bytes(BROKEN["wrong version"]())


def test_a_header_of_more_than_a_megabyte_is_not_even_read():
    huge = HEADER.model_copy(update={"sender": "x" * (1 << 20)})
    with pytest.raises(WireError, match="its header claims 1048"):
        Message.from_bytes(Message(huge, Text(("hi",))).to_bytes())


@pytest.mark.parametrize("begin", [0, 4])
def test_a_cache_keeps_what_it_spells(begin: int):
    message = Message(HEADER, spelled(begin))
    payload = Message.from_bytes(message.to_bytes()).payload
    expected = spelled(begin).spelling
    row = message.row(1)
    assert message.row_bytes()[1] == row.nbytes == len(row.to_bytes())
    assert isinstance(row.payload, CacheSegment)
    assert row.payload.spelling is not None
    assert row.payload.spelling.begin == begin
    assert isinstance(payload, CacheSegment)
    assert payload.spelling is not None
    assert expected is not None
    assert payload.spelling.words == expected.words
    assert payload.spelling.begin == begin
    assert torch.equal(payload.spelling.ends, expected.ends)
