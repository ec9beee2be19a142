"""What travels between agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from unspoken.errors import WireError
from unspoken.types import Memory, Segment, Spelling, Text, Vectors
from unspoken.wire.codec import pack, packed_size, unpack

__all__ = ["Header", "Message"]


class Header(BaseModel):
    """Who sent a message, over which channel, from which weights, for which weights.

    `lead` identifies the shared text that the sender read first; `receiver` is empty when any
    model may read the message.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    channel: str
    sender: str
    weights: str
    tokenizer: str
    receiver: str = ""
    lead: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A header and a payload of B rows: words, vectors (B, S, W) or a cache L x (B, H, S, D).

    >>> header = Header(channel="text", sender="planner", weights="w", tokenizer="t")
    >>> message = Message(header, Text(("look up", "then left")))
    >>> len(message.to_bytes()) == message.nbytes
    True
    >>> Message.from_bytes(message.to_bytes()).payload.words
    ('look up', 'then left')
    """

    header: Header
    payload: Segment

    @property
    def batch(self) -> int:
        return self.payload.batch

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, header included."""
        return packed_size(self._tensors(), self.header.model_dump_json())

    def row(self, index: int) -> Message:
        """Row `index` alone, without the padding that other rows caused."""
        return Message(self.header, self.payload.rows(slice(index, index + 1)))

    def repeat(self, batch: int) -> Message:
        """A message of one row for B readers; nothing is copied."""
        return Message(self.header, self.payload.repeat(batch))

    def row_bytes(self) -> list[int]:
        """`row(n).nbytes` of every row, without copying a cache to learn its size."""
        if isinstance(self.payload, Text):
            return [self.row(n).nbytes for n in range(self.batch)]
        counts = cast(list[int], self.payload.mask.sum(1).tolist())
        return [self._sized(row, count).nbytes for row, count in enumerate(counts)]

    def _sized(self, row: int, count: int) -> Message:
        """Row `row`, of `count` positions, with shapes and without content."""

        def shape(like: Tensor, axis: int) -> Tensor:
            sizes = [1, *like.shape[1:]]
            sizes[axis] = count
            return torch.empty(sizes, dtype=like.dtype, device="meta")

        match self.payload:
            case Memory(kv, mask, spelling):
                pairs = tuple((shape(keys, 2), shape(values, 2)) for keys, values in kv)
                if spelling is not None:
                    words = spelling.words[row : row + 1]
                    spelling = replace(spelling, words=words, ends=shape(spelling.ends, 1))
                return Message(self.header, Memory(pairs, shape(mask, 1), spelling))
            case Vectors(values, mask):
                return Message(self.header, Vectors(shape(values, 1), shape(mask, 1)))
            case Text():
                return self

    def to_bytes(self) -> bytes:
        return pack(self._tensors(), self.header.model_dump_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """Read a message. Raises `WireError` for anything that `to_bytes` did not write."""
        tensors, header = unpack(data)
        try:
            return cls(Header.model_validate_json(header), _payload(tensors))
        except (ValidationError, KeyError, IndexError, TypeError, ValueError) as error:
            raise WireError(f"the bytes are no message of this version: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        match self.payload:
            case Text(words):
                return _words_out(words)
            case Vectors(values, mask):
                return {"values": values, "mask": mask}
            case Memory(kv, mask, spelling):
                tensors = {"mask": mask}
                for n, (keys, values) in enumerate(kv):
                    tensors |= {f"keys.{n}": keys, f"values.{n}": values}
                if spelling is not None:
                    tensors |= {"ends": spelling.ends.int(), **_words_out(spelling.words)}
                    if spelling.begin:
                        tensors["begin"] = torch.tensor([spelling.begin], dtype=torch.int32)
                return tensors


def _words_out(words: Sequence[str]) -> dict[str, Tensor]:
    raw = [bytearray(word.encode()) for word in words]
    return {
        f"words.{n}": torch.frombuffer(data, dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
        for n, data in enumerate(raw)
    }


def _words_in(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    count = sum(name.startswith("words.") for name in tensors)
    rows = [tensors[f"words.{n}"] for n in range(count)]
    return tuple(bytes(cast(list[int], row.tolist())).decode() for row in rows)


def _payload(tensors: Mapping[str, Tensor]) -> Segment:
    if "mask" not in tensors:
        return Text(_words_in(tensors)) if "words.0" in tensors else _refuse("it has no payload")
    mask = tensors["mask"]
    if "values" in tensors:
        payload = Vectors(tensors["values"], mask)
        fits = payload.values.ndim == 3 and payload.values.shape[:2] == mask.shape
    else:
        layers = range(sum(name.startswith("keys.") for name in tensors))
        kv = tuple((tensors[f"keys.{n}"], tensors[f"values.{n}"]) for n in layers)
        shapes = {(part.ndim, part.shape[0], part.shape[2:3]) for pair in kv for part in pair}
        fits = shapes == {(4, *mask.shape[:1], mask.shape[1:])}
        spelling = None
        if "ends" in tensors:
            begin = tensors.get("begin", torch.tensor([0], dtype=torch.int32))
            if begin.shape != (1,) or begin.dtype != torch.int32:
                _refuse(f"it begins at {begin}, not at one whole number of characters")
            spelling = Spelling(_words_in(tensors), tensors["ends"].long(), int(begin))
            fits = fits and spelling.ends.shape == mask.shape == (
                len(spelling.words),
                *mask.shape[1:],
            )
        payload = Memory(kv, mask, spelling)
    if mask.dtype != torch.bool or not fits:
        _refuse(f"its tensors do not fit its mask of shape {tuple(mask.shape)}")
    return payload


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
