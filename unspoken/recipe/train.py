"""Training by recipe: a projector, and the free vectors that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console

from unspoken import models
from unspoken.agents import Agent
from unspoken.channels import Channel, Constant, Embedding, TextChannel
from unspoken.errors import DataError, TrainingError
from unspoken.evaluation import Item
from unspoken.evaluation.compare import query
from unspoken.files import atomic_folder
from unspoken.projectors import EmbeddingProjector, FreeVectors, Projector
from unspoken.recipe.config import FreeSettings, Stage
from unspoken.recipe.relay import Relay
from unspoken.training import Answers, History, Reconstruction, StoredThoughts, fit
from unspoken.types import Thought

__all__ = ["train_projector", "train_vectors"]

_console = Console(stderr=True)


def train_projector(relay: Relay, folder: Path) -> tuple[EmbeddingProjector, Path]:
    """Train a projector, or load the one that the same recipe left below `folder`; and its place.

    First towards the receiver's word embeddings (`warmup`), then towards its answers
    (`training`). Both models stay frozen, which is checked. Raises `TrainingError`.
    """
    recipe = relay.recipe
    home = folder / f"projector-{_key(relay, recipe.projector, recipe.warmup)}"
    if (home / "config.json").exists():
        return EmbeddingProjector.from_pretrained(home).eval(), home
    projector = _projector(relay)
    relay.embedding(projector)  # refuses layers that the sender does not have
    items = _items(relay)
    thoughts = StoredThoughts(
        relay.reader(),
        [query(item) for item in items],
        recipe.projector.layers,
        models.cache_folder() / "states",
    )
    seen = thoughts.states(range(min(len(thoughts), 256)))
    projector.calibrate(seen.values[seen.mask])
    channel = Embedding(projector)
    before = _digests(relay)
    histories: dict[str, History] = {}
    if recipe.warmup.steps and recipe.projector.vectors is None:
        words = Reconstruction(
            projector, thoughts, relay.sender, relay.receiver, validation=len(_few(relay))
        )
        projector.prompt.requires_grad_(False)
        histories["warmup"] = _fit(projector, words, relay, recipe.warmup, home, "projector, words")
        projector.prompt.requires_grad_(True)
    if recipe.training.steps:
        answers = _answers(relay, relay.solver(), channel, thoughts, items)
        histories["training"] = _fit(
            projector, answers, relay, recipe.training, home, "projector, answers"
        )
    _check_frozen(relay, before)
    _save(projector, relay, home, histories)
    return projector.eval(), home


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
    objective = _answers(relay, receiver, channel, _Told(relay.reader(), items), items)
    histories = {"training": _fit(vectors, objective, relay, stage, home, what)}
    _check_frozen(relay, before)
    _save(vectors, relay, home, histories)
    return vectors.eval()


class _Told:
    """Thoughts of a sender that passes on what it was told."""

    def __init__(self, sender: Agent, items: Sequence[Item]) -> None:
        self.sender, self.items = sender, items

    def __call__(self, rows: Sequence[int]) -> Thought:
        fields = {"context": tuple(self.items[row].context for row in rows)}
        return self.sender.think(fields, needs=frozenset())[0]


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
    relay: Relay, receiver: Agent, channel: Channel, thoughts: Any, items: Sequence[Item]
) -> Answers:
    return Answers(
        receiver,
        channel,
        thoughts,
        [query(item) for item in items],
        [relay.answer(item) for item in items],
        validation=len(_few(relay)),
    )


def _projector(relay: Relay) -> EmbeddingProjector:
    recipe, sender, receiver = relay.recipe, relay.sender.spec, relay.receiver.spec
    table = relay.receiver.table
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        projector = EmbeddingProjector(
            source_width=sender.width,
            target_width=receiver.width,
            **recipe.projector.model_dump(),
            scale=float(table.square().mean().sqrt()),
            source_weights=sender.weights,
            target_weights=receiver.weights,
            source_tokenizer=sender.tokenizer,
            target_tokenizer=receiver.tokenizer,
        )
    projector.start_from(_instruction(relay, recipe.projector.prompt))
    return projector.to(relay.receiver.device)


def _vectors(relay: Relay, settings: FreeSettings) -> FreeVectors:
    receiver = relay.receiver
    vectors = FreeVectors(
        count=settings.vectors, width=receiver.spec.width, target_weights=receiver.spec.weights
    )
    vectors.start_from(_instruction(relay, settings.vectors))
    return vectors.to(receiver.device)


def _instruction(relay: Relay, count: int) -> torch.Tensor:
    """Where free vectors start: embeddings (count, W) of the instruction, repeated if need be."""
    receiver = relay.receiver
    words = receiver.tokens(relay.recipe.prompts.instruction)
    ids = (words * (count // len(words) + 1))[:count]
    return receiver.embed(torch.tensor(ids, dtype=torch.long, device=receiver.device))


def _fit(
    module: Projector, objective: Any, relay: Relay, stage: Stage, home: Path, title: str
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
    return sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _digests(relay: Relay) -> dict[str, str]:
    sides = {"sender": relay.sender, "receiver": relay.receiver}
    return {f"{side} {model.name!r}": model.digest() for side, model in sides.items()}


def _check_frozen(relay: Relay, before: dict[str, str]) -> None:
    moved = [name for name, digest in _digests(relay).items() if digest != before[name]]
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
        (beside / "README.md").write_text(_card(module, relay, histories))
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
