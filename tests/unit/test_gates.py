"""Gates on edges: what is open, what a gate learns from, and that it finds the sender who knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import CASES, Case
from tests.planted import ANSWERS, ASKS, QUERIES, READS, SAID, fresh, pair, train
from tests.randomness import untouched
from unspoken.agents import Agent, Incoming
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, SelectiveLayers, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, TrainingError
from unspoken.pipeline import Edge, Pipeline, fields_of
from unspoken.projectors import EmbeddingProjector
from unspoken.training import EdgeGates, GraphAnswers, TrainingPlan, fit
from unspoken.training.gates import Gated, check_gateable
from unspoken.training.graph import frozen_channels, gateable, gates_for, kept
from unspoken.wire import Message

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]
PLAN = TrainingPlan(steps=12, batch_size=4, lr=0.2, warmup=1, every=4, bf16=False)


# Which are open -----------------------------------------------------------------------------------


def test_each_receiver_has_k_open_and_the_gradient_reaches_all_its_logits():
    gates = EdgeGates(receivers=[0, 1, 0, 1, 0, 2], senders=2)
    for step in range(20):
        drawn = gates.draw(step).detach()
        assert set(drawn.tolist()) <= {0.0, 1.0}  # exactly
        by_receiver = [drawn[[0, 2, 4]].sum(), drawn[[1, 3]].sum(), drawn[5]]
        assert [float(count) for count in by_receiver] == [2, 2, 1]
    gates.draw(0)[0].backward()
    assert gates.logits.grad is not None
    moved = gates.logits.grad != 0
    assert moved.tolist() == [True, False, True, False, True, False]


def test_draws_depend_on_seed_and_step_alone_and_follow_the_logits():
    gates = EdgeGates(receivers=[0, 0, 0], senders=1)
    first = [gates.draw(step).tolist() for step in range(300)]
    torch.rand(3)
    assert [gates.draw(step).tolist() for step in range(300)] == first
    other = EdgeGates(receivers=[0, 0, 0], senders=1, seed=1)
    assert [other.draw(step).tolist() for step in range(300)] != first
    shares = torch.tensor(first).mean(0)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.1, rtol=0)
    gates.logits.data = torch.tensor([0.0, 2.0, 0.0])
    shares = torch.stack([gates.draw(step).detach() for step in range(300)]).mean(0)
    expected = torch.tensor([0.0, 2.0, 0.0]).softmax(0)  # the Gumbel maximum's own law
    torch.testing.assert_close(shares, expected, atol=0.1, rtol=0)


def test_in_use_the_largest_are_open_and_of_equal_ones_the_first():
    gates = EdgeGates(receivers=[0, 0, 0, 0, 1], senders=2)
    assert gates.chosen() == (0, 1, 4)
    gates.logits.data = torch.tensor([0.1, -3.0, 0.3, 0.2, -9.0])
    assert gates.chosen() == (2, 3, 4)
    assert EdgeGates(receivers=[0, 1], senders=5).chosen() == (0, 1)


def test_gates_are_saved_with_what_they_are(tmp_path: Path):
    gates = EdgeGates(receivers=[0, 0, 1], senders=1, temperature=0.5, seed=7)
    gates.logits.data = torch.tensor([0.0, 1.0, 2.0])
    gates.save_pretrained(tmp_path)
    loaded = EdgeGates.from_pretrained(tmp_path)
    assert loaded.chosen() == gates.chosen() == (1, 2)
    assert torch.equal(loaded.draw(3), gates.draw(3))


@pytest.mark.parametrize("options", [{"senders": 0}, {"temperature": 0.0}])
def test_what_makes_no_gates_is_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match="at least 1 sender, at a temperature above 0"):
        EdgeGates(receivers=[0, 0], **options)


# What goes through --------------------------------------------------------------------------------


def _latent(case: Case) -> bool:
    return any(case.name.startswith(kind) for kind in ("embedding", "memory", "layers", "soft"))


@pytest.fixture(params=[case for case in CASES if _latent(case)], ids=lambda case: case.name)
def world(request: pytest.FixtureRequest, tiny: Tiny) -> tuple[Agent, Agent, Any]:
    case: Case = request.param

    def model(kind: str) -> Backbone:
        kind, _, width = kind.partition(":")
        return tiny(kind, width=int(width or 32))

    torch.manual_seed(0)
    sender, receiver = model(case.sender), model(case.receiver)
    channel = case.make(sender, receiver)
    return Agent("s", sender, role=READS), Agent("r", receiver, role=ANSWERS), channel


def test_an_open_gate_is_the_message_and_has_a_slope(world):
    sender, receiver, channel = world
    fields = fields_of(QUERIES)
    line = Pipeline([sender, receiver], [Edge("s", "r", channel)])
    with frozen_channels(line):
        message = channel.send(sender.compute(fields, needs=channel.needs)[0])
        gate = torch.tensor(1.0, requires_grad=True)
        gated = Gated(channel, gate)
        assert gated.send(sender.compute(fields, needs=gated.needs)[0]).to_bytes() == (
            message.to_bytes()
        )

        def scores(heard: Channel) -> Tensor:
            context = receiver.read(fields, [Incoming(heard, message)]).context
            return receiver.model.score(context, SAID)

        with torch.no_grad():
            assert torch.equal(scores(gated), scores(channel))
        loss = scores(gated).mean()
    loss.backward()
    assert gate.grad is not None
    assert gate.grad.isfinite()
    assert gate.grad != 0
    for agent in (sender, receiver):
        assert all(p.grad is None for p in agent.model.model.parameters())
    assert all(p.grad is None for p in _parameters(channel))
    assert all(p.requires_grad for p in _parameters(channel))  # as they were


def _parameters(channel: Any) -> list[torch.nn.Parameter]:
    held = [part for part in vars(channel).values() if isinstance(part, torch.nn.Module)]
    return [one for module in held for one in module.parameters()]


def test_the_same_message_for_everybody_teaches_nothing(tiny: Tiny):
    model = tiny("llama")
    sender, receiver = Agent("s", model, role=ASKS), Agent("r", model, role=ANSWERS)
    channel = SelectiveLayers(ratio=1.0)
    fields = fields_of(QUERIES)  # all are asked the same
    message = channel.send(sender.compute(fields, needs=channel.needs)[0])
    gate = torch.tensor(1.0, requires_grad=True)
    read = receiver.read(fields, [Incoming(Gated(channel, gate), message)])
    model.score(read.context, SAID).mean().backward()
    assert gate.grad is not None
    assert abs(float(gate.grad)) < 1e-5


def test_words_and_what_stands_in_front_take_no_gate(tiny: Tiny):
    for channel in (TextChannel(), Handoff()):
        with pytest.raises(IncompatibleModels, match=r"takes no gate: .*use a channel such"):
            Gated(channel, torch.tensor(1.0))
    fusion = next(case for case in CASES if case.name == "fusion")
    with pytest.raises(IncompatibleModels, match="'fusion' takes no gate"):
        check_gateable(fusion.make(tiny("qwen", width=48), tiny("llama")))


# Which edges have one -----------------------------------------------------------------------------


def embedding(trained: EmbeddingProjector | None = None) -> Embedding:
    torch.manual_seed(0)
    made = trained or EmbeddingProjector(
        source_width=32, target_width=32, layers=[1], hidden=16, scale=0.3
    )
    return Embedding(made)


def test_a_gate_needs_a_latent_way_to_the_answer(tiny: Tiny):
    model = tiny("llama")
    latent, words = embedding(), TextChannel(limit=3)
    names = ["a", "b", "c", "d", "solver"]
    agents = [Agent(name, model, role=ANSWERS) for name in names]
    edges = [
        Edge("a", "b", latent),  # goes on as vectors
        Edge("b", "solver", embedding()),
        Edge("a", "c", embedding()),  # goes on as words
        Edge("c", "solver", words),
        Edge("d", "solver", embedding()),
    ]
    pipeline = Pipeline(agents, edges)
    assert gateable(pipeline) == (0, 1, 4)
    gates = gates_for(pipeline, gateable(pipeline), senders=1, temperature=1.0, seed=0)
    assert gates.receivers == (0, 1, 1)
    with pytest.raises(TrainingError, match=r"\{'b': 1, 'solver': 2\} latent edges, and keep 2"):
        gates_for(pipeline, (0, 1, 4), senders=2, temperature=1.0, seed=0)
    with pytest.raises(TrainingError, match="no latent edges"):
        gates_for(pipeline, (), senders=1, temperature=1.0, seed=0)


def test_the_gradient_goes_through_an_agent_in_the_middle(tiny: Tiny):
    model = tiny("llama")
    agents = [Agent("a", model, role=READS), Agent("x", model, role=READS)]
    agents += [Agent("b", model, role=ANSWERS), Agent("solver", model, role=ANSWERS)]
    edges = [Edge("a", "b", embedding()), Edge("x", "b", embedding())]
    pipeline = Pipeline(agents, [*edges, Edge("b", "solver", embedding())])
    learned = gateable(pipeline)
    assert learned == (0, 1, 2)
    gates = gates_for(pipeline, learned, senders=1, temperature=1.0, seed=0)
    objective = GraphAnswers(pipeline, gates, learned, QUERIES, SAID, validation=0)
    objective.loss(range(4), 0).backward()
    assert gates.logits.grad is not None
    assert bool((gates.logits.grad[:2] != 0).all())
    assert gates.logits.grad[2] == 0  # there is no other to choose


# Learning -----------------------------------------------------------------------------------------


class Rolled(Embedding):
    """Tells each item what is known about the one before it."""

    def send(self, state: SenderState) -> Message:
        states = {
            layer: replace(found, values=found.values.roll(1, 0), mask=found.mask.roll(1, 0))
            for layer, found in state.hidden.items()
        }
        return super().send(replace(state, hidden=states))


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingProjector:
    """A projector over which the receiver learns the answer from one who has read the fact."""
    return train(pair(tiny("llama"), fresh()), tmp_path_factory.mktemp("pair"))


def planted(model: Backbone, trained: EmbeddingProjector, *, at: int = 2) -> Pipeline:
    """Four senders over one projector: at `at` one that knows, one whose words go astray, two that
    know the question only."""
    agents = [Agent(f"s{n}", model, role=ASKS) for n in range(4)]
    edges = [Edge(f"s{n}", "solver", Embedding(trained)) for n in range(4)]
    astray = (at + 1) % 4
    for n in (at, astray):
        agents[n] = Agent(f"s{n}", model, role=READS)
    edges[astray] = Edge(f"s{astray}", "solver", Rolled(trained))
    return Pipeline([*agents, Agent("solver", model, role=ANSWERS)], edges)


def objective_of(line: Pipeline, *, seed: int = 0, senders: int = 1) -> GraphAnswers:
    learned = gateable(line)
    gates = gates_for(line, learned, senders=senders, temperature=1.0, seed=seed)
    return GraphAnswers(line, gates, learned, QUERIES * 2, SAID * 2, validation=4)


@pytest.mark.parametrize(("at", "seed"), [(0, 0), (2, 1), (3, 2)])
def test_the_sender_who_knows_is_found_and_a_deranged_one_loses(
    tiny: Tiny, trained: EmbeddingProjector, tmp_path: Path, at: int, seed: int
):
    line = planted(tiny("llama"), trained, at=at)
    objective = objective_of(line, seed=seed)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    digest = line.answerer.model.digest()
    with frozen_channels(line):
        history = fit(
            objective.gates,
            objective,
            replace(PLAN, steps=40, every=40, seed=seed),  # what is kept is what it ends with
            tmp_path / "c.pt",
            title="graph",
        )
    assert kept(line, objective.gates, objective.learned) == (at,)
    logits = objective.gates.logits.tolist()
    assert max(logits) == logits[at]
    assert logits[(at + 1) % 4] < logits[at] - 0.5
    assert history.best < 0.6
    assert line.answerer.model.digest() == digest
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert all(p.grad is None for p in trained.parameters())


def test_in_use_the_loss_is_that_of_the_pipeline_of_the_open_edges(
    tiny: Tiny, trained: EmbeddingProjector
):
    model = tiny("llama")
    line = planted(model, trained, at=1)
    objective = objective_of(line)
    objective.gates.logits.data = torch.tensor([0.0, 1.0, 0.5, -1.0])
    with torch.no_grad():
        found = objective.validate()
        (edge,) = (line.edges[1],)
        pair = Pipeline([line.agents["s1"], line.agents["solver"]], [edge])
        rows = sorted(range(4, 8), key=objective.length)  # the order in which they are asked
        asked, said = ([given[row] for row in rows] for given in (QUERIES * 2, SAID * 2))
        read = pair.answerer.read(fields_of(asked), pair.incoming(asked))
        expected = float(model.score(read.context, said).mean())
    assert found == expected  # bit for bit


def test_a_closed_edge_is_not_there_in_training_either(
    tiny: Tiny, trained: EmbeddingProjector, monkeypatch: pytest.MonkeyPatch
):
    line = planted(tiny("llama"), trained)
    objective = objective_of(line, senders=2)
    spoken: list[str] = []
    real = Agent.take_turn

    def take_turn(self: Agent, *given: Any, **options: Any) -> Any:
        spoken.append(self.name)
        return real(self, *given, **options)

    monkeypatch.setattr(Agent, "take_turn", take_turn)
    for step in range(5):
        spoken.clear()
        gates = objective.gates.draw(step)
        objective.loss(range(4), step)
        assert {f"s{n}" for n in range(4) if gates[n] == 1} == set(spoken)
        assert len(spoken) == 2


def test_the_mean_slope_on_the_line_is_what_the_content_is_worth(
    tiny: Tiny, trained: EmbeddingProjector
):
    model = tiny("llama")
    line = pair(model, trained)
    (edge,) = line.edges
    fields = fields_of(QUERIES)

    def loss_at(gate: Tensor, blur: float) -> Tensor:
        heard = [Incoming(Gated(edge.channel, gate, blur), one.message) for one in mail]
        return model.score(line.answerer.read(fields, heard).context, SAID).mean()

    mail = line.incoming(QUERIES)
    with torch.no_grad():
        one = torch.tensor(1.0)
        gained = float(loss_at(one, 0.0) - loss_at(one, 1.0))
    assert gained < -2  # what all have in common does not tell the answers apart
    slopes: list[float] = []
    for place in range(20):
        gate = torch.tensor(1.0, requires_grad=True)
        with frozen_channels(line):
            loss_at(gate, (place + 0.5) / 20).backward()
        assert gate.grad is not None
        slopes.append(float(gate.grad))
    assert sum(slopes) / 20 == pytest.approx(gained, rel=0.1)


def test_a_killed_training_of_gates_ends_like_an_uninterrupted_one(
    tiny: Tiny, trained: EmbeddingProjector, tmp_path: Path
):
    line = planted(tiny("llama"), trained)
    whole = objective_of(line)
    expected = fit(whole.gates, whole, PLAN, tmp_path / "whole.pt", title="graph")
    for stop in (1, 3, 4, 6, 7):
        killed = objective_of(line)
        real = killed.loss

        def loss(rows: Sequence[int], step: int, *, real: Any = real, stop: int = stop) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return real(rows, step)

        killed.loss = loss
        with untouched(), pytest.raises(KeyboardInterrupt):
            fit(killed.gates, killed, PLAN, tmp_path / "c.pt", title="graph")
        torch.rand(3)
    again = objective_of(line)
    assert fit(again.gates, again, PLAN, tmp_path / "c.pt", title="graph") == expected
    assert torch.equal(again.gates.logits, whole.gates.logits)
