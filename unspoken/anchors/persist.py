# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A store as tensors and plain values, for safetensors and JSON."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unspoken.anchors.kvcomm import Anchor, Anchors, Template
from unspoken.anchors.offsets import MeanOffset
from unspoken.anchors.shelf import Base
from unspoken.anchors.store import Store
from unspoken.anchors.trie import Node

__all__ = ["pack", "unpack"]


def pack(store: Store) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a store holds: tensors by name, and plain values that describe them."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {"fallen": store.fallen}
    nodes = list(store.trie.nodes())
    place = {id(node): n for n, node in enumerate(nodes)} | {id(store.trie.root): -1}
    values["exact"] = [[place[id(node.parent)], node.used] for node in nodes]
    for n, node in enumerate(nodes):
        tensors |= {f"exact.{n}.ids": node.ids, f"exact.{n}.kv": node.kv}
    values["bases"] = [[base.ids, base.used, base.cue] for base in store.shelf.bases]
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
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, values


def unpack(store: Store, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Put back into an empty store what `pack` took out."""
    store.fallen = dict(values["fallen"])
    nodes: list[Node] = []
    for n, (parent, used) in enumerate(values["exact"]):
        above = store.trie.root if parent < 0 else nodes[parent]
        node = Node(tensors[f"exact.{n}.ids"].cpu(), tensors[f"exact.{n}.kv"], above, used=used)
        above.children[int(node.ids[0])] = node
        nodes.append(node)
    for n, (ids, used, cue) in enumerate(values["bases"]):
        store.shelf.add(Base(tuple(ids), tensors[f"bases.{n}"], used, cue))
    for name, (tokens, used) in values["offsets"].items():
        store.offsets[name] = MeanOffset(tensors[f"offsets.{name}"], tokens, used)
    for name, (used, hits) in values["anchors"].items():
        anchors = list[Anchor]()
        for n, hit in enumerate(hits):
            base, offset, behind = (
                tensors[f"anchors.{name}.{n}.{part}"] for part in ("base", "offset", "behind")
            )
            anchors.append(Anchor(base, offset, behind, hit))
        store.offsets[name] = Anchors(store.ladder.entropy, store.ladder.size, anchors, used)
    for name, (used, count) in values["templates"].items():
        gaps = tuple(tensors[f"templates.{name}.{n}"] for n in range(count))
        store.templates[name] = Template(gaps, used)
