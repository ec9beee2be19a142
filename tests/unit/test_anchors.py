"""A pool serves what a dense read gives, or says how near it comes; and it keeps its budget."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch

from unspoken import kept
from unspoken.agents import Agent, Role
from unspoken.anchors import LADDERS, AnchorPool, Ladder
from unspoken.anchors.persist import FILE
from unspoken.anchors.shelf import Base, Shelf
from unspoken.backbone import Backbone
from unspoken.channels import Handoff, TextChannel
from unspoken.errors import Damaged, IncompatibleModels, StorageError, UnknownName
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model
from unspoken.testing import KINDS, tiny_backbone
from unspoken.types import CACHE, Context, Need, Prompt, Read, Settings, Text, Vectors

from .test_backbone import FIXED, TURNING, made

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

LEADS = ("Plan. ", "Solve it well. ", "Judge with care. ")
QUESTION = "Which river runs through the city of Paris, and where does it end?"
OTHER = "How many legs has a spider, and how many an ant that lost one?"
ANSWER = " It is the Seine, and it ends in the Channel near Le Havre."


def prompt(lead: str, question: str = QUESTION, answer: str = ANSWER, tail: str = " So:") -> Prompt:
    return Prompt(
        (
            Text((lead,), shared=True),
            Text((question,), share="question"),
            Text(("\nplanner:",)),
            Text((answer,), share="planner"),
            Text((tail,)),
        )
    )


def rows(*questions: str, lead: str = LEADS[0]) -> Prompt:
    n = len(questions)
    return Prompt(
        (
            Text((lead,) * n, shared=True),
            Text(questions, share="question"),
            Text((" So?",) * n),
        )
    )


def farthest(one: Context, other: Context) -> float:
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.last, other.last)
    real = one.mask[:, None, : one.kv[0][0].shape[2], None]
    pairs = [pair for a, b in zip(one.kv, other.kv, strict=True) for pair in zip(a, b, strict=True)]
    return max(float(((a - b) * real).abs().max()) for a, b in pairs)


NEAR = 1e-4
"""How far apart passes of other lengths may be: their sums were seen to differ by up to 5e-5.

One wrong position or mask far back moves the last token's keys and values by 1e-3 and more.
"""


def sources(read: Read) -> list[tuple[int, int, int, int, int]]:
    return [(s.exact, s.shifted, s.anchored, s.recomputed, s.dense) for s in read.served]


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_beginning_read_before_is_reused_to_the_bit(tiny: Tiny, kind: str):
    model = tiny(kind)
    reader = AnchorPool("exact").wrap(model)
    first, again = prompt("Lead. "), prompt("Lead. ", tail=" Then say it in short words:")
    before = reader.read(first)
    read, dense = reader.read(again), model.read(again)
    exact, _, _, _, left = sources(read)[0]
    lead, total = 6, int(dense.context.mask.sum())
    assert exact > lead + len(QUESTION) + len(ANSWER)
    assert exact + left == total
    assert read.tokens == (left,)
    assert farthest(read.context, dense.context) < NEAR
    for (k, v), (a, b) in zip(before.context.kv, read.context.kv, strict=True):
        assert torch.equal(k[:, :, :exact], a[:, :, :exact])
        assert torch.equal(v[:, :, :exact], b[:, :, :exact])
    assert read.context.spelling.words == dense.context.spelling.words
    assert torch.equal(read.context.spelling.ends, dense.context.spelling.ends)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prompt_again_takes_one_pass_to_its_first_word(
    tiny: Tiny, passes: Callable[..., Any], kind: str
):
    model, one = tiny(kind), Settings(max_tokens=1)
    reader = AnchorPool("exact").wrap(model)
    want = reader.write(reader.read(prompt(LEADS[0])).context, one)
    with passes(model) as seen:
        read = reader.read(prompt(LEADS[0]))
        words = reader.write(read.context, one)
    assert (len(seen), read.passes, read.tokens, words.passes) == (1, 1, (1,), 0)
    assert (words.words, words.ids, words.tokens) == (want.words, want.ids, want.tokens)
    spec = model.spec
    width = 2 * spec.layers * spec.kv_heads * spec.head_dim * 4
    assert read.served[0].bytes == read.served[0].exact * width


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_what_is_written_does_not_depend_on_who_read_the_last_token(tiny: Tiny, temperature: float):
    """Sampled, stopped, streamed and in batches, from a dense read and from a pool."""
    model = tiny("llama")
    settings = Settings(max_tokens=9, temperature=temperature, top_p=0.9, seed=3)
    first = model.write(model.read(rows(QUESTION)).context, settings).words[0]
    for stop in ((), (first[2:4],)):
        settings = replace(settings, stop=stop)
        reader = AnchorPool("exact").wrap(model)
        for given in (rows(QUESTION), rows(QUESTION, OTHER, "Hm?")):
            reader.read(given)
            told = [""] * given.batch

            def listen(row: int, piece: str, told: list[str] = told) -> None:
                told[row] += piece

            words = reader.write(reader.read(given).context, settings, listen)
            dense = model.write(model.read(given).context, settings)
            assert (words.words, words.ids, words.tokens) == (dense.words, dense.ids, dense.tokens)
            assert words.passes == dense.passes - 1
            assert tuple(told) == words.words


@pytest.mark.parametrize("ladder", sorted(LADDERS))
def test_a_prompt_of_one_token_is_served(tiny: Tiny, ladder: str):
    model = tiny()
    reader = AnchorPool(ladder).wrap(model)
    for words in ("x", "x", "xy", "y"):
        one = Prompt((Text((words,)),))
        found = reader.write(reader.read(one).context, Settings(4))
        assert found.ids == model.write(model.read(one).context, Settings(4)).ids
    reader.pool.check()


def test_an_answer_is_moved_with_the_words_that_announce_it():
    """It stood behind the same words where it was written, so its head is not read again."""
    model = tiny_backbone("llama")
    letters = [model.tokens(letter)[0] for letter in ascii_lowercase]  # each is one token
    head = model.model.lm_head.weight
    with torch.no_grad():
        head.copy_(torch.zeros_like(head).index_copy(0, torch.tensor(letters), head[letters]))
    reader = AnchorPool("shifted").wrap(model)

    def told(lead: str, *segments: Text) -> Prompt:
        question = Text((QUESTION,), share="question")
        return Prompt((Text((lead,), shared=True), question, Text(("\nplanner:",)), *segments))

    context = reader.read(told(LEADS[0])).context
    answer = Text(reader.write(context, Settings(max_tokens=40)).words, share="planner")
    assert len(answer.words[0]) == 40
    told_so = reader.read(told(LEADS[1], answer, Text(("\nsolver:",)))).served[0]
    told_else = reader.read(told(LEADS[2], Text((" Hm.",)), answer, Text(("\nsolver:",)))).served[0]
    assert told_so.recomputed == 4  # of the question
    assert told_else.recomputed == 8
    # The last token of an answer has no cache yet.
    assert told_so.dense == len(LEADS[1]) + 1 + len("\nsolver:")
    assert told_else.dense == len(LEADS[2]) + len("\nplanner: Hm.") + 1 + len("\nsolver:")


@pytest.mark.parametrize("agent", [2, 3])
def test_of_equal_answers_the_one_behind_the_same_words_serves(agent: int):
    words, shelf = tuple(range(100, 120)), Shelf()
    for named in (2, 3):
        shelf.add(Base((1, named, 4, *words), torch.zeros(1, 2, 1, 23, 4), cue=3))
    (found,) = shelf.find((9, 1, agent, 4, *words), 4, 24, now=1, low=0)
    assert (found.base.ids[1], found.begin, found.at, found.size) == (agent, 0, 1, 23)


def test_the_whole_cache_is_there_when_a_memory_is_asked_for(tiny: Tiny):
    model, needs = tiny("gemma"), frozenset({CACHE})
    reader = AnchorPool("exact").wrap(model)
    reader.read(prompt(LEADS[0]))
    read, dense = (r.read(prompt(LEADS[0]), needs=needs) for r in (reader, model))
    assert read.cached is not None
    assert dense.cached is not None
    assert torch.equal(read.cached.mask, dense.cached.mask)
    for pair in zip(read.cached.kv, dense.cached.kv, strict=True):
        for a, b in zip(*pair, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert farthest(read.context, dense.context) < NEAR


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_rows_of_a_batch_are_served_as_they_are_alone(tiny: Tiny, kind: str):
    model = tiny(kind)
    questions = (QUESTION, OTHER[:20], OTHER, "Hm?")
    batch, alone = (AnchorPool("shifted") for _ in range(2))
    for pool in (batch, alone):
        reader = pool.wrap(model)
        reader.read(rows(QUESTION))
        reader.read(rows(OTHER, lead=LEADS[1]))
    read = batch.wrap(model).read(rows(*questions, lead=LEADS[2]))
    singles = [alone.wrap(model).read(rows(q, lead=LEADS[2])) for q in questions]
    for b, single in enumerate(singles):
        n = int(single.context.mask.sum()) - 1
        assert torch.equal(
            read.context.mask[b].nonzero()[-1], torch.tensor([len(read.context.mask[b]) - 1])
        )
        if single.served[0].exact == read.served[b].exact:  # what stood before may differ
            for (k, _), (a, _) in zip(read.context.kv, single.context.kv, strict=True):
                torch.testing.assert_close(k[b, :, -n:], a[0], rtol=1e-3, atol=1e-4)
    assert read.served[0].shifted
    assert read.served[2].shifted


# -- moved -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_moved_texts_stand_as_if_they_had_been_read_there(tiny: Tiny, kind: str):
    """Layer 0 sees no context, so there the moved keys and values are exactly those of a read."""
    model = tiny(kind)
    reader = AnchorPool("shifted").wrap(model)
    reader.read(prompt(LEADS[0]))
    read, dense = (r.read(prompt(LEADS[2])) for r in (reader, model))
    assert read.served[0].shifted > 100
    assert read.served[0].recomputed == 8  # four at the head of each
    for a, b in zip(read.context.kv[0], dense.context.kv[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert farthest(read.context, dense.context) > 1e-2  # and above it does


@pytest.mark.parametrize("name", TURNING)
def test_keys_of_every_rotary_kind_are_moved_right(name: str):
    """YaRN scaling, partly turned heads and windows: layer 0 shows that each is minded."""
    model = made(TURNING[name](), name)
    reader = AnchorPool("shifted").wrap(model)
    reader.read(prompt(LEADS[0]))
    read, dense = (r.read(prompt(LEADS[2])).context for r in (reader, model))
    for a, b in zip(read.kv[0], dense.kv[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    exact, plain = (r.read(prompt(LEADS[2], tail=" Then:")).context for r in (reader, model))
    assert torch.equal(exact.mask, plain.mask)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_recomputing_all_that_was_moved_is_a_dense_read(tiny: Tiny, kind: str):
    model = tiny(kind)
    reader = AnchorPool(Ladder(offsets="none", share=1.0)).wrap(model)
    reader.read(prompt(LEADS[0]))
    read, dense = (r.read(prompt(LEADS[2])) for r in (reader, model))
    assert read.served[0].shifted == 0
    assert read.served[0].recomputed > 100
    assert farthest(read.context, dense.context) < NEAR


def test_what_is_recomputed_is_nearer_to_a_dense_read(tiny: Tiny):
    model, far = tiny("llama"), list[float]()
    for share in (0.0, 0.3, 0.9):
        reader = AnchorPool(Ladder(offsets="none", share=share)).wrap(model)
        reader.read(prompt(LEADS[0]))
        read, dense = (r.read(prompt(LEADS[2])).context for r in (reader, model))
        differ = [
            (a - b).norm()
            for x in zip(read.kv, dense.kv, strict=True)
            for a, b in zip(*x, strict=True)
        ]
        far.append(float(torch.stack(differ).sum()))
    assert far[0] > far[1] > far[2]


def test_offsets_learned_from_one_dense_read_bring_the_next_nearer(tiny: Tiny):
    model = tiny_backbone("llama", seed=3)
    for parameter in model.model.parameters():
        parameter.data *= 0.5  # a milder model: context shifts its keys instead of scrambling them
    questions = [f"{QUESTION} Ask number {n}: {OTHER}" for n in range(4)]
    far: dict[str, float] = {}
    for name in ("shifted", "anchored"):
        reader, total = AnchorPool(name).wrap(model), 0.0
        for n, question in enumerate(questions):
            reader.read(prompt(LEADS[0], question))
            read, dense = (r.read(prompt(LEADS[2], question)) for r in (reader, model))
            if n:
                assert getattr(read.served[0], name) > 100
                total += farthest(read.context, dense.context)
        far[name] = total
    assert far["anchored"] < far["shifted"]


def test_the_first_read_of_a_consumer_is_dense_and_says_why(tiny: Tiny):
    reader = AnchorPool("anchored").wrap(tiny("llama"))
    reader.read(prompt(LEADS[0]))
    first, second = reader.read(prompt(LEADS[2])), reader.read(prompt(LEADS[2], OTHER))
    assert first.served[0].anchored == 0
    assert "learn" in first.served[0].reason
    assert second.served[0].anchored == len(ANSWER) - 4  # the other question is new


def test_a_published_pool_moves_all_or_nothing(tiny: Tiny):
    reader = AnchorPool(replace(LADDERS["kvcomm"], entropy=1.0)).wrap(tiny("llama"))
    seen: list[tuple[int, ...]] = []
    for n in range(4):
        question = f"{str(n) * 6} {QUESTION}"
        reader.read(prompt(LEADS[0], question))
        seen.append(sources(reader.read(prompt(LEADS[2], question)))[0])
    assert [anchored for _, _, anchored, _, _ in seen[:2]] == [0, 0]
    assert seen[3][2] > 100
    assert seen[3][4] == 1  # the last token


# -- right everywhere ------------------------------------------------------------------------------


@torch.no_grad()
def test_a_role_that_reads_exactly_gets_nothing_moved(tiny: Tiny):
    model = tiny("llama")
    pool = AnchorPool("shifted")
    reader = pool.wrap(model)
    reader.read(prompt(LEADS[0]))
    read = reader.read(replace(prompt(LEADS[2]), reuse="exact"))
    assert read.served[0].shifted == 0
    assert read.served[0].reason == "the role reads exactly"
    assert farthest(read.context, model.read(prompt(LEADS[2])).context) == 0


@pytest.mark.parametrize("kind", ["gpt2"])
def test_keys_that_cannot_be_moved_are_reused_at_their_place_only(tiny: Tiny, kind: str):
    model = tiny(kind)
    reader = AnchorPool("shifted").wrap(model)
    reader.read(prompt(LEADS[0]))
    moved, same = reader.read(prompt(LEADS[2])), reader.read(prompt(LEADS[0], tail=" Then:"))
    assert moved.served[0].reason == "the model's keys cannot be moved"
    assert same.served[0].exact > 100
    assert farthest(moved.context, model.read(prompt(LEADS[2])).context) < NEAR


@pytest.mark.parametrize("name", ["bloom", "longrope"])
def test_models_that_do_not_read_into_a_filled_cache_read_densely(name: str):
    model = made(FIXED[name](), name)
    reader = AnchorPool("exact").wrap(model)
    reads = [reader.read(prompt(LEADS[0])) for _ in range(2)]
    assert [read.served[0].reused for read in reads] == [0, 0]
    assert reads[1].served[0].reason == "the model does not read into a filled cache"


def test_attention_that_cannot_be_seen_is_refused(tiny: Tiny):
    model = tiny_backbone("llama")
    model.model.set_attn_implementation("eager")
    with pytest.raises(IncompatibleModels, match="attn_implementation='sdpa'"):
        AnchorPool(Ladder(share=0.1)).wrap(model)
    AnchorPool("anchored").wrap(model)


@torch.no_grad()
def test_what_cannot_be_reused_is_read_densely_with_the_reason(tiny: Tiny):
    model = tiny("llama")
    reader = AnchorPool("shifted").wrap(model)
    vectors = Vectors(torch.zeros(1, 2, 32), torch.ones(1, 2, dtype=torch.bool))
    memory = model.read(rows(QUESTION), needs=frozenset({CACHE})).cached
    assert memory is not None
    hidden = frozenset({Need("hidden", 2)})
    for given, needs, reason in (
        (Prompt((vectors, *rows(OTHER).segments)), frozenset({CACHE}), "vectors"),
        (Prompt((memory, *rows(OTHER).segments)), frozenset({CACHE}), "another's cache"),
        (rows(OTHER), hidden, "hidden states"),
    ):
        read = reader.read(given, needs=needs)
        assert reason in read.served[0].reason
        assert read.served[0].dense == read.tokens[0]
        dense = model.read(given, needs=needs)
        if read.found:
            assert farthest(read.context, dense.context) == 0


def test_equal_texts_of_different_owners_are_kept_apart(tiny: Tiny):
    pool, model = AnchorPool("shifted"), tiny("llama")
    pool.wrap(model, owner="ann").read(prompt(LEADS[0]))
    bob = pool.wrap(model, owner="bob").read(prompt(LEADS[0]))
    ann = pool.wrap(model, owner="ann").read(prompt(LEADS[0]))
    assert bob.served[0].reused == 0
    assert ann.served[0].reused > 100


def test_weights_and_precision_keep_their_own(tiny: Tiny):
    pool = AnchorPool("exact")
    pool.wrap(tiny("llama")).read(prompt(LEADS[0]))
    assert pool.wrap(tiny("llama", seed=1)).read(prompt(LEADS[0])).served[0].reused == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool.wrap(tiny("llama")).read(prompt(LEADS[0])).served[0].reused == 0
    assert pool.wrap(tiny_backbone("llama")).read(prompt(LEADS[0])).served[0].reused > 100


# -- agents ----------------------------------------------------------------------------------------

WRITES = Settings(max_tokens=24)


def team(model: Model, **role: Any) -> Pipeline:
    def agent(name: str, template: str, **more: Any) -> Agent:
        made = Role(instructions=f"You are {name}. ", template=template, chat=False, **more)
        return Agent(name, model, role=made, settings=WRITES)

    agents = [
        agent("planner", "{question} Plan:"),
        agent("critic", "{question}\n{messages} Critique:"),
        agent("solver", "{question}\n{messages} Answer:", **role),
    ]
    words = TextChannel()
    edges = [
        Edge("planner", "critic", words),
        Edge("planner", "solver", words),
        Edge("critic", "solver", words),
    ]
    return Pipeline(agents, edges)


def test_agents_know_nothing_of_the_pool(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool("exact")
    plain, pooled = team(model), team(pool.wrap(model))
    for question in (QUESTION, OTHER, QUESTION):
        assert pooled.run(question).answer == plain.run(question).answer
    assert pool.state().tokens["exact"] > 200
    pool.check()


def test_answers_are_reused_from_their_decode_cache(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool("shifted")
    pipeline = team(pool.wrap(model))
    run = pipeline.run(QUESTION)
    assert len(run.turns[0].text or "") > 20
    tokens = pool.state().tokens
    # Read by the planner, moved for the critic and the solver; the planner's answer for both too.
    assert tokens["shifted"] > 2 * (len(QUESTION) - 4)
    assert tokens["shifted"] > 2 * len(QUESTION)
    assert run.usage.read < sum(turn.usage.read for turn in team(model).run(QUESTION).turns)


@pytest.mark.parametrize("chat", [True, False])
def test_agents_that_begin_with_the_item_share_it_exactly(tiny: Tiny, chat: bool):
    model, pool = tiny("llama"), AnchorPool("exact")

    def reads(lead: str, first: Any) -> tuple[Read, Read]:
        role = Role(instructions=lead, template="{question} ", chat=chat, first=first)
        fields = {"question": (QUESTION,)}
        agent = Agent("one", model, role=role)
        return replace(agent, model=pool.wrap(model)).read(fields), agent.read(fields)

    for first, shared in (("instructions", False), ("item", True)):
        reads(f"Plan with {first} first.", first)
        read, dense = reads(f"Judge with {first} first.", first)
        assert (read.served[0].exact > len(QUESTION)) == shared
        assert farthest(read.context, dense.context) < NEAR
        assert f"Judge with {first} first." in read.context.spelling.words[0]


def test_a_handed_over_cache_is_the_whole_of_what_was_read(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool("exact")

    def pair(model: Model) -> Pipeline:
        role = Role(instructions="Read. ", template="{question}", chat=False)
        after = Role(template="{question} So:", chat=False)
        agents = [
            Agent("one", model, role=role, settings=WRITES),
            Agent("two", model, role=after, settings=WRITES),
        ]
        return Pipeline(agents, [Edge("one", "two", Handoff())])

    reader = pool.wrap(model)
    for _ in range(2):
        assert pair(reader).run(QUESTION).answer == pair(model).run(QUESTION).answer


def test_many_threads_share_one_pool(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool("exact", budget=400_000)
    plain, pooled = team(model), team(pool.wrap(model))
    questions = [f"{n}. {QUESTION}" for n in range(3)] * 3
    with ThreadPoolExecutor(4) as threads:
        answers = [run.answer for run in threads.map(pooled.run, questions)]
    assert answers == [plain.run(question).answer for question in questions]
    pool.check()


# -- the bound and the budget ----------------------------------------------------------------------


@torch.no_grad()
def test_a_probe_measures_and_serves_the_dense_read(tiny: Tiny):
    model = tiny("llama")
    pool = AnchorPool("shifted", probe=1.0, tolerance=1e9)
    reader = pool.wrap(model)
    reader.read(prompt(LEADS[0]))
    judge = replace(prompt(LEADS[2]), candidates=("yes", "no", "perhaps"))
    read = reader.read(judge)
    assert farthest(read.context, model.read(judge).context) == 0
    assert read.served[0].reason == "its read was probed"
    (probe,) = pool.prober.seen
    assert len(probe.keys) == len(probe.values) == 3
    assert max(probe.keys[0], probe.values[0]) < NEAR  # layer 0 knows no context
    assert min(probe.keys[1:] + probe.values[1:]) > 1e-3
    assert probe.kl > 0
    assert probe.candidate in (True, False)
    assert pool.state().probes["kl"] == probe.kl


def test_out_of_tolerance_a_consumer_reads_densely_from_then_on(tiny: Tiny):
    model = tiny("llama")
    pool = AnchorPool("shifted", probe=1.0, tolerance=1e-9)
    reader = pool.wrap(model)
    reader.read(prompt(LEADS[0]))
    reader.read(prompt(LEADS[2]))
    after = reader.read(prompt(LEADS[2], OTHER))
    assert after.served[0].shifted == 0
    assert "KL" in after.served[0].reason
    assert len(pool.prober.seen) == 1
    assert pool.state().fallen == 1
    other = reader.read(prompt(LEADS[1]))  # another consumer is probed for itself
    assert other.served[0].reason == "its read was probed"


@pytest.mark.parametrize("ladder", LADDERS)
def test_the_budget_is_kept_and_the_oldest_goes_first(tiny: Tiny, ladder: str):
    pool = AnchorPool(ladder, budget=150_000)
    reader = pool.wrap(tiny("llama"))
    for n in range(6):
        for lead in LEADS:
            reader.read(prompt(lead, f"{n}{n}{n} {QUESTION}"))
            pool.check()
            assert pool.nbytes <= 150_000
    state = pool.state()
    assert sum(state.dropped.values()) > 0
    assert sum(state.bytes.values()) == pool.nbytes
    newest = reader.read(prompt(LEADS[2], f"555 {QUESTION}")).served[0]
    assert newest.reused > 10


def test_without_a_budget_nothing_is_kept(tiny: Tiny):
    reader = AnchorPool("shifted", budget=0).wrap(tiny("llama"))
    reads = [reader.read(prompt(LEADS[0])) for _ in range(2)]
    assert [read.served[0].reused for read in reads] == [0, 0]


@pytest.mark.parametrize("ladder", LADDERS)
def test_a_saved_pool_serves_as_before(tiny: Tiny, ladder: str, tmp_path: Path):
    model, pool, again = tiny("llama"), AnchorPool(ladder), AnchorPool(ladder)
    for n in range(4):
        for lead in LEADS:
            pool.wrap(model).read(prompt(lead, f"{str(n) * 6} {QUESTION}"))
    pool.save(tmp_path / "pool")
    again.load(tmp_path / "pool")
    again.check()
    assert again.nbytes == pool.nbytes
    for lead in LEADS:
        asked = prompt(lead, f"000000 {QUESTION}", tail=" In one word:")
        one, other = (p.wrap(model).read(asked) for p in (pool, again))
        assert one.served == other.served
        assert one.served[0].reused > 0
        assert farthest(one.context, other.context) == 0


def test_a_pool_that_cannot_be_loaded_says_so(tiny: Tiny, tmp_path: Path):
    pool = AnchorPool("exact")
    with pytest.raises(StorageError, match=r"pool\.safetensors is missing; read the texts again"):
        pool.load(tmp_path)
    pool.save(tmp_path / "pool")
    with pytest.raises(StorageError, match="same ladder"):
        AnchorPool("shifted").load(tmp_path / "pool")
    (tmp_path / "pool" / "pool.safetensors").rename(tmp_path / "pool" / "pool.json")
    with pytest.raises(StorageError, match=r"cannot load a pool .* version 0\.1"):
        pool.load(tmp_path / "pool")


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
CHANGES: dict[str, Change] = {
    "fewer layers in one": lambda _, t: t.update({"0.exact.0.kv": t["0.exact.0.kv"][1:]}),
    "fewer positions": lambda _, t: t.update({"0.bases.0": t["0.bases.0"][:, :, :, 1:]}),
    "no number": lambda _, t: t["0.bases.0"].fill_(torch.nan),
    "no tokens": lambda _, t: t.update({"0.exact.0.ids": t["0.exact.0.ids"][:0]}),
    "a missing tensor": lambda _, t: t.pop("0.exact.1.kv"),
    "a surplus tensor": lambda _, t: t.update({"1.exact.0.kv": t["0.exact.0.kv"]}),
    "an unknown key": lambda c, _: c["stores"][0].update(more=1),
    "a parent that follows": lambda c, _: c["stores"][0]["exact"][0].__setitem__(0, 1),
    "no realm": lambda c, _: c["stores"][0].update(realm=["w"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_pool_whose_parts_do_not_fit_is_refused_whole(tiny: Tiny, name: str, tmp_path: Path):
    pool = AnchorPool("anchored")
    for lead in LEADS:
        pool.wrap(tiny("llama")).read(prompt(lead))
    pool.save(tmp_path)
    found = kept.load(tmp_path / FILE, "pool")
    tensors = {key: tensor.clone() for key, tensor in found.tensors.items()}
    CHANGES[name](found.content, tensors)
    kept.save(tmp_path / FILE, "pool", found.content, tensors)
    fresh = AnchorPool("anchored")
    with pytest.raises(Damaged, match=r"pool\.safetensors .*; read the texts again"):
        fresh.load(tmp_path)
    assert fresh.nbytes == 0


def test_caches_with_other_layers_than_their_model_are_refused(tiny: Tiny, tmp_path: Path):
    pool, fresh = AnchorPool("exact"), AnchorPool("exact")
    pool.wrap(tiny("llama")).read(prompt(LEADS[0]))
    pool.save(tmp_path)
    found = kept.load(tmp_path / FILE, "pool")
    less = {key: one[1:] if key.endswith("kv") else one for key, one in found.tensors.items()}
    kept.save(tmp_path / FILE, "pool", found.content, less)
    fresh.load(tmp_path)
    with pytest.raises(Damaged, match="layers, sides, heads and widths"):
        fresh.wrap(tiny("llama")).read(prompt(LEADS[0]))


def test_a_pool_of_a_gpu_is_refused_where_there_is_none(tiny: Tiny, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    pool = AnchorPool("exact")
    pool.wrap(tiny("llama")).read(prompt(LEADS[0]))
    pool.save(tmp_path)
    found = kept.load(tmp_path / FILE, "pool")
    found.content["stores"][0]["realm"][3] = "cuda"
    kept.save(tmp_path / FILE, "pool", found.content, found.tensors)
    with pytest.raises(StorageError, match="device 'cuda', and this machine has none"):
        AnchorPool("exact").load(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: AnchorPool("anchord"), "anchored"),
        (lambda: AnchorPool(budget=-1), "bytes"),
        (lambda: AnchorPool(probe=2.0), "probe"),
        (lambda: Ladder(share=1.5), "0 to 1"),
        (lambda: Ladder(size=1), "anchors"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: Callable[[], Any], words: str):
    with pytest.raises((ValueError, UnknownName), match=words):
        given()
