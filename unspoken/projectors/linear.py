"""Maps between two models' spaces in closed form: no step of training.

What such a map is fitted on matters more than how. Fitted on prose, it explains the prose and
carries little else. Fitted on random words, it carries them. Neither the variance that it explains
nor the nearest word of what it makes tells whether a receiver can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from unspoken.projectors.states import StateProjector
from unspoken.types import Vectors

__all__ = ["LinearMap", "VocabularyMixing"]


class LinearMap(StateProjector):
    """A hidden state h to a vector at the place of its word's embedding e in the receiver.

        v = n * u / |u|,  u = W (h - mean) / spread + b

    kind `ridge`: W = argmin |W x - e|^2 + penalty |W|^2, which gives the unsure small norms. kind
    `procrustes`: the rotation, or its part between different widths, with the least |s R x - e|^2:
    R = U V^T of the singular vectors of x^T e, s the best scale (StateBridge, arXiv 2608.13317).
    Both scale every vector to n, the mean norm of the embeddings: a receiver takes a vector of
    another norm for another strength of a word. StateBridge rotates raw states. Here each dimension
    is standardised before, because a few dimensions of a residual stream dwarf the rest.

    >>> made = LinearMap(source_width=8, target_width=4, layers=[2])
    >>> share = made.fit(torch.randn(50, 1, 8), torch.randn(50, 4))
    >>> made(Vectors(torch.zeros(1, 5, 1, 8), torch.ones(1, 5).bool())).values.shape
    torch.Size([1, 5, 4])
    """

    recipe = "ridge"

    def __init__(
        self,
        *,
        source_width: int,
        target_width: int,
        layers: Sequence[int],
        kind: Literal["ridge", "procrustes"] = "ridge",
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__()
        self.source_width, self.target_width = source_width, target_width
        self.layers, self.kind = tuple(layers), kind
        self.source_weights, self.target_weights = source_weights, target_weights
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        width = source_width * len(self.layers)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("norm", torch.ones(1))
        self.linear = nn.Linear(width, target_width)

    mean: Tensor
    spread: Tensor
    norm: Tensor

    @torch.no_grad()
    def fit(self, states: Tensor, targets: Tensor, penalty: float = 0.01) -> float:
        """Fit to states (n, N, W of the sender) and embeddings (n, W of the receiver).

        penalty: of the ridge, for each position, in units of a dimension's variance. Returns the
        share of the embeddings' variance that is explained before norms are set, in sample.
        """
        flat, targets = states.float().flatten(1), targets.float()
        self.mean.copy_(flat.mean(0))
        self.spread.copy_(flat.std(0).clamp(min=1e-4))
        self.norm.copy_(targets.square().sum(1).sqrt().mean())
        sources = (flat - self.mean) / self.spread
        middle = targets.mean(0)
        wanted = targets - middle
        solver = _ridge if self.kind == "ridge" else _procrustes
        weight = solver(sources.double(), wanted.double(), penalty).float()
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(middle)
        left = (wanted - sources @ weight).square().sum()
        return 1 - float(left / wanted.square().sum())

    def forward(self, states: Vectors) -> Vectors:
        values = (states.values.float().flatten(2) - self.mean) / self.spread
        made = self.linear(values).float()
        return Vectors(self.norm * nn.functional.normalize(made, dim=-1), states.mask)


class VocabularyMixing(StateProjector):
    """A sender's next-word distribution over the words that both models know, in embeddings.

        v = sum_w softmax(head h / T)_w * embedding_w,  w in both vocabularies

    CIPHER (arXiv 2310.06272) between models with different vocabularies. h: the sender's last
    hidden state. words: how many both know, see `shared_vocabulary`. cap: the sender's bound of
    logits, if it has one, as Gemma 2 does. Nothing is fitted. `start` puts in the two tables.
    """

    recipe = "mixing"

    def __init__(
        self,
        *,
        source_width: int,
        target_width: int,
        words: int,
        temperature: float = 1.0,
        cap: float | None = None,
        kind: Literal["mixing"] = "mixing",
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__()
        self.source_width, self.target_width = source_width, target_width
        self.temperature, self.cap, self.kind, self.layers = temperature, cap, kind, (-1,)
        self.source_weights, self.target_weights = source_weights, target_weights
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.register_buffer("head", torch.zeros(words, source_width))
        self.register_buffer("table", torch.zeros(words, target_width))

    head: Tensor
    table: Tensor

    @torch.no_grad()
    def start(self, head: Tensor, table: Tensor) -> None:
        """Put in the sender's output embeddings (n, W) and the receiver's input ones (n, W')."""
        self.head.copy_(head)
        self.table.copy_(table)

    def forward(self, states: Vectors) -> Vectors:
        logits = states.values[:, :, -1].float() @ self.head.T
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        shares = torch.softmax(logits.float() / self.temperature, -1)
        return Vectors((shares @ self.table).float(), states.mask)


def _ridge(sources: Tensor, targets: Tensor, penalty: float) -> Tensor:
    gram = sources.T @ sources
    gram.diagonal().add_(penalty * len(sources))
    solve = cast(Callable[[Tensor, Tensor], Tensor], torch.linalg.solve)
    return solve(gram, sources.T @ targets)


def _procrustes(sources: Tensor, targets: Tensor, penalty: float) -> Tensor:
    svd = cast(Callable[..., tuple[Tensor, Tensor, Tensor]], torch.linalg.svd)
    left, values, right = svd(sources.T @ targets, full_matrices=False)
    return (left @ right) * (values.sum() / (sources @ left).square().sum())
