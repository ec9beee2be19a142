"""Messages as bytes: a typed header and a payload, in the safetensors format."""

from unspoken.wire.message import Header, Message

__all__ = ["Header", "Message"]
