"""The instrument of usable bits: its arithmetic, and its matrix for every channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log, log2
from typing import Any, ClassVar

import pytest
import torch

from tests.contract.cases import CASES, Case
from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, Handoff, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.evaluation.altered import Noise, Prefix
from unspoken.evaluation.scores import Scores, contrast, measure
from unspoken.evaluation.sharing import PrefixSharing
from unspoken.pipeline import Edge, Pipeline, fields_of
from unspoken.projectors import FreeVectors
from unspoken.studies.information.notes import estimate
from unspoken.types import Need, Prompt, Settings, Text, Vectors
from unspoken.wire import Message

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]
QUERIES = [
    {"context": "the cat is grey", "question": "what is the cat?"},
    {"context": "the box is full of tin", "question": "what is the box full of?"},
    {"context": "rain fell", "question": "what fell?"},
    {"context": "the key is in the attic", "question": "where is it?"},
    {"context": "ten men ran", "question": "how many ran far?"},
]
ANSWERS = [" grey\n", " tin\n", " rain\n", " in the attic\n", " ten\n"]
WRONG = [1, 2, 3, 4, 0]
SOLVER = Role("Answer.\n", "Fact:{messages}\nQ: {question}\nA:", "{message}", chat=False)


def pair(sender: Backbone, receiver: Backbone, channel: Channel) -> Pipeline:
    reads = Role("Answer.\n" if channel.in_front else "", "Fact: {context}", chat=False)
    solver = SOLVER if not channel.in_front else Role("Answer.\n", SOLVER.template[5:], chat=False)
    agents = [Agent("sender", sender, role=reads), Agent("receiver", receiver, role=solver)]
    return Pipeline(agents, [Edge("sender", "receiver", channel)])


def asked(pipeline: Pipeline, **options: Any) -> Scores:
    return measure(pipeline, QUERIES, ANSWERS, WRONG, **options)


def average(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


# Arithmetic --------------------------------------------------------------------------------------


def test_messages_that_tell_all_apart_reach_the_ceiling() -> None:
    table = torch.full((8, 8), -500.0, dtype=torch.float64).fill_diagonal_(-1.0)
    assert contrast(table, range(8)) == pytest.approx([3.0] * 8)


def test_one_message_for_everybody_is_worth_exactly_nothing() -> None:
    table = torch.randn(1, 7, dtype=torch.float64).expand(7, 7) * 300
    assert contrast(table, range(7)) == (0.0,) * 7
    scores = Scores(tuple(map(tuple, table.tolist())), (0.0,) * 7, (0,) * 7, (1,) * 7, (1,) * 7, 0)
    assert scores.identified == pytest.approx([1 / 7] * 7)


def test_bits_are_those_of_the_formula_and_never_above_the_ceiling() -> None:
    table = torch.randn(6, 6, dtype=torch.float64) * 4
    expected = [(table[n, n] - (table[:, n].exp().mean()).log()).item() / log(2) for n in range(6)]
    assert contrast(table, range(6)) == pytest.approx(expected)
    assert max(contrast(table, range(6))) <= log2(6)


def test_a_message_that_misleads_is_worth_less_than_nothing_however_much() -> None:
    table = torch.zeros(2, 2, dtype=torch.float64).fill_diagonal_(-5000.0)
    assert contrast(table, range(2)) == pytest.approx([1 - 5000 / log(2)] * 2)


def test_wrong_messages_are_worth_nothing_or_less_on_the_mean_of_all_shifts() -> None:
    table = torch.randn(9, 9, dtype=torch.float64) * 3
    shifted = [average(contrast(table.roll(n, 0), range(9))) for n in range(9)]
    assert sum(shifted) < 0


def test_equals_share_the_identification() -> None:
    scores = Scores(((-1.0, -1.0), (-1.0, -2.0)), (0.0, 0.0), (1, 0), (1, 1), (1, 1), 0)
    assert scores.identified == (0.5, 0.0)


# The matrix, for every channel -------------------------------------------------------------------


def made(case: Case, tiny: Tiny) -> Pipeline:
    def model(kind: str) -> Backbone:
        name, _, width = kind.partition(":")
        return tiny(name, width=int(width or 32))

    sender, receiver = model(case.sender), model(case.receiver)
    return pair(sender, receiver, case.make(sender, receiver))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_cell_is_what_the_receiver_says_of_that_pair(case: Case, tiny: Tiny) -> None:
    pipeline = made(case, tiny)
    found = asked(pipeline, rows=3, batch_size=2)
    agent, (edge,) = pipeline.answerer, pipeline.edges
    for told, query in enumerate(QUERIES):
        with torch.no_grad():
            state, _ = pipeline.agents["sender"].compute(
                fields_of([query]), needs=edge.channel.needs
            )
            message = edge.channel.send(replace(state, step=1))
            for n in (told, WRONG[told]):
                read = agent.read(fields_of([QUERIES[n]]), [Incoming(edge.channel, message)])
                (loss,) = agent.model.score(read.context, [ANSWERS[n]]).tolist()
                assert found.table[told][n] == pytest.approx(-loss, abs=2e-3)
        assert found.wire[told] == message.nbytes
    with torch.no_grad():
        read = agent.read(fields_of([QUERIES[0]]))
        (loss,) = agent.model.score(read.context, [ANSWERS[0]]).tolist()
    assert found.alone[0] == pytest.approx(-loss, abs=2e-3)


def test_words_count_in_the_receivers_tokens(tiny: Tiny) -> None:
    found = asked(pair(tiny(), tiny(), TextChannel(verbatim=True)))
    assert found.positions == tuple(len(query["context"]) for query in QUERIES)


def test_a_message_is_sent_once_and_read_once(
    tiny: Tiny, passes: Callable[[Backbone], Any]
) -> None:
    sender, receiver = tiny("gemma", width=48), tiny("llama")
    pipeline = pair(sender, receiver, TextChannel(limit=9))
    with passes(sender) as written, passes(receiver) as read:
        asked(pipeline, rows=5, batch_size=5)
    assert len(written) <= 1 + 9  # one batch that writes 9 tokens
    # The lead; for no message, and behind each message, what is common, questions, answers.
    assert len(read) <= 1 + 3 + 3 * len(QUERIES)


def test_a_channel_that_fuses_reads_each_question_once(
    tiny: Tiny, passes: Callable[[Backbone], Any]
) -> None:
    pipeline = made(next(case for case in CASES if case.name == "fusion"), tiny)
    with passes(pipeline.answerer.model) as read:
        asked(pipeline, rows=5)
    # The lead, what is common, the questions; then answers alone and behind each message.
    assert len(read) <= 3 + 1 + len(QUERIES)


def test_what_two_questions_share_is_read_for_one_row(tiny: Tiny) -> None:
    model, seen = tiny("llama"), list[tuple[int, ...]]()
    shared = [f"Fact: a very long fact.\nQ: {n}?\nA:" for n in "abc"]
    prompt = Prompt((Text(("Answer.\n",) * 3, shared=True), Text(tuple(shared))))

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    hook = model.model.base_model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        plain = model.read(prompt)
        seen.clear()
        reader = PrefixSharing(model)
        found = reader.read(prompt)
        assert seen == [(1, 27), (3, 4)]
        assert reader.read(prompt) is found
    finally:
        hook.remove()
    logits = [model.predict(read.context) for read in (found, plain)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)  # read in passes of other lengths
    assert found.context.spelling.words == plain.context.spelling.words
    real = found.context.mask, plain.context.mask
    ends = [read.context.spelling.ends[m] for read, m in zip((found, plain), real, strict=True)]
    assert torch.equal(*ends)


# Checks of the instrument ------------------------------------------------------------------------


def test_a_handed_cache_is_worth_what_the_words_are(tiny: Tiny) -> None:
    model = tiny("llama")
    words = asked(pair(model, model, TextChannel(verbatim=True)))
    cache = asked(pair(model, model, Handoff()))
    assert cache.bits == pytest.approx(words.bits, abs=1e-3)
    assert cache.deranged == pytest.approx(words.deranged, abs=1e-3)
    assert cache.identified == words.identified


def test_free_vectors_are_one_message_for_everybody(tiny: Tiny, passes: Any) -> None:
    receiver = tiny("llama")
    pipeline = pair(tiny(), receiver, Constant(FreeVectors(count=3, width=32, scale=0.3)))
    with passes(receiver) as seen:
        found = asked(pipeline, rows=5)
    assert found.bits == found.deranged == (0.0,) * 5
    assert found.identified == pytest.approx([0.2] * 5)
    assert len(seen) <= 7  # equal messages are read once


class Random(Channel):
    """Each item's own random vectors."""

    name: ClassVar[str] = "random"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def send(self, state: SenderState) -> Message:
        batch = len(state.given)
        return self._message(state, Vectors(torch.randn(batch, 4, 32), torch.ones(batch, 4) > 0))

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        return prompt.insert(message.payload)


def test_random_vectors_are_worth_nothing(tiny: Tiny) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [average(asked(pair(tiny(), tiny(), Random())).bits) for _ in range(6)]
    assert sum(found) / len(found) < 0


# Altered messages --------------------------------------------------------------------------------


def vectors(*lengths: int) -> Vectors:
    longest = max(lengths)
    mask = torch.stack([torch.arange(longest) >= longest - n for n in lengths])
    return Vectors(torch.randn(len(lengths), longest, 6) + 3, mask)


def embedding(tiny: Tiny) -> Pipeline:
    return made(next(case for case in CASES if case.name == "embedding"), tiny)


def test_a_prefix_keeps_the_first_positions_of_each_row(tiny: Tiny) -> None:
    (edge,) = embedding(tiny).edges
    payload = vectors(2, 5)
    cut = Prefix(edge.channel, 3).alter(payload)
    assert isinstance(cut, Vectors)
    assert cut.mask.sum(1).tolist() == [2, 3]
    assert torch.equal(cut.values[1][cut.mask[1]], payload.values[1, :3])
    assert torch.equal(cut.values[0][cut.mask[0]], payload.values[0, 3:])


def test_noise_has_the_moments_of_the_message_and_not_its_content(tiny: Tiny) -> None:
    (edge,) = embedding(tiny).edges
    payload, noise = vectors(400, 600), Noise(edge.channel)
    found = noise.alter(payload)
    assert isinstance(found, Vectors)
    ours, theirs = payload.values[payload.mask], found.values[found.mask]
    torch.testing.assert_close(theirs.mean(0), ours.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(theirs.std(0), ours.std(0), atol=0.15, rtol=0)
    both = torch.stack((ours.flatten(), theirs.flatten()))
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1
    assert torch.equal(noise.alter(payload).values, found.values)
    assert not torch.equal(Noise(edge.channel, 1).alter(payload).values, found.values)


@pytest.mark.parametrize("name", ["embedding", "memory", "fusion"])
def test_altered_messages_travel_as_the_channels_own(name: str, tiny: Tiny) -> None:
    pipeline = made(next(case for case in CASES if case.name == name), tiny)
    (edge,) = pipeline.edges
    whole = asked(pipeline)
    for channel in (Prefix(edge.channel, 99), Prefix(edge.channel, 2), Noise(edge.channel)):
        agents = list(pipeline.agents.values())
        found = asked(Pipeline(agents, [Edge("sender", "receiver", channel)]))
        if isinstance(channel, Prefix) and channel.limit == 99:
            assert found.bits == pytest.approx(whole.bits, abs=1e-3)
        elif isinstance(channel, Prefix):
            assert found.positions == (2,) * 5
            assert max(found.wire) < min(whole.wire)
        else:
            assert found.positions == whole.positions
            assert found.bits != pytest.approx(whole.bits, abs=1e-4)


# The writer's own estimate -----------------------------------------------------------------------


def test_sampled_notes_are_scored_by_the_writer(tiny: Tiny) -> None:
    role = Role("Notes.\n", "Fact: {context}\nNote:", chat=False)
    writer = Agent("writer", tiny("qwen"), role=role, settings=Settings(max_tokens=6))
    found = estimate(writer, QUERIES, samples=3, batch_size=2)
    again = estimate(writer, QUERIES, samples=3, batch_size=2)
    assert found == again
    assert found != estimate(writer, QUERIES, samples=3, batch_size=2, seed=9)
    assert max(found.bits) <= found.ceiling == log2(5)
    assert average(found.bits) > 0  # notes are likelier given their own source
    assert 1 <= found.tokens <= 6


def test_sources_that_are_one_give_no_bits(tiny: Tiny) -> None:
    role = Role("Notes.\n", "Fact: {context}\nNote:", chat=False)
    writer = Agent("writer", tiny("qwen"), role=role, settings=Settings(max_tokens=6))
    assert estimate(writer, [QUERIES[0]] * 4).bits == pytest.approx([0.0] * 4, abs=1e-4)
