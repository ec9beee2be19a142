"""What has been read exactly: a tree of tokens that holds equal beginnings once.

A radix tree, as in RadixAttention (SGLang, arXiv 2312.07104, section 3). A node holds the cache of
the tokens on the way into it, so its size is that of the different tokens, however many
prompts begin with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Node", "Trie", "common"]

_MOST = 256
"""The most tokens of a node that is added."""


@dataclass(slots=True, eq=False)
class Node:
    """Tokens that follow another node's: ids (n,), their cache (L, 2, H, n, D), what follows.

    Keys are rotated to where they were read, so a cache serves only at that position. used: when it
    last served.
    """

    ids: Tensor
    kv: Tensor
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict[int, "Node"])
    used: int = 0
    served: bool = False

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        return self.kv.nbytes


class Trie:
    """Token sequences and their caches, by longest common beginning.

    >>> trie = Trie()
    >>> trie.add(torch.tensor([5, 6, 7]), torch.zeros(1, 2, 1, 3, 4), now=1)
    >>> trie.add(torch.tensor([5, 6, 8]), torch.zeros(1, 2, 1, 3, 4), now=2)
    >>> [taken for _, taken in trie.find(torch.tensor([5, 6, 8, 9]), now=3)]
    [2, 1]
    >>> [node.ids.tolist() for node in trie.nodes()]
    [[5, 6], [8], [7]]
    """

    def __init__(self) -> None:
        self.root = Node(torch.zeros(0, dtype=torch.long), torch.zeros(0), None)

    def find(self, ids: Tensor, *, now: int) -> list[tuple[Node, int]]:
        """The nodes with which `ids` begin, and how many tokens of each: all, but for the last."""
        path: list[tuple[Node, int]] = []
        node, done = self.root, 0
        while done < len(ids):
            child = node.children.get(int(ids[done]))
            if child is None:
                break
            taken = common(child.ids, ids[done:])
            child.served |= now > child.used
            child.used = now
            path.append((child, taken))
            done += taken
            if taken < child.size:
                break
            node = child
        return path

    def add(self, ids: Tensor, kv: Tensor, *, now: int, first: int = 0) -> None:
        """Keep a sequence and its cache (L, 2, H, S, D). Only what the tree lacks is copied.

        first: the token with which the cache begins. If the tree lacks one before it, nothing is
        kept. Nodes are short, so that of a sequence that is too long for a budget its beginning
        stays.
        """
        path = self.find(ids, now=now)
        done = sum(taken for _, taken in path)
        if done >= len(ids) or done < first:
            return
        node = self.root
        if path:
            node, taken = path[-1]
            if taken < node.size:
                node = _split(node, taken)
        for begin in range(done, len(ids), _MOST):
            part = slice(begin, min(begin + _MOST, len(ids)))
            held = kv[:, :, :, part.start - first : part.stop - first].clone()
            node.children[int(ids[begin])] = Node(ids[part].clone(), held, node, used=now)
            node = node.children[int(ids[begin])]

    def nodes(self) -> Iterator[Node]:
        """All nodes but the root, each before those that follow it."""
        waiting = list(self.root.children.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())

    def leaves(self) -> list[Node]:
        """The nodes that nothing follows. Only these can be dropped."""
        return [node for node in self.nodes() if not node.children]

    def drop(self, leaf: Node) -> None:
        """Forget a leaf."""
        assert leaf.parent is not None
        assert not leaf.children
        del leaf.parent.children[int(leaf.ids[0])]

    def check(self) -> None:
        """Raise `AssertionError` unless each node has the cache of its tokens and its own place."""
        for node in self.nodes():
            assert node.parent is not None, "a node of the tree has no parent"
            assert node.parent.children[int(node.ids[0])] is node, "a node is not in its place"
            assert node.kv.shape[3] == node.size, "a node has more tokens than cache, or fewer"


def _split(node: Node, at: int) -> Node:
    """Cut a node in two after `at` tokens. Returns the upper, new one. Both own their tensors."""
    assert node.parent is not None
    above, below = (part.clone() for part in (node.kv[:, :, :, :at], node.kv[:, :, :, at:]))
    upper = Node(node.ids[:at].clone(), above, node.parent, {}, node.used, node.served)
    node.parent.children[int(node.ids[0])] = upper
    upper.children[int(node.ids[at])] = node
    node.ids, node.kv, node.parent = node.ids[at:].clone(), below, upper
    return upper


def common(one: Tensor, other: Tensor) -> int:
    """How many tokens two sequences begin with in common."""
    n = min(len(one), len(other))
    differ = (one[:n] != other[:n]).nonzero()
    return int(differ[0]) if len(differ) else n
