"""A projected memory: its closed-form start, its positions, its files, its place in a prompt."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.kept.folders import without_digest
from unspoken import rope
from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.backbone.caches import fresh_cache, kept
from unspoken.channels import Handoff, ProjectedMemory
from unspoken.errors import Damaged, IncompatibleModels, SettingsError
from unspoken.projectors import MemoryProjector, ReadByBoth
from unspoken.projectors.alignment import ends_in
from unspoken.types import CACHE, KV, CacheSegment, Context, Need, Prompt, Text, Vectors
from unspoken.wire import Message

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

TEXTS = ("Ada keeps parrots.", "Bo has none, and no cage.")
WORDS, THREES, LETTERS = r"\s?\S+", r"[\s\S]{3}", r"[\s\S]"
ALPHABET = "".join(map(chr, range(33, 127)))
REMEMBERED = frozenset({CACHE})


def projector(
    sender: Backbone, receiver: Backbone, *, words: bool = False, **options: Any
) -> MemoryProjector:
    torch.manual_seed(0)
    turns = torch.stack(sender.frequencies), torch.stack(receiver.frequencies)
    ours, theirs = ((s.layers, s.kv_heads, s.head_dim) for s in (sender.spec, receiver.spec))
    made = MemoryProjector(
        source=ours,
        target=theirs,
        rotary=(turns[0].shape[1], turns[1].shape[1]),
        target_width=receiver.spec.width,
        vocabulary=len(receiver.table) if words else 0,
        **{"width": 40, "hidden": 24, **options},
    )
    if words:
        made.learn_words(receiver.table)
    made.source_turns.copy_(turns[0])
    made.target_turns.copy_(turns[1])
    torch.nn.init.normal_(made.piece.weight)
    made.tokenizer = receiver.tokenizer.backend_tokenizer
    return made.eval()


def cutting(model: Backbone, pattern: str, texts: Sequence[str] = TEXTS) -> Backbone:
    """The model with a tokenizer that cuts words by a pattern; every piece has an id."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    raw = Tokenizer(WordLevel({"?": 0} | {piece: n for n, piece in enumerate(pieces, 4)}, "?"))
    raw.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")
    return Backbone(model.model, tokenizer, name=f"{model.name} {pattern}")


def remembered(model: Backbone, texts: Sequence[str] = TEXTS) -> CacheSegment:
    memory = model.read(Prompt((Text(tuple(texts)),)), needs=REMEMBERED).cached
    assert memory is not None
    return memory


def said(
    channel: ProjectedMemory, model: Backbone, texts: Sequence[str] = TEXTS, lead: str = ""
) -> Message:
    agent = Agent("sender", model, role=Role(lead, "{context}", chat=False))
    state, _ = agent.compute({"context": tuple(texts)}, needs=channel.needs)
    return channel.send(state)


def codes(message: Message) -> list[Tensor]:
    """The real positions (S', width) of each row."""
    payload = message.payload
    assert isinstance(payload, Vectors)
    return [values[mask] for values, mask in zip(payload.values, payload.mask, strict=True)]


def started(made: MemoryProjector, states: Tensor, targets: Tensor, penalty: float = 0.03) -> float:
    """The closed-form start of a projector without words."""
    block = ReadByBoth(states, torch.zeros(len(states), dtype=torch.long), targets)
    return made.start([block], penalty)


def close(left: Any, right: Any, atol: float = 1e-4) -> None:
    """Other batches and lengths were seen to add 2e-5; a wrong position or piece is 1e-2 away."""
    torch.testing.assert_close(left, right, atol=atol, rtol=0)


# -- where it starts -------------------------------------------------------------------------------


def synthetic(rank: int, seed: int = 0) -> Callable[[int], tuple[Tensor, Tensor]]:
    """States of this rank and more positions of them; targets are a linear map of the states."""
    torch.manual_seed(seed)
    spread, mixed = torch.randn(rank, 32) * 3, torch.randn(32, 48)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        states = torch.randn(count, rank) @ spread + 5
        return states, states @ mixed - 2

    return draw


def flat_projector(width: int) -> MemoryProjector:
    torch.manual_seed(0)
    return MemoryProjector(
        source=(2, 1, 8), target=(3, 2, 4), rotary=(4, 2), target_width=8, width=width, hidden=6
    )


def translated(made: MemoryProjector, states: Tensor) -> Tensor:
    """What a message of these states says, (n, 2 Lt Ht Dt); the keys do not turn here."""
    code = made.basis((states - made.mean) / made.spread)
    kv = made.decode(Vectors(code[None], torch.ones(1, len(code), dtype=torch.bool))).kv
    return torch.cat([part[0].transpose(0, 1).flatten(1) for pair in kv for part in pair], -1)


@torch.no_grad()
def test_a_start_recovers_a_linear_relation():
    made, draw = flat_projector(width=12), synthetic(rank=12)
    share = started(made, *draw(400), penalty=1e-6)
    assert share == pytest.approx(1, abs=1e-4)
    unseen, expected = draw(50)
    off = (translated(made, unseen) - expected).square().mean() / expected.var()
    assert off < 1e-4


@torch.no_grad()
def test_a_start_tells_the_share_that_it_explains():
    draw = synthetic(rank=12)
    states, targets = draw(400)
    made = flat_projector(width=4)
    share = started(made, states, targets)
    assert 0.1 < share < 0.9
    left = (translated(made, states) - targets).square().sum()
    whole = (targets - targets.mean(0)).square().sum()
    assert share == pytest.approx(1 - float(left / whole), abs=1e-4)
    assert started(flat_projector(width=12), states, targets) > share
    noise = torch.randn_like(targets)
    assert started(flat_projector(width=12), states, noise) < 0.1


@torch.no_grad()
def test_a_start_standardises_codes_and_forgets_what_was_there():
    states, targets = synthetic(rank=12)(400)
    made, again = flat_projector(width=8), flat_projector(width=8)
    again.outer.weight.fill_(7)
    again.basis.weight.fill_(7)
    started(made, states, targets)
    started(again, states, targets)
    code = made.basis((states - made.mean) / made.spread)
    assert float(code.square().mean()) == pytest.approx(1, rel=1e-3)
    close(again.outer.weight, made.outer.weight, atol=0)
    close(again.basis.weight, made.basis.weight, atol=0)


@torch.no_grad()
def test_a_width_above_the_rank_and_a_dimension_that_never_moves_are_no_trouble():
    states, targets = synthetic(rank=6)(20)
    states[:, 3] = 1.0
    made = flat_projector(width=30)
    assert started(made, states, targets) > 0.9
    assert translated(made, states).isfinite().all()


@pytest.mark.parametrize("receiver", ["llama", "gemma"])
@torch.no_grad()
def test_a_memory_is_what_the_receiver_would_have_read(tiny: Tiny, receiver: str):
    """Fewer positions than the width: the translation of these texts can be exact."""
    sender, model = tiny("qwen", seed=3), tiny(receiver, seed=4)
    made = projector(sender, model, width=60)
    made.piece.weight.zero_()
    own, theirs = remembered(sender), remembered(model)
    bos = theirs.spelling is not None and theirs.spelling.ends == 0
    wanted = made.targets(theirs)[theirs.mask & ~bos]
    share = started(made, made.states(own)[own.mask], wanted, penalty=1e-7)
    assert share > 0.999
    payload = said(ProjectedMemory(made), sender).payload
    assert isinstance(payload, Vectors)
    decoded = made.decode(payload)
    assert torch.equal(decoded.mask, own.mask)
    shift = torch.full((2,), -1 if receiver == "gemma" else 0)  # <bos> stands at position 0
    expected = model.shift(theirs.kv, shift)
    for pair, others in zip(decoded.kv, expected, strict=True):
        for found, read in zip(pair, others, strict=True):
            read = read.transpose(1, 2)[theirs.mask & ~bos]
            close(found.transpose(1, 2)[decoded.mask], read, atol=0.05)
    aside = model.shift(decoded.kv, 1)  # one position off would be seen
    assert all((k - m).abs().max() > 0.5 for (k, _), (m, _) in zip(decoded.kv, aside, strict=True))


@torch.no_grad()
def test_a_receiver_answers_from_an_exact_memory_as_from_the_text(tiny: Tiny):
    sender, model = tiny("qwen", seed=3), tiny("llama", seed=4)
    made = projector(sender, model, width=60)
    made.piece.weight.zero_()
    own, theirs = remembered(sender), remembered(model)
    started(made, made.states(own)[own.mask], made.targets(theirs)[theirs.mask], penalty=1e-7)
    reader = Agent("reader", model, role=Role("", "{messages} Who?", "{message}", chat=False))
    channel = ProjectedMemory(made)
    heard = reader.read({"question": TEXTS}, [Incoming(channel, said(channel, sender))]).context
    words = model.read(Prompt((Text(tuple(f"{text} Who?" for text in TEXTS)),))).context
    silent = reader.read({"question": TEXTS}).context
    expected = model.score(words, ["Ada", "Bo"])
    close(model.score(heard, ["Ada", "Bo"]), expected, atol=0.05)
    assert (model.score(silent, ["Ada", "Bo"]) - expected).abs().max() > 0.5


@torch.no_grad()
def test_words_travel_whole_beside_the_senders_cache(tiny: Tiny):
    """Letters that no text of the start has are translated in the lowest layer all the same."""
    sender, model = tiny("qwen", seed=3), tiny("llama", seed=4)
    width = model.spec.width

    def off(*, words: bool) -> float:
        """How far the lowest layer's values are from the receiver's own, of their variance."""
        made = projector(sender, model, words=words, width=8 + width)
        made.piece.weight.zero_()
        own, theirs = (remembered(one, [ALPHABET[:40]]) for one in (sender, model))
        ids = torch.tensor(model.tokens(ALPHABET[:40]))
        block = ReadByBoth(made.states(own)[0], ids, made.targets(theirs)[0])
        made.start([block], penalty=1e-6)
        payload = said(ProjectedMemory(made), sender, [ALPHABET[40:]]).payload
        assert isinstance(payload, Vectors)
        assert payload.values.shape[2] == 8 + width
        found = made.decode(payload).kv[0][1]
        wanted = remembered(model, [ALPHABET[40:]]).kv[0][1]
        return float((found - wanted).square().mean() / wanted.var())

    assert off(words=True) < 0.2
    assert off(words=False) > 0.5


@torch.no_grad()
def test_an_embedding_has_an_rms_of_one_in_a_message(tiny: Tiny):
    sender, model = tiny("qwen"), tiny("llama")
    made = projector(sender, model, words=True)
    (code,) = codes(said(ProjectedMemory(made), sender, ["abc"]))
    rows = model.table[model.tokens("abc")]
    expected = rows / rows.square().mean(1, keepdim=True).sqrt()
    close(code[:, -model.spec.width :], expected, atol=0.02)


@torch.no_grad()
def test_words_are_saved_with_the_projector(tiny: Tiny, tmp_path: Path):
    sender, model = tiny("qwen"), tiny("llama")
    made = projector(sender, model, words=True)
    made.save_pretrained(tmp_path)
    again = MemoryProjector.from_pretrained(tmp_path).eval()
    assert again.words.dtype == torch.bfloat16
    assert torch.equal(again.words, made.words)
    (code,), (other,) = (
        codes(said(ProjectedMemory(one), sender, ["abc"])) for one in (made, again)
    )
    assert torch.equal(code, other)


def test_a_projector_without_words_has_the_tensors_that_it_always_had(tiny: Tiny):
    """Folders of earlier versions are still loaded, strictly."""
    assert "words" not in projector(tiny("qwen"), tiny("llama")).state_dict()
    assert "words" in projector(tiny("qwen"), tiny("llama"), words=True).state_dict()


def test_words_leave_room_for_the_cache(tiny: Tiny):
    with pytest.raises(IncompatibleModels, match=r"32 numbers .* takes 32; .* larger width"):
        projector(tiny("qwen"), tiny("llama"), words=True, width=32)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@torch.no_grad()
def test_states_and_targets_are_keys_without_their_positions(tiny: Tiny, kind: str):
    """In the lowest layer an equal token has an equal key, wherever it stands."""
    model = tiny(kind)
    made, memory = projector(model, model), remembered(model, ["aaaaaa", "a"])
    raw = memory.kv[0][0].transpose(1, 2).flatten(2)
    letters = cast(Any, memory.spelling).ends > 0
    assert (raw[letters] - raw[letters][0]).abs().max() > 0.1
    for found in (made.states(memory), made.targets(memory)):
        keys, values = found[letters].split((32, found.shape[-1] - 32), -1)
        close(keys, keys[:1].expand_as(keys))
        close(values[:, :32], memory.kv[0][1].transpose(1, 2).flatten(2)[letters])


# -- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sharer", "receiver", "places", "rest"),
    [
        # a word of the sharer is several of the receiver's tokens, whose letters are to come
        ("Ada keeps parrots", WORDS, THREES, [0, 1, 1, 2, 2, 2], [0, 3, 0, 5, 2, 0]),
        # a token of the receiver ends in the second of two that it covers
        ("Ada keeps", THREES, WORDS, [0, 2], [0, 0]),
        ("Ada is", LETTERS, WORDS, [2, 5], [0, 0]),
        ("é北🙂x", WORDS, LETTERS, [0, 0, 0, 0], [3, 2, 1, 0]),
        ("one", THREES, THREES, [0], [0]),
    ],
)
def test_a_receivers_token_stands_where_it_ends(
    tiny: Tiny, text: str, sharer: str, receiver: str, places: list[int], rest: list[int]
):
    sender = cutting(tiny("qwen"), sharer, [text])
    model = cutting(tiny("llama"), receiver, [text])
    ends = torch.tensor(sender.encode(text)[1])
    found = ends_in(text, ends, 0, model.tokenizer.backend_tokenizer)
    assert [part.tolist() for part in found] == [places, rest, model.tokens(text)]

    made = projector(sender, model)
    (code,) = codes(said(ProjectedMemory(made), sender, [text]))
    states = made.states(remembered(sender, [text]))[0, places]
    expected = made.basis((states - made.mean) / made.spread) + made.piece(torch.tensor(rest))
    close(code, expected)


def test_what_is_longer_than_the_table_of_pieces_is_cut_to_it(tiny: Tiny):
    text = "x" * 40
    sender, model = cutting(tiny("qwen"), WORDS, [text]), cutting(tiny("llama"), LETTERS, [text])
    made = projector(sender, model)
    (code,) = codes(said(ProjectedMemory(made), sender, [text]))
    close(code[0], code[40 - made.pieces])
    assert (code[40 - made.pieces] - code[41 - made.pieces]).abs().max() > 0.1


@pytest.mark.parametrize(
    "text", ["Ein naïver Café", "北京是中国的首都。", "so 🙂 👩‍👩‍👧 ok", "Ω≈ç√ åß∂", "a\n\n b\t c"]
)
@pytest.mark.parametrize(
    ("sharer", "receiver"), [(WORDS, ""), ("", WORDS), ("", LETTERS), (THREES, ""), ("", "")]
)
@torch.no_grad()
def test_no_letter_is_lost_between_tokenizers(tiny: Tiny, text: str, sharer: str, receiver: str):
    """Bytes where no pattern is given: an accent or an emoji is several tokens."""
    sender = cutting(tiny("qwen"), sharer, [text]) if sharer else tiny("qwen")
    model = cutting(tiny("llama"), receiver, [text]) if receiver else tiny("llama")
    made = projector(sender, model)
    (code,) = codes(said(ProjectedMemory(made), sender, [text]))
    assert len(code) == len(model.tokens(text))
    memory = remembered(sender, [text])
    assert memory.spelling is not None
    ends = memory.spelling.ends[0]
    places, rest, ids = ends_in(text, ends, 0, cast(Any, made.tokenizer))
    assert ids.tolist() == model.tokens(text)
    wanted = torch.tensor(model.encode(text)[1])
    assert wanted[-1] == len(text)
    assert torch.equal(ends[places] - rest, wanted)
    assert (rest >= 0).all()
    before = ends[(places - 1).clamp(min=0)].masked_fill(places == 0, 0)
    inside = (before < wanted) | (before == ends[places])  # bytes of one letter end together
    assert inside.all()
    last = torch.tensor([max(n for n, e in enumerate(ends) if e == ends[p]) for p in places])
    assert torch.equal(places, last)


@pytest.mark.parametrize("kind", ["gemma", "llama"])
@torch.no_grad()
def test_neither_the_lead_nor_bos_travels(tiny: Tiny, kind: str):
    sender, model = tiny(kind, seed=1), tiny("qwen")
    made = projector(sender, model)
    channel = ProjectedMemory(made)
    lead = "Read this. "
    found = codes(said(channel, sender, lead=lead))
    assert [len(code) for code in found] == [len(text) for text in TEXTS]
    for text, code in zip(TEXTS, found, strict=True):
        memory = remembered(sender, [lead + text])
        states = made.states(memory)[0, -len(text) :]
        close(code, made.basis((states - made.mean) / made.spread) + made.piece.weight[0])
    bare = codes(said(channel, sender))
    assert [len(code) for code in bare] == [len(text) for text in TEXTS]
    assert (bare[0] - found[0]).abs().max() > 1e-2  # the lead was read, though


@torch.no_grad()
def test_a_chat_template_is_a_lead_too(tiny: Tiny):
    sender, model = tiny("llama"), tiny("qwen", seed=1)
    channel = ProjectedMemory(projector(sender, model))
    agent = Agent("sender", sender, role=Role("Read.", "{context}"))
    state, _ = agent.compute({"context": TEXTS}, needs=channel.needs)
    closing = sender.chat("Read.", "\0").partition("\0")[2]
    lengths = [len(model.tokens(text + closing)) for text in TEXTS]
    assert [len(code) for code in codes(channel.send(state))] == lengths


@torch.no_grad()
def test_a_lead_that_was_handed_over_is_not_taken_off_the_item(tiny: Tiny):
    """The one before handed over its lead with its cache: what is spelled begins with the item."""
    model = tiny("llama")
    role = Role("A long instruction. ", "{context}", "{message}", chat=False)
    first, second = Agent("first", model, role=role), Agent("second", model, role=role)
    handoff, channel = Handoff(), ProjectedMemory(projector(model, model))
    before, _ = first.compute({"context": TEXTS}, needs=handoff.needs)
    arrival = Incoming(handoff, handoff.send(before))
    items = ("Where is the green key?", "Who has it?")
    state, _ = second.compute({"context": items}, [arrival], needs=channel.needs)
    assert [len(code) for code in codes(channel.send(state))] == [len(item) for item in items]


# -- windows, padding, precision -------------------------------------------------------------------


LONG = (
    "The green key lies in a drawer by the window, under the letters of last year.",
    "Bo has none of them, and none of the others.",
    "Cy?",
)


@torch.no_grad()
def test_a_sharer_beyond_its_window_says_all_that_it_read(tiny: Tiny):
    sender, model = tiny("gemma"), tiny("llama")
    assert sender.spec.window == 16
    assert sender.model.config.layer_types[0] == "sliding_attention"
    channel = ProjectedMemory(projector(sender, model))
    agent = Agent("sender", sender, role=Role("Read. ", "{context}", chat=False))
    state, _ = agent.compute({"context": LONG}, needs=channel.needs)
    assert state.cached is not None
    assert {keys.shape[2] for keys, _ in state.cached.kv} == {len("Read. ") + 1 + len(LONG[0])}
    found = codes(channel.send(state))
    for text, code in zip(LONG, found, strict=True):
        assert len(code) == len(text)
        (alone,) = codes(said(channel, sender, [text], lead="Read. "))
        close(code, alone)
    (begun,) = codes(said(channel, sender, [LONG[0][:12]], lead="Read. "))
    close(found[0][:12], begun)


@torch.no_grad()
def test_a_batch_with_padding_equals_single_rows(tiny: Tiny):
    sender, model = cutting(tiny("qwen"), WORDS, LONG), cutting(tiny("llama"), THREES, LONG)
    made = projector(sender, model, prompt=2)
    channel = ProjectedMemory(made)
    together = said(channel, sender, LONG)
    payload = together.payload
    assert isinstance(payload, Vectors)
    assert [bool(mask.all()) for mask in payload.mask] == [True, False, False]
    decoded = made.decode(payload)
    for n, (text, code) in enumerate(zip(LONG, codes(together), strict=True)):
        one = said(channel, sender, [text])
        close(code, codes(one)[0])
        assert isinstance(one.payload, Vectors)
        alone = made.decode(one.payload)
        real = payload.mask[n]
        for pair, others in zip(decoded.kv, alone.kv, strict=True):
            for whole, single in zip(pair, others, strict=True):
                close(whole[n : n + 1, :, real], single)


@torch.no_grad()
def test_a_receiver_in_bfloat16_takes_a_memory(tiny: Tiny):
    sender, whole = tiny("qwen"), tiny("llama")
    half = Backbone(copy.deepcopy(whole.model).bfloat16(), whole.tokenizer, name="half")
    channel = ProjectedMemory(projector(sender, half, prompt=2))
    sent = said(channel, sender)
    assert isinstance(sent.payload, Vectors)
    decoded = channel.projector.decode(sent.payload)
    prompt = Prompt((Text((" Who?",) * 2),))
    context = half.read(Prompt((decoded, *prompt.segments))).context
    for (keys, values), (own, held) in zip(context.kv, decoded.kv, strict=True):
        assert keys.dtype == values.dtype == torch.bfloat16
        assert torch.equal(keys[:, :, : own.shape[2]], own.bfloat16())
        assert torch.equal(values[:, :, : held.shape[2]], held.bfloat16())
    exact = whole.score(whole.read(Prompt((decoded, *prompt.segments))).context, ["Ada", "Bo"])
    close(half.score(context, ["Ada", "Bo"]), exact, atol=0.5)
    answer = half.score(half.read(channel.write(sent, prompt)).context, ["Ada", "Bo"])
    assert answer.isfinite().all()
    rounded = Vectors(sent.payload.values.bfloat16(), sent.payload.mask)
    assert channel.projector.decode(rounded).kv[0][0].dtype == torch.float32


# -- its place in a prompt -------------------------------------------------------------------------


def read_by_hand(model: Backbone, lead: Tensor, memory: KV, asked: Tensor) -> KV:
    """Ids (1, N), a cache and ids again, by the model itself, positions counted through."""
    behind = lead.shape[1] + memory[0][0].shape[2]
    read = model.model.model(input_ids=lead, use_cache=True).past_key_values
    kv = tuple(
        (torch.cat((layer.keys, keys), 2), torch.cat((layer.values, values), 2))
        for layer, (keys, values) in zip(read.layers, memory, strict=True)
    )
    at = torch.arange(behind, behind + asked.shape[1])[None]
    cache = fresh_cache(kv)
    model.model.model(input_ids=asked, position_ids=at, past_key_values=cache, use_cache=True)
    return kept(cache)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@torch.no_grad()
def test_a_memory_stands_behind_what_was_read_before(tiny: Tiny, kind: str):
    sender, model = tiny("qwen"), tiny(kind, seed=2)
    channel = ProjectedMemory(projector(sender, model))
    message = said(channel, sender, TEXTS[:1])
    reader = Agent(
        "reader", model, role=Role("Do: ", "{messages} {question}", "{message}", chat=False)
    )
    question = ("Who keeps them?",)
    found: Context = reader.read({"question": question}, [Incoming(channel, message)]).context

    assert isinstance(message.payload, Vectors)
    lead = torch.tensor([model.tokenizer("Do: ")["input_ids"]])
    decoded = channel.projector.decode(message.payload).kv
    moved = rope.rotate(decoded, torch.tensor([lead.shape[1]]), model.frequencies)
    asked = torch.tensor([model.tokens(" Who keeps them?")])
    expected = read_by_hand(model, lead, moved, asked[:, :-1])
    close(found.kv, expected)
    stayed = read_by_hand(model, lead, decoded, asked[:, :-1])
    assert (stayed[2][1] - expected[2][1]).abs().max() > 1e-2


def test_free_vectors_stand_in_front_and_do_not_travel(tiny: Tiny):
    sender, model = tiny("qwen"), tiny("llama")
    made, bare = projector(sender, model, prompt=2), projector(sender, model)
    bare.load_state_dict({k: v for k, v in made.state_dict().items() if k != "prompt"}, False)
    words = torch.randn(2, model.spec.width)
    made.start_from(words)
    message = said(ProjectedMemory(made), sender)
    plain = said(ProjectedMemory(bare), sender)
    assert message.nbytes == plain.nbytes
    close(codes(message), codes(plain), atol=0)
    lead, memory = ProjectedMemory(made).write(message, Prompt(())).segments
    assert isinstance(lead, Vectors)
    assert isinstance(memory, CacheSegment)
    close(lead.values, words.expand(2, -1, -1))
    assert lead.mask.all()


# -- who decodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [False, True])
@torch.no_grad()
def test_a_cache_that_the_sender_decoded_is_what_the_receiver_would_decode(
    tiny: Tiny, words: bool, monkeypatch: pytest.MonkeyPatch
):
    sender, model = tiny("gemma"), tiny("llama")
    made = projector(sender, model, prompt=2, words=words)
    by_receiver, by_sender = ProjectedMemory(made), ProjectedMemory(made, decoded_by="sender")
    reader = Agent("reader", model, role=Role("Do: ", "{messages}{question}", chat=False))
    asked = {"question": ("Who?", "Why?")}

    def read(message: Message) -> Context:
        arrived = Message.from_bytes(message.to_bytes())
        by_sender.accept(arrived, model.spec)
        return reader.read(asked, [Incoming(by_receiver, arrived)]).context

    coded, decoded = said(by_receiver, sender), said(by_sender, sender)
    assert isinstance(decoded.payload, CacheSegment)
    assert decoded.header.kinds == ()  # those of the sender say nothing about this cache
    expected = read(coded)
    monkeypatch.setattr(made, "decode", None)  # the receiver has nothing left to compute
    found = read(decoded)
    close(found.kv, expected.kv, atol=0)
    assert (expected.kv[1][0][0] - expected.kv[1][0][1]).abs().max() > 1e-2


def test_a_decoded_cache_of_another_shape_is_refused(tiny: Tiny):
    sender, model, other = tiny("qwen"), tiny("llama"), tiny("llama", layers=2)
    message = said(ProjectedMemory(projector(sender, other), decoded_by="sender"), sender)
    header = message.header.model_copy(update={"projector": ""})
    channel = ProjectedMemory(projector(sender, model))
    with pytest.raises(IncompatibleModels, match=r"a cache of 2 layers .* keeps 3 layers of"):
        channel.accept(Message(header, message.payload), model.spec)


def test_who_decodes_is_one_of_two(tiny: Tiny):
    made = projector(tiny("qwen"), tiny("llama"))
    with pytest.raises(SettingsError, match=r"decoded_by.*'nobody'.*'receiver' or 'sender'"):
        ProjectedMemory(made, decoded_by="nobody")


# -- what stands before a message ------------------------------------------------------------------


@torch.no_grad()
def test_what_stands_before_a_message_is_read_once(tiny: Tiny, passes: Any):
    sender, model = tiny("qwen"), tiny("llama")
    plain = copy.copy(model)
    made, other = (projector(sender, model, prompt=2, words=True) for _ in range(2))
    other.prompt.mul_(1.5)
    first, second = ProjectedMemory(made), ProjectedMemory(other)
    role = Role("Do: ", "Fact:{messages}{question}", "{message}", chat=False)

    def kv(receiver: Backbone, channel: ProjectedMemory, text: str) -> KV:
        reader = Agent("reader", receiver, role=role)
        message = said(channel, sender, [text])
        asked = {"question": ("Who keeps them?",)}
        return reader.read(asked, [Incoming(channel, message)]).context.kv

    def afresh(channel: ProjectedMemory, text: str) -> KV:
        plain._opening = plain._front = ((), ())
        return kv(plain, channel, text)

    model._opening = model._front = ((), ())
    with passes(model) as counted:
        kv(model, first, TEXTS[0])
        assert len(counted) == 3  # the opening, what stands before the message, the question
        again = kv(model, first, TEXTS[1])
        assert len(counted) == 4
        changed = kv(model, second, TEXTS[1])
        assert len(counted) == 6
    close(again, afresh(first, TEXTS[1]), atol=0)
    close(changed, afresh(second, TEXTS[1]), atol=0)
    assert (again[1][0] - changed[1][0]).abs().max() > 1e-4


def test_free_vectors_before_a_message_learn(tiny: Tiny):
    sender, model = tiny("qwen"), tiny("llama")
    channel = ProjectedMemory(projector(sender, model, prompt=2))
    reader = Agent("reader", model, role=Role("Do: ", "{messages}{question}", "{message}"))
    for _ in range(2):
        message = said(channel, sender, TEXTS[:1])
        found = reader.read({"question": ("Who?",)}, [Incoming(channel, message)]).context
        channel.projector.prompt.grad = None
        found.kv[-1][0].sum().backward()
        grad = channel.projector.prompt.grad
        assert grad is not None
        assert grad.abs().max() > 0


# -- files and what fits ---------------------------------------------------------------------------


def saved(tiny: Tiny, folder: Path) -> tuple[Backbone, MemoryProjector]:
    sender, model = cutting(tiny("qwen"), WORDS), cutting(tiny("llama"), THREES)
    made = projector(sender, model, prompt=2, target_weights="them")
    made.save_pretrained(folder)
    return sender, made


@torch.no_grad()
def test_a_round_trip_keeps_weights_settings_and_tokenizer(tiny: Tiny, tmp_path: Path):
    sender, made = saved(tiny, tmp_path)
    again = ProjectedMemory(str(tmp_path)).projector
    assert again.state_dict().keys() == made.state_dict().keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for setting in ("source", "target", "width", "target_width", "target_weights"):
        assert getattr(again, setting) == getattr(made, setting)
    assert made.tokenizer is not None
    assert again.tokenizer is not None
    assert again.tokenizer.to_str() == made.tokenizer.to_str()
    sent, resent = (said(ProjectedMemory(one), sender) for one in (made, again))
    close(codes(resent), codes(sent), atol=0)
    assert resent.header == sent.header


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
@pytest.mark.parametrize("key", ["mean", "piece.weight", "source_turns"])
def test_weights_that_are_not_its_own_are_refused(
    tiny: Tiny, tmp_path: Path, key: str, change: str
):
    saved(tiny, tmp_path)
    path = without_digest(tmp_path)
    tensors = load_file(path)
    match change:
        case "missing":
            del tensors[key]
        case "surplus":
            key = f"{key}.more"
            tensors[key] = torch.ones(2)
        case _:
            tensors[key] = torch.ones(2, 2, 2)
    save_file(tensors, path)
    with pytest.raises(Damaged, match=key):
        MemoryProjector.from_pretrained(tmp_path)


def test_a_hub_gives_the_tokenizer_too(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, made = saved(tiny, tmp_path / "saved")

    def download(repo_id: str, *, allow_patterns: list[str], revision: str) -> str:
        assert (repo_id, revision) == ("somebody/memory", "v2")
        (tmp_path / "cache").mkdir()
        for pattern in allow_patterns:
            for path in (tmp_path / "saved").glob(pattern):
                shutil.copy(path, tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    again = MemoryProjector.from_pretrained("somebody/memory", revision="v2")
    assert made.tokenizer is not None
    assert again.tokenizer is not None
    assert again.tokenizer.to_str() == made.tokenizer.to_str()


def test_a_projector_without_a_tokenizer_is_refused_before_any_pass(tiny: Tiny, tmp_path: Path):
    _, made = saved(tiny, tmp_path)
    made.tokenizer = None
    made.save_pretrained(tmp_path / "bare")
    tmp_path = tmp_path / "bare"
    channel = ProjectedMemory(str(tmp_path))
    with pytest.raises(IncompatibleModels, match=r"no tokenizer of receiver .* train one with"):
        channel.check(tiny("qwen").spec, tiny("llama").spec)


def test_caches_that_do_not_fit_are_refused(tiny: Tiny):
    two, three, wide = tiny("qwen", layers=2), tiny("llama"), tiny("llama", width=48)
    channel = ProjectedMemory(projector(three, three))
    channel.check(three.spec, three.spec)
    assert channel.needs == frozenset({Need("cache")})
    with pytest.raises(IncompatibleModels, match=rf"a sender with 3 layers.*'{two.name}' has 2"):
        channel.check(two.spec, three.spec)
    with pytest.raises(IncompatibleModels, match=rf"a receiver with 3 layers.*'{two.name}' has 2"):
        channel.check(three.spec, two.spec)
    with pytest.raises(IncompatibleModels, match=rf"embeds 32, but '{wide.name}' embeds 48"):
        channel.check(three.spec, wide.spec)
