"""What is found out about a model, once and by one thread."""

from __future__ import annotations

from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

__all__ = ["Locked", "once"]


class Locked:
    """Something with a lock, which a copy does not share."""

    def __init__(self) -> None:
        self.lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=RLock())


if TYPE_CHECKING:
    once = cached_property
else:

    class once(cached_property):  # noqa: N801
        """A `cached_property` of something `Locked`: other threads wait until it is known."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            with instance.lock:
                return super().__get__(instance, owner)
