"""Which prompts share a beginning, so that each beginning is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Group", "grouped"]


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts, by their place, that have their first `begin` tokens in common."""

    begin: int
    members: tuple[int, ...]

    @property
    def saved(self) -> int:
        """Tokens that are not read again."""
        return (len(self.members) - 1) * self.begin


def grouped(prompts: Sequence[Sequence[int]], least: int = 16) -> list[Group]:
    """Prompts in groups with one beginning each, of `least` tokens or more, so that most is saved.

    BatchLLM (arXiv 2412.03594): beginnings form a tree, and a group keeps one level of it: either a
    node's, or those of its children, whichever saves more. The last token of a prompt is in no
    beginning. Prompts that share none are alone, with `begin` 0.

    >>> grouped([[1, 2, 3, 9], [7, 8], [1, 2, 3, 4]], least=2)
    [Group(begin=3, members=(0, 2)), Group(begin=0, members=(1,))]
    """
    order = sorted(range(len(prompts)), key=lambda n: tuple(prompts[n]))
    shared = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]
    waiting: list[_Node] = []
    for n, place in enumerate(order):
        depth = shared[n] if n < len(shared) else 0
        node = _Node(len(prompts[place]) - 1, alone=(place,))
        while waiting and waiting[-1].depth > depth:
            node = waiting.pop().with_child(node, max(1, least))
        if waiting and waiting[-1].depth == depth:
            waiting[-1] = waiting[-1].with_child(node, max(1, least))
        else:
            waiting.append(_Node(depth).with_child(node, max(1, least)))
    found = [node.closed(max(1, least)) for node in waiting]
    alone = [Group(0, (n,)) for node in found for n in node.alone]
    return [*(group for node in found for group in node.groups), *alone]


@dataclass(frozen=True, slots=True)
class _Node:
    """A beginning of `depth` tokens: the best groups of the prompts that have it, and the rest."""

    depth: int
    groups: tuple[Group, ...] = ()
    alone: tuple[int, ...] = ()

    def with_child(self, child: _Node, least: int) -> _Node:
        below = child.closed(least)
        groups, alone = (*self.groups, *below.groups), (*self.alone, *below.alone)
        return _Node(self.depth, groups, alone)

    def closed(self, least: int) -> _Node:
        """With a group of its own, if that saves more. Smaller groups are part of it or stay."""
        if self.depth < least:
            return self
        parts = [one for one in self.groups if len(one.members) * self.depth > one.saved]
        members = (*self.alone, *(n for one in parts for n in one.members))
        own = Group(self.depth, tuple(sorted(members)))
        if not members or own.saved <= sum(one.saved for one in parts):
            return self
        rest = tuple(one for one in self.groups if one not in parts)
        return _Node(self.depth, (own, *rest))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common, their last ones left out."""
    most = min(len(one), len(other)) - 1
    return next((n for n in range(most) if one[n] != other[n]), most)
