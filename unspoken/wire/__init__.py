"""Messages as bytes: a typed header and a payload, in the safetensors format."""

from unspoken.wire.compression import (
    LOSSLESS,
    BFloat16,
    Int4,
    Int8,
    Layers,
    Lossless,
    LowRank,
    Packing,
    Tokens,
)
from unspoken.wire.header import Header, Layout
from unspoken.wire.message import LIMIT, Message
from unspoken.wire.seal import Seal

__all__ = [
    "LIMIT",
    "LOSSLESS",
    "BFloat16",
    "Header",
    "Int4",
    "Int8",
    "Layers",
    "Layout",
    "Lossless",
    "LowRank",
    "Message",
    "Packing",
    "Seal",
    "Tokens",
]
