"""Hooks on modules that threads share: registered once, and told by each thread what to do."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from types import MappingProxyType
from typing import Any

__all__ = ["Before", "before"]

Before = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]] | None]
"""Gets a module's arguments before it runs. Returns others to give it, or None."""

_told = ContextVar[Mapping[Any, tuple[Before, ...]]]("_told", default=MappingProxyType({}))
_registering = Lock()


@contextmanager
def before(told: Sequence[tuple[Any, Before]]) -> Generator[None]:
    """While it is on, each module calls the function beside it first, in this thread only."""
    now = dict(_told.get())
    for module, function in told:
        _register(module)
        now[module] = (*now.get(module, ()), function)
    token = _told.set(now)
    try:
        yield
    finally:
        _told.reset(token)


def _register(module: Any) -> None:
    """Put the hook on a module for good.

    torch calls a hook that comes or goes while another thread is in the module as one that takes no
    keyword arguments, because it keeps the two facts in two places.
    """
    with _registering:
        if _ask not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_ask, with_kwargs=True)


def _ask(module: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
    """The hook. Without `kwargs` it is being registered by another thread."""
    told = () if kwargs is None else _told.get().get(module, ())
    given: tuple[Any, Any] = (args, kwargs)
    for function in told:
        given = function(*given) or given
    return given if told else None
