"""Hidden states to the receiver's embeddings in closed form, see `LinearMap`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from unspoken.channels import Channel, Embedding
from unspoken.projectors import LinearMap
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.calibration import Calibration, aligned_states, calibration_texts
from unspoken.relay.relay import Relay
from unspoken.relay.trained.base import Start, TrainedChannel, identities
from unspoken.terminal import PlainConsole
from unspoken.training import History

__all__ = ["LinearSettings", "TrainedLinearMap"]


class LinearSettings(ProjectorSettings):
    """Hidden states to the receiver's embeddings in closed form, see `LinearMap`.

    texts and calibration as in `MemorySettings`.
    """

    kind: Literal["ridge", "procrustes"]
    layers: tuple[int, ...] = (6,)
    texts: int = Field(default=500, ge=1)
    calibration: Calibration = "random"
    penalty: float = Field(default=0.01, gt=0)


class TrainedLinearMap(TrainedChannel[LinearSettings, LinearMap]):
    """Channel `embedding` through a linear map, fitted to words that both models have."""

    settings = LinearSettings
    projector = LinearMap
    closed_form = True

    def fresh(self, relay: Relay, settings: LinearSettings) -> LinearMap:
        return LinearMap(
            source_width=relay.sender.spec.width,
            target_width=relay.receiver.spec.width,
            layers=settings.layers,
            kind=settings.kind,
            **identities(relay),
        ).to(relay.receiver.device)

    def channel(self, projector: LinearMap, settings: LinearSettings) -> Channel:
        return Embedding(projector)

    def start(
        self, projector: LinearMap, settings: LinearSettings, given: Start
    ) -> Mapping[str, History]:
        texts = calibration_texts(given.relay, given.items, settings.calibration, settings.texts)
        found = aligned_states(given.relay, given.sender, projector.layers, texts)
        share = projector.fit(*found, penalty=settings.penalty)
        PlainConsole(stderr=True).print(
            f"{settings.kind}, {len(found[0]):,} positions: {share:.0%} of the embeddings explained"
        )
        return {}
