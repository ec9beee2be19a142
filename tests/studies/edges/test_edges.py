"""Which edges matter: replays, attribution, pruning, on tiny pipelines where it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.planted import (
    ASKS,
    ITEMS,
    QUERIES,
    READS,
    SAID,
    fresh,
    solver,
    star,
    train,
)
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, SelectiveLayers, TextChannel
from unspoken.errors import PipelineError
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.statistics import Difference, Estimate
from unspoken.evaluation.store import Store
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.studies.edges.attribution import (
    CONTENT,
    HARM,
    NOTHING,
    PRESENCE,
    REDUNDANT,
    EdgeWorth,
    attribute,
)
from unspoken.studies.edges.pruning import Budget, prune
from unspoken.studies.edges.replay import Carry, Replay, Sent
from unspoken.studies.edges.trials import Cost, Edges, Outcome, Trials
from unspoken.tasks import Item
from unspoken.types import Settings

pytestmark = pytest.mark.numbers

PASSES = Role(template="{messages}{context}", message="{message}", chat=False)
ANSWERS = Role(template="{messages}Q: {question}\nA:", message="{sender}:{message}\n", chat=False)
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


def trials(pipeline: Pipeline, out: Path | None = None, batch_size: int = 4) -> Trials:
    """The planted items; the answer is said as it was trained, without a space before it."""
    return Trials(pipeline, Evaluator(ITEMS, batch_size, Store(out)), PARTNERS, expected=bare)


def bare(agent: Agent, item: Item) -> str:
    return item.answers[0]


def two(agent: Callable[..., Agent]) -> Pipeline:
    """One sender passes on the fact; the other says to everybody what all are asked."""
    agents = [agent("knower", READS), agent("crier", ASKS), agent("solver")]
    return Pipeline(agents, [Edge("knower", "solver", WORDS), Edge("crier", "solver", WORDS)])


@pytest.fixture(scope="module")
def known(tiny: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A star in which the receiver has been taught to read the one who knows."""
    line = star(tiny("llama"), fresh())
    train(line, tmp_path_factory.mktemp("star"))
    return line


@pytest.fixture(scope="module")
def chain(tiny: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """An opener says the same to a clerk every time; the clerk has the fact and tells it on."""
    model = tiny("llama")
    clerk = Agent("clerk", model, role=Role("", "{messages}{context}", "{message}", chat=False))
    agents = [Agent("opener", model, role=ASKS), clerk, solver(model)]
    edges = [Edge("clerk", "solver", Embedding(fresh())), Edge("opener", "clerk", WORDS)]
    line = Pipeline(agents, edges)
    train(line, tmp_path_factory.mktemp("chain"))
    return line


# Pipelines with fewer edges -----------------------------------------------------------------------


def test_the_answering_agent_stays_whatever_edges_are_kept(agent):
    chain = Pipeline(
        [agent("a", READS), agent("b", PASSES), agent("c")],
        [Edge("a", "b", WORDS), Edge("b", "c", WORDS)],
    )
    first, last = chain.edges
    assert chain.with_edges([first]).order == ["c"]
    assert chain.with_edges([first]).edges == ()
    assert chain.with_edges([last]).order == ["b", "c"]
    assert chain.with_edges([first, last]).edges == chain.edges
    answers = [run.answer for run in chain.without_messages().run_many(QUERIES)]
    assert [run.answer for run in chain.with_edges([first]).run_many(QUERIES)] == answers


def test_an_edge_that_comes_back_in_a_later_round_leads_to_the_answer(agent):
    debate = Pipeline(
        [agent("left", PASSES), agent("right")],
        [Edge("left", "right", TextChannel()), Edge("right", "left", TextChannel())],
        rounds=2,
    )
    there, back = debate.edges
    assert debate.with_edges([there, back]).edges == (there, back)
    assert debate.with_edges([back]).edges == ()
    assert debate.with_edges([there]).order == ["left", "right"]


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
        line = pipeline.with_edges([edges[n] for n in sorted(kept)])
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
        Replay(pipeline, QUERIES).sent()
    found = trials(pipeline)
    with passes(sender) as sent, passes(receiver) as answered:
        attribute(found)
        prune(found, Budget(1))
        count = len(answered)
        attribute(found)
        assert len(answered) == count  # everything is known
    assert len(sent) == 2 * len(once)  # about the items, and about the others


# Attribution --------------------------------------------------------------------------------------


def test_the_edge_that_carries_content_is_named(known: Pipeline):
    found = trials(known)
    knower, crier = attribute(found)
    assert (knower.name, crier.name) == ("knower -> solver", "crier -> solver")
    assert found.ask(found.every).correct == (True,) * 4
    assert knower.verdict == CONTENT
    assert (knower.wrong, knower.content.value, knower.content.p) == (0, 1, 0.125)
    assert knower.content_bits.low > 1
    assert knower.gain_bits.low > 0
    # The crier says the same about every item, so the wrong message is the right one.
    assert crier.content_bits == Estimate(0.0, 0.0, 0.0)
    assert (crier.content.value, crier.content.p, crier.wrong) == (0, 1, 1)
    assert crier.verdict not in (CONTENT, REDUNDANT)
    assert crier.positions == len("which?")  # bytes are tokens
    assert knower.positions == 4  # vectors
    assert knower.wire > crier.wire > crier.positions


def test_with_the_wrong_message_the_other_items_answer_is_given(known: Pipeline):
    replay = Replay(known, QUERIES, SAID)
    sent = Replay(known, [QUERIES[n] for n in PARTNERS]).sent()
    assert replay.ask().words == tuple(SAID)
    assert replay.ask(instead(sent)).words == tuple(SAID[n] for n in PARTNERS)


def test_on_a_chain_the_edge_that_carries_content_is_named(chain: Pipeline):
    telling, opening = attribute(trials(chain))
    assert (telling.name, telling.verdict) == ("clerk -> solver", CONTENT)
    assert telling.content.value == 1
    assert opening.content_bits == Estimate(0.0, 0.0, 0.0)
    assert opening.verdict in (PRESENCE, NOTHING, HARM)
    kept = prune(trials(chain), Budget(1))
    assert [chain.edges[n].sender for n in kept.kept] == ["clerk"]


def test_what_does_not_reach_the_answer_has_no_effect_bit_for_bit(agent):
    passes = Role(template="{messages}{context}", chat=False)
    agents = [agent("opener", READS), agent("clerk", passes), agent("solver")]
    edges = [Edge("opener", "clerk", WORDS), Edge("clerk", "solver", WORDS)]  # its own fact only
    opening, _ = attribute(trials(Pipeline(agents, edges)))
    for found in (opening.gain_bits, opening.content_bits):
        assert found == Estimate(0.0, 0.0, 0.0)
    assert opening.verdict == NOTHING


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
    assert there.content.value == back.content.value == 0
    assert there.wire > back.wire  # it speaks twice


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
    first = attribute(trials(two(agent), tmp_path))
    with passes(model) as seen:
        assert attribute(trials(two(agent), tmp_path)) == first
    assert not seen
    other = trials(two(agent), tmp_path, batch_size=3)
    other.ask(other.every)
    assert len(other._known.outcomes) == 1  # of other batches, so begun anew


def test_a_broken_file_is_computed_anew(agent, tmp_path: Path):
    path = tmp_path / "trials.json"
    first = attribute(trials(two(agent), tmp_path))
    path.write_text(path.read_text()[:-30])
    with pytest.warns(UserWarning, match="is damaged"):
        assert attribute(trials(two(agent), tmp_path)) == first


# Pruning ------------------------------------------------------------------------------------------


class Table(Trials):
    """Trials whose outcomes are made up: nats of the right answer by the edges that are kept."""

    def __init__(
        self, pipeline: Pipeline, nats: Callable[[Edges], float], wire: list[float] | None = None
    ) -> None:
        super().__init__(pipeline, Evaluator([]), [])
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
