"""Kinds of trained channels by name: our own, and those of other packages.

A package adds one with one line in its pyproject.toml. Nothing changes here:

    [project.entry-points."unspoken.trained_channels"]
    summary = "your_package.summary:TrainedSummary"

The name is the `kind` of a projector in recipes and in folders of trained weights. It names a
`TrainedChannel`, see `unspoken.relay.trained`.
"""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel

from unspoken.plugins import Registry
from unspoken.projectors.base import Projector

__all__ = ["TrainedKind", "trained_kind", "trained_kinds"]

_OWN = {
    "embedding": "unspoken.relay.trained.embedding:TrainedEmbedding",
    "fusion": "unspoken.relay.trained.fusion:TrainedFusion",
    "memory": "unspoken.relay.trained.memory:TrainedMemory",
    "mixing": "unspoken.relay.trained.mixing:TrainedMixing",
    "procrustes": "unspoken.relay.trained.linear:TrainedLinearMap",
    "ridge": "unspoken.relay.trained.linear:TrainedLinearMap",
}
_KINDS = Registry("kind of projector", "unspoken.trained_channels", _OWN)


class TrainedKind(Protocol):
    """What recipes, folders and audits ask of a `TrainedChannel`, which is in a layer above."""

    @property
    def settings(self) -> type[BaseModel]: ...
    @property
    def projector(self) -> type[Projector]: ...
    @property
    def closed_form(self) -> bool: ...
    @property
    def trainable(self) -> bool: ...
    def channel(self, projector: Any, settings: Any) -> Any:
        """The channel that sends through the projector."""
        ...


def trained_kinds() -> list[str]:
    """Every kind of trained channel that is known here."""
    return _KINDS.names()


def trained_kind(kind: str) -> TrainedKind:
    """The trained channel of that kind. Raises `UnknownName` with a did-you-mean."""
    return _KINDS.find(kind)()
