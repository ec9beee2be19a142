"""What is known of a model before any forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unspoken.types.prompt import SegmentKind
from unspoken.types.settings import NeedKind

__all__ = ["EngineName", "Spec"]

EngineName = Literal["transformers", "vllm"]
"""What runs a model: transformers in this process, or an engine of vLLM."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What channels may know of a model before any forward pass.

    weights is the same in every precision, see `LanguageModel.fingerprint`; dtype names the
    precision. kinds: for each layer whether it sees everything or a window. gives: what it can
    compute as a sender. takes: what its prompt may hold. states: whether its hidden states are
    those of what it has read, or, as with a diffusion model, of what it writes. chats: whether it
    has a chat template. even: whether all layers have equally many key heads, with keys as wide as
    values. batches: whether rows of unlike length can be read together. former: what `weights` was
    in version 0.1, of the parameters alone.
    """

    name: str
    width: int
    layers: int
    kv_heads: int
    head_dim: int
    weights: str
    tokenizer: str
    window: int | None = None
    positions: int | None = None
    dtype: str = ""
    kinds: tuple[Literal["full", "sliding"], ...] = ()
    gives: tuple[NeedKind, ...] = ("text", "cache", "hidden", "rollout")
    takes: tuple[SegmentKind, ...] = ("text", "vectors", "cache")
    states: Literal["read", "written"] = "read"
    chats: bool = False
    even: bool = True
    batches: bool = True
    former: str = ""

    def is_known_as(self, weights: str) -> bool:
        """Whether something was made for this model, by its identity of today or of version 0.1."""
        return bool(weights) and weights in (self.weights, self.former)
