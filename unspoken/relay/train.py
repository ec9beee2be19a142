"""Training by recipe: a projector, and the free vectors that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from torch import nn

from unspoken.agents import Agent
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, TextChannel
from unspoken.errors import DataError, MissingExtra, TrainingError
from unspoken.evaluation.items import query
from unspoken.files import atomic_folder
from unspoken.identity import digest
from unspoken.projectors import (
    EmbeddingProjector,
    FreeVectors,
    Fuser,
    LinearMap,
    MemoryProjector,
    Projector,
    VocabularyMixing,
)
from unspoken.recipe.parts import FreeSettings, LoraSettings, Stage
from unspoken.relay.relay import Relay
from unspoken.relay.trainees import Told, instruction, trainee
from unspoken.tasks import Item
from unspoken.training import Answers, History, Reconstruction, fit
from unspoken.training.lora import load_lora, save_lora, with_lora

__all__ = ["train_lora", "train_projector", "train_vectors"]

_console = Console(stderr=True)


def train_projector(relay: Relay, folder: Path) -> tuple[Projector, Path]:
    """Train a projector, or load the one that the same recipe left below `folder`; and its place.

    First what its kind starts with (`warmup`, or a closed form), then towards the receiver's
    answers (`training`). Both models stay frozen, which is checked. Raises `TrainingError`.
    """
    recipe = relay.recipe
    plans = [recipe.planning] if relay.canvas else []
    home = folder / f"projector-{_key(relay, recipe.projector, recipe.warmup, *plans)}"
    if (home / "config.json").exists():
        return _CLASSES[recipe.projector.kind].from_pretrained(home).eval(), home
    items = _items(relay)
    before = _digests(relay)
    made = trainee(relay, items, len(_few(relay)))
    projector = made.projector

    def words(module: nn.Module, objective: Reconstruction) -> History:
        return _fit(module, objective, relay, recipe.warmup, home, "projector, words")

    histories = made.start(words)
    if recipe.training.steps:
        answers = _answers(relay, relay.solver(), made.channel, made.thoughts, items, made.each)
        histories["training"] = _fit(
            projector, answers, relay, recipe.training, home, "projector, answers"
        )
    _check_frozen(relay, before)
    _save(projector, relay, home, histories)
    return projector.eval(), home


_CLASSES: dict[str, type[Projector]] = {
    "embedding": EmbeddingProjector,
    "memory": MemoryProjector,
    "fusion": Fuser,
    "ridge": LinearMap,
    "procrustes": LinearMap,
    "mixing": VocabularyMixing,
}


def train_vectors(relay: Relay, settings: FreeSettings, folder: Path, *, what: str) -> FreeVectors:
    """Train free vectors with the projector's budget, or load those that stand in `folder`.

    what: 'reader' is a soft prompt behind the lead, trained on reading the fact as text;
    'constant' stands in the message's place, with no sender at all.
    """
    home = folder / f"{what}-{_key(relay, settings, what)}"
    if (home / "config.json").exists():
        return FreeVectors.from_pretrained(home).eval()
    vectors = _vectors(relay, settings)
    items = _items(relay)
    if what == "constant":
        receiver, channel = relay.solver(), Constant(vectors)
    else:
        receiver, channel = relay.solver(vectors), TextChannel(verbatim=True)
    before = _digests(relay)
    stage = relay.recipe.training.model_copy(update={"lr": settings.lr})
    objective = _answers(relay, receiver, channel, Told(relay.reader(), items, frozenset()), items)
    histories = {"training": _fit(vectors, objective, relay, stage, home, what)}
    _check_frozen(relay, before)
    _save(vectors, relay, home, histories)
    return vectors.eval()


def train_lora(relay: Relay, settings: LoraSettings, parameters: int, folder: Path) -> Backbone:
    """Train the receiver itself, by LoRA and without any message, or load what stands in `folder`.

    As many parameters as the projector has, the same steps and batches: what it gains is no
    communication.
    """
    home = folder / f"lora-{_key(relay, settings, str(parameters))}"
    if not (home / "adapter_config.json").exists():
        adapted = with_lora(relay.receiver, parameters, seed=relay.recipe.seed)
        items = _items(relay)
        told = Told(relay.reader(), items, frozenset())
        solver = replace(relay, receiver=adapted).solver()
        stage = relay.recipe.training.model_copy(update={"lr": settings.lr})
        before = _digests(relay)
        _fit(
            adapted.adapter, _answers(relay, solver, None, told, items), relay, stage, home, "lora"
        )
        _check_frozen(relay, before)
        state = PartialState()
        if state.is_main_process:
            with atomic_folder(home) as beside:
                save_lora(adapted, beside)
        state.wait_for_everyone()
    return load_lora(relay.receiver, home)


def _items(relay: Relay) -> list[Item]:
    """Training items, and behind them the validation items that choose the best weights."""
    few = _few(relay)
    if not few or not relay.train:
        raise DataError(
            f"the task has {len(relay.train)} items to train on and {len(few)} to validate on; "
            "give more data, or set task.validation above 0"
        )
    return [*relay.train, *few]


def _few(relay: Relay) -> list[Item]:
    return list(relay.task.validation[: relay.recipe.validation])


def _answers(
    relay: Relay,
    receiver: Agent,
    channel: Channel | None,
    thoughts: Any,
    items: Sequence[Item],
    each: Callable[[int], None] = lambda step: None,
) -> Answers:
    return Answers(
        receiver,
        channel,
        thoughts,
        [query(item) for item in items],
        [relay.answer(receiver, item) for item in items],
        validation=len(_few(relay)),
        each=each,
    )


def _vectors(relay: Relay, settings: FreeSettings) -> FreeVectors:
    receiver = relay.receiver
    vectors = FreeVectors(
        count=settings.vectors, width=receiver.spec.width, target_weights=receiver.spec.weights
    )
    vectors.start_from(instruction(relay, settings.vectors))
    return vectors.to(receiver.device)


def _fit(
    module: nn.Module, objective: Any, relay: Relay, stage: Stage, home: Path, title: str
) -> History:
    checkpoint = home.with_name(f".{home.name}") / f"{title.split()[-1]}.pt"
    return fit(module, objective, stage.plan(relay.recipe.seed), checkpoint, title=title)


def _key(relay: Relay, *more: Any) -> str:
    """What the trained weights depend on."""
    recipe = relay.recipe
    parts = [
        *((model.fingerprint, str(model.dtype)) for model in (relay.sender, relay.receiver)),
        [asdict(item) for item in _items(relay)],
        relay.lead,
        relay.task.protocol,
        recipe.training.model_dump(),
        recipe.seed,
        *(part if isinstance(part, str) else part.model_dump() for part in more),
    ]
    return digest(parts)[:12]


def _digests(relay: Relay) -> dict[str, str]:
    sides = {"sender": relay.sender, "receiver": relay.receiver}
    return {f"{side} {model.name!r}": model.digest() for side, model in sides.items()}


def _check_frozen(relay: Relay, before: dict[str, str]) -> None:
    moved = [name for name, found in _digests(relay).items() if found != before[name]]
    if moved:
        raise TrainingError(f"training changed the frozen weights of {', '.join(moved)}")


def _save(module: Projector, relay: Relay, home: Path, histories: dict[str, History]) -> None:
    state = PartialState()  # under torchrun every process has trained; one of them writes
    if state.is_main_process:
        _write(module, relay, home, histories)
    state.wait_for_everyone()


def _write(module: Projector, relay: Relay, home: Path, histories: dict[str, History]) -> None:
    with atomic_folder(home) as beside:
        module.save_pretrained(beside)
        (beside / "history.json").write_text(
            json.dumps({name: asdict(history) for name, history in histories.items()})
        )
        gates = _gates(module, beside) if isinstance(module, Fuser) else ""
        (beside / "README.md").write_text(_card(module, relay, histories) + gates)
    _console.print(f"trained {home}")


def _card(module: Projector, relay: Relay, histories: dict[str, History]) -> str:
    recipe, task = relay.recipe, relay.task
    stages = "".join(
        f"* {name}: {history.train[-1][0]} steps, best validation loss {history.best:.3f}\n"
        for name, history in histories.items()
    )
    return (
        "---\nlibrary_name: unspoken\ntags: [unspoken, projector]\n---\n"
        f"# {type(module).__name__}: {relay.sender.name} to {relay.receiver.name}\n\n"
        f"Trained by `unspoken` on {task.name} ({len(relay.train)} training and "
        f"{len(_few(relay))} validation items, seed {recipe.seed}); both models frozen.\n\n"
        f"* sender weights {relay.sender.fingerprint}, receiver weights "
        f"{relay.receiver.fingerprint}\n* {sum(p.numel() for p in module.parameters()):,} "
        f"parameters\n{stages}"
    )


def _gates(fuser: Fuser, folder: Path) -> str:
    """The card's line about open gates; their picture beside it, where matplotlib is installed."""
    from unspoken.page.picture import draw_gates  # not above: a page knows studies, they this

    gates = fuser.gates()
    keys, values = (sum(gate.key > 0 for gate in gates), sum(gate.value > 0 for gate in gates))
    line = f"* gates open: {keys} for keys, {values} for values, of {len(gates)} layers"
    try:
        draw_gates(fuser, folder / "gates.png")
    except MissingExtra as error:
        _console.print(f"no gates.png is drawn: {error}")
        return f"{line}\n"
    return f"{line}, see [gates.png](gates.png)\n"
