"""What a recipe may say, checked by pydantic before anything is loaded."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from unspoken.errors import unknown
from unspoken.projectors.registry import trained_kind, trained_kinds
from unspoken.recipe.parts import (
    AgentSource,
    AnyProjector,
    BudgetSettings,
    CanvasSettings,
    ChannelSource,
    EdgeSource,
    FreeSettings,
    GraphSettings,
    LoraSettings,
    ModelSource,
    Part,
    PlannerSettings,
    PoolSettings,
    ProjectorSettings,
    Prompts,
    Stage,
    WorthSettings,
)
from unspoken.studies.teams import Terms
from unspoken.tasks import TaskSource
from unspoken.wire import LOSSLESS, Packing

__all__ = [
    "EdgesRecipe",
    "PipelineRecipe",
    "PlanRecipe",
    "PlannerExecutorRecipe",
    "PlannerRecipe",
    "ProjectorRecipe",
    "RateRecipe",
    "Recipe",
    "RelayRecipe",
    "ReuseRecipe",
    "TelephoneRecipe",
]


class PlannerRecipe(Part):
    """Teach a causal model to write notes by diffusion."""

    kind: Literal["planner"]
    sender: ModelSource
    task: TaskSource
    planner: PlannerSettings
    seed: int = 0
    out: Path


def _embedding() -> ProjectorSettings:
    return TypeAdapter[ProjectorSettings](AnyProjector).validate_python({"kind": "embedding"})


class ProjectorRecipe(Part):
    """Train a projector on a pair of models.

    planning: how a sender writes that is a diffusion model. items: at most so many training items,
    drawn by the seed, where what the sender thinks of them is dear.
    """

    kind: Literal["projector"]
    sender: ModelSource
    receiver: ModelSource
    task: TaskSource
    prompts: Prompts
    planning: CanvasSettings = CanvasSettings()
    projector: AnyProjector = Field(default_factory=_embedding)
    warmup: Stage = Stage(steps=0, lr=1.0)
    training: Stage
    validation: int = Field(default=64, ge=1)
    items: int | None = Field(default=None, ge=1)
    seed: int = 0
    out: Path

    @model_validator(mode="after")
    def _something_to_train(self) -> ProjectorRecipe:
        if self.training.steps and not trained_kind(self.projector.kind).trainable:
            raise ValueError(
                f"a projector of kind {self.projector.kind!r} has nothing to train; set "
                "training.steps=0"
            )
        return self


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


class RelayRecipe(ProjectorRecipe):
    """Compare channels between a sender that has read a fact and a receiver that is asked.

    A kind of projector among the channels, as `embedding`, is the recipe's own projector; any other
    channel joins as a `ChannelSource`. transfer: whose test items are asked, if not those of
    `task`, on which everything is trained. pack: how vectors and caches travel.
    """

    kind: Literal["relay"]  # pyright: ignore[reportIncompatibleVariableOverride]
    channels: tuple[_Compared, ...]
    reader: FreeSettings
    constant: FreeSettings
    lora: LoraSettings | None = None
    transfer: TaskSource | None = None
    worth: WorthSettings = WorthSettings()
    trained: Path | None = None
    pack: Packing = LOSSLESS
    limit: int | None = Field(default=200, ge=2)
    batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _one_projector(self) -> RelayRecipe:
        for name in self.channels:
            if name not in (*_UNTRAINED, self.projector.kind) and isinstance(name, str):
                raise ValueError(
                    f"channels name {name!r}, but the recipe trains projector.kind="
                    f"{self.projector.kind}; compare one trained channel at a time"
                )
        names = [name if isinstance(name, str) else name.name for name in self.channels]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"channels are told apart by name, but {sorted(twice)} stand twice")
        return self


class RateRecipe(RelayRecipe):
    """Sweep the length and precision of messages, and settings of the projector, trained anew.

    lengths: tokens of text, first positions of vectors and caches. packs: how whole messages of
    vectors and caches travel. sweep: a setting of `projector` to its values: {layers: [[0], [6]],
    vectors: [4, 16]}.
    """

    kind: Literal["rate"]  # pyright: ignore[reportIncompatibleVariableOverride]
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16)
    packs: tuple[Packing, ...] = ()
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict[str, tuple[Any, ...]])

    def swept(self, key: str, value: Any) -> ProjectorSettings:
        """The projector's settings with one of them changed."""
        return type(self.projector).model_validate({**self.projector.model_dump(), key: value})

    @model_validator(mode="after")
    def _sweepable(self) -> RateRecipe:
        for key, values in self.sweep.items():
            for value in values:
                try:
                    self.swept(key, value)
                except ValidationError as error:
                    told = error.errors()[0]["msg"]
                    raise ValueError(f"sweep.{key} to {value!r}: {told}") from error
        return self


class PlannerExecutorRecipe(RelayRecipe):
    """Compare what a diffusion planner says in words and in states, beside a causal planner.

    planner: how the sender is taught to plan, before anything is compared. causal: the other
    planner, whose arms carry its name; it reads the fact, and writes as `prompts` say. sweep: a
    setting of `planning` to its values: {tokens: [16, 64], steps: [4, 16]}. Every combination
    is compared beside `planning`, with a projector of its own.
    """

    kind: Literal["planner_executor"]  # pyright: ignore[reportIncompatibleVariableOverride]
    planner: PlannerSettings
    causal: ModelSource
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict[str, tuple[Any, ...]]
    )

    def swept(self) -> dict[str, CanvasSettings]:
        """The ways to plan of the sweep, by what is changed: `tokens=16, steps=4`."""
        found: dict[str, CanvasSettings] = {}
        for values in product(*self.sweep.values()) if self.sweep else ():
            changed = dict(zip(self.sweep, values, strict=True))
            label = ", ".join(f"{key}={value}" for key, value in changed.items())
            found[label] = CanvasSettings(**{**self.planning.model_dump(), **changed})
        return found

    @model_validator(mode="after")
    def _sweepable(self) -> PlannerExecutorRecipe:
        try:
            longest = max(one.tokens for one in (self.planning, *self.swept().values()))
        except ValidationError as error:
            told = error.errors()[0]
            raise ValueError(f"sweep.{told['loc'][0]}: {told['msg']}") from error
        if self.planner.training.steps and longest > max(self.planner.canvas):
            raise ValueError(
                f"plans of {longest} tokens are asked for, and the planner is taught no canvas "
                f"longer than {max(self.planner.canvas)}; add {longest} to planner.canvas"
            )
        return self

    @model_validator(mode="after")
    def _has_an_oracle(self) -> PlannerExecutorRecipe:
        if "full-text" not in self.channels:
            raise ValueError("channels must name full-text: it is the oracle plan")
        return self


class PlanRecipe(RelayRecipe):
    """When a team pays: calibrate on the task, plan under a budget, and let three senders vote.

    lengths: as in `RateRecipe`. team: what is calibrated and what may be spent.
    """

    kind: Literal["plan"]  # pyright: ignore[reportIncompatibleVariableOverride]
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 8)
    team: Terms = Terms()

    @model_validator(mode="after")
    def _plannable(self) -> PlanRecipe:
        _private(self, "its agents read parts of a fact that the receiver does not see")
        own = [
            source if isinstance(source, str) else source.name
            for source in self.channels
            if source == "oracle"
            or (isinstance(source, ChannelSource) and source.sender == "receiver")
        ]
        if own and self.sender != self.receiver:
            raise ValueError(
                f"channels {own} speak with the receiver's weights, and a plan is about agents of "
                "one model; set sender.model to receiver.model, or leave them out"
            )
        return self


class TelephoneRecipe(RelayRecipe):
    """The telephone game: facts go `hops` times over each channel, restated at every hop."""

    kind: Literal["telephone"]  # pyright: ignore[reportIncompatibleVariableOverride]
    hops: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _playable(self) -> TelephoneRecipe:
        _private(self, "whoever sees the fact needs no message about it")
        return self


def _private(recipe: RelayRecipe, reason: str) -> None:
    task = recipe.transfer or recipe.task
    if task.protocol != "private":
        raise ValueError(
            f"{recipe.kind} takes task.protocol=private, got {task.protocol!r}: {reason}"
        )


class PipelineRecipe(Part):
    """Agents and edges.

    executor: where agents run: in this process (`here`), in one each over a `pipe`, shared `memory`
    or `tcp` on loopback, or as `ray` actors. timeout: the seconds that a turn elsewhere may take.
    """

    kind: Literal["pipeline"]
    agents: tuple[AgentSource, ...]
    edges: tuple[EdgeSource, ...] = ()
    rounds: int = Field(default=1, ge=1)
    dtype: str = "auto"
    device: str | None = None
    executor: Literal["here", "pipe", "memory", "tcp", "ray"] = "here"
    timeout: float = Field(default=300.0, gt=0)


class ReuseRecipe(PipelineRecipe):
    """Run one pipeline densely and with pools of caches, a ladder each, on the same items."""

    kind: Literal["reuse"]  # pyright: ignore[reportIncompatibleVariableOverride]
    executor: Literal["here"] = "here"  # pyright: ignore[reportIncompatibleVariableOverride]
    task: TaskSource
    ladders: tuple[Literal["exact", "shifted", "anchored", "kvcomm"], ...] = ("exact", "shifted")
    pool: PoolSettings = PoolSettings()
    limit: int | None = Field(default=50, ge=2)
    batch_size: int = Field(default=1, ge=1)
    seed: int = 0
    out: Path


class EdgesRecipe(PipelineRecipe):
    """Which edges of a pipeline matter, which are kept under a budget, and which a graph learns.

    items: of the validation split, for attribution and pruning; limit: of the test split.
    """

    kind: Literal["edges"]  # pyright: ignore[reportIncompatibleVariableOverride]
    executor: Literal["here"] = "here"  # pyright: ignore[reportIncompatibleVariableOverride]
    task: TaskSource
    items: int = Field(default=64, ge=2)
    budget: BudgetSettings | None = None
    graph: GraphSettings | None = None
    limit: int | None = Field(default=100, ge=2)
    batch_size: int = Field(default=16, ge=1)
    seed: int = 0
    out: Path


Recipe = Annotated[
    ProjectorRecipe
    | RelayRecipe
    | RateRecipe
    | PlannerRecipe
    | PlannerExecutorRecipe
    | PlanRecipe
    | TelephoneRecipe
    | PipelineRecipe
    | ReuseRecipe
    | EdgesRecipe,
    Field(discriminator="kind"),
]
