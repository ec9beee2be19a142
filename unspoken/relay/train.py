"""Training by recipe: a projector, and the free vectors that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from unspoken.agents import Agent
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, TextChannel
from unspoken.errors import DataError, RecipeError, StorageError, TrainingError
from unspoken.evaluation.items import query
from unspoken.identity import digest
from unspoken.projectors import FreeVectors, Projector, load_projector
from unspoken.projectors.load import PAIR
from unspoken.recipe.config import Recipe, RelayRecipe
from unspoken.recipe.parts import FreeSettings, LoraSettings, Stage
from unspoken.recipe.registry import studies
from unspoken.recipe.study import Trained
from unspoken.relay.pair import Pair
from unspoken.relay.relay import Relay
from unspoken.relay.saving import checkpoints, drop_checkpoints, save, write_module
from unspoken.relay.trained import (
    ComputedStates,
    Start,
    StateSource,
    trained_channel,
    trained_pipeline,
)
from unspoken.seeding import seeded
from unspoken.tasks import Item
from unspoken.training import Answers, History, Matching, Objective, Reconstruction, fit
from unspoken.training.lora import load_lora, save_lora, with_lora

__all__ = [
    "train_by",
    "train_lora",
    "train_projector",
    "train_reader",
    "train_vectors",
    "trained_folder",
]


def train_by(recipe: Recipe) -> Trained:
    """Train a recipe's projector or planner, or find the one that it trained before.

    Raises `RecipeError` if there is nothing to train.
    """
    for one in studies():
        reads = one.recipe is not None and isinstance(recipe, one.recipe)
        if one.train is not None and (reads or one.name in recipe.studies):
            return one.train(recipe)
    if not isinstance(recipe, RelayRecipe):
        raise RecipeError(
            f"a recipe of kind {recipe.kind_name()!r} trains nothing; give one of kind relay or "
            "planner"
        )
    projector, home = train_projector(Relay.of(recipe), trained_folder(recipe))
    return Trained("projector", home, sum(part.numel() for part in projector.parameters()))


def trained_folder(recipe: RelayRecipe) -> Path:
    """The folder of what a recipe trains."""
    return recipe.trained or recipe.out / "trained"


def train_projector(relay: Relay, folder: Path) -> tuple[Projector, Path]:
    """A projector and its folder: trained, or loaded if the same recipe left it below `folder`.

    Its kind comes first (`warmup`, or a closed form), then training on the receiver's answers
    (`training`). Both models stay frozen, which is checked. Raises `TrainingError`.
    """
    recipe = relay.recipe
    more = [recipe.planning] if relay.canvas else []
    more += [recipe.matching] if recipe.matching.steps else []
    home = _home(folder, "projector", relay, recipe.projector, recipe.warmup, *more)
    if not (home / "config.json").exists():
        with _frozen(relay), seeded(recipe.seed):
            projector, histories = _trained(relay, home)
        save(home, partial(_write_projector, relay, projector, histories, home))
    drop_checkpoints(home)
    projector = load_projector(home).to(relay.receiver.device)
    if not (home / PAIR).exists():  # trained by an earlier version
        with suppress(StorageError):  # the folder may be read-only, and all else works
            Pair.of(relay, trained_pipeline(relay, projector)).write(home)
    return projector, home


def _trained(relay: Relay, home: Path) -> tuple[Projector, Mapping[str, History]]:
    """A fresh projector after all its stages. `home` is where it will be saved."""
    recipe, items = relay.recipe, _items(relay)
    kind = trained_channel(recipe.projector.kind)
    projector = kind.fresh(relay, recipe.projector)
    pipeline = trained_pipeline(relay, projector)  # refuses what does not fit, before any pass
    (edge,) = pipeline.edges
    sender = pipeline.agents[edge.sender]
    sender_states = kind.sender_states(sender, [query(item) for item in items], edge.channel)

    def warm_up(module: nn.Module, objective: Reconstruction) -> History:
        return _fit(module, objective, relay, recipe.warmup, home, "projector, words")

    start = Start(relay, sender, items, len(relay.validation), sender_states, warm_up)
    histories = dict(kind.start(projector, recipe.projector, start))
    if recipe.matching.steps:
        matching = Matching(
            relay.continuer(),
            edge.channel,
            sender_states,
            [query(item) for item in items],
            [relay.continuations(item) for item in items],
            validation=len(relay.validation),
        )
        histories["matching"] = _fit(
            projector, matching, relay, recipe.matching, home, "projector, matching"
        )
    if recipe.training.steps:
        each = partial(kind.on_step, projector)
        answers = _answers(relay, pipeline.answerer, edge.channel, sender_states, items, each)
        histories["training"] = _fit(
            projector, answers, relay, recipe.training, home, "projector, answers"
        )
    return projector, histories


def _write_projector(
    relay: Relay, projector: Projector, histories: Mapping[str, History], home: Path, folder: Path
) -> None:
    """Everything that `load_pipeline` and people need; `folder` becomes `home`."""
    pair = Pair.of(relay, trained_pipeline(relay, projector))
    pair.write(folder)
    more = trained_channel(relay.recipe.projector.kind).card(projector, folder)
    write_module(projector, relay, histories, folder, more + pair.usage(home))


def train_vectors(relay: Relay, settings: FreeSettings, folder: Path, *, what: str) -> FreeVectors:
    """Train free vectors with the projector's budget, or load those that are in `folder`.

    what: 'reader' is a soft prompt after the instructions, trained on reading the fact as text.
    'constant' is in the message's place, without a sender.
    """
    home = _home(folder, what, relay, settings, what)
    if not (home / "config.json").exists():
        with seeded(relay.recipe.seed):
            vectors = _vectors(relay, settings)
        if what == "constant":
            receiver, channel = relay.solver(), Constant(vectors)
        else:
            receiver, channel = relay.solver(vectors), TextChannel(verbatim=True)
        with _frozen(relay):
            history = _fit_without_sender(relay, vectors, receiver, channel, settings.lr, home)
        save(home, partial(write_module, vectors, relay, {"training": history}))
    drop_checkpoints(home)
    return FreeVectors.from_pretrained(home).eval().to(relay.receiver.device)


def train_reader(relay: Relay, folder: Path) -> FreeVectors | None:
    """The vectors of the tuned reader, None if the recipe leaves it out; see `train_vectors`."""
    settings = relay.recipe.compared.reader
    return None if settings is None else train_vectors(relay, settings, folder, what="reader")


def train_lora(relay: Relay, settings: LoraSettings, parameters: int, folder: Path) -> Backbone:
    """Train the receiver itself, by LoRA and without any message, or load what is in `folder`.

    It has as many parameters as the projector, and the same steps and batches. What it gains is not
    communication.
    """
    home = _home(folder, "lora", relay, settings, str(parameters))
    if not (home / "adapter_config.json").exists():
        adapted = with_lora(relay.receiver, parameters, seed=relay.recipe.seed)
        solver = replace(relay, receiver=adapted).solver()
        with _frozen(relay):
            _fit_without_sender(relay, adapted.adapter, solver, None, settings.lr, home)
        save(home, partial(save_lora, adapted))
    drop_checkpoints(home)
    return load_lora(relay.receiver, home)


def _fit_without_sender(
    relay: Relay,
    module: nn.Module,
    receiver: Agent,
    channel: Channel | None,
    lr: float,
    home: Path,
) -> History:
    """Train a control on answers, as the recipe trains the projector, with another `lr`.

    Its sender computes nothing: the channel asks for no more than the sender's input.
    """
    items = _items(relay)
    given = ComputedStates(relay.reader(), [query(item) for item in items], frozenset())
    stage = relay.recipe.training.model_copy(update={"lr": lr})
    answers = _answers(relay, receiver, channel, given, items)
    return _fit(module, answers, relay, stage, home, home.name.partition("-")[0])


def _items(relay: Relay) -> list[Item]:
    """Training items, and after them the validation items that choose the best weights."""
    few = relay.validation
    if not few or not relay.train:
        total = len(relay.task.train) + len(relay.task.validation)
        raise DataError(
            f"of {total} training items {len(relay.shots)} are shown as examples, {len(few)} "
            f"validate and {len(relay.train)} are left to train on; give more data, lower "
            "prompts.shots, or set task.validation above 0"
        )
    return [*relay.train, *few]


def _answers(
    relay: Relay,
    receiver: Agent,
    channel: Channel | None,
    sender_states: StateSource,
    items: Sequence[Item],
    each: Callable[[int], None] = lambda step: None,
) -> Answers:
    return Answers(
        receiver,
        channel,
        sender_states,
        [query(item) for item in items],
        [relay.answer(receiver, item) for item in items],
        validation=len(relay.validation),
        each=each,
    )


def _vectors(relay: Relay, settings: FreeSettings) -> FreeVectors:
    receiver = relay.receiver
    vectors = FreeVectors(
        count=settings.vectors, width=receiver.spec.width, target_weights=receiver.spec.weights
    )
    vectors.start_from(relay.instruction(settings.vectors))
    return vectors.to(receiver.device)


def _fit(
    module: nn.Module, objective: Objective, relay: Relay, stage: Stage, home: Path, title: str
) -> History:
    checkpoint = checkpoints(home) / f"{title.split()[-1]}.pt"
    return fit(module, objective, stage.plan(relay.recipe.seed), checkpoint, title=title)


def _settings(part: Any) -> dict[str, Any]:
    """Settings by the names in the keys of what was trained before."""
    return {"lead" if key == "opening" else key: value for key, value in part.model_dump().items()}


def _home(folder: Path, what: str, relay: Relay, *more: Any) -> Path:
    """The folder of something trained, which may be the one that version 0.1 made."""
    models = (relay.sending, relay.answering)
    made = folder / f"{what}-{_key(relay, *more)}"
    former = folder / f"{what}-{_key(relay, *more, weights=[one.spec.former for one in models])}"
    return former if former.exists() and not made.exists() else made


def _key(relay: Relay, *more: Any, weights: Sequence[str] = ()) -> str:
    """What the trained weights depend on. weights: what the two models are known as."""
    recipe, specs = relay.recipe, (relay.sending.spec, relay.answering.spec)
    known = weights or [spec.weights for spec in specs]
    parts = [
        *zip(known, [f"torch.{spec.dtype}" for spec in specs], strict=True),
        [item.to_dict() for item in _items(relay)],
        relay.instructions,
        relay.task.protocol,
        recipe.training.model_dump(),
        recipe.seed,
        *(part if isinstance(part, str) else _settings(part) for part in more),
    ]
    return digest(parts)[:12]


@contextmanager
def _frozen(relay: Relay) -> Generator[None]:
    """Check that the weights of both models stay as they are. Raises `TrainingError`."""
    assert relay.engine is None, "what a receiver in an engine needs is trained before"
    before = _digests(relay)
    yield
    moved = [name for name, found in _digests(relay).items() if found != before[name]]
    if moved:
        raise TrainingError(f"training changed the frozen weights of {', '.join(moved)}")


def _digests(relay: Relay) -> dict[str, str]:
    sides = {"sender": relay.sender, "receiver": relay.receiver}
    return {f"{side} {model.name!r}": model.digest() for side, model in sides.items()}
