"""Who may ask: by keys, or whoever is on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from unspoken.errors import SealError, SettingsError
from unspoken.serving.refusals import Refusal

__all__ = ["KEYS", "Guard", "read_keys"]

KEYS = "UNSPOKEN_KEYS"
"""The environment variable that may hold keys, with white space between them."""

_FORWARDED = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
)
"""Headers by which a proxy says that it forwards the request of somebody else."""

_SHORTEST = 16


def read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of a file, one a line, or of the environment variable, () if there are none.

    Empty lines and those that begin with # are left out. Raises `SealError` for a file without
    keys, a key of less than 16 characters, and what is no line of ASCII.
    """
    if file is None:
        words = os.environ.get(KEYS, "").split()
        return _checked(words, KEYS) if KEYS in os.environ else ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise SealError(f"the keys in {file} cannot be read: {error}; give a text file") from error
    return _checked([line for line in lines if line and not line.startswith("#")], str(file))


def _checked(keys: Sequence[str], where: str) -> tuple[str, ...]:
    if not keys:
        raise SealError(f"{where} holds no key; write one a line, or leave it out")
    for n, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not (key.isascii() and key.isprintable()) or " " in key:
            raise SealError(
                f"key {n} of {where} has {len(key)} characters; give at least {_SHORTEST} of "
                "ASCII without a space, as python -c 'import secrets; "
                "print(secrets.token_urlsafe())' does"
            )
    return tuple(dict.fromkeys(keys))


class Guard:
    """Says who asks, or refuses. Without keys only this machine may, and not on behalf of others.

    A proxy on this machine, and a page in a browser on it whose name was bound to this address,
    come from loopback too. They are known by their headers. Raises `SettingsError` for a host that
    others reach, without keys.
    """

    def __init__(self, keys: Sequence[str], host: str) -> None:
        self._owners = {_digest(key): f"key {_digest(key)[:12]}" for key in keys}
        if not keys and not _is_loopback(host):
            raise SettingsError(
                f"the host is {host!r}, which others may reach, and there are no keys; give keys "
                f"in a file (--keys) or in {KEYS}, or listen on 127.0.0.1"
            )

    @property
    def owners(self) -> Sequence[str]:
        """All who may ask. A name says nothing of a key."""
        return list(self._owners.values()) or ["local"]

    def check_place(self, headers: Mapping[str, str]) -> None:
        """Raise `Refusal` for who may not even see what there is to ask. A key is not needed."""
        if not self._owners:
            _check_local(headers)

    def owner(self, headers: Mapping[str, str]) -> str:
        """Who asks. Raises `Refusal`. headers: by their names in small letters."""
        self.check_place(headers)
        if not self._owners:
            return "local"
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self._owners.get(_digest(key.strip())) if kind.lower() == "bearer" else None
        if owner is None:
            raise Refusal(
                401,
                "the key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return owner


def _digest(key: str) -> str:
    """What keys are compared by, so that the time that it takes says nothing of them."""
    return sha256(key.encode(errors="surrogateescape")).hexdigest()


def _check_local(headers: Mapping[str, str]) -> None:
    """Raise `Refusal` for a request that a proxy or a page of somebody else sends."""
    if found := [name for name in _FORWARDED if name in headers]:
        raise Refusal(
            403,
            f"the request was forwarded ({found[0]}), and without keys only this machine is "
            "answered; start the server with keys",
        )
    origin = headers.get("origin")
    hosts = {"Host": f"//{headers.get('host', '')}"} | (
        {} if origin is None else {"Origin": origin}
    )
    for name, address in hosts.items():
        if not _is_loopback(_host_of(address)):
            raise Refusal(
                403,
                f"{name} is {address[:100]!r}, and without keys only localhost is answered; start "
                "the server with keys, or ask http://localhost",
            )


def _host_of(address: str) -> str:
    """The host of an address, '' if there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
