"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request, one user and all users together may ask of a server.

    running: answers that are computed at once. waiting: requests that wait, of all users;
    waiting_each: those of one user. body: bytes of a request. messages: how many a chat may have.
    max_tokens: the most that an answer may have. seconds: how long an agent may take for a turn,
    its wait for a place in the batch included. upload: seconds until a request has to be there.
    stall: seconds after which a reader who takes nothing is given up. unread: bytes that may wait
    for a slow reader. quiet: seconds after which a stream shows that it lives. patience: seconds
    that a stream waits for the first look at a request, so that what is refused has a status of
    its own. cache: bytes of what was read, for all users. followers: how many may follow the runs
    of one user, besides those that asked.
    """

    running: int = 32
    waiting: int = 128
    waiting_each: int = 64
    body: int = 4 << 20
    messages: int = 1024
    max_tokens: int = 4096
    seconds: float = 300.0
    upload: float = 30.0
    stall: float = 30.0
    unread: int = 1 << 20
    quiet: float = 10.0
    patience: float = 1.0
    cache: int = 2 << 30
    followers: int = 256
