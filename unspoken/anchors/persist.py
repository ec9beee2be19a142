# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The stores of a pool as one file, and back: all that is in it is checked, or nothing is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unspoken import kept
from unspoken.anchors.kvcomm import Anchor, Anchors, Template
from unspoken.anchors.offsets import MeanOffset
from unspoken.anchors.plan import Ladder
from unspoken.anchors.shelf import Base
from unspoken.anchors.store import Store
from unspoken.anchors.trie import Node
from unspoken.errors import Damaged, StorageError

__all__ = ["FILE", "Realm", "load_stores", "save_stores"]

FILE = "pool.safetensors"
_KIND = "pool"
_FORMER = "pool.json"  # of version 0.1, without digests

Realm = tuple[str, ...]
"""Readers of one realm share caches: their weights, precision, device and owner are the same."""


def save_stores(path: Path, ladder: Ladder, stores: Mapping[Realm, Store], now: int) -> None:
    """Write all stores with a digest."""
    tensors: dict[str, Tensor] = {}
    described: list[dict[str, Any]] = []
    for n, (realm, store) in enumerate(stores.items()):
        found, values = _pack(store)
        tensors |= {f"{n}.{name}": tensor for name, tensor in found.items()}
        described.append({"realm": realm, **values})
    content = {"ladder": asdict(ladder), "now": now, "stores": described}
    kept.save(path, _KIND, content, tensors)


def load_stores(folder: Path, ladder: Ladder) -> tuple[dict[Realm, Store], int]:
    """All stores of a file, and its last moment. Raises `StorageError`, `Damaged`."""
    path = folder / FILE
    if not path.exists() and (folder / _FORMER).exists():
        raise StorageError(
            f"cannot load a pool from {folder}: version 0.1 wrote it, without digest"
        )
    found = kept.load(path, _KIND)
    content = found.content
    kept.check_keys(content, ("ladder", "now", "stores"), path)
    if content["ladder"] != asdict(ladder):
        raise StorageError(
            f"{folder} was saved by a pool with {content['ladder']}, but this one has "
            f"{asdict(ladder)}. Make the pool with the same ladder"
        )
    try:
        made = dict(
            _unpacked(n, values, found.tensors, ladder, path)
            for n, values in enumerate(content["stores"])
        )
        now = int(content["now"])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Damaged(f"{path} is damaged: its content is that of no pool ({error})") from error
    if found.tensors:
        raise Damaged(f"{path} has an unknown tensor {min(found.tensors)!r}")
    return made, now


def _pack(store: Store) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a store holds: tensors by name, and plain values that describe them."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {"fallen": store.fallen}
    nodes = list(store.trie.nodes())
    place = {id(node): n for n, node in enumerate(nodes)} | {id(store.trie.root): -1}
    values["exact"] = [[place[id(node.parent)], node.used, node.served] for node in nodes]
    for n, node in enumerate(nodes):
        tensors |= {f"exact.{n}.ids": node.ids, f"exact.{n}.kv": node.kv}
    values["bases"] = [[base.ids, base.used, base.cue, base.served] for base in store.shelf.bases]
    tensors |= {f"bases.{n}": base.kv for n, base in enumerate(store.shelf.bases)}
    values["offsets"], values["anchors"], values["templates"] = {}, {}, {}
    for name, pool in store.offsets.items():
        if isinstance(pool, MeanOffset):
            values["offsets"][name] = [pool.tokens, pool.used]
            tensors[f"offsets.{name}"] = pool.total
            continue
        values["anchors"][name] = [pool.used, [anchor.hits for anchor in pool.anchors]]
        for n, anchor in enumerate(pool.anchors):
            for part in ("base", "offset", "behind"):
                tensors[f"anchors.{name}.{n}.{part}"] = getattr(anchor, part)
    for name, template in store.templates.items():
        values["templates"][name] = [template.used, len(template.gaps)]
        tensors |= {f"templates.{name}.{n}": gap for n, gap in enumerate(template.gaps)}
    return tensors, values


def _unpacked(
    n: int, values: Any, tensors: dict[str, Tensor], ladder: Ladder, path: Path
) -> tuple[Realm, Store]:
    """A store from what `_pack` took out of it. Takes its tensors out of those that are left."""
    kept.check_keys(values, _KEYS, path)
    realm: Realm = tuple(map(str, values["realm"]))
    taken, store = _Caches(n, tensors, _device(realm[3], path), path), Store(ladder, None)
    store.fallen = {str(name): str(reason) for name, reason in values["fallen"].items()}
    _fill_trie(store, values["exact"], taken)
    for number, (ids, used, cue, served) in enumerate(values["bases"]):
        kv = taken(f"bases.{number}", len(ids))
        base = Base(tuple(map(int, ids)), kv, int(used), int(cue), bool(served))
        store.shelf.add(base)
    for name, (tokens, used) in values["offsets"].items():
        store.offsets[name] = MeanOffset(taken(f"offsets.{name}", 1), int(tokens), int(used))
    for name, (used, hits) in values["anchors"].items():
        anchors = [_anchor(f"anchors.{name}.{place}", hit, taken) for place, hit in enumerate(hits)]
        store.offsets[name] = Anchors(ladder.entropy, ladder.size, anchors, int(used))
    for name, (used, count) in values["templates"].items():
        gaps = tuple(taken(f"templates.{name}.{place}") for place in range(int(count)))
        store.templates[name] = Template(gaps, int(used))
    return realm, store


_KEYS = ("realm", "fallen", "exact", "bases", "offsets", "anchors", "templates")


def _device(kind: str, path: Path) -> torch.device:
    if kind != "cpu" and not torch.get_device_module(kind).is_available():
        raise StorageError(
            f"{path} holds caches of a device {kind!r}, and this machine has none. Load it where "
            "there is one, or make a new pool here"
        )
    return torch.device(kind)


def _fill_trie(store: Store, rows: Any, taken: _Caches) -> None:
    nodes: list[Node] = []
    for n, (parent, used, served) in enumerate(rows):
        ids = taken.ids(f"exact.{n}.ids")
        above = store.trie.root if parent == -1 else nodes[range(n)[parent]]
        if int(ids[0]) in above.children:
            raise ValueError("two of its beginnings are one")
        node = Node(ids, taken(f"exact.{n}.kv", len(ids)), above, {}, int(used), bool(served))
        above.children[int(ids[0])] = node
        nodes.append(node)


def _anchor(name: str, hits: Any, taken: _Caches) -> Anchor:
    base = taken(f"{name}.base")
    offset, behind = taken(f"{name}.offset", base.shape[3]), taken(f"{name}.behind")
    return Anchor(base, offset, behind, int(hits))


class _Caches:
    """The tensors of one store, each given once, (L, 2, H, S, D), all with the same L, H and D."""

    def __init__(
        self, store: int, tensors: dict[str, Tensor], device: torch.device, path: Path
    ) -> None:
        self.store, self.tensors, self.device, self.path = store, tensors, device, path
        self.shape: tuple[int, ...] = ()

    def __call__(self, name: str, positions: int | None = None) -> Tensor:
        """A cache with so many positions."""
        tensor = self._pop(name)
        shape = tuple(tensor.shape)
        self.shape = self.shape or (*shape[:3], *shape[4:])
        size = shape[3] if positions is None and len(shape) > 3 else positions
        if len(shape) != 5 or shape[1] != 2 or (*self.shape[:3], size, *self.shape[3:]) != shape:
            raise Damaged(
                f"{self.path} is damaged: {name!r} is {shape}, which no cache of {size} tokens is"
            )
        kept.check_finite(tensor, f"{self.path} is damaged: {name!r}")
        return tensor.to(self.device)

    def ids(self, name: str) -> Tensor:
        """Tokens (n,), one at least."""
        ids = self._pop(name)
        if ids.dtype != torch.long or ids.ndim != 1 or not len(ids):
            raise Damaged(f"{self.path} is damaged: {name!r} is no row of tokens")
        return ids

    def _pop(self, name: str) -> Tensor:
        return self.tensors.pop(f"{self.store}.{name}")
