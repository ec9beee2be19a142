"""Conversations are found again, and whether they are changes no answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import long_model, pair, solver
from unspoken.pipeline import Pipeline
from unspoken.testing import tiny_backbone

Turn = tuple[str, Any]
SYSTEM = ("system", "You keep the keys of a house with nine rooms, and you answer briefly.")
ASKED = ["Where is the key of the attic?", "And who has it now?", "When did she leave?"]


def talk(running: Running, asked: list[str] = ASKED, **more: Any) -> tuple[list[Turn], Any]:
    """A conversation as a client holds it, and its last answer."""
    turns: list[Turn] = [SYSTEM]
    found: Any = None
    for question in asked:
        turns.append(("user", question))
        found = running.chat(*turns, **more)
        turns.append(("assistant", found.choices[0].message.content))
    return turns, found


def gemma() -> Pipeline:
    model: Any = tiny_backbone("gemma")
    model.model.config.max_position_embeddings = 1 << 12
    return solver(model)


def cached(answer: Any) -> int:
    return answer.usage.prompt_tokens_details.cached_tokens


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same but for the time that they took."""
    return (
        one.choices[0].message.content == other.choices[0].message.content
        and one.choices[0].finish_reason == other.choices[0].finish_reason
        and one.usage.prompt_tokens == other.usage.prompt_tokens
        and one.usage.completion_tokens == other.usage.completion_tokens
    )


@pytest.mark.parametrize("make", [solver, pair, gemma])
@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_found_or_not_the_answer_is_the_same(
    serve: Serve, make: Callable[[], Pipeline], more: dict[str, Any]
) -> None:
    turns, known = talk(serve(make()), **more)
    fresh = serve(make()).chat(*turns[:-1], **more)
    assert same(known, fresh)
    # What comes before the newest question was read, but for the cue and the last words written.
    assert cached(known) > known.usage.prompt_tokens / 2
    assert cached(known) > cached(fresh)


def test_streamed_turns_are_found_too(serve: Serve) -> None:
    running = serve()
    first = running.pieces(SYSTEM, ("user", ASKED[0]))
    said = "".join(one.choices[0].delta.content or "" for one in first)
    rest = [SYSTEM, ("user", ASKED[0]), ("assistant", said), ("user", ASKED[1])]
    assert cached(running.chat(*rest)) > 100


@pytest.mark.parametrize("edit", ["answer", "question", "system", "undone"])
def test_an_edited_history_is_another_conversation(serve: Serve, edit: str) -> None:
    running = serve()
    turns, _ = talk(running)
    match edit:
        case "answer":
            turns[2] = ("assistant", "In the old oak chest, as always.")
        case "question":
            turns[3] = ("user", "And who lost it?")
        case "system":
            turns[0] = ("system", "You keep the keys of a house with nine doors.")
        case _:
            del turns[3:5]
    question = ("user", "Are you sure?")
    edited = running.chat(*turns, question)
    assert same(edited, serve().chat(*turns, question))


def test_system_words_are_shared_by_the_conversations_of_a_user(serve: Serve) -> None:
    running = serve()
    running.chat(SYSTEM, ("user", ASKED[0]))
    assert cached(running.chat(SYSTEM, ("user", "Something else?"))) >= len(SYSTEM[1])


def test_strangers_share_nothing(serve: Serve) -> None:
    ada, bob = "the-key-of-ada-long", "the-key-of-bob-long"
    running = serve(keys=[ada, bob])

    def ask(key: str) -> int:
        with running.client(api_key=key) as client:
            given: Any = body(SYSTEM, ("user", ASKED[0]))
            return cached(client.chat.completions.create(**given))

    assert ask(ada) == 0
    assert ask(ada) > 0
    assert ask(bob) == 0


def test_many_conversations_with_little_room_answer_as_alone(serve: Serve) -> None:
    """Each has a secret. There is room for the caches of a few."""
    model = long_model()
    plain = solver(model)
    token = 2 * model.spec.layers * model.spec.kv_heads * model.spec.head_dim * 4
    running = serve(plain, cache=300 * token)
    ask = [f"My secret is {n * n + 1000}. Keep it." for n in range(10)]
    with ThreadPoolExecutor(4) as users:
        firsts = list(users.map(lambda words: running.chat(("user", words)), ask))
        second = ("user", "What is my secret?")

        def again(n: int) -> Any:
            said = firsts[n].choices[0].message.content
            return running.chat(("user", ask[n]), ("assistant", said), second)

        seconds = list(users.map(again, range(10)))
    pool = running.service.pools["local"]
    pool.check()
    assert pool.state().dropped
    for n in range(10):
        said = firsts[n].choices[0].message.content
        assert said == plain.run(ask[n]).answer
        alone = plain.session(history=[(ask[n], said)]).run(second[1])
        assert seconds[n].choices[0].message.content == alone.answer
        assert seconds[n].usage.prompt_tokens == alone.usage.read + alone.usage.reused
        assert 0 <= cached(seconds[n]) < seconds[n].usage.prompt_tokens


def test_who_shares_the_batch_changes_no_answer(serve: Serve) -> None:
    running = serve(pair(tokens=16))
    plain = running.service.served["solver"].pipeline
    asked = [f"What does user {n} keep in the {n}th room?" for n in range(6)]
    with ThreadPoolExecutor(6) as users:
        found = list(users.map(lambda words: running.chat(("user", words)), asked))
    assert [one.choices[0].message.content for one in found] == [
        plain.run(words).answer for words in asked
    ]
