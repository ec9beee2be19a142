"""Signed and encrypted messages, files and mapped memory."""

from __future__ import annotations

import builtins
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unspoken.errors import MissingExtra, SealError, StorageError, WireError
from unspoken.types import CacheSegment, Text, Vectors
from unspoken.wire import Header, Message, Seal

HEADER = Header(channel="c", sender="s", weights="w", tokenizer="t")
ONE, OTHER = bytes(range(32)), bytes(range(1, 33))
SIGNED, HIDDEN = Seal(sign=ONE), Seal(encrypt=OTHER)
BOTH = Seal(sign=ONE, encrypt=OTHER)
SEALS = {"signed": SIGNED, "encrypted": HIDDEN, "both": BOTH}


def message() -> Message:
    kv = tuple((torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)) for _ in range(2))
    return Message(HEADER, CacheSegment.of(kv, torch.ones(2, 3, dtype=torch.bool)))


@pytest.mark.parametrize("name", SEALS)
def test_a_sealed_message_comes_back(name: str, tmp_path: Path):
    seal, sent = SEALS[name], message()
    data = sent.to_bytes(seal)
    assert len(data) == sent.nbytes + seal.overhead
    assert Message.from_bytes(data, seal).to_bytes() == sent.to_bytes()
    sent.save(tmp_path / "m", seal)
    assert Message.load(tmp_path / "m", seal).to_bytes() == sent.to_bytes()


@pytest.mark.parametrize(
    ("written", "read", "says"),
    [
        (None, SIGNED, "not signed, and this end takes signed ones only"),
        (None, HIDDEN, "not encrypted, and this end takes encrypted ones only"),
        (SIGNED, None, "is signed; read it with the keys"),
        (HIDDEN, None, "is encrypted; read it with the keys"),
        (BOTH, None, "is signed; read it with the keys"),
        (BOTH, SIGNED, "is encrypted, and this end has no key for it"),
        (HIDDEN, BOTH, "not signed"),
        (SIGNED, HIDDEN, "not encrypted"),
        (SIGNED, Seal(sign=OTHER), "not that of this key"),
        (HIDDEN, Seal(encrypt=ONE), "not encrypted with this key, or changed"),
    ],
)
def test_what_does_not_match_the_keys_is_refused(written: Seal, read: Seal, says: str):
    with pytest.raises(WireError, match=says):
        Message.from_bytes(message().to_bytes(written), read)


@pytest.mark.parametrize("name", SEALS)
def test_every_changed_byte_is_noticed(name: str):
    data = Message(HEADER, Text(("go",))).to_bytes(SEALS[name])
    for n in range(len(data)):
        changed = bytearray(data)
        changed[n] ^= 1 << (n % 8)
        with pytest.raises(WireError):
            Message.from_bytes(changed, SEALS[name])
    for cut in range(0, len(data), 5):
        with pytest.raises(WireError):
            Message.from_bytes(data[:cut], SEALS[name])
    with pytest.raises(WireError):
        Message.from_bytes(data + b"\0", SEALS[name])


def test_an_encrypted_message_hides_its_words_and_never_repeats():
    sent = Message(HEADER, Text(("the key is in the attic",)))
    one, other = sent.to_bytes(HIDDEN), sent.to_bytes(HIDDEN)
    assert one != other
    assert b"attic" not in one
    assert b"attic" in sent.to_bytes(SIGNED)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "needs a key"),
        ({"sign": b"short"}, "at least 32 bytes, not 5"),
        ({"encrypt": bytes(16)}, "32 bytes, not 16"),
        ({"sign": ONE, "encrypt": ONE}, "different keys"),
        ({"sign": b""}, "at least 32 bytes, not 0"),
        ({"encrypt": b""}, "32 bytes, not 0"),
        ({"sign": "x" * 32}, "bytes, not str"),
        ({"encrypt": bytearray(32)}, "bytes, not bytearray"),
    ],
)
def test_keys_that_are_none(keys: dict[str, Any], says: str):
    with pytest.raises(SealError, match=says):
        Seal(**keys)


def test_keys_are_not_shown():
    assert "sign" not in repr(BOTH)


def test_encryption_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest, **more)  # pyright: ignore

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"unspoken\[seal\]"):
        Seal(encrypt=ONE)
    assert message().to_bytes(SIGNED)


# -- files and memory that nobody copies -----------------------------------------------------------


def address(payload: object) -> int:
    assert isinstance(payload, CacheSegment)
    return payload.kv[0][0].data_ptr()


@pytest.mark.parametrize("seal", [None, SIGNED], ids=["plain", "signed"])
def test_reading_copies_nothing(seal: Seal | None):
    sent = message()
    data = sent.to_bytes(seal)
    for buffer in (data, memoryview(data), bytearray(data), memoryview(bytearray(data))):
        start = np.frombuffer(buffer, np.uint8).ctypes.data
        loaded = Message.from_bytes(buffer, seal)
        assert start < address(loaded.payload) < start + len(data)
        assert loaded.to_bytes() == sent.to_bytes()


def test_shared_memory_is_read_where_it_is():
    data = message().to_bytes()
    shared = SharedMemory(create=True, size=len(data) + 100)
    try:
        shared.buf[: len(data)] = data
        loaded = Message.from_bytes(shared.buf[: len(data)])
        assert isinstance(loaded.payload, CacheSegment)
        keys = loaded.payload.kv[0][0]
        before = float(keys[0, 0, 0, 0])
        shared.buf[:] = bytes(len(shared.buf))
        assert float(keys[0, 0, 0, 0]) == 0 != before
        del loaded, keys
    finally:
        shared.close()
        shared.unlink()


@pytest.mark.parametrize("seal", [None, BOTH], ids=["plain", "sealed"])
def test_a_message_is_written_into_memory_that_is_there(seal: Seal | None):
    sent = message()
    size = sent.nbytes + (seal.overhead if seal else 0)
    room = bytearray(b"x" * (size + 3))
    assert sent.write_into(room, seal) == size
    assert bytes(room[size:]) == b"xxx"
    assert Message.from_bytes(memoryview(room)[:size], seal).to_bytes() == sent.to_bytes()
    with pytest.raises(WireError, match="there is room for"):
        sent.write_into(memoryview(room)[: size - 1], seal)


def test_bytes_that_begin_anywhere_are_read():
    data, sent = message().to_bytes(), message()
    for start in range(1, 9):
        whole = bytearray(bytes(start) + data)
        loaded = Message.from_bytes(memoryview(whole)[start:])
        assert loaded.to_bytes() == data
    assert sent.nbytes == len(data)


def test_a_buffer_with_gaps_is_refused():
    with pytest.raises(WireError, match="contiguous"):
        Message.from_bytes(memoryview(message().to_bytes() * 2)[::2])


def test_a_file_stays_as_it_is_whatever_happens_to_a_tensor(tmp_path: Path):
    path, sent = tmp_path / "m.safetensors", message()
    sent.save(path)
    before = path.read_bytes()
    loaded = Message.load(path)
    assert isinstance(loaded.payload, CacheSegment)
    loaded.payload.kv[0][0].zero_()
    assert path.read_bytes() == before
    assert Message.load(path).to_bytes() == sent.to_bytes() == before


def test_a_saved_message_takes_the_place_of_the_old_one_at_once(tmp_path: Path):
    path = tmp_path / "folder" / "m"
    message().save(path)
    old = Message.load(path)
    before = old.to_bytes()
    new = Message(HEADER, Text(("other",)))
    new.save(path)
    assert Message.load(path).payload == new.payload
    assert old.to_bytes() == before  # mapped from what is no longer there
    assert [file.name for file in path.parent.iterdir()] == ["m"]


def test_a_file_that_is_none(tmp_path: Path):
    path = tmp_path / "m"
    path.write_bytes(b"")
    with pytest.raises(WireError, match="is empty"):
        Message.load(path)
    message().save(path)
    with pytest.raises(WireError, match="allowed are 100"):
        Message.load(path, limit=100)
    with pytest.raises(WireError, match=r"no file .*missing"):
        Message.load(tmp_path / "missing")


def test_a_limit_is_one_of_plain_bytes():
    sent = message()
    data = sent.to_bytes(BOTH)
    assert Message.from_bytes(data, BOTH, limit=sent.nbytes).batch == 2
    with pytest.raises(WireError, match="raise `limit`"):
        Message.from_bytes(data, BOTH, limit=sent.nbytes - 1)


def test_other_numbers_do_not_travel():
    values = torch.zeros(1, 1, 4, dtype=torch.float64)
    with pytest.raises(WireError, match=r"torch\.float64 cannot be sent"):
        Message(HEADER, Vectors(values, torch.ones(1, 1, dtype=torch.bool))).to_bytes()


def test_a_disk_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError):
        message().save(tmp_path / "m")
