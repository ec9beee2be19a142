"""What recipes of a pair and of a pipeline may say, checked by pydantic before anything is loaded.

Recipes of one study alone stand in its folder, see `unspoken.recipe.registry`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from unspoken.errors import unknown
from unspoken.projectors.registry import trained_kind, trained_kinds
from unspoken.recipe.parts import (
    AgentSource,
    AnyProjector,
    CanvasSettings,
    ChannelSource,
    EdgeSource,
    FreeSettings,
    InformationSettings,
    LoraSettings,
    ModelSource,
    Part,
    ProjectorSettings,
    Prompts,
    Stage,
)
from unspoken.tasks import TaskSource
from unspoken.wire import LOSSLESS, Packing

__all__ = ["PipelineRecipe", "ProjectorRecipe", "Recipe", "RelayRecipe"]


class Recipe(Part):
    """What a file of settings asks for; its `kind` says which class reads it."""

    @classmethod
    def kind_name(cls) -> str:
        """The `kind` that a file gives."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])


def _embedding() -> ProjectorSettings:
    return TypeAdapter[ProjectorSettings](AnyProjector).validate_python({"kind": "embedding"})


class ProjectorRecipe(Recipe):
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
    worth: InformationSettings = InformationSettings()
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

    def check_private(self, reason: str) -> None:
        """Raise `ValueError` unless the sender alone reads the fact of the items that are asked."""
        task = self.transfer or self.task
        if task.protocol != "private":
            raise ValueError(
                f"{self.kind} takes task.protocol=private, got {task.protocol!r}: {reason}"
            )


class PipelineRecipe(Recipe):
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
