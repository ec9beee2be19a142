"""Conversations with the packaged models, beside plain transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unspoken import Agent, Backbone, Pipeline, Role, Settings
from unspoken.events import RunEnded, WordsWritten
from unspoken.sessions import Distilled
from unspoken.types import TEXT

pytestmark = pytest.mark.real

QUESTIONS = ("What is salt?", "Where does it come from? Řekni to krátce.", "What is salt?")


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_a_conversation_is_that_of_one_who_reads_all_of_it(name: str) -> None:
    """Gemma is a base model without a chat template: exchanges are one text with empty lines."""
    model = Backbone.from_pretrained(name, dtype="float32")
    role = Role("Answer briefly.\n", "Q: {question}\nA:", chat=model.spec.chats)
    pipeline = Pipeline([Agent("one", model, role=role, settings=Settings(max_tokens=16))])
    turns: list[tuple[str, str]] = []
    with pipeline.session() as talk:
        for question in QUESTIONS:
            events = list(talk.stream(question))
            words = "".join(event.words for event in events if isinstance(event, WordsWritten))
            (end,) = (event for event in events if isinstance(event, RunEnded))
            count, answer = dense(model, turns, f"Q: {question}\nA:")
            assert end.run.answer == words.strip() == answer
            assert end.run.usage.read + end.run.usage.reused == count
            assert not turns or end.run.usage.reused > count / 3
            turns.append((f"Q: {question}\nA:", answer))


def test_an_early_fact_is_noted_and_read_late() -> None:
    """As transformers alone answer that read the newest turns, the notes and the question."""
    model = Backbone.from_pretrained("smollm2-135m-instruct", dtype="float32")
    role, settings = Role("Answer briefly.\n"), Settings(max_tokens=16)
    pipeline = Pipeline([Agent("one", model, role=role, settings=settings)])
    with pipeline.session(window=240, keep=Distilled(notes=0.5)) as talk:
        for told in ("My code is 4711.", *(f"What is {n} and {n}?" for n in range(9))):
            talk.run(told)
        question = "What is my code?"
        reader = talk._conversing("one", lambda left: None)  # pyright: ignore
        stays = reader.standing({"question": (question,)}, (), frozenset({TEXT}))
        assert len(stays.exchanges) < 10
        assert any("My code is 4711." in note for note in stays.notes)
        turns = [(str(one.fields["question"][0]), one.words) for one in stays.exchanges]
        notes = "".join(f"- {note}\n" for note in stays.notes)
        asked = f"Notes of what was said before:\n{notes}\n{question}"
        count, answer = dense(model, turns, asked)
        run = talk.run(question)
        assert (run.usage.read + run.usage.reused, run.answer) == (count, answer)


def dense(model: Any, turns: list[tuple[str, str]], asked: str) -> tuple[int, str]:
    tokenizer = model.tokenizer
    if model.spec.chats:
        chat = [{"role": "system", "content": "Answer briefly.\n"}]
        for user, said in turns:
            chat += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
        chat.append({"role": "user", "content": asked})
        words = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    else:
        words = "".join(f"{user} {said}\n\n" for user, said in turns) + asked
        ids = tokenizer("Answer briefly.\n")["input_ids"]
        ids += tokenizer(words, add_special_tokens=False)["input_ids"]
    given = torch.tensor([ids])
    out = model.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=list(model.ends),
        pad_token_id=model.ends[0],
    )
    return len(ids), tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
