"""How a turn ends, what a model thought before it, and runs that are no longer wanted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.events import heard
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.backbone.thoughts import thoughts_of
from unspoken.cancelling import cancelled_by
from unspoken.channels import TextChannel
from unspoken.pipeline import Edge, Pipeline, Run
from unspoken.testing import ScriptedModel, tiny_backbone, tiny_diffusion
from unspoken.types import Denoising, Settings

THINKS = "{% for m in messages %}<turn>{{ m.content }}{% endfor %}<turn>"
OPENED = THINKS + "<think>\n"
CLOSED = THINKS + "<think>\n\n</think>\n\n"


def says(words: str, *, template: str = THINKS, special: bool = False) -> Backbone:
    """A model that writes these words and an end token, whatever it reads."""
    made = tiny_backbone()
    made.tokenizer.chat_template = template + "{# <think> </think> #}"
    if special:
        made.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
        made.model.resize_token_embeddings(len(made.tokenizer))
    script = made.tokenizer(words, add_special_tokens=False)["input_ids"]
    assert Pipeline([Agent("one", made, settings=Settings(2))]).run("proofs come first").turns
    plain, seen = made.model.forward, [-9, -9]  # the last position, and that of the first word

    def forward(*args: Any, **given: Any) -> Any:
        out = plain(*args, **given)
        at = int(given["position_ids"][0, -1])
        seen[:] = [at, seen[1] if at == seen[0] + 1 else at]
        n = at - seen[1]
        out.logits[:, -1] = 0.0
        out.logits[:, -1, script[n] if n < len(script) else 2] = 50.0
        return out

    made.model.forward = forward
    return made


def asked(model: Backbone, **settings: Any) -> Pipeline:
    return Pipeline([Agent("one", model, settings=Settings(**{"max_tokens": 90, **settings}))])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("template", "words", "reasoning", "answer"),
    [
        (THINKS, "<think>\nTwo and two.\n</think>\n\nFour.", "Two and two.", "Four."),
        (THINKS, "\n<think>a\n</think>b", "a", "b"),
        (THINKS, "Four.", None, "Four."),
        (THINKS, "Sure. <think>why</think> 4", "why", "Sure.  4"),
        (THINKS, "<think>a</think><think>b</think>4", "a\nb", "4"),
        (CLOSED, "Use </think> to end.", None, "Use </think> to end."),
        (THINKS, "<think>\n\n</think>\n\nFour.", "", "Four."),
        (THINKS, "<think>never ends", "never ends", ""),
        (THINKS, "no opening</think>Four.", "no opening", "Four."),
        (OPENED, "Two and two.\n</think>\n\nFour.", "Two and two.", "Four."),
        (OPENED, "never ends", "never ends", ""),
    ],
)
def test_thoughts_are_kept_apart(
    template: str, words: str, reasoning: str | None, answer: str, special: bool
) -> None:
    if special and template == CLOSED:
        answer = "Use  to end."  # special tokens are no words
    pipeline = asked(says(words, template=template, special=special))
    run, pieces = heard(pipeline, "Two and two?")
    assert (run.turns[0].reasoning, run.answer, run.finish) == (reasoning, answer, "stop")
    if template != THINKS or "</think>" not in words or "<think>" in words:
        assert "".join(pieces).strip() == answer  # else the first words were not known as thoughts
    assert pipeline.run("Two and two?").turns[0].text == run.turns[0].text


def test_thoughts_travel_only_if_they_are_asked_for() -> None:
    thinker = Agent("a", says("<think>Hm.</think>Four."), settings=Settings(90))
    for channel, said in (
        (TextChannel(), " Four.\n"),
        (TextChannel(reasoning=True), " Hm.\n\nFour.\n"),
    ):
        heard: list[str] = []

        def script(words: str, heard: list[str] = heard) -> str:
            heard.append(words)
            return "yes"

        judge = Agent("b", ScriptedModel(script), role=Role(message="{message}\n"))
        Pipeline([thinker, judge], [Edge("a", "b", channel)]).run("?")
        assert heard == [f"{said}?"]


def test_a_stop_string_counts_in_the_answer_alone() -> None:
    run = asked(says("<think>One. Two.</think>Three. Four."), stop=".").run("?")
    assert (run.turns[0].reasoning, run.answer, run.finish) == ("One. Two.", "Three", "stop")


@pytest.mark.parametrize(
    ("words", "settings", "finish", "written"),
    [
        ("abc", {}, "stop", 4),
        ("abc", {"max_tokens": 4}, "stop", 4),
        ("abc", {"max_tokens": 3}, "length", 3),
        ("abcd", {"stop": ("c",)}, "stop", 3),
        ("abcd", {"stop": ("d",), "max_tokens": 3}, "length", 3),
        ("<think>abcd", {"max_tokens": 9}, "length", 9),
    ],
)
def test_a_turn_says_how_it_ended(
    words: str, settings: dict[str, Any], finish: str, written: int
) -> None:
    run = asked(says(words), **settings).run("?")
    assert (run.finish, run.usage.written) == (finish, written)
    assert run.turns[-1].finish == finish


def test_rows_end_each_in_its_own_way_and_silent_turns_do_not() -> None:
    model = tiny_backbone()
    sender = Agent("a", model, role=Role(template="{context}", chat=False))
    pair = Pipeline(
        [sender, Agent("b", model, settings=Settings(3, stop="\n"))],
        [Edge("a", "b", TextChannel(verbatim=True))],
    )
    runs = pair.run_many([{"context": "c", "question": f"q{n}"} for n in range(3)])
    assert [turn.finish for turn in runs[0].turns] == [None, runs[0].finish]
    assert {run.finish for run in runs} <= {"stop", "length"}


def test_a_canvas_ends_at_its_end_token_or_its_length() -> None:
    model = tiny_diffusion()
    (run,) = Pipeline([Agent("a", model, settings=Settings(6))]).run_many(["?"])
    ended = (
        model.tokenizer.eos_token_id
        in model.write(
            model.read(Agent("a", model).prompt({"question": ("?",), "context": ("",)})).context,
            Settings(6),
        ).ids[0]
    )
    assert run.finish == ("stop" if ended else "length")


def test_a_canvas_is_cancelled_between_its_steps() -> None:
    settings = Denoising(max_tokens=48, steps=48)
    pipeline = Pipeline([Agent("a", tiny_diffusion(), settings=settings)])
    whole, early = pipeline.run("?"), cut_short(pipeline, 7)
    assert (whole.usage.passes, early.usage.passes) == (48, 5)
    assert (whole.finish, early.finish) == ("length", "cancelled")


# -- runs that are no longer wanted ----------------------------------------------------------------


class After:
    """True once it was asked a number of times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> bool:
        self.times -= 1
        return self.times < 0


def cut_short(pipeline: Pipeline, times: int) -> Run:
    """A run that is cancelled once it has asked a number of times whether it is."""
    with cancelled_by(After(times)):
        return pipeline.run("?")


def pair_of(model: Backbone) -> Pipeline:
    agents = [Agent(name, model, settings=Settings(30)) for name in ("a", "b")]
    return Pipeline(agents, [Edge("a", "b", TextChannel())])


def test_a_cancelled_run_ends_with_what_there_is() -> None:
    model = says("x" * 40)
    whole = pair_of(model).run("?")
    assert whole.finish == "length"
    early = cut_short(pair_of(model), 8)
    assert [turn.finish for turn in early.turns] == ["cancelled", "cancelled"]
    assert 0 < early.usage.written < 30
    assert early.answer == ""
    late = cut_short(pair_of(model), 50)
    assert [turn.finish for turn in late.turns] == ["length", "cancelled"]
    assert whole.answer.startswith(late.answer)
    assert 0 < len(late.answer) < 30
    assert pair_of(model).run("?").answer == whole.answer  # nothing is left behind


def test_a_cancelled_task_ends_its_thread() -> None:
    model, written = tiny_backbone(), list[int]()
    plain = model.model.forward

    def slow(*args: Any, **given: Any) -> Any:
        written.append(1)
        return plain(*args, **given)

    model.model.forward = slow
    pipeline = Pipeline([Agent("a", model, settings=Settings(200))])

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pipeline.arun("?"), timeout=0.05)

    asyncio.run(give_up())  # waits for its threads
    assert len(written) < 150


def test_settings_of_rows_are_their_own() -> None:
    model = tiny_backbone()
    contexts = [
        model.read(Agent("a", model).prompt({"question": (q,), "context": ("",)})).context
        for q in ("one?", "a longer question, two?")
    ]
    settings = [Settings(7), Settings(3, stop="a", temperature=1.0)]
    together = model.write_together(contexts, settings)
    alone = [model.write(c, s) for c, s in zip(contexts, settings, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.words, one.tokens, one.ids, one.finish, one.passes) == (
            other.words,
            other.tokens,
            other.ids,
            other.finish,
            other.passes,
        )


def test_marks_in_a_question_open_no_thoughts() -> None:
    model = says("Fine.", special=True)
    role = Role(template="{question}", chat=False)
    run = Pipeline([Agent("one", model, role=role)]).run("what does it mean? <think>")
    assert (run.turns[0].reasoning, run.answer) == (None, "Fine.")


@pytest.mark.parametrize(
    ("written", "reasoning", "answer"),
    [
        ("<|channel|>final<|message|>Four.<|return|>", None, "Four.<|return|>"),
        (
            "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>4",
            "Two.",
            "4",
        ),
        (
            "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>commentary<|message|>"
            "B<|end|><|start|>assistant<|channel|>final<|message|>4",
            "AB",
            "4",
        ),
    ],
)
def test_the_channels_of_gpt_oss_are_thoughts_and_an_answer(
    written: str, reasoning: str | None, answer: str
) -> None:
    marks = thoughts_of(tiny_backbone().tokenizer, "<|channel|>final<|message|>")
    assert marks is not None
    assert marks.split(written) == (reasoning, answer)


def test_the_first_stop_string_counts_whatever_the_order() -> None:
    for stop in (("b", "ab"), ("ab", "b")):
        assert asked(says("x then ab, b"), stop=stop).run("?").answer == "x then"


def test_a_row_that_ended_before_is_not_cancelled() -> None:
    model = says("x" * 40)
    agents = [Agent(n, model, settings=Settings(m)) for n, m in (("a", 2), ("b", 30))]
    agents.append(Agent("judge", model))
    pipeline = Pipeline(agents, [Edge(name, "judge", TextChannel()) for name in "ab"])
    run = cut_short(pipeline, 12)
    assert [turn.finish for turn in run.turns] == ["length", "cancelled", "cancelled"]
