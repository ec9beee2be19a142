"""What is sent between agents."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from unspoken.errors import NotFinite, WireError
from unspoken.files import write_bytes
from unspoken.finite import all_finite, not_finite
from unspoken.types import Segment
from unspoken.wire.codec import Buffer, chunks, is_copied, read_words, size_of, view
from unspoken.wire.compression import LOSSLESS, Packing
from unspoken.wire.envelope import read_envelope
from unspoken.wire.header import Envelope, Header, Layout
from unspoken.wire.payload import layout_of, numbers_of, packed_row, payload_from, tensors_of
from unspoken.wire.seal import Seal, sealed

__all__ = ["LIMIT", "Message"]

LIMIT = 2 << 30
"""The most bytes of a message that are read by default, packed or not."""

_SPARE = 16 << 20
"""Bytes that reading may take beyond a limit, so that a small message may have a small limit."""


class Packed(NamedTuple):
    """How a payload is packed, and the tensors that are sent."""

    packing: Packing
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A header and a payload of B rows: words, vectors (B, S, W) or a cache L x (B, H, S, D).

    payload: what the receiver accepts. packed: what is sent for it, if it was made smaller. None
    means the payload itself.

    >>> from unspoken.types import Text
    >>> header = Header(channel="text", sender="planner", weights="w", tokenizer="t")
    >>> message = Message(header, Text(("look up", "then left")))
    >>> len(message.to_bytes()) == message.nbytes
    True
    >>> Message.from_bytes(message.to_bytes()).payload.words
    ('look up', 'then left')
    """

    header: Header
    payload: Segment
    packed: Packed | None = None

    @property
    def batch(self) -> int:
        return self.payload.batch

    @property
    def layout(self) -> Layout:
        """Shapes, types and positions of the payload, and how it is packed."""
        return layout_of(self.payload, self.packed.packing if self.packed else LOSSLESS)

    @property
    def envelope(self) -> Envelope:
        """Header and layout, with which the bytes begin."""
        return Envelope(header=self.header, layout=self.layout)

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, header included. A seal adds its `overhead`."""
        return _size(self.envelope)

    def row(self, index: int) -> Message:
        """Row `index` alone, packed as it was, without the padding that other rows caused."""
        rows = self.payload.rows(slice(index, index + 1))
        packed = self.packed
        if packed is not None:
            packed = Packed(packed.packing, packed_row(packed.tensors, self.layout, index, rows))
        return Message(self.header.row(index), rows, packed)

    def repeat(self, batch: int) -> Message:
        """A message of one row for B readers. Nothing is copied."""
        return Message(self.header.repeat(batch), self.payload.repeat(batch))

    def check_finite(self) -> None:
        """Raise `NotFinite` if the payload holds NaN or infinity, padding of a cache included."""
        if not all_finite(numbers_of(self.payload)):
            raise self._odd()

    def _odd(self) -> NotFinite:
        header = self.header
        made = "model and projector" if header.projector else "model"
        whose = f"the {made} of {header.sender!r}, who sent a message over {header.channel!r},"
        return not_finite(whose, header.dtype)

    def about(self, task: tuple[str, ...]) -> Message:
        """The same message about other items, or () for none."""
        return replace(self, header=self.header.model_copy(update={"task": task}))

    def row_bytes(self) -> list[int]:
        """The bytes of every row as a separate message, packed as this one is."""
        envelope = self.envelope
        return [_size(envelope.row(n)) for n in range(self.batch)]

    def pack(self, packing: Packing) -> Message:
        """The message as it arrives when it is sent packed. Words are not packed."""
        layout = layout_of(self.payload, packing)
        if self.packed is not None:
            raise WireError(f"the message is packed as {self.packed.packing.kind!r} already")
        if layout.packing.kind == "lossless":
            return self
        packing.check(self._layers(layout))
        try:
            tensors = tensors_of(self.payload, layout)
        except NotFinite as error:
            raise self._odd() from error
        return replace(self, payload=payload_from(tensors, layout), packed=Packed(packing, tensors))

    def to_bytes(self, seal: Seal | None = None) -> bytes:
        """Header and payload in one buffer, signed or encrypted by a `Seal`."""
        return b"".join(self._pieces(seal))

    def write_into(self, buffer: Buffer, seal: Seal | None = None) -> int:
        """Write `to_bytes` to the start of existing memory, such as shared memory.

        Returns the number of bytes. Raises `WireError` if they do not fit.
        """
        pieces, room = self._pieces(seal), memoryview(buffer).cast("B")
        size = sum(map(len, pieces))
        if size > len(room):
            raise WireError(f"the message has {size:,} bytes, and there is room for {len(room):,}")
        start = 0
        for piece in pieces:
            room[start : start + len(piece)] = piece
            start += len(piece)
        return size

    def _pieces(self, seal: Seal | None) -> list[Buffer]:
        envelope = self.envelope
        tensors = self.packed.tensors if self.packed else tensors_of(self.payload, envelope.layout)
        pieces = chunks(tensors, envelope.words())
        return pieces if seal is None else seal.close(pieces)

    @classmethod
    def from_bytes(cls, data: Buffer, seal: Seal | None = None, *, limit: int = LIMIT) -> Message:
        """Read a message. Raises `WireError` for anything that `to_bytes` did not write.

        The tensors share the memory of `data`, which may be bytes, a mapped file or shared memory.
        Nothing may write there while the message is in use. What was packed or encrypted is
        unpacked into new memory. seal: the keys of `to_bytes`. What is not sealed by them is
        refused, and so is a sealed message without keys. limit: the most bytes that are read, or
        unpacked. Reading allocates no more than that and some megabytes.
        """
        whole = _bytes_of(data, limit + (seal.overhead if seal else 0))
        if seal is not None:
            whole = seal.open(whole)
        elif (state := sealed(whole)) is not None:
            raise WireError(f"the message is {state}; read it with the keys, in a Seal")
        envelope = read_envelope(read_words(whole))
        header, layout = envelope.header, envelope.layout
        copied = is_copied(whole) or (seal is not None and seal.encrypt is not None)
        _check_room(layout, len(whole) if copied else 0, limit)
        tensors = view(whole, layout.parts(), envelope.words())
        packed = None if layout.packing.kind == "lossless" else Packed(layout.packing, tensors)
        return cls(header, payload_from(tensors, layout), packed)

    def save(self, path: str | Path, seal: Seal | None = None) -> None:
        """Write the message to a file, whole or not at all."""
        write_bytes(Path(path), self.to_bytes(seal))

    @classmethod
    def load(cls, path: str | Path, seal: Seal | None = None, *, limit: int = LIMIT) -> Message:
        """Read a file that `save` wrote, mapped and not copied. See `from_bytes`."""
        if not Path(path).is_file():
            raise WireError(f"there is no file {path} with a message")
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            if not size:
                raise WireError(f"{path} is empty, no message")
            if size > limit + (seal.overhead if seal else 0):
                raise WireError(_too_large(size, limit))
            # A private mapping: if anything writes into a tensor, the file does not change.
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        return cls.from_bytes(memoryview(mapped), seal, limit=limit)

    @staticmethod
    def _layers(layout: Layout) -> int:
        return sum(plane.layer is not None for _, plane in layout.planes()) // 2


def _size(envelope: Envelope) -> int:
    return size_of(envelope.layout.parts(), envelope.words())


def _bytes_of(data: Buffer, limit: int) -> memoryview:
    try:
        whole = memoryview(data).cast("B")
    except TypeError as error:
        raise WireError(f"a message is read from contiguous bytes: {error}") from error
    if len(whole) > limit:
        raise WireError(_too_large(len(whole), limit))
    return whole


def _too_large(size: int, limit: int) -> str:
    return f"the message has {size:,} bytes; allowed are {limit:,}: raise `limit` if you expect it"


def _check_room(layout: Layout, copied: int, limit: int) -> None:
    """Raise `WireError` if reading would take more than `limit`. copied: bytes taken already."""
    if layout.size > limit:
        raise WireError(
            f"the message claims {layout.size:,} bytes, unpacked; allowed are {limit:,}: "
            "raise `limit` if you expect so much"
        )
    if (room := copied + layout.room) > limit + _SPARE:
        raise WireError(
            f"reading the message takes up to {room:,} bytes; allowed are {limit:,}: raise `limit` "
            "if you expect so much"
        )
