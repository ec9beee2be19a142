"""The values that travel between the parts: segments, prompts, contexts, thoughts.

Legend used in every docstring: B batch rows, S positions, L layers, H key/value heads, D head
width, W model width. Rows of unequal length are padded on the left; masks are boolean, True where
a position is real. All values are immutable: nothing writes into a tensor that stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "KV",
    "MEMORY",
    "SEGMENT_KINDS",
    "TEXT",
    "Context",
    "Denoising",
    "Memory",
    "Need",
    "NeedKind",
    "Prompt",
    "Read",
    "Reuse",
    "Rollout",
    "Segment",
    "SegmentKind",
    "Served",
    "Settings",
    "Spec",
    "Spelling",
    "Text",
    "Thought",
    "Usage",
    "Vectors",
    "Words",
    "left_pad",
]

KV = tuple[tuple[Tensor, Tensor], ...]
"""L pairs (keys, values), each (B, H, S, D); keys as the model stores them, after RoPE."""


Feed = Literal["identity", "ridge", "expected"]
NeedKind = Literal["text", "memory", "hidden", "rollout"]
SegmentKind = Literal["text", "vectors", "memory"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a channel asks of its sender: words, a cache, hidden states of one layer, a rollout.

    Layer 0 is the output of the embedding, layer L the last one after the final norm, as in
    transformers' `hidden_states`. `limit` is the number of tokens of text, or of positions of a
    rollout, that suffice. feed and temperature: how a rollout makes its next input, see `Rollout`.
    """

    kind: NeedKind
    layer: int = 0
    limit: int | None = None
    feed: Feed = "identity"
    temperature: float = 1.0

    @property
    def writes(self) -> bool:
        """Whether the sender has to go on in words, chosen or expected."""
        return self.kind == "text" or (self.kind == "rollout" and self.feed == "expected")


TEXT = Need("text")
MEMORY = Need("memory")


@dataclass(frozen=True, slots=True)
class Text:
    """Words for each of B rows.

    Neighbouring texts are tokenised together, unless `shared`: such a text is equal in all rows,
    is tokenised on its own, and a reader may read it once for the whole batch. share: what the
    words are, if others may read them too: a question, a document, an agent's answer. A pool that
    keeps caches knows them again in another prompt; it never changes a token.
    """

    words: tuple[str, ...]
    shared: bool = False
    share: str = ""

    @property
    def batch(self) -> int:
        return len(self.words)

    def rows(self, index: slice) -> Text:
        return replace(self, words=self.words[index])

    def repeat(self, batch: int) -> Text:
        """One row as B equal ones."""
        return replace(self, words=self.words * batch)


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Vectors in a model's input-embedding space (or its hidden states): (B, S, W), mask (B, S).

    shared: they are equal in all rows, like free vectors, and a reader may read them once.
    """

    values: Tensor
    mask: Tensor
    shared: bool = False

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    def rows(self, index: slice) -> Vectors:
        mask = self.mask[index]
        keep = mask.any(0)
        return Vectors(self.values[index][:, keep], mask[:, keep], self.shared)

    def repeat(self, batch: int) -> Vectors:
        """One row as B equal ones; nothing is copied."""
        return Vectors(self.values.expand(batch, -1, -1), self.mask.expand(batch, -1))


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """The words behind the positions of a cache.

    words: B strings, all text that was read, in order. ends: (B, S), the number of characters of
    `words` up to the end of each position; -1 where a position is no text (padding, vectors, a
    memory). `<bos>` is text without characters. Models with unlike tokenizers meet here.
    begin: where in `words` the first position begins, above 0 if what stands before was left out.
    """

    words: tuple[str, ...]
    ends: Tensor
    begin: int = 0

    def rows(self, index: slice, keep: Tensor) -> Spelling:
        return replace(self, words=self.words[index], ends=self.ends[index][:, keep])

    def repeat(self, batch: int) -> Spelling:
        return replace(self, words=self.words * batch, ends=self.ends.expand(batch, -1))


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """A KV cache that stands in a prompt: L x (B, H, S, D), mask (B, S), and what it spells.

    Keys are rotated as if each row's first real position were position 0; the reader re-rotates
    them when something stands before. A layer that was left out has no heads, (B, 0, S, D): there
    the reader's own positions see nothing of the memory.
    """

    kv: KV
    mask: Tensor
    spelling: Spelling | None = None

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @property
    def layers(self) -> tuple[bool, ...]:
        """Which layers it holds."""
        return tuple(keys.shape[1] > 0 for keys, _ in self.kv)

    def rows(self, index: slice) -> Memory:
        mask = self.mask[index]
        keep = mask.any(0)
        kv = tuple((k[index][:, :, keep], v[index][:, :, keep]) for k, v in self.kv)
        spelling = self.spelling.rows(index, keep) if self.spelling else None
        return Memory(kv, mask[:, keep], spelling)

    def repeat(self, batch: int) -> Memory:
        """One row as B equal ones; nothing is copied."""
        kv = tuple((k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in self.kv)
        spelling = self.spelling.repeat(batch) if self.spelling else None
        return Memory(kv, self.mask.expand(batch, -1), spelling)


Segment = Text | Vectors | Memory
SEGMENT_KINDS: Mapping[type[Segment], SegmentKind] = {
    Text: "text",
    Vectors: "vectors",
    Memory: "memory",
}
Reuse = Literal["any", "exact"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked to read: segments of one batch size, and the slot for messages.

    `slot` is the index at which the next message is inserted; `insert` moves it along, so that
    messages keep their order. reuse: whether a pool may serve moved caches, or `exact` ones only.
    candidates: the answers between which the reader chooses, if it is a judge; a pool's probe sees
    to it that the choice stays the same.
    """

    segments: tuple[Segment, ...]
    slot: int = 0
    reuse: Reuse = "any"
    candidates: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        return self.segments[0].batch

    def insert(self, segment: Segment) -> Prompt:
        """The prompt with `segment` at the slot."""
        before, after = self.segments[: self.slot], self.segments[self.slot :]
        return replace(self, segments=(*before, segment, *after), slot=self.slot + 1)

    def front(self, segment: Segment) -> Prompt:
        """The prompt with `segment` before everything else but the memories that came before."""
        n = next((n for n, s in enumerate(self.segments) if not isinstance(s, Memory)), self.slot)
        segments = (*self.segments[:n], segment, *self.segments[n:])
        return replace(self, segments=segments, slot=self.slot + 1)

    def row(self, index: int) -> Prompt:
        """Row `index` alone, as a prompt of batch size 1."""
        one = slice(index, index + 1)
        return replace(self, segments=tuple(segment.rows(one) for segment in self.segments))

    @property
    def lead(self) -> str:
        """The shared text with which the prompt begins, or ''."""
        first = self.segments[0] if self.segments else None
        return first.words[0] if isinstance(first, Text) and first.shared else ""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Context:
    """What a model has read; generation continues from here, whatever channel was used.

    kv: L x (B, H, S-1, D), everything but the last token; mask: (B, S); last: (B,) token ids.
    spelling: what was read, S positions. plain: the kv before messages were fused into it. seen:
    (L, B, S), which positions each layer may attend to, where memories left layers out; None for
    all that is real.
    """

    kv: KV
    mask: Tensor
    last: Tensor
    spelling: Spelling
    plain: KV | None = None
    seen: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.mask.shape[0]


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of a turn: tokens read and written, forward passes, wire bytes, seconds.

    For a row of a batch, `passes` counts the passes it took part in and `seconds` its equal share.
    wait: seconds of the whole batch until its first token, 0 if nothing was written. reused: tokens
    whose cache a pool had.
    """

    read: int = 0
    written: int = 0
    passes: int = 0
    wire: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    reused: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.read + other.read,
            self.written + other.written,
            self.passes + other.passes,
            self.wire + other.wire,
            self.seconds + other.seconds,
            self.wait + other.wait,
            self.reused + other.reused,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """How a pool served one row: its tokens, by where their cache came from.

    exact: kept from the same beginning. shifted: kept from elsewhere and moved; anchored: moved,
    and corrected by anchors. recomputed: read although a cache was kept; dense: read, for nothing
    was. width: bytes of a token's cache. reason: why nothing was reused, if so.
    """

    exact: int = 0
    shifted: int = 0
    anchored: int = 0
    recomputed: int = 0
    dense: int = 0
    width: int = 0
    reason: str = ""

    @property
    def reused(self) -> int:
        return self.exact + self.shifted + self.anchored

    @property
    def bytes(self) -> int:
        """Bytes of cache that were not computed again."""
        return self.reused * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Result of reading a prompt: the context, and whatever else was needed.

    tokens: tokens read in each row; passes: forward passes. hidden: layer -> (B, S', W) states of
    the positions behind the shared lead, `<bos>` excluded. memory: the cache of all S positions.
    found: the context, None when only hidden states of lower layers were needed. served: where a
    pool took each row from; () without a pool.
    """

    tokens: tuple[int, ...]
    passes: int
    found: Context | None = None
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])
    memory: Memory | None = None
    served: tuple[Served, ...] = ()

    @property
    def context(self) -> Context:
        assert self.found is not None, "a context is there when `needs` names text or a memory"
        return self.found


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """What a model wrote: B strings, the tokens spent on each, and the forward passes.

    ids: the tokens of each row. kv: L x (B, H, S, D), the cache of all that was read and written
    but for the last token. wait: seconds until the first token. hidden: layer -> (B, S, W), the
    states of what was written, where `Spec.states` says that a model has those.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    passes: int
    ids: tuple[tuple[int, ...], ...] = ()
    kv: KV = ()
    wait: float = 0.0
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """What a model went on with behind what it had read, without choosing a word.

    Its last hidden state, mapped to an input embedding, is its next input. The map is `identity`
    or `ridge`, the ridge regression from output to input embeddings, both with the mean norm of an
    input embedding; or `expected`, the mean input embedding under its next-token distribution.

    states: (B, m, W), the last hidden states, after the final norm. vectors: (B, m, W), the inputs
    made of them. memory: the cache of all S + m positions; None for `expected`, whose vectors are
    what is passed on. passes: forward passes.
    """

    states: Vectors
    vectors: Vectors
    memory: Memory | None
    passes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent writes: at most `max_tokens`, until a `stop` string; temperature 0 is greedy."""

    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Denoising(Settings):
    """How a masked-diffusion model writes: a canvas of `max_tokens` masks, filled step by step.

    steps: forward passes over the whole canvas, at least one a block and at most one a position.
    block: positions that are filled before those to the right of them, None for all at once.
    remask: which predictions stay in a step, the rest being masked again: those of the highest
    probability, of the widest `margin` between the two likeliest words, of the lowest `entropy`, or
    `random` ones (LLaDA, arXiv 2502.09992; Dream, arXiv 2508.15487). guidance: classifier-free, the
    weight of the prompt beyond 1; it takes a second pass in each step. until: the share of the
    steps that is taken, what is masked then is filled at once. threshold: predictions that are at
    least so probable stay too, which ends a canvas early (Fast-dLLM, arXiv 2505.22618). capture:
    hidden states of the last step that changed a row, or of one `clean` pass over what it wrote.

    >>> Denoising(max_tokens=16, steps=8).block
    32
    """

    steps: int = 64
    block: int | None = 32
    remask: Literal["confidence", "margin", "entropy", "random"] = "confidence"
    guidance: float = 0.0
    until: float = 1.0
    threshold: float | None = None
    capture: Literal["last", "clean"] = "last"

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.block is not None and self.block < 1):
            raise ValueError(
                f"a canvas takes at least 1 step and blocks of at least 1 position, got "
                f"steps={self.steps}, block={self.block}"
            )
        if not 0 < self.until <= 1 or self.guidance < 0:
            raise ValueError(
                f"until is a share above 0 and at most 1, and guidance is 0 or more, got "
                f"until={self.until}, guidance={self.guidance}"
            )


@dataclass(frozen=True, slots=True)
class Spec:
    """What channels may know of a model before any forward pass.

    weights is the same in every precision, see `Backbone.fingerprint`; dtype says which one it is.
    kinds: for each layer whether it sees everything or a window. gives: what it can compute as a
    sender. takes: what may stand in its prompt. states: whether its hidden states are those of what
    it has read, or, as with a diffusion model, of what it writes.
    """

    name: str
    width: int
    layers: int
    kv_heads: int
    head_dim: int
    weights: str
    tokenizer: str
    window: int | None = None
    positions: int | None = None
    dtype: str = ""
    kinds: tuple[Literal["full", "sliding"], ...] = ()
    gives: tuple[NeedKind, ...] = ("text", "memory", "hidden", "rollout")
    takes: tuple[SegmentKind, ...] = ("text", "vectors", "memory")
    states: Literal["read", "written"] = "read"


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """What an agent holds after its turn: only what its channels asked for.

    given: what the agent was told about each of the B items, word for word; task: what stands for
    each item, by `task_ids`; role: the first line of what the agent was told to be; step: its turn
    in a pipeline, from 1. text: B strings that it wrote; hidden and memory as in `Read`,
    or hidden as in `Words`; rollouts:
    by the need that asked for each; lead: the shared text it read first; shorten: words and a
    number to the words of so many first tokens; shift: a cache and a number of positions for each
    row (B,) to the cache moved by them.
    """

    agent: str
    spec: Spec
    given: tuple[str, ...]
    shorten: Callable[[str, int], str]
    shift: Callable[[KV, Tensor], KV]
    lead: str = ""
    task: tuple[str, ...] = ()
    role: str = ""
    step: int = 0
    text: tuple[str, ...] | None = None
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])
    memory: Memory | None = None
    rollouts: Mapping[Need, Rollout] = field(default_factory=dict[Need, Rollout])


def left_pad(rows: Sequence[Tensor], fill: float = 0) -> tuple[Tensor, Tensor]:
    """Stack tensors (S_b, ...) of unequal length: (B, S, ...) padded left, and the mask (B, S)."""
    longest = max(row.shape[0] for row in rows)
    out = rows[0].new_full((len(rows), longest, *rows[0].shape[1:]), fill)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=rows[0].device)
    for b, row in enumerate(rows):
        if row.shape[0]:
            out[b, -row.shape[0] :] = row
            mask[b, -row.shape[0] :] = True
    return out, mask
