"""Where fusion lands: words that differ between equal ones, leads, and what is not announced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Fusion, Handoff, TextChannel
from unspoken.projectors import Fuser
from unspoken.projectors.alignment import places
from unspoken.projectors.fuser import layer_map
from unspoken.types import CacheSegment, Context, Spelling, Text
from unspoken.wire import Message

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]


def spelled(words: str, *ends: int) -> Spelling:
    return Spelling((words,), torch.tensor([ends]))


def letters(words: str) -> Spelling:
    return spelled(words, *range(1, len(words) + 1))


def at(words: str, part: str, found: Tensor) -> list[int]:
    """The places of one part of the words."""
    begin = words.index(part)
    return found[0, begin : begin + len(part)].tolist()


def counted(words: str, part: str) -> list[int]:
    begin = words.index(part)
    return list(range(begin, begin + len(part)))


# -- words that differ -----------------------------------------------------------------------------


OURS = "Where is the city of Rome? Answer:"
OTHER = "Where is the city of Ouagadougou? Answer:"


def test_another_items_name_lands_last_to_last():
    strict, loose = places(letters(OURS), letters(OTHER)), places(*named(OURS, OTHER), loose=True)
    assert at(OURS, "Rome? ", strict) == [-1] * 6
    assert at(OURS, "Rome? ", loose) == counted(OTHER, "ugou? ")
    assert at(OURS, "Where is the city of ", loose) == counted(OTHER, "Where is the city of ")
    assert at(OURS, "Answer:", loose) == counted(OTHER, "Answer:")


def named(ours: str, others: str) -> tuple[Spelling, Spelling]:
    return letters(ours), letters(others)


def test_the_first_of_a_longer_name_share_the_first_of_a_shorter_one():
    loose = places(*named(OTHER, OURS), loose=True)
    name = counted(OURS, "Rome? ")
    assert at(OTHER, "Ouagadougou? ", loose) == [name[0]] * 7 + name


def test_a_name_of_one_token_lands_on_the_last_of_many():
    ends = [OURS.index(part) for part in ("is", "the", "city", "of", "Rome", "Answer")]
    found = places(spelled(OURS, *ends, len(OURS)), letters(OTHER), loose=True)[0].tolist()
    expected = [OTHER.index(part) for part in ("is", "the", "city", "of", "Oua", "Answer")]
    assert found == [end - 1 for end in (*expected, len(OTHER))]


def test_what_was_left_out_in_front_has_no_place():
    """The first position that is left begins at 3; it does not reach back to 0."""
    ours = spelled("my key is", 0, 2, 3, 6, 7, 9)
    rest = Spelling(("my key is",), torch.tensor([[6, 7, 9]]), begin=3)
    for loose in (False, True):
        assert places(ours, rest, loose=loose).tolist() == [[-1, -1, -1, 0, 1, 2]]
    whole = Spelling(rest.words, rest.ends)
    assert places(ours, whole).tolist() == [[-1, 0, 0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("ours", "others"),
    [
        (letters(OURS), letters(OURS)),
        (letters("so 🙂 ok"), letters("so 🙂 ok")),
        (spelled("abcdef", 2, 4, 6), spelled("abcdef", 1, 3, 6)),
        (spelled("ab", -1, 0, 1, 1, 2), spelled("ab", 0, 1, 1, 2)),
        (spelled("my key", 3, -1, 6), spelled("my key", -1, 6)),
    ],
)
def test_equal_texts_stay_as_they_are(ours: Spelling, others: Spelling):
    strict = places(ours, others)
    assert torch.equal(places(ours, others, loose=True), strict)
    assert strict.max() >= 0


@pytest.mark.parametrize(
    ("ours", "others"),
    [
        ("Rome is a city", "Ouagadougou is a city"),  # nothing equal in front
        ("a city is Rome", "a city is Ouagadougou"),  # nothing equal behind
        ("Rome", "Ouagadougou"),
        ("one a city two", "a city"),
    ],
)
def test_nothing_lands_before_the_first_or_behind_the_last_equal_word(ours: str, others: str):
    strict = places(*named(ours, others))
    assert torch.equal(places(*named(ours, others), loose=True), strict)
    assert (strict == -1).any()


def test_words_that_only_one_side_has_land_nowhere():
    ours, others = "in the old city now", "in the city now"
    loose = places(*named(ours, others), loose=True)
    assert at(ours, "old ", loose) == [-1] * 4
    assert at(ours, "city now", loose) == counted(others, "city now")


def test_padding_and_vectors_between_equal_words_stay_without_a_place():
    ours = spelled("of Rome now", -1, 3, 8, -1, 11)
    others = spelled("of Oslo now", 3, -1, 8, 11)
    assert places(ours, others).tolist() == [[-1, 0, -1, -1, 3]]
    assert places(ours, others, loose=True).tolist() == [[-1, 0, 2, -1, 3]]


def test_rows_are_bridged_each_on_their_own():
    ours, others = named(OURS, OTHER)
    pad = torch.full((1, len(OTHER) - len(OURS)), -1)
    both = Spelling((OURS, OTHER), torch.cat((torch.cat((pad, ours.ends), 1), others.ends)))
    turned = Spelling((OTHER, OURS), both.ends.flip(0))
    found = places(both, turned, loose=True)
    assert torch.equal(found[0, pad.shape[1] :], places(ours, others, loose=True)[0])
    shifted = places(others, ours, loose=True)[0] + pad.shape[1]
    assert torch.equal(found[1], shifted)
    assert (found[0, : pad.shape[1]] == -1).all()


# -- in a receiver ---------------------------------------------------------------------------------


LEAD = "Name the country of each city.\n"
ROLE = Role(LEAD, "{messages}{question}", chat=False)
ASKED = {"question": (OURS, "Where is the city of Bern? Answer:")}
ELSEWHERE = {"question": (OTHER, "Where is the city of Lima? Answer:")}


def fusion(sharer: Backbone, receiver: Backbone, **options: Any) -> Fusion:
    torch.manual_seed(0)
    source, target = sharer.spec, receiver.spec
    fuser = Fuser(
        source_heads=source.kv_heads,
        source_dim=source.head_dim,
        target_heads=target.kv_heads,
        target_dim=target.head_dim,
        layers=layer_map(target.layers, source.layers, "last_aligned"),
        hidden=24,
        inner=24,
    )
    fuser.gate.data.fill_(1)
    return Fusion(fuser.eval(), **options)


def message(channel: Channel, model: Backbone, fields: Any = ASKED, role: Role = ROLE) -> Message:
    state, _ = Agent("sharer", model, role=role).compute(fields, needs=channel.needs)
    return channel.send(state)


def changed(before: Context, after: Context) -> Tensor:
    """(B, S): whether any bit of any layer differs."""
    pairs = [
        (a != b).any(3).any(1)
        for pair, others in zip(before.kv, after.kv, strict=True)
        for a, b in zip(pair, others, strict=True)
    ]
    return torch.stack(pairs).any(0)


@pytest.mark.parametrize("sharer", ["qwen", "gemma"])
@pytest.mark.parametrize("fields", [ASKED, ELSEWHERE], ids=["own", "another's"])
@torch.no_grad()
def test_without_the_lead_none_of_its_positions_changes(tiny: Tiny, sharer: str, fields: Any):
    model, receiver = tiny(sharer), tiny("llama")
    whole, bare = fusion(model, receiver, loose=True), fusion(model, receiver, opening=False)
    bare.loose = True
    reader = Agent("reader", receiver, role=ROLE)
    alone = reader.read(ASKED).context
    said = {channel: message(channel, model, fields) for channel in (whole, bare)}
    heard = {
        channel: changed(alone, reader.read(ASKED, [Incoming(channel, said[channel])]).context)
        for channel in (whole, bare)
    }
    lead = (alone.spelling.ends <= len(LEAD)) & alone.mask
    lead, item = lead[:, :-1], alone.mask[:, :-1] & ~lead[:, :-1]
    assert lead.sum(1).tolist() == [len(LEAD)] * 2
    assert not heard[bare][lead].any()
    assert heard[bare][item].all()
    assert heard[whole][lead].all()
    assert heard[whole][item].all()
    assert said[bare].nbytes < said[whole].nbytes


@torch.no_grad()
def test_the_item_is_fused_as_with_the_lead(tiny: Tiny):
    model, receiver = tiny("qwen"), tiny("llama")
    whole, bare = fusion(model, receiver), fusion(model, receiver, opening=False)
    reader = Agent("reader", receiver, role=ROLE)
    with_lead, without = (
        reader.read(ASKED, [Incoming(channel, message(channel, model))]).context
        for channel in (whole, bare)
    )
    item = (with_lead.spelling.ends > len(LEAD))[:, :-1]
    for pair, others in zip(with_lead.kv, without.kv, strict=True):
        for a, b in zip(pair, others, strict=True):
            left, right = (tensor.transpose(1, 2)[item] for tensor in (a, b))
            torch.testing.assert_close(left, right, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_item_that_differs_is_fused_only_if_loose(tiny: Tiny):
    model, receiver = tiny("qwen"), tiny("llama")
    reader = Agent("reader", receiver, role=ROLE)
    alone, name = reader.read(ASKED).context, slice(OURS.index("Rome"), OURS.index("? Answer"))
    for loose in (True, False):
        channel = fusion(model, receiver, loose=loose)
        other = message(channel, model, ELSEWHERE)
        heard = changed(alone, reader.read(ASKED, [Incoming(channel, other)]).context)
        found = heard[0, len(LEAD) :][name]
        assert found.all() if loose else not found.any()


@torch.no_grad()
def test_a_lead_that_was_handed_over_is_not_taken_off_the_item(tiny: Tiny):
    """The one before handed over its lead with its cache: what is spelled begins with the item."""
    model = tiny("llama")
    handoff, channel = Handoff(), fusion(model, model, opening=False)
    arrival = Incoming(handoff, message(handoff, model))
    state, _ = Agent("second", model, role=ROLE).compute(ASKED, [arrival], needs=channel.needs)
    said = channel.send(state).payload
    assert isinstance(said, CacheSegment)
    assert said.mask.sum(1).tolist() == [len(words) for words in ASKED["question"]]


# -- announced or not ------------------------------------------------------------------------------


def test_a_message_that_is_fused_is_not_announced(tiny: Tiny):
    model, receiver = tiny("qwen"), tiny("llama")
    reader = Agent("reader", receiver, role=Role("", "{messages}{question}", chat=False))
    channel = fusion(model, receiver)
    arrival = Incoming(channel, message(channel, model))
    assert reader.prompt(ASKED, [arrival]) == reader.prompt(ASKED)
    assert reader.read(ASKED, [arrival]).tokens == reader.read(ASKED).tokens


def test_beside_words_only_the_words_are_announced(tiny: Tiny):
    model, receiver = tiny("qwen"), tiny("llama")
    reader = Agent("reader", receiver, role=Role("", "{messages}{question}", chat=False))
    fused, text = fusion(model, receiver), TextChannel(verbatim=True)
    arrivals = [Incoming(channel, message(channel, model)) for channel in (fused, text)]
    for order in (arrivals, arrivals[::-1]):
        segments = reader.prompt(ASKED, order).segments
        told = "".join(part.words[0] for part in segments if isinstance(part, Text))
        assert told.count("sharer:") == 1
        assert reader.prompt(ASKED, order) == reader.prompt(ASKED, arrivals[1:])
