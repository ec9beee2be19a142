"""A pipeline as a model of lm-eval beside its own model `hf`: templates, messages, tasks, words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from tests.judged import alone, judge, model_of, near, plain, request
from unspoken.agents import Agent, Role
from unspoken.channels import Channel, Handoff, SoftWords, TextChannel
from unspoken.errors import ContextTooLong, PipelineError
from unspoken.harness import PipelineLM
from unspoken.pipeline import Edge, Pipeline

pytestmark = pytest.mark.numbers

DOCS = [
    {"ask": "Who keeps a parrot?", "choices": ["Ada", "no one"], "right": 0},
    {"ask": "What was sold?", "choices": ["a yak", "the red boat"], "right": 1},
    {"ask": "Where does it rain?", "choices": ["Rome", "Oslo"], "right": 1},
]
CHOSEN = """
task: chosen
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{ask}}}}\\nAnswer:{end}"
doc_to_choice: choices
doc_to_target: right
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_mutual_info}}]
"""
BEGUN = """
task: begun
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_choice: choices
doc_to_target: right
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> TaskManager:
    """Questions with choices, with and without white space before them, and choices alone."""
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    home = tmp_path / "tasks"
    home.mkdir()
    places = {"data": data, "cache": tmp_path / "datasets"}
    spaced = CHOSEN.replace("task: chosen", "task: spaced")
    (home / "chosen.yaml").write_text(CHOSEN.format(end="", **places))
    (home / "spaced.yaml").write_text(spaced.format(end="\\n", **places))
    (home / "begun.yaml").write_text(BEGUN.format(**places))
    return TaskManager(include_path=home, include_defaults=False)


def evaluate(model: Any, tasks: TaskManager, name: str, **options: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model, tasks=[name], task_manager=tasks, bootstrap_iters=0, **options
    )
    return cast(dict[str, Any], found)


def scores(found: dict[str, Any], name: str) -> list[tuple[float, bool]]:
    samples = sorted(found["samples"][name], key=lambda one: one["doc_id"])
    return [resp[0] for one in samples for resp in one["resps"]]


@pytest.mark.parametrize("name", ["chosen", "spaced", "begun"])
@pytest.mark.parametrize("shots", [0, 2])
def test_a_task_has_the_results_of_hf(name: str, shots: int, tasks: TaskManager) -> None:
    kind = "byte pairs"
    got = evaluate(alone(model_of(kind), batch_size=4), tasks, name, num_fewshot=shots)
    known = evaluate(judge(kind), tasks, name, num_fewshot=shots)
    assert near(scores(got, name), scores(known, name))
    assert got["results"][name] == pytest.approx(known["results"][name])
    other = evaluate(alone(model_of("bytes")), tasks, name, num_fewshot=shots)
    assert not near(scores(other, name), scores(known, name))


# What stands around the question -----------------------------------------------------------------

ASKED = [("Who is it?", " Ada"), ("Who is it?\n", " Ada"), ("Why so ", "yes")]


@pytest.mark.parametrize("texts", ASKED)
def test_words_around_the_question_are_scored_as_if_hf_had_them(texts: tuple[str, str]) -> None:
    lm = alone(model_of("byte pairs"), Role("", "Q: {question}\nA:\n", chat=False))
    ((known, _),) = judge("byte pairs").loglikelihood([request(f"Q: {texts[0]}\nA:\n", texts[1])])
    ((bare, _),) = judge("byte pairs").loglikelihood([request(*texts)])
    ((found, _),) = lm.loglikelihood([request(*texts)])
    assert found == pytest.approx(known, abs=1e-3)
    assert found != pytest.approx(bare, abs=1e-2)


@pytest.mark.parametrize("texts", ASKED)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_chat_is_scored_as_by_hf_with_its_template(system: str, texts: tuple[str, str]) -> None:
    model, hf = model_of("bytes"), judge("bytes")
    turns = [{"role": "system", "content": system}] if system else []
    words = hf.apply_chat_template([*turns, {"role": "user", "content": texts[0]}])
    found = alone(model, Role(system, "{question}")).loglikelihood([request(*texts)])
    assert near(found, hf.loglikelihood([request(words, texts[1])]))
    assert not near(found, hf.loglikelihood([request(*texts)]))


MESSAGES = [
    (TextChannel(limit=6), "{messages}{question}"),
    (TextChannel(limit=6), "{question}\n{messages}"),
    (Handoff(), "{question}"),
]


@pytest.mark.parametrize(("channel", "template"), MESSAGES, ids=["text", "text behind", "handoff"])
@pytest.mark.parametrize("texts", ASKED)
def test_behind_messages_it_is_the_score_given_all_that_was_read(
    channel: Channel, template: str, texts: tuple[str, str]
) -> None:
    """hf gets the words of it all; every byte is a token, so that they are the same tokens."""
    model, hf = model_of("bytes"), judge("bytes")
    reader = Agent("reader", model, role=Role("Read.\n", "{context}", chat=False))
    solver = Agent("solver", model, role=Role("Answer.\n", template, chat=False))
    line = Pipeline([reader, solver], [Edge("reader", "solver", channel)])
    query = {"question": texts[0], "context": texts[0]}
    fields = {name: (words,) for name, words in query.items()}
    (words,) = solver.read(fields, line.incoming([query])).context.spelling.words
    if isinstance(channel, Handoff):  # its caches say no words
        words = f"Read.\n{texts[0]}{words}"
    assert len(words) > len(f"Answer.\n{texts[0]}\n")
    found = PipelineLM(line).loglikelihood([request(*texts)])
    assert near(found, hf.loglikelihood([request(words, texts[1])]))
    assert not near(found, hf.loglikelihood([request(texts[0], texts[1])]))


def test_white_space_behind_vectors_is_read_as_it_stands() -> None:
    """It is all that the model has to go on from."""
    model = model_of("byte pairs")
    solver = Agent("solver", model, role=Role("", "{question}{messages}", chat=False))
    line = Pipeline([Agent("reader", model), solver], [Edge("reader", "solver", SoftWords())])
    fields = {"question": ("Why?",), "context": ("Why?",)}
    read = solver.read(fields, line.incoming([{name: words[0] for name, words in fields.items()}]))
    ((found, _),) = PipelineLM(line).loglikelihood([request("Why?", " yes")])
    assert model.tokens("\n\n yes") == [*model.tokens("\n\n"), *model.tokens(" yes")]
    assert found == pytest.approx(-float(model.score(read.context, [" yes"])), abs=1e-3)
    assert found != pytest.approx(-float(model.score(read.context, ["yes"])), abs=1e-3)


def test_a_template_of_lm_eval_is_refused_before_a_request(tasks: TaskManager) -> None:
    for several in (False, True):
        with pytest.raises(PipelineError, match="leave apply_chat_template off"):
            evaluate(
                alone(model_of("bytes")),
                tasks,
                "chosen",
                apply_chat_template=True,
                fewshot_as_multiturn=several,
                num_fewshot=1 if several else 0,
            )


# Words -------------------------------------------------------------------------------------------


def told(context: str, **settings: Any) -> Instance:
    return Instance("generate_until", {}, (context, settings), 0)


@pytest.mark.parametrize("kind", ["bytes", "bytes with bos", "byte pairs", "metaspace"])
def test_words_are_those_of_hf(kind: str) -> None:
    contexts = ["Why so?", "Q: who?\nA: ", "say\n", "hello hell", " n"]
    asked = [told(words, max_gen_toks=9) for words in contexts]
    found, known = alone(model_of(kind)).generate_until(asked), judge(kind).generate_until(asked)
    assert found == known
    assert len(set(known)) > 1
    ends = sorted({words[len(words) // 2] for words in known if words})
    for until in ([*ends[:1]], ends, ["<eos>", *ends[1:]], ["<pad>"], []):
        asked = [told(words, max_gen_toks=9, until=list(until)) for words in contexts]
        cut = judge(kind).generate_until(asked)
        assert alone(model_of(kind)).generate_until(asked) == cut
        assert (cut == known) is not any(end in words for words in known for end in until if end)


def test_words_that_do_not_fit_are_refused_where_hf_drops_the_beginning() -> None:
    fits, longer = (told("a" * count, max_gen_toks=56) for count in (200, 201))
    lm, hf = alone(model_of("bytes")), plain(model_of("bytes"))
    assert lm.generate_until([fits]) == hf.generate_until([fits])
    assert hf.generate_until([longer])
    with pytest.raises(ContextTooLong, match="201 positions read and 56 to write exceed the 256"):
        lm.generate_until([longer])


def test_the_settings_of_a_checkpoint_change_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = plain(model_of("bytes"))
    asked = [told("Why so?", max_gen_toks=9)]
    assert alone(model_of("bytes")).generate_until(asked) == hf.generate_until(asked)
    monkeypatch.setattr(hf.model.generation_config, "repetition_penalty", 50.0)
    assert alone(model_of("bytes")).generate_until(asked) != hf.generate_until(asked)
