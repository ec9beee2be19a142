"""What a recipe may say: YAML, merged with key=value from the command line, checked by pydantic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from unspoken.errors import RecipeError, unknown
from unspoken.evaluation.tasks import TaskSource
from unspoken.evaluation.teams import Terms
from unspoken.training import Plan
from unspoken.types import Denoising
from unspoken.wire import LOSSLESS, Packing

__all__ = [
    "AgentSource",
    "CanvasSettings",
    "ChannelSource",
    "EdgesRecipe",
    "EmbeddingSettings",
    "FusionSettings",
    "LinearSettings",
    "MemorySettings",
    "MixingSettings",
    "ModelSource",
    "PipelineRecipe",
    "PlanRecipe",
    "PlannerExecutorRecipe",
    "PlannerRecipe",
    "PlannerSettings",
    "ProjectorRecipe",
    "Prompts",
    "RateRecipe",
    "Recipe",
    "RelayRecipe",
    "ReuseRecipe",
    "Stage",
    "TelephoneRecipe",
    "chain",
    "find_recipe",
    "kept",
    "load_recipe",
    "recipe_names",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(_Part):
    """A model by name, and how it is loaded."""

    model: str
    dtype: str = "auto"
    device: str | None = None


class Stage(_Part):
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


class Prompts(_Part):
    """The words around an item, the same for every channel.

    instruction and `shots` worked examples from the training items make the receiver's lead;
    note_lead is what a writing sender reads first; note_tokens is the most it writes.
    """

    instruction: str
    shots: int = Field(default=3, ge=0)
    note_lead: str = ""
    note_tokens: int = Field(default=32, ge=1)
    answer_tokens: int = Field(default=12, ge=1)


class CanvasSettings(_Part):
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


class PlannerSettings(_Part):
    """A causal model becomes one that writes notes by diffusion, see `Denoised`.

    mask: the token that stands for a mask, one that texts do not use. shift: whether a position
    still predicts the next one, as in the causal model. canvas: lengths of canvases, in turn.
    Without training steps the sender is used as it is, and must be a diffusion model.
    """

    mask: str = "<empty_output>"
    shift: bool = True
    canvas: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    training: Stage
    validation: int = Field(default=64, ge=1)


class PlannerRecipe(_Part):
    """Teach a causal model to write notes by diffusion."""

    kind: Literal["planner"]
    sender: ModelSource
    task: TaskSource
    planner: PlannerSettings
    seed: int = 0
    out: Path


class EmbeddingSettings(_Part):
    """Hidden states to the receiver's embedding space, see `EmbeddingProjector`."""

    kind: Literal["embedding"] = "embedding"
    layers: tuple[int, ...] = (0,)
    hidden: int = Field(default=1024, ge=1)
    vectors: int | None = Field(default=None, ge=1)
    prompt: int = Field(default=0, ge=0)


class MemorySettings(_Part):
    """A cache to the receiver's, see `MemoryProjector`.

    texts: how many are read for the closed-form start; calibration: what they are, facts of the
    task, random words, or both.
    """

    kind: Literal["memory"]
    width: int = Field(default=1024, ge=1)
    hidden: int = Field(default=1024, ge=1)
    prompt: int = Field(default=0, ge=0)
    texts: int = Field(default=1000, ge=1)
    calibration: Literal["text", "random", "both"] = "text"


class LinearSettings(_Part):
    """Hidden states to the receiver's embeddings in closed form, see `LinearMap`.

    texts and calibration as in `MemorySettings`.
    """

    kind: Literal["ridge", "procrustes"]
    layers: tuple[int, ...] = (6,)
    texts: int = Field(default=500, ge=1)
    calibration: Literal["text", "random", "both"] = "random"
    penalty: float = Field(default=0.01, gt=0)


class MixingSettings(_Part):
    """Soft words over the words that both models know, see `VocabularyMixing`."""

    kind: Literal["mixing"]
    temperature: float = Field(default=1.0, gt=0)


class FusionSettings(_Part):
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


class ProjectorRecipe(_Part):
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
    projector: ProjectorSettings = Field(default=EmbeddingSettings(), discriminator="kind")
    warmup: Stage = Stage(steps=0, lr=1.0)
    training: Stage
    validation: int = Field(default=64, ge=1)
    items: int | None = Field(default=None, ge=1)
    seed: int = 0
    out: Path

    @model_validator(mode="after")
    def _something_to_train(self) -> ProjectorRecipe:
        if self.projector.kind == "mixing" and self.training.steps:
            raise ValueError("a mixing has nothing to train; set training.steps=0")
        return self


class ChannelSource(_Part):
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


class FreeSettings(_Part):
    """Free vectors: how many, and how fast they learn; steps and batches are the projector's."""

    vectors: int = Field(default=16, ge=1)
    lr: float = Field(gt=0)


class LoraSettings(_Part):
    """The receiver itself is trained, with as many parameters as the projector has."""

    lr: float = Field(gt=0)


class WorthSettings(_Part):
    """Usable bits: on how many items, at most log2 of that many bits; a minute for 32 is usual.

    samples: notes that the sender writes about each item for the text estimator. column: whether
    a comparison measures bits too.
    """

    items: int = Field(default=64, ge=2)
    samples: int = Field(default=1, ge=0)
    column: bool = False


def _by_name(channel: Any) -> Literal["name", "settings"]:
    return "name" if isinstance(channel, str) else "settings"


_Named = Literal["full-text", "text", "embedding", "memory", "fusion", "handoff", "oracle"]
_Compared = Annotated[
    Annotated[_Named, Tag("name")] | Annotated[ChannelSource, Tag("settings")],
    Discriminator(_by_name),
]


class RelayRecipe(ProjectorRecipe):
    """Compare channels between a sender that has read a fact and a receiver that is asked.

    `embedding`, `memory` or `fusion` among the channels is the recipe's own projector; any other
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
            if name in get_args(_KINDS) and name != self.projector.kind:
                raise ValueError(
                    f"channels name {name!r}, but the recipe trains projector.kind="
                    f"{self.projector.kind}; compare one trained channel at a time"
                )
        names = [name if isinstance(name, str) else name.name for name in self.channels]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"channels are told apart by name, but {sorted(twice)} stand twice")
        return self


_KINDS = Literal["embedding", "memory", "fusion"]


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
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict[str, tuple[Any, ...]])

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


class AgentSource(_Part):
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


class PipelineRecipe(_Part):
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


class PoolSettings(_Part):
    """What every pool of a comparison gets, see `AnchorPool`; `budget` in bytes."""

    budget: int = Field(default=2 << 30, ge=0)
    probe: float = Field(default=0.1, ge=0, le=1)
    tolerance: float = Field(default=0.1, gt=0)


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


class BudgetSettings(_Part):
    """The most that edges may cost for an item: how many, wire bytes, or positions to read."""

    most: float = Field(gt=0)
    unit: Literal["edges", "bytes", "positions"] = "edges"


class GraphSettings(_Part):
    """A sparse graph over latent edges, see `EdgeGates`: each receiver keeps so many `senders`.

    training: its batches are of two items or more, which are held against each other. validation:
    the items that choose the best graph.
    """

    senders: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    training: Stage
    validation: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _rows_to_compare(self) -> GraphSettings:
        if self.training.batch_size < 2 or not self.training.steps:
            raise ValueError("a graph is learned in 1 step or more, of batch_size 2 or more")
        return self


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


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and put `key=value` overrides on top. Raises `RecipeError`, `UnknownName`.

    A recipe with `base: other.yaml` continues another one that stands beside it.
    """
    path = find_recipe(name)
    try:
        merged = _with_base(path)
        merged.merge_with_dotlist(list(overrides))  # unlike a merge, it reaches into lists
        content = OmegaConf.to_container(merged, resolve=True)
    except _UNREADABLE as error:
        told = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be read with {list(overrides)}: {told}") from error
    try:
        return TypeAdapter[Recipe](Recipe).validate_python(content)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'][1:])) or 'kind'}: {e['msg']}" for e in error.errors()
        ]
        raise RecipeError(
            f"{path}: " + "; ".join(lines) + ". See its remarks for what each setting means"
        ) from error


def kept(recipe: Recipe) -> dict[str, Any]:
    """A recipe with all its settings, as a note among the results that it led to."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True)}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that ships. Raises `UnknownName`."""
    given = Path(name)
    if given.is_file():
        return given
    for path in _shipped():
        if given.name in (path.name, path.stem):
            return path
    raise unknown("recipe", name, recipe_names(), "A path to a YAML file works too.")


def chain(name: str) -> list[Path]:
    """The file of a recipe and of those it continues."""
    path = find_recipe(name)
    content: Any = OmegaConf.load(path)
    base = content.get("base")
    return [path, *(chain(str(path.with_name(base))) if base else ())]


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in _shipped())


def _shipped() -> list[Path]:
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "recipes", here.parent / "recipes"):  # installed, or a repository
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    return []


_UNREADABLE = (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, RecursionError)


def _with_base(path: Path) -> Any:
    content: Any = OmegaConf.load(path)
    if not isinstance(content, DictConfig):
        raise ValueError("a recipe is a mapping of settings, as those that ship are")
    base = content.pop("base", None)
    return OmegaConf.merge(_with_base(path.with_name(base)), content) if base else content
