"""Who a model is: everything that changes what a forward pass computes.

That is its parameters and buffers, the adapter that is active, what its configuration says of
rotation, windows, scales, caps and layers, and the numbers that its modules keep as attributes.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from torch import Tensor, nn

from unspoken.backbone.inner import text_config
from unspoken.errors import IncompatibleModels
from unspoken.identity import fingerprint

__all__ = ["Identity", "tensors_of"]


class Identity:
    """The identity of a model, computed anew when something that it depends on has changed.

    Noticed are tensors that were written in place or replaced, modules that were replaced, adapters
    that were switched, merged or disabled, and the model's configuration. Not noticed are writes
    through `.data` and to plain attributes of a module, such as the epsilon of a norm, after the
    first time.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._seen: object = None
        self._watched: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._known = ""

    def changed(self) -> bool:
        """Whether something has changed since the last call. The first time it has."""
        now = self._snapshot()
        if now == self._seen:
            return False
        modules = list(self.model.modules())
        tensors = [part for one in modules for part in _parts(one) if part]
        children = [one._modules for one in modules if one._modules]
        self._watched = (tensors, children, [one for one in modules if _has_adapters(one)])
        self._seen, self._known = self._snapshot(), ""
        return True

    def __str__(self) -> str:
        """16 hex digits. Equal for equal weights and settings in another folder or precision."""
        if not self._known:
            found = hashlib.sha256(fingerprint(tensors_of(self.model)).encode())
            found.update(json.dumps(_settings(self.model), sort_keys=True, default=str).encode())
            self._known = found.hexdigest()[:16]
        return self._known

    def _snapshot(self) -> object:
        tensors, children, adapted = self._watched
        return (
            [
                (id(tensor), 0 if tensor.is_inference() else tensor._version)
                for part in tensors
                for tensor in part.values()
                if tensor is not None
            ],
            [id(child) for part in children for child in part.values()],
            [(_used(one), _scales(one)) for one in adapted],
            repr(_declared(text_config(self.model))),
        )


_UNNOTED = {
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map"),
    *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    *("decoder_start_token_id", "mask_token_id", "image_token_id", "tie_word_embeddings"),
    *("is_encoder_decoder", "add_cross_attention", "initializer_range", "initializer_factor"),
    *("init_std", "problem_type", "id2label", "label2id", "num_labels", "return_dict"),
    *("output_hidden_states", "output_attentions", "output_router_logits", "router_aux_loss_coef"),
    *("task_specific_params", "finetuning_task", "tokenizer_class", "prefix", "torchscript"),
    *("quantization_config", "pretraining_tp", "chunk_size_feed_forward", "torchscript"),
    *("router_jitter_noise", "use_mamba_kernels", "gradient_checkpointing"),
    *("use_sliding_window", "max_window_layers"),  # `layer_types` says what comes of them
}
"""Fields of configurations that say nothing of a forward pass without training."""


def _declared(config: Any) -> dict[str, Any]:
    """The fields that the configuration's class declares, without those that change nothing.

    Whatever else a file may hold, such as the notes of a training program, is left out.
    """
    names = _noted(type(config))
    found = {name: value for name, value in vars(config).items() if name in names}
    if "sliding_attention" not in (found.get("layer_types") or ["sliding_attention"]):
        found.pop("sliding_window", None)
    return found


@cache
def _noted(kind: Any) -> frozenset[str]:
    """The fields of a configuration's class that say something of a forward pass."""
    names = {field.name for field in dataclasses.fields(kind)}
    names |= set(inspect.signature(kind.__init__).parameters)
    return frozenset(name for name in names - _UNNOTED if "drop" not in name)


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, of adapters only those that are active."""
    names = dict(_adapter_names(model))
    for path, module in model.named_modules():
        for part in _parts(module):
            for name, tensor in part.items():
                whole = f"{path}.{name}"
                begin = next((one for one in names if whole.startswith(one)), None)
                if tensor is None or (begin is not None and names[begin] is None):
                    continue
                known = whole if begin is None else f"{names[begin]}{whole[len(begin) :]}"
                yield known, _present(module, name, tensor)


def _present(module: Any, name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, or, of one that accelerate keeps elsewhere, what it keeps."""
    if not tensor.is_meta:
        return tensor
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))  # several hooks of one module are in one
    maps = [getattr(one, "weights_map", None) or {} for one in hooks]
    found = next((kept[name] for kept in maps if name in kept), None)
    if found is None:
        raise IncompatibleModels(
            f"{name!r} of a {type(module).__name__} holds no numbers: it is on device 'meta', and "
            "accelerate keeps none for it. Load the model with its weights, by from_pretrained"
        )
    return found


def _parts(module: Any) -> list[dict[str, Tensor | None]]:
    """The parameters of a module itself, and its buffers.

    Left out are those that reading writes anew, such as frequencies that follow the length.
    """
    kind = str(getattr(module, "rope_type", ""))
    follows = any(name in kind for name in ("longrope", "dynamic"))
    return [module._parameters] if follows else [module._parameters, module._buffers]


def _settings(model: Any) -> list[Any]:
    """What the configuration, the modules and the adapters say besides tensors."""
    modules = list(model.named_modules())
    numbers = {path: found for path, module in modules if (found := _numbers(module))}
    scales = [_scales(module) for _, module in modules if _has_adapters(module)]
    return [_plain(_declared(text_config(model))), numbers, scales]


def _numbers(module: nn.Module) -> dict[str, Any]:
    """The numbers that a module keeps as attributes: scales, epsilons, windows, kinds."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str))
        and not name.startswith("_")
        and name not in ("training", "p", "gradient_checkpointing")
        and not any(
            odd in name for odd in ("drop", "cached", "name", "is_causal", "kernel", "padding")
        )
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return _plain(value.to_dict()) if hasattr(value, "to_dict") else value


# -- adapters of peft ------------------------------------------------------------------------------


def _has_adapters(module: Any) -> bool:
    return hasattr(module, "adapter_layer_names") and hasattr(module, "disable_adapters")


def _used(module: Any) -> list[str]:
    """The adapters that a layer computes with, beside its own weights."""
    return [] if module.disable_adapters or module.merged else list(module.active_adapters)


def _scales(module: Any) -> list[float]:
    """How much each adapter in use counts."""
    scaling = getattr(module, "scaling", {})
    return [float(scaling.get(name, 1.0)) for name in _used(module)]


def _adapter_names(model: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Where each adapter's tensors begin, and their name without the adapter's, None if unused."""
    for path, module in model.named_modules():
        if _has_adapters(module):
            used, layer = _used(module), cast(Any, module)
            for part in layer.adapter_layer_names:
                for name in getattr(layer, part, {}):
                    begin = f"{path}.{part}.{name}"
                    yield begin, f"{path}.{part}.{used.index(name)}" if name in used else None
