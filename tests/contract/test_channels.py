"""What every channel promises (design.md, section 4), for each line of `cases.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import tiny_backbone
from unspoken.types import CacheSegment, Context, Settings, Text, Vectors
from unspoken.wire import Message

from .cases import CASES, Case

CONTEXTS = (
    "Ada keeps the green key in a drawer by the window.",
    "Bo has none.",
    "Cy left his at the station, under the third bench.",
)
QUESTIONS = ("Where is it?", "Who has the key of the house by the sea?", "Which bench?")
ITEMS = [{"context": c, "question": q} for c, q in zip(CONTEXTS, QUESTIONS, strict=True)]
FIELDS = {"context": CONTEXTS, "question": QUESTIONS}
ANSWERS = ("in a drawer", "nobody", "the third one")
SHORT = Settings(max_tokens=5)


@dataclass
class World:
    """A sender, a receiver and the channel between them."""

    channel: Channel
    sender: Agent
    receiver: Agent

    def compute(self, fields: dict[str, tuple[str, ...]]) -> SenderState:
        return self.sender.compute(fields, needs=self.channel.needs)[0]

    def message(self, fields: dict[str, tuple[str, ...]]) -> Message:
        return self.channel.send(self.compute(fields))

    def read(self, fields: dict[str, tuple[str, ...]], *messages: Message) -> Context:
        arrivals = [Incoming(self.channel, message) for message in messages]
        return self.receiver.read(fields, arrivals).context

    def write(self, context: Context) -> tuple[str, ...]:
        return self.receiver.model.write(context, SHORT).words

    def score(self, context: Context, answers: tuple[str, ...]) -> Tensor:
        return self.receiver.model.score(context, answers)

    @property
    def pipeline(self) -> Pipeline:
        edge = Edge("sender", "receiver", self.channel)
        return Pipeline([self.sender, self.receiver], [edge])


def world_of(case: Case, sender: Backbone, receiver: Backbone) -> World:
    torch.manual_seed(0)
    return World(
        case.make(sender, receiver),
        Agent("sender", sender, role=Role("Plan.", "{context}"), settings=SHORT),
        Agent(
            "receiver",
            receiver,
            role=Role("Answer.", "{messages}Q: {question}\nA:", "{message}"),
            settings=SHORT,
        ),
    )


def model_of(make: Callable[..., Backbone], kind: str, **options: int) -> Backbone:
    kind, _, width = kind.partition(":")
    return make(kind, **{"width": int(width or 32), **options})


def one(n: int) -> dict[str, tuple[str, ...]]:
    return {name: (rows[n],) for name, rows in FIELDS.items()}


def tensors(payload: Text | Vectors | CacheSegment) -> list[Tensor]:
    match payload:
        case Text():
            return []
        case Vectors(values, mask):
            return [values, mask]
        case CacheSegment(cache, mask):
            kv = cache.kv()
            return [*(tensor for pair in kv for tensor in pair), mask]


def all_tensors(state: SenderState, message: Message) -> list[Tensor]:
    memory = tensors(state.cached) if state.cached is not None else []
    states = [tensor for state in state.hidden.values() for tensor in tensors(state)]
    return [*memory, *states, *tensors(message.payload)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def flat(context: Context) -> list[Tensor]:
    return [*(tensor for pair in context.kv for tensor in pair), context.mask, context.last]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def world(case: Case, tiny: Callable[..., Backbone]) -> World:
    return world_of(case, model_of(tiny, case.sender), model_of(tiny, case.receiver))


@pytest.mark.numbers
@torch.no_grad()
def test_composes_with_text(world: World):
    words = TextChannel(verbatim=True)
    scribe = Agent("scribe", world.sender.model, role=Role(template="{context}"))
    other = Incoming(words, words.send(scribe.compute(FIELDS, needs=words.needs)[0]))
    mine = Incoming(world.channel, world.message(FIELDS))
    seen = {
        name: world.receiver.read(FIELDS, arrivals).context
        for name, arrivals in {
            "none": [],
            "mine": [mine],
            "other": [other],
            "both": [mine, other],
        }.items()
    }
    length = {name: context.mask.sum(1) for name, context in seen.items()}
    score = {name: world.score(context, ANSWERS) for name, context in seen.items()}
    expected = length["mine"] + length["other"] - length["none"]
    assert torch.equal(length["both"], expected)
    assert ((score["both"] - score["mine"]).abs() > 1e-4).all()
    assert ((score["both"] - score["other"]).abs() > 1e-4).all()


def test_two_channels_meet_in_one_receiver(world: World):
    scribe = Agent("scribe", world.sender.model, role=Role(template="{context}"))
    agents = [world.sender, scribe, world.receiver]
    edges = [
        Edge("sender", "receiver", world.channel),
        Edge("scribe", "receiver", TextChannel(verbatim=True)),
    ]
    run = Pipeline(agents, edges).run(ITEMS[0])
    alone = world.pipeline.run(ITEMS[0])
    assert run.turns[-1].usage.read == alone.turns[-1].usage.read + 1 + len(CONTEXTS[0])
    assert run.usage.wire > alone.usage.wire


def empty(message: Message) -> Message:
    payload = message.payload
    match payload:
        case Text(words):
            payload = Text(("",) * len(words))
        case Vectors(values, mask):
            payload = Vectors(values[:, :0], mask[:, :0])
        case CacheSegment(cache, mask):
            kv = cache.kv()
            payload = CacheSegment.of(tuple((k[:, :, :0], v[:, :, :0]) for k, v in kv), mask[:, :0])
    return Message(message.header.model_copy(update={"lead": ""}), payload)


@pytest.mark.numbers
@torch.no_grad()
def test_an_empty_message_changes_nothing_bit_for_bit(world: World):
    message = empty(world.message(FIELDS))
    assert same(flat(world.read(FIELDS, message)), flat(world.read(FIELDS)))


def test_without_an_edge_the_receiver_is_alone(world: World):
    alone = world.pipeline.without_messages().run_many(ITEMS)
    unjoined = world.pipeline.with_edges([]).run_many(ITEMS)
    assert [run.answer for run in unjoined] == [run.answer for run in alone]
    assert [run.usage.read for run in unjoined] == [run.usage.read for run in alone]
    assert all(run.usage.wire == 0 and len(run.turns) == 1 for run in alone)


@torch.no_grad()
def test_the_half_that_is_not_overridden_is_the_identity(world: World):
    message, prompt = world.message(FIELDS), world.receiver.prompt(FIELDS)
    context = world.read(FIELDS)
    writes = world.channel.write(message, prompt) is not prompt
    fuses = world.channel.fuse(message, context) is not context
    assert writes != fuses


@torch.no_grad()
def test_inputs_stay_as_they_are(world: World):
    state = world.compute(FIELDS)
    message = world.channel.send(state)
    before = [tensor.clone() for tensor in all_tensors(state, message)]
    text, payload = state.text, message.payload
    context = world.read(FIELDS, message)
    kept = [tensor.clone() for tensor in flat(context)]
    world.write(context)
    world.score(context, ANSWERS)
    assert same(all_tensors(state, message), before)
    assert same(flat(context), kept)
    assert state.text is text
    assert message.payload is payload


@torch.no_grad()
def test_receivers_of_one_message_give_one_answer(world: World):
    state = world.compute(one(0))
    message = world.channel.send(state)
    before = [tensor.clone() for tensor in all_tensors(state, message)]
    answers, scores = set(), []
    for _ in range(3):
        context = world.read(one(0), message)
        answers.add(world.write(context))
        scores.append(world.score(context, ANSWERS[:1]))
    assert len(answers) == 1
    assert all(torch.equal(score, scores[0]) for score in scores)
    assert same(all_tensors(state, message), before)
    again = world.channel.send(state)
    assert again.to_bytes() == message.to_bytes()


def test_edges_share_one_message(world: World):
    names = [f"receiver-{n}" for n in range(4)]
    crowd = [
        Agent(name, world.receiver.model, role=world.receiver.role, settings=SHORT)
        for name in names
    ]
    listener = Role(message="{message}", chat=False)
    judge = Agent("judge", world.receiver.model, role=listener, settings=Settings(max_tokens=1))
    edges = [Edge("sender", name, world.channel) for name in names]
    edges += [Edge(name, "judge", TextChannel(limit=8)) for name in names]
    run = Pipeline([world.sender, *crowd, judge], edges).run(ITEMS[0])
    texts = {turn.text for turn in run.turns if turn.agent in names}
    alone = world.pipeline.run(ITEMS[0])
    assert texts == {alone.turns[-1].text}
    wire = next(turn.usage.wire for turn in run.turns if turn.agent == "sender")
    assert wire == 4 * alone.turns[0].usage.wire


@pytest.mark.numbers
@torch.no_grad()
def test_batch_equals_single(world: World):
    together = world.read(FIELDS, world.message(FIELDS))
    words, scores = world.write(together), world.score(together, ANSWERS)
    for n, answer in enumerate(ANSWERS):
        alone = world.read(one(n), world.message(one(n)))
        assert world.write(alone) == words[n : n + 1]
        torch.testing.assert_close(
            world.score(alone, (answer,)), scores[n : n + 1], atol=1e-4, rtol=1e-5
        )


def test_a_batched_run_equals_single_runs(world: World):
    together = world.pipeline.run_many(ITEMS, batch_size=3)
    for run, item in zip(together, ITEMS, strict=True):
        alone = world.pipeline.run(item)
        assert run.answer == alone.answer
        for turn, turn_alone in zip(run.turns, alone.turns, strict=True):
            assert turn.text == turn_alone.text
            plain = replace(turn.usage, seconds=0, wait=0, passes=0)
            assert plain == replace(turn_alone.usage, seconds=0, wait=0, passes=0)


@pytest.mark.numbers
@torch.no_grad()
def test_a_row_is_the_single_items_message(case: Case, world: World):
    # A rollout feeds itself its own rounding; a wrong position or mask moves it by 0.1 and more.
    off = 1e-3 if case.name.startswith("rollout") else 1e-4
    together = world.message(FIELDS)
    for n in range(len(CONTEXTS)):
        row, alone = together.row(n), world.message(one(n))
        assert row.header == alone.header
        assert row.nbytes == alone.nbytes
        assert isinstance(row.payload, type(alone.payload))
        if isinstance(row.payload, Text):
            assert row.payload == alone.payload
        for left, right in zip(tensors(row.payload), tensors(alone.payload), strict=True):
            torch.testing.assert_close(left, right, atol=off, rtol=off)


@pytest.mark.numbers
@torch.no_grad()
def test_a_message_does_not_look_ahead(case: Case, world: World):
    if not case.local:
        pytest.skip("its message has no order of positions")
    common = "The key is in "
    first, second = (
        tensors(world.message({"context": (common + end,), "question": ("?",)}).payload)[:-1]
        for end in ("the attic.", "a cupboard")
    )
    for left, right in zip(first, second, strict=True):  # (B, S, W) or (B, H, S, D)
        torch.testing.assert_close(
            left[..., : len(common), :], right[..., : len(common), :], atol=1e-5, rtol=1e-5
        )
    assert not same(first, second)


@pytest.mark.numbers
@torch.no_grad()
def test_the_receivers_past_does_not_see_its_future(world: World):
    message, common = world.message(one(0)), "Where is "
    first, second = (
        world.read({"context": CONTEXTS[:1], "question": (common + end,)}, message)
        for end in ("the key?", "my hat ?")
    )
    closing = len(first.mask[0]) - int(
        world.read({**one(0), "question": ("?",)}, message).mask.sum()
    )
    before = len(first.mask[0]) - closing - 12
    for left, right in zip(flat(first)[:-2], flat(second)[:-2], strict=True):
        torch.testing.assert_close(left[:, :, :before], right[:, :, :before], atol=1e-5, rtol=1e-5)
    assert not same(flat(first)[:-2], flat(second)[:-2])


@pytest.mark.numbers
@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_bytes_are_reported_as_they_are_and_survive(world: World, rows: int):
    fields = {name: words[:rows] for name, words in FIELDS.items()}
    message = world.message(fields)
    data = message.to_bytes()
    assert message.nbytes == len(data)
    loaded = Message.from_bytes(data)
    assert loaded.header == message.header
    assert loaded.to_bytes() == data
    assert same(tensors(loaded.payload), tensors(message.payload))
    before, after = world.read(fields, message), world.read(fields, loaded)
    for left, right in zip(flat(before), flat(after), strict=True):
        torch.testing.assert_close(left, right)  # a kernel may be chosen by where its input begins
    assert world.write(before) == world.write(after)


def _misfit(make: Callable[..., Backbone], kind: str, what: str) -> Backbone:
    match what:
        case "width":
            return model_of(make, kind, width=64)
        case "weights":
            return model_of(make, kind, seed=1)
        case _:
            return _other_words(kind)


@cache
def _other_words(kind: str) -> Backbone:
    other = model_of(tiny_backbone, kind)
    other.tokenizer.add_tokens(["<other>"])
    return Backbone(other.model, other.tokenizer, name="tiny-other-words")


@pytest.mark.parametrize("what", ["width", "weights", "tokenizer"])
@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_what_does_not_fit_is_refused(
    case: Case, tiny: Callable[..., Backbone], passes, side: str, what: str
):
    models = {"sender": model_of(tiny, case.sender), "receiver": model_of(tiny, case.receiver)}
    world = world_of(case, **models)
    models[side] = _misfit(tiny, getattr(case, side), what)
    agents = [Agent(name, model, settings=SHORT) for name, model in models.items()]
    edges = [Edge("sender", "receiver", world.channel)]
    if f"{side} {what}" not in case.refuses:
        assert Pipeline(agents, edges).run("Where?").turns
        return
    assert all(model.spec for model in models.values())  # proved before passes are counted
    with (
        passes(models["sender"]) as sent,
        passes(models["receiver"]) as received,
        pytest.raises(IncompatibleModels) as refused,
    ):
        Pipeline(agents, edges)
    assert not sent
    assert not received
    sentence = str(refused.value)
    assert models[side].name in sentence
    concerned = [name for name in models if name in case.refuses]
    assert all(models[name].name in sentence for name in concerned)
    problem, _, remedy = sentence.partition("; ")
    assert " but " in problem
    assert any(verb in remedy for verb in ("train ", "use ")), sentence


def parameters(channel: Channel) -> list[tuple[str, nn.Parameter]]:
    """Those of the modules that the channel holds, but for empty ones."""
    held = [part for part in vars(channel).values() if isinstance(part, nn.Module)]
    return [(n, p) for module in held for n, p in module.named_parameters() if p.numel()]


@contextmanager
def training(channel: Channel) -> Iterator[None]:
    """The modules that the channel holds, as they are while they are trained."""
    held = [part for part in vars(channel).values() if isinstance(part, nn.Module)]
    modes = [module.training for module in held]
    torch.manual_seed(0)
    for module in held:
        module.train()
    yield
    for module, mode in zip(held, modes, strict=True):
        module.train(mode)


def test_gradients_reach_the_projector_and_nothing_frozen(world: World):
    state = world.compute(FIELDS)
    with training(world.channel):
        loss = world.score(world.read(FIELDS, world.channel.send(state)), ANSWERS).sum()
    trained = parameters(world.channel)
    assert loss.requires_grad == bool(trained)
    if trained:
        loss.backward()
    for name, parameter in trained:
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name
    for agent in (world.sender, world.receiver):
        frozen = list(agent.model.model.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in frozen)


@pytest.mark.numbers
def test_each_row_of_a_projector_hears_its_own_gradient(world: World):
    """Rows of a batch do not leak into each other: only its own row's states move a row's loss."""
    state = world.compute(FIELDS)
    if not state.hidden:
        pytest.skip("its message is not made of states")
    layer, states = next(iter(state.hidden.items()))
    values = states.values.detach().clone().requires_grad_()
    hidden = {**state.hidden, layer: Vectors(values, states.mask)}
    message = world.channel.send(replace(state, hidden=hidden))
    world.score(world.read(FIELDS, message), ANSWERS)[1].backward()
    moved = values.grad.abs().sum(-1) > 0
    assert moved[1].any()
    assert not moved[0].any()
    assert not moved[2].any()
    assert not (moved & ~states.mask).any()


@cache
def _half(kind: str) -> Backbone:
    made = model_of(tiny_backbone, kind)
    made.model.bfloat16()
    return made


@pytest.mark.numbers
@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_half_precision_runs(case: Case, world: World, how: str):
    half = world
    if how == "bfloat16":
        half = world_of(case, _half(case.sender), _half(case.receiver))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        assert len(half.pipeline.run_many(ITEMS)) == len(ITEMS)
        message = half.message(FIELDS)
        loss = half.score(half.read(FIELDS, message), ANSWERS)
        with training(half.channel):
            trained = half.score(half.read(FIELDS, half.message(FIELDS)), ANSWERS)
    assert message.nbytes == len(message.to_bytes())
    assert loss.dtype == torch.float32
    if trained.requires_grad:
        trained.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for _, p in parameters(half.channel))
    if not isinstance(message.payload, Text):  # words may turn out otherwise
        exact = world.score(world.read(FIELDS, world.message(FIELDS)), ANSWERS)
        torch.testing.assert_close(loss, exact, rtol=0.15, atol=0.5)
