"""Messages that somebody changed: the typed error or a whole message, and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import LIMIT, mutated, samples
from unspoken.errors import WireError
from unspoken.wire import Message, Seal

SEAL = Seal(sign=bytes(range(32)))
SAMPLES = [message.to_bytes() for message in samples()]
SIGNED = [message.to_bytes(SEAL) for message in samples()]
quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.integers(0, len(SAMPLES) - 1), st.integers(0, 1 << 62))
def test_a_changed_message_is_refused_or_whole(which: int, seed: int):
    data = mutated(SAMPLES, which, seed)
    try:
        message = Message.from_bytes(data, limit=LIMIT)
    except WireError:
        return
    assert message.to_bytes() == data
    assert sum(message.row_bytes()) > 0


@quick
@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 1 << 62))
def test_a_changed_message_that_was_signed_is_refused(which: int, seed: int):
    data = mutated(SIGNED, which, seed)
    if data in SIGNED:
        return
    with pytest.raises(WireError):
        Message.from_bytes(data, SEAL, limit=LIMIT)


@quick
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes):
    with pytest.raises(WireError):
        Message.from_bytes(data)
