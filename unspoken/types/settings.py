"""What is asked of a model: what a channel needs of its sender, and how an agent writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

from unspoken.errors import SettingsError, check_unicode, require

__all__ = [
    "CACHE",
    "TEXT",
    "Denoising",
    "Feed",
    "Need",
    "NeedKind",
    "Settings",
    "is_above_0",
    "is_count",
]

Remask = Literal["confidence", "margin", "entropy", "random"]
Capture = Literal["last", "clean"]
Feed = Literal["identity", "ridge", "expected"]
NeedKind = Literal["text", "cache", "hidden", "rollout"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a channel asks of its sender: words, a cache, hidden states of one layer, a rollout.

    Layer 0 is the output of the embedding, layer L the last one after the final norm, as in
    transformers' `hidden_states`. `limit` is the number of tokens of text, or of positions of a
    rollout, that suffice. feed and temperature: how a rollout makes its next input, see `Rollout`.
    """

    kind: NeedKind
    layer: int = 0
    limit: int | None = None
    feed: Feed = "identity"
    temperature: float = 1.0

    @property
    def writes(self) -> bool:
        """Whether the sender has to go on in words, chosen or expected."""
        return self.kind == "text" or (self.kind == "rollout" and self.feed == "expected")


TEXT = Need("text")
CACHE = Need("cache")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent writes: at most `max_tokens`, until a `stop` string; temperature 0 is greedy.

    stop: one string or several, of which none is part of what was written. top_p: sampling keeps
    the likeliest words that add up to this share. seed: each item draws from a generator of its
    own, made of the seed, the item and the agent's name, so an answer depends on neither its batch
    nor its turn. For a model alone it is one number for all rows, or one for each. Raises
    `SettingsError`.

    >>> Settings(stop="Paris").stop
    ('Paris',)
    """

    max_tokens: int = 64
    stop: Sequence[str] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        stop = _listed(self.stop)
        object.__setattr__(self, "stop", stop)
        for one in filter(_stops, stop):
            check_unicode("a stop string", one, SettingsError)
        for name, given, fits, allowed in (
            (
                "max_tokens",
                self.max_tokens,
                _whole(self.max_tokens, 1, _MOST),
                f"a whole number from 1 to {_MOST:,}",
            ),
            ("stop", stop, all(map(_stops, stop)), "strings that are not empty"),
            ("temperature", self.temperature, _within(self.temperature, 0), "0 or more"),
            ("top_p", self.top_p, self.top_p != 0 and _within(self.top_p, 0, 1), "above 0, to 1"),
            (
                "seed",
                self.seed,
                _seeds(self.seed),
                "a whole number of 64 bits, or one for each row",
            ),
        ):
            require(fits, name, given, allowed)
        for name, kind in (("max_tokens", int), ("temperature", float), ("top_p", float)):
            object.__setattr__(self, name, kind(getattr(self, name)))  # 1 and 1.0 are the same

    def seeds(self, batch: int) -> tuple[int, ...]:
        """The seed of each row. Raises `SettingsError` if they are as many as other rows."""
        found = self.seed if isinstance(self.seed, tuple) else (self.seed,) * batch
        if len(found) != batch:
            raise SettingsError(
                f"{len(found)} seeds are given for {batch} rows; give one number, or one a row"
            )
        return found


_MOST = 1 << 31


def _whole(given: Any, least: float = -inf, most: float = inf) -> bool:
    return type(given) is not bool and isinstance(given, Integral) and least <= int(given) <= most


def _listed(given: Any) -> tuple[Any, ...]:
    several = hasattr(given, "__iter__") and type(given) is not str
    return tuple(given) if several else (given,)


def is_count(given: Any) -> bool:
    """Whether something is a whole number above 0."""
    return _whole(given, 1)


def is_above_0(given: Any) -> bool:
    """Whether something is a number above 0, and no infinite one."""
    return _within(given, 0) and given > 0


def _stops(given: Any) -> bool:
    return isinstance(given, str) and bool(given)


def _within(given: Any, low: float, high: float = inf) -> bool:
    number = type(given) is not bool and isinstance(given, Real)
    return number and isfinite(given) and low <= float(given) <= high


def _seeds(given: Any) -> bool:
    rows = cast(tuple[Any, ...], given) if isinstance(given, tuple) else (given,)
    return all(_whole(row, -(1 << 63), (1 << 63) - 1) for row in rows)


@dataclass(frozen=True, slots=True)
class Denoising(Settings):
    """How a masked-diffusion model writes: a canvas of `max_tokens` masks, filled step by step.

    steps: forward passes over the whole canvas, at least one a block and at most one a position.
    block: positions that are filled before those to the right of them, None for all at once.
    remask: which predictions stay in a step, the rest being masked again: those of the highest
    probability, of the widest `margin` between the two likeliest words, of the lowest `entropy`, or
    `random` ones (LLaDA, arXiv 2502.09992; Dream, arXiv 2508.15487). guidance: classifier-free, the
    weight of the prompt beyond 1; it takes a second pass in each step. until: the share of the
    steps that is taken; what is masked then is filled at once. threshold: predictions of at least
    this probability stay too, which ends a canvas early (Fast-dLLM, arXiv 2505.22618). capture:
    hidden states of the last step that changed a row, or of one `clean` pass over what it wrote.

    >>> Denoising(max_tokens=16, steps=8).block
    32
    """

    steps: int = 64
    block: int | None = 32
    remask: Remask = "confidence"
    guidance: float = 0.0
    until: float = 1.0
    threshold: float | None = None
    capture: Capture = "last"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for name, given, choices in (
            ("remask", self.remask, get_args(Remask)),
            ("capture", self.capture, get_args(Capture)),
        ):
            require(given in choices, name, given, f"one of {', '.join(choices)}")
        if not (_whole(self.steps, 1) and (self.block is None or _whole(self.block, 1))):
            raise SettingsError(
                f"a canvas takes at least 1 step and blocks of at least 1 position, got "
                f"steps={self.steps}, block={self.block}"
            )
        if not (_within(self.until, 0, 1) and self.until > 0 and _within(self.guidance, 0)):
            raise SettingsError(
                f"until is a share above 0 and at most 1, and guidance is 0 or more, got "
                f"until={self.until}, guidance={self.guidance}"
            )
        fits = self.threshold is None or _within(self.threshold, 0, 1)
        require(fits, "threshold", self.threshold, "from 0 to 1, or None")
