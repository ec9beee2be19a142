"""What comes of reading and writing: contexts, words, rollouts, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from unspoken.types.cache import KV, Cache, KVCache, counted
from unspoken.types.prompt import CacheSegment, Spelling, Vectors

__all__ = [
    "Ahead",
    "Context",
    "Finish",
    "OnText",
    "Read",
    "Rollout",
    "Served",
    "Usage",
    "Words",
]

Finish = Literal["stop", "length", "cancelled"]
"""How writing ended: at an end token or stop string, at `max_tokens`, or because it was told to."""

OnText = Callable[[int, str], None]
"""Gets the number of a row and its new words, as they are written."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Context:
    """What a model has read. Generation continues from here, for every channel.

    cache: S-1 slots, everything but the last token. mask: (B, S). last: (B,) token ids. spelling:
    what was read, S slots. positions: (B, S), of every slot, the last token's included. plain: the
    keys and values before messages were fused into them. seen: (L, B, S), which slots each layer
    may attend to, where caches left layers out; None for all that is real.
    """

    cache: Cache
    mask: Tensor
    last: Tensor
    spelling: Spelling
    positions: Tensor
    plain: KV | None = None
    seen: Tensor | None = None

    @classmethod
    def of(cls, kv: KV, mask: Tensor, last: Tensor, spelling: Spelling) -> Context:
        """Keys and values, L x (B, H, S-1, D), every real slot of which is one position further."""
        return cls(KVCache(kv), mask, last, spelling, counted(mask))

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @property
    def kv(self) -> KV:
        """The keys and values. Raises `IncompatibleModels` if the cache holds no tensors."""
        return self.cache.kv()

    @property
    def length(self) -> Tensor:
        """(B,): the position that comes next."""
        return self.positions[:, -1] + 1


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """What comes of a context's last token: kv L x (B, H, S, D), itself included; logits (B, V)."""

    kv: KV
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of a turn: tokens read and written, forward passes, wire bytes, seconds.

    For a row of a batch, `passes` counts the passes it took part in and `seconds` its equal share.
    wait: seconds of the whole batch until its first token, 0 if nothing was written. reused: tokens
    whose cache a pool had.
    """

    read: int = 0
    written: int = 0
    passes: int = 0
    wire: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    reused: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.read + other.read,
            self.written + other.written,
            self.passes + other.passes,
            self.wire + other.wire,
            self.seconds + other.seconds,
            self.wait + other.wait,
            self.reused + other.reused,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """How a pool served one row: its tokens, by where their cache came from.

    exact: kept from the same beginning. shifted: kept from elsewhere and moved; anchored: moved,
    and corrected by anchors. recomputed: read although a cache was kept; dense: read because
    none was. width: bytes of a token's cache. reason: why nothing was reused, if so.
    """

    exact: int = 0
    shifted: int = 0
    anchored: int = 0
    recomputed: int = 0
    dense: int = 0
    width: int = 0
    reason: str = ""

    @property
    def reused(self) -> int:
        return self.exact + self.shifted + self.anchored

    @property
    def bytes(self) -> int:
        """Bytes of cache that were not computed again."""
        return self.reused * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Result of reading a prompt: the context, and what else was needed.

    tokens: tokens read in each row; passes: forward passes. hidden: layer -> (B, S', W) states of
    the positions after the shared opening, `<bos>` excluded. cached: the cache of all S positions.
    found: the context, None when only hidden states of lower layers were needed. served: where a
    pool took each row from; () without a pool.
    """

    tokens: tuple[int, ...]
    passes: int
    found: Context | None = None
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])
    cached: CacheSegment | None = None
    served: tuple[Served, ...] = ()

    @property
    def context(self) -> Context:
        assert self.found is not None, "a context is there when `needs` names text or a cache"
        return self.found


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """What a model wrote: B strings, the tokens spent on each, and the forward passes.

    ids: the tokens of each row. cache: all slots that were read and written but for the last
    token's, None where a model does not give it. wait: seconds until the first token. hidden: layer
    -> (B, S, W), the states of what was written, where `Spec.states` says that a model has those.
    reasoning: the thoughts that a model wrote before the words of each row, None for none. finish:
    how each row ended, () if that is not known.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    passes: int
    ids: tuple[tuple[int, ...], ...] = ()
    cache: Cache | None = None
    wait: float = 0.0
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])
    reasoning: tuple[str | None, ...] = ()
    finish: tuple[Finish, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """How a model went on from what it had read, without choosing a word.

    Its last hidden state, mapped to an input embedding, is its next input. The map is `identity`
    or `ridge`, the ridge regression from output to input embeddings, both with the mean norm of an
    input embedding; or `expected`, the mean input embedding under its next-token distribution.

    states: (B, m, W), the last hidden states, after the final norm. vectors: (B, m, W), the inputs
    made of them. cached: the cache of all S + m positions; None for `expected`, whose vectors are
    what is passed on. passes: forward passes.
    """

    states: Vectors
    vectors: Vectors
    cached: CacheSegment | None
    passes: int
