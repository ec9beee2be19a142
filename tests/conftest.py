"""What every test stands on: no network, one torch thread, a cache of its own, tiny models."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.bench import Bench, Counter
from unspoken.backbone import Backbone
from unspoken.testing import tiny_backbone

torch.set_num_threads(1)

_connect = socket.socket.connect
_LOCAL = ("127.0.0.1", "::1", "localhost")


def _connect_nearby(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX and address[0] not in _LOCAL:
        raise RuntimeError(f"a test tried to reach {address}; tests run without a network")
    _connect(self, address)


socket.socket.connect = _connect_nearby  # for good, so that no fixture or import escapes it


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache; those on real models use the converted weights there."""
    if not request.node.get_closest_marker("real"):
        folder = request.getfixturevalue("tmp_path") / "cache"
        monkeypatch.setenv("UNSPOKEN_CACHE", str(folder))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Backbone]:
    """`tiny_backbone`, made once for equal arguments; nothing may write into what it returns."""
    return cache(tiny_backbone)


@pytest.fixture
def key_heads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """How many key heads the attention was given, in each pass that had a mask."""
    plain, heads = torch.nn.functional.scaled_dot_product_attention, set[int]()

    def spied(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Tensor:
        if named.get("attn_mask") is not None:
            heads.add(key.shape[1])
        return plain(query, key, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spied)
    return heads


@pytest.fixture
def passes() -> Callable[[Backbone], Any]:
    """Count the forward passes of a backbone: `with passes(model) as seen: ...; len(seen)`."""

    @contextmanager
    def count(backbone: Backbone) -> Iterator[list[None]]:
        if isinstance(backbone, Backbone) and backbone.spec and backbone.keeps:
            assert backbone.gaps in (True, False)  # proofs on the model come first, uncounted
        seen: list[None] = []
        hook = backbone.model.base_model.register_forward_pre_hook(lambda *_: seen.append(None))
        try:
            yield seen
        finally:
            hook.remove()

    return count


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]
) -> dict[str, Path]:
    """Two tiny models as model folders, and a third that is another fine-tune of the second."""
    home = tmp_path_factory.mktemp("models")
    made = {
        "sender": tiny("gemma", width=24),
        "receiver": tiny("llama"),
        "other": tiny("llama", seed=1),
    }
    for name, backbone in made.items():
        cast(Any, backbone.model).save_pretrained(home / name)
        backbone.tokenizer.save_pretrained(home / name)
    return {name: home / name for name in made}


@pytest.fixture
def bench(tmp_path: Path, folders: dict[str, Path]) -> Bench:
    return Bench(tmp_path, folders)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)
