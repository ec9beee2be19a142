"""Who runs, who answers, what is refused; and agents that take their turns in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.channels import Handoff, TextChannel
from unspoken.errors import PipelineError, QueryError, SettingsError, UnknownName, UnspokenError
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import ScriptedModel, tiny_backbone
from unspoken.types import Denoising, Settings

WORDS = TextChannel(limit=4)


@pytest.fixture
def agent(tiny: Callable[..., Backbone]) -> Callable[..., Agent]:
    return lambda name, **more: Agent(name, tiny("llama"), **{"settings": Settings(6), **more})


def edges(*pairs: str) -> list[Edge]:
    return [Edge(*pair.split(">"), TextChannel()) for pair in pairs]


def test_the_last_agent_listed_answers_or_the_one_that_is_named(agent: Any) -> None:
    agents = [agent("judge"), agent("scout")]
    pair = Pipeline(agents, edges("scout>judge"), answer="judge")
    assert [turn.agent for turn in pair.run("?").turns] == ["scout", "judge"]
    assert pair.answerer.name == "judge"
    again = Pipeline(agents[::-1], edges("scout>judge"))
    assert again.run("?").answer == pair.run("?").answer
    rounds = Pipeline(agents, edges("scout>judge", "judge>scout"), answer="judge", rounds=2)
    assert [turn.agent for turn in rounds.run("?").turns] == ["scout", "judge"] * 2
    for changed in (
        pair.with_edges(pair.edges),
        pair.with_answer_settings(Settings(3)),
        pair.served_by(AnchorPool("exact")),
    ):
        assert changed.answerer.name == "judge"
    with pytest.raises(UnknownName, match="did you mean 'judge'"):
        Pipeline(agents, edges("scout>judge"), answer="jugde")


@pytest.mark.parametrize(
    ("names", "joined", "told"),
    [
        ("scout left right judge", "scout>left scout>right", "'scout' sends only to"),
        ("scout judge", "", "agent 'scout' sends to nobody"),
        ("judge scout", "scout>judge", "agent 'judge' sends to nobody.*answer='judge'"),
        ("a b c judge", "a>b b>a c>judge", r"'a' sends only to \['b'\]"),
        ("a judge", "a>judge a>judge", "from 'a' to 'judge' over 'text' is listed twice"),
        ("a b judge", "a>b b>a b>judge", "run in a circle"),
    ],
)
def test_what_nobody_would_hear_is_refused(agent: Any, names: str, joined: str, told: str) -> None:
    with pytest.raises(PipelineError, match=told):
        Pipeline([agent(name) for name in names.split()], edges(*joined.split()))


def test_two_edges_between_a_pair_may_carry_unlike_things(agent: Any) -> None:
    two = [Edge("a", "b", TextChannel(limit=2)), Edge("a", "b", TextChannel(limit=3))]
    assert len(Pipeline([agent("a"), agent("b")], two).edges) == 2
    handed = [Edge("a", "b", Handoff()), Edge("a", "b", "text")]
    assert len(Pipeline([agent("a"), agent("b")], handed).edges) == 2


def test_names_stand_for_models_and_channels(agent: Any) -> None:
    assert Edge("a", "b", "text").channel.is_like(TextChannel())
    with pytest.raises(UnknownName, match="did you mean 'text'"):
        Edge("a", "b", "txt")
    with pytest.raises(UnknownName, match="smollm"):
        Agent("x", "smollm2-135m-instrct")
    for wrong in ((agent("a"), "b", WORDS), ("a", None, WORDS), ("a", "b", 3)):
        with pytest.raises(PipelineError, match="of an edge is"):
            Edge(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": -3},
        {"max_tokens": 2.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ""},
        {"stop": ("a", "")},
        {"stop": (3,)},
        {"seed": 1.5},
        {"seed": 2**70},
        {"max_tokens": 10**30},
        {"stop": None},
        {"stop": 5},
        {"seed": (1, None)},
    ],
)
def test_settings_are_checked_when_they_are_made(wrong: dict[str, Any]) -> None:
    for kind in (Settings, Denoising):
        with pytest.raises(SettingsError, match=f"^{next(iter(wrong))} is "):
            kind(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1.5},
        {"steps": "a"},
        {"block": 2.5},
        {"remask": "bogus"},
        {"capture": "bogus"},
        {"guidance": float("nan")},
        {"until": None},
        {"threshold": 5},
        {"threshold": float("nan")},
    ],
)
def test_settings_of_a_canvas_are_checked_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Denoising(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"instructions": None},
        {"template": 5},
        {"template": "{messages}{question}{messages}"},
        {"message": "{sender}"},
        {"template_options": None},
        {"template_options": {1: 2}},
        {"first": "bogus"},
        {"reuse": "bogus"},
    ],
)
def test_roles_are_checked_when_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(PipelineError):
        Role(**wrong)


def test_agents_edges_and_pipelines_are_checked_when_they_are_made(agent: Any) -> None:
    one = agent("a")
    for wrong in ({"name": 5}, {"name": "a\ud800"}, {"model": 5}, {"role": 5}, {"settings": {}}):
        given = {"name": "a", "model": one.model, **wrong}
        with pytest.raises(PipelineError):
            Agent(given.pop("name"), given.pop("model"), **given)
    with pytest.raises(PipelineError, match="pack of an edge"):
        Edge("a", "b", "text", "int8")  # type: ignore[arg-type]
    for wrong in (
        {"agents": one},
        {"agents": ["a"]},
        {"edges": Edge("a", "b", "text")},
        {"edges": [("a", "b", "text")]},
        {"rounds": "2"},
        {"rounds": 1.5},
        {"answer": 5},
    ):
        with pytest.raises(PipelineError, match=f"^{next(iter(wrong))} of a pipeline"):
            Pipeline(**{"agents": [one], **wrong})
    with pytest.raises(PipelineError, match="batch_size"):
        Pipeline([one]).run_many(["?"], batch_size=1.5)  # type: ignore[arg-type]
    assert len(Pipeline([one]).run_many(f"why {n}?" for n in range(2))) == 2


def test_one_stop_string_is_one() -> None:
    assert Settings(stop="Paris").stop == ("Paris",)
    assert Settings(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (None, "query 0 is None"),
        (3, "query 0 is 3"),
        (["why?"], r"query 0 is \['why\?'\]"),
        ({"question": None}, "the question of query 0 is None"),
        ({"question": "why?", "context": 3}, "the context of query 0 is 3"),
        ("a\ud800b", "no valid Unicode"),
        ({"question": "why?", "context": "\udfff"}, "the context of query 0 is no valid Unicode"),
        ({"qestion": "why?"}, "did you mean 'question'"),
        ({3: "why?"}, "query 0 has a field 3; name fields by words"),
        ("", "have none"),
    ],
)
def test_queries_are_checked_before_anything_runs(
    agent: Any, passes: Any, query: Any, told: str
) -> None:
    one = agent("a")
    pipeline = Pipeline([one])
    with passes(one.model) as seen, pytest.raises(UnspokenError, match=told):
        pipeline.run(query)
    with passes(one.model) as more, pytest.raises(UnspokenError, match=told.replace("0", "1")):
        pipeline.run_many(["fine", query])
    assert not seen + more
    with pytest.raises(QueryError, match="many queries are a list"):
        pipeline.run_many("why?")


def test_odd_words_are_answered(agent: Any) -> None:
    odd = ["\ufeffwhy?", "a\x00b", "\u202eabc", "a\u2028b", "🏴‍☠️", "x" * 120]
    assert len(Pipeline([agent("a")]).run_many(odd)) == len(odd)


def test_things_are_shown_as_they_were_made(agent: Any) -> None:
    one, two = agent("a", role="Be kind.\nAlways."), agent("b", settings=Settings())
    pair = Pipeline([one, two], [Edge("a", "b", TextChannel(limit=4))])
    assert repr(one).startswith("Agent('a', tiny-llama-32-0, role='Be kind. Always.', Settings(")
    assert repr(two) == "Agent('b', tiny-llama-32-0)"
    assert repr(pair.edges[0]) == "Edge('a', 'b', TextChannel(limit=4))"
    assert repr(pair) == "<Pipeline a -text-> b, b answers>"
    assert pair.drawn() == ('flowchart LR\n    a0["a"]\n    a1[["b"]]\n    a0 -- text --> a1\n')


def test_owners_share_nothing(agent: Any) -> None:
    pool, pipeline = AnchorPool("exact"), Pipeline([agent("a")])
    query = "a question that is long enough to be kept"
    mine, yours = (pipeline.served_by(pool, owner=name) for name in ("me", "you"))
    mine.run(query)
    assert yours.run(query).usage.reused == 0
    assert mine.run(query).usage.reused > 0


# -- side by side ----------------------------------------------------------------------------------


@contextmanager
def writing(model: Backbone) -> Iterator[list[int]]:
    """How many rows each call of `generate` wrote."""
    rows, plain = list[int](), model.generate

    def generate(writer: Any, given: Any, *rest: Any) -> Any:
        rows.append(len(given["input_ids"]))
        return plain(writer, given, *rest)

    model.generate = generate  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        del model.generate


def fan_out(model: Backbone, count: int, **settings: Any) -> Pipeline:
    """A scout, some readers of its words, and a judge."""
    names = [f"reader {n}" for n in range(count)]
    readers = [
        Agent(
            name,
            model,
            role=Role(f"You are {name}.", "{messages}{question}", chat=n % 2 == 0),
            settings=Settings(**{"max_tokens": 3 + n, **settings}),
        )
        for n, name in enumerate(names)
    ]
    agents = [Agent("scout", model, settings=Settings(5)), *readers, Agent("judge", model)]
    joined = [Edge("scout", name, WORDS) for name in names]
    joined += [Edge(name, "judge", WORDS) for name in names]
    return Pipeline(agents, joined)


def one_by_one(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, query: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr("unspoken.team._ROWS", 1)
        return pipeline.run(query)


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_fan_out_writes_in_one_batch_what_it_would_write_alone(
    kind: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_backbone(kind)
    pipeline = fan_out(model, 4, temperature=temperature)
    with writing(model) as rows:
        together = pipeline.run("Who was it?")
    with writing(model) as alone:
        apart = one_by_one(pipeline, monkeypatch, "Who was it?")
    assert (rows, alone) == ([1, 4, 1], [1] * 6)
    for one, other in zip(together.turns, apart.turns, strict=True):
        assert (one.agent, one.text, one.finish) == (other.agent, other.text, other.finish)
        for name in ("read", "written", "passes", "wire"):
            assert getattr(one.usage, name) == getattr(other.usage, name), name


def test_a_batch_of_items_is_not_made_larger_than_it_may_be() -> None:
    model = tiny_backbone()
    pipeline = fan_out(model, 3)
    with writing(model) as rows:
        runs = pipeline.run_many([f"Who was it, {n}?" for n in range(8)], batch_size=8)
    assert rows == [8, 16, 8, 8]  # two readers together, the third by itself
    assert [run.answer for run in runs] == [
        pipeline.run(f"Who was it, {n}?").answer for n in range(8)
    ]


def test_agents_on_unlike_models_or_without_batches_write_apart() -> None:
    one, other = tiny_backbone(), tiny_backbone(seed=1)
    script = ScriptedModel(lambda words: " yes")
    agents = [Agent("a", one), Agent("b", other), Agent("c", script), Agent("d", one)]
    agents.append(Agent("judge", script))
    pipeline = Pipeline(agents, [Edge(name, "judge", WORDS) for name in "abcd"])
    with writing(one) as rows, writing(other) as others:
        pipeline.run("?")
    assert (rows, others) == ([2], [1])


def test_in_rounds_agents_that_do_not_hear_each_other_write_together() -> None:
    model = tiny_backbone()
    agents = [Agent(name, model, settings=Settings(4)) for name in ("pro", "con", "judge")]
    joined = [Edge("pro", "judge", WORDS), Edge("con", "judge", WORDS)]
    joined += [Edge("judge", "pro", WORDS), Edge("judge", "con", WORDS)]
    with writing(model) as rows:
        run = Pipeline(agents, joined, rounds=2).run("?")
    assert rows == [2, 1, 2, 1]
    assert [(turn.agent, turn.round) for turn in run.turns] == [
        (name, number) for number in (1, 2) for name in ("pro", "con", "judge")
    ]


@pytest.mark.parametrize("ladder", ["exact", "shifted"])
def test_a_fan_out_over_one_pool_writes_together_too(
    ladder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_backbone()
    together, apart = (fan_out(model, 4).served_by(AnchorPool(ladder)) for _ in range(2))
    calls, plain = list[int](), Backbone.write_together

    def counted(self: Any, contexts: Any, *rest: Any) -> Any:
        calls.append(len(contexts))
        return plain(self, contexts, *rest)

    for query in ("Who was it?", "Who was it?", "And who was it then?"):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Backbone, "write_together", counted)
            one = together.run(query)
        other = one_by_one(apart, monkeypatch, query)
        assert sum(calls) == 4
        for turn, same in zip(one.turns, other.turns, strict=True):
            assert (turn.text, turn.finish) == (same.text, same.finish)
            assert turn.usage.read == same.usage.read
            assert turn.usage.reused == same.usage.reused
    assert one.usage.reused > 0
