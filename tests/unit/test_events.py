"""What a run tells while it goes on, and how it ends when nobody wants it any more."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
import torch

from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.audit import Audit, read_log
from unspoken.backbone import Backbone
from unspoken.backbone.telling import Teller
from unspoken.cancelling import Cancelled, cancelled_by
from unspoken.channels import Embedding, TextChannel
from unspoken.errors import EmptyPrompt, UnknownName
from unspoken.events import (
    Event,
    MessageSent,
    RunEnded,
    TurnEnded,
    TurnStarted,
    WordsWritten,
)
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.testing import ScriptedModel, tiny_backbone, tiny_diffusion
from unspoken.types import CACHE, Denoising, Need, Prompt, Settings, Text

LONG = "Ada keeps a grey parrot that knows nine words. " * 24  # of 1,128 tokens


@pytest.fixture
def long_model() -> Backbone:
    """A tiny model that reads some thousand tokens."""
    model = tiny_backbone()
    model.model.config.max_position_embeddings = 1 << 14
    return model


def team(model: Any, tokens: int = 6) -> Pipeline:
    """Two who write side by side, and one who reads both."""
    agents = [Agent(n, model, settings=Settings(tokens)) for n in ("left", "right", "judge")]
    return Pipeline(agents, [Edge(name, "judge", TextChannel()) for name in ("left", "right")])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Backbone], list[int]]:
    """Counts forward passes of a model as they begin, with the tokens of each."""

    def count(model: Backbone) -> list[int]:
        _ = model.spec, model.keeps, model.pads, model.gaps, model.fills  # proofs are not counted
        sizes: list[int] = []
        plain = model.model.base_model.forward

        def forward(*args: Any, **given: Any) -> Any:
            sizes.append(given.get("input_ids", given.get("inputs_embeds")).shape[1])
            return plain(*args, **given)

        model.model.base_model.forward = forward
        return sizes

    return count


# -- what is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma", "script"])
def test_each_turn_begins_writes_sends_and_ends(kind: str) -> None:
    model = ScriptedModel(lambda _: "so it is") if kind == "script" else tiny_backbone(kind)
    pipeline = team(model)
    events = list(pipeline.stream("Who was it?"))
    for step, name in enumerate(("left", "right", "judge"), 1):
        own = [event for event in events if getattr(event, "step", 0) == step]
        assert own[0] == TurnStarted(name, 1, step)
        assert isinstance(own[-1], TurnEnded)
        words = [event for event in own if isinstance(event, WordsWritten)]
        sent = [event for event in own if isinstance(event, MessageSent)]
        assert own == [own[0], *words, *sent, own[-1]]
        assert "".join(event.words for event in words) == own[-1].turn.text
        assert own[-1].agent == name
        assert [(one.sender, one.receiver, one.channel) for one in sent] == (
            [] if name == "judge" else [(name, "judge", "text")]
        )
        for one in sent:
            assert one.size.bytes == one.message.nbytes == own[-1].turn.usage.wire
            assert one.size.positions == len(model.tokens(own[-1].turn.text))
    (end,) = (event for event in events if isinstance(event, RunEnded))
    assert end is events[-1]
    plain = pipeline.run("Who was it?")
    assert (end.run.answer, end.run.finish) == (plain.answer, plain.finish)
    assert [turn.text for turn in end.run.turns] == [turn.text for turn in plain.turns]


def test_under_load_too_a_turn_ends_after_its_last_words() -> None:
    """Eight runs of two agents side by side, whose words come from one batch."""
    pipeline = team(tiny_backbone())

    def told(n: int) -> None:
        open_: set[int] = set()
        said: dict[int, str] = {}
        for event in pipeline.stream(f"Who was number {n}?"):
            match event:
                case TurnStarted():
                    open_.add(event.step)
                case WordsWritten():
                    assert event.step in open_
                    said[event.step] = said.get(event.step, "") + event.words
                case TurnEnded():
                    open_.remove(event.step)
                    assert said.get(event.step, "") == event.turn.text
                case _:
                    assert isinstance(event, RunEnded) == (not open_)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(told, range(8)))


def test_vectors_take_positions() -> None:
    model = tiny_backbone()
    projector = EmbeddingProjector(source_width=32, target_width=32)
    reader = Agent("reader", model, role=Role("", "{context}"))
    pair = Pipeline(
        [reader, Agent("solver", model)], [Edge("reader", "solver", Embedding(projector))]
    )
    events = list(pair.stream({"context": "an attic", "question": "where?"}))
    (sent,) = (event for event in events if isinstance(event, MessageSent))
    assert sent.size.positions == int(sent.message.payload.mask.sum())
    assert sent.size.bytes == len(sent.message.to_bytes())


@pytest.mark.parametrize(
    "words", ["Kůň úpěl ďábelské ódy", "两个苹果，三个梨", "🙂👩‍👩‍👧 x", "a\ufffdb", "नमस्ते"]
)
def test_no_character_is_cut(words: str) -> None:
    tokenizer = tiny_backbone().tokenizer  # each of its tokens is one byte
    pieces: list[str] = []
    teller = Teller(tokenizer, pieces.append, ends=(2,), limit=999)
    for token in [*tokenizer(words, add_special_tokens=False)["input_ids"], 2, 9, 9]:
        teller.put(token)
    assert "".join(pieces) == words
    assert "\ufffd" in words or not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 1


def test_what_ends_in_half_a_character_is_told_to_its_end() -> None:
    tokenizer = tiny_backbone().tokenizer
    ids = tokenizer("x🙂", add_special_tokens=False)["input_ids"][:3]
    pieces: list[str] = []
    teller = Teller(tokenizer, pieces.append, limit=3)
    for token in ids:
        teller.put(token)
    assert "".join(pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize("stop", [("</s>",), ("ab", "b")])
def test_the_beginning_of_a_stop_string_is_held_back(stop: tuple[str, ...]) -> None:
    tokenizer = tiny_backbone().tokenizer
    pieces: list[str] = []
    teller = Teller(tokenizer, pieces.append, stop=stop, limit=999)
    for token in tokenizer(f"x <a </ y {stop[0]} z", add_special_tokens=False)["input_ids"]:
        teller.put(token)
    teller.end()
    assert "".join(pieces) == "x <a </ y "


def test_rows_of_a_batch_tell_their_own_words() -> None:
    model = tiny_backbone()
    context = model.read(Prompt((Text(("one", "another one", "x")),))).context
    told = ["", "", ""]

    def listen(row: int, words: str) -> None:
        told[row] += words

    settings = Settings(max_tokens=12, stop="a")
    assert model.write(context, settings, listen).words == tuple(told)
    assert model.write(context, settings).words == tuple(told)


def test_an_audit_and_a_stream_are_told_the_same(tmp_path: Any) -> None:
    plain = team(tiny_backbone())
    pipeline = Pipeline(list(plain.agents.values()), plain.edges, audit=Audit(tmp_path))
    sent = [event for event in pipeline.stream("?") if isinstance(event, MessageSent)]
    lines = read_log(tmp_path)
    assert [line["sender"] for line in lines] == [event.sender for event in sent]
    assert [line["bytes"] for line in lines] == [event.size.bytes for event in sent]


def test_what_nobody_could_read_is_refused_before_the_first_event() -> None:
    pipeline = Pipeline([Agent("one", tiny_backbone())])
    with pytest.raises(EmptyPrompt):
        pipeline.stream("  ")
    with pytest.raises(UnknownName):
        pipeline.astream({"questoin": "?"})


# -- errors ----------------------------------------------------------------------------------------


def broken(words: str) -> str:
    raise ZeroDivisionError("ours")


def test_an_error_comes_out_where_events_are_read() -> None:
    stream = Pipeline([Agent("one", ScriptedModel(broken))]).stream("?")
    assert isinstance(next(stream), TurnStarted)
    with pytest.raises(ZeroDivisionError, match="ours"):
        next(stream)
    assert list(stream) == []
    assert stream.run is None


def test_an_error_comes_out_of_asyncio_too() -> None:
    pipeline = Pipeline([Agent("one", ScriptedModel(broken))])

    async def ask() -> None:
        with pytest.raises(ZeroDivisionError):
            await pipeline.arun("?")
        with pytest.raises(ZeroDivisionError):
            async for _ in pipeline.astream("?"):
                pass

    asyncio.run(asyncio.wait_for(ask(), 60))


# -- prompts in parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen"])
@torch.no_grad()
def test_a_long_prompt_is_read_in_parts_and_gives_what_one_pass_gives(
    kind: str, counted: Callable[[Backbone], list[int]]
) -> None:
    model = tiny_backbone(kind)
    model.model.config.max_position_embeddings = 1 << 14
    ids = torch.tensor([[*model._bos, *model.tokens(LONG)]])  # pyright: ignore
    whole = model.model(input_ids=ids, output_hidden_states=True)
    sizes = counted(model)
    needs = frozenset({CACHE, Need("hidden", layer=2)})
    read = model.read(Prompt((Text((LONG,)),)), needs=needs)
    assert max(sizes) == 512
    assert sum(sizes) == ids.shape[1]
    assert read.passes == len(sizes) == 3
    torch.testing.assert_close(
        model.predict(read.context)[0], whole.logits[0, -1], atol=2e-4, rtol=2e-4
    )
    states = whole.hidden_states[2][:, len(model._bos) :]  # pyright: ignore
    torch.testing.assert_close(read.hidden[2].values, states, atol=2e-4, rtol=2e-4)
    low = model.read(Prompt((Text((LONG,)),)), needs=frozenset({Need("hidden", layer=2)}))
    torch.testing.assert_close(low.hidden[2].values, states, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_a_pool_reads_in_parts_too(
    long_model: Backbone, counted: Callable[[Backbone], list[int]]
) -> None:
    reader = AnchorPool("exact").wrap(long_model)
    prompts = [Prompt((Text((words,)),)) for words in ("Ada keeps one.", LONG)]
    reader.read(prompts[0])
    dense = long_model.predict(long_model.read(prompts[1]).context)
    sizes = counted(long_model)
    read = reader.read(prompts[1])
    assert read.served[0].exact > 5
    assert max(sizes) <= 512 < sum(sizes)
    assert read.passes == len(sizes)
    torch.testing.assert_close(long_model.predict(read.context), dense, atol=2e-4, rtol=2e-4)


def test_reading_ends_between_two_passes(
    long_model: Backbone, counted: Callable[[Backbone], list[int]]
) -> None:
    sizes = counted(long_model)
    with cancelled_by(lambda: len(sizes) == 2), pytest.raises(Cancelled) as end:
        long_model.read(Prompt((Text((LONG, "x")),)))
    assert sizes == [512, 512]
    assert end.value.tokens == (len(LONG) - (len(LONG) - 1024), 0)


# -- runs that are given up ------------------------------------------------------------------------


def busy() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one is not threading.main_thread()]


def nothing_else_runs(before: list[threading.Thread]) -> bool:
    """Whether no thread is left: that of a scheduler ends when it finds no work."""
    late = monotonic() + 20
    while busy() != before and monotonic() < late:
        sleep(0.005)
    return busy() == before


async def begun(passes: list[bool]) -> None:
    """Return once another pass has begun."""
    count = len(passes)
    while len(passes) == count:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("when", range(1, 30, 4))
def test_closing_ends_after_the_pass_in_progress(
    when: int, long_model: Backbone, counted: Callable[[Backbone], list[int]]
) -> None:
    """Some passes into a run: one over the opening, 7 over the document, and 29 that write."""
    sizes, before = counted(long_model), busy()
    pipeline = Pipeline(
        [Agent("one", long_model, role=Role("", "{context} {question}"), settings=Settings(30))]
    )
    inner, reached, go = long_model.model.base_model.forward, threading.Event(), threading.Event()

    def forward(*args: Any, **given: Any) -> Any:
        if len(sizes) + 1 == when:
            reached.set()
            go.wait(20)
        return inner(*args, **given)

    long_model.model.base_model.forward = forward
    stream = pipeline.stream({"context": LONG * 3, "question": "?"})
    next(stream)
    assert reached.wait(20)
    stream.cancel()
    go.set()
    stream.close()
    assert len(sizes) == when
    assert nothing_else_runs(before)
    assert stream.run is not None
    assert stream.run.finish == "cancelled"
    usage = stream.run.usage
    assert usage.passes == when
    assert usage.read + max(0, usage.written - 1) == sum(sizes)
    assert (usage.written > 0) == (when > 8)


def test_a_stream_may_be_closed_at_any_time() -> None:
    pipeline, before = team(tiny_backbone()), busy()
    never = pipeline.stream("?")
    never.close()
    never.close()
    assert list(never) == []
    assert never.run is None
    with pipeline.stream("?") as whole:
        events = list(whole)
    whole.close()
    assert isinstance(events[-1], RunEnded)
    begun = pipeline.stream("?")
    next(begun)
    others = [threading.Thread(target=begun.close) for _ in range(3)]
    for one in others:
        one.start()
    for one in others:
        one.join(20)
    assert list(begun) == []
    forgotten = pipeline.stream("?")
    next(forgotten)
    del forgotten
    gc.collect()
    assert nothing_else_runs(before)


def test_a_run_that_is_cancelled_still_tells_its_end() -> None:
    stream = team(tiny_backbone(), tokens=40).stream("?")
    events: list[Event] = []
    for event in stream:
        events.append(event)
        if isinstance(event, WordsWritten):
            stream.cancel()
    assert isinstance(events[-1], RunEnded)
    run = events[-1].run
    assert run.finish == "cancelled"
    assert run.usage.read > 0
    assert run == stream.run
    begun = [event.step for event in events if isinstance(event, TurnStarted)]
    ended = [event.step for event in events if isinstance(event, TurnEnded)]
    assert sorted(begun) == sorted(ended)


def test_a_thread_that_waits_for_events_is_released() -> None:
    gate = threading.Event()

    def waits(words: str) -> str:
        gate.wait(20)
        return "x"

    stream = Pipeline([Agent("one", ScriptedModel(waits))]).stream("?")
    found: list[Event] = []
    reader = threading.Thread(target=lambda: found.extend(stream))
    reader.start()
    closer = threading.Thread(target=stream.close)
    closer.start()
    gate.set()
    for one in (reader, closer):
        one.join(20)
        assert not one.is_alive()


@pytest.fixture
def paced(long_model: Backbone) -> Iterator[tuple[Pipeline, list[bool]]]:
    """A pipeline, and whether each of its passes is over: they take a while."""
    over: list[bool] = []
    plain = long_model.model.forward

    def forward(*args: Any, **given: Any) -> Any:
        over.append(False)
        threading.Event().wait(0.01)
        found = plain(*args, **given)
        over[-1] = True
        return found

    _ = long_model.spec, long_model.keeps, long_model.pads, long_model.gaps
    long_model.model.forward = forward
    yield Pipeline([Agent("one", long_model, settings=Settings(400))]), over
    del long_model.model.forward


def test_a_cancelled_task_returns_when_the_pass_is_over(paced: tuple[Pipeline, list[bool]]) -> None:
    pipeline, over = paced
    before = busy()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pipeline.arun("?")
        assert all(over)
        assert nothing_else_runs(before)
        passes = len(over)
        task = asyncio.create_task(pipeline.arun("?"))
        await begun(over)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(over)
        assert passes < len(over) < 200
        assert nothing_else_runs(before)

    asyncio.run(give_up())


def test_an_async_stream_may_be_closed_from_anywhere(paced: tuple[Pipeline, list[bool]]) -> None:
    pipeline, over = paced
    before = busy()

    async def drive() -> None:
        never = pipeline.astream("?")
        await never.aclose()
        await never.aclose()
        assert [event async for event in never] == []
        stream, ended = pipeline.astream("?"), asyncio.Event()

        async def read() -> int:
            seen = [event async for event in stream]
            ended.set()
            return len(seen)

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            await begun(over)
            await stream.aclose()
            await asyncio.wait_for(ended.wait(), 20)
        assert reader.result() > 0
        assert all(over)
        assert stream.run is not None
        assert stream.run.finish == "cancelled"

        async def fail() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(pipeline.arun("?"))
                await begun(over)
                raise ZeroDivisionError

        async with asyncio.timeout(20), pipeline.astream("?") as third:
            async for _ in third:
                break
        assert nothing_else_runs(before)
        with pytest.raises(ExceptionGroup):
            await fail()
        assert all(over)
        assert nothing_else_runs(before)

    asyncio.run(drive())


def test_a_canvas_is_given_up_between_two_steps() -> None:
    settings = Denoising(max_tokens=48, steps=48)
    pipeline = Pipeline([Agent("a", tiny_diffusion(), settings=settings)])
    stream = pipeline.stream("?")
    next(stream)
    stream.cancel()
    assert list(stream)
    assert stream.run is not None
    assert stream.run.finish == "cancelled"
    assert stream.run.usage.passes < 48


def test_half_precision_of_the_caller_counts_in_the_thread() -> None:
    model = tiny_backbone()
    pipeline = Pipeline([Agent("one", model, settings=Settings(12))])
    with torch.autocast("cpu", torch.bfloat16):
        here, stream = pipeline.run("?"), pipeline.stream("?")
        *_, last = stream
    assert isinstance(last, RunEnded)
    assert last.run.answer == here.answer
