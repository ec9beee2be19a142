"""An agent that writes about each item once."""

from __future__ import annotations

from unspoken import Agent, Edge, Pipeline, Role, Settings, TextChannel
from unspoken.agents.memoized import MemoizedAgent
from unspoken.testing import tiny_backbone

ROLE = Role(template="{context}", chat=False)
QUERIES = [{"question": f"q{n}", "context": "fact " * (n + 1)} for n in range(4)]


def _pair(sender: Agent) -> Pipeline:
    solver = Agent("solver", tiny_backbone("qwen"), settings=Settings(max_tokens=4))
    return Pipeline([sender, solver], [Edge("sender", "solver", TextChannel(limit=5))])


def test_says_the_same_and_costs_the_same_but_writes_once(monkeypatch):
    model = tiny_backbone("gemma", width=48)
    plain = _pair(Agent("sender", model, role=ROLE)).run_many(QUERIES, batch_size=2)
    written: list[int] = []
    write = model.write
    monkeypatch.setattr(
        model, "write", lambda context, *a: written.append(context.batch) or write(context, *a)
    )
    pair = _pair(MemoizedAgent("sender", model, role=ROLE))
    first = pair.run_many(QUERIES, batch_size=2)
    again = pair.run_many(QUERIES, elsewhere=[*QUERIES[1:], QUERIES[0]], batch_size=3)
    assert sum(written) == len(QUERIES)
    assert [run.turns[0].text for run in first] == [run.turns[0].text for run in plain]
    assert [run.answer for run in first] == [run.answer for run in plain]
    assert [run.turns[0].text for run in again] == [plain[n].turns[0].text for n in (1, 2, 3, 0)]
    tokens = [(run.usage.read, run.usage.written) for run in first]
    assert tokens == [(run.usage.read, run.usage.written) for run in plain]


def test_a_sampling_agent_writes_anew(monkeypatch):
    model = tiny_backbone("gemma", width=48)
    calls: list[int] = []
    write = model.write
    monkeypatch.setattr(
        model, "write", lambda context, *a: calls.append(context.batch) or write(context, *a)
    )
    warm = Settings(temperature=1.0, max_tokens=3)
    pair = _pair(MemoizedAgent("sender", model, role=ROLE, settings=warm))
    pair.run_many(QUERIES)
    pair.run_many(QUERIES)
    assert sum(calls) == 2 * len(QUERIES)
