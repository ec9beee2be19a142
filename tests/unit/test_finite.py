"""NaN and infinity are errors where they appear, and the error names who made them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.cases import CASES
from unspoken.agents import Agent, Incoming, Role
from unspoken.audit import reading
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Handoff
from unspoken.cli import main
from unspoken.errors import IncompatibleModels, NotFinite
from unspoken.finite import all_finite, no_words
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import tiny_backbone, tiny_diffusion
from unspoken.types import CacheSegment, Prompt, Settings, Text, Vectors
from unspoken.wire import LOSSLESS, Header, Int8, Message, Packing

ITEM = {"context": "The key is in the attic.", "question": "Where is it?"}
FIELDS = {name: (words,) for name, words in ITEM.items()}
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
Tiny = Callable[..., Backbone]
LATENT = [case for case in CASES if case.name not in ("text", "constant", "verbatim")]


def sized(tiny: Tiny, kind: str) -> Backbone:
    """A tiny model by its kind, or by kind and width, as cases name them."""
    name, _, width = kind.partition(":")
    return tiny(name, **({"width": int(width)} if width else {}))


def agents(tiny: Tiny, kinds: tuple[str, str] = ("llama", "llama")) -> tuple[Agent, Agent]:
    role = Role(template="{messages}Q: {question}\nA:", message="{message}")
    reader = Agent("reader", sized(tiny, kinds[0]), role=Role(template="{context}"))
    return reader, Agent(
        "solver", sized(tiny, kinds[1]), role=role, settings=Settings(max_tokens=4)
    )


def broken(message: Message, bad: float) -> Message:
    """The message with one number of its last tensor changed."""
    match message.payload:
        case Vectors(values, mask):
            values = values.detach().clone()
            values[0, -1, -1] = bad
            return replace(message, payload=Vectors(values, mask))
        case CacheSegment(cache, mask, places, spelling):
            pairs = [(k.detach().clone(), v.detach().clone()) for k, v in cache.kv()]
            held = next(values for _, values in reversed(pairs) if values.numel())
            held[0, -1, -1, -1] = bad
            own = CacheSegment.of(tuple(pairs), mask, spelling)
            return replace(message, payload=replace(own, positions=places))
        case _:
            raise AssertionError("words have no numbers")


def ruined(model: Any, bad: float = math.nan) -> Any:
    """The model with a number in its last layers that is none."""
    with torch.no_grad():
        last = list(model.model.parameters())[-1]
        last.view(-1)[0] = bad
        if last.ndim == 2:  # of two words one is as likely as can be, whatever the sign of a state
            last[1, 0] = -bad
    return model


# -- messages --------------------------------------------------------------------------------------


@BAD
def test_a_message_is_refused_where_it_arrives(tiny: Tiny, bad: float):
    reader, solver = agents(tiny)
    message = Handoff().send(reader.compute(FIELDS, needs=Handoff().needs)[0])
    Handoff().accept(message, solver.spec)
    odd = Message.from_bytes(broken(message, bad).to_bytes())
    with pytest.raises(NotFinite, match=r"the model of 'reader', who sent .* over 'handoff'"):
        Handoff().accept(odd, solver.spec)
    with pytest.raises(NotFinite, match="'reader'"):
        solver.compute(FIELDS, [Incoming(Handoff(), odd)])
    with pytest.raises(NotFinite, match="'reader'"):
        reading(odd, solver.model)


@pytest.mark.parametrize("case", LATENT, ids=lambda case: case.name)
def test_every_channel_refuses_it(tiny: Tiny, case: Any):
    sender, receiver = sized(tiny, case.sender), sized(tiny, case.receiver)
    channel: Channel = case.make(sender, receiver)
    state = Agent("reader", sender, role=Role(template="{context}"), settings=Settings(4))
    message = channel.send(state.compute(FIELDS, needs=channel.needs)[0])
    if isinstance(message.payload, Text):
        pytest.skip("words have no numbers")
    with pytest.raises(NotFinite, match="of 'reader', who sent"):
        channel.accept(broken(message, math.nan), receiver.spec)


def test_float16_has_a_remedy():
    header = Header(channel="c", sender="s", weights="w", tokenizer="t", dtype="float16")
    values = torch.full((1, 1, 2), torch.inf)
    message = Message(header, Vectors(values, torch.ones(1, 1, dtype=torch.bool)))
    with pytest.raises(NotFinite, match=r"65504: load it with dtype='bfloat16' or 'float32'"):
        message.check_finite()


def test_padding_of_vectors_may_hold_anything():
    header = Header(channel="c", sender="s", weights="w", tokenizer="t")
    values = torch.tensor([[[torch.nan], [1.0]]])
    Message(header, Vectors(values, torch.tensor([[False, True]]))).check_finite()


@pytest.mark.parametrize("pack", [LOSSLESS, Int8()], ids=["lossless", "int8"])
def test_a_sender_that_computes_nan_is_named(tiny: Tiny, pack: Packing):
    reader, solver = agents(tiny)
    pipeline = Pipeline([reader, solver], [Edge("reader", "solver", Handoff(), pack=pack)])

    def spoil(module: Any, args: Any, out: Any) -> Any:
        return (out[0] * math.nan, *out[1:]) if isinstance(out, tuple) else out * math.nan

    layer: Any = reader.model.body.layers[0]  # pyright: ignore
    with layer.register_forward_hook(spoil), pytest.raises(NotFinite, match="'reader'"):
        pipeline.run(ITEM)


def test_values_of_another_width_are_refused(tiny: Tiny):
    """A fuser that was given them died inside torch."""
    (case,) = [case for case in CASES if case.name == "fusion"]
    sender, receiver = sized(tiny, case.sender), sized(tiny, case.receiver)
    channel: Channel = case.make(sender, receiver)
    agent = Agent("reader", sender, role=Role(template="{context}"))
    message = channel.send(agent.compute(FIELDS, needs=channel.needs)[0])
    payload = message.payload
    assert isinstance(payload, CacheSegment)
    wide = tuple((k, torch.cat((v, v), 3)) for k, v in payload.kv)
    own = replace(
        CacheSegment.of(wide, payload.mask, payload.spelling), positions=payload.positions
    )
    with pytest.raises(IncompatibleModels, match="the fuser of receiver"):
        channel.accept(replace(message, payload=own), receiver.spec)


@pytest.mark.parametrize("name", ["memory", "fusion"])
def test_a_receivers_projector_is_named(tiny: Tiny, name: str):
    (case,) = [case for case in CASES if case.name == name]
    sender, receiver = sized(tiny, case.sender), sized(tiny, case.receiver)
    channel: Any = case.make(sender, receiver)
    reader = Agent("reader", sender, role=Role(template="{context}"))
    _, solver = agents(tiny, (case.sender, case.receiver))
    message = channel.send(reader.compute(FIELDS, needs=channel.needs)[0])
    for module in channel._modules.values():
        with torch.no_grad():
            for one in module.parameters():
                one.fill_(math.nan)
    same = message.header.model_copy(update={"projector": ""})
    with pytest.raises(NotFinite, match=r"the (projector|fuser) that takes in the message from"):
        solver.compute(FIELDS, [Incoming(channel, replace(message, header=same))])


# -- models ----------------------------------------------------------------------------------------


@BAD
@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen"])
def test_a_model_is_named_instead_of_an_empty_answer(tiny: Tiny, kind: str, bad: float):
    model = ruined(tiny_backbone(kind, seed=7), bad)
    with pytest.raises(NotFinite, match=r"model '.*' gives numbers that are NaN or infinite"):
        Pipeline([Agent("solver", model)], []).run("Where is it?")


def test_a_model_may_break_midway_and_nothing_false_is_told(tiny: Tiny):
    """The third word has no likeliest one: two are told, and writing stops at once."""
    model, told, passes = tiny("llama"), list[str](), 0

    def spoil(module: Any, args: Any, out: Any) -> Any:
        nonlocal passes
        passes += 1
        return out * math.nan if passes > 2 else out

    context = model.read(Prompt((Text(("Where is it?",)),))).context
    whole = model.write(context, Settings(max_tokens=2)).words[0]
    hook = model.model.get_output_embeddings().register_forward_hook(spoil)
    with hook, pytest.raises(NotFinite):
        model.write(context, Settings(max_tokens=40), lambda _, words: told.append(words))
    assert passes == 3
    assert whole.startswith("".join(told))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_row_of_a_batch_is_enough(tiny: Tiny, temperature: float):
    model = tiny("llama")

    def spoil(module: Any, args: Any, out: Any) -> Any:
        return torch.cat((out[:1], out[1:] * math.nan))

    context = model.read(Prompt((Text(("Where?", "Who?")),))).context
    hook = model.model.get_output_embeddings().register_forward_hook(spoil)
    with hook, pytest.raises(NotFinite):
        model.write(context, Settings(max_tokens=3, temperature=temperature))


def test_words_that_a_model_never_writes_are_none_of_this(tiny: Tiny):
    model = tiny("llama")

    def mask(module: Any, args: Any, out: Any) -> Any:
        return torch.cat((out[..., :-3], out[..., -3:] * 0 - math.inf), -1)

    context = model.read(Prompt((Text(("Where?",)),))).context
    with model.model.get_output_embeddings().register_forward_hook(mask):
        assert model.write(context, Settings(max_tokens=3)).tokens == (3,)
        assert model.predict(context).shape[0] == 1


def test_scores_and_likelihoods(tiny: Tiny):
    model = tiny("llama")
    context = model.read(Prompt((Text(("Where?",)),))).context

    def spoil(module: Any, args: Any, out: Any) -> Any:
        return out * math.nan

    with model.model.get_output_embeddings().register_forward_hook(spoil):
        for ask in (model.score, model.assess):
            with pytest.raises(NotFinite, match="model"):
                ask(context, [" here"])
        with pytest.raises(NotFinite, match="model"):
            model.predict(context)


def test_a_canvas(tiny: Tiny):
    model = tiny_diffusion("llada")
    context = model.read(Prompt((Text(("two plus two is",)),))).context

    def spoil(module: Any, args: Any, out: Any) -> Any:
        return out * math.nan

    with model.model.get_output_embeddings().register_forward_hook(spoil):
        with pytest.raises(NotFinite, match="model"):
            model.write(context, Settings(max_tokens=8))
        with pytest.raises(NotFinite, match="model"):
            model.score(context, [" four"])


# -- the check itself ------------------------------------------------------------------------------


@BAD
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_number_of_many(dtype: torch.dtype, bad: float):
    tensors = [torch.zeros(2, 0, 3, dtype=dtype), torch.randn(3, 5, 7).to(dtype), torch.ones(2)]
    tensors[1][0, 0, 0] = torch.finfo(dtype).max
    assert all_finite(tensors)
    for place in range(tensors[1].numel()):
        odd = tensors[1].clone()
        odd.view(-1)[place] = bad
        assert not all_finite([tensors[0], odd, tensors[2]])


def test_nothing_at_all_is_finite():
    assert all_finite([])


def test_where_there_is_no_likeliest_word():
    nan, inf = math.nan, math.inf
    rows = torch.tensor([[0.0, 1], [nan, 1], [1, nan], [inf, 1], [-inf, 1], [-inf, -inf]])
    assert no_words(rows).tolist() == [False, True, True, True, False, True]


def test_inspect_still_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    header = Header(channel="c", sender="s", weights="w", tokenizer="t")
    values = torch.tensor([[[torch.nan, 1.0], [3.0, 4.0]]])
    Message(header, Vectors(values, torch.ones(1, 2, dtype=torch.bool))).save(tmp_path / "m")
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(tmp_path / "m"), "--json"])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    facts = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert facts["norms"] == [[None, 5.0]]
    assert facts["odd"] == 1
