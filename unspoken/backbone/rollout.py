# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What a model feeds itself when it goes on without choosing words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from unspoken.backbone.caches import growing_cache, kept
from unspoken.cancelling import stop_if_cancelled
from unspoken.types import KV, Context

__all__ = ["Driven", "Expected", "Feeder", "Step", "aligned", "alignment", "drive"]


class Step(NamedTuple):
    """What a pass over one position gives.

    state: the last hidden state (B, W), after the final norm. logits: (B, V), where they are
    computed.
    """

    state: Tensor
    logits: Tensor | None = None


Feeder = Callable[[Step], Tensor]
"""From what a pass gave to the next input embeddings (B, W)."""

_PENALTY = 1e-5
_CHUNK = 1 << 14


class Driven(NamedTuple):
    """states and vectors: (B, m, W). kv: the cache of all that was fed. passes: forward passes."""

    states: Tensor
    vectors: Tensor
    kv: KV
    passes: int


def drive(
    passed: Callable[..., Step],
    context: Context,
    first: Tensor,
    feed: Feeder,
    steps: int,
    *,
    whole: bool,
    ended: Callable[[], bool] = lambda: False,
) -> Driven:
    """Feed the last token, embedded as `first` (B, 1, W), then `steps` vectors, one after another.

    passed: one pass of the model; without its head no vocabulary is computed. Padding stays
    masked in every step and positions go on from the last one. So a row gives the same in a batch
    as alone, which it does not in the authors' code of latent rollouts. whole: the last vector is
    fed too, so that the cache holds it. Raises `Cancelled` between two passes.
    """
    cache, begin = growing_cache(context.kv), context.mask.shape[1]
    real = torch.cat((context.mask, context.mask.new_ones(context.batch, steps)), 1)
    ahead = context.length[:, None] + torch.arange(steps, device=real.device)
    at, mask = torch.cat((context.positions, ahead), 1), real.long()
    states: list[Tensor] = []
    vectors: list[Tensor] = []
    fed = first
    for end in range(begin, begin + steps + whole):
        stop_if_cancelled()
        step = passed(
            inputs_embeds=fed,
            attention_mask=mask[:, :end],
            position_ids=at[:, end - 1 : end],
            past_key_values=cache,
            use_cache=True,
        )
        if end == begin + steps:
            break
        states.append(step.state)
        vectors.append(feed(step))
        fed = vectors[-1][:, None].to(first.dtype, copy=True)  # some models scale it in place
        if ended():
            break
    passes = cache.get_seq_length() - begin + 1
    return Driven(torch.stack(states, 1), torch.stack(vectors, 1), kept(cache), passes)


def alignment(
    outputs: Tensor, embed: Callable[[Tensor], Tensor], *, ridge: bool
) -> tuple[Tensor | None, Tensor]:
    """The map (W, W) from hidden states to input embeddings, and the norm of what it makes.

    LatentMAS (arXiv 2511.20639): W_a = (W_out^T W_out + penalty I)^-1 W_out^T W_in, and every
    result is scaled to the mean norm of an input embedding, as the authors' code does with W_a and
    without. With tied embeddings W_a is a multiple of the identity, so both feed the same.

    outputs: (V, W), the output embeddings. embed: ids to input embeddings, for W_in with the factor
    that a model puts on its table (Gemma's is sqrt(W)). The paper's models have none. The matrix
    is None unless `ridge`. The vocabulary is taken in pieces, in float64 where they add up.
    """
    size, width = outputs.shape
    gram, cross, norms = 0.0, 0.0, 0.0
    for start in range(0, size, _CHUNK):
        ids = torch.arange(start, min(start + _CHUNK, size), device=outputs.device)
        put, out = embed(ids).float(), outputs[ids].float()
        norms += put.norm(dim=1).double().sum()
        if ridge:
            gram += (out.T @ out).double()
            cross += (out.T @ put).double()
    norm = (torch.as_tensor(norms) / size).float()
    if not ridge:
        return None, norm
    gram = cast(Tensor, gram) + _PENALTY * torch.eye(width, device=outputs.device).double()
    solve = cast(Callable[[Tensor, Tensor], Tensor], torch.linalg.solve)
    return solve(gram, cast(Tensor, cross)).float(), norm


def aligned(matrix: Tensor | None, norm: Tensor) -> Feeder:
    """The next input by a matrix (W, W), or the state itself, at the norm of an embedding."""

    def feed(step: Step) -> Tensor:
        mapped = step.state.float()
        mapped = mapped if matrix is None else mapped @ matrix
        return mapped * (norm / mapped.norm(dim=-1, keepdim=True).clamp(min=1e-6))

    return feed


class Expected:
    """CIPHER (arXiv 2310.06272): the sum over words of softmax(logits / temperature) * embedding.

    likely: the most probable word (B,) of each step, which decides where a row ends.
    """

    def __init__(self, table: Tensor, temperature: float) -> None:
        self.table, self.temperature = table, temperature
        self.likely: list[Tensor] = []

    def __call__(self, step: Step) -> Tensor:
        assert step.logits is not None, "a pass with a vocabulary"
        logits = step.logits.float()
        self.likely.append(logits.argmax(-1))
        return torch.softmax(logits / self.temperature, -1) @ self.table
