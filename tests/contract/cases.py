"""Every channel that the contract is checked for; a new one joins by one line in `CASES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, Embedding, Handoff, TextChannel
from unspoken.projectors import EmbeddingProjector, FreeVectors

__all__ = ["CASES", "Case"]


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


CASES = (
    Case("text", lambda s, r: TextChannel(limit=9)),
    Case("text-verbatim", lambda s, r: TextChannel(verbatim=True), receiver="gemma"),
    Case("handoff", _handoff, "llama", "llama", _ALL, local=True),
    Case("handoff-gemma", _handoff, "gemma", "gemma", _ALL, local=True),
    Case("handoff-gpt2", _handoff, "gpt2", "gpt2", _ALL, local=True),
    Case("embedding", _embedding, "qwen:48", "llama", _BOTH, local=True),
    Case(
        "embedding-gemma", lambda s, r: _embedding(s, r, [0, 2]), "gemma:48", "gemma", _BOTH, True
    ),
    Case("embedding-pooled", lambda s, r: _embedding(s, r, [2], vectors=4), refuses=_BOTH),
    Case("embedding-prompt", lambda s, r: _embedding(s, r, prompt=2), refuses=_BOTH, local=True),
    Case("constant", _constant, refuses="receiver width, receiver weights"),
)
