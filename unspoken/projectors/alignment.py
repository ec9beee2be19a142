"""Which tokens of two tokenizers belong together, by character offsets."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["align", "shared_vocabulary"]


class _Tokenised(Protocol):
    @property
    def tokenizer(self) -> Any: ...


def align(text: str, sender: _Tokenised, receiver: _Tokenised) -> tuple[Tensor, Tensor]:
    """Pairs (place, id): each receiver token, and the sender position in which it ends.

    place: (n,) positions among the sender's tokens of `text`, special ones not counted. id: (n,)
    receiver token ids. Offsets are characters, so accents and emoji lose nothing.
    """
    ends = torch.tensor([end for _, end in _tokens(text, sender)[1]])
    ids, spans = _tokens(text, receiver)
    if not len(ends) or not ids:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    places = torch.searchsorted(ends, torch.tensor([end for _, end in spans]))
    return places.clamp(max=len(ends) - 1), torch.tensor(ids)


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


def _tokens(text: str, model: _Tokenised) -> tuple[list[int], list[tuple[int, int]]]:
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]
