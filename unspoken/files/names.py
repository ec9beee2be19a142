"""Names of channels, arms and other things as names of files."""

from __future__ import annotations

import re
from hashlib import sha256

__all__ = ["file_name"]


def file_name(name: str) -> str:
    """The name of one file, on every system, for any name. Other names have other files.

    A plain name stays: small Latin letters, digits and `. _ + = @ , -`, with spaces inside. Every
    other name is cleaned and gets a digest of itself. It never leads to another folder. Systems
    that take `A` for `a` keep two files apart as well.

    >>> file_name("no message-none")
    'no message-none'
    >>> file_name("../../x"), file_name("Text")
    ('_.._x~9cdf6a50100a862e', 'text~71988c4d8e0803ba')
    """
    if _PLAIN.fullmatch(name) and not _DEVICE.fullmatch(name):
        return name
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cleaned = re.sub(r"[^a-z0-9._+=@, -]+", "_", name.lower())
    return f"{cleaned.lstrip('. ')[:_CLEANED]}~{digest}"


_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9._+=@, -]{0,198}[a-z0-9_+=@,-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""What Windows takes for a device."""
_CLEANED = 60
