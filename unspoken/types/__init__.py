"""The values that travel between the parts: caches, segments, prompts, contexts, turns.

Legend used in every docstring: B batch rows, S slots, L layers, H key/value heads, D head width, W
model width. A slot is a place in a cache, and each slot has a position, which rotary embeddings
turn by. Rows of unequal length are padded on the left; masks are boolean, True where a slot is
real. All values are immutable: nothing writes into their tensors.
"""

from unspoken.types.cache import KV, Cache, KVCache, counted
from unspoken.types.fields import Document, FieldValue, field_value, size_of, words_of
from unspoken.types.prompt import (
    SEGMENT_KINDS,
    CacheSegment,
    Prompt,
    Reuse,
    Segment,
    SegmentKind,
    Spelling,
    Text,
    Vectors,
    left_pad,
)
from unspoken.types.reading import (
    Ahead,
    Context,
    Finish,
    OnText,
    Read,
    Rollout,
    Served,
    Usage,
    Words,
)
from unspoken.types.settings import (
    CACHE,
    TEXT,
    Denoising,
    Need,
    NeedKind,
    Settings,
    is_above_0,
    is_count,
)
from unspoken.types.spec import EngineName, Spec

__all__ = [
    "KV",
    "CACHE",
    "SEGMENT_KINDS",
    "TEXT",
    "Ahead",
    "Cache",
    "Context",
    "Denoising",
    "Document",
    "EngineName",
    "FieldValue",
    "Finish",
    "KVCache",
    "CacheSegment",
    "Need",
    "NeedKind",
    "OnText",
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
    "Usage",
    "Vectors",
    "Words",
    "counted",
    "field_value",
    "is_above_0",
    "is_count",
    "left_pad",
    "size_of",
    "words_of",
]
