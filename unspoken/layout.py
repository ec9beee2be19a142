"""How a prompt becomes what a model can read: runs of tokens and vectors, and caches between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from unspoken.errors import EmptyPrompt
from unspoken.types import CacheSegment, Prompt, Spelling, Text, Vectors, left_pad

__all__ = ["VECTOR", "Part", "Chunk", "Share", "lay_out", "spell"]

VECTOR = -1
"""Takes the place of a token id where a vector goes."""


class Share(NamedTuple):
    """The tokens of a row that lie wholly within a text with a share key: `first` to `last` - 1.

    A space before the text belongs to it, as most tokenizers join the two. cue: the tokens right
    before it that introduce it, such as a document's name.
    """

    name: str
    first: int
    last: int
    cue: int = 0

    def moved(self, by: int) -> Share:
        """The same, with `by` more tokens before it."""
        return self._replace(first=self.first + by, last=self.last + by)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Tokens and vectors that are read in one forward pass, padded left.

    ids: (B, S), or (1, S) where all rows have read the same up to its end; `shared` if it is a
    shared text. mask: (B, S). spelling: the words of these rows. vectors: (N, W), those of all rows
    in row order, or None. bos: whether the rows begin with the tokenizer's `<bos>`. shares: for
    each row the tokens that other agents may read too, counted without padding.
    """

    ids: Tensor
    mask: Tensor
    spelling: Spelling
    vectors: Tensor | None = None
    shared: bool = False
    bos: bool = False
    shares: tuple[tuple[Share, ...], ...] = ()

    @property
    def heard(self) -> Tensor:
        """(B, S): the positions whose hidden states may be sent, which `<bos>` is not."""
        if not self.bos:
            return self.mask
        return self.mask & (self.mask.cumsum(1) > 1)

    def expand(self, batch: int) -> Chunk:
        if self.ids.shape[0] == batch:
            return self
        spelling = self.spelling.repeat(batch)
        ids, mask = self.ids.expand(batch, -1), self.mask.expand(batch, -1)
        vectors = None if self.vectors is None else self.vectors.repeat(batch, 1)
        shares = self.shares * batch
        return replace(self, ids=ids, mask=mask, spelling=spelling, vectors=vectors, shares=shares)

    def without_last(self) -> Chunk:
        return replace(self, ids=self.ids[:, :-1], mask=self.mask[:, :-1])


Part = Chunk | CacheSegment
Frames = Sequence[tuple[int, int]]
Encode = Callable[[str, Frames], tuple[list[int], list[int]]]


def spell(parts: Sequence[Part], batch: int) -> Spelling:
    """The words of B rows, part after part. Caches have none here unless they are spelled."""
    words, ends = [""] * batch, list[Tensor]()
    for part in parts:
        spelling = part.spelling
        if isinstance(part, Chunk):
            spelling = part.expand(batch).spelling
        if spelling is None:
            ends.append(torch.full_like(part.mask, -1, dtype=torch.long).expand(batch, -1))
            continue
        before = torch.tensor([len(row) for row in words], device=spelling.ends.device)[:, None]
        ends.append(torch.where(spelling.ends < 0, -1, spelling.ends + before))
        words = [row + more for row, more in zip(words, spelling.words, strict=True)]
    return Spelling(tuple(words), torch.cat(ends, 1))


def lay_out(prompt: Prompt, encode: Encode, bos: Sequence[int], device: torch.device) -> list[Part]:
    """Cut a prompt into caches and runs. Neighbouring texts are tokenised together.

    What comes before a cache becomes a run of one row if all rows have read the same so far. The
    opening of a chat is tokenised with what follows, as transformers does it; a shared opening of
    plain text is tokenised by itself.

    encode: words, and where in them the frame is, to token ids and the ends of the tokens, both in
    characters. `bos` is put before the first token unless a cache is there. Raises `EmptyPrompt`
    when a row has nothing to read or does not end with a token.
    """
    parts: list[Part] = []
    loose: list[Text | Vectors] = []
    chat = None if prompt.bos else prompt.front_text()

    def settle(*, end: bool = False) -> None:
        if not loose:
            return
        same = not end and all(len(part.mask) == 1 for part in parts) and _all_equal(loose)
        rows = 1 if same else prompt.batch
        if chat is not None and len(parts) == 1 and isinstance(parts[0], Chunk):
            parts[:] = _sewn(chat, parts[0], loose, rows, encode, device)
        else:
            parts.append(_run(loose, rows, encode, () if parts else bos, device))
        loose.clear()

    for segment in prompt.segments:
        if segment.batch != prompt.batch:
            raise EmptyPrompt(
                f"a segment has {segment.batch} rows and the prompt {prompt.batch}; "
                "give every segment one entry for each row"
            )
        if isinstance(segment, CacheSegment):
            if not segment.mask.shape[1]:  # it is empty
                continue
            settle()
            parts.append(segment)
        elif isinstance(segment, Text) and segment.shared:
            settle()
            one = segment.rows(slice(1))
            run = _run([one], 1, encode, () if parts else bos, device)
            parts.append(replace(run, shared=True))
        else:
            loose.append(segment)
    settle(end=True)
    parts = [part for part in parts if part.mask.shape[1]]
    _check_end(parts)
    return parts


def _all_equal(segments: Sequence[Text | Vectors]) -> bool:
    """Whether all rows are known to be equal."""
    return all(
        len(set(segment.words)) == 1 if isinstance(segment, Text) else segment.shared
        for segment in segments
    )


def _sewn(
    opening: Text,
    alone: Chunk,
    segments: Sequence[Text | Vectors],
    batch: int,
    encode: Encode,
    device: torch.device,
) -> list[Part]:
    """A shared opening and what follows it, tokenised as one text and cut where rows are equal.

    alone: the opening, tokenised by itself.
    """
    rows = [_row([opening, *segments], b, encode, ()) for b in range(batch)]
    if rows[0].ends[0] < 0:  # the tokenizer does not tell where tokens end
        return [alone, _run(segments, batch, encode, (), device)]
    ids = cast(list[int], alone.ids[0].tolist())
    cut = min(_equal(row.ids, ids) for row in rows)
    front, words = rows[0].ids[:cut], opening.words[0]
    at = rows[0].ends[cut - 1] if cut else 0
    spelling = Spelling((words[:at],), torch.tensor([rows[0].ends[:cut]], device=device))
    kept = torch.tensor([front], dtype=torch.long, device=device)
    return [
        replace(alone, ids=kept, mask=torch.ones_like(kept, dtype=torch.bool), spelling=spelling),
        _stacked([row.after(cut, at) for row in rows], (), device),
    ]


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two rows begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _run(
    segments: Sequence[Text | Vectors],
    batch: int,
    encode: Encode,
    bos: Sequence[int],
    device: torch.device,
) -> Chunk:
    """The first `batch` rows of segments."""
    return _stacked([_row(segments, b, encode, bos) for b in range(batch)], bos, device)


def _stacked(rows: Sequence[_Row], bos: Sequence[int], device: torch.device) -> Chunk:
    """Rows as one run, padded left."""
    ids, mask = left_pad([torch.tensor(row.ids, dtype=torch.long) for row in rows])
    ends, _ = left_pad([torch.tensor(row.ends, dtype=torch.long) for row in rows], -1)
    spelling = Spelling(tuple(row.words for row in rows), ends.to(device))
    vectors = [vector for row in rows for vector in row.vectors]
    flat = torch.cat(vectors) if vectors else None
    shares = tuple(tuple(row.shares) for row in rows)
    return Chunk(ids.to(device), mask.to(device), spelling, flat, bos=bool(bos), shares=shares)


@dataclass(slots=True)
class _Row:
    """One row on its way into a run: ids, where they end in its words, its vectors, its shares."""

    ids: list[int]
    ends: list[int]
    words: str = ""
    vectors: list[Tensor] = field(default_factory=list[Tensor])
    shares: list[Share] = field(default_factory=list[Share])

    def after(self, count: int, at: int) -> _Row:
        """The row without its first tokens, which end `at` characters from its beginning."""
        return _Row(
            self.ids[count:],
            [end - at if end >= 0 else -1 for end in self.ends[count:]],
            self.words[at:],
            self.vectors,
            [share.moved(-count) for share in self.shares],
        )

    def add_texts(self, texts: Sequence[tuple[str, Text]], encode: Encode) -> None:
        """Add the row's words of some texts one after the other, tokenised together."""
        words = "".join(row for row, _ in texts)
        if not words:
            return
        ids, ends = encode(words, _frames(texts))
        begin = done = cued = 0  # where the last share ends, and where words that introduce begin
        for row, text in texts:
            end, name = begin + len(row), text.share
            spaced = done < begin and words[begin - 1] == " "
            first, last = _within(ends, begin - spaced, end) if name else (0, 0)
            if first < last:
                cue = max(0, first - _within(ends, cued, begin)[0])
                self.shares.append(Share(name, first, last, cue).moved(len(self.ids)))
            begin, done = end, end if name else done
            cued = cued if text.cue else begin
        self.ids += ids
        self.ends += [len(self.words) + end if end >= 0 else -1 for end in ends]
        self.words += words

    def add_vectors(self, vectors: Tensor) -> None:
        self.ids += [VECTOR] * vectors.shape[0]
        self.ends += [-1] * vectors.shape[0]
        self.vectors.append(vectors)


def _frames(texts: Sequence[tuple[str, Text]]) -> list[tuple[int, int]]:
    """Where the words of frames begin and end, in characters. Neighbours are one."""
    found, begin = list[tuple[int, int]](), 0
    for row, text in texts:
        end = begin + len(row)
        if text.frame and found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        elif text.frame:
            found.append((begin, end))
        begin = end
    return found


def _within(ends: Sequence[int], begin: int, end: int) -> tuple[int, int]:
    """The tokens, first and one past the last, that lie wholly in the characters begin to end."""
    if ends[0] < 0:  # the tokenizer does not tell
        return 0, 0
    first = bisect_right(ends, begin)
    straddles = begin > 0 and ends[first - 1] != begin
    return first + straddles, bisect_right(ends, end)


def _row(segments: Sequence[Text | Vectors], b: int, encode: Encode, bos: Sequence[int]) -> _Row:
    row, texts = _Row(list(bos), [0] * len(bos)), list[tuple[str, Text]]()
    for segment in segments:
        if isinstance(segment, Text):
            texts.append((segment.words[b], segment))
            continue
        row.add_texts(texts, encode)
        row.add_vectors(segment.values[b][segment.mask[b]])
        texts = []
    row.add_texts(texts, encode)
    if len(bos) and row.ids[1:2] == list(bos):  # a chat template wrote it already
        del row.ids[0], row.ends[0]
        row.shares = [share.moved(-1) for share in row.shares]
    return row


def _check_end(parts: Sequence[Part]) -> None:
    last = parts[-1] if parts else None
    if not isinstance(last, Chunk):
        raise EmptyPrompt("a prompt must end with text: generation continues from its last token")
    ends = last.ids[:, -1].masked_fill(~last.mask[:, -1], VECTOR)
    empty = cast(list[int], (ends == VECTOR).nonzero().flatten().tolist())
    if empty:
        raise EmptyPrompt(
            f"rows {empty} of the prompt do not end with a token; give each row some text to read"
        )
