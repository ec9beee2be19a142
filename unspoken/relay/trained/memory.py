"""A sender's cache to a cache of the receiver, see `MemoryProjector`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from pydantic import Field

from unspoken.backbone import causal
from unspoken.channels import Channel, ProjectedMemory
from unspoken.projectors import MemoryProjector
from unspoken.projectors.memory import spelling
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.calibration import Calibration, OnDisk, calibration_texts, read_by_both
from unspoken.relay.relay import Relay
from unspoken.relay.trained.base import Start, TrainedChannel, identities
from unspoken.terminal import PlainConsole
from unspoken.training import History
from unspoken.types import Spec

__all__ = ["MemorySettings", "TrainedMemory"]


class MemorySettings(ProjectorSettings):
    """A cache to the receiver's, see `MemoryProjector`.

    words: whether the receiver's embedding of each token is part of the message. texts: how many
    are read for the closed-form start. calibration: what they are: facts of the task, random words,
    or both.
    """

    kind: Literal["memory"]
    width: int = Field(default=1024, ge=1)
    hidden: int = Field(default=1024, ge=1)
    prompt: int = Field(default=0, ge=0)
    words: bool = False
    texts: int = Field(default=1000, ge=1)
    calibration: Calibration = "text"


class TrainedMemory(TrainedChannel[MemorySettings, MemoryProjector]):
    """Channel `memory`: a closed form from texts that both read, then training on answers."""

    settings = MemorySettings
    projector = MemoryProjector
    closed_form = True

    def fresh(self, relay: Relay, settings: MemorySettings) -> MemoryProjector:
        receiver = relay.receiver
        turns = (
            torch.stack(causal(relay.sender, "a memory is projected from").frequencies),
            torch.stack(receiver.frequencies),
        )
        projector = MemoryProjector(
            source=_cache(relay.sender.spec),
            target=_cache(receiver.spec),
            rotary=(turns[0].shape[1], turns[1].shape[1]),
            target_width=receiver.spec.width,
            **settings.model_dump(include={"width", "hidden", "prompt"}),
            vocabulary=len(receiver.table) if settings.words else 0,
            **identities(relay),
        ).to(receiver.device)
        if settings.words:
            projector.learn_words(receiver.table)
        projector.source_turns.copy_(turns[0])
        projector.target_turns.copy_(turns[1])
        projector.tokenizer = spelling(receiver.tokenizer.backend_tokenizer)
        projector.start_from(relay.instruction(settings.prompt))
        return projector

    def channel(self, projector: MemoryProjector, settings: MemorySettings) -> Channel:
        return ProjectedMemory(projector)

    def start(
        self, projector: MemoryProjector, settings: MemorySettings, given: Start
    ) -> Mapping[str, History]:
        texts = calibration_texts(given.relay, given.items, settings.calibration, settings.texts)
        with TemporaryDirectory() as folder:
            read = read_by_both(given.relay, given.sender, projector, texts)
            share = projector.start(OnDisk(read, Path(folder)))
        PlainConsole(stderr=True).print(
            f"closed-form start: {share:.0%} of the receiver's cache explained"
        )
        return {}


def _cache(spec: Spec) -> tuple[int, int, int]:
    """Layers, heads and head width of a model's cache."""
    return spec.layers, spec.kv_heads, spec.head_dim
