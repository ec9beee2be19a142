"""Any model by its name, in this process or in an engine."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from unspoken.backbone import load_model
from unspoken.engines.vllm import VllmModel
from unspoken.errors import IncompatibleModels
from unspoken.protocols import Model
from unspoken.types import EngineName

__all__ = ["ending_engines", "load_in"]

_STARTED: ContextVar[list[VllmModel] | None] = ContextVar("_STARTED", default=None)


@contextmanager
def ending_engines() -> Generator[None]:
    """Engines that `load_in` starts in here end with it, so that there may be another one."""
    started: list[VllmModel] = []
    before = _STARTED.set(started)
    try:
        yield
    finally:
        _STARTED.reset(before)
        for model in started:
            model.close()


def load_in(
    name: str,
    *,
    engine: EngineName = "transformers",
    dtype: str = "auto",
    device: str | None = None,
) -> Model:
    """Load a model as a `LanguageModel`, or as a `VllmModel`.

    Raises what `load_model` and `VllmModel.from_pretrained` do.
    """
    if engine == "transformers":
        return load_model(name, dtype=dtype, device=device)
    if device is not None:
        raise IncompatibleModels(
            f"device={device} is given, but vLLM runs on the device that it was built for; leave "
            "device out, or use engine: transformers"
        )
    model = VllmModel.from_pretrained(name, dtype=dtype)
    if (started := _STARTED.get()) is not None:
        started.append(model)
    return model
