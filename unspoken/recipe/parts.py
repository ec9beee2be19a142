"""Parts of recipes: models, prompts, projectors, agents; how to train, and what to measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_validator,
)

from unspoken.errors import UnknownName
from unspoken.projectors.registry import trained_kind, trained_kinds
from unspoken.training import TrainingPlan
from unspoken.types import Denoising, EngineName
from unspoken.wire import LOSSLESS, Packing

__all__ = [
    "SessionSource",
    "UntilSource",
    "AgentSource",
    "AnyProjector",
    "CanvasSettings",
    "ChannelSource",
    "ClosedForm",
    "EdgeSource",
    "FreeSettings",
    "LoraSettings",
    "ModelSource",
    "Part",
    "ProjectorSettings",
    "Prompts",
    "Stage",
]


class Part(BaseModel):
    """A mapping of settings. Unknown ones are refused, and none can be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(Part):
    """A model by name, and how it is loaded."""

    model: str
    dtype: str = "auto"
    device: str | None = None


class Stage(Part):
    """One stage of training, see `TrainingPlan`. Without steps there is no stage."""

    steps: int = Field(ge=0)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(default=10, ge=0)
    weight_decay: float = 0.0
    every: int = Field(default=50, ge=1)
    bf16: bool = True

    def plan(self, seed: int) -> TrainingPlan:
        return TrainingPlan(**self.model_dump(), seed=seed)


class Prompts(Part):
    """The words around an item, the same for every channel.

    instruction and `shots` worked examples from the training items make the receiver's
    instructions. note_instructions: what a writing sender reads first. note_tokens: the most tokens
    that it writes.
    """

    instruction: str
    shots: int = Field(default=3, ge=0)
    note_instructions: str = ""
    note_tokens: int = Field(default=32, ge=1)
    answer_tokens: int = Field(default=12, ge=1)


class CanvasSettings(Part):
    """How a sender writes by diffusion, see `Denoising`. tokens: the size of its canvas."""

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


class ProjectorSettings(Part):
    """Settings of a trained channel. Each kind derives a class, see `unspoken.relay.trained`."""

    kind: Any
    """The name that it is registered by. Each kind narrows this to a `Literal`."""


def _of_its_kind(given: Any) -> Any:
    """The settings as the class of their kind. Anything but a mapping is left as it is."""
    if not isinstance(given, Mapping):
        return given
    settings = dict(cast(Mapping[str, Any], given))
    if "kind" not in settings:
        raise ValueError(f"say which kind it is, one of {', '.join(trained_kinds())}")
    try:
        kind = trained_kind(str(settings["kind"]))
    except UnknownName as error:
        raise ValueError(str(error).removesuffix(".")) from error
    return kind.settings.model_validate(settings)


def _in_closed_form(settings: ProjectorSettings) -> ProjectorSettings:
    if not trained_kind(settings.kind).closed_form:
        raise ValueError(
            f"{settings.kind!r} has to be trained, but a comparison only fits closed forms; "
            "make it the recipe's projector"
        )
    return settings


AnyProjector = Annotated[SerializeAsAny[ProjectorSettings], BeforeValidator(_of_its_kind)]
"""The settings of any registered kind of projector, `{kind: memory, width: 512}`."""

ClosedForm = Annotated[AnyProjector, AfterValidator(_in_closed_form)]
"""The settings of a kind that needs no training."""


class ChannelSource(Part):
    """One more channel of a comparison: any that is registered, or one with a map in closed form.

    channel: its kind and options. projector: a map that is fitted first, without training, and
    has its channel. sender: whose weights send. `receiver` is for channels between equal weights.
    """

    name: str
    channel: dict[str, Any] | None = None
    projector: ClosedForm | None = None
    sender: Literal["sender", "receiver"] = "sender"

    @model_validator(mode="after")
    def _one_of_both(self) -> ChannelSource:
        if (self.channel is None) == (self.projector is None):
            raise ValueError("give either a channel, {kind: rollout}, or a projector to fit")
        return self


class FreeSettings(Part):
    """Free vectors: their number and learning rate. Steps and batches are the projector's."""

    vectors: int = Field(default=16, ge=1)
    lr: float = Field(gt=0)


class LoraSettings(Part):
    """The receiver itself is trained, with as many parameters as the projector has."""

    lr: float = Field(gt=0)


class AgentSource(Part):
    """An agent, with the parts of its `Role`. canvas: how it writes if it is a diffusion model.

    engine: what runs its model. Agents with one model and one engine share it.
    """

    name: str
    model: str
    engine: EngineName = "transformers"
    instructions: str = ""
    template: str = "{messages}{question}"
    message: str = "{sender}:{message}\n\n"
    document: str = "## {name}\n{text}\n\n"
    chat: bool = True
    template_options: dict[str, Any] = {}
    first: Literal["instructions", "item"] = "instructions"
    max_tokens: int = Field(default=64, ge=1)
    stop: tuple[str, ...] = ()
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    reuse: Literal["any", "exact"] = "any"
    candidates: tuple[str, ...] = ()
    canvas: CanvasSettings | None = None


class EdgeSource(BaseModel):
    """An edge: `from` and `to` are agents. `channel` holds its kind and options.

    pack: how its messages travel. shadow: whether the sender's words travel too, see `Edge`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    sender: str = Field(alias="from")
    receiver: str = Field(alias="to")
    channel: dict[str, Any]
    pack: Packing = LOSSLESS
    shadow: bool = False


class UntilSource(Part):
    """A rule that ends the rounds of a pipeline, one of three.

    phrase: words that an agent writes. pattern: a regular expression that is found in them. agent:
    the one who has to write them, or any. function: `module:name` of a function of the run.
    """

    phrase: str | None = None
    pattern: str | None = None
    function: str | None = None
    agent: str | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> UntilSource:
        given = [one for one in (self.phrase, self.pattern, self.function) if one is not None]
        if len(given) != 1:
            raise ValueError("a rule is a phrase, a pattern or a function, and only one of them")
        if self.function is not None and self.agent is not None:
            raise ValueError("a function looks at the agents itself; leave out agent")
        return self


class SessionSource(Part):
    """How a conversation with a pipeline is held, see `Pipeline.session`.

    keep: what happens when it is longer than a window, or than the caches for which there is room;
    null is an error, or words that are read again. window: the most positions that an agent reads
    and writes in a turn, null for what its model can take. budget: bytes of caches.
    """

    keep: Literal["recent", "distilled"] | None = None
    window: int | None = Field(default=None, ge=1)
    budget: int = Field(default=2 << 30, ge=0)
