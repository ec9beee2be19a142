"""Fusion in a receiver: golden data of the reference, sections, second turns, words that meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.backbone.caches import fresh_cache
from unspoken.channels import Fusion
from unspoken.channels.fusion import fuse_in
from unspoken.channels.sections import Sharer, prefill
from unspoken.errors import ContextTooLong, EmptyPrompt, IncompatibleModels
from unspoken.projectors import Fuser
from unspoken.projectors.alignment import places, translate
from unspoken.projectors.fuser import layer_map
from unspoken.testing import tiny_backbone
from unspoken.types import CACHE, KV, CacheSegment, Context, Prompt, Read, Settings, Spelling, Text
from unspoken.wire import Header, Message

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]
GOLDEN = Path(__file__).parents[1] / "golden" / "c2c"


class Numbers:
    """A tokenizer that writes ids as numbers."""

    pad_token_id = eos_token_id = None

    def get_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def golden_model(folder: Path) -> Backbone:
    return Backbone(
        AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False),
        Numbers(),
        name=folder.name,
    )


def golden_world(case: str) -> tuple[Backbone, Sharer, dict[str, Tensor]]:
    folder = GOLDEN / case
    fuser = Fuser.from_published(folder / "fuser1")
    sharer = Sharer(golden_model(folder / "sharer1"), fuser)
    return golden_model(folder / "receiver"), sharer, load_file(folder / "golden.safetensors")


def after(model: Backbone, context: Context, ids: Tensor, at: Tensor | None = None) -> Any:
    """The model's output for more ids (B, N) behind the cache of a context."""
    more = torch.ones(len(ids), ids.shape[1] - 1, dtype=torch.bool)
    mask = torch.cat((context.mask, more), 1)
    at = (mask.long().cumsum(1) - 1)[:, -ids.shape[1] :] if at is None else at
    cache = fresh_cache(context.kv)
    return model.model(
        input_ids=ids, attention_mask=mask.long(), position_ids=at, past_key_values=cache
    )


def close(left: KV, right: KV, atol: float = 1e-4) -> None:
    """Other batches and sections were seen to add 2e-5; a wrong place or mask is 0.1 away."""
    torch.testing.assert_close(left, right, atol=atol, rtol=0)


# -- the reference ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("case", ["a_same_depth", "b1_deeper_sharer"])
def test_a_prompt_is_read_as_by_the_reference(case: str, order: Any):
    receiver, sharer, golden = golden_world(case)
    ids = golden["input_ids"]
    context = prefill(
        receiver, [sharer], ids, torch.ones_like(ids), torch.ones_like(ids), order=order
    )
    out = after(receiver, context, torch.cat((ids[:, -1:], golden["tokens"][:, :-1]), 1))
    # Other instruction sets were seen to add 1.2e-5; an epsilon of 1e-5 for 1e-6 adds 3e-4.
    torch.testing.assert_close(out.logits, golden["step_logits"], atol=5e-5, rtol=0)
    for n, layer in enumerate(out.past_key_values.layers):
        found = (layer.keys[:, :, : ids.shape[1]], layer.values[:, :, : ids.shape[1]])
        expected = (golden[f"fused_key.{n}"], golden[f"fused_value.{n}"])
        torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)
    written = receiver.write(context, Settings(max_tokens=16)).words
    assert written == (" ".join(map(str, golden["tokens"][0].tolist())),)
    plain = prefill(receiver, [], ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert receiver.write(plain, Settings(max_tokens=16)).words != written


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "file", "order"),
    [
        ("nearest_shallower", "golden", "sequential"),
        ("two_sharers", "golden", "sequential"),
        ("two_sharers", "golden_parallel", "parallel"),
        ("bf16", "golden", "sequential"),
    ],
)
def test_sections_sharers_and_bfloat16_are_the_references(case: str, file: str, order: Any):
    folder = GOLDEN / case
    golden = load_file(folder / f"{file}.safetensors")
    receiver, ids = golden_model(folder / "receiver"), golden["input_ids"]
    sharers = [
        Sharer(golden_model(model), Fuser.from_published(folder / f"fuser{n + 1}"))
        for n, model in enumerate(sorted(folder.glob("sharer*")))
    ]
    context = prefill(receiver, sharers, ids, torch.ones_like(ids), golden["use"], order=order)
    cut = ids.shape[1] - 1
    expected = tuple(
        (golden[f"fused_key.{n}"][:, :, :cut], golden[f"fused_value.{n}"][:, :, :cut])
        for n in range(len(context.kv))
    )
    if case == "bf16":  # every bit on the machine that wrote it; others sum in another order, and
        pairs = zip(context.kv, expected, strict=True)  # were up to 0.9 % away in the last layer
        parts = [(a.float(), b.float()) for pair in pairs for a, b in zip(*pair, strict=True)]
        assert all((a - b).norm() < 0.015 * b.norm() for a, b in parts)
        return
    close(context.kv, expected, atol=1e-5)
    written = receiver.write(context, Settings(max_tokens=8)).words
    assert written == (" ".join(map(str, golden["tokens"][0].tolist())),)


def published(fuser: Fuser, values: Callable[[nn.Parameter], Tensor], folder: Path) -> Any:
    """Layer by layer, some values of all parameters under their published names."""
    copy = Fuser.from_published(GOLDEN / "f_train_step" / "fuser1")
    with torch.no_grad():
        for mine, theirs in zip(copy.parameters(), fuser.parameters(), strict=True):
            mine.copy_(values(theirs))
    copy.to_published(folder)
    files = (folder / "final" / f"projector_{n}.pt" for n in range(len(fuser.layers)))
    return [torch.load(file, weights_only=True) for file in files]


def test_a_training_step_is_the_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    receiver, sharer, golden = golden_world("f_train_step")
    fuser = sharer.fuser.train()
    for module in fuser.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    noise = iter([golden[f"uniform_{w}.{n}"] for n in range(3) for w in ("key", "value")])
    monkeypatch.setattr(fuser, "uniform", lambda shape: next(noise).view(shape))
    ids, mask, at = (golden[name] for name in ("input_ids", "attention_mask", "position_ids"))
    first = 50  # the section that is fused; what follows is the answer
    context = prefill(
        receiver,
        [sharer],
        ids[:, : first + 1],
        mask[:, : first + 1],
        torch.ones_like(ids[:, : first + 1]),
        at[:, : first + 1],
    )
    whole = replace(context, mask=mask.bool())
    logits = receiver.model(
        input_ids=ids[:, first:],
        attention_mask=whole.mask.long(),
        position_ids=at[:, first:],
        past_key_values=fresh_cache(context.kv),
    ).logits
    torch.testing.assert_close(logits, golden["last_section_logits"], atol=2e-5, rtol=0)
    targets = golden["labels"][:, first + 1 :].flatten()
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets)
    torch.testing.assert_close(loss[None], golden["loss"], atol=1e-5, rtol=0)
    optimizer = torch.optim.AdamW(fuser.parameters(), lr=1e-4, weight_decay=0.01)
    loss.backward()
    grads = published(fuser, lambda p: p.grad, tmp_path / "grads")
    compared = [(n, name) for n in range(3) for name in grads[n] if name != "gate_temperature"]
    for n, name in compared:
        expected = golden[f"grad.{n}.{name}"].view_as(grads[n][name])
        torch.testing.assert_close(grads[n][name], expected, atol=1e-5, rtol=0)
    assert len(compared) == sum(name.startswith("grad.") for name in golden)
    nn.utils.clip_grad_norm_(fuser.parameters(), 1.0)
    optimizer.step()
    stepped = published(fuser, lambda p: p, tmp_path / "stepped")
    for name in (name for name in golden if name.startswith("after_step.")):
        _, n, parameter = name.split(".", 2)
        found = stepped[int(n)][parameter].view_as(golden[name])
        torch.testing.assert_close(found, golden[name], atol=1e-6, rtol=0)


# -- sections --------------------------------------------------------------------------------------


def fuser(sharer: Backbone, receiver: Backbone, seed: int = 0, **options: Any) -> Fuser:
    torch.manual_seed(seed)
    source, target = sharer.spec, receiver.spec
    options = {"layers": layer_map(target.layers, source.layers, "last_aligned"), **options}
    made = Fuser(
        source_heads=source.kv_heads,
        source_dim=source.head_dim,
        target_heads=target.kv_heads,
        target_dim=target.head_dim,
        hidden=24,
        inner=24,
        **options,
    )
    with torch.no_grad():
        made.gate.fill_(1)
    return made.eval()


def sharer(tiny: Tiny, kind: str, receiver: Backbone, seed: int = 0, **options: Any) -> Sharer:
    model = tiny(kind, seed=seed + 5)
    return Sharer(model, fuser(model, receiver, seed, **options))


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(4, 260, (rows, length), generator=torch.Generator().manual_seed(seed))


def score(model: Backbone, context: Context) -> Tensor:
    return model.score(context, [" yes"] * context.batch)


@torch.no_grad()
@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("where", ["left", "middle"])
def test_batch_equals_single_with_masks_of_each_row(tiny: Tiny, where: str, order: Any):
    receiver = tiny("llama")
    sharers = [sharer(tiny, "qwen", receiver, 1), sharer(tiny, "llama", receiver, 2)]
    ids = random_ids(3, 12)
    mask = torch.ones_like(ids).bool()
    mask[1, :5] = False
    mask[2, 3:9] = False
    if where == "left":
        mask[2] = torch.tensor([False] * 6 + [True] * 6)
    use = torch.tensor(
        [
            [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
            [1, 1, 1, 1, 1, 3, 3, 3, 0, -1, 1, 1],
            [-1] * 12,
        ]
    )
    together = prefill(receiver, sharers, ids, mask, use, order=order)
    words = receiver.write(together, Settings(max_tokens=8)).words
    for row in range(3):
        real = mask[row]
        one = (tensor[row : row + 1, real] for tensor in (ids, mask, use))
        alone = prefill(receiver, sharers, *one, order=order)
        kept = tuple(
            (k[row : row + 1][:, :, real[:-1]], v[row : row + 1][:, :, real[:-1]])
            for k, v in together.kv
        )
        close(kept, alone.kv)
        torch.testing.assert_close(
            score(receiver, together)[row], score(receiver, alone)[0], atol=1e-4, rtol=0
        )
        assert receiver.write(alone, Settings(max_tokens=8)).words == words[row : row + 1]
    silent = prefill(receiver, [], ids, mask, torch.zeros_like(use))
    real = mask[2, :-1]
    for (keys, _), (plain, _) in zip(together.kv, silent.kv, strict=True):
        torch.testing.assert_close(keys[2, :, real], plain[2, :, real], atol=1e-4, rtol=0)


@torch.no_grad()
def test_what_follows_a_section_attends_to_it_as_fused(tiny: Tiny):
    receiver = tiny("llama")
    one, two = sharer(tiny, "qwen", receiver, 1), sharer(tiny, "qwen", receiver, 2)
    ids, use = random_ids(1, 10), torch.tensor([[1, 1, 1, 0, 0, 0, 2, 2, 2, 2]])
    found = prefill(receiver, [one, two], ids, torch.ones_like(ids), use)
    kv: KV = ()
    for begin, end, chosen in ((0, 3, one), (3, 6, None), (6, 9, two)):
        mask = torch.ones(1, end).bool()
        kv = receiver.extend(kv, ids[:, begin:end], mask, layers=3)
        if chosen:
            source = chosen.model.extend((), ids[:, :end], mask, layers=3)
            place = torch.arange(end)[None].masked_fill(torch.arange(end) < begin, -1)
            kv = chosen.fuser(kv, source, place)
    close(found.kv, kv)


@torch.no_grad()
def test_two_sharers_follow_one_another_or_are_added(tiny: Tiny):
    receiver = tiny("llama")
    both = [sharer(tiny, "qwen", receiver, 1), sharer(tiny, "llama", receiver, 2)]
    ids = random_ids(2, 9)
    mask = torch.ones_like(ids)

    def read(use: int, order: Any = "sequential") -> KV:
        return prefill(receiver, both, ids, mask, torch.full_like(ids, use), order=order).kv

    none, first, second = read(0), read(1), read(2)
    for n, (keys, _) in enumerate(read(3, "parallel")):
        expected = first[n][0] + second[n][0] - none[n][0]
        torch.testing.assert_close(keys, expected, atol=1e-4, rtol=0)
    assert (read(3)[1][0] - read(3, "parallel")[1][0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_second_turn_goes_on_from_a_fused_cache(tiny: Tiny):
    receiver = tiny("llama")
    sharers = [sharer(tiny, "qwen", receiver)]
    ids, mask = random_ids(2, 15), torch.ones(2, 15).bool()
    mask[1, :3] = mask[0, 8:10] = False
    use = torch.ones_like(ids)
    use[:, 7] = 0  # the last token of the first turn
    first = prefill(receiver, sharers, ids[:, :8], mask[:, :8], use[:, :8])
    before = [tensor.clone() for pair in first.kv for tensor in pair]
    second = prefill(receiver, sharers, ids, mask, use, context=first)
    whole = prefill(receiver, sharers, ids, mask, use)
    real = mask[:, None, :-1, None]
    close(
        tuple((k * real, v * real) for k, v in second.kv),
        tuple((k * real, v * real) for k, v in whole.kv),
    )
    assert all(
        torch.equal(k[:, :, :7], f) for (k, _), (f, _) in zip(second.kv, first.kv, strict=True)
    )
    kept = [tensor for pair in first.kv for tensor in pair]
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    with pytest.raises(ValueError, match="does not begin"):
        prefill(receiver, sharers, ids[:, 8:], mask[:, 8:], use[:, 8:], context=first)


@torch.no_grad()
def test_a_prompt_of_one_token_works_and_can_be_continued(tiny: Tiny):
    receiver = tiny("llama")
    sharers = [sharer(tiny, "qwen", receiver)]
    ids = random_ids(1, 6)
    mask = use = torch.ones_like(ids)
    one = prefill(receiver, sharers, ids[:, :1], mask[:, :1], use[:, :1])
    assert receiver.write(one, Settings(max_tokens=4)).passes == 4
    close(
        prefill(receiver, sharers, ids, mask, use, context=one).kv,
        prefill(receiver, sharers, ids, mask, use).kv,
    )


@torch.no_grad()
def test_sharers_read_no_more_than_is_needed(tiny: Tiny, passes: Any):
    receiver = tiny("llama")
    used, idle = sharer(tiny, "qwen", receiver, layers=[[2, 0]]), sharer(tiny, "gemma", receiver)
    ids = random_ids(1, 10)
    use = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0, 0, 0]])
    lengths: list[int] = []
    layers = used.model.model.model.layers
    hooks = [
        layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1])),
        layers[1].self_attn.register_forward_pre_hook(lambda *_: pytest.fail("not needed")),
    ]
    with passes(idle.model) as seen, passes(receiver) as own:
        prefill(receiver, [used, idle], ids, torch.ones_like(ids), use)
    for hook in hooks:
        hook.remove()
    assert lengths == [4]
    assert not seen
    assert len(own) == 2


@torch.no_grad()
def test_a_sharer_may_have_tokens_and_padding_of_its_own(tiny: Tiny):
    receiver = tiny("llama")
    plain = sharer(tiny, "qwen", receiver)
    ids, own = random_ids(1, 8), random_ids(1, 8, seed=1)
    theirs = torch.tensor([[True] * 3 + [False] * 2 + [True] * 3])
    use = mask = torch.ones_like(ids)
    found = prefill(receiver, [replace(plain, ids=own, mask=theirs)], ids, mask, use)
    source = plain.model.extend((), own[:, theirs[0]], torch.ones(1, 6).bool(), layers=3)
    places = torch.tensor([[0, 1, 2, -1, -1, 3, 4]])
    alone = prefill(receiver, [], ids, mask, use * 0)
    expected = plain.fuser(alone.kv, source, places)
    close(found.kv, expected)


@torch.no_grad()
def test_a_sliding_window_is_right_or_refused(tiny: Tiny):
    receiver = tiny("llama")
    sharers = [sharer(tiny, "gemma", receiver)]
    assert sharers[0].model.spec.window == 16
    ids, mask = random_ids(2, 40), torch.ones(2, 40).bool()
    mask[1, :9] = False
    use = torch.ones_like(ids)
    together = prefill(receiver, sharers, ids, mask, use)
    alone = prefill(receiver, sharers, ids[1:, 9:], mask[1:, 9:], use[1:, 9:])
    close(tuple((k[1:, :, 9:], v[1:, :, 9:]) for k, v in together.kv), alone.kv)
    mask[0, 20:25] = False
    with pytest.raises(IncompatibleModels, match="sliding window"):
        prefill(receiver, sharers, ids, mask, use)
    with pytest.raises(IncompatibleModels, match="sliding window"):
        prefill(sharers[0].model, [], ids, mask, use * 0)


def test_what_cannot_be_read_is_refused_before_any_pass(tiny: Tiny, passes: Any):
    receiver = tiny("llama")
    sharers = [sharer(tiny, "qwen", receiver)]
    ids, mask = random_ids(1, 6), torch.ones(1, 6)
    use = torch.ones_like(ids)
    long = random_ids(1, 300)
    with passes(receiver) as seen:
        with pytest.raises(EmptyPrompt, match="end with a token"):
            prefill(receiver, sharers, ids, mask * torch.tensor([1, 1, 1, 1, 1, 0]), use)
        with pytest.raises(ValueError, match="names sharers"):
            prefill(receiver, sharers, ids, mask, use * 2)
        with pytest.raises(ContextTooLong, match="300 positions"):
            prefill(receiver, sharers, long, torch.ones_like(long), torch.ones_like(long))
    assert not seen


# -- words -----------------------------------------------------------------------------------------


def spelled(words: str, *ends: int) -> Spelling:
    return Spelling((words,), torch.tensor([ends]))


@pytest.mark.parametrize(
    ("receiver", "sharer", "expected"),
    [
        # one text: the sharer token in which the receiver's token ends
        (spelled("abcdef", 2, 4, 6), spelled("abcdef", 1, 3, 6), [1, 2, 2]),
        # the same tokens, with padding and <bos>: position by position
        (spelled("ab", -1, 0, 1, 1, 2), spelled("ab", 0, 1, 1, 2), [-1, 0, 1, 2, 3]),
        # an emoji of three and of two bytes: the last byte that ends with it
        (spelled("a😀b", 1, 2, 2, 2, 3), spelled("a😀b", 1, 2, 2, 3), [0, 2, 2, 2, 3]),
        # <bos> belongs to <bos> alone
        (spelled("ab", 0, 2), spelled("ab", 1, 2), [-1, 1]),
        (spelled("ab", 1, 2), spelled("ab", 0, 2), [1, 1]),
        # other words around equal ones
        (spelled("Q: my key", 2, 3, 5, 9), spelled("Plan. Lost my key", 5, 13, 17), [-1, -1, 1, 2]),
        # vectors and memories without words in between
        (spelled("my key", 3, -1, 6), spelled("my key", -1, 6), [1, -1, 1]),
        # the end of the text is no token of the sharer
        (spelled("my key", 3, 6), spelled("my key", 3, -1), [0, -1]),
        (spelled("abc", 3), spelled("xyz", 3), [-1]),
        (spelled("", -1), spelled("xyz", 3), [-1]),
        (spelled("xyz", 3), spelled("", -1), [-1]),
    ],
)
def test_positions_meet_by_their_words(receiver: Spelling, sharer: Spelling, expected: list[int]):
    assert places(receiver, sharer).tolist() == [expected]


@pytest.mark.parametrize(
    "text", ["Ein naïver Café", "北京是中国的首都。", "so 🙂 👩‍👩‍👧 ok", "Ω≈ç√ åß∂"]
)
def test_no_letter_is_lost_between_tokenizers(tiny: Tiny, text: str):
    """Bytes for the sharer, and for the receiver one token for each character."""
    prompt = Prompt((Text((f"Read: {text}",)),))
    sharer = tiny("gemma").read(prompt).context.spelling
    letters = len(sharer.words[0])
    receiver = Spelling(sharer.words, torch.arange(1, letters + 1)[None])
    found = places(receiver, sharer)
    assert sharer.ends[0, found[0]].tolist() == list(range(1, letters + 1))
    assert places(sharer, receiver).tolist() == [
        [-1] + [e - 1 for e in sharer.ends[0, 1:].tolist()]
    ]


@pytest.mark.parametrize("strategy", ["first", "longest"])
def test_tokens_are_translated_one_by_one(tiny: Tiny, strategy: Any):
    ours, theirs = tiny_backbone("llama").tokenizer, tiny_backbone("llama").tokenizer
    theirs.add_tokens(["the", "the key"])
    ours.add_tokens(["the key of", "the"])
    ids = torch.tensor([[0, 1, 2, 3, 260], [261, 70, 71, 72, 73]])
    found = translate(ids, ours, theirs, strategy)
    whole = theirs.convert_tokens_to_ids("the key")
    assert found[0].tolist() == [0, 1, 2, 3, whole]
    assert found[1].tolist() == [theirs.convert_tokens_to_ids("the"), 70, 71, 72, 73]
    assert found.shape == ids.shape
    ours.pad_token = "<eos>"
    assert translate(torch.tensor([[2, 0]]), ours, theirs, strategy).tolist() == [[2, 0]]


# -- the channel -----------------------------------------------------------------------------------


FIELDS = {"context": ("Ada keeps the green key.", "Bo has none"), "question": ("Who?", "Where?")}


def read(receiver: Agent, channel: Fusion, *messages: Message) -> Read:
    return receiver.read(FIELDS, [Incoming(channel, message) for message in messages])


def message(model: Backbone, channel: Fusion, template: str = "{context}") -> Message:
    agent = Agent("sender", model, role=Role(template=template, chat=False))
    return channel.send(agent.compute(FIELDS, needs=channel.needs)[0])


@torch.no_grad()
def test_what_both_have_read_is_fused_as_the_reference_does(tiny: Tiny):
    receiver, sender = tiny("llama"), tiny("qwen")
    channel = Fusion(fuser(sender, receiver))
    reader = Agent("reader", receiver, role=Role("", "{context}", "{message}", chat=False))
    alone = read(reader, channel).context
    heard = read(reader, channel, message(sender, channel)).context
    rows = [receiver.tokens(words) for words in FIELDS["context"]]
    ids = torch.tensor([[0] * (24 - len(row)) + row for row in rows])
    use = torch.ones_like(ids)
    expected = prefill(receiver, [Sharer(sender, channel.fuser)], ids, alone.mask, use)
    real = alone.mask[:, None, :-1, None]
    close(
        tuple((k * real, v * real) for k, v in heard.kv),
        tuple((k * real, v * real) for k, v in expected.kv),
    )
    assert (score(receiver, heard) - score(receiver, alone)).abs().min() > 1e-3


@torch.no_grad()
def test_two_messages_follow_one_another_or_are_added(tiny: Tiny):
    receiver, sender = tiny("llama"), tiny("qwen")
    made = fuser(sender, receiver)
    reader = Agent(
        "reader", receiver, role=Role("", "{context} {question}", "{message}", chat=False)
    )
    channels = {order: Fusion(made, order) for order in ("sequential", "parallel")}
    first = message(sender, channels["parallel"])
    second = message(sender, channels["parallel"], "{context} is what I know")
    alone = read(reader, channels["parallel"]).context
    found: dict[str, Context] = {}
    for order, channel in channels.items():
        found[order] = read(reader, channel, first, second).context
        assert found[order].plain is not None
        close(found[order].plain, alone.kv, atol=0)
    one, two = (read(reader, channels["parallel"], m).context.kv for m in (first, second))
    for n, (keys, _) in enumerate(found["parallel"].kv):
        expected = one[n][0] + two[n][0] - alone.kv[n][0]
        torch.testing.assert_close(keys, expected, atol=1e-4, rtol=0)
    assert (found["parallel"].kv[1][0] - found["sequential"].kv[1][0]).abs().max() > 1e-3


@torch.no_grad()
def test_shut_gates_leave_the_receiver_alone(tiny: Tiny):
    receiver, sender = tiny("llama"), tiny("qwen")
    channel = Fusion(fuser(sender, receiver))
    channel.fuser.gate.zero_()
    context = receiver.read(Prompt((Text(FIELDS["context"]),))).context
    fused = channel.fuse(message(sender, channel), context)
    assert all(a is c and b is d for (a, b), (c, d) in zip(context.kv, fused.kv, strict=True))


def test_a_memory_without_words_is_refused(tiny: Tiny):
    model = tiny("llama")
    channel = Fusion(fuser(model, model))
    read = model.read(Prompt((Text(("a b",)),)), needs=frozenset({CACHE}))
    assert read.cached is not None
    header = Header(channel="fusion", sender="mute", weights="", tokenizer="")
    mute = Message(header, CacheSegment.of(read.cached.kv, read.cached.mask))
    with pytest.raises(IncompatibleModels, match="'mute' has no words"):
        channel.fuse(mute, read.context)


def test_sizes_and_depths_that_do_not_fit_are_refused(tiny: Tiny):
    three, four, flat = tiny("llama"), tiny("qwen", layers=4), tiny("gpt2")
    channel = Fusion(fuser(four, three))
    channel.check(four.spec, three.spec)
    with pytest.raises(IncompatibleModels, match="sender layer 3") as refused:
        channel.check(three.spec, three.spec)
    assert three.name in str(refused.value)
    with pytest.raises(IncompatibleModels, match=r"2 KV heads of width 16 .* has 4 of 8"):
        channel.check(flat.spec, three.spec)
    with pytest.raises(IncompatibleModels, match=f"'{flat.name}' has 4 of 8"):
        channel.check(four.spec, flat.spec)
    with pytest.raises(ValueError, match="order"):
        Fusion(channel.fuser, "both")  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def test_a_channel_opens_the_folder_of_a_fuser(tiny: Tiny, tmp_path: Path):
    receiver, sender = tiny("llama"), tiny("qwen")
    made = fuser(sender, receiver)
    made.save_pretrained(tmp_path / "fuser")
    channel = Fusion(str(tmp_path / "fuser"))
    context = receiver.read(Prompt((Text(FIELDS["context"]),))).context
    sent = message(sender, channel)
    close(channel.fuse(sent, context).kv, Fusion(made).fuse(sent, context).kv, atol=0)


def test_padding_before_the_last_token_is_no_end_of_a_sharer(tiny: Tiny):
    receiver = tiny("llama")
    other = sharer(tiny, "qwen", receiver)
    ids, use = random_ids(1, 9), torch.ones(1, 9, dtype=torch.long)
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[:, 6:8] = False
    padded = prefill(receiver, [other], ids, mask, use)
    bare = prefill(receiver, [other], ids[mask][None], mask[mask][None], use[mask][None])
    real = mask[0, :-1]
    close(tuple((k[:, :, real], v[:, :, real]) for k, v in padded.kv), bare.kv)


def test_layers_above_the_last_open_gate_are_not_read(tiny: Tiny, passes: Any):
    receiver = tiny("llama")
    other = sharer(tiny, "qwen", receiver)
    assert other.fuser.layers_read() == 3
    other.fuser.gate.data[1:] = -1
    assert other.fuser.layers_read() == 1
    other.fuser.gate.data.fill_(-1)
    assert other.fuser.layers_read() == 0
    ids, use = random_ids(2, 7), torch.ones(2, 7, dtype=torch.long)
    with passes(other.model) as seen:
        shut = prefill(receiver, [other], ids, torch.ones_like(ids), use)
    assert not seen
    alone = prefill(receiver, [], ids, torch.ones_like(ids), torch.zeros_like(use))
    assert all(
        torch.equal(a, b)
        for p, q in zip(shut.kv, alone.kv, strict=True)
        for a, b in zip(p, q, strict=True)
    )


@torch.no_grad()
def test_columns_outside_the_chosen_span_stay_bit_for_bit(tiny: Tiny):
    receiver = tiny("llama")
    other = sharer(tiny, "qwen", receiver)
    ids = random_ids(2, 8)
    mask = torch.ones_like(ids, dtype=torch.bool)
    kv = receiver.extend((), ids, mask, layers=receiver.spec.layers)
    source = other.model.extend((), ids, mask, layers=other.fuser.top + 1)
    index = torch.arange(8).expand(2, -1).clone()
    index[:, :2] = -1
    index[:, 6:] = -1
    whole, part = (
        other.fuser(kv, source, index),
        fuse_in(other.fuser, kv, kv, source, index, "sequential"),
    )
    close(whole, part, 1e-5)
    for (keys, values), (k, v) in zip(part, kv, strict=True):
        for now, before in ((keys, k), (values, v)):
            assert torch.equal(now[:, :, :2], before[:, :, :2])
            assert torch.equal(now[:, :, 6:], before[:, :, 6:])
            assert not torch.equal(now[:, :, 2:6], before[:, :, 2:6])
