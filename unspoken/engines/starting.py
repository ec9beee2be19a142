"""Starting an engine for a model, and what cannot work in one."""

from __future__ import annotations

from typing import Any

import torch

from unspoken import models
from unspoken.backbone import Backbone, kind_of
from unspoken.backbone.loaded import settings_of
from unspoken.engines.engine import Engine, check_alone
from unspoken.engines.store import Store
from unspoken.errors import IncompatibleModels

__all__ = ["check_engine", "start"]

_BACKBONE = "use it as a Backbone (engine: transformers)"
_SPREAD = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
_OURS = {"model", "kv_transfer_config", "skip_tokenizer_init", "enable_prompt_embeds"}
_LEAST = 1 << 30


def start(name: str, dtype: str, budget: int, options: dict[str, Any]) -> tuple[Backbone, Engine]:
    """The model as its file says, and an engine that has its weights.

    Raises `UnknownName`, `MissingExtra` and `IncompatibleModels`.
    """
    _check_options(options)
    check_alone()
    if kind_of(name) is not Backbone:
        raise IncompatibleModels(
            f"{name!r} writes by diffusion, which the engine does not; {_BACKBONE}"
        )
    own = _own_dtype(name)
    # Not converted, so that its weights are mapped from the file and take no memory.
    plain = Backbone.from_pretrained(name, dtype=own, device="cpu")
    _check_takes(plain)
    dtype = own if dtype == "auto" else dtype
    store = Store(budget, f"{plain.spec.weights} {dtype}")
    return plain, Engine(models.resolve(name), store, dtype=dtype, **_defaults(plain, options))


def check_engine(plain: Backbone) -> None:
    """Check that an engine can be started for a model, now and in this process.

    Raises `MissingExtra` and `IncompatibleModels`.
    """
    check_alone()
    _check_takes(plain)


def _check_takes(plain: Backbone) -> None:
    spec, name = plain.spec, plain.name
    if "cache" not in spec.gives or "vectors" not in spec.takes:
        raise IncompatibleModels(
            f"{name!r} keeps something other than keys and values, which cannot be loaded in front "
            f"of a request; {_BACKBONE}"
        )
    if spec.window is not None:
        raise IncompatibleModels(
            f"{name!r} has layers with a sliding window, whose blocks the engine gives up while "
            f"they would be copied; {_BACKBONE}"
        )


def _check_options(options: dict[str, Any]) -> None:
    """Refuse what would put the engine beyond this process, and what is set here."""
    for option in _SPREAD:
        if options.get(option, 1) != 1:
            raise IncompatibleModels(
                f"{option}={options[option]} spreads the engine over processes, and caches are "
                "loaded in this one alone; leave it out"
            )
    if taken := sorted(_OURS & options.keys()):
        raise IncompatibleModels(f"{', '.join(taken)} are set here; leave them out")


def _own_dtype(name: str) -> str:
    """What the weights are in their file, such as bfloat16."""
    with models.explained(name):
        settings = settings_of(models.resolve(name))
    return str(settings.get("dtype") or settings.get("torch_dtype") or "float32")


def _defaults(plain: Backbone, options: dict[str, Any]) -> dict[str, Any]:
    """Options for vLLM. On a CPU its own would take nearly all of the memory, and compile."""
    if torch.cuda.is_available():
        return options
    slot = sum(heads * (keys + values) for heads, keys, values in plain.shapes)
    longest = options.get("max_model_len") or plain.spec.positions or 0
    room = max(_LEAST, 2 * longest * slot * 4)
    return {"enforce_eager": True, "kv_cache_memory_bytes": room, **options}
