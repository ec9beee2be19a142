"""The file of a training that goes on: weights and optimiser, under a digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unspoken import kept
from unspoken.errors import Damaged, TrainingError

__all__ = ["read_checkpoint", "write_checkpoint"]

_KIND = "checkpoint"
_ADAM = "optimizer-"
_KEYS = ("of", "plan", "step", "groups", "train", "validation")
_PARTS = ("module", "first", "best")


def write_checkpoint(
    path: Path,
    content: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write what a killed run needs. parts: the state of the module, the first and the best one."""
    adam = optimizer.state_dict()
    every = {**parts, **{f"{_ADAM}{n}": found for n, found in adam["state"].items()}}
    tensors = {f"{part}.{name}": one for part, of in every.items() for name, one in of.items()}
    about = {"of": _name(path), **content, "groups": adam["param_groups"]}
    kept.save(path, _KIND, about, tensors)


def read_checkpoint(
    path: Path, plan: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The content and the parts, where the module is. The optimiser goes on from what it had.

    Raises `Damaged` if the file is not whole, or is not of this module. Raises `TrainingError` if
    it was written under another plan.
    """
    with kept.advising("remove it to train anew, also if an earlier version wrote it"):
        found = kept.load(path, _KIND)
        kept.check_keys(found.content, _KEYS, path)
        if found.content["of"] != _name(path):
            raise Damaged(f"{path} holds the checkpoint {found.content['of']} instead")
        if found.content["plan"] != plan:
            raise TrainingError(
                f"{path} was written under another plan. Remove it to train anew, or restore the "
                f"settings: {found.content['plan']}"
            )
        device = next(module.parameters()).device
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor.to(device)
        for part in _PARTS:
            kept.check_tensors(parts[part], module.state_dict(), path)
        adam = _adam(parts, optimizer, path)
    optimizer.load_state_dict({"state": adam, "param_groups": found.content["groups"]})
    return found.content, parts


def _adam(
    parts: dict[str, dict[str, Tensor]], optimizer: torch.optim.Optimizer, path: Path
) -> dict[int, dict[str, Tensor]]:
    """Take out of the parts what the optimiser knows of its parameters, by number."""
    trained = [one for group in optimizer.param_groups for one in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for number, parameter in enumerate(trained):
        known = parts.pop(f"{_ADAM}{number}", None)
        if known is not None:
            shape = tuple(parameter.shape)
            wanted = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
            kept.check_tensors(known, wanted, path)
            found[number] = known
    if unknown := {*parts} - {*_PARTS}:
        raise Damaged(f"{path} has an unknown part {min(unknown)!r}")
    return found


def _name(path: Path) -> str:
    """A checkpoint is that of a folder, whose name says what is trained on what."""
    return f"{path.parent.name}/{path.name}"
