# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""KVCOMM as it was published, for comparison (arXiv 2510.12872).

All or nothing: every shared text of a prompt, and the fixed text after each, is moved and
corrected by offsets of stored reads, and next to nothing is read. Different from the published
code, keys are matched and corrected un-rotated, bases come from the first agent that read a text,
and what a pool holds counts against its budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from unspoken.anchors.offsets import Lesson
from unspoken.anchors.plan import Piece, ReusePlan, Row, Taught
from unspoken.anchors.shelf import Shelf

__all__ = ["Anchor", "Anchors", "Template", "plan_by_anchors"]

_BORDER = 8
"""Tokens at the ends of a text that its base may lack. They are read."""


@dataclass(slots=True, eq=False)
class Anchor:
    """A stored read: the base it was compared with, and the offsets, token by token."""

    base: Tensor
    offset: Tensor
    behind: Tensor
    hits: int = 0

    @property
    def bytes(self) -> int:
        return self.base.nbytes + self.offset.nbytes + self.behind.nbytes


@dataclass(slots=True)
class Anchors:
    """The pool of KVCOMM (arXiv 2510.12872): offsets weighted by how near their base is.

    entropy: the paper's gamma. A text becomes a new anchor when the entropy of its weights exceeds
    gamma log2(A). size: anchors kept. When there is one too many, the least used of the five oldest
    is dropped. Different from the published code, keys are matched and corrected un-rotated.
    """

    entropy: float = 0.3
    size: int = 20
    anchors: list[Anchor] = field(default_factory=list[Anchor])
    used: int = 0

    @property
    def bytes(self) -> int:
        return sum(anchor.bytes for anchor in self.anchors)

    def serves(self, base: Tensor) -> bool:
        """Whether the pool predicts this text's offset, by the paper's criterion."""
        near = self._long_enough(base)
        if len(near) < 2:
            return False
        n = base.shape[3]
        far = [(base[:, 1] - anchor.base[:, 1, :, :n]).float().norm() for anchor in near]
        weights = torch.softmax(-torch.stack(far), 0)
        entropy = -(weights * weights.clamp_min(1e-30).log2()).sum()
        if float(entropy) > self.entropy * torch.tensor(float(len(near))).log2():
            return False
        near[int(weights.argmax())].hits += 1
        return True

    def learn(self, lesson: Lesson) -> None:
        assert lesson.behind is not None
        kept, read = lesson.behind
        self.anchors.append(Anchor(lesson.base.clone(), lesson.exact - lesson.base, read - kept))
        if len(self.anchors) > self.size:
            self.anchors.remove(min(self.anchors[:5], key=lambda anchor: anchor.hits))

    def correct(self, base: Tensor) -> Tensor:
        """(L, 2, H, n, D): for each token the anchors' offsets, by mean distance of the token."""
        near, n = self._long_enough(base), base.shape[3]
        far = [(base - a.base[:, :, :, :n]).abs().float().mean((0, 2, 4)) for a in near]
        weights = torch.softmax(-torch.stack(far), 0).to(base.dtype)  # (A, 2, n)
        return _weighted(
            [weight[None, :, None, :, None] for weight in weights],
            [anchor.offset[:, :, :, :n] for anchor in near],
        )

    def correct_behind(self, base: Tensor) -> Tensor:
        """(L, 2, H, m, D): for the fixed text after it, by distance in each channel."""
        near, n = self._long_enough(base), base.shape[3]
        far = [(base - a.base[:, :, :, -n:]).float().norm(dim=3, keepdim=True) for a in near]
        weights = torch.softmax(-torch.stack(far), 0).to(base.dtype)  # (A, L, 2, H, 1, D)
        return _weighted(list(weights), [anchor.behind for anchor in near])

    def _long_enough(self, base: Tensor) -> list[Anchor]:
        return [anchor for anchor in self.anchors if anchor.base.shape[3] >= base.shape[3]]


def _weighted(weights: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    """The weighted sum, except for layer 0: it has seen no context, so its offset is zero."""
    products = (weight * offset for weight, offset in zip(weights, offsets, strict=True))
    total = reduce(torch.add, products)
    total[0] = 0
    return total


@dataclass(slots=True, eq=False)
class Template:
    """The fixed texts of a prompt as read with the names of the shares in their place.

    gaps: for each share the text after it, (L, 2, H, m, D), keys un-rotated.
    """

    gaps: tuple[Tensor, ...]
    used: int = 0

    @property
    def bytes(self) -> int:
        return sum(gap.nbytes for gap in self.gaps)


def plan_by_anchors(
    row: Row,
    plan: ReusePlan,
    template: Template | None,
    shelf: Shelf,
    pools: Sequence[Anchors],
    now: int,
) -> None:
    """Fill in a plan: all shares and all fixed text by anchors, or a dense read that adds some."""
    if template is None:
        plan.stay("its first read is dense, to make the template")
        return
    template.used = now
    texts, gaps, lessons = list[Piece](), list[Piece](), list[Taught]()
    consumers = row.consumers(exactly=True)
    shares = zip(row.shares, consumers, pools, template.gaps, row.gaps(), strict=False)
    for share, consumer, pool, gap, (behind, _) in shares:
        found = shelf.find(row.ids, share.first, min(share.last, row.end), now=now)
        if not found or found[0].size < share.last - share.first - _BORDER:
            plan.stay(f"the {share.name} was not read before")
            return
        pool.used = now
        text = found[0].piece()
        if pool.serves(text.kv):
            texts.append(Piece(text.at, text.kv, pool.correct(text.kv)))
            gaps.append(Piece(behind, gap, pool.correct_behind(text.kv)))
        else:
            lessons.append(Taught(consumer, text, Piece(behind, gap)))
    if lessons:
        plan.lessons = lessons
        plan.stay("a text became a new anchor")
    else:
        for piece in (*texts, *gaps):
            plan.move(piece)
