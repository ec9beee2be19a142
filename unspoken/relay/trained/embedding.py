"""Hidden states to the receiver's embeddings, see `EmbeddingProjector`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from unspoken import models
from unspoken.agents import Agent
from unspoken.channels import Channel, Embedding
from unspoken.pipeline import Query
from unspoken.projectors import EmbeddingProjector
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.relay import Relay
from unspoken.relay.trained.base import Start, StateSource, TrainedChannel, identities
from unspoken.training import History, Reconstruction, StoredStates

__all__ = ["EmbeddingSettings", "TrainedEmbedding"]

_SAMPLE = 256  # items whose states standardise the projector's input


class EmbeddingSettings(ProjectorSettings):
    """Hidden states to the receiver's embedding space, see `EmbeddingProjector`."""

    kind: Literal["embedding"] = "embedding"
    layers: tuple[int, ...] = (0,)
    hidden: int = Field(default=1024, ge=1)
    vectors: int | None = Field(default=None, ge=1)
    prompt: int = Field(default=0, ge=0)


class TrainedEmbedding(TrainedChannel[EmbeddingSettings, EmbeddingProjector]):
    """Channel `embedding`: a warm-up on words, then training on answers.

    The sender's states are computed once and kept on disk.
    """

    settings = EmbeddingSettings
    projector = EmbeddingProjector

    def fresh(self, relay: Relay, settings: EmbeddingSettings) -> EmbeddingProjector:
        receiver = relay.receiver
        projector = EmbeddingProjector(
            source_width=relay.sender.spec.width,
            target_width=receiver.spec.width,
            **settings.model_dump(exclude={"kind"}),
            scale=float(receiver.table.square().mean().sqrt()),
            **identities(relay),
        ).to(receiver.device)
        projector.start_from(relay.instruction(settings.prompt))
        return projector

    def channel(self, projector: EmbeddingProjector, settings: EmbeddingSettings) -> Channel:
        return Embedding(projector)

    def sender_states(
        self, sender: Agent, queries: Sequence[Query], channel: Channel
    ) -> StateSource:
        assert isinstance(channel, Embedding)
        folder = models.cache_folder() / "states"
        return StoredStates(sender, queries, channel.projector.layers, folder)

    def start(
        self, projector: EmbeddingProjector, settings: EmbeddingSettings, given: Start
    ) -> Mapping[str, History]:
        relay, sender_states = given.relay, given.sender_states
        assert isinstance(sender_states, StoredStates)
        seen = sender_states.states(range(min(len(sender_states), _SAMPLE)))
        projector.calibrate(seen.values[seen.mask])
        if not relay.recipe.warmup.steps or settings.vectors is not None:
            return {}
        words = Reconstruction(
            projector, sender_states, relay.sender, relay.receiver, validation=given.validation
        )
        projector.prompt.requires_grad_(False)
        history = given.fit(projector, words)
        projector.prompt.requires_grad_(True)
        return {"warmup": history}
