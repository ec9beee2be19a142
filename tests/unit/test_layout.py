"""What was read is spelled: words, and where each position ends in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from unspoken.backbone import Backbone
from unspoken.layout import Chunk, Share
from unspoken.types import CACHE, CacheSegment, Prompt, Text, Vectors

Tiny = Callable[..., Backbone]


def ends(
    model: Backbone, *segments: Text | Vectors | CacheSegment
) -> tuple[tuple[str, ...], list[list[int]]]:
    spelling = model.read(Prompt(segments)).context.spelling
    return spelling.words, spelling.ends.tolist()


def test_rows_are_spelled_behind_their_padding(tiny: Tiny):
    words, found = ends(tiny("llama"), Text(("abc", "x")))
    assert words == ("abc", "x")
    assert found == [[1, 2, 3], [-1, -1, 1]]


def test_bos_spells_nothing_and_a_lead_comes_first(tiny: Tiny):
    words, found = ends(tiny("gemma"), Text(("Hi ", "Hi "), shared=True), Text(("ab", "c")))
    assert words == ("Hi ab", "Hi c")
    assert found == [[0, 1, 2, 3, 4, 5], [-1, 0, 1, 2, 3, 4]]  # holes are closed


def test_bytes_of_one_character_end_together(tiny: Tiny):
    words, found = ends(tiny("llama"), Text(("é🙂!",)))
    assert words == ("é🙂!",)
    assert found == [[1, 1, 2, 2, 2, 2, 3]]


def test_vectors_stand_between_words(tiny: Tiny):
    vectors = Vectors(torch.zeros(1, 2, 32), torch.ones(1, 2, dtype=torch.bool))
    words, found = ends(tiny("llama"), Text(("ab",)), vectors, Text(("c",)))
    assert words == ("abc",)
    assert found == [[1, 2, -1, -1, 3]]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_memory_is_spelled_as_it_was_read(tiny: Tiny, kind: str):
    model = tiny(kind)
    memory = model.read(Prompt((Text(("abc",)),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    bos = [0] if kind == "gemma" else []
    assert ends(model, memory, Text(("de",))) == (("abcde",), [[*bos, 1, 2, 3, 4, 5]])
    silent = CacheSegment.of(memory.kv, memory.mask)
    none = [-1] * silent.mask.shape[1]
    assert ends(model, silent, Text(("de",))) == (("de",), [[*none, 1, 2]])


def test_holes_are_closed_with_their_spelling(tiny: Tiny):
    model = tiny("gemma")
    rows = Text(("a long row of words that goes on", "b"))
    memory = model.read(Prompt((rows,)), needs=frozenset({CACHE})).cached
    assert memory is not None
    both = model.read(Prompt((memory, Text(("?", "what is it?"))))).context
    one = model.read(Prompt((memory.rows(slice(1, 2)), Text(("what is it?",))))).context
    assert both.spelling.words[1] == one.spelling.words[0]
    assert both.spelling.ends[1][both.mask[1]].tolist() == one.spelling.ends[0].tolist()


def shares(model: Backbone, *segments: Text) -> list[tuple[tuple[str, int, int], ...]]:
    return [tuple((name, a, b) for name, a, b, _ in row) for row in laid_out(model, *segments)]


def laid_out(model: Backbone, *segments: Text) -> tuple[tuple[Share, ...], ...]:
    parts = model.lay_out(Prompt(segments))
    assert isinstance(parts[-1], Chunk)
    return parts[-1].shares


def test_a_text_with_a_share_key_says_where_its_tokens_are(tiny: Tiny):
    texts = (Text(("Q: ", "Q: ")), Text(("why?", "é"), share="question"), Text((" A:", " A:")))
    assert shares(tiny("llama"), *texts) == [(("question", 2, 7),), (("question", 2, 5),)]
    after_bos = [(("question", 3, 8),), (("question", 3, 6),)]
    assert shares(tiny("gemma"), *texts) == after_bos


def test_the_space_before_a_text_is_its_own_unless_another_text_ends_with_it(tiny: Tiny):
    texts = (Text(("a ",), share="one"), Text(("b",), share="two"), Text((" ",)), Text(("c",)))
    assert shares(tiny("llama"), *texts) == [(("one", 0, 2), ("two", 2, 3))]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_words_that_introduce_a_text_are_its_cue(tiny: Tiny, kind: str):
    texts = [Text(("Read. ", "Read. "))]
    for number, words in ((1, ("one", "x")), (2, ("", "other"))):
        named = [f"{number}: " if row else "" for row in words]
        texts += [Text(tuple(named), cue=True), Text(words, share="documents")]
        texts += [Text(tuple("\n" if row else "" for row in words))]
    bos = int(kind == "gemma")
    first, second = laid_out(tiny(kind), *texts, Text(("End.", "End.")))
    assert first == (Share("documents", bos + 8, bos + 12, 2),)  # the space belongs to the text
    assert second == (
        Share("documents", bos + 8, bos + 10, 2),
        Share("documents", bos + 13, bos + 19, 2),
    )


def test_a_share_changes_no_token_and_leaves_out_those_that_straddle(tiny: Tiny):
    model = tiny("llama")
    model = Backbone(model.model, merging("ab"), name="merging")
    words = Text(("xa",)), Text(("ba",), share="middle"), Text(("by",))
    plain = model.lay_out(Prompt((Text(("xababy",)),)))[0]
    keyed = model.lay_out(Prompt(words))[0]
    assert isinstance(plain, Chunk)
    assert isinstance(keyed, Chunk)
    assert torch.equal(plain.ids, keyed.ids)
    assert keyed.ids.shape == (1, 4)  # x ab ab y: both pairs reach over a border
    assert keyed.shares == ((),)


def merging(pair: str) -> PreTrainedTokenizerFast:
    """A tokenizer of letters that knows one pair."""
    letters = {letter: n for n, letter in enumerate("abxy")}
    bpe = BPE(vocab={**letters, pair: len(letters)}, merges=[(pair[0], pair[1])])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(bpe))
