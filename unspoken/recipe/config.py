"""The settings of recipes for a pair and for a pipeline, checked before anything is loaded.

The settings of a study are in its folder, see `unspoken.recipe.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from unspoken.errors import RecipeError, UnknownName, unknown
from unspoken.projectors.registry import trained_kind, trained_kinds
from unspoken.recipe.parts import (
    AgentSource,
    AnyProjector,
    CanvasSettings,
    ChannelSource,
    EdgeSource,
    FreeSettings,
    LoraSettings,
    ModelSource,
    Part,
    ProjectorSettings,
    Prompts,
    SessionSource,
    Stage,
    UntilSource,
)
from unspoken.recipe.registry import study
from unspoken.tasks import TaskSource
from unspoken.types import EngineName
from unspoken.wire import LOSSLESS, Packing

__all__ = ["Comparison", "PairSource", "PipelineRecipe", "Recipe", "RelayRecipe"]


def _settings(name: str, given: Any) -> Part:
    """The settings below a study's name, as the study's class. Raises `ValidationError`."""
    try:
        return study(name).settings.model_validate(given)
    except UnknownName as error:
        problem = _problem((name,), str(error).removesuffix("."))
        raise ValidationError.from_exception_data("studies", [problem]) from error
    except ValidationError as error:
        problems = [_problem((name, *one["loc"]), one["msg"]) for one in error.errors()]
        raise ValidationError.from_exception_data("studies", problems) from error


def _problem(place: tuple[int | str, ...], reason: str) -> InitErrorDetails:
    kind = PydanticCustomError("study", "{reason}", {"reason": reason})
    return InitErrorDetails(type=kind, loc=place, input=None)


def _of_their_studies(given: Any) -> Any:
    """Settings of studies as the classes of these studies. Anything but a mapping stays as is."""
    if not isinstance(given, Mapping):
        return given
    named = cast(Mapping[Any, Any], given)
    return {str(name): _settings(str(name), settings) for name, settings in named.items()}


Studies = Annotated[dict[str, SerializeAsAny[Part]], BeforeValidator(_of_their_studies)]
"""Studies by name, each with its settings: `{comparison: {}, telephone: {hops: 4}}`."""


class Recipe(Part):
    """The settings of a YAML file. Its `kind` says which class reads it.

    studies: what is measured, in this order. out: the folder of results and trained weights.
    """

    studies: Studies = Field(default_factory=dict[str, Part])
    seed: int = 0
    out: Path

    @classmethod
    def kind_name(cls) -> str:
        """The `kind` that a file gives."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    def check_measurable(self) -> None:
        """Raise `ValueError` unless the recipe has what all studies of its kind need."""

    @model_validator(mode="after")
    def _studies_fit(self) -> Recipe:
        if self.studies:
            self.check_measurable()
        for name, settings in self.studies.items():
            known, kind = study(name), self.kind_name()
            if known.kind != kind:
                raise ValueError(f"studies.{name} measures a {known.kind}, and this is a {kind}")
            try:
                known.check(self, settings)
            except ValueError as error:
                raise ValueError(f"studies.{name}: {error}") from error
        return self


def _embedding() -> ProjectorSettings:
    return TypeAdapter[ProjectorSettings](AnyProjector).validate_python({"kind": "embedding"})


def _by_name(channel: Any) -> Literal["name", "settings"]:
    return "name" if isinstance(channel, str) else "settings"


_UNTRAINED = ("full-text", "text", "handoff", "oracle")


def _known(name: str) -> str:
    names = (*_UNTRAINED, *trained_kinds())
    if name not in names:
        raise ValueError(str(unknown("channel", name, names)).removesuffix("."))
    return name


_Compared = Annotated[
    Annotated[str, AfterValidator(_known), Tag("name")] | Annotated[ChannelSource, Tag("settings")],
    Discriminator(_by_name),
]


class Comparison(Part):
    """Channels between the sender that has read a fact and the receiver that is asked.

    A kind of projector among the channels, such as `embedding`, is the recipe's projector. Any
    other channel joins as a `ChannelSource`. transfer: the task whose test items are asked, if not
    those of `task`, on which everything is trained. reader: free vectors of a tuned reader of text.
    constant: those that take the place of a trained channel's message. Null leaves either out.
    pack: how vectors and caches travel. limit: the most test items that are asked.
    """

    channels: tuple[_Compared, ...]
    reader: FreeSettings | None
    constant: FreeSettings | None
    lora: LoraSettings | None = None
    transfer: TaskSource | None = None
    pack: Packing = LOSSLESS
    limit: int | None = Field(default=200, ge=2)
    batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> Comparison:
        names = [name if isinstance(name, str) else name.name for name in self.channels]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"channels are told apart by name, but {sorted(twice)} appear twice")
        return self


class PairSource(Part):
    """Two models: the sender reads a fact, the receiver is asked about it."""

    sender: ModelSource
    receiver: ModelSource


_AT_ONCE = 256
"""Items that are asked at a time where an engine batches: vLLM runs up to that many by default."""


class RelayRecipe(Recipe):
    """A pair of models on a task, what is trained for it, and what is compared on it.

    planning: how a sender that is a diffusion model writes. matching: training towards the receiver
    that has read the words, before `training` towards the answers, see `Matching`. items: the most
    training items, drawn by the seed, for a sender whose states are expensive. comparison: what all
    studies measure. Without it the recipe can only be trained. trained: where trained weights are,
    if not below `out`. engine: what the receiver answers from. All is trained in transformers.
    """

    kind: Literal["relay"]
    pair: PairSource
    task: TaskSource
    prompts: Prompts
    planning: CanvasSettings = CanvasSettings()
    projector: AnyProjector = Field(default_factory=_embedding)
    warmup: Stage = Stage(steps=0, lr=1.0)
    matching: Stage = Stage(steps=0, lr=1.0)
    training: Stage
    validation: int = Field(default=64, ge=1)
    items: int | None = Field(default=None, ge=1)
    comparison: Comparison | None = None
    trained: Path | None = None
    engine: EngineName = "transformers"

    @model_validator(mode="before")
    @classmethod
    def _an_engine_batches(cls, given: Any) -> Any:
        """Ask an engine as many items at once as it takes, if the recipe does not say how many."""
        match given:
            case {"engine": "vllm", "comparison": {} as compared}:
                return {**given, "comparison": {"batch_size": _AT_ONCE, **compared}}
            case _:
                return given

    @model_validator(mode="after")
    def _an_engine_fits(self) -> RelayRecipe:
        lora = self.comparison is not None and self.comparison.lora is not None
        if self.engine == "vllm" and lora:
            raise ValueError(
                "engine: vllm has the weights of the receiver, and comparison.lora asks another "
                "one, which was trained itself; set comparison.lora=null, or engine=transformers"
            )
        if self.engine == "vllm" and self.pair.receiver.device is not None:
            raise ValueError(
                f"engine: vllm runs on the device that it was built for, got pair.receiver.device="
                f"{self.pair.receiver.device}; leave it out, or set engine=transformers"
            )
        return self

    @model_validator(mode="after")
    def _something_to_train(self) -> RelayRecipe:
        if self.training.steps and not trained_kind(self.projector.kind).trainable:
            raise ValueError(
                f"a projector of kind {self.projector.kind!r} has nothing to train; set "
                "training.steps=0"
            )
        return self

    @model_validator(mode="after")
    def _words_to_match(self) -> RelayRecipe:
        if self.matching.steps and self.task.protocol != "private":
            raise ValueError(
                "matching: a receiver that gets the message learns from one that reads the words, "
                f"so it needs task.protocol=private, got {self.task.protocol!r}"
            )
        return self

    @model_validator(mode="after")
    def _one_projector(self) -> RelayRecipe:
        for name in () if self.comparison is None else self.comparison.channels:
            if name not in (*_UNTRAINED, self.projector.kind) and isinstance(name, str):
                raise ValueError(
                    f"comparison.channels name {name!r}, but the recipe trains projector.kind="
                    f"{self.projector.kind}; compare one trained channel at a time"
                )
        return self

    @property
    def compared(self) -> Comparison:
        """What is compared. Raises `RecipeError` if the recipe can only be trained."""
        if self.comparison is None:
            raise RecipeError(
                "the recipe can only be trained, as it compares no channels; add comparison: "
                "{channels: ..., reader: ..., constant: ...}"
            )
        return self.comparison

    def check_measurable(self) -> None:
        """Raise `RecipeError` unless there are channels to compare."""
        _ = self.compared

    def check_private(self, reason: str) -> None:
        """Raise `ValueError` unless only the sender reads the fact of the items that are asked."""
        task = self.compared.transfer or self.task
        if task.protocol != "private":
            raise ValueError(f"takes task.protocol=private, got {task.protocol!r}: {reason}")


class PipelineRecipe(Recipe):
    """Agents and edges, and a task if something is measured of them.

    until: what ends the rounds before the last. session: how `unspoken chat` holds a conversation.
    executor: where agents run: in this process (`here`), in a process each (over a `pipe`,
    `shared_memory` or `tcp` on loopback), or as `ray` actors. timeout: the seconds that a turn
    elsewhere may take. python: the Python of another environment, in which these processes run,
    see `Processes`. task: what the studies ask. limit: the most test items. batch_size: how many
    are asked at a time.
    """

    kind: Literal["pipeline"]
    agents: tuple[AgentSource, ...]
    edges: tuple[EdgeSource, ...] = ()
    rounds: int = Field(default=1, ge=1)
    until: UntilSource | None = None
    session: SessionSource = SessionSource()
    answer: str | None = None
    dtype: str = "auto"
    device: str | None = None
    executor: Literal["here", "pipe", "shared_memory", "tcp", "ray"] = "here"
    timeout: float = Field(default=300.0, gt=0)
    python: Path | None = None
    task: TaskSource | None = None
    limit: int | None = Field(default=100, ge=2)
    batch_size: int = Field(default=16, ge=1)
    out: Path = Path("out")

    @model_validator(mode="after")
    def _python_of_processes(self) -> PipelineRecipe:
        if self.python is not None and self.executor in ("here", "ray"):
            raise ValueError(
                f"python={self.python} is for processes, got executor={self.executor}; set "
                "executor=pipe, shared_memory or tcp"
            )
        return self

    @property
    def asked(self) -> TaskSource:
        """The task that studies ask about. Raises `RecipeError` if the recipe has none."""
        if self.task is None:
            raise RecipeError(
                "studies of a pipeline need a task; add for example task: {name: qasc}"
            )
        return self.task

    def check_measurable(self) -> None:
        """Raise `RecipeError` unless there is a task, and agents that run in this process."""
        _ = self.asked
        if self.executor != "here":
            raise RecipeError(
                f"studies measure agents in this process, got executor={self.executor}; set "
                "executor=here"
            )
