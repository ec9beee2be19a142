"""Which edges matter: replays, attribution, pruning, on tiny pipelines where it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, SelectiveLayers, TextChannel
from unspoken.errors import DataError, PipelineError
from unspoken.evaluation.edges import (
    CONTENT,
    HARM,
    NOTHING,
    PRESENCE,
    REDUNDANT,
    EdgeWorth,
    attribute,
    bits,
)
from unspoken.evaluation.pruning import Budget, prune
from unspoken.evaluation.replay import Carry, Replay, Sent
from unspoken.evaluation.statistics import Difference, Estimate
from unspoken.evaluation.tasks import Item
from unspoken.evaluation.trials import Cost, Edges, Outcome, Trials
from unspoken.pipeline import Edge, Pipeline, Query
from unspoken.projectors import EmbeddingProjector
from unspoken.types import Settings

READS = Role(template="{context}", chat=False)
ASKS = Role(template="{question}", chat=False)
PASSES = Role(template="{messages}{context}", message="{message}", chat=False)
ANSWERS = Role(template="{messages}Q: {question}\nA:", message="{sender}:{message}\n", chat=False)
FACTS = ("Ada keeps the green key.", "Bo has none.", "Cy left it by the bench.", "It is late now.")
QUESTION = "Where?"
QUERIES: list[Query] = [{"context": fact, "question": QUESTION} for fact in FACTS]
PARTNERS = [1, 0, 3, 2]
WORDS = TextChannel(verbatim=True)


@pytest.fixture
def model(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("llama")


@pytest.fixture
def agent(model: Backbone) -> Callable[..., Agent]:
    def make(name: str, role: Role = ANSWERS, backbone: Backbone = model) -> Agent:
        return Agent(name, backbone, role=role, settings=Settings(6))

    return make


def items_of(pipeline: Pipeline) -> list[Item]:
    """Items whose right answer is what the pipeline says: all edges are right by construction."""
    runs = pipeline.run_many(QUERIES, batch_size=4)
    return [
        Item(f"i{n}", FACTS[n], QUESTION, (run.turns[-1].text or "",)) for n, run in enumerate(runs)
    ]


def trials(pipeline: Pipeline, out: Path | None = None, **options: Any) -> Trials:
    items = items_of(pipeline)
    given = {"say": lambda agent, item: item.answers[0], "batch_size": 4} | options
    return Trials(pipeline, items, PARTNERS, out=out, **given)


def star(agent: Callable[..., Agent]) -> Pipeline:
    """One sender knows the fact; the other says to everybody what all are asked."""
    agents = [agent("knower", READS), agent("crier", ASKS), agent("solver")]
    return Pipeline(agents, [Edge("knower", "solver", WORDS), Edge("crier", "solver", WORDS)])


# Pipelines with fewer edges -----------------------------------------------------------------------


def test_the_answering_agent_stays_whatever_edges_are_kept(agent):
    chain = Pipeline(
        [agent("a", READS), agent("b", PASSES), agent("c")],
        [Edge("a", "b", WORDS), Edge("b", "c", WORDS)],
    )
    first, last = chain.edges
    assert chain.keeping([first]).order == ["c"]
    assert chain.keeping([first]).edges == ()
    assert chain.keeping([last]).order == ["b", "c"]
    assert chain.keeping([first, last]).edges == chain.edges
    answers = [run.answer for run in chain.alone().run_many(QUERIES)]
    assert [run.answer for run in chain.keeping([first]).run_many(QUERIES)] == answers


def test_an_edge_that_comes_back_in_a_later_round_leads_to_the_answer(agent):
    debate = Pipeline(
        [agent("left", PASSES), agent("right")],
        [Edge("left", "right", TextChannel()), Edge("right", "left", TextChannel())],
        rounds=2,
    )
    there, back = debate.edges
    assert debate.keeping([there, back]).edges == (there, back)
    assert debate.keeping([back]).edges == ()
    assert debate.keeping([there]).order == ["left", "right"]


# Replays ------------------------------------------------------------------------------------------


def channels(model: Backbone) -> dict[str, Channel]:
    torch.manual_seed(0)
    projector = EmbeddingProjector(source_width=32, target_width=32, layers=(1,), hidden=16)
    return {
        "text": TextChannel(),
        "embedding": Embedding(projector),
        "handoff": Handoff(),
        "layers": SelectiveLayers(ratio=0.5),
    }


def only(kept: set[int]) -> Carry:
    return lambda step, edge, message: message if edge in kept else None


def instead(sent: Sent) -> Carry:
    return lambda step, edge, message: sent[step, edge]


@pytest.mark.parametrize("kind", ["text", "embedding", "handoff", "layers"])
def test_a_replay_is_what_a_pipeline_of_these_edges_does(agent, model, kind: str):
    channel = channels(model)[kind]
    agents = [agent("one", READS), agent("two", PASSES), agent("solver")]
    edges = [
        Edge("one", "two", TextChannel(limit=4)),
        Edge("one", "solver", channel),
        Edge("two", "solver", TextChannel(limit=4)),
    ]
    pipeline = Pipeline(agents, edges)
    replay = Replay(pipeline, QUERIES, ["x"] * 4)
    for kept in ({0, 1, 2}, {0, 2}, {1, 2}, {1}, {0}, set()):
        found = replay.ask(only(kept))
        line = pipeline.keeping([edges[n] for n in sorted(kept)])
        assert list(found.words) == [run.answer for run in line.run_many(QUERIES, batch_size=4)]


def test_the_wrong_message_is_that_of_a_run_about_the_other_item(agent, model):
    for channel in channels(model).values():
        pair = Pipeline([agent("one", READS), agent("solver")], [Edge("one", "solver", channel)])
        others = [QUERIES[n] for n in PARTNERS]
        sent = Replay(pair, others).sent()
        replay = Replay(pair, QUERIES, ["x"] * 4)
        found = replay.ask(instead(sent))
        runs = pair.run_many(QUERIES, elsewhere=others, batch_size=4)
        assert list(found.words) == [run.answer for run in runs]
        right = replay.ask()
        assert found.nats != right.nats


def test_agents_that_hear_nothing_new_are_not_run_again(agent, tiny, passes):
    sender, receiver = tiny("qwen"), tiny("llama")
    agents = [agent(name, READS, sender) for name in ("a", "b", "c")]
    agents.append(agent("solver", ANSWERS, receiver))
    edges = [Edge(name, "solver", TextChannel(limit=2)) for name in ("a", "b", "c")]
    pipeline = Pipeline(agents, edges)
    with passes(sender) as once:
        pipeline.mail(QUERIES)
    found = trials(pipeline)
    with passes(sender) as sent, passes(receiver) as answered:
        attribute(found)
        prune(found, Budget(1))
        count = len(answered)
        attribute(found)
        assert len(answered) == count  # everything is known
    assert len(sent) == 2 * len(once)  # about the items, and about the others


def test_an_edge_object_that_stands_twice_is_refused(agent):
    edge = Edge("a", "b", WORDS)
    pipeline = Pipeline([agent("a", READS), agent("b")], [edge, edge])
    with pytest.raises(DataError, match="stands twice"):
        Replay(pipeline, QUERIES)


# Attribution --------------------------------------------------------------------------------------


def test_the_edge_that_carries_content_is_named(agent):
    knower, crier = attribute(trials(star(agent)))
    assert (knower.name, crier.name) == ("knower -> solver", "crier -> solver")
    assert knower.verdict == CONTENT
    assert knower.content_bits.low > 0
    assert knower.wrong < 1  # over all edges everything is right
    # The crier says the same about every item, so the wrong message is the right one.
    assert crier.content_bits == Estimate(0.0, 0.0, 0.0)
    assert crier.content == Difference(0.0, crier.content.low, crier.content.high, 1.0)
    assert crier.verdict != CONTENT
    assert crier.wrong == 1
    assert knower.positions == sum(map(len, FACTS)) / 4  # bytes are tokens
    assert knower.wire > knower.positions


def test_on_a_chain_only_the_edge_with_content_is_named(agent):
    chain = Pipeline(
        [agent("opener", ASKS), agent("clerk", PASSES), agent("solver")],
        [Edge("opener", "clerk", WORDS), Edge("clerk", "solver", WORDS)],
    )
    opening, telling = attribute(trials(chain))
    assert (opening.verdict, telling.verdict) == (NOTHING, CONTENT)
    for found in (opening.gain_bits, opening.content_bits):
        assert found == Estimate(0.0, 0.0, 0.0)  # it does not reach the answer, bit for bit
    assert telling.content_bits.low > 0


def test_what_two_say_alike_is_needed_once(agent):
    agents = [agent("one", READS), agent("two", READS), agent("solver")]
    twice = Pipeline(agents, [Edge("one", "solver", WORDS), Edge("two", "solver", WORDS)])
    found = trials(twice)
    kept = prune(found, Budget(1))
    assert len(kept.kept) == 1
    assert len(kept.cuts) == 1
    both = found.ask(frozenset(), write=False)
    last = found.ask(frozenset(kept.kept), write=False)
    assert sum(bits(last, both)) > 0


def test_attribution_over_rounds(agent):
    debate = Pipeline(
        [agent("left", PASSES), agent("right")],
        [Edge("left", "right", TextChannel(limit=4)), Edge("right", "left", TextChannel(limit=4))],
        rounds=2,
    )
    found = trials(debate)
    there, back = attribute(found)
    nothing = found.ask(frozenset())
    assert found.ask(frozenset({1})).nats == nothing.nats  # what comes back is not heard
    assert there.wire > back.wire  # it speaks twice
    assert there.verdict == CONTENT


def test_a_pipeline_without_edges_is_refused(agent):
    with pytest.raises(PipelineError, match="no edges"):
        attribute(trials(Pipeline([agent("solver")])))


def worth(gain: tuple[float, float], content: tuple[float, float]) -> EdgeWorth:
    same = Difference(0.0, -0.1, 0.1, 1.0)
    gains, contents = (Estimate(sum(ends) / 2, *ends) for ends in (gain, content))
    return EdgeWorth(0, "a", "b", "text", 0.5, 0.5, same, same, gains, contents, 512.0, 8.0)


@pytest.mark.parametrize(
    ("gain", "content", "said"),
    [
        ((0.5, 1.5), (0.2, 0.4), CONTENT),
        ((-0.5, 1.5), (0.2, 0.4), REDUNDANT),
        ((0.5, 1.5), (-0.1, 0.4), PRESENCE),
        ((-1.5, -0.5), (0.2, 0.4), HARM),
        ((-1.5, -0.5), (-0.4, -0.2), HARM),
        ((-0.5, 0.5), (-0.4, 0.2), NOTHING),
    ],
)
def test_verdicts_follow_the_intervals(gain, content, said: str):
    assert worth(gain, content).verdict == said


def test_bits_for_each_kib_and_position():
    assert worth((1.0, 3.0), (0.0, 0.0)).per_kib == 4.0
    assert worth((1.0, 3.0), (0.0, 0.0)).per_position == 0.25
    assert replace(worth((1.0, 3.0), (0.0, 0.0)), wire=0.0, positions=0.0).per_kib == 0.0


# What is kept -------------------------------------------------------------------------------------


def test_outcomes_are_kept_and_found_again(agent, model, passes, tmp_path: Path):
    path = tmp_path / "trials.json"
    first = attribute(trials(star(agent), path))
    with passes(model) as seen:
        again = trials(star(agent), path)
        count = len(seen)  # labels
        assert attribute(again) == first
        assert len(seen) == count
    other = trials(star(agent), path, batch_size=3)
    other.ask(other.every)
    assert len(other._known.outcomes) == 1  # of other batches, so begun anew


def test_a_broken_file_is_computed_anew(agent, tmp_path: Path):
    path = tmp_path / "trials.json"
    first = attribute(trials(star(agent), path))
    path.write_text(path.read_text()[:-30])
    assert attribute(trials(star(agent), path)) == first


# Pruning ------------------------------------------------------------------------------------------


class Table(Trials):
    """Trials whose outcomes are made up: nats of the right answer by the edges that are kept."""

    def __init__(
        self, pipeline: Pipeline, nats: Callable[[Edges], float], wire: list[float] | None = None
    ) -> None:
        super().__init__(pipeline, [], [])
        self.nats, self.wire = nats, wire or [1.0] * len(pipeline.edges)

    def ask(self, kept: Edges, wrong: Edges = frozenset(), *, write: bool = True) -> Outcome:
        return Outcome((self.nats(kept), self.nats(kept) - 1e-6))

    def costs(self) -> list[Cost]:
        return [Cost(wire, 2 * wire) for wire in self.wire]


def fan(agent: Callable[..., Agent], count: int) -> Pipeline:
    names = [f"s{n}" for n in range(count)]
    agents = [agent(name, READS) for name in names]
    return Pipeline([*agents, agent("solver")], [Edge(name, "solver", WORDS) for name in names])


def total(*worths: float) -> Callable[[Edges], float]:
    return lambda kept: sum(worths[n] for n in kept)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget(4), (0, 1, 2, 3)),
        (Budget(2), (0, 2)),
        (Budget(1), (2,)),
        (Budget(100, "bytes"), (1, 3)),
        (Budget(200, "positions"), (1, 3)),
        (Budget(40, "bytes"), (3,)),
        (Budget(5, "bytes"), ()),
    ],
)
def test_what_is_worth_most_for_its_cost_is_kept(agent, budget: Budget, kept: tuple[int, ...]):
    table = Table(fan(agent, 4), total(3.0, 2.0, 4.0, 1.0), [1000.0, 50.0, 2000.0, 10.0])
    assert prune(table, budget).kept == kept


def test_edges_that_say_the_same_are_not_both_cut(agent):
    either = Table(fan(agent, 3), lambda kept: 5.0 * bool(kept & {0, 1}) + 0.1 * (2 in kept))
    found = prune(either, Budget(1))
    assert found.kept in ((0,), (1,))
    assert [cut.lost.value for cut in found.cuts] == pytest.approx([0.0, 0.1 / 0.6931], abs=1e-3)


def test_an_edge_that_does_harm_goes_within_the_budget(agent):
    found = prune(Table(fan(agent, 3), total(1.0, -2.0, 0.0)), Budget(3))
    assert found.kept == (0, 2)
    assert found.cuts[0].edges == (1,)
    assert found.cuts[0].lost.high < 0


def test_with_an_edge_go_those_that_nobody_hears_any_more(agent):
    pipeline = Pipeline(
        [agent("a", READS), agent("b", PASSES), agent("c", READS), agent("solver")],
        [Edge("a", "b", WORDS), Edge("b", "solver", WORDS), Edge("c", "solver", WORDS)],
    )
    table = Table(pipeline, lambda kept: 1.0 * (1 in kept) + 0.9 * (0 in kept) + 3.0 * (2 in kept))
    found = prune(table, Budget(1))
    assert found.kept == (2,)
    assert [cut.edges for cut in found.cuts] == [(0,), (1,)]
    dear = Table(pipeline, lambda kept: 0.1 * (1 in kept) + 3.0 * (2 in kept), [900.0, 100.0, 1.0])
    cut = prune(dear, Budget(50, "bytes")).cuts[0]
    assert (cut.edges, cut.saved) == ((0,), 900.0)
