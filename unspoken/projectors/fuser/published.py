"""The folders in which the authors of Cache-to-Cache publish fusers, read strictly and written.

* config.json: the recipe of the training, of which the alignment is read
* final/projector_config.json: {"0": {"1": {receiver layer: [[sharer layer, projector], ...]}}}
* final/projector_<n>.json: {"class": "C2CProjector", "init_args": {...}}
* final/projector_<n>.pt: a state dict
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import torch
from torch import Tensor

from unspoken import kept
from unspoken.errors import StorageError
from unspoken.files import atomic_folder

__all__ = ["Layout", "Publishable", "read_layout", "read_tensors", "write"]

_CLASS = "C2CProjector"

_MODULES = {
    "enter": "in",
    "common": "mlp1.blocks.0",
    "deep": "proj_mlp2.blocks",
    "leave": "proj_out",
    "weigh": "scalar_mlp2.blocks.0",
    "head": "scalar_head",
}
_SCALARS = ("key_gate_logit", "value_gate_logit", "gate_temperature")
_SETTINGS = {
    "source_dim": "source_dim",
    "target_dim": "target_dim",
    "source_num_heads": "source_heads",
    "target_num_heads": "target_heads",
    "hidden_dim": "hidden",
    "intermediate_dim": "inner",
    "num_layers": "depth",
    "dropout": "dropout",
    "initial_temperature": "hot",
    "final_temperature": "cold",
    "anneal_steps": "anneal",
}
_DEFAULTS: dict[str, Any] = {
    "source_num_heads": 1,
    "target_num_heads": 1,
    "hidden_dim": 1024,
    "intermediate_dim": 1024,
    "num_layers": 3,
    "dropout": 0.1,
    "initial_temperature": 1.0,
    "final_temperature": 0.001,
    "anneal_steps": 1929,
    "dtype": {"__type__": "torch.dtype", "value": "float32"},
    "zero_init": False,
}
_MOST = {"size": 1 << 20, "layer": 10_000, "num_layers": 256, "anneal_steps": 1 << 31}
"""The largest numbers in the JSON files: nothing is made of larger ones."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Publishable(Protocol):
    """What is written of a fuser."""

    layers: list[tuple[int, int]]
    rank: int | None
    alignment: Any
    gate: torch.nn.Parameter

    def state_dict(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """What the JSON files of a folder say; files: the tensors of each fused layer."""

    settings: dict[str, Any]
    dtype: torch.dtype
    files: list[Path]


def read_layout(folder: Path) -> Layout:
    """Read everything but tensors. Raises `StorageError` that names file and entry.

    A folder that `write` made has digests. In those of other people, numbers are bounded.
    """
    with kept.advising(_ADVICE):
        kept.check_files(folder)
    final = folder / "final"
    pairs = _layers(final / "projector_config.json")
    names = [f"projector_{projector}" for _, _, projector in pairs]
    found = {p.stem for p in final.iterdir() if re.fullmatch(r"projector_\d+\.(pt|json)", p.name)}
    if surplus := sorted(found - set(names)):
        _refuse(final / f"{surplus[0]}.pt", "no layer of projector_config.json uses it")
    given = [_init_args(final / f"{name}.json") for name in names]
    for name, other in zip(names, given, strict=True):
        if other != given[0]:
            _refuse(final / f"{name}.json", f"its init_args are not those of {names[0]}.json")
    settings = {ours: given[0][theirs] for theirs, ours in _SETTINGS.items()}
    settings["layers"] = [[receiver, sharer] for receiver, sharer, _ in pairs]
    settings |= {"noise": "gumbel", "alignment": _alignment(folder / "config.json")}
    return Layout(settings, _dtype(given[0]["dtype"]), [final / f"{name}.pt" for name in names])


def read_tensors(layout: Layout, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a fuser whose own state dict has the names and shapes of `state`."""
    found: dict[str, Tensor] = {}
    gates: list[Tensor] = []
    for n, file in enumerate(layout.files):
        names = _names(n, state)
        shapes = {theirs: state[ours].shape for ours, theirs in names.items()}
        tensors = _load(file, shapes | dict.fromkeys(_SCALARS, torch.Size()))
        tensors = {name: tensor.to(layout.dtype) for name, tensor in tensors.items()}
        found |= {ours: tensors[theirs] for ours, theirs in names.items()}
        gates.append(torch.stack([tensors[name] for name in _SCALARS[:2]]))
        temperature = found.setdefault("temperature", tensors["gate_temperature"])
        if not torch.equal(temperature, tensors["gate_temperature"]):
            _refuse(file, "its gate_temperature is not that of the other layers")
    return found | {"gate": torch.stack(gates)}


def write(folder: Path, fuser: Publishable, models: Mapping[str, str]) -> None:
    """Write a fuser. The folder appears whole, or stays as it was."""
    if fuser.rank is not None:
        raise StorageError(
            f"cannot write {folder}: the published layout has no low-rank fusers, but this one has "
            f"rank {fuser.rank}; use save_pretrained"
        )
    with atomic_folder(folder) as beside:
        _write_all(beside, fuser, models)
        kept.write_files(beside)


def _write_all(folder: Path, fuser: Publishable, models: Mapping[str, str]) -> None:
    dtype = str(fuser.gate.dtype).removeprefix("torch.")
    settings = {theirs: getattr(fuser, ours) for theirs, ours in _SETTINGS.items()}
    arguments = settings | {"dtype": {"__type__": "torch.dtype", "value": dtype}}
    layers = {str(r): [[s, n]] for n, (r, s) in enumerate(fuser.layers)}
    state = cast(dict[str, Tensor], fuser.state_dict())
    final = folder / "final"
    final.mkdir()
    _dump(folder / "config.json", {"model": _recipe(fuser, settings, models)})
    _dump(final / "projector_config.json", {"0": {"1": layers}})
    for n in range(len(fuser.layers)):
        names = {theirs: ours for ours, theirs in _names(n, state).items()}
        tensors = {theirs: state[ours] for theirs, ours in names.items()}
        scalars = (*state["gate"][n], state["temperature"])
        tensors |= dict(zip(_SCALARS, scalars, strict=True))
        tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        torch.save(tensors, final / f"projector_{n}.pt")
        _dump(final / f"projector_{n}.json", {"class": _CLASS, "init_args": arguments})


def _recipe(
    fuser: Publishable, settings: Mapping[str, Any], models: Mapping[str, str]
) -> dict[str, Any]:
    sizes = ("source_dim", "target_dim", "source_num_heads", "target_num_heads")
    params = {name: value for name, value in settings.items() if name not in sizes}
    aligned = fuser.alignment != "offsets"
    return {
        **models,
        "is_do_alignment": aligned,
        **({"alignment_strategy": fuser.alignment} if aligned else {}),
        "projector": {"type": _CLASS, "params": params},
    }


def _names(n: int, state: Mapping[str, Any]) -> dict[str, str]:
    """Our names of the tensors of fused layer `n`, and the published ones."""
    names: dict[str, str] = {}
    for side, path in enumerate(("key", "value")):
        prefix = f"paths.{n}.{side}."
        for ours in (name for name in state if name.startswith(prefix)):
            module, _, rest = ours.removeprefix(prefix).partition(".")
            names[ours] = f"{path}_{_MODULES[module]}.{rest}"
    return names


def _layers(file: Path) -> list[tuple[int, int, int]]:
    """(receiver layer, sharer layer, projector) of one pair of models, in the receiver's order."""
    table = _json(file)
    try:
        (sharers,) = table.values()
        (layers,) = sharers.values()
        found = [(int(layer), *map(int, sources[0])) for layer, sources in layers.items()]
        pairs = [(receiver, sharer, projector) for receiver, sharer, projector in sorted(found)]
        if not all(0 <= number <= _MOST["layer"] for pair in pairs for number in pair):
            raise ValueError("a number of a layer that no model has")
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        _refuse(file, "it does not map the layers of one receiver to those of one sharer", error)
    return pairs or _refuse(file, "it maps no layer")


def _init_args(file: Path) -> dict[str, Any]:
    content = _json(file)
    kind, given = content.get("class"), content.get("init_args")
    if str(kind).lower() != _CLASS.lower():
        _refuse(file, f"its class is {kind!r}, but only {_CLASS!r} can be read")
    if not isinstance(given, dict):
        _refuse(file, "it has no init_args")
    given = cast(dict[str, Any], given)
    known = {*_SETTINGS, *_DEFAULTS}
    if surplus := sorted(set(given) - known):
        _refuse(file, f"unknown init_args {surplus}; known are {sorted(known)}")
    settings = _DEFAULTS | given
    for name in _SETTINGS:
        value: Any = settings.get(name)
        kind = int | float if isinstance(_DEFAULTS.get(name), float) else int
        least, most = (3 if name == "num_layers" else 0), _MOST.get(name, _MOST["size"])
        if not isinstance(value, kind) or not least <= value <= most:
            _refuse(
                file, f"its {name!r} is {value!r}, and no fuser has below {least} or above {most}"
            )
    return settings


def _dtype(given: Any) -> torch.dtype:
    value = cast(dict[str, Any], given).get("value") if isinstance(given, dict) else given
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise StorageError(f"a fuser of dtype {name!r} cannot be read; allowed: {list(_DTYPES)}")
    return _DTYPES[name]


def _alignment(file: Path) -> str:
    model = _json(file).get("model")
    if not isinstance(model, dict):
        _refuse(file, "it has no entry 'model'")
    model = cast(dict[str, Any], model)
    if not model.get("is_do_alignment"):
        return "offsets"
    strategy = model.get("alignment_strategy", "first")
    if strategy not in ("first", "longest"):
        _refuse(file, f"its alignment_strategy is {strategy!r}, but must be 'first' or 'longest'")
    return strategy


def _load(file: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # there is no end to what foreign bytes raise in there
        _refuse(file, "it is not there, or holds something else than tensors", error)
    if not isinstance(content, dict):
        _refuse(file, "it is no dictionary of tensors")
    tensors = cast(dict[str, Any], content)
    for name in sorted(map(str, {*tensors, *shapes})):
        if name not in tensors or name not in shapes:
            _refuse(file, f"tensor {name!r} is {'surplus' if name in tensors else 'missing'}")
        tensor = tensors[name]
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        if shape != tuple(shapes[name]):
            _refuse(file, f"tensor {name!r} is {shape}, but must be {tuple(shapes[name])}")
        if tensor.is_complex() or not bool(tensor.isfinite().all()):
            _refuse(file, f"tensor {name!r} holds numbers that are not real and finite")
    return tensors


def _json(file: Path) -> dict[str, Any]:
    try:
        return kept.read_json(file)
    except StorageError as error:
        _refuse(file, f"it is not there, or no JSON object ({error})", error)


def _dump(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _refuse(file: Path, why: str, error: Exception | None = None) -> NoReturn:
    raise StorageError(f"cannot read {file}: {why}; {_ADVICE}") from error


_ADVICE = "give a folder as the authors publish it, with config.json and final/"
