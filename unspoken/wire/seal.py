"""Who may read a message, and whether it is from the sender: signatures and encryption."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unspoken.errors import MissingExtra, SealError, WireError
from unspoken.wire.codec import Buffer

__all__ = ["Seal"]

_SIGNED, _HIDDEN = b"unspoken signed\0", b"unspoken hidden\0"
_MAKE = "make one with secrets.token_bytes(32)"
_LONGEST = 1 << 16
"""Bytes of the longest key that is read."""
_TAG, _NONCE = 32, 16  # of the nonce 12 bytes are used: what follows stays aligned


@dataclass(frozen=True, slots=True)
class Seal:
    """Keys that both ends hold: what `to_bytes` does with them, `from_bytes` requires.

    sign: at least 32 bytes, for HMAC-SHA256 (RFC 2104) over header and payload. encrypt: 32 bytes,
    for AES-256-GCM, whose tag detects changes too. A key serves 2**32 messages. With both, the
    signature covers what was encrypted. A message that was recorded can be sent again: a seal does
    not say when a message was made. Raises `MissingExtra` without the extra `seal`, if it encrypts.

    >>> seal = Seal(sign=bytes(range(32)))
    >>> bytes(seal.open(memoryview(b"".join(seal.close([b"hello"])))))
    b'hello'
    """

    sign: bytes | None = field(default=None, repr=False)
    encrypt: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.sign is None and self.encrypt is None:
            raise SealError("a seal needs a key: sign, encrypt or both")
        for name, key in (("sign", self.sign), ("encrypt", self.encrypt)):
            if not isinstance(key, bytes | None):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise SealError(f"a key to {name} with is bytes, not {type(key).__name__}; {_MAKE}")
        if self.sign is not None and len(self.sign) < 32:
            raise SealError(
                f"a key to sign with has at least 32 bytes, not {len(self.sign)}; {_MAKE}"
            )
        if self.encrypt is not None and len(self.encrypt) != 32:
            raise SealError(f"a key to encrypt with has 32 bytes, not {len(self.encrypt)}; {_MAKE}")
        if self.sign == self.encrypt:
            raise SealError("sign and encrypt with different keys")
        if self.encrypt is not None:
            _cipher(self.encrypt)

    @classmethod
    def from_files(cls, sign: Path | None, encrypt: Path | None) -> Seal | None:
        """A seal of keys in files, or None without any file. Raises `SealError`, naming the file.

        An empty file is refused: without a key nothing would be checked.
        """
        keys = {"sign": sign, "encrypt": encrypt}
        found = {name: _key(path) for name, path in keys.items() if path is not None}
        try:
            return cls(**found) if found else None
        except SealError as error:
            raise SealError(
                f"{' and '.join(str(keys[name]) for name in found)}: {error}"
            ) from error

    def hidden(self, name: str) -> str:
        """32 hex digits that only a holder of the key can tell to be those of a name."""
        key = self.encrypt or self.sign
        assert key is not None
        return hmac.digest(key, b"unspoken name\0" + name.encode(), "sha256").hex()[:32]

    @property
    def overhead(self) -> int:
        """Bytes that a seal adds to a message."""
        signed = len(_SIGNED) + _TAG if self.sign is not None else 0
        hidden = len(_HIDDEN) + _NONCE + 16 if self.encrypt is not None else 0
        return signed + hidden

    def close(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """The pieces of a message, sealed."""
        if self.encrypt is not None:
            nonce = os.urandom(12)
            hidden = _cipher(self.encrypt).encrypt(nonce, b"".join(pieces), _HIDDEN)
            pieces = [_HIDDEN, nonce.ljust(_NONCE, b"\0"), hidden]
        if self.sign is not None:
            pieces = [_SIGNED, self._tag(self.sign, pieces), *pieces]
        return list(pieces)

    def open(self, data: memoryview) -> memoryview:
        """What was sealed. Raises `WireError` if it is not, or not by these keys."""
        if self.sign is not None:
            data = self._proved(self.sign, data)
        if self.encrypt is not None:
            data = self._shown(self.encrypt, data)
        if (state := sealed(data)) is not None:
            raise WireError(f"the message is {state}, and this end has no key for it. Give a Seal")
        return data

    def _proved(self, key: bytes, data: memoryview) -> memoryview:
        start = len(_SIGNED) + _TAG
        if bytes(data[: len(_SIGNED)]) != _SIGNED or len(data) < start:
            raise WireError("the message is not signed, and this end takes signed ones only")
        given, data = data[len(_SIGNED) : start], data[start:]
        if not hmac.compare_digest(bytes(given), self._tag(key, [data])):
            raise WireError("the signature of the message is not that of this key")
        return data

    def _shown(self, key: bytes, data: memoryview) -> memoryview:
        start = len(_HIDDEN) + _NONCE
        nonce = bytes(data[len(_HIDDEN) : start])
        if bytes(data[: len(_HIDDEN)]) != _HIDDEN or not nonce.endswith(bytes(_NONCE - 12)):
            raise WireError("the message is not encrypted, and this end takes encrypted ones only")
        try:
            return memoryview(_cipher(key).decrypt(nonce[:12], data[start:], _HIDDEN))
        except _failures() as error:
            raise WireError("the message was not encrypted with this key, or changed") from error

    @staticmethod
    def _tag(key: bytes, pieces: Sequence[Buffer]) -> bytes:
        digest = hmac.new(key, _SIGNED, hashlib.sha256)
        for piece in pieces:
            digest.update(piece)
        return digest.digest()


def _key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            key = file.read(_LONGEST + 1)
    except OSError as error:
        raise SealError(
            f"cannot read a key from {path}: {error.strerror}; give a file with a key"
        ) from error
    if len(key) > _LONGEST:
        raise SealError(f"{path} is no key: it has more than {_LONGEST:,} bytes; {_MAKE}")
    return key


def sealed(data: memoryview) -> str | None:
    """'signed' or 'encrypted' bytes, or None for neither."""
    start = bytes(data[: len(_SIGNED)])
    return {_SIGNED: "signed", _HIDDEN: "encrypted"}.get(start)


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra(
            "encryption needs cryptography; install it with: pip install 'unspoken[seal]'"
        ) from error
    return AESGCM(key)


def _failures() -> tuple[type[Exception], ...]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag, ValueError, OverflowError
