"""The caches that an engine may load, by name: whose they are, and how many bytes they take."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from threading import RLock
from typing import NamedTuple
from weakref import WeakValueDictionary, finalize

import torch

from unspoken.errors import OutOfRoom
from unspoken.types import KV

__all__ = ["STORES", "Held", "Load", "Store", "size_of"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Held:
    """A cache of one row, L x (1, H, S, D) on the CPU, and the name by which an engine loads it.

    name: SHA-256 of its numbers, of its owner and of the model, in hex. So nobody names a cache
    that he does not have, equal caches of one owner are kept once, and those of two owners share
    nothing. It is freed with its last context or message.
    """

    name: str
    owner: str
    kv: KV

    @property
    def length(self) -> int:
        return self.kv[0][0].shape[2]


def size_of(kv: KV) -> int:
    """The bytes of a cache."""
    return sum(part.nbytes for pair in kv for part in pair)


class Load(NamedTuple):
    """What a request asks for: the first `length` positions of a cache of an owner."""

    name: str
    owner: str
    length: int


class Store:
    """Caches within a budget of bytes, for the weights of one model.

    >>> store = Store(budget=1 << 10, model="w")
    >>> ones = torch.ones(1, 1, 4, 8)
    >>> held = store.put(((ones, ones),), owner="a")
    >>> held is store.put(((ones, ones),), owner="a"), store.used
    (True, 256)
    >>> store.find(held.name, owner="b") is None
    True
    """

    def __init__(self, budget: int, model: str) -> None:
        self.budget, self.model = budget, model
        self._lock, self._used = RLock(), 0
        self._held = WeakValueDictionary[str, Held]()
        self._freed = deque[int]()  # by caches that were collected, in whatever thread
        self.saved: dict[str, KV] = {}
        """What the connector has read out of the engine, by the id of the request."""

    @property
    def used(self) -> int:
        """Bytes that are taken or reserved."""
        with self._lock:
            while self._freed:
                self._used -= self._freed.popleft()
            return self._used

    def reserve(self, nbytes: int) -> None:
        """Take bytes of the budget. Raises `OutOfRoom` if there are not so many left."""
        with self._lock:
            if self.used + nbytes > self.budget:
                raise OutOfRoom(
                    f"agents hold caches of {self.used:,} bytes, and {nbytes:,} more do not fit "
                    f"into the {self.budget:,} that may be kept beside the engine. Raise `budget`, "
                    "ask fewer at a time, or send words"
                )
            self._used += nbytes

    def release(self, nbytes: int) -> None:
        """Give back bytes that were reserved."""
        self._freed.append(nbytes)

    def put(self, kv: KV, owner: str) -> Held:
        """Keep a cache. Raises `OutOfRoom`."""
        self.reserve(size_of(kv))
        return self.keep(kv, owner)

    def keep(self, kv: KV, owner: str) -> Held:
        """Keep a cache whose bytes are reserved."""
        name, nbytes = self._name(kv, owner), size_of(kv)
        with self._lock:
            known = self._held.get(name)
            if known is not None:
                self.release(nbytes)
                return known
            held = Held(name, owner, kv)
            self._held[name] = held
            finalize(held, self.release, nbytes)
            return held

    def find(self, name: str, owner: str) -> Held | None:
        """The cache of that name, if it is there and this owner's."""
        held = self._held.get(name)
        return held if held is not None and held.owner == owner else None

    def _name(self, kv: KV, owner: str) -> str:
        found = hashlib.sha256(repr((self.model, owner)).encode())
        for pair in kv:
            for part in pair:
                found.update(f"{tuple(part.shape)}{part.dtype}".encode())
                found.update(part.contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()


STORES: dict[str, Store] = {}
"""The store of each engine of this process, by the id that its connectors are told."""
