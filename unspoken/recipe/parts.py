"""Parts of recipes: models, prompts, projectors, agents; how to train, and what to measure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unspoken.training import Plan
from unspoken.types import Denoising
from unspoken.wire import LOSSLESS, Packing

__all__ = [
    "AgentSource",
    "CanvasSettings",
    "ChannelSource",
    "ClosedSettings",
    "EdgeSource",
    "EmbeddingSettings",
    "FreeSettings",
    "FusionSettings",
    "LinearSettings",
    "LoraSettings",
    "MemorySettings",
    "MixingSettings",
    "ModelSource",
    "Part",
    "ProjectorSettings",
    "Prompts",
    "Stage",
    "InformationSettings",
]


class Part(BaseModel):
    """A mapping of settings: unknown ones are refused, and none changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(Part):
    """A model by name, and how it is loaded."""

    model: str
    dtype: str = "auto"
    device: str | None = None


class Stage(Part):
    """One stage of training, see `Plan`; no steps, no stage."""

    steps: int = Field(ge=0)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(default=10, ge=0)
    weight_decay: float = 0.0
    every: int = Field(default=50, ge=1)
    bf16: bool = True

    def plan(self, seed: int) -> Plan:
        return Plan(**self.model_dump(), seed=seed)


class Prompts(Part):
    """The words around an item, the same for every channel.

    instruction and `shots` worked examples from the training items make the receiver's lead;
    note_lead is what a writing sender reads first; note_tokens is the most it writes.
    """

    instruction: str
    shots: int = Field(default=3, ge=0)
    note_lead: str = ""
    note_tokens: int = Field(default=32, ge=1)
    answer_tokens: int = Field(default=12, ge=1)


class CanvasSettings(Part):
    """How a sender that writes by diffusion writes, see `Denoising`; tokens: of its canvas."""

    tokens: int = Field(default=64, ge=1)
    steps: int = Field(default=64, ge=1)
    block: int | None = Field(default=32, ge=1)
    remask: Literal["confidence", "margin", "entropy", "random"] = "confidence"
    guidance: float = Field(default=0.0, ge=0)
    until: float = Field(default=1.0, gt=0, le=1)
    threshold: float | None = Field(default=None, gt=0, le=1)
    capture: Literal["last", "clean"] = "last"
    temperature: float = Field(default=0.0, ge=0)
    seed: int = 0

    def denoising(self, stop: tuple[str, ...] = ()) -> Denoising:
        return Denoising(max_tokens=self.tokens, stop=stop, **self.model_dump(exclude={"tokens"}))


class EmbeddingSettings(Part):
    """Hidden states to the receiver's embedding space, see `EmbeddingProjector`."""

    kind: Literal["embedding"] = "embedding"
    layers: tuple[int, ...] = (0,)
    hidden: int = Field(default=1024, ge=1)
    vectors: int | None = Field(default=None, ge=1)
    prompt: int = Field(default=0, ge=0)


class MemorySettings(Part):
    """A cache to the receiver's, see `MemoryProjector`.

    words: whether the receiver's embedding of each token is part of the message. texts: how many
    are read for the closed-form start; calibration: what they are, facts of the task, random words,
    or both.
    """

    kind: Literal["memory"]
    width: int = Field(default=1024, ge=1)
    hidden: int = Field(default=1024, ge=1)
    prompt: int = Field(default=0, ge=0)
    words: bool = False
    texts: int = Field(default=1000, ge=1)
    calibration: Literal["text", "random", "both"] = "text"


class LinearSettings(Part):
    """Hidden states to the receiver's embeddings in closed form, see `LinearMap`.

    texts and calibration as in `MemorySettings`.
    """

    kind: Literal["ridge", "procrustes"]
    layers: tuple[int, ...] = (6,)
    texts: int = Field(default=500, ge=1)
    calibration: Literal["text", "random", "both"] = "random"
    penalty: float = Field(default=0.01, gt=0)


class MixingSettings(Part):
    """Soft words over the words that both models know, see `VocabularyMixing`."""

    kind: Literal["mixing"]
    temperature: float = Field(default=1.0, gt=0)


class FusionSettings(Part):
    """Two caches to one, see `Fuser`; `above` is the lowest receiver layer that is fused.

    map: which sharer layer goes to which receiver layer. gate: the logits of all gates at first.
    lead: whether the words that both models read first are fused too.
    """

    kind: Literal["fusion"]
    map: Literal["last_aligned", "k_nearest"] = "k_nearest"
    above: int = Field(default=0, ge=0)
    hidden: int = Field(default=256, ge=1)
    inner: int = Field(default=256, ge=1)
    depth: int = Field(default=3, ge=3)
    rank: int | None = Field(default=None, ge=1)
    gate: float = 0.0
    lead: bool = False


ProjectorSettings = (
    EmbeddingSettings | MemorySettings | FusionSettings | LinearSettings | MixingSettings
)
ClosedSettings = MemorySettings | LinearSettings | MixingSettings


class ChannelSource(Part):
    """One more channel of a comparison: any that is registered, or one with a map in closed form.

    channel: its kind and options. projector: a map that is fitted first, without training, and
    brings its channel along. sender: whose weights speak; `receiver` for channels between equal
    weights.
    """

    name: str
    channel: dict[str, Any] | None = None
    projector: ClosedSettings | None = Field(default=None, discriminator="kind")
    sender: Literal["sender", "receiver"] = "sender"

    @model_validator(mode="after")
    def _one_of_both(self) -> ChannelSource:
        if (self.channel is None) == (self.projector is None):
            raise ValueError("give either a channel, {kind: rollout}, or a projector to fit")
        return self


class FreeSettings(Part):
    """Free vectors: how many, and how fast they learn; steps and batches are the projector's."""

    vectors: int = Field(default=16, ge=1)
    lr: float = Field(gt=0)


class LoraSettings(Part):
    """The receiver itself is trained, with as many parameters as the projector has."""

    lr: float = Field(gt=0)


class InformationSettings(Part):
    """Usable bits: on how many items, at most log2 of that many bits; a minute for 32 is usual.

    samples: notes that the sender writes about each item for the text estimator. column: whether
    a comparison measures bits too.
    """

    items: int = Field(default=64, ge=2)
    samples: int = Field(default=1, ge=0)
    column: bool = False


class AgentSource(Part):
    """An agent of a pipeline; canvas: how it writes if its model is a diffusion model."""

    name: str
    model: str
    lead: str = ""
    template: str = "{messages}{question}"
    message: str = "{sender}:{message}\n\n"
    chat: bool = True
    first: Literal["lead", "item"] = "lead"
    max_tokens: int = Field(default=64, ge=1)
    stop: tuple[str, ...] = ()
    temperature: float = Field(default=0.0, ge=0)
    seed: int = 0
    reuse: Literal["any", "exact"] = "any"
    candidates: tuple[str, ...] = ()
    canvas: CanvasSettings | None = None


class EdgeSource(BaseModel):
    """An edge: `from` and `to` are agents; `channel` holds its kind and options.

    pack: how its messages travel; shadow: whether words of the sender go along, see `Edge`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    sender: str = Field(alias="from")
    receiver: str = Field(alias="to")
    channel: dict[str, Any]
    pack: Packing = LOSSLESS
    shadow: bool = False
