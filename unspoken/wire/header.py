"""What comes before the tensors of a message, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from unspoken.wire.compression import LOSSLESS, Lossless, Packing, Part, Plane

__all__ = [
    "DTYPES",
    "VERSION",
    "Envelope",
    "Header",
    "LayerRun",
    "Layout",
    "CacheLayout",
    "TextLayout",
    "VectorsLayout",
]

VERSION = 2

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Kind = Literal["full", "sliding"]
Fingerprint = Annotated[str, Field(pattern=r"^[\w.:-]{0,64}$")]
"""Usually hex digits, and '' where any is accepted."""

Size = Annotated[int, Field(ge=0, le=1 << 31)]
MOST_ROWS, MOST_LAYERS = 1 << 16, 1024
Rows = Annotated[tuple[Size, ...], FailFast(), Field(min_length=1, max_length=MOST_ROWS)]
_SLOT = 96
"""Bytes that reading takes for each slot of a row: its position, what is sorted and compared."""
_LETTER = 5
"""Bytes that reading takes for each byte of words: a copy, and four for a letter."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Header(_Fields):
    """Who sent a message to whom, and what the two must have in common.

    channel: what made the message and can accept it. sender: the agent. role: the first line of its
    instructions. step: its turn, counted from 1, or 0 outside a pipeline. task: for each row what
    the sender worked on, by `task_ids`. weights, tokenizer, dtype: of the sender's model. receiver,
    receiver_tokenizer: the weights and the tokenizer that may accept it, '' for any. projector: the
    fingerprint of the trained module that made it. lead: the shared opening that the sender read
    first. kinds, window: how far each layer of a cache sees. shadow: for each row words that the
    sender wrote in the same turn, for people. No receiver reads them.
    """

    channel: str = Field(max_length=64)
    sender: str = Field(max_length=256)
    role: str = Field(default="", max_length=120)
    task: Annotated[tuple[Fingerprint, ...], FailFast()] = Field(default=(), max_length=MOST_ROWS)
    step: int = Field(default=0, ge=0, le=1 << 31)
    weights: Fingerprint
    tokenizer: Fingerprint
    dtype: Fingerprint = ""
    receiver: Fingerprint = ""
    receiver_tokenizer: Fingerprint = ""
    projector: Fingerprint = ""
    lead: Fingerprint = ""
    kinds: Annotated[tuple[Kind, ...], FailFast()] = Field(default=(), max_length=MOST_LAYERS)
    window: int | None = Field(default=None, ge=1, le=1 << 31)
    shadow: Annotated[tuple[Annotated[str, Field(max_length=1 << 16)], ...], FailFast()] = Field(
        default=(), max_length=MOST_ROWS
    )

    def repeat(self, batch: int) -> Header:
        """The header of one row for B equal ones."""
        return self.model_copy(update={"task": self.task * batch, "shadow": self.shadow * batch})

    def row(self, index: int) -> Header:
        """The header of row `index` alone."""
        return self.model_copy(
            update={
                "task": self.task[index : index + 1],
                "shadow": self.shadow[index : index + 1],
            }
        )


class TextLayout(_Fields):
    """Words for each of B rows. words: their bytes in UTF-8."""

    kind: Literal["text"]
    words: Rows
    packing: Lossless = LOSSLESS

    @property
    def rows(self) -> int:
        return len(self.words)

    @property
    def size(self) -> int:
        """Bytes of the payload in memory."""
        return sum(self.words)

    @property
    def room(self) -> int:
        """Bytes that reading takes at most, besides those of the message."""
        return _LETTER * self.size

    def planes(self) -> Iterator[tuple[str, Plane]]:
        return iter(())

    def parts(self) -> dict[str, Part]:
        """Every tensor on the wire, by name."""
        return {"words": Part(torch.uint8, (sum(self.words),))}

    def row(self, index: int) -> TextLayout:
        """The layout of row `index` alone, without padding."""
        return self.model_copy(update={"words": self.words[index : index + 1]})


class _Positioned(_Fields):
    """Rows of S positions (`length`), of which `positions` are real in each row."""

    length: Size
    positions: Rows
    packing: Packing = Field(default=LOSSLESS)

    @model_validator(mode="after")
    def _rows_fit(self) -> _Positioned:
        if max(self.positions) > self.length:
            raise ValueError(f"a row of {max(self.positions)} positions, in {self.length}")
        return self

    @property
    def rows(self) -> int:
        return len(self.positions)

    @property
    def size(self) -> int:
        """Bytes of the payload in memory."""
        return sum(plane.size for _, plane in self.planes())

    @property
    def room(self) -> int:
        """Bytes that reading takes at most, besides those of the message."""
        slots = _SLOT * self.rows * self.length
        if isinstance(self.packing, Lossless):
            return slots
        planes = [plane for _, plane in self.planes()]  # unpacked one after the other
        return slots + self.size + max(self.packing.room(one) - one.size for one in planes)

    def planes(self) -> Iterator[tuple[str, Plane]]:
        raise NotImplementedError

    def parts(self) -> dict[str, Part]:
        """Every tensor on the wire, by name."""
        shape = (self.rows, self.length)
        found = {"mask": Part(torch.bool, shape)}
        if self.packing.kind == "tokens":
            found["kept"] = Part(torch.bool, shape)
        for name, plane in self.planes():
            if isinstance(self.packing, Lossless):
                found[name] = Part(plane.dtype, plane.shape)
            else:
                ends = self.packing.parts(plane)
                found |= {f"{name}.{end}": part for end, part in ends.items()}
        return found


class VectorsLayout(_Positioned):
    """Vectors (B, S, W), one plane (B, 1, S, W)."""

    kind: Literal["vectors"]
    width: Size
    dtype: DType

    def planes(self) -> Iterator[tuple[str, Plane]]:
        shape = (self.rows, 1, self.length, self.width)
        yield "values", Plane(shape, DTYPES[self.dtype], max(self.positions))

    def row(self, index: int) -> VectorsLayout:
        """The layout of row `index` alone, without padding."""
        count = self.positions[index]
        return self.model_copy(update={"length": count, "positions": (count,)})


class LayerRun(_Fields):
    """`count` neighbouring layers with equal heads, widths and types: (keys, values).

    Layers that were left out have no heads.
    """

    count: int = Field(ge=1, le=MOST_LAYERS)
    heads: int = Field(ge=0, le=1 << 16)
    widths: tuple[Size, Size]
    dtypes: tuple[DType, DType]


class CacheLayout(_Positioned):
    """A cache, L x (B, H, S, D) for keys and for values, and the words that it spells.

    words: the bytes of each row's words, () for a cache that spells nothing. begin: as in
    `Spelling`. compact: whether there are fewer slots than positions, which are then sent too.
    """

    kind: Literal["memory"]
    layers: Annotated[tuple[LayerRun, ...], FailFast()] = Field(
        min_length=1, max_length=MOST_LAYERS
    )
    words: Annotated[tuple[Size, ...], FailFast()] = Field(default=(), max_length=MOST_ROWS)
    begin: Size = 0
    compact: bool = False

    @model_validator(mode="after")
    def _few_layers(self) -> CacheLayout:
        if sum(run.count for run in self.layers) > MOST_LAYERS:
            raise ValueError(f"a cache of more than {MOST_LAYERS} layers")
        if self.words and len(self.words) != self.rows:
            raise ValueError(f"words for {len(self.words)} rows of {self.rows}")
        return self

    def planes(self) -> Iterator[tuple[str, Plane]]:
        runs = [run for run in self.layers for _ in range(run.count)]
        longest = max(self.positions)
        for n, run in enumerate(runs):
            sides = zip(("keys", "values"), run.widths, run.dtypes, strict=True)
            for side, width, dtype in sides:
                shape = (self.rows, run.heads, self.length, width)
                yield f"{side}.{n}", Plane(shape, DTYPES[dtype], longest, n)

    @property
    def room(self) -> int:
        return super().room + _LETTER * sum(self.words)

    def parts(self) -> dict[str, Part]:
        found = super().parts()
        if self.compact:
            found["positions"] = Part(torch.int32, (self.rows, self.length))
        if self.words:
            found["ends"] = Part(torch.int32, (self.rows, self.length))
            found["words"] = Part(torch.uint8, (sum(self.words),))
        return found

    def row(self, index: int) -> CacheLayout:
        """The layout of row `index` alone, without padding."""
        count = self.positions[index]
        words = self.words[index : index + 1]
        return self.model_copy(update={"length": count, "positions": (count,), "words": words})


Layout = Annotated[TextLayout | VectorsLayout | CacheLayout, Field(discriminator="kind")]


class Envelope(_Fields):
    """Header and layout of one message, as its bytes hold them."""

    version: Literal[2] = VERSION
    header: Header
    layout: Layout

    @model_validator(mode="after")
    def _rows_fit(self) -> Envelope:
        rows = self.layout.rows
        for name in ("task", "shadow"):
            found = len(getattr(self.header, name))
            if found not in (0, rows):
                raise ValueError(f"{name} for {found} rows of {rows}")
        if self.header.kinds:
            layers = sum(1 for name, _ in self.layout.planes() if name.startswith("keys"))
            if len(self.header.kinds) != layers:
                raise ValueError(f"kinds for {len(self.header.kinds)} layers of {layers}")
        return self

    def row(self, index: int) -> Envelope:
        """The envelope of row `index` alone."""
        return Envelope(header=self.header.row(index), layout=self.layout.row(index))

    def words(self) -> str:
        """JSON without default values. The version is always named."""
        fields = self.model_dump_json(exclude_defaults=True)
        return f'{{"version":{self.version},{fields[1:]}'
