"""What an agent still reads of a conversation that has become longer than its window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from unspoken.errors import PipelineError, require, unknown
from unspoken.sessions.past import Exchange, Past

__all__ = ["KEEPS", "Keep", "Recent", "Size", "keep_of"]

Size = Callable[[Sequence[Exchange]], int]
"""The positions of a prompt in which these exchanges come before the new question."""


class Keep(Protocol):
    """Chooses what an agent reads of its past once the whole has no room."""

    def __call__(self, past: Past, size: Size, room: int) -> Sequence[Exchange]:
        """The exchanges that are read from now on, those of `past.stays` or others in their place.

        It is called when `past.stays` has no room. size: asked for what would be read instead.
        room: the most positions that a prompt may have.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest exchanges stay.

    The oldest are dropped in blocks, until the prompt takes up `share` of the room. Then several
    runs follow whose prompts share a beginning, and its cache is used again. Dropping one exchange
    in each run would change the beginning each time.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        fits = 0 < self.share <= 1
        require(fits, "share", self.share, "a share of the room, above 0, to 1", PipelineError)

    def __call__(self, past: Past, size: Size, room: int) -> Sequence[Exchange]:
        stays = past.stays
        while stays and size(stays) > self.share * room:
            stays = stays[1:]
        return stays


def keep_of(given: Any) -> Keep | None:
    """What is kept, by name or as it is given. Raises `UnknownName` and `PipelineError`."""
    if isinstance(given, str):
        if given not in KEEPS:
            raise unknown("way to keep a conversation", given, KEEPS)
        return KEEPS[given]
    fits = given is None or callable(given)
    require(fits, "keep", given, "'recent', or a function such as Recent()", PipelineError)
    return cast(Keep | None, given)


KEEPS: Mapping[str, Keep] = {"recent": Recent()}
"""By name what a session does when a window is full."""
