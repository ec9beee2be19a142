"""Means, principal axes and ridge regression of rows that are too many to hold at once.

Rows come in blocks (n, W). Of these one is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["Blocks", "Moments", "Ridge", "moments", "principal_axes", "ridge"]

_linalg: Any = torch.linalg  # has no types

Blocks = Callable[[], Iterator[Tensor]]
"""Passes over all rows, a block (n, W) at a time, each time it is called."""


@dataclass(frozen=True)
class Moments:
    """Of W columns: the number of rows, their mean (W,), and the squares around it, summed."""

    count: int
    mean: Tensor
    squares: Tensor

    @property
    def spread(self) -> Tensor:
        """The standard deviation (W,) of each column."""
        return (self.squares / (self.count - 1)).sqrt()


def moments(blocks: Iterable[Tensor]) -> Moments:
    """Mean and squares of all rows in one pass, in float64.

    T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance", The
    American Statistician 37 (1983). Raises `ValueError` without rows.

    >>> moments([torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])]).mean
    tensor([3.], dtype=torch.float64)
    """
    found: Moments | None = None
    for rows in blocks:
        spread, mean = torch.var_mean(rows.float(), 0, correction=0)
        new = Moments(len(rows), mean.double(), len(rows) * spread.double())
        found = new if found is None else _joined(found, new)
    if found is None:
        raise ValueError("a mean needs rows, but there are none; give a text to read")
    return found


def _joined(one: Moments, two: Moments) -> Moments:
    count, apart = one.count + two.count, two.mean - one.mean
    between = apart.square() * (one.count * two.count / count)
    return Moments(
        count, one.mean + apart * (two.count / count), one.squares + two.squares + between
    )


def principal_axes(blocks: Blocks, width: int, count: int) -> Tensor:
    """The first principal axes (W, count) of rows that have mean 0, as `torch.pca_lowrank` finds
    them in one iteration: N. Halko, P. G. Martinsson and J. A. Tropp, "Finding structure with
    randomness", SIAM Review 53 (2011). Passes over the rows twice.

    With G = X'X of rows X and a basis Z of G times random vectors, the range of X Z holds the rows'
    largest part. The axes are those of X projected on it: of Y (Z'Y)^-1 Y', with Y = G Z.
    """
    sketch = _after_gram(blocks, torch.randn(width, count))
    basis: Tensor = _linalg.qr(sketch).Q
    product = _after_gram(blocks, basis)
    values, vectors = cast(tuple[Tensor, Tensor], _linalg.eigh((basis.T @ product).double()))
    kept = values > torch.finfo(product.dtype).eps * values[-1]
    scale = torch.where(kept, values, 1.0).rsqrt() * kept
    root = product @ (vectors * scale).to(product)
    return _linalg.svd(root, full_matrices=False).U


def _after_gram(blocks: Blocks, vectors: Tensor) -> Tensor:
    """X'X times vectors (W, n)."""
    vectors = vectors.to(next(blocks()).device)
    found = torch.zeros_like(vectors)
    for rows in blocks():
        found += rows.T @ (rows @ vectors)
    return found


@dataclass(frozen=True)
class Ridge:
    """A linear map with an offset: weight (sources, targets), bias (targets,).

    explained: the share of the targets' variance, in sample.
    """

    weight: Tensor
    bias: Tensor
    explained: float


def ridge(pairs: Iterable[tuple[Tensor, Tensor]], targets: Moments, penalty: float) -> Ridge:
    """The map of sources (n, S) to targets (n, T), given in blocks, in one pass.

    targets: their moments. penalty: for each row, in units of the sources' variance.
    """
    middle, count = targets.mean.float(), targets.count
    gram, both, total = (torch.zeros(()),) * 3
    for sources, wanted in pairs:
        gram = gram.to(sources) + sources.T @ sources
        both = both.to(sources) + sources.T @ (wanted.float() - middle)
        total = total.to(sources) + sources.sum(0)
    means = total / count  # the targets have mean 0 here, so only `gram` is not centred yet
    gram = gram - count * means[:, None] * means
    gram.diagonal().add_(penalty * count)
    weight: Tensor = _linalg.solve(gram, both)
    # |Y - X W|^2 = |Y|^2 - 2 <W, X'Y> + <W, X'X W>, and (X'X + p) W = X'Y.
    left = (weight * both).sum() + penalty * count * weight.square().sum()
    return Ridge(weight, middle - means @ weight, float(left / targets.squares.sum()))
