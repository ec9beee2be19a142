"""The connector that vLLM loads by name: it puts caches before requests, and reads out theirs.

vLLM makes two of them in this process: one beside its scheduler, which says how many tokens need
not be computed, and one beside the model, which moves numbers.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false
from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unspoken.engines.blocks import Blocks, Layout
from unspoken.engines.store import STORES, Load
from unspoken.errors import IncompatibleModels

if TYPE_CHECKING:
    Connector: Any = object
    Metadata: Any = object
else:
    try:
        from vllm.distributed.kv_transfer.kv_connector.v1.base import (
            KVConnectorBase_V1 as Connector,
        )
        from vllm.distributed.kv_transfer.kv_connector.v1.base import (
            KVConnectorMetadata as Metadata,
        )
    except ImportError:  # without vLLM nobody makes one, but tools import every module
        Connector = Metadata = object

__all__ = ["UnspokenConnector"]


class _Loading(NamedTuple):
    """A load, from position `first` on, into blocks."""

    load: Load
    first: int
    blocks: Sequence[int]


class _Saving(NamedTuple):
    """What is read out of blocks: the `length` positions of a prompt, left under a name."""

    name: str
    length: int
    blocks: Sequence[int]


class _Work(Metadata):
    """What the connector beside the model does in one step."""

    def __init__(self, loads: Sequence[_Loading], saves: Sequence[_Saving]) -> None:
        self.loads, self.saves = loads, saves


class UnspokenConnector(Connector):
    """Loads caches of a `Store` before requests read on, and saves what they have read into it.

    A request says so by `kv_transfer_params`: `load` as a `Load`, or `save`, the name under which
    the cache of its whole prompt is left in `Store.saved`. Both are done within the step that
    needs them, so that no block outlives its request.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.config, self.caches = vllm_config, kv_cache_config
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self.store = STORES[extra["store"]]
        self.loading: list[_Loading] = []
        self.saving: dict[str, Any] = {}
        self.layers: list[tuple[Any, Layout]] = []

    # -- beside the scheduler ----------------------------------------------------------------------

    def on_new_request(self, request: Any) -> None:
        if _told(request, "save"):
            self.saving[request.request_id] = request

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """Asked again when a preempted request comes back, so it is loaded again too."""
        load: Load | None = _told(request, "load")
        return (max(0, load.length - num_computed_tokens) if load else 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        load: Load | None = _told(request, "load")
        if load and num_external_tokens:
            (chosen,) = blocks.get_block_ids()
            first = load.length - num_external_tokens
            self.loading.append(_Loading(load, first, list(chosen)))

    def build_connector_meta(self, scheduler_output: Any) -> _Work:
        saves: list[_Saving] = []
        for name, count in scheduler_output.num_scheduled_tokens.items():
            request = self.saving.get(name)
            if request is None:
                continue
            end = request.num_computed_tokens + count
            if end >= request.num_prompt_tokens:  # its prompt is read in this step
                (chosen,) = scheduler_output.kv_connector_block_state.get_block_ids(name)
                saves.append(
                    _Saving(_told(request, "save"), request.num_prompt_tokens, list(chosen))
                )
                del self.saving[name]
        work = _Work(self.loading, saves)
        self.loading = []
        return work

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        self.saving.pop(request.request_id, None)
        return False, None

    # -- beside the model --------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Learn the layout of every layer. Raises `IncompatibleModels` if one has none."""
        if len(self.caches.kv_cache_groups) != 1:
            raise IncompatibleModels(
                "the engine keeps the layers of this model in unlike groups of blocks; load it as "
                "a Backbone, or use a model whose layers are of one kind"
            )
        known: list[Layout] = []
        context = self.config.compilation_config.static_forward_context
        for name in sorted(kv_caches, key=_number):
            layer = context[name]
            memory, write = layer.kv_cache, partial(_write, layer)
            blocks = Blocks(
                self.caches.num_blocks,
                self.config.cache_config.block_size,
                getattr(layer, "num_kv_heads", 1),
                getattr(layer, "head_size", 1),
            )
            fitting = (one for one in known if one.blocks == blocks and one.holds(memory, write))
            layout = next(fitting, None)
            if layout is None:
                layout = Layout.learn(memory, write, blocks)
                known.append(layout)
            self.layers.append((layer, layout))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        for load, first, chosen in self._work.loads:
            held = self.store.find(load.name, load.owner)
            assert held is not None, "whoever waits for a request holds what it loads"
            size = self.config.cache_config.block_size
            at = torch.arange(first, load.length)
            slots = torch.tensor(chosen)[at // size] * size + at % size
            for (layer, _), pair in zip(self.layers, held.kv, strict=True):
                memory = layer.kv_cache
                keys, values = (
                    part[0, :, first : load.length].transpose(0, 1).contiguous() for part in pair
                )
                _write(layer, keys.to(memory), values.to(memory), slots)

    def wait_for_save(self) -> None:
        for name, length, chosen in self._work.saves:
            blocks = chosen[: -(-length // self.config.cache_config.block_size)]
            self.store.saved[name] = tuple(
                layout.read(layer.kv_cache, blocks, length) for layer, layout in self.layers
            )

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All layers are loaded before the pass."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """All layers are saved after the pass."""

    @property
    def _work(self) -> _Work:
        return self._get_connector_metadata()


def _told(request: Any, what: str) -> Any:
    return (request.kv_transfer_params or {}).get(what)


def _write(layer: Any, keys: Any, values: Any, slots: Any) -> None:
    layer.impl.do_kv_cache_update(layer, keys, values, layer.kv_cache, slots.to(keys.device))


def _number(name: str) -> int:
    """The number of a layer in its name, such as model.layers.3.self_attn.attn."""
    return int(re.findall(r"\d+", name)[0])
