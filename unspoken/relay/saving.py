"""What training leaves in a folder: weights, losses, and a card for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from unspoken.files import atomic_folder, sweep
from unspoken.projectors import Projector
from unspoken.relay.relay import Relay
from unspoken.terminal import PlainConsole
from unspoken.training import History

__all__ = ["checkpoints", "drop_checkpoints", "save", "write_module"]


def checkpoints(home: Path) -> Path:
    """Where the training of what will be in `home` keeps its checkpoints."""
    return home.with_name(f".{home.name}")


def drop_checkpoints(home: Path) -> None:
    """Remove the checkpoints of what is whole in `home`, and what killed processes left around it.

    Another process that still trains the same keeps the one that it is writing.
    """
    folder = checkpoints(home)
    if PartialState().is_main_process and folder.is_dir():
        with suppress(OSError):  # the folder may be read-only, or hold somebody's next checkpoint
            for path in folder.glob("*.pt"):
                path.unlink(missing_ok=True)
            sweep(folder)
            folder.rmdir()
    sweep(home.parent)


def save(home: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill the folder `home`, which then exists as a whole or not at all.

    Under torchrun every process has trained, and one of them writes.
    """
    state = PartialState()
    if state.is_main_process:
        with atomic_folder(home) as beside:
            write(beside)
        PlainConsole(stderr=True).print(f"trained {home}")
    state.wait_for_everyone()


def write_module(
    module: Projector, relay: Relay, histories: Mapping[str, History], folder: Path, more: str = ""
) -> None:
    """Write the weights and their settings, history.json and README.md, which ends with `more`."""
    module.save_pretrained(folder)
    losses = {name: asdict(history) for name, history in histories.items()}
    (folder / "history.json").write_text(json.dumps(losses))
    (folder / "README.md").write_text(_card(module, relay, histories) + more, encoding="utf-8")


def _card(module: Projector, relay: Relay, histories: Mapping[str, History]) -> str:
    recipe, task = relay.recipe, relay.task
    stages = "".join(
        f"* {name}: {history.train[-1][0]} steps, best validation loss {history.best:.3f}\n"
        for name, history in histories.items()
    )
    return (
        "---\nlibrary_name: unspoken\ntags: [unspoken, projector]\n---\n"
        f"# {type(module).__name__}: {relay.sender.name} to {relay.receiver.name}\n\n"
        f"Trained by `unspoken` on {task.name} ({len(relay.train)} training and "
        f"{len(relay.validation)} validation items, seed {recipe.seed}); both models frozen.\n\n"
        f"* sender weights {relay.sender.fingerprint}, receiver weights "
        f"{relay.receiver.fingerprint}\n* {sum(p.numel() for p in module.parameters()):,} "
        f"parameters\n{stages}"
    )
