"""A tiny model in an engine and the same in transformers. vLLM's blocks are small, to have many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from unspoken.backbone import Backbone
from unspoken.engines import VllmModel
from unspoken.seeding import seeded
from unspoken.testing import tiny_backbone

Start = Callable[..., Any]
_OPEN: list[VllmModel] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="vLLM is not installed; `make vllm` makes an environment")
    for item in items:
        if item.get_closest_marker("vllm") and find_spec("vllm") is None:
            item.add_marker(absent)
        elif item.get_closest_marker("vllm"):  # it warns of its own dependencies
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose heads are as wide as vLLM's kernels on a CPU want them."""
    home = tmp_path_factory.mktemp("models") / "tiny-llama"
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )
    with seeded(0):
        LlamaForCausalLM(config).save_pretrained(home)
    tiny_backbone("llama").tokenizer.save_pretrained(home)
    return home


@pytest.fixture(scope="session")
def plain(folder: Path) -> Backbone:
    return Backbone.from_pretrained(str(folder))


def close_all() -> None:
    """End the engine of an earlier module: a process has one."""
    while _OPEN:
        _OPEN.pop().close()


def start(name: str, **options: Any) -> VllmModel:
    """An engine in place of the one before."""
    close_all()
    model = VllmModel.from_pretrained(name, **options)
    _OPEN.append(model)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[VllmModel]:
    """The tiny model in an engine, with many small blocks."""
    yield start(str(folder), block_size=32, kv_cache_memory_bytes=64 << 20)
    close_all()


@contextmanager
def engine(name: str, **options: Any) -> Iterator[VllmModel]:
    """An engine for one test."""
    with start(name, **options) as model:
        _OPEN.clear()
        yield model
