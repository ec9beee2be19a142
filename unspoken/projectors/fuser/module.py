"""A sharer's KV cache, fused into a receiver's through learned gates.

Cache-to-Cache (arXiv 2510.03215), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu

from unspoken.projectors.base import Projector
from unspoken.projectors.fuser import published
from unspoken.types import KV

__all__ = ["Alignment", "Fuser", "Gate", "Noise", "add_changes", "layer_map"]

Alignment = Literal["offsets", "first", "longest"]
Noise = Literal["logistic", "gumbel"]
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Gate:
    """The two gates of one fused layer, as logits: above 0 is open in use, 0 and below is shut."""

    receiver_layer: int
    sharer_layer: int
    key: float
    value: float

    @property
    def open(self) -> bool:
        """Whether anything of the sharer passes."""
        return self.key > 0 or self.value > 0


class Fuser(Projector):
    """Change a receiver's cache by a sharer's, position by position and layer by layer.

    For keys and for values separately, R (B, N, H * D) of the receiver and S of the sharer:

        u = block(enter([S; R]))      (B, N, hidden)
        change = leave(blocks(u))     (B, N, H * D), `depth` - 2 blocks of width `inner`
        weight = sigmoid(head(u))     (B, H, N, 1)
        fused = R + gate * weight * change

    Keys are taken and given as they are stored, after RoPE. layers: pairs (receiver layer, sharer
    layer). Other layers of the receiver are not changed. rank: the width of a bottleneck in
    every wide linear, which makes a fuser small; None for full ones.

    In use a gate is 1 if its logit is above 0, else 0, and what is shut is not computed. In
    training it is sigmoid((logit + noise) / temperature), drawn for each position and head, and
    P(gate > 1/2) is sigmoid(logit) with `logistic` noise, so 1/2 at logit 0. The published
    `gumbel` noise has one side: P = 1 - exp(-exp(logit)), 0.63 at logit 0, and 0 in use there.

    alignment: how the sharer's tokens were laid out in training, for the record: by character
    `offsets`, or translated one by one (`first`, `longest`), which loses what has no single token.

    >>> fuser = Fuser(source_heads=1, source_dim=8, target_heads=2, target_dim=4, layers=[[0, 1]])
    >>> fuser.top, fuser.gates()[0].open
    (1, False)
    """

    recipe = "fusion_projector"
    generator: torch.Generator | None = None
    """Draws the noise of training; None for torch's own."""

    def __init__(
        self,
        *,
        source_heads: int,
        source_dim: int,
        target_heads: int,
        target_dim: int,
        layers: Sequence[Sequence[int]],
        hidden: int = 1024,
        inner: int = 1024,
        depth: int = 3,
        rank: int | None = None,
        dropout: float = 0.1,
        noise: Noise = "logistic",
        hot: float = 1.0,
        cold: float = 0.001,
        anneal: int = 1929,
        alignment: Alignment = "offsets",
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__()
        self.layers = [(receiver, sharer) for receiver, sharer in layers]
        if not self.layers or len(dict(self.layers)) < len(self.layers):
            raise ValueError(f"each receiver layer is fused once, at least one, not {layers}")
        if depth < 3 or noise not in get_args(Noise) or alignment not in get_args(Alignment):
            raise ValueError(
                f"depth {depth}, noise {noise!r}, alignment {alignment!r}: a depth is 3 or more, "
                f"a noise one of {get_args(Noise)}, an alignment one of {get_args(Alignment)}"
            )
        self.source_heads, self.source_dim = source_heads, source_dim
        self.target_heads, self.target_dim = target_heads, target_dim
        self.hidden, self.inner, self.depth, self.rank = hidden, inner, depth, rank
        self.dropout, self.noise, self.alignment = dropout, noise, alignment
        self.hot, self.cold, self.anneal = hot, cold, anneal
        self.source_weights, self.target_weights = source_weights, target_weights
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.gate = nn.Parameter(torch.zeros(len(self.layers), 2))
        self.register_buffer("temperature", torch.tensor(hot))
        sizes = (source_heads * source_dim, target_heads, target_dim, hidden)
        self.paths = nn.ModuleList(
            nn.ModuleList(_Path(sizes, inner, depth, rank, dropout) for _ in ("key", "value"))
            for _ in self.layers
        )

    temperature: Tensor

    @property
    def top(self) -> int:
        """The highest sharer layer that is used."""
        return max(sharer for _, sharer in self.layers)

    def layers_read(self) -> int:
        """How many layers of the sharer are needed: in use, none above the last open gate."""
        passing = (gate.sharer_layer for gate in self.gates() if gate.open or self.training)
        return max(passing, default=-1) + 1

    def gates(self) -> list[Gate]:
        """The gates of every fused layer."""
        logits = cast(list[list[float]], self.gate.tolist())
        pairs = zip(self.layers, logits, strict=True)
        return [Gate(*layers, key, value) for layers, (key, value) in pairs]

    @torch.no_grad()
    def begin(self, gate: float) -> None:
        """Start training as the receiver alone: all gates at this logit, all changes zero."""
        self.gate.fill_(gate)
        for name, parameter in self.named_parameters():
            if name.split(".")[3:4] == ["leave"]:
                parameter.zero_()

    def anneal_to(self, step: int) -> None:
        """Set the temperature of optimiser step `step`: from hot to cold, geometrically."""
        self.temperature.fill_(self.hot * (self.cold / self.hot) ** min(step / self.anneal, 1))

    def uniform(self, shape: torch.Size) -> Tensor:
        """Numbers in [0, 1), (B, H, N, 1), from which the noise of a gate is made."""
        gate = self.gate
        return torch.rand(shape, generator=self.generator, dtype=gate.dtype, device=gate.device)

    def forward(self, target: KV, source: KV, places: Tensor) -> KV:
        """Fuse the sharer's cache `source` into the receiver's `target`, L x (B, H, N, D).

        source: L x (B, H, M, D). places: (B, N), the source position that is fused into each
        position, -1 for none. What is not fused stays bit for bit; a layer whose gates are both
        shut is the same pair that was given.
        """
        if not source[0][0].shape[2]:
            return target
        chosen = places >= 0
        fused, index = list(target), places.clamp(min=0)
        rows = torch.arange(len(index), device=index.device)[:, None]
        for n, which in self._to_compute(chosen):
            receiver, sharer = self.layers[n]
            pair = list(fused[receiver])
            for side in which:
                found = source[sharer][side].transpose(1, 2)[rows, index].flatten(2)
                changed = pair[side] + self._change(n, side, (found, _flat(pair[side])))
                changed = changed.to(pair[side].dtype)
                pair[side] = torch.where(chosen[:, None, :, None], changed, pair[side])
            fused[receiver] = (pair[0], pair[1])
        return tuple(fused)

    def _to_compute(self, chosen: Tensor) -> Iterator[tuple[int, list[int]]]:
        """Layer by layer, the sides that pass: 0 for keys, 1 for values. One device sync."""
        passing = (self.gate > 0) & chosen.any() | self.training
        passing = cast(list[list[bool]], passing.tolist())
        for n, sides in enumerate(passing):
            if any(sides):
                yield n, [side for side in (0, 1) if sides[side]]

    def _change(self, n: int, side: int, heads: Sequence[Tensor]) -> Tensor:
        """gate * weight * change, (B, H, N, D).

        In use, everything from here on is float32, as with published fusers in bfloat16.
        """
        path = cast(nn.ModuleList, self.paths[n])[side]
        change, weight = path(torch.cat([part.to(self.gate.dtype) for part in heads], -1))
        if not self.training:
            return weight.float() * change
        uniform = self.uniform(weight.shape)
        noise = uniform.logit(1e-6) if self.noise == "logistic" else _gumbel(uniform)
        return ((self.gate[n, side] + noise) / self.temperature).sigmoid() * weight * change

    # -- published folders -------------------------------------------------------------------------

    @classmethod
    def from_published(cls, folder: str | Path) -> Self:
        """Read a fuser in the layout of the authors' checkpoints, in the dtype that they name.

        Strictly: a missing, surplus or odd tensor, file or setting is a `StorageError` that names
        it. Nothing is unpickled but tensors. Of several sharer layers for one receiver layer the
        first is used, as the authors' code does; their old aggregator files are ignored.
        """
        layout = published.read_layout(Path(folder))
        with torch.device("meta"):
            fuser = cls(**layout.settings).to(layout.dtype)
        state = published.read_tensors(layout, fuser.state_dict())
        fuser.load_state_dict(state, assign=True)
        return fuser.eval()

    def to_published(self, folder: str | Path, *, receiver: str = "", sharer: str = "") -> None:
        """Write the layout that `from_published` reads. The names of the models are for people.

        Raises `StorageError` for what that layout cannot say.
        """
        published.write(Path(folder), self, {"base_model": receiver, "teacher_model": sharer})


class _Path(nn.Module):
    """The change of keys or of values: heads (B, N, C) to (B, H, N, D), weight (B, H, N, 1)."""

    def __init__(
        self, sizes: Sizes, inner: int, depth: int, rank: int | None, dropout: float
    ) -> None:
        super().__init__()
        source, self.heads, dim, hidden = sizes
        target = self.heads * dim
        self.enter = _linear(source + target, hidden, rank)
        self.common = _Block(hidden, inner, rank, dropout)
        self.deep = nn.Sequential(*(_Block(hidden, inner, rank, dropout) for _ in range(2, depth)))
        self.leave = _linear(hidden, target, rank)
        self.weigh = _Block(hidden, hidden, rank, dropout)
        self.head = nn.Linear(hidden, self.heads)

    def forward(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        common = self.common(self.enter(heads))
        change = self.leave(self.deep(common)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weight = self.head(self.weigh(common)).sigmoid().mT[..., None]
        return change, weight


class _Block(nn.Module):
    """x + w2(gelu(w1(norm(x)))), (B, N, hidden), without bias."""

    def __init__(self, hidden: int, inner: int, rank: int | None, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.w1 = _linear(hidden, inner, rank, bias=False)
        self.w2 = _linear(inner, hidden, rank, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        normed = self.norm(states.to(self.norm.weight.dtype))  # autocast leaves it in float32
        change = self.w2(gelu(self.w1(normed)))
        return states + dropout(change, self.dropout, self.training)


def _linear(width: int, out: int, rank: int | None, *, bias: bool = True) -> nn.Module:
    if rank is None:
        return nn.Linear(width, out, bias=bias)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, out, bias=bias))


def _flat(heads: Tensor) -> Tensor:
    """(B, H, S, D) to (B, S, H * D)."""
    return heads.transpose(1, 2).flatten(2)


def _gumbel(uniform: Tensor) -> Tensor:
    return -((1e-20 - (uniform + 1e-20).log()).log())


def add_changes(kv: KV, plain: KV, fused: KV) -> KV:
    """What fusion changed in `plain`, added to `kv`: fusers in parallel. L x (B, H, S, D).

    A tensor that was not changed is the same object as in `kv`.
    """

    def added(now: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return now if after is before else now + (after - before)

    return tuple(
        (added(k, p, f), added(v, q, g))
        for (k, v), (p, q), (f, g) in zip(kv, plain, fused, strict=True)
    )


def layer_map(
    receiver_layers: int, sharer_layers: int, how: Literal["last_aligned", "k_nearest"]
) -> list[tuple[int, int]]:
    """Pairs (receiver layer, sharer layer), one for every receiver layer.

    last_aligned: counted from the last one, the lowest sharer layer below that. k_nearest: at the
    nearest relative depth.

    >>> layer_map(4, 3, "last_aligned")
    [(0, 0), (1, 0), (2, 1), (3, 2)]
    >>> layer_map(3, 5, "k_nearest")
    [(0, 0), (1, 2), (2, 4)]
    """
    if how == "last_aligned":
        ahead = sharer_layers - receiver_layers
        return [(n, max(n + ahead, 0)) for n in range(receiver_layers)]
    if how != "k_nearest":
        raise ValueError(f"how is 'last_aligned' or 'k_nearest', not {how!r}")
    ours, theirs = max(receiver_layers - 1, 1), max(sharer_layers - 1, 1)

    def nearest(n: int) -> int:
        return min(range(sharer_layers), key=lambda s: (abs(s * ours - n * theirs), s))

    return [(n, nearest(n)) for n in range(receiver_layers)]
