"""A sender's cache to a receiver's: what one model has read, as the other would store it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from unspoken import rope
from unspoken.errors import Damaged, IncompatibleModels
from unspoken.projectors.base import Projector
from unspoken.projectors.closed_form import moments, principal_axes, ridge
from unspoken.seeding import seeded
from unspoken.types import KV, CacheSegment, KVCache, Vectors

__all__ = ["MemoryProjector", "ReadByBoth"]

_PACE = 100.0
"""Free vectors want a learning rate of 1e-2, a hundred times that of these weights."""


class ReadByBoth(NamedTuple):
    """Positions that both models have read.

    states: (n, 2 Ls Hs Ds), targets: (n, 2 Lt Ht Dt), without their positions; ids: (n,), the
    receiver's tokens there.
    """

    states: Tensor
    ids: Tensor
    targets: Tensor


class MemoryProjector(Projector):
    """Map a cache of Ls x (B, Hs, S, Ds) to one of Lt x (B, Ht, S', Dt), for another model.

    Two steps, so that little travels. `encode` takes the keys of all layers back to position 0,
    standardises keys and values, and keeps `width` combinations of them for each position: the
    message. `decode` makes of these the keys and values of every receiver layer,

        kv = W [z; GELU(V z)] + b,

    and rotates the keys to positions 0, 1, ... `start` sets all but V in closed form, by principal
    components and ridge regression, from positions that both models have read; V starts at random.

    With a `vocabulary`, the number of words, W of the `width` numbers are the receiver's embedding
    of the token, at RMS 1, which `learn_words` puts in. So a word that no training text has keeps
    its spelling.

    A position of the message is a token of the receiver: `places` finds the sender's position in
    which that token ends, and how many characters of the sender's token are still to come (a long
    token of one vocabulary is several of the other). `prompt` is the number of free
    vectors before every message. They stay with the receiver, as in `EmbeddingProjector`.

    source, target: layers, heads and head width of the two caches; rotary: how many frequencies
    each rotates with. The fingerprints say what it is trained with.
    """

    recipe = "memory_projector"
    pieces = 16

    def __init__(
        self,
        *,
        source: tuple[int, int, int],
        target: tuple[int, int, int],
        rotary: tuple[int, int],
        target_width: int,
        width: int = 1024,
        hidden: int = 1024,
        prompt: int = 0,
        vocabulary: int = 0,
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__()
        kept = width - (target_width if vocabulary else 0)
        if kept < 1:
            raise IncompatibleModels(
                f"{width} numbers for each token leave none for the sender's cache, because the "
                f"receiver's embedding of the word takes {target_width}; choose a larger width, or "
                "words=false"
            )
        self.source, self.target = tuple(source), tuple(target)
        self.width, self.target_width = width, target_width
        self.source_weights, self.target_weights = source_weights, target_weights
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.tokenizer: Tokenizer | None = None
        states, made = (2 * layers * heads * dim for layers, heads, dim in (source, target))
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("spread", torch.ones(states))
        self.register_buffer("source_turns", torch.zeros(source[0], rotary[0]))
        self.register_buffer("target_turns", torch.zeros(target[0], rotary[1]))
        words = torch.zeros(vocabulary, target_width, dtype=torch.bfloat16)
        self.register_buffer("words", words, persistent=vocabulary > 0)
        self.basis = nn.Linear(states, kept, bias=False)
        self.piece = nn.Embedding(self.pieces, kept)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(width + hidden, made)
        self.prompt = nn.Parameter(torch.randn(prompt, target_width) / _PACE)
        nn.init.zeros_(self.piece.weight)
        nn.init.normal_(self.inner.weight, std=width**-0.5)

    mean: Tensor
    spread: Tensor
    source_turns: Tensor
    target_turns: Tensor
    words: Tensor

    # -- what travels ------------------------------------------------------------------------------

    def encode(
        self, cached: CacheSegment, places: Tensor, rest: Tensor, ids: Tensor, mask: Tensor
    ) -> Vectors:
        """The message (B, S', width): codes of the positions `places` (B, S') of a sender's cache.

        rest: (B, S'), characters of that position's token after the receiver's token. ids:
        (B, S'), the receiver's tokens.
        """
        states = self.states(cached)
        index = places[..., None].expand(-1, -1, states.shape[-1])
        code = self.basis((states.gather(1, index) - self.mean) / self.spread)
        code = code + self.piece(rest.clamp(0, self.pieces - 1))
        return Vectors(self._spelled(code, ids), mask)

    def decode(self, message: Vectors) -> CacheSegment:
        """The receiver's cache of a message, keys rotated from each row's first real position."""
        code, mask = message.values.to(self.basis.weight.dtype), message.mask
        layers, heads, dim = self.target
        made = self.outer(self._sources(code))
        made = made.unflatten(-1, (layers, 2, heads, dim)).permute(2, 3, 0, 4, 1, 5)
        cached = CacheSegment.of(tuple((k, v) for k, v in made), mask)
        kv = rope.rotate(cached.kv, cached.positions, list(self.target_turns))
        return replace(cached, cache=KVCache(kv))

    def front_vectors(self, batch: int) -> Vectors:
        """The free vectors (B, n, W of the receiver) that come before every message."""
        values = (_PACE * self.prompt).expand(batch, -1, -1)
        return Vectors(values, values.new_ones(values.shape[:2], dtype=torch.bool))

    def states(self, cached: CacheSegment) -> Tensor:
        """(B, S, 2 Ls Hs Ds) float32: keys without their positions, and values."""
        return _flat(rope.rotate(cached.kv, -cached.positions, list(self.source_turns)))

    def targets(self, cached: CacheSegment) -> Tensor:
        """(B, S, 2 Lt Ht Dt): what `decode` should make, from the receiver's own cache."""
        return _flat(rope.rotate(cached.kv, -cached.positions, list(self.target_turns)))

    # -- where it starts ---------------------------------------------------------------------------

    def start_from(self, values: Tensor) -> None:
        """Let the free vectors begin at `values` (n, W of the receiver): embeddings of words."""
        with torch.no_grad():
            self.prompt.copy_(values / _PACE)

    @torch.no_grad()
    def learn_words(self, table: Tensor) -> None:
        """Keep the receiver's embeddings (V, W), each at RMS 1."""
        table = table.float()
        self.words.copy_(table / table.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8))

    @torch.no_grad()
    def start(self, blocks: Iterable[ReadByBoth], penalty: float = 0.03) -> float:
        """Fit everything but V in closed form. Returns the share of variance explained, in sample.

        blocks: positions that both models have read. They are passed over six times, a block at a
        time, so that memory does not grow with their number. penalty: of the ridge, for each
        position, in units of a code's mean variance.
        """
        states = moments(one.states for one in blocks)
        self.mean.copy_(states.mean)
        self.spread.copy_(states.spread.clamp(min=1e-4))

        def rows() -> Iterator[Tensor]:
            return (self._standard(one) for one in blocks)

        most = min(len(self.basis.weight), len(self.mean), states.count)
        with seeded(0):
            axes = principal_axes(rows, len(self.mean), most)
        squares = sum(float((one @ axes).square().sum()) for one in rows())
        scale = (squares / (states.count * len(self.basis.weight))) ** 0.5
        self.basis.weight.zero_()
        self.basis.weight[:most] = axes.T / scale
        found = ridge(
            ((self._read(one), one.targets.to(self.mean)) for one in blocks),
            moments(one.targets for one in blocks),
            penalty,
        )
        self.outer.weight.copy_(found.weight.T)
        self.outer.bias.copy_(found.bias)
        return found.explained

    def _standard(self, block: ReadByBoth) -> Tensor:
        return (block.states.to(self.mean) - self.mean) / self.spread

    def _read(self, block: ReadByBoth) -> Tensor:
        """What the receiver's cache of a block is made of, see `_sources`."""
        code = self.basis(self._standard(block))
        return self._sources(self._spelled(code, block.ids.to(self.mean.device)))

    def _spelled(self, code: Tensor, ids: Tensor) -> Tensor:
        """A code of the sender's cache (..., n), and after it the words' embeddings."""
        return torch.cat((code, self.words[ids].to(code.dtype)), -1) if len(self.words) else code

    def _sources(self, code: Tensor) -> Tensor:
        """What the receiver's keys and values are linear in: (..., width + hidden)."""
        return torch.cat((code, nn.functional.gelu(self.inner(code))), -1)

    # -- on disk -----------------------------------------------------------------------------------

    def beside(self) -> dict[str, str]:
        return {} if self.tokenizer is None else {_TOKENIZER: self.tokenizer.to_str()}

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        module = super()._from_pretrained(model_id=model_id, **options)
        path = Path(model_id) / _TOKENIZER
        if path.exists():
            module.tokenizer = spelling(_tokenizer(path))
        return module


_TOKENIZER = "target_tokenizer.json"


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no other type
        raise Damaged(f"{path} is damaged, as it is no tokenizer: {error}") from error


def spelling(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer that spells special tokens: a message has none, only words."""
    found = Tokenizer.from_str(tokenizer.to_str())
    found.encode_special_tokens = True
    return found


def _flat(kv: KV) -> Tensor:
    """(B, S, 2 L H D) float32, layer by layer, keys before values, head by head."""
    parts = [part.float().transpose(1, 2).flatten(2) for pair in kv for part in pair]
    return torch.cat(parts, -1)
