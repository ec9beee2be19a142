"""Messages as bytes: exact sizes, exact round trips, and what is no message."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from unspoken.errors import WireError
from unspoken.types import Memory, Segment, Spelling, Text, Vectors
from unspoken.wire import Header, Message

HEADER = Header(channel="embedding", sender="planner", weights="w", tokenizer="t")


def vectors(dtype: torch.dtype = torch.float32) -> Vectors:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    return Vectors(torch.randn(2, 3, 4).to(dtype), mask)


def memory(dtype: torch.dtype = torch.float32, layers: int = 12) -> Memory:
    kv = tuple((torch.randn(2, 2, 3, 4).to(dtype), torch.randn(2, 2, 3, 4)) for _ in range(layers))
    return Memory(kv, torch.ones(2, 3, dtype=torch.bool))


def spelled(begin: int = 0) -> Memory:
    bare = memory(layers=2)
    ends = torch.tensor([[-1, 0, 5], [0, 2, 11]])
    return Memory(bare.kv, bare.mask, Spelling(("naïve", "北京 is a city"), ends, begin))


def tensors(payload: Segment) -> list[Tensor]:
    match payload:
        case Text():
            return []
        case Vectors(values, mask):
            return [values, mask]
        case Memory(kv, mask):
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
def test_a_row_has_no_padding(payload: Callable[[], Vectors | Memory]):
    whole = payload()
    mask = torch.tensor([[False, False, True], [True, True, True]])
    whole = Vectors(whole.values, mask) if isinstance(whole, Vectors) else Memory(whole.kv, mask)
    first, second = (Message(HEADER, whole).row(n) for n in range(2))
    assert first.payload.mask.tolist() == [[True]]
    assert second.payload.mask.tolist() == [[True, True, True]]
    assert first.nbytes < second.nbytes
    assert first.nbytes == len(first.to_bytes())
    assert torch.equal(tensors(first.payload)[0], tensors(whole)[0][:1, ..., 2:, :])


def framed(header: object, tail: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + tail


def other(header: object, **parts: Tensor) -> bytes:
    """A whole safetensors file that is no message of ours."""
    words = header if isinstance(header, str) else json.dumps(header)
    return save({name: part.contiguous() for name, part in parts.items()}, {"header": words})


GOOD = HEADER.model_dump()
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
    "a list": lambda: framed([1, 2]),
    "a number": lambda: framed(7),
    "no metadata": lambda: save({"mask": MASK}),
    "metadata of another kind": lambda: framed({"__metadata__": "header"}),
    "no header": lambda: save({"mask": MASK}, {"format": "pt"}),
    "a header that is no json": lambda: other("not json", mask=MASK),
    "wrong version": lambda: other({**GOOD, "version": 2}, mask=MASK),
    "unknown header field": lambda: other({**GOOD, "priority": "high"}, mask=MASK),
    "missing header field": lambda: other({"version": 1, "channel": "text"}, mask=MASK),
    "no payload": lambda: other(GOOD),
    "only a mask": lambda: other(GOOD, mask=MASK),
    "no mask": lambda: other(GOOD, values=torch.ones(2, 3, 4)),
    "a missing row": lambda: other(GOOD, **{"words.0": _bytes("a"), "words.2": _bytes("b")}),
    "words that are no utf-8": lambda: other(GOOD, **{"words.0": _bytes("é")[:1]}),
    "words of floats": lambda: other(GOOD, **{"words.0": torch.ones(3)}),
    "words in a table": lambda: other(GOOD, **{"words.0": torch.ones(2, 2, dtype=torch.uint8)}),
    "a mask of floats": lambda: other(GOOD, values=torch.ones(2, 3, 4), mask=torch.ones(2, 3)),
    "a mask for other rows": lambda: other(GOOD, values=torch.ones(1, 3, 4), mask=MASK),
    "a mask for other positions": lambda: other(GOOD, values=torch.ones(2, 5, 4), mask=MASK),
    "flat vectors": lambda: other(GOOD, values=torch.ones(2, 3), mask=MASK),
    "a missing layer": lambda: other(
        GOOD, mask=MASK, **{"keys.1": torch.ones(2, 1, 3, 4), "values.1": torch.ones(2, 1, 3, 4)}
    ),
    "keys without values": lambda: other(GOOD, mask=MASK, **{"keys.0": torch.ones(2, 1, 3, 4)}),
    "a cache for other positions": lambda: other(
        GOOD, mask=MASK, **{"keys.0": torch.ones(2, 1, 3, 4), "values.0": torch.ones(2, 1, 2, 4)}
    ),
    "words that begin nowhere": lambda: other(
        GOOD,
        mask=MASK,
        ends=torch.ones(2, 3, dtype=torch.int32),
        begin=torch.tensor([1.5]),
        **{"words.0": _bytes("a"), "words.1": _bytes("b")},
        **{"keys.0": torch.ones(2, 1, 3, 4), "values.0": torch.ones(2, 1, 3, 4)},
    ),
    "a flat cache": lambda: other(
        GOOD, mask=MASK, **{"keys.0": torch.ones(2, 1, 3), "values.0": torch.ones(2, 1, 3)}
    ),
}


def _bytes(words: str) -> Tensor:
    return torch.tensor(list(words.encode()), dtype=torch.uint8)


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
    assert isinstance(row.payload, Memory)
    assert row.payload.spelling is not None
    assert row.payload.spelling.begin == begin
    assert isinstance(payload, Memory)
    assert payload.spelling is not None
    assert expected is not None
    assert payload.spelling.words == expected.words
    assert payload.spelling.begin == begin
    assert torch.equal(payload.spelling.ends, expected.ends)
