"""What some models can do besides, and how to ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from unspoken.errors import IncompatibleModels
from unspoken.protocols.model import Model
from unspoken.protocols.wrapper import unwrapped
from unspoken.types import (
    KV,
    Ahead,
    CacheSegment,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Rollout,
    Settings,
    Words,
)

if TYPE_CHECKING:
    from unspoken.layout import Part

__all__ = [
    "Assesses",
    "Changeable",
    "Fillable",
    "Foresees",
    "Movable",
    "Owned",
    "RollsOut",
    "Tabled",
    "WritesTogether",
    "assesses",
    "changeable",
    "fillable",
    "foresees",
    "movable",
    "owned_by",
    "rolls_out",
    "tabled",
    "writes_together",
]


class Movable(Protocol):
    """Its cache can be moved to other positions, by rotation of the keys."""

    @property
    def frequencies(self) -> Sequence[Tensor]:
        """L tensors (R/2,) of rotary frequencies. Raises `IncompatibleModels`."""
        ...

    def shift(self, kv: KV, by: int | Tensor) -> KV:
        """Move a cache by `by` positions, one number or one for each row (B,)."""
        ...


class RollsOut(Protocol):
    """It goes on from a context in vectors, without choosing words."""

    def roll_out(self, context: Context, need: Need, settings: Settings = Settings()) -> Rollout:
        """Go on for `need.limit` positions, see `Rollout`."""
        ...


class WritesTogether(Protocol):
    """It writes after several contexts in one batch."""

    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
    ) -> list[Words]:
        """What `write` gives for each context by its settings, with an `on_text` for each."""
        ...


class Assesses(Model, Protocol):
    """It compares an answer with what it would write itself."""

    def assess(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What `score` gives (B,), and whether greedy decoding would write the same (B,)."""
        ...


class Fillable(Movable, Assesses, Protocol):
    """Its cache is open: prompts are read in parts, slots are filled, logits are asked for."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def attention(self) -> str:
        """How it computes attention, by transformers' name: sdpa, eager, ..."""
        ...

    @property
    def border(self) -> int | None:
        """The length beyond which all keys turn otherwise. None if they turn by position alone."""
        ...

    @property
    def fills(self) -> bool:
        """Whether `fill` gives what a dense read gives: proved on this model, once."""
        ...

    def lay_out(self, prompt: Prompt) -> list[Part]:
        """The prompt as tokens, vectors and caches, checked as `read` checks it."""
        ...

    def read_parts(self, parts: Sequence[Part], batch: int, *, needs: frozenset[Need]) -> Read:
        """Read what `lay_out` made of a prompt of B rows."""
        ...

    @property
    def narrows(self) -> bool:
        """Whether layers can be kept from seeing a cache: proved on this model, once."""
        ...

    def extend(
        self, kv: KV, ids: Tensor, mask: Tensor, at: Tensor | None = None, *, layers: int
    ) -> KV:
        """Read token ids (B, N) after a cache of S slots: the cache of all S + N."""
        ...

    def fill(
        self, kv: KV, ids: Tensor, slots: Tensor, mask: Tensor, *, attended: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Read token ids (B, N) into the slots (B, N) of a cache, in place."""
        ...

    def proceed(
        self,
        context: Context,
        ahead: Ahead,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Write as `write` does, where the context's last token has been read already."""
        ...

    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
        aheads: Sequence[Ahead] = (),
    ) -> list[Words]:
        """Write after several contexts at once, of which the last tokens may have been read."""
        ...

    def predict(self, context: Context) -> Tensor:
        """Logits (B, V) of the next token in each row."""
        ...

    def logits(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, N, V) of each answer's tokens, and these (B, N), padded with -100."""
        ...

    def regard(self, before: str, after: str) -> Tensor:
        """(L,): the share of each layer's attention that words pay to the words before them."""
        ...


class Changeable(Model, Protocol):
    """It goes on from keys and values that were changed after it had read them."""

    @property
    def border(self) -> int | None:
        """As in `Fillable`."""
        ...


class Owned(Protocol):
    """It keeps what it has read for whoever reads the same, owner by owner."""

    def owned_by(self, owner: str) -> Model:
        """The same model for an owner, who shares nothing with others."""
        ...


class Foresees(Protocol):
    """It tells how long what it reads will be."""

    def foresee(self, prompt: Prompt, needs: frozenset[Need], more: int = 0) -> CacheSegment:
        """The cache that `read` would give, without heads. more: positions written after it."""
        ...


class Tabled(Model, Protocol):
    """Its tokenizer and its tables of embeddings can be read, as training needs."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        ...

    @property
    def table(self) -> Tensor:
        """(V, W) float32: the input embedding of every token."""
        ...

    @property
    def head(self) -> Tensor:
        """(V, W): the output embedding of every token."""
        ...

    @property
    def logit_cap(self) -> float | None:
        """The bound that the model puts on its logits by a tanh, or None."""
        ...

    def digest(self) -> str:
        """SHA-256 over every byte of every parameter."""
        ...


def _asked(model: Model, method: str, lack: str) -> Any:
    """The model inside all wrappers, if its class has a method."""
    found = unwrapped(model)
    if not hasattr(type(found), method):  # of the class: a property may prove something first
        raise IncompatibleModels(lack)
    return found


def movable(model: Model, what: str) -> Movable:
    """The model as one whose cache `what` moves, proved. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what}, and {name!r} has no cache to move; use a causal model, or the channel 'text'"
    found: Movable = _asked(model, "shift", lack)
    _ = found.frequencies  # raises if the proof on the model fails
    return found


def rolls_out(model: Model, what: str) -> RollsOut:
    """The model as one that goes on in vectors, as `what` does. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what}, and {name!r} writes only words; use a causal model, or the channel 'text'"
    return _asked(model, "roll_out", lack)


def assesses(model: Model, what: str) -> Assesses:
    """The model as one that assesses answers, as `what` needs. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what} by a causal model, and {name!r} is none; use one in its place"
    return _asked(model, "assess", lack)


def fillable(model: Model, what: str) -> Fillable:
    """The model as one whose cache is open, which `what` needs. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what} a cache, and {name!r} keeps none here; use a causal model in its place"
    if "cache" not in model.spec.gives:
        raise IncompatibleModels(lack)
    closed = (
        f"{what} a cache whose slots can be filled, and an engine keeps that of {name!r} in blocks "
        "of its own, which it shares itself; use a Backbone in its place (engine: transformers)"
    )
    return _asked(model, "fill", closed)


def changeable(model: Model, what: str) -> Changeable:
    """The model as one whose cache `what` changes. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what} a cache, and {name!r} keeps none here; use a causal model in its place"
    if "cache" not in model.spec.gives:
        raise IncompatibleModels(lack)
    return _asked(model, "border", lack)


def writes_together(model: Model) -> WritesTogether | None:
    """The model as one that writes after several contexts at once, None if it does not."""
    able: Any = model
    return able if hasattr(type(model), "write_together") and model.spec.batches else None


def owned_by(model: Model, owner: str) -> Model:
    """The model for an owner, or the model itself if it keeps nothing of what it reads."""
    inner = unwrapped(model)
    able: Any = inner
    return able.owned_by(owner) if hasattr(type(inner), "owned_by") else model


def foresees(model: Model) -> Foresees | None:
    """The model as one that tells how long what it reads will be, None if it does not."""
    inner = unwrapped(model)
    able: Any = inner
    return able if hasattr(type(inner), "foresee") else None


def tabled(model: Model, what: str) -> Tabled:
    """The model as one with tables, which `what` needs. Raises `IncompatibleModels`."""
    name = model.spec.name
    lack = f"{what} tables of embeddings, and {name!r} has none here; load its weights"
    return _asked(model, "table", lack)
