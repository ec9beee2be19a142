"""Parts by name: our own, and those that other packages register as entry points.

A name refers to `module:attribute`, and the module is imported when its part is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from unspoken.errors import MissingExtra, unknown

__all__ = ["Registry"]


@dataclass(frozen=True)
class Registry:
    """Parts of one sort, by name.

    what: what such a part is called in errors. group: the group of entry points by which another
    package adds one. own: our parts, name to `module:attribute`, which no package can replace.

    >>> numbers = Registry("number", "unspoken.doctest", {"pi": "math:pi"})
    >>> round(numbers.find("pi"), 2)
    3.14
    >>> numbers.find("pie")
    Traceback (most recent call last):
        ...
    unspoken.errors.UnknownName: unknown number 'pie'; did you mean 'pi'? Known: pi.
    """

    what: str
    group: str
    own: Mapping[str, str]

    def names(self) -> list[str]:
        """Every name that can be found here."""
        return sorted(self._known())

    def find(self, name: str) -> Any:
        """The part of that name.

        Raises `UnknownName` with a did-you-mean, `MissingExtra` if its package cannot be imported.
        """
        known = self._known()
        if name not in known:
            raise unknown(self.what, str(name), known)
        module, _, attribute = known[name].partition(":")
        try:
            return getattr(import_module(module), attribute)
        except MissingExtra:
            raise
        except (ImportError, AttributeError) as error:
            raise MissingExtra(
                f"the {self.what} {name!r} cannot be imported from {known[name]}: {error}; install "
                "what it needs, or uninstall its package"
            ) from error

    def _known(self) -> dict[str, str]:
        return {**_foreign(self.group, tuple(sys.path)), **self.own}


@cache
def _foreign(group: str, path: tuple[str, ...]) -> Mapping[str, str]:
    """What the packages on this `sys.path` register: each is opened, so once for a path."""
    return {point.name: point.value for point in entry_points(group=group)}
