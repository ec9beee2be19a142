"""One check of a model in each cell: what unspoken does is what plain transformers does.

A cell raises `Differs` where the two differ. With `world.spoil` it puts a fault into what
unspoken does, and then it must raise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import caches, talking, vectors
from .world import World

__all__ = ["CELLS", "Cell"]

Cell = Callable[[World], None]

CELLS: dict[str, Cell] = {
    "reading": talking.reading,
    "text": talking.text,
    "lead": talking.lead,
    "batch": talking.batch,
    "wire text": talking.wire_text,
    "wire cache": talking.wire_cache,
    "handoff": talking.handoff,
    "shift": caches.shift,
    "middle": caches.middle,
    "layers": caches.layers,
    "memory": caches.memory,
    "pool exact": caches.pool_exact,
    "pool shifted": caches.pool_shifted,
    "pool anchored": partial(caches.pool_by, ladder="anchored"),
    "pool kvcomm": partial(caches.pool_by, ladder="kvcomm"),
    "embedding in": vectors.embedding_in,
    "embedding out": vectors.embedding_out,
    "fusion": vectors.fusion,
    "rollout": vectors.rollout,
    "soft": vectors.soft,
}
