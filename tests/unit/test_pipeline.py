"""Who speaks to whom, what it costs, and what is refused before any forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.events import heard
from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, Embedding, Handoff, TextChannel
from unspoken.errors import (
    ContextTooLong,
    EmptyPrompt,
    IncompatibleModels,
    PipelineError,
    UnknownName,
    UnspokenError,
)
from unspoken.pipeline import Edge, Pipeline, Query
from unspoken.projectors import EmbeddingProjector, FreeVectors
from unspoken.protocols import Wrapper
from unspoken.testing import tiny_backbone
from unspoken.types import Prompt, Read, Settings, Text
from unspoken.wire import Message

READS = Role(template="{context}", chat=False)
ANSWERS = Role(template="{messages}Q: {question}\nA:", message="{sender}:{message}\n", chat=False)
ITEMS: list[Query] = [
    {"context": "Ada keeps the key in a drawer.", "question": "Where is it?"},
    {"context": "Bo has none.", "question": "Does Bo have the key of the old house?"},
    {"context": "Cy left his under the third bench.", "question": "Which bench?"},
    {"context": "It is late.", "question": "Is it?"},
    {"context": "The train to the sea leaves at noon.", "question": "When?"},
]


class Spy(TextChannel):
    """Verbatim text that remembers the messages it sent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[Message] = []

    def send(self, state: Any) -> Message:
        self.sent.append(super().send(state))
        return self.sent[-1]


@pytest.fixture
def model(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("llama")


@pytest.fixture
def agent(model: Backbone) -> Callable[..., Agent]:
    def make(name: str, role: Role = ANSWERS, tokens: int = 6, **options: Any) -> Agent:
        return Agent(name, model, role=role, settings=Settings(tokens), **options)

    return make


def embedding(model: Backbone, layers: tuple[int, ...] = (1,)) -> Embedding:
    torch.manual_seed(0)
    return Embedding(EmbeddingProjector(source_width=32, target_width=32, layers=layers, hidden=16))


# -- shapes of pipelines -------------------------------------------------------------------------


def test_a_chain_passes_words_on(agent):
    spies = [Spy(), Spy()]
    chain = Pipeline(
        [agent("solver"), agent("critic"), agent("planner", READS)],  # the edges say the order
        [Edge("planner", "critic", spies[0]), Edge("critic", "solver", spies[1])],
        answer="solver",
    )
    run = chain.run(ITEMS[0])
    assert [turn.agent for turn in run.turns] == ["planner", "critic", "solver"]
    assert chain.answerer.name == "solver"
    for turn, spy in zip(run.turns, spies, strict=False):
        assert spy.sent[0].payload == Text((turn.text,))
    read = run.turns[1].usage.read
    assert read == len(f"planner: {run.turns[0].text.strip()}\nQ: Where is it?\nA:".encode())
    assert run.answer == run.turns[-1].text.strip()


def test_fan_out_and_fan_in(agent):
    spy, back = Spy(verbatim=True), [Spy(), Spy()]
    names = ["left", "right"]
    edges = [Edge("planner", name, spy) for name in names]
    edges += [Edge(name, "judge", channel) for name, channel in zip(names, back, strict=True)]
    agents = [agent("planner", READS), agent("left"), agent("right"), agent("judge")]
    run = Pipeline(agents, edges).run(ITEMS[0])
    assert [turn.agent for turn in run.turns] == ["planner", *names, "judge"]
    assert len(spy.sent) == 1  # one channel, one message, two receivers
    assert run.turns[0].usage.wire == 2 * spy.sent[0].nbytes
    assert run.turns[1].text == run.turns[2].text
    heard = "".join(f"{t.agent}: {t.text.strip()}\n" for t in run.turns[1:3])
    assert run.turns[3].usage.read == len(f"{heard}Q: Where is it?\nA:".encode())


def test_a_debate_of_two(agent):
    spies = {"pro": Spy(), "con": Spy()}
    debate = Pipeline(
        [agent("pro"), agent("con")],
        [Edge("pro", "con", spies["pro"]), Edge("con", "pro", spies["con"])],
        rounds=3,
    )
    run = debate.run("Is it?")
    assert [(turn.agent, turn.round) for turn in run.turns] == [
        (name, number) for number in (1, 2, 3) for name in ("pro", "con")
    ]
    assert [len(spy.sent) for spy in spies.values()] == [3, 2]  # the last word is not sent on
    assert run.turns[0].usage.read == len("Q: Is it?\nA:")
    for before, turn in zip(run.turns, run.turns[1:], strict=False):
        heard = f"{before.agent}: {before.text.strip()}\n"
        assert turn.usage.read == len(f"{heard}Q: Is it?\nA:".encode())
    assert run.answer == run.turns[-1].text.strip()
    assert run.turns[-1].usage.wire == 0


def test_messages_keep_the_order_of_the_edges(agent, model):
    seen: list[Prompt] = []

    class Reads(Wrapper):
        def read(self, prompt: Prompt, **options: Any) -> Read:
            seen.append(prompt)
            return model.read(prompt, **options)

    words = TextChannel(verbatim=True)
    solver = replace(agent("solver"), model=Reads(model))
    edges = [Edge("one", "solver", words), Edge("two", "solver", words)]
    Pipeline([agent("one", READS), agent("two", READS), solver], edges).run(ITEMS[3])
    said = "".join(s.words[0] for s in seen[0].segments if isinstance(s, Text))
    assert said == "one: It is late.\ntwo: It is late.\nQ: Is it?\nA:"


@pytest.mark.parametrize(
    ("channel", "read", "written"),
    [
        (lambda m: TextChannel(verbatim=True), 0, 0),
        (lambda m: Constant(FreeVectors(count=2, width=32)), 0, 0),
        (lambda m: Handoff(), 1, 0),
        (lambda m: embedding(m), 1, 0),
        (lambda m: embedding(m, (1, 3)), 1, 0),
        (lambda m: TextChannel(limit=2), 1, 2),
    ],
    ids=["verbatim", "constant", "handoff", "early", "embedding", "text"],
)
def test_a_sender_does_only_what_its_channel_needs(
    agent, tiny, passes, channel: Callable[[Backbone], Channel], read: int, written: int
):
    """Its own backbone object with the receiver's weights, so that its passes can be counted."""
    twin = tiny_backbone("llama")
    sender = Agent("sender", twin, role=READS, settings=Settings(6))
    pair = Pipeline([sender, agent("solver")], [Edge("sender", "solver", channel(twin))])
    logits: list[int] = []
    with (
        passes(twin) as seen,
        twin.model.lm_head.register_forward_hook(lambda *_: logits.append(1)),
    ):
        run = pair.run(ITEMS[0])
    assert len(seen) == run.turns[0].usage.passes == read + written
    assert len(logits) == written
    assert run.turns[0].usage.written == written
    assert (run.turns[0].text is None) == (written == 0)


# -- one, many, async, streaming -----------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize(
    "channel",
    [lambda m: TextChannel(), lambda m: embedding(m), lambda m: Handoff()],
    ids=["text", "embedding", "handoff"],
)
def test_many_equal_one_by_one(agent, model, channel, batch_size: int):
    agents = [agent("planner", READS), agent("solver")]
    pair = Pipeline(agents, [Edge("planner", "solver", channel(model))])
    many = pair.run_many(ITEMS, batch_size=batch_size)
    for run, item in zip(many, ITEMS, strict=True):
        alone = pair.run(item)
        assert run.answer == alone.answer
        for turn, other in zip(run.turns, alone.turns, strict=True):
            usage = replace(turn.usage, seconds=0.0, wait=0.0, passes=0)
            assert usage == replace(other.usage, seconds=0.0, wait=0.0, passes=0)
            assert turn.usage.passes >= other.usage.passes


def test_none_at_all(agent):
    assert Pipeline([agent("solver")]).run_many([]) == []


def test_runs_are_batched_by_length(agent, model):
    sizes: list[list[int]] = []

    class Reads(Wrapper):
        def read(self, prompt: Prompt, **options: Any) -> Read:
            question = next(part for part in prompt.segments if part.share == "question")
            sizes.append([len(row) for row in question.words])
            return model.read(prompt, **options)

    role = replace(ANSWERS, template="{question}")
    solver = Pipeline([replace(agent("solver", role), model=Reads(model))])
    runs = solver.run_many(["a" * n for n in (9, 1, 8, 2)], batch_size=2)
    assert sizes == [[1, 2], [8, 9]]
    assert [run.usage.read for run in runs] == [9, 1, 8, 2]


def test_arun_is_run(agent):
    pair = Pipeline(
        [agent("planner", READS), agent("solver")], [Edge("planner", "solver", TextChannel())]
    )

    async def together() -> list[Any]:
        return await asyncio.gather(*(pair.arun(item) for item in ITEMS[:3]))

    runs = asyncio.run(together())
    assert [run.answer for run in runs] == [pair.run(item).answer for item in ITEMS[:3]]


def test_concurrent_runs_that_end_early_do_not_meet(agent, model):
    pair = Pipeline(
        [agent("planner", READS), agent("solver")],
        [Edge("planner", "solver", embedding(model, (1,)))],
    )

    async def together() -> list[Any]:
        return await asyncio.gather(*(pair.arun(item) for item in ITEMS * 2))

    alone = [pair.run(item).answer for item in ITEMS]
    assert [run.answer for run in asyncio.run(together())] == alone * 2


def test_streamed_pieces_join_to_the_answer(agent):
    pair = Pipeline(
        [agent("planner", READS), agent("solver", tokens=24)],
        [Edge("planner", "solver", TextChannel())],
    )
    run, pieces = heard(pair, ITEMS[0])
    assert run.turns[-1].text
    assert "".join(pieces) == run.turns[-1].text
    assert run.answer == pair.run(ITEMS[0]).answer


# -- usage ---------------------------------------------------------------------------------------


def test_usage_by_hand():
    model = tiny_backbone("llama")
    model.tokenizer.eos_token = None
    for config in (model.model.generation_config, model.model.config):
        config.eos_token_id = None  # it writes all it may
    thinks = Role("Think: ", "{context}", chat=False)
    planner = Agent("planner", model, role=thinks, settings=Settings(6))
    solver = Agent("solver", model, role=ANSWERS, settings=Settings(5))
    spy = Spy(limit=3)
    pair = Pipeline([planner, solver], [Edge("planner", "solver", spy)])
    runs = pair.run_many(ITEMS[:2])
    for n, (run, item) in enumerate(zip(runs, ITEMS[:2], strict=True)):
        planner, solver = run.turns
        words = spy.sent[0].row(n).payload.words[0]
        assert planner.usage.read == len("Think: " + item["context"])
        assert planner.usage.written == 3
        assert planner.usage.passes == 2 + 3  # the lead, the context, and a pass a token
        assert planner.usage.wire == len(spy.sent[0].row(n).to_bytes())
        heard = f"planner: {words.strip()}\n" if words.strip() else "planner:\n"
        assert solver.usage.read == len(f"{heard}Q: {item['question']}\nA:".encode())
        assert solver.usage.written == 5
        assert solver.usage.passes == 1 + 5
        assert solver.usage.wire == 0
        assert run.usage.read == planner.usage.read + solver.usage.read
        assert run.usage.written == 8
        assert run.usage.passes == 11
        assert run.usage.wire == planner.usage.wire
        assert planner.usage.seconds > 0
        assert run.usage.seconds == planner.usage.seconds + solver.usage.seconds


@pytest.mark.parametrize("kind", ["handoff", "embedding"])
def test_wire_is_the_bytes_of_each_rows_message(agent, model, kind: str):
    channel = {"handoff": Handoff(), "embedding": embedding(model)}[kind]
    planner = agent("planner", READS)
    pair = Pipeline([planner, agent("solver")], [Edge("planner", "solver", channel)])
    for run, item in zip(pair.run_many(ITEMS), ITEMS, strict=True):
        fields = {name: (words,) for name, words in item.items()}
        state, _ = planner.compute(fields, needs=channel.needs)
        message = channel.send(replace(state, step=1))
        assert run.usage.wire == len(message.to_bytes())


# -- elsewhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("middle", [False, True])
def test_elsewhere_everyone_but_the_answerer_works_on_the_other_item(agent, middle: bool):
    spy, onward = Spy(verbatim=True), Spy(verbatim=True)
    agents = [agent("planner", READS), agent("solver")]
    edges = [Edge("planner", "solver", spy)]
    if middle:
        agents.insert(1, agent("critic"))
        edges = [Edge("planner", "critic", spy), Edge("critic", "solver", onward)]
    pair = Pipeline(agents, edges)
    others = [*ITEMS[1:], ITEMS[0]]
    runs = pair.run_many(ITEMS, batch_size=1, elsewhere=others)
    sent = sorted(message.payload.words[0] for message in spy.sent)
    assert sent == sorted(item["context"] for item in others)
    for run, item, other in zip(runs, ITEMS, others, strict=True):
        assert run.turns[-1].usage.written == 6
        speaker, said = ("critic", other["question"]) if middle else ("planner", other["context"])
        heard = f"{speaker}: {said}\nQ: {item['question']}\nA:"
        assert run.turns[-1].usage.read == len(heard)
        if not middle:
            assert run.answer == pair.run({**other, "question": item["question"]}).answer


def test_elsewhere_needs_an_item_for_each(agent):
    solver = Pipeline([agent("solver")])
    with pytest.raises(PipelineError, match="5 queries need as many items elsewhere, got 2"):
        solver.run_many(ITEMS, elsewhere=ITEMS[:2])
    with pytest.raises(PipelineError, match="batch_size is 0"):
        solver.run_many(ITEMS, batch_size=0)


# -- refusals ------------------------------------------------------------------------------------


def _build(agent: Callable[..., Agent], names: str, edges: str, **options: Any) -> Pipeline:
    pairs = [edge.split(">") for edge in edges.split()]
    agents = [agent(name) for name in names.split()]
    return Pipeline(agents, [Edge(a, b, TextChannel()) for a, b in pairs], **options)


@pytest.mark.parametrize(
    ("names", "edges", "error", "words"),
    [
        ("a b", "a>b b>a", PipelineError, "in a circle, (a -> b -> a|b -> a -> b); take"),
        ("a b c", "a>b b>c c>b", PipelineError, "set rounds to 2 or more"),
        ("a", "a>a", PipelineError, "in a circle, a -> a"),
        ("planner solver", "planer>solver", UnknownName, "did you mean 'planner'"),
        ("planner solver", "planner>judge", UnknownName, "Known: planner, solver"),
        ("a a", "", PipelineError, "different names, got \\['a', 'a'\\]"),
        ("", "", PipelineError, "needs agents"),
    ],
)
def test_pipelines_that_cannot_run(
    agent, model, passes, names: str, edges: str, error: type[UnspokenError], words: str
):
    with passes(model) as seen, pytest.raises(error, match=words):
        _build(agent, names, edges)
    assert not seen


def test_circles_need_rounds(agent):
    assert _build(agent, "a b", "a>b b>a", rounds=2).run("Is it?").turns
    with pytest.raises(PipelineError, match="rounds of a pipeline is 0"):
        _build(agent, "a b", "a>b", rounds=0)


def test_a_template_without_a_place_for_messages(agent):
    solver = agent("solver", Role(template="{question}"))
    with pytest.raises(PipelineError, match=r"template has no \{messages\}; put it where"):
        Pipeline([agent("planner"), solver], [Edge("planner", "solver", TextChannel())])
    in_front = Pipeline([agent("planner"), solver], [Edge("planner", "solver", Handoff())])
    assert in_front.run("Is it?").turns


def test_models_that_do_not_fit(agent, tiny, passes):
    other = Agent("other", tiny("qwen"))
    with (
        passes(other.model) as seen,
        pytest.raises(IncompatibleModels, match=r"tiny-qwen-32-0.*tiny-llama-32-0.*; use"),
    ):
        Pipeline([other, agent("solver")], [Edge("other", "solver", Handoff())])
    assert not seen


@pytest.mark.parametrize("verbatim", [True, False])
@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ({"question": "Where?"}, EmptyPrompt, r"\{context\}, but items \[2\] have none; give"),
        ({"context": " ", "question": "Where?"}, EmptyPrompt, r"items \[2\]"),
        ({"context": "Here."}, EmptyPrompt, r"\{question\}, but items \[2\] have none"),
        ("Where?", EmptyPrompt, r"\{context\}"),
        ({"context": "Here.", "qestion": "Where?"}, UnknownName, "did you mean 'question'"),
    ],
    ids=["no-context", "blank-context", "no-question", "bare", "odd-field"],
)
def test_items_that_cannot_be_read(
    agent, model, passes, verbatim: bool, item: Query, error: type[UnspokenError], words: str
):
    """Refused for all items before any pass, and by their number among the queries."""
    channel = TextChannel(verbatim=verbatim)
    pair = Pipeline([agent("p", READS), agent("s")], [Edge("p", "s", channel)])
    with passes(model) as seen:
        with pytest.raises(error, match=words):
            pair.run_many([*ITEMS[:2], item, *ITEMS[2:]], batch_size=1)
        with pytest.raises(error, match=words.replace("2", "0")):
            pair.run(item)
    assert not seen


def test_items_elsewhere_that_cannot_be_read(agent, model, passes):
    pair = Pipeline([agent("p", READS), agent("s")], [Edge("p", "s", TextChannel())])
    with passes(model) as seen:
        with pytest.raises(EmptyPrompt, match=r"\{context\}, but items \[1\]"):
            pair.run_many(ITEMS[:2], elsewhere=[ITEMS[2], {"question": "Where?"}])
        with pytest.raises(EmptyPrompt, match=r"\{question\}, but items \[1\]"):
            pair.run_many([ITEMS[0], {"context": "Here."}], elsewhere=ITEMS[1:3])
    assert not seen
    assert len(pair.run_many([{"question": "Where?"}], elsewhere=ITEMS[:1])) == 1


def test_a_context_longer_than_the_model_reads(agent, model, passes):
    pair = Pipeline([agent("p", READS), agent("s")], [Edge("p", "s", TextChannel())])
    with passes(model) as seen, pytest.raises(ContextTooLong, match=r"300 positions.*at most 256"):
        pair.run({"context": "x" * 300, "question": "Where?"})
    assert not seen


# -- agents and roles ----------------------------------------------------------------------------


def test_an_agent_needs_a_name(model):
    with pytest.raises(PipelineError, match="words that are not empty"):
        Agent(" ", model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "{messages} {messages}"}, r"\{messages\} at most once"),
        ({"document": "## {name}"}, r"must hold \{text\} exactly once"),
        ({"message": "{sender} spoke"}, r"must hold \{message\} exactly once"),
        ({"message": "{message}{message}"}, "exactly once"),
    ],
)
def test_roles_that_cannot_work(options: dict[str, str], words: str):
    with pytest.raises(PipelineError, match=words):
        Role(**options)


def test_braces_in_an_item_are_left_alone(agent, model):
    prompt = agent("solver").prompt({"question": ("what is {context} or {x}?",), "context": ("c",)})
    assert "".join(s.words[0] for s in prompt.segments) == "Q: what is {context} or {x}?\nA:"


def test_a_role_becomes_the_system_turn_of_a_chat_model(model):
    prompt = Agent("solver", model, role="Be brief.").prompt({"question": ("why?",)})
    assert prompt.opening == "<turn>system\nBe brief.\n<turn>user\n"
    assert "".join(s.words[0] for s in prompt.segments) == model.chat("Be brief.", "why?")


def test_soft_vectors_stand_behind_the_lead(agent, tiny, model):
    soft = FreeVectors(count=2, width=32)
    role = replace(ANSWERS, instructions="Lead. ")
    kinds = [type(s) for s in agent("s", role, soft=soft).prompt({"question": ("q",)}).segments]
    assert [kind.__name__ for kind in kinds[:3]] == ["Text", "Vectors", "Text"]
    tuned = Pipeline([agent("s", role, soft=soft)]).run("why?")
    assert tuned.usage.read == len("Lead. Q: why?\nA:") + 2
    wrong = agent("s", role, soft=FreeVectors(count=2, width=48))
    with pytest.raises(IncompatibleModels, match="48 wide"):
        Pipeline([wrong]).run("why?")


def test_words_of_two_lengths_are_decoded_once(agent, model, passes):
    short, full = Spy(limit=2), Spy()
    edges = [Edge("planner", "solver", short), Edge("planner", "solver", full)]
    pair = Pipeline([agent("planner", READS, tokens=5), agent("solver")], edges)
    run = pair.run(ITEMS[0])
    assert run.turns[0].usage.written == 5
    words = full.sent[0].payload.words[0]
    assert short.sent[0].payload.words[0] == model.shorten(words, 2)
    assert run.turns[0].usage.wire == short.sent[0].nbytes + full.sent[0].nbytes


def test_a_text_channel_carries_at_least_one_token():
    with pytest.raises(ValueError, match="limit is 0"):
        TextChannel(limit=0)


# -- handoff -------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("lead", ["", "Use the text. "])
def test_a_handoff_is_the_text_at_the_same_positions(tiny, kind: str, lead: str):
    """What the receiver writes, token for token, and what it thinks of an answer."""
    model = tiny(kind)
    role = Role(lead, "{context}", chat=False)
    reader = Agent("reader", model, role=role, settings=Settings(12))
    solver = Agent("solver", model, role=replace(ANSWERS, instructions=lead), settings=Settings(12))
    plain = Role(lead, "{context}Q: {question}\nA:", chat=False)
    both = Agent("both", model, role=plain, settings=Settings(12))
    pair = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())])
    for run, item in zip(pair.run_many(ITEMS), ITEMS, strict=True):
        text = Pipeline([both]).run(item)
        assert run.turns[-1].text == text.turns[-1].text
        assert run.usage.read == text.usage.read


def test_a_lead_of_its_own_is_read_behind_the_memory(agent):
    reader = agent("reader", Role("One. ", "{context}", chat=False))
    solver = agent("solver", replace(ANSWERS, instructions="Two. "))
    run = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())]).run(ITEMS[0])
    assert run.turns[1].usage.read == len("Two. Q: Where is it?\nA:")
    text = agent("both", Role("One. ", "{context}Two. Q: {question}\nA:", chat=False))
    assert run.answer == Pipeline([text]).run(ITEMS[0]).answer


def test_a_handoff_through_a_chain_keeps_everything(agent):
    middle = agent("middle", Role(template="M: {question} ", chat=False))
    agents = [agent("reader", READS), middle, agent("solver")]
    edges = [Edge("reader", "middle", Handoff()), Edge("middle", "solver", Handoff())]
    text = agent("text", Role(template="{context}M: {question} Q: {question}\nA:", chat=False))
    assert Pipeline(agents, edges).run(ITEMS[2]).answer == Pipeline([text]).run(ITEMS[2]).answer


@pytest.mark.numbers
def test_a_message_can_wait_as_bytes(agent, model):
    """Sent today, heard tomorrow, in another process: the same answer."""
    channel, item = Handoff(), {name: (words,) for name, words in ITEMS[0].items()}
    reader, solver = agent("reader", READS), agent("solver")
    data = channel.send(reader.compute(item, needs=channel.needs)[0]).to_bytes()
    later = Incoming(channel, Message.from_bytes(data))
    words = solver.compute(item, [later])[0].text
    run = Pipeline([reader, solver], [Edge("reader", "solver", channel)]).run(ITEMS[0])
    assert words == (run.turns[-1].text,)


def test_memories_stand_in_the_order_they_came():
    """Two hand-overs into one receiver keep their order in front of its prompt."""
    model = tiny_backbone("llama")
    solver = Agent("solver", model, role=Role("Lead.", "{messages}{question}", chat=False))
    fields = {"question": ("q",), "context": ("",)}
    arrivals = []
    for name in ("one", "two"):
        sender = Agent(name, model, role=Role(template="{question}", chat=False))
        state, _ = sender.compute(fields, needs=Handoff().needs)
        arrivals.append(Incoming(Handoff(), Handoff().send(state)))
    segments = solver.prompt(fields, arrivals).segments
    assert segments[0] is arrivals[0].message.payload
    assert segments[1] is arrivals[1].message.payload


@pytest.mark.numbers
def test_mail_is_what_the_answering_agent_would_hear(agent, model, passes):
    one, two = Spy(verbatim=True), Spy(limit=4)
    line = Pipeline(
        [agent("reader", READS), agent("checker"), agent("solver", tokens=9)],
        [Edge("reader", "checker", one), Edge("checker", "solver", two)],
    )
    with passes(model) as seen:
        (found,) = line.incoming(ITEMS)
    assert len(seen) <= 1 + 4  # the checker's prompt and its words; nobody answers
    assert found.channel is two
    assert found.message is two.sent[-1]
    for n, item in enumerate(ITEMS):
        line.run(item)
        assert two.sent[-1].payload == found.message.row(n).payload


def test_mail_of_several_rounds_is_that_of_the_last(agent):
    there, back = Spy(limit=3), Spy(limit=3)
    edges = [Edge("one", "two", there), Edge("two", "one", back)]
    line = Pipeline([agent("one"), agent("two")], edges, rounds=2)
    assert [arrival.message for arrival in line.incoming(ITEMS[:2])] == [there.sent[1]]
    assert len(back.sent) == 1
