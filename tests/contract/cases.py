"""Every channel that the contracts are checked for.

A new channel joins by one line in `CASES`, a new trained channel by one line in `TRAINED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unspoken.backbone import Backbone
from unspoken.channels import (
    Channel,
    Constant,
    Embedding,
    Fusion,
    Handoff,
    LatentRollout,
    ProjectedMemory,
    SelectiveLayers,
    SoftWords,
    TextChannel,
    make_channel,
)
from unspoken.channels.memory import DecodedBy
from unspoken.projectors import (
    EmbeddingProjector,
    FreeVectors,
    Fuser,
    LinearMap,
    MemoryProjector,
    VocabularyMixing,
)
from unspoken.projectors.fuser import layer_map

__all__ = ["CASES", "TRAINED", "Case"]


@dataclass(frozen=True)
class Case:
    """A channel between two kinds of tiny models ("kind" or "kind:width").

    refuses: what does not fit, as "side what": side is sender or receiver, what is width, weights
    or tokenizer. local: a position of its message depends only on what stands before it.
    """

    name: str
    make: Callable[[Backbone, Backbone], Channel]
    sender: str = "qwen:48"
    receiver: str = "llama"
    refuses: str = ""
    local: bool = False


_BOTH = "sender width, receiver width, sender weights, receiver weights"
_ALL = f"{_BOTH}, sender tokenizer, receiver tokenizer"


def _handoff(sender: Backbone, receiver: Backbone) -> Channel:
    return Handoff()


def _without_lead(sender: Backbone, receiver: Backbone) -> Channel:
    return Handoff(opening=False)


def _embedding(
    sender: Backbone, receiver: Backbone, layers: Sequence[int] = (1, 3), **options: int
) -> Channel:
    projector = EmbeddingProjector(
        source_width=sender.spec.width,
        target_width=receiver.spec.width,
        layers=list(layers),
        hidden=40,
        scale=0.3,
        source_weights=sender.fingerprint,
        target_weights=receiver.fingerprint,
        **options,
    )
    return Embedding(projector)


def _constant(sender: Backbone, receiver: Backbone) -> Channel:
    spec = receiver.spec
    return Constant(FreeVectors(count=3, width=spec.width, scale=0.3, target_weights=spec.weights))


def _fusion(
    sender: Backbone, receiver: Backbone, layers: Sequence[tuple[int, int]] | None = None
) -> Channel:
    source, target = sender.spec, receiver.spec
    fuser = Fuser(
        source_heads=source.kv_heads,
        source_dim=source.head_dim,
        target_heads=target.kv_heads,
        target_dim=target.head_dim,
        layers=layers or layer_map(target.layers, source.layers, "last_aligned"),
        hidden=24,
        inner=24,
        source_weights=source.weights,
        target_weights=target.weights,
        source_tokenizer=source.tokenizer,
        target_tokenizer=target.tokenizer,
    )
    fuser.gate.data.fill_(1)
    return Fusion(fuser.eval())


def _memory(
    sender: Backbone,
    receiver: Backbone,
    prompt: int = 0,
    *,
    words: bool = False,
    decoded_by: DecodedBy = "receiver",
) -> Channel:
    source, target = sender.spec, receiver.spec
    turns = torch.stack(sender.frequencies), torch.stack(receiver.frequencies)
    projector = MemoryProjector(
        source=(source.layers, source.kv_heads, source.head_dim),
        target=(target.layers, target.kv_heads, target.head_dim),
        rotary=(turns[0].shape[1], turns[1].shape[1]),
        target_width=target.width,
        width=40,
        hidden=24,
        prompt=prompt,
        vocabulary=len(receiver.table) if words else 0,
        source_weights=source.weights,
        target_weights=target.weights,
        source_tokenizer=source.tokenizer,
        target_tokenizer=target.tokenizer,
    )
    if words:
        projector.learn_words(receiver.table)
    projector.source_turns.copy_(turns[0])
    projector.target_turns.copy_(turns[1])
    projector.tokenizer = receiver.tokenizer.backend_tokenizer
    return ProjectedMemory(projector, decoded_by=decoded_by)


def _decoded(sender: Backbone, receiver: Backbone) -> Channel:
    return _memory(sender, receiver, 2, words=True, decoded_by="sender")


def _identities(sender: Backbone, receiver: Backbone) -> dict[str, Any]:
    source, target = sender.spec, receiver.spec
    return {
        "source_width": source.width,
        "target_width": target.width,
        "source_weights": source.weights,
        "target_weights": target.weights,
        "source_tokenizer": source.tokenizer,
        "target_tokenizer": target.tokenizer,
    }


def _linear(sender: Backbone, receiver: Backbone, **options: Any) -> Channel:
    made = LinearMap(layers=[2], **options, **_identities(sender, receiver))
    made.fit(torch.randn(60, 1, made.source_width), torch.randn(60, made.target_width))
    return Embedding(made)


def _mixing(sender: Backbone, receiver: Backbone) -> Channel:
    made = VocabularyMixing(words=200, **_identities(sender, receiver))
    made.start(torch.randn(200, made.source_width), torch.randn(200, made.target_width))
    return SoftWords(limit=5, projector=made)


CASES = (
    Case("text", lambda s, r: make_channel("text", limit=9)),
    Case("text-verbatim", lambda s, r: TextChannel(verbatim=True), receiver="gemma"),
    Case("handoff", _handoff, "llama", "llama", _ALL, local=True),
    Case("handoff-gemma", _handoff, "gemma", "gemma", _ALL, local=True),
    Case("handoff-gpt2", _handoff, "gpt2", "gpt2", _ALL, local=True),
    Case("handoff-without-lead", _without_lead, "llama", "llama", _ALL, local=True),
    Case("handoff-without-lead-gemma", _without_lead, "gemma", "gemma", _ALL, local=True),
    Case("rollout", lambda s, r: LatentRollout(steps=3), "llama", "llama", _ALL, local=True),
    Case("rollout-gemma", lambda s, r: LatentRollout(steps=3), "gemma", "gemma", _ALL, local=True),
    Case("rollout-gpt2", lambda s, r: LatentRollout(steps=3), "gpt2", "gpt2", _ALL, local=True),
    Case("layers", lambda s, r: SelectiveLayers(), "llama", "llama", _ALL, local=True),
    Case("layers-gemma", lambda s, r: SelectiveLayers(), "gemma", "gemma", _ALL, local=True),
    Case("layers-one", lambda s, r: SelectiveLayers(ratio=0.1), "qwen", "qwen", _ALL, local=True),
    Case("embedding", _embedding, "qwen:48", "llama", _BOTH, local=True),
    Case(
        "embedding-gemma", lambda s, r: _embedding(s, r, [0, 2]), "gemma:48", "gemma", _BOTH, True
    ),
    Case("embedding-pooled", lambda s, r: _embedding(s, r, [2], vectors=4), refuses=_BOTH),
    Case("embedding-prompt", lambda s, r: _embedding(s, r, prompt=2), refuses=_BOTH, local=True),
    Case("embedding-ridge", _linear, "gemma:48", "llama", _ALL, local=True),
    Case("embedding-procrustes", lambda s, r: _linear(s, r, kind="procrustes"), refuses=_ALL),
    Case("soft", lambda s, r: SoftWords(limit=3), "llama", "llama", _ALL),
    Case("soft-gemma", lambda s, r: SoftWords(limit=3, temperature=2.0), "gemma", "gemma", _ALL),
    Case("soft-mixing", _mixing, "gemma:48", "llama", _ALL),
    Case("fusion", _fusion, "qwen:48", "llama", _ALL, local=True),
    Case(
        "fusion-gemma",
        lambda s, r: _fusion(s, r, [(1, 1)]),  # the others see no more than a window
        "gemma",
        "gemma:48",
        _ALL,
        local=True,
    ),
    Case("memory", _memory, "qwen:48", "llama", _ALL, local=True),
    Case("memory-gemma", _memory, "gemma:48", "gemma", _ALL, local=True),
    Case("memory-words", lambda s, r: _memory(s, r, words=True), "qwen", "gemma", _ALL, local=True),
    Case("memory-decoded", _decoded, "gemma", "llama", _ALL, local=True),
    Case("memory-prompt", lambda s, r: _memory(s, r, 2), "gemma", "llama", _ALL, local=True),
    Case("constant", _constant, refuses="receiver width, receiver weights"),
)

TRAINED: tuple[dict[str, Any], ...] = (
    {"kind": "embedding", "layers": [0, 2], "hidden": 16, "prompt": 2},
    {"kind": "embedding", "layers": [2], "hidden": 16, "vectors": 3},
    {"kind": "memory", "width": 56, "hidden": 16, "prompt": 2, "texts": 20},
    {"kind": "memory", "width": 40, "hidden": 16, "words": True, "texts": 20},
    {"kind": "fusion", "hidden": 16, "inner": 16},
    {"kind": "ridge", "layers": [2], "texts": 20},
    {"kind": "procrustes", "layers": [2], "texts": 20},
    {"kind": "mixing"},
)
"""Settings of a recipe's projector, small enough for two tiny models."""
