"""Values as content of a key: other content for every other value, and a refusal for the rest."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from enum import Enum
from functools import cached_property, partial
from hashlib import sha256
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel
from tokenizers import Tokenizer
from torch import Tensor, nn

from unspoken.channels import Channel
from unspoken.errors import NoIdentity
from unspoken.protocols import Wrapper
from unspoken.types import Spec

__all__ = ["content"]

_Held = Sequence[Any] | Mapping[Any, Any] | set[Any] | frozenset[Any]


def content(value: Any, owner: str, path: str = "", above: frozenset[int] = frozenset()) -> Any:
    """A value as JSON would take it: all that it holds, with the types, the same on every machine.

    Tensors and arrays count by type, shape and bytes, wherever they are. Modules, channels,
    dataclasses and pydantic models count by class and attributes, without those that a
    `cached_property` has filled. Functions and classes count by the name under which they can be
    imported, models by what their `Spec` says. A class may define `__getstate__`, as for pickle,
    to say what it holds. owner, path: what errors call the value. above: what it is in, by id.

    Raises `NoIdentity` for everything else: two such values could not be told apart.

    >>> content({"b": 1, "a": [True, 0.5]}, "mine")
    ['dict', [['a', ['list', [True, ['float', '0.5']]]], ['b', 1]]]
    """
    leaf = _leaf(value, owner, path)
    if leaf is not NotImplemented:
        return leaf
    if id(value) in above:
        raise NoIdentity(
            f"{_called(owner, path)} holds itself, so its content has no end; keep it without "
            "the way back"
        )
    kind, held = _opened(value, owner, path)
    above |= {id(value)}

    def inner(one: Any, step: str) -> Any:
        return content(one, owner, f"{path}{step}", above)

    if isinstance(held, Mapping):
        shown = "[{!r}]" if kind == "dict" else ".{}"
        rows = [[inner(key, ""), inner(one, shown.format(key))] for key, one in held.items()]
    else:
        rows = [inner(one, f"[{n}]") for n, one in enumerate(held)]
    return [kind, rows if isinstance(held, Sequence) else sorted(rows, key=json.dumps)]


# -- values that hold no others --------------------------------------------------------------------


def _leaf(value: Any, owner: str, path: str) -> Any:
    """The content of a value that holds no others, `NotImplemented` for one that may."""
    if type(value) in (NoneType, bool, int, str):
        return value
    match value:
        case Tensor():
            return _tensor(value, owner, path)
        case np.ndarray():
            return _array(value, owner, path)
        case np.generic():
            return _array(np.asarray(cast(Any, value)), owner, path)
        case Enum():
            return ["enum", _name(type(value), owner, path), value.name]
        case torch.dtype() | torch.device():
            return [type(value).__name__, str(value)]
        case PurePath():
            return ["path", str(value)]
        case type() | FunctionType() | BuiltinFunctionType():
            return ["named", _name(value, owner, path)]
        case Tokenizer():
            return ["tokenizer", _hashed(value.to_str().encode())]
        case _ if type(value) in (float, complex, bytes):
            return [type(value).__name__, repr(value)]
        case _:
            return NotImplemented


def _tensor(value: Tensor, owner: str, path: str) -> list[Any]:
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
        raise _refusal(value, owner, path)
    if value.is_meta or value.is_quantized:
        raise _refusal(value, owner, path)
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
    data = plain.view(torch.uint8).numpy().tobytes()
    return ["tensor", str(value.dtype), list(value.shape), _hashed(data)]


def _array(value: Any, owner: str, path: str) -> list[Any]:
    if type(value) not in (np.ndarray, np.memmap) or value.dtype.hasobject:
        raise _refusal(value, owner, path)
    return ["array", repr(value.dtype), list(value.shape), _hashed(value.tobytes())]


def _hashed(data: bytes) -> str:
    return sha256(data).hexdigest()


def _name(thing: Any, owner: str, path: str) -> str:
    """The name under which a class or a function is imported. Raises `NoIdentity` without one."""
    home, name = str(thing.__module__), str(thing.__qualname__)
    found: Any = sys.modules.get(home)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing:
        what = "class" if isinstance(thing, type) else "function"
        raise NoIdentity(
            f"{_called(owner, path)} is or has the {what} {home}.{name}, which cannot be imported "
            "by this name, so another one may have it; define it at the top level of a module, "
            "once, and give it what it depends on as attributes or by functools.partial"
        )
    return f"{home}:{name}"


# -- values that hold others -----------------------------------------------------------------------


def _opened(value: Any, owner: str, path: str) -> tuple[str, _Held]:
    """The kind of a value and what it holds: in order, or a mapping or set in none."""
    kind = _kind(value)
    if kind in (dict, list, tuple, set, frozenset):
        return kind.__name__, value
    if kind is OrderedDict:
        return "OrderedDict", list(value.items())
    if kind is partial:
        return "partial", [value.func, value.args, value.keywords]
    if not isinstance(value, Wrapper) and _is_model(value):
        return "model", [replace(value.spec, name="", former="")]
    held = _attributes(value, owner, path)
    return _name(kind, owner, path), held


def _is_model(value: Any) -> bool:
    return isinstance(getattr(value, "spec", None), Spec) and hasattr(value, "score")


def _attributes(value: Any, owner: str, path: str) -> _Held:
    """What an instance of a class holds, by name."""
    kind = _kind(value)
    if isinstance(value, BaseModel):
        return {**dict(value), **(value.__pydantic_private__ or {})}
    if _says_itself(kind):
        return [value.__getstate__()]
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, Channel | Wrapper) or is_dataclass(value):
        return _state(value)
    plain: Any = value
    if isinstance(value, tuple) and not getattr(plain, "__dict__", None):
        return list(plain)
    raise _refusal(plain, owner, path)


def _says_itself(kind: type[Any]) -> bool:
    """Whether a class says what it holds by a `__getstate__` of its own."""
    found = kind.__getstate__
    if not isinstance(found, FunctionType) or found is nn.Module.__getstate__:
        return False
    return found.__module__ != "dataclasses"  # which makes one where there are slots


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an instance, slots among them, without what cached properties keep."""
    kind = _kind(value)
    own: Any = object.__getstate__(value)
    found: dict[str, Any] = {}
    for part in cast(tuple[Any, ...], own) if isinstance(own, tuple) else (own,):
        found |= part or {}
    return {name: one for name, one in found.items() if not _is_cached(kind, name)}


def _is_cached(kind: type[Any], name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)


def _module(module: nn.Module) -> dict[str, Any]:
    """The settings, tensors and parts of a module by name, and what is called when it is."""
    inside = vars(module)
    apart = {*vars(nn.Module()), "_hub_mixin_config"} - {"training"}  # the config repeats settings
    found = {name: one for name, one in _state(module).items() if name not in apart}
    for part in ("_parameters", "_buffers", "_modules"):
        found |= inside[part]
    hooks = [*inside["_forward_pre_hooks"].values(), *inside["_forward_hooks"].values()]
    return {**found, "forward hooks": hooks}


def _kind(value: object) -> type[Any]:
    return type(value)


# -- refusals --------------------------------------------------------------------------------------


def _refusal(value: object, owner: str, path: str) -> NoIdentity:
    kind = type(value)
    return NoIdentity(
        f"{_called(owner, path)} is of type {kind.__module__}.{kind.__qualname__}, and two of "
        "these cannot be told apart by what they hold. Keep numbers, words, dense tensors, arrays, "
        f"modules or dataclasses there, or give {kind.__qualname__} a `__getstate__` that returns "
        "what it holds as these"
    )


def _called(owner: str, path: str) -> str:
    return f"`{path.removeprefix('.')}` of {owner}" if path else owner
