"""Soft words over the words that both models have, see `VocabularyMixing`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from unspoken.channels import Channel, SoftWords
from unspoken.projectors import VocabularyMixing
from unspoken.projectors.alignment import shared_vocabulary
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.relay import Relay
from unspoken.relay.trained.base import TrainedChannel, identities

__all__ = ["MixingSettings", "TrainedMixing"]


class MixingSettings(ProjectorSettings):
    """Soft words over the words that both models have, see `VocabularyMixing`."""

    kind: Literal["mixing"]
    temperature: float = Field(default=1.0, gt=0)


class TrainedMixing(TrainedChannel[MixingSettings, VocabularyMixing]):
    """Channel `soft` between models with different words. Nothing is trained or fitted.

    The sender writes as many vectors as its note may have tokens.
    """

    settings = MixingSettings
    projector = VocabularyMixing
    closed_form = True
    trainable = False

    def fresh(self, relay: Relay, settings: MixingSettings) -> VocabularyMixing:
        sender, receiver = relay.sender, relay.receiver
        known = torch.tensor(shared_vocabulary(sender, receiver), device=receiver.device)
        projector = VocabularyMixing(
            source_width=sender.spec.width,
            target_width=receiver.spec.width,
            words=known.shape[1],
            temperature=settings.temperature,
            cap=sender.logit_cap,
            **identities(relay),
        ).to(receiver.device)
        projector.start(sender.head[known[0]], receiver.embed(known[1]))
        return projector

    def channel(self, projector: VocabularyMixing, settings: MixingSettings) -> Channel:
        return SoftWords(temperature=projector.temperature, projector=projector)
