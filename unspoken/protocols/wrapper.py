"""Models around models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from unspoken.protocols.model import Model
from unspoken.types import (
    TEXT,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Settings,
    Spec,
    Words,
)

__all__ = ["SameWords", "Wrapper", "device_of", "unwrapped"]

M = TypeVar("M", bound=Model)


class SameWords(Generic[M]):
    """A model with the words, token ids and embeddings of the model inside."""

    def __init__(self, inner: M) -> None:
        self.inner = inner

    def tokens(self, words: str) -> list[int]:
        return self.inner.tokens(words)

    def encode(
        self, words: str, frames: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[int]]:
        return self.inner.encode(words, frames)

    def chat(
        self,
        system: str,
        user: str,
        *,
        past: Sequence[tuple[str, str]] = (),
        now: datetime | None = None,
        **options: Any,
    ) -> str:
        return self.inner.chat(system, user, past=past, now=now, **options)

    def shorten(self, words: str, limit: int) -> str:
        return self.inner.shorten(words, limit)

    def embed(self, ids: Tensor) -> Tensor:
        return self.inner.embed(ids)


class Wrapper(SameWords[Model]):
    """A model that reads or writes in another way. All else comes from the model inside.

    `movable` and the similar functions also return the model inside.
    """

    @property
    def spec(self) -> Spec:
        return self.inner.spec

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        return self.inner.read(prompt, needs=needs)

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        return self.inner.write(context, settings, on_text)

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        return self.inner.score(context, answers)


def unwrapped(model: Model) -> Model:
    """The model inside all wrappers."""
    while isinstance(model, Wrapper):
        model = model.inner
    return model


def device_of(model: Model) -> torch.device:
    """Where its tensors are, or the CPU for a model that has none in this process."""
    return getattr(unwrapped(model), "device", torch.device("cpu"))
