"""What reading takes at most: headers of a megabyte, and messages as large as the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.fuzz import HEADER, hostile, peak_now, reset_peak
from unspoken.errors import WireError
from unspoken.types import CacheSegment, Text, Vectors
from unspoken.wire import (
    LOSSLESS,
    BFloat16,
    Int4,
    Int8,
    Layers,
    LowRank,
    Message,
    Packing,
    Seal,
    Tokens,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says the peak of a call")
MEGABYTE = 1 << 20


@linux
def test_a_header_of_a_megabyte_takes_at_most_32_megabytes():
    command = "import json; from benchmarks.fuzz import costs; print(json.dumps(costs()))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, env=os.environ
    )
    found = json.loads(done.stdout)
    assert found.keys() == hostile().keys()
    assert {name: cost["bytes"] for name, cost in found.items() if cost["bytes"] > 32e6} == {}
    assert {name: cost["seconds"] for name, cost in found.items() if cost["seconds"] > 2} == {}


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_header_is_refused_in_a_sentence(name: str):
    with pytest.raises(WireError) as caught:
        Message.from_bytes(hostile()[name], limit=2 * MEGABYTE)
    assert "message" in str(caught.value)
    assert len(str(caught.value)) < 1000


def long_cache(positions: int) -> CacheSegment:
    torch.manual_seed(0)
    kv = tuple((torch.randn(1, 2, positions, 64), torch.randn(1, 2, positions, 64)) for _ in "ab")
    return CacheSegment.of(kv, torch.ones(1, positions, dtype=torch.bool))


SEAL = Seal(encrypt=bytes(32))
PACKINGS = (
    LOSSLESS,
    BFloat16(),
    Int8(group=1),
    Int4(group=1),
    LowRank(rank=128),
    Layers(layers=(0,)),
    Tokens(share=0.5),
)


@linux
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: packing.kind)
def test_reading_takes_at_most_the_limit_and_some_megabytes(packing: Packing, sealed: bool):
    """The smallest limit by which a message is read bounds what reading it takes."""
    message = Message(HEADER, long_cache(20_000)).pack(packing)
    seal = SEAL if sealed else None
    data = message.to_bytes(seal)
    del message
    limit = next(n for n in range(8 * MEGABYTE, 1 << 30, 2 * MEGABYTE) if reads(data, seal, n))
    assert taken(data, seal, limit) <= limit + 64 * MEGABYTE


def taken(data: bytes, seal: Seal | None, limit: int) -> int:
    """Bytes that reading takes: the least of some times, as other tests leave memory in pieces."""
    found: list[int] = []
    for _ in range(3):
        before = reset_peak()
        Message.from_bytes(data, seal, limit=limit)
        found.append(peak_now() - before)
    return min(found)


def reads(data: bytes, seal: Seal | None, limit: int) -> bool:
    try:
        Message.from_bytes(data, seal, limit=limit)
    except WireError:
        return False
    return True


@linux
@pytest.mark.parametrize("letter", ["x", "🙂" + "x" * 7])
def test_words_take_at_most_the_limit_and_some_megabytes(letter: str):
    data = Message(HEADER, Text((letter * (6 * MEGABYTE // len(letter)),))).to_bytes()
    limit = next(n for n in range(4 * MEGABYTE, 1 << 30, MEGABYTE) if reads(data, None, n))
    before = reset_peak()
    Message.from_bytes(data, limit=limit)
    assert peak_now() - before <= limit + 24 * MEGABYTE


def test_slots_without_heads_count_too():
    """Positions take eight bytes each, where a mask of one byte each is all that comes."""
    mask = torch.ones(1, MEGABYTE, dtype=torch.bool)
    empty = torch.empty(1, 0, MEGABYTE, 4)
    data = Message(HEADER, CacheSegment.of(((empty, empty),), mask)).to_bytes()
    with pytest.raises(WireError, match="takes up to"):
        Message.from_bytes(data, limit=2 * MEGABYTE)
    assert Message.from_bytes(data).batch == 1


def test_a_small_message_may_have_a_small_limit():
    data = Message(HEADER, Vectors(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)))
    assert Message.from_bytes(data.to_bytes(), limit=data.nbytes).batch == 1
