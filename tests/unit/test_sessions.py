"""Conversations beside plain transformers, which read the whole of each one again."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unspoken import kept
from unspoken.agents import Agent, Role
from unspoken.agents.memoized import MemoizedAgent
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, TextChannel
from unspoken.errors import (
    ContextTooLong,
    Damaged,
    EmptyPrompt,
    PipelineError,
    SessionError,
    TemplateError,
    UnknownName,
)
from unspoken.events import RunEnded, TurnStarted, WordsLeftOut, WordsWritten
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.sessions import Past, Session, Stays
from unspoken.testing import ScriptedModel, tiny_backbone, tiny_diffusion
from unspoken.types import Settings, Usage

QUESTIONS = ("who was it?", "and what did they keep?", "where?", "who was it?", "why\nnot?")
NO_THOUGHTS = (
    "{% for m in messages %}<turn>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] }}\n{% endfor %}<turn>assistant\n<think>\n\n</think>\n\n"
)
DATED = "<turn>today is {{ strftime_now('%Y-%m-%d') }}\n" + NO_THOUGHTS


def letters(kind: str = "llama", template: str = "", **shape: Any) -> Backbone:
    """A tiny model that writes letters, so that its words encode to the tokens that it wrote."""
    model = tiny_backbone(kind, **shape)
    known = [model.tokens(letter)[0] for letter in ascii_lowercase]
    head = model.model.get_output_embeddings()
    rows = head.weight.detach().clone()
    head.weight = torch.nn.Parameter(torch.zeros_like(rows), requires_grad=False)
    with torch.no_grad():
        head.weight[known] = rows[known]
    model.model.config.max_position_embeddings = 4096
    if template:
        model.tokenizer.chat_template = template
    return model


def alone(model: Any, **settings: Any) -> Pipeline:
    role = Role("Answer.")
    return Pipeline(
        [Agent("one", model, role=role, settings=Settings(**{"max_tokens": 9, **settings}))]
    )


def dense(model: Backbone, turns: list[tuple[str, str]], question: str) -> tuple[int, str]:
    """The tokens of a whole conversation and its next answer, by transformers alone."""
    messages = [{"role": "system", "content": "Answer."}]
    for asked, said in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    messages.append({"role": "user", "content": question})
    tokenizer: Any = model.tokenizer
    if tokenizer.chat_template:
        words = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    else:
        words = "".join(f"{asked} {said}\n\n" for asked, said in turns) + question
        ids = (
            tokenizer("Answer.")["input_ids"]
            + tokenizer(words, add_special_tokens=False)["input_ids"]
        )
    given = torch.tensor([ids])
    made = model.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=9,
        do_sample=False,
        pad_token_id=0,
    )
    return len(ids), tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("kind", "template"),
    [("llama", ""), ("gemma", ""), ("qwen", ""), ("llama", NO_THOUGHTS), ("gemma", NO_THOUGHTS)],
)
def test_a_conversation_is_that_of_one_who_reads_all_of_it(kind: str, template: str) -> None:
    model = letters(kind, template)
    turns: list[tuple[str, str]] = []
    with alone(model).session() as talk:
        for question in QUESTIONS:
            run = talk.run(question)
            count, answer = dense(model, turns, question)
            assert run.answer == answer
            assert run.usage.read + run.usage.reused == count
            if turns:  # all but the new question and what is around it, and an empty thought
                assert run.usage.read < len(question) + (60 if template else 30)
            turns.append((question, answer))
        assert talk.turns == tuple(turns)
        again = talk.fork().run(QUESTIONS[0])
        repeated = talk.run(QUESTIONS[0])
        assert repeated.answer == again.answer == dense(model, turns, QUESTIONS[0])[1]
        assert repeated.usage.read == 1  # the last token, from which it goes on


def test_words_that_encode_otherwise_are_read_again() -> None:
    """A random model writes bytes that are no letters: reuse ends at the first that differs."""
    model = tiny_backbone()
    turns: list[tuple[str, str]] = []
    with alone(model).session() as talk:
        for question in QUESTIONS[:3]:
            run = talk.run(question)
            assert (run.usage.read + run.usage.reused, run.answer) == dense(model, turns, question)
            turns.append((question, run.answer))
    assert any("\ufffd" in said for _, said in turns)


def test_a_conversation_keeps_the_date_with_which_it_began() -> None:
    model = letters(template=DATED)
    pipeline = alone(model)
    with pipeline.session() as talk:
        talk.run("who?")
        talk._window = replace(talk._window, now=datetime(1999, 5, 6))  # pyright: ignore
        assert talk.fork().run("and?").usage.reused == len("<turn>today is ") - len("turn>")
        assert "1999-05-06" in model.chat("", "?", now=datetime(1999, 5, 6))
        assert f"{datetime.now():%Y-}" in model.chat("", "?")


def team(model: Any, channel: Channel | None = None, rounds: int = 1) -> Pipeline:
    agents = [Agent(n, model, settings=Settings(7)) for n in ("planner", "judge")]
    return Pipeline(agents, [Edge("planner", "judge", channel or TextChannel())], rounds=rounds)


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_agent_goes_on_from_what_it_read_and_wrote(rounds: int) -> None:
    """Without caches a script tells what the judge reads."""
    heard: list[str] = []

    def judge(words: str) -> str:
        heard.append(words)
        return f" no {len(heard)} "

    script = ScriptedModel(judge)
    agents = [
        Agent("planner", ScriptedModel(lambda words: f"p{len(words)}")),
        Agent("judge", script),
    ]
    pipeline = Pipeline(agents, [Edge("planner", "judge", TextChannel())], rounds=rounds)
    plain = pipeline.run("who?")
    heard.clear()
    with pipeline.session() as talk:
        first = talk.run("who?")
        assert [turn.text for turn in first.turns] == [turn.text for turn in plain.turns]
        talk.run("why?")
        assert [one.words for one in talk.past("judge")] == ["no 1", "no 2"]
        assert len(talk.past("planner")) == 2 * rounds
        *_, first_prompt, second_prompt = heard
        assert second_prompt.startswith(f"{first_prompt} no 1\n\n")


def test_messages_of_earlier_turns_are_read_again_as_they_were() -> None:
    """With vectors there is no cache, and with words there is. Both answer as without one."""
    model = letters()
    torch.manual_seed(0)
    projector = EmbeddingProjector(
        source_width=32, target_width=32, source_weights=model.fingerprint
    )
    for channel in (TextChannel(), Embedding(projector)):
        with team(model, channel).session() as talk:
            for question in QUESTIONS[:3]:
                before = talk.fork()
                assert talk.run(question).answer == before.run(question).answer
            (first, *_) = talk.past("judge")
            assert first.received[0][1].header.sender == "planner"
            cold = Session(
                talk._team,
                talk._listening,
                type(talk._caches)(AnchorPool("exact")),  # pyright: ignore
                talk._window,
                talk._past,
                talk._turns,  # pyright: ignore
            )
            assert cold.run("and then?").answer == talk.run("and then?").answer


# -- forks, files, threads -------------------------------------------------------------------------


def test_sessions_of_one_owner_share_caches_and_no_words() -> None:
    model, pool = letters(), AnchorPool("exact")
    pipeline = alone(model)
    with pipeline.session(pool=pool, owner="ada") as talk:
        first = talk.run("Who keeps the key?")
    assert first.usage.reused == 0
    held = pool.nbytes
    assert held > 0  # the owner may come again
    with pipeline.session(pool=pool, owner="bob") as talk:
        assert talk.run("Who keeps the key?").usage.reused == 0
    with pipeline.session(pool=pool, owner="ada") as talk:
        again = talk.run("Who keeps the cat?")
        assert again.usage.reused >= len("Who keeps the ")
        assert (again.usage.read + again.usage.reused, again.answer) == dense(
            model, [], "Who keeps the cat?"
        )
    pool.forget("bob")
    assert pool.nbytes > held


def test_forks_share_caches_and_no_words() -> None:
    model = letters()
    pool = AnchorPool("exact")
    with alone(model).session(pool=pool) as talk:
        talk.run("who was it?")
        held = pool.nbytes
        fork = talk.fork()
        assert pool.nbytes == held
        secret = fork.run("a secret")
        assert secret.usage.reused > 0
        assert "secret" not in str(talk.turns)
        assert talk.run("why?").answer == dense(model, list(talk.turns[:1]), "why?")[1]
        assert fork.run("why?").answer == dense(model, list(fork.turns[:2]), "why?")[1]
    assert pool.nbytes > 0  # the fork goes on
    assert fork.run("more?").usage.reused > 0
    fork.close()
    del fork, talk
    gc.collect()
    assert pool.nbytes == 0


@pytest.mark.parametrize("channel", ["text", "embedding"])
def test_a_saved_session_goes_on_elsewhere(channel: str, tmp_path: Path) -> None:
    model = letters(template=DATED)
    projector = EmbeddingProjector(source_width=32, target_width=32)
    pipeline = team(model, TextChannel() if channel == "text" else Embedding(projector))
    with pipeline.session() as talk:
        talk.run({"question": "who?", "context": "x"})
        talk.run("why?")
        talk.save(tmp_path / "talk")
        loaded = pipeline.load_session(tmp_path / "talk")
        assert loaded.turns == talk.turns
        here, there = talk.run("and?"), loaded.run("and?")
        assert [turn.text for turn in here.turns] == [turn.text for turn in there.turns]
        assert here.usage.reused > there.usage.reused or channel == "embedding"
        loaded.save(tmp_path / "again")
        assert pipeline.load_session(tmp_path / "again").turns == talk.turns


def test_a_session_of_others_is_refused(tmp_path: Path) -> None:
    pipeline = alone(letters())
    with pipeline.session() as talk:
        talk.run("who?")
        talk.save(tmp_path / "talk")
    for other in (alone(letters(seed=1)), alone(letters("qwen")), team(letters())):
        with pytest.raises(SessionError, match=r"with the (pipeline that saved|same model)"):
            other.load_session(tmp_path / "talk")
    found = kept.load(tmp_path / "talk", "session")
    for broken in ({**found.content, "began": 1.5j.imag}, {**found.content, "more": 1}, {}):
        content = dict(broken)
        content.pop("began", None)
        kept.save(tmp_path / "odd", "session", content, found.tensors)
        with pytest.raises(Damaged, match="begin a new session"):
            pipeline.load_session(tmp_path / "odd")
    (tmp_path / "cut").write_bytes((tmp_path / "talk").read_bytes()[:-9])
    with pytest.raises(Damaged):
        pipeline.load_session(tmp_path / "cut")
    assert pipeline.load_session(tmp_path / "talk").run("and?").answer


def test_many_sessions_run_at_once_and_none_knows_another() -> None:
    """200 conversations with a secret each, and room for the caches of five."""
    model = letters()
    pipeline = alone(model)
    budget = 5 * 80 * 2 * 3 * 2 * 16 * 4  # of some 80 tokens each
    room = AnchorPool("exact", budget=budget)
    talks = [pipeline.session(pool=room) for _ in range(200)]

    def speak(n: int) -> list[Usage]:
        return [talks[n].run(f"{word} {n}").usage for word in ("secret", "so")]

    with ThreadPoolExecutor(8) as threads:
        usages = list(threads.map(speak, range(200)))
    assert all(first.reused == 0 for first, _ in usages)  # nobody's beginning serves another
    assert any(second.reused for _, second in usages)
    for n, (talk, (_, second)) in enumerate(zip(talks, usages, strict=True)):
        (first, (asked, said)) = talk.turns
        count, answer = dense(model, [(str(first[0]), first[1])], str(asked))
        assert (said, second.read + second.reused) == (answer, count)
        assert (first[0], asked) == (f"secret {n}", f"so {n}")
    room.check()
    assert room.nbytes <= budget


def test_what_is_set_aside_is_read_again_and_of_the_rest_the_beginning_stays() -> None:
    model = letters()
    pipeline = alone(model)
    one = 2 * 3 * 2 * 16 * 4  # bytes of a token
    for budget in (0, 300 * one, 1 << 20):
        pool = AnchorPool("exact", budget=budget)
        with pipeline.session(pool=pool) as talk:
            talk.run("x" * 600)
            run = talk.run("why?")
            assert run.answer == dense(model, [("x" * 600, talk.turns[0][1])], "why?")[1]
            assert (run.usage.reused > 0) == (budget > 0)
            assert run.usage.reused <= budget // one
            pool.check()


def test_history_that_others_keep() -> None:
    model = letters()
    pipeline = alone(model)
    with pipeline.session() as talk:
        talk.run("who?")
        talk.run("why?")
        told = list(talk.turns)
        next_ = talk.run("and?").answer
    with pipeline.session(history=told) as other:
        assert other.run("and?").answer == next_
    edited = [("who?", "nobody"), told[1]]
    with pipeline.session(history=edited) as other:
        assert other.run("and?").answer == dense(model, edited, "and?")[1]
    with pytest.raises(EmptyPrompt):
        pipeline.session(history=[("", "x")])


# -- what ends or fails ----------------------------------------------------------------------------


def test_a_run_that_is_cancelled_or_fails_leaves_the_session_as_it_was() -> None:
    model = letters()
    with (
        alone(model, max_tokens=60).session() as talk,
        alone(model, max_tokens=60).session() as same,
    ):
        talk.run("who?")
        same.run("who?")
        for _ in range(3):
            stream = talk.stream("a long one")
            for event in stream:
                if isinstance(event, WordsWritten):
                    stream.close()
            assert stream.run is not None
            assert stream.run.finish == "cancelled"
        with pytest.raises(EmptyPrompt):
            talk.run(" ")
        with pytest.raises(UnknownName):
            talk.stream({"what": "?"})
        assert talk.turns == same.turns
        assert talk.run("why?").answer == same.run("why?").answer


def test_a_busy_session_refuses_and_a_fork_goes_on() -> None:
    with alone(letters()).session() as talk:
        stream = talk.stream("who?")
        next(stream)
        with pytest.raises(SessionError, match="in the middle of a run"):
            talk.run("why?")
        assert talk.fork().run("why?").answer
        for event in stream:
            if isinstance(event, RunEnded):
                assert talk.run("why?").answer  # it is ready once the end is told
    with pytest.raises(SessionError, match="was closed"):
        talk.run("more?")
    with pytest.raises(SessionError, match="was closed"):
        talk.fork()


def test_asyncio_speaks_too() -> None:
    model = letters()

    async def speak() -> list[str]:
        with alone(model).session() as talk:
            first = await talk.arun("who?")
            words = [e.words async for e in talk.astream("why?") if isinstance(e, WordsWritten)]
            return [first.answer, "".join(words).strip()]

    first, second = asyncio.run(speak())
    assert second == dense(model, [("who?", first)], "why?")[1]


@pytest.mark.parametrize("channel", [Handoff(), "fusion"])
def test_what_has_no_place_in_a_conversation_is_refused(channel: Any) -> None:
    class Fusing(TextChannel):
        def fuse(self, message: Any, context: Any) -> Any:
            return context

    pipeline = team(tiny_backbone(), Fusing() if channel == "fusion" else channel)
    with pytest.raises(PipelineError, match="has no place in a conversation"):
        pipeline.session()


def test_a_template_without_earlier_turns_is_refused() -> None:
    model = letters(template="<turn>{{ messages[-1].content }}\n")
    with pytest.raises(TemplateError):
        Pipeline([Agent("one", model)]).session()


@pytest.mark.parametrize("given", [{"keep": "resent"}, {"window": 0}, {"keep": 3}, {"pool": 3}])
def test_what_no_session_can_be_made_of(given: dict[str, Any]) -> None:
    with pytest.raises((UnknownName, PipelineError)):
        alone(tiny_backbone()).session(**given)


def test_models_without_a_cache_hold_conversations_too() -> None:
    model = tiny_diffusion()
    with Pipeline([Agent("one", model, settings=Settings(4))]).session() as talk:
        assert talk.run("who?").turns[0].text
        second = talk.run("why?")
        assert second.usage.reused == 0
        assert second.usage.read > 30


# -- a full window ---------------------------------------------------------------------------------


def test_a_full_window_is_an_error_before_any_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = letters()
    pipeline = team(model)
    with pipeline.session(window=150) as talk:
        talk.run("who was it?")
        monkeypatch.setattr(type(model), "pass_over", None)
        monkeypatch.setattr(type(model), "fill", None)
        with pytest.raises(ContextTooLong, match="keep='recent'"):
            talk.run("why? " * 20)
        assert len(talk.turns) == 1
        monkeypatch.undo()
        assert talk.run("why?").answer


def test_the_oldest_are_left_out_in_blocks_and_the_run_says_so() -> None:
    """Over 40 turns of which some 6 have room, most of each prompt is reused all the same."""
    model = letters()
    reused, read, told = 0, 0, list[int]()
    turns: list[tuple[str, str]] = []
    with alone(model).session(window=400, keep="recent") as talk:
        for n in range(40):
            events = list(talk.stream(f"what of number {n}?"))
            left = [event.left_out for event in events if isinstance(event, WordsLeftOut)]
            (end,) = (event for event in events if isinstance(event, RunEnded))
            assert isinstance(events[0], TurnStarted)
            assert list(end.run.left_out) == left
            told.append(left[0].exchanges if left else 0)
            count, answer = dense(model, turns[told[-1] :], f"what of number {n}?")
            assert (end.run.usage.read + end.run.usage.reused, end.run.answer) == (count, answer)
            assert count + 9 <= 400
            turns.append((f"what of number {n}?", answer))
            reused, read = reused + end.run.usage.reused, read + end.run.usage.read
        assert len(talk.past("one")) == 40
    assert told == sorted(told)
    assert told[-1] > 30
    assert len(set(told)) < 15  # in blocks
    assert reused / (reused + read) > 0.6


def test_what_is_too_long_by_itself_is_refused_even_then() -> None:
    with alone(letters()).session(window=120, keep="recent") as talk:
        talk.run("who?")
        with pytest.raises(ContextTooLong, match="Shorten the question"):
            talk.run("x" * 200)
        assert talk.run("why?").answer


def test_another_way_to_keep_gets_the_words_and_gives_what_stays() -> None:
    seen: list[tuple[int, int]] = []

    def notes(past: Past, asked: str, size: Any, room: int) -> Stays:
        assert asked == "who was it then?"
        seen.append((len(past.exchanges), size(Stays(past.stays))))
        last = past.exchanges[-1]
        made = replace(last, fields={**last.fields, "question": ("notes",)}, words="of all")
        return Stays((made,))

    model = letters()
    with alone(model).session(window=200, keep=notes) as talk:
        while not seen:
            run = talk.run("who was it then?")
    assert seen[-1][1] + 9 > 200
    assert run.answer == dense(model, [("notes", "of all")], "who was it then?")[1]
    assert run.left_out[0].exchanges == seen[-1][0]


def test_an_agent_that_works_in_its_own_way_holds_no_session() -> None:
    """It would silently forget what was said."""
    agent = MemoizedAgent("one", letters())
    with pytest.raises(PipelineError, match="a MemoizedAgent, which works in a way of its own"):
        Pipeline([agent]).session()


def test_agents_elsewhere_hold_no_session() -> None:
    pipeline = alone(letters())
    pipeline._participants["one"] = SimpleNamespace(name="one")  # pyright: ignore
    with pytest.raises(PipelineError, match="runs in another process"):
        pipeline.session()
