"""Which tokens of two tokenizers belong together, by character offsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from unspoken.types import Spelling

__all__ = ["align", "mean_embeddings", "places", "shared_vocabulary", "translate"]


class _Tokenised(Protocol):
    @property
    def tokenizer(self) -> Any: ...

    def encode(
        self, words: str, frames: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[int]]: ...


def align(text: str, sender: _Tokenised, receiver: _Tokenised) -> tuple[Tensor, Tensor]:
    """Pairs (place, id): each receiver token, and the sender position in which it ends.

    place: (n,) positions among the sender's tokens of `text`, special ones not counted. id: (n,)
    receiver token ids. Offsets are characters, so accents and emoji lose nothing.
    """
    ends = torch.tensor(sender.encode(text, ())[1])
    ids, wanted = receiver.encode(text, ())
    if not len(ends) or not ids:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    places = torch.searchsorted(ends, torch.tensor(wanted))
    return places.clamp(max=len(ends) - 1), torch.tensor(ids)


def mean_embeddings(place: Tensor, word: Tensor, size: int, table: Tensor) -> tuple[Tensor, Tensor]:
    """How many receiver words end at each sender position (S,), and their mean embedding (S, W).

    place, word: as of `align`; size: S. table: (V, W), the receiver's embeddings.
    """
    count = torch.bincount(place, minlength=size)
    total = table.new_zeros(size, table.shape[1]).index_add(0, place, table[word])
    return count, total / count.clamp(min=1)[:, None]


def shared_vocabulary(sender: _Tokenised, receiver: _Tokenised) -> tuple[list[int], list[int]]:
    """Token ids (sender's, receiver's) of the words that are one token in both vocabularies."""
    special = set(sender.tokenizer.all_special_ids)
    ours = [n for n in sorted(sender.tokenizer.get_vocab().values()) if n not in special]
    words = sender.tokenizer.batch_decode([[n] for n in ours])
    theirs = receiver.tokenizer(words, add_special_tokens=False)["input_ids"]
    pairs = [
        (n, ids[0])
        for n, word, ids in zip(ours, words, theirs, strict=True)
        if len(ids) == 1 and "\ufffd" not in word
    ]
    return [n for n, _ in pairs], [n for _, n in pairs]


def ends_in(
    words: str, ends: Tensor, opening: int, tokenizer: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each of the receiver's tokens ends, in the sender's positions: (places, rest, ids).

    words: what the sender read; ends: (S,) as in `Spelling`; opening: characters that are left out
    at the front. tokenizer: the receiver's, a `tokenizers.Tokenizer`. rest: characters of the
    sender's token after the receiver's token, 0 where they end together. ids: the tokens.
    """
    found = tokenizer.encode(words[opening:], add_special_tokens=False)
    wanted = torch.tensor([opening + end for _, end in found.offsets], dtype=torch.long)
    ids = torch.tensor(found.ids, dtype=torch.long)
    after = (ends > opening).nonzero().flatten()
    if not len(after):
        return wanted[:0], wanted[:0], ids[:0]
    reached = ends[after].contiguous()
    first = torch.searchsorted(reached, wanted).clamp(max=len(after) - 1)
    place = torch.searchsorted(reached, reached[first], right=True) - 1  # the last of equal ends
    return after[place], reached[place] - wanted, ids


def places(receiver: Spelling, sharer: Spelling, *, loose: bool = False) -> Tensor:
    """For each receiver position the sharer position whose words it shares: (B, S), -1 for none.

    Where both have read the same text, and in equal stretches of words elsewhere, a receiver token
    belongs to the sharer token in which its last character falls. Of several that end together,
    like the bytes of an emoji, it is the last one. A position without characters (`<bos>`) belongs
    to one without characters. No tokenizer is asked.

    loose: different words between equal ones, such as the name in another item's question, belong
    together too, the last token to the last.
    """
    found = torch.full(receiver.ends.shape, -1, dtype=torch.long)
    for row, words, ends, sharer_words, sharer_ends in zip(
        found, receiver.words, receiver.ends.cpu(), sharer.words, sharer.ends.cpu(), strict=True
    ):
        ours, theirs = (ends >= 0).nonzero()[:, 0], (sharer_ends >= 0).nonzero()[:, 0]
        ends, sharer_ends = ends[ours], sharer_ends[theirs]
        if words == sharer_words and torch.equal(ends, sharer_ends):
            row[ours] = theirs
        elif len(ours) and len(theirs):
            blocks = _common(words, sharer_words)
            place = _places(ends, sharer_ends, blocks, sharer.begin)
            place = _bridged(place, ends, sharer_ends, blocks) if loose else place
            row[ours] = torch.where(place >= 0, theirs[place], -1)
    return found.to(receiver.ends.device)


def _places(ends: Tensor, sharer_ends: Tensor, blocks: Tensor, begin: int) -> Tensor:
    """The index among `sharer_ends` (n,) for each of `ends` (m,), -1 for none.

    blocks: as of `_common`. begin: as in `Spelling`, of the sharer.
    """
    block = torch.searchsorted(blocks[1], ends)  # the first that ends after the token's end
    start, _, ahead = blocks[:, block.clamp(max=blocks.shape[1] - 1)]
    wanted = torch.where(ends > 0, ends + ahead, 0)
    inside = (block < blocks.shape[1]) & (start < ends) & (wanted > begin)
    first = torch.searchsorted(sharer_ends, wanted).clamp(max=len(sharer_ends) - 1)
    end = sharer_ends[first]
    last = torch.searchsorted(sharer_ends, end, right=True) - 1
    there = torch.where(ends > 0, inside & (end >= wanted), end == 0)
    return torch.where(there, last, -1)


def _bridged(place: Tensor, ends: Tensor, sharer_ends: Tensor, blocks: Tensor) -> Tensor:
    """Places (m,) with the gaps between two placed tokens filled, from the right.

    A gap of the sharer ends where the next equal stretch begins.
    """
    placed = cast(list[int], (place >= 0).nonzero()[:, 0].tolist())
    gaps = [(before, after) for before, after in pairwise(placed) if after - before > 1]
    for before, after in gaps:
        start, _, ahead = blocks[:, torch.searchsorted(blocks[1], ends[after])]
        first, last = int(place[before]) + 1, int((sharer_ends <= start + ahead).sum())
        if last > first:
            counterparts = torch.arange(last - (after - before - 1), last)
            place[before + 1 : after] = counterparts.clamp(min=first)
    return place


def _common(words: str, sharer_words: str) -> Tensor:
    """Equal stretches: (3, n), start and end in `words`, and how far ahead in `sharer_words`.

    The last one is empty.
    """
    pieces, other_pieces = (re.findall(r"\S+\s*|\s+", text) for text in (words, sharer_words))
    starts, other_starts = (_starts(found) for found in (pieces, other_pieces))
    matcher = SequenceMatcher(None, pieces, other_pieces, autojunk=False)
    found = [
        (starts[m.a], starts[m.a + m.size], other_starts[m.b] - starts[m.a])
        for m in matcher.get_matching_blocks()
    ]
    return torch.tensor(found).T.contiguous()


def _starts(pieces: list[str]) -> list[int]:
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    return starts


Strategy = Literal["first", "longest"]


def translate(
    ids: Tensor, receiver_tokenizer: Any, sharer_tokenizer: Any, strategy: Strategy
) -> Tensor:
    """One sharer token for each receiver token, ids (B, S), as published fusers were trained.

    Each token's text is encoded alone, and of several tokens the first or the longest is kept. What
    is not a single token for the sharer, as accents and emoji often are not, is lost. `places`
    loses nothing.
    """
    tokens = cast(list[int], ids.flatten().tolist())
    found = [_translated(n, receiver_tokenizer, sharer_tokenizer, strategy) for n in tokens]
    return torch.tensor(found, dtype=torch.long, device=ids.device).view_as(ids)


@lru_cache(maxsize=1 << 18)
def _translated(token: int, receiver: Any, sharer: Any, strategy: Strategy) -> int:
    unknown = 0 if sharer.unk_token_id is None else sharer.unk_token_id
    if token in receiver.all_special_ids:
        roles = (f"{role}_token_id" for role in ("unk", "bos", "eos", "pad"))
        role = next((role for role in roles if getattr(receiver, role) == token), "")
        same = getattr(sharer, role, None)
        if same is not None:
            return same
        return sharer.get_vocab().get(receiver.convert_ids_to_tokens(token), unknown)
    ids: list[int] = sharer.encode(receiver.decode([token]), add_special_tokens=False)
    if strategy == "longest":
        return max(ids, key=lambda one: len(sharer.decode([one])), default=unknown)
    return ids[0] if ids else unknown
