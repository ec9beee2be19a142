# pyright: reportUnknownVariableType=false
"""One pool of caches for many agents: a budget, a bound on the damage, and readers that use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

import torch

from unspoken import kept
from unspoken.anchors.persist import FILE, Realm, load_stores, save_stores
from unspoken.anchors.plan import LADDERS, Ladder
from unspoken.anchors.probe import Probe, Prober
from unspoken.anchors.reader import PooledModel
from unspoken.anchors.store import Held, Store
from unspoken.errors import Damaged, IncompatibleModels, unknown
from unspoken.files import atomic_folder
from unspoken.protocols import Fillable, Model, fillable
from unspoken.types import Served

__all__ = ["AnchorPool", "PoolState"]


@dataclass(frozen=True, slots=True)
class PoolState:
    """What a pool holds and what it did.

    bytes: by kind, exact, bases and anchors. tokens: as in `Served`, over all rows. rows and moved:
    rows read, and those that used moved caches. reasons: why the rest did not. dropped: what was
    dropped for lack of room, by kind. fallen: consumers that a probe sent back to dense reads.
    """

    budget: int
    bytes: Mapping[str, int]
    tokens: Mapping[str, int]
    rows: int
    dense: int
    reasons: Mapping[str, int]
    dropped: Mapping[str, int]
    fallen: int
    probes: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def reuse(self) -> float:
        """The share of all tokens that were not read."""
        read = self.tokens["recomputed"] + self.tokens["dense"]
        return 1 - read / max(1, sum(self.tokens.values()))


class AnchorPool:
    """Keeps what was read and serves it again, to all agents whose models it wraps.

    ladder: a name (exact, shifted, anchored, kvcomm) or a `Ladder`. budget: bytes of caches that
    are kept. What has not served for longest is dropped first, but half of the budget is for what
    has proven of use. probe: the part of the reads with moved caches that are also done densely. A
    consumer whose probes exceed `tolerance` (mean KL in nats) reads densely from then on. May be
    used from several threads.

    >>> from unspoken.testing import tiny_backbone
    >>> from unspoken.types import Prompt, Text
    >>> model = tiny_backbone()
    >>> reader = AnchorPool("exact").wrap(model)
    >>> rows = [Prompt((Text((f"what is two plus {n}?",)),)) for n in ("two", "ten")]
    >>> [reader.read(row).served[0].exact for row in rows]
    [0, 18]
    """

    def __init__(
        self,
        ladder: str | Ladder = "shifted",
        *,
        budget: int = 2 << 30,
        probe: float = 0.0,
        tolerance: float = 0.1,
        seed: int = 0,
    ) -> None:
        if isinstance(ladder, str):
            if ladder not in LADDERS:
                raise unknown("ladder", ladder, LADDERS)
            ladder = LADDERS[ladder]
        if budget < 0:
            raise ValueError(f"a budget is a number of bytes, got {budget}")
        self.ladder, self.budget = ladder, budget
        self.prober = Prober(probe, tolerance, seed=seed)
        self.lock = RLock()
        self._stores: dict[Realm, Store] = {}
        self._readers: dict[tuple[int, str], PooledModel] = {}
        self._unproved: set[Realm] = set()  # loaded, and no model has been seen yet
        self._now = 0
        self._tokens: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._rows = self._dense = 0

    def wrap(self, model: Model, *, owner: str = "") -> PooledModel:
        """The model, which reads and writes with what the pool holds.

        owner: readers of different owners share nothing, even if they read the same words. Agents
        of one owner on one model have one reader, so that they write in one batch. Raises
        `IncompatibleModels` if positions are chosen by attention and the model cannot show it.
        """
        inner = fillable(model, "a pool serves readers of")
        kind = inner.attention
        if self.ladder.share and kind != "sdpa":
            raise IncompatibleModels(
                f"share={self.ladder.share} recomputes the positions that {model.spec.name!r} "
                f"attends to, but its attention is {kind!r}. Load it with "
                "attn_implementation='sdpa', or set share=0"
            )
        name = model.spec.name
        if not model.spec.even:
            raise IncompatibleModels(
                f"the layers of {name!r} keep keys and values of unlike shapes, and a pool keeps "
                "them in one piece. Use the model without a pool"
            )
        with self.lock:
            key = (id(inner), owner)  # a reader holds its model, so no id comes again
            return self._readers.setdefault(key, PooledModel(self, inner, owner))

    def forget(self, owner: str) -> None:
        """Drop all that is kept for an owner."""
        with self.lock:
            for realm in [one for one in self._stores if one[-1] == owner]:
                del self._stores[realm]
                self._unproved.discard(realm)
            for key in [one for one in self._readers if one[1] == owner]:
                del self._readers[key]

    # -- what readers do ---------------------------------------------------------------------------

    def store(self, model: Fillable, owner: str) -> Store:
        """What is kept for a model as it runs now."""
        kind = model.device.type
        precise = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else ""
        realm = tuple(map(str, (model.spec.weights, model.dtype, precise, kind, owner)))
        with self.lock:
            if realm not in self._stores:
                self._stores[realm] = Store(self.ladder, _frequencies(model))
            elif realm in self._unproved:
                _check_layers(self._stores[realm], model)
                self._stores[realm].frequencies = _frequencies(model)
            self._unproved.discard(realm)
            return self._stores[realm]

    def tick(self) -> int:
        """The next moment. What served last has the largest."""
        with self.lock:
            self._now += 1
            return self._now

    def count(self, served: Served) -> None:
        """Count a row in the state of the pool."""
        with self.lock:
            self._rows += 1
            self._dense += not (served.shifted or served.anchored or served.exact)
            for kind in ("exact", "shifted", "anchored", "recomputed", "dense"):
                self._tokens[kind] += getattr(served, kind)
            if served.reason:
                self._reasons[served.reason] += 1

    def note(self, store: Store, probe: Probe) -> None:
        """Record a probe. A consumer out of tolerance reads densely from now on."""
        with self.lock:
            if reason := self.prober.note(probe):
                store.fallen[probe.consumer] = reason

    def shrink(self) -> None:
        """Drop what is old, until the rest fits the budget, see `_oldest`."""
        with self.lock:
            held = sum(sum(store.bytes().values()) for store in self._stores.values())
            while held > self.budget:
                oldest = _oldest(self._held(), self.budget)
                oldest.drop()
                held -= oldest.bytes
                self._dropped[oldest.kind] += 1

    def _held(self) -> list[Held]:
        return [thing for store in self._stores.values() for thing in store.held()]

    # -- what users ask ----------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        return sum(self.state().bytes.values())

    def state(self) -> PoolState:
        """What the pool holds and has done so far."""
        with self.lock:
            sizes = Counter({"exact": 0, "bases": 0, "anchors": 0})
            for store in self._stores.values():
                sizes.update(store.bytes())
            kinds = ("exact", "shifted", "anchored", "recomputed", "dense")
            return PoolState(
                budget=self.budget,
                bytes=dict(sizes),
                tokens={kind: self._tokens[kind] for kind in kinds},
                rows=self._rows,
                dense=self._dense,
                reasons=dict(self._reasons),
                dropped=dict(self._dropped),
                fallen=sum(len(store.fallen) for store in self._stores.values()),
                probes=self.prober.summary(),
            )

    def save(self, folder: Path | str) -> None:
        """Write what the pool holds to a folder, whole or not at all, with a digest."""
        with self.lock, atomic_folder(Path(folder)) as place:
            save_stores(place / FILE, self.ladder, self._stores, self._now)

    def load(self, folder: Path | str) -> None:
        """Load all that a pool with the same ladder saved, or nothing. Raises `StorageError`.

        Caches serve the same weights in the same precision on the same kind of device, and the
        same owner. Owners are part of what is saved.
        """
        with kept.advising("read the texts again and save the pool, or give another folder"):
            made, now = load_stores(Path(folder), self.ladder)
        with self.lock:
            self._stores.update(made)
            self._unproved |= set(made)
            self._now = max(self._now, now)
            self.shrink()

    def check(self) -> None:
        """Raise `AssertionError` if what the pool holds contradicts itself."""
        with self.lock:
            for store in self._stores.values():
                store.check()
            held = sum(sum(store.bytes().values()) for store in self._stores.values())
            assert held <= self.budget, f"{held} bytes are held, but the budget is {self.budget}"


def _oldest(held: Sequence[Held], budget: int) -> Held:
    """What goes first: of what has served the oldest, or something that has not served yet.

    What never served since it was kept has half of the budget. So a long row of texts that are read
    once does not drive out those that are read again and again, and new texts have a place in which
    to prove themselves. This is a segmented LRU (Karedla et al. 1994). New beginnings go before new
    texts, which serve in any order. Of equally old things the largest goes first.
    """
    new = [thing for thing in held if not thing.served]
    proven = [thing for thing in held if thing.served]
    crowded = 2 * sum(thing.bytes for thing in new) > budget or not proven
    if crowded:
        new = [thing for thing in new if thing.kind == "exact"] or new
    return min(new if crowded else proven, key=lambda thing: (thing.used, -thing.bytes))


def _check_layers(store: Store, model: Fillable) -> None:
    """Raise `Damaged` unless caches that were loaded have the layers and heads of their model."""
    spec = model.spec
    wanted = (spec.layers, 2, spec.kv_heads, spec.head_dim)
    for shape in store.shapes():
        if shape != wanted:
            raise Damaged(
                f"a pool was loaded with caches of {shape} for {spec.name!r}, whose layers, sides, "
                f"heads and widths are {wanted}. Read the texts again and save the pool"
            )


def _frequencies(model: Fillable) -> torch.Tensor | None:
    """How the keys turn, (L, R/2), or (1, R/2) if they turn the same in all layers."""
    try:
        found = list(model.frequencies) if model.fills else []
    except IncompatibleModels:
        return None
    if len({turn.shape for turn in found}) != 1:  # some layers rotate more of a key than others
        return None
    turns = torch.stack(found)
    return turns[:1] if bool((turns == turns[:1]).all()) else turns
