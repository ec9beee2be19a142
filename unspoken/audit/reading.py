"""What a model makes of a message: a text shadow for people, which proves nothing.

A shadow is what a reader writes when it is asked. The message may hold more, less or something
else, and a sender that wants to hide a thing can.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unspoken.backbone import load_model
from unspoken.channels import Channel
from unspoken.errors import IncompatibleModels
from unspoken.projectors import load_trained
from unspoken.protocols import Model, device_of, tabled
from unspoken.types import CacheSegment, Prompt, Settings, Text, Vectors
from unspoken.wire import Message

__all__ = ["listen", "nearest", "reading"]

_OPENING, _ASK = "Message:", "\nThe message says:"


def listen(message: Message, model: str, projector: str = "") -> dict[str, Any]:
    """What a model, loaded by name, makes of a message: `nearest` words and its `reading`.

    projector: the folder of the trained module that takes in a message of its channel.
    """
    reader = load_model(model)
    channel = _through(projector, reader) if projector else None
    words = reading(message, reader, channel)
    found = nearest(message, reader)
    near_words = {"nearest": [[" ".join(near) for near in row] for row in found]} if found else {}
    return {**near_words, "reading": list(words)}


def _through(projector: str, model: Model) -> Channel:
    """The channel that uses the trained module of a folder, whatever its kind."""
    kind, module, settings = load_trained(projector)
    return kind.channel(module.to(device_of(model)), settings)


@torch.no_grad()
def reading(
    message: Message, model: Model, channel: Channel | None = None, *, tokens: int = 32
) -> tuple[str, ...]:
    """What the model writes of each row after "The message says:", greedily, B strings.

    channel: takes the message in as it would for a receiver; without it the payload itself is put
    into the prompt. Raises `IncompatibleModels` if the message is for other weights.
    """
    batch, payload = message.batch, message.payload
    if isinstance(payload, Text):
        return payload.words
    message.check_finite()
    opening = (_OPENING,) * batch
    if isinstance(payload, CacheSegment) and payload.spelling is not None:
        opening = payload.spelling.words  # a fusion acts on words that the receiver has read too
    prompt = Prompt((Text(opening), Text((_ASK,) * batch)), slot=1)
    if channel is None:
        prompt = _placed(message, prompt, model)
    else:
        channel.accept(message, model.spec)
        prompt = channel.write(message, prompt)
    context = model.read(prompt).context
    if channel is not None:
        context = channel.fuse(message, context)
    written = model.write(context, Settings(max_tokens=tokens)).words
    return tuple(words.strip().partition("\n")[0] for words in written)  # models begin a new line


def _placed(message: Message, prompt: Prompt, model: Model) -> Prompt:
    """The prompt with the payload itself in it, if it is in the model's own space."""
    header, payload = message.header, message.payload
    if header.receiver and not model.spec.is_known_as(header.receiver):
        raise IncompatibleModels(
            f"the message from {header.sender!r} is for weights {header.receiver}, but "
            f"{model.spec.name!r} has {model.spec.weights}; read it with that model"
        )
    if isinstance(payload, Vectors) and payload.values.shape[2] != model.spec.width:
        raise IncompatibleModels(
            f"the message from {header.sender!r} has vectors of width {payload.values.shape[2]}, "
            f"but {model.spec.name!r} embeds {model.spec.width}; give the projector that takes "
            f"in a message of channel {header.channel!r}"
        )
    return prompt.front(payload) if isinstance(payload, CacheSegment) else prompt.insert(payload)


@torch.no_grad()
def nearest(message: Message, model: Model, count: int = 3) -> list[list[list[str]]]:
    """The `count` tokens whose embeddings are nearest to each vector, by cosine; for each row.

    Nothing for a message without vectors of the model's width.
    """
    payload = message.payload
    if not isinstance(payload, Vectors) or payload.values.shape[2] != model.spec.width:
        return []
    known = tabled(model, "the nearest words are found in")
    table = normalize(known.table, dim=-1)

    def words(row: Tensor) -> list[list[str]]:
        close = normalize(row.to(table), dim=-1) @ table.T
        found = cast(list[list[int]], close.topk(count, dim=-1).indices.tolist())
        return [[known.tokenizer.decode([token]) for token in near] for near in found]

    return [words(row[real]) for row, real in zip(payload.values, payload.mask, strict=True)]
