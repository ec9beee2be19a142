"""The two clocks, on models that advance the time themselves."""

from __future__ import annotations

from typing import Any

import pytest

from unspoken import Agent, Edge, Pipeline, Role, TextChannel
from unspoken.agents.memoized import MemoizedAgent
from unspoken.errors import PipelineError
from unspoken.studies.fronts import Clock, Seconds, clocked
from unspoken.studies.fronts import clock as module
from unspoken.testing import ScriptedModel
from unspoken.types import TEXT, Context, Need, OnText, Prompt, Read, Settings, Words

QUERIES = [{"context": f"fact {n}", "question": f"what {n}?"} for n in range(3)]


class Ticking(ScriptedModel):
    """Reads an item in `reads` seconds, and instructions in 100 more unless it has them still.

    Writes in 10 seconds for each token.
    """

    def __init__(self, time: list[float], reads: float, name: str) -> None:
        super().__init__(lambda words: " yes", name=name)
        self.time, self.reads, self.opening = time, reads, ""

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        self.time[0] += self.reads + 100 * (prompt.opening != self.opening)
        self.opening = prompt.opening
        return super().read(prompt, needs=needs)

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        words = super().write(context, settings, on_text)
        self.time[0] += 10 * words.tokens[0]
        return words


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [0.0]
    monkeypatch.setattr(module, "process_time", lambda: found[0])
    return found


def pair(sender: Agent, receiver: Agent, **options: Any) -> Pipeline:
    return Pipeline([sender, receiver], [Edge("sender", "receiver", TextChannel(**options))])


def clock_of(pipeline: Pipeline) -> Clock:
    return clocked({"arm": pipeline}, QUERIES, "clocks").arms["arm"]


def agents(time: list[float], kind: type[Agent], *, one_model: bool) -> tuple[Agent, Agent]:
    model = Ticking(time, 7, "reader")
    other = model if one_model else Ticking(time, 3, "solver")
    sender = kind("sender", model, role=Role("Note.", "{context}", chat=False))
    receiver = Agent("receiver", other, role=Role("Answer.", "{messages}{question}", chat=False))
    return sender, receiver


@pytest.mark.parametrize("kind", [Agent, MemoizedAgent])
@pytest.mark.parametrize("one_model", [False, True])
def test_each_part_of_the_way_is_timed(
    time: list[float], kind: type[Agent], one_model: bool
) -> None:
    """A memoized agent writes anew, and instructions are read before a clock starts."""
    pipeline = pair(*agents(time, kind, one_model=one_model))
    for query in QUERIES:
        pipeline.run(query)  # whatever is kept is there
    found = clock_of(pipeline)
    taking = 17.0 if one_model else 13.0
    assert found.items == (Seconds(7.0, 40.0, 0.0, taking, 30.0),) * 3
    assert found.first("nothing read") == 47 + taking
    assert found.first("sender has read") == 40 + taking
    assert found.answer("nothing read") == 77 + taking
    assert found.answer("sender has read") == 70 + taking


def test_a_text_that_is_passed_on_is_read_by_the_receiver_alone(time: list[float]) -> None:
    sender, receiver = agents(time, Agent, one_model=False)
    found = clock_of(pair(sender, receiver, verbatim=True))
    assert found.items == (Seconds(0.0, 0.0, 0.0, 13.0, 30.0),) * 3
    assert found.answer("nothing read") == found.answer("sender has read") == 43


def test_a_clock_is_the_median_of_items_and_not_of_parts() -> None:
    items = (Seconds(5, 0, 0, 1, 1), Seconds(0, 0, 0, 4, 1), Seconds(1, 0, 0, 2, 1))
    clock = Clock(items, True, module.Timed.now(1))
    assert clock.answer("nothing read") == 5
    assert clock.answer("sender has read") == 3
    assert clock.first("nothing read") == 4


def test_a_share_is_that_of_the_same_items() -> None:
    """An arm that takes half the time of each item takes half, whichever items are drawn."""
    long = tuple(Seconds(0, 0, 0, n, n) for n in range(1, 17))
    half = tuple(Seconds(9, 0, 0, n / 2, n / 2) for n in range(1, 17))
    text, own = (Clock(items, True, module.Timed.now(1)) for items in (long, half))
    found = own.share(text, "sender has read")
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    later = own.share(text, "nothing read")
    assert later.value == pytest.approx(0.5 + 4.5 * (1 / 8 + 1 / 9) / 2)
    assert later.low < later.value < later.high


def test_several_threads_are_timed_by_the_wall(
    time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pair(*agents(time, Agent, one_model=False))
    assert clock_of(pipeline).processor
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "perf_counter", lambda: 0.0)
    found = clock_of(pipeline)
    assert (found.processor, found.answer("nothing read")) == (False, 0.0)


def test_only_a_sender_and_a_receiver_are_timed(time: list[float]) -> None:
    sender, receiver = agents(time, Agent, one_model=False)
    with pytest.raises(PipelineError, match="has 0 edges and 1 rounds"):
        clock_of(Pipeline([receiver]))
    circle = Pipeline([sender, receiver], [Edge("sender", "receiver", TextChannel())], rounds=2)
    with pytest.raises(PipelineError, match="1 edges and 2 rounds"):
        clock_of(circle)


def test_arms_take_turns_at_each_item(time: list[float]) -> None:
    """A machine that gets slower with every pass slows all arms alike."""
    sender, receiver = agents(time, Agent, one_model=False)
    slow = sender.model
    assert isinstance(slow, Ticking)
    read = slow.read

    def slower(prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        slow.reads += 1
        return read(prompt, needs=needs)

    vars(slow)["read"] = slower
    pipeline = pair(sender, receiver)
    found = clocked({"one": pipeline, "two": pipeline}, QUERIES, "clocks").arms
    apart = [
        two.reading - one.reading
        for one, two in zip(found["one"].items, found["two"].items, strict=True)
    ]
    assert apart == [apart[0]] * 3
    assert 0 < apart[0] < found["one"].items[1].reading - found["one"].items[0].reading
