"""Tasks of lm-eval through a pipeline: the package itself, a task in a folder, tiny models."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from unspoken import harness
from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Handoff, TextChannel
from unspoken.errors import DataError, MissingExtra, PipelineError
from unspoken.harness import PipelineLM, parted, shared
from unspoken.pipeline import Edge, Pipeline
from unspoken.types import Settings

Tiny = Callable[..., Backbone]

DOCS = [
    {"fact": "Ada keeps a parrot.", "ask": "What does Ada keep?", "choices": ["parrot", "an owl"]},
    {
        "fact": "Bo sold the red boat.",
        "ask": "What was sold?",
        "choices": ["a yak", "the red boat"],
    },
    {"fact": "It rains in Oslo.", "ask": "Where does it rain?", "choices": ["Rome", "Oslo"]},
]
GENERATED = """
task: told
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{fact}}}}\\nQuestion: {{{{ask}}}}\\nAnswer:"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6}}
metric_list: [{{metric: exact_match}}]
"""
CHOSEN = """
task: chosen
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{fact}}}}\\nQuestion: {{{{ask}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> TaskManager:
    """Two tasks from files of this folder, and none of those that ship."""
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    home = tmp_path / "tasks"
    home.mkdir()
    for name, text in (("told", GENERATED), ("chosen", CHOSEN)):
        (home / f"{name}.yaml").write_text(text.format(data=data, cache=tmp_path / "datasets"))
    return TaskManager(include_path=home, include_defaults=False)


def pair(tiny: Tiny, *, channel: Any = None, template: str = "{question}") -> Pipeline:
    """A reader that knows {context} or {question}, and a solver that hears it."""
    model = tiny()
    reader = Agent("reader", model, role=Role("Read.\n", template, chat=False))
    solver = Agent(
        "solver",
        model,
        role=Role("Answer.\n", "{messages}{question}", chat=False),
        settings=Settings(max_tokens=99, seed=5),
    )
    channel = channel or TextChannel(limit=4)
    return Pipeline([reader, solver], [Edge("reader", "solver", channel)])


def text_of(doc: dict[str, Any]) -> str:
    return f"{doc['fact']}\nQuestion: {doc['ask']}\nAnswer:"


def request(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def evaluate(model: Any, tasks: TaskManager, name: str, **options: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model, tasks=[name], task_manager=tasks, bootstrap_iters=0, **options
    )
    return cast(dict[str, Any], found)


# Whole tasks -------------------------------------------------------------------------------------


def test_a_task_is_answered_by_the_whole_pipeline(tiny: Tiny, tasks: TaskManager) -> None:
    line = pair(tiny)
    found = evaluate(PipelineLM(line), tasks, "told")
    asked = line.with_answer_settings(Settings(max_tokens=6, stop=("\n",)))
    runs = asked.run_many([{"question": text_of(doc)} for doc in DOCS])
    samples = sorted(found["samples"]["told"], key=lambda one: one["doc_id"])
    assert [one["resps"][0][0] for one in samples] == [run.turns[-1].text for run in runs]
    assert any(one["resps"][0][0] for one in samples)
    told = found["config"]
    assert told["channels"] == ["reader to solver: text"]
    assert told["split"] == "shared"
    assert told["usage"]["written"] == sum(run.usage.written for run in runs)
    assert found["results"]["told"]["exact_match,none"] == 0.0


@pytest.mark.numbers
@pytest.mark.parametrize("channel", [TextChannel(limit=4), Handoff()], ids=["text", "handoff"])
def test_choices_are_scored_behind_the_messages(
    channel: Any, tiny: Tiny, tasks: TaskManager
) -> None:
    line = pair(tiny, channel=channel)
    found = evaluate(PipelineLM(line, batch_size=2), tasks, "chosen")
    samples = sorted(found["samples"]["chosen"], key=lambda one: one["doc_id"])
    right = 0
    for doc, one in zip(DOCS, samples, strict=True):
        query = {"question": text_of(doc), "context": text_of(doc)}
        mail = line.incoming([query])
        fields = {name: (words,) for name, words in query.items()}
        context = line.answerer.read(fields, mail).context
        known = [
            -float(line.answerer.model.score(context, [f" {choice}"])) for choice in doc["choices"]
        ]
        given = [resp[0][0] for resp in one["resps"]]
        assert given == pytest.approx(known, abs=1e-3)
        right += known[0] > known[1]
    assert found["results"]["chosen"]["acc,none"] == pytest.approx(right / 3)


def test_a_recipe_by_name_makes_the_model(tiny: Tiny, tasks: TaskManager, tmp_path: Path) -> None:
    backbone = tiny()
    cast(Any, backbone.model).save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    recipe = tmp_path / "pair.yaml"
    recipe.write_text(
        f"kind: pipeline\nagents: [{{name: solver, model: {tmp_path / 'model'}, chat: false}}]\n"
    )
    by_string = evaluate("unspoken", tasks, "told", model_args=f"recipe={recipe}", batch_size=2)
    by_fields = evaluate("unspoken", tasks, "told", model_args={"recipe": str(recipe)})
    alone = Pipeline([Agent("solver", backbone, role=Role(chat=False))])
    by_hand = evaluate(PipelineLM(alone), tasks, "told")
    answers = [
        sorted((one["doc_id"], one["resps"][0][0]) for one in found["samples"]["told"])
        for found in (by_string, by_fields, by_hand)
    ]
    assert answers[0] == answers[1] == answers[2]


def test_it_stands_beside_the_models_of_lm_eval() -> None:
    assert get_model("unspoken") is PipelineLM
    assert get_model("dummy").__name__ == "DummyLM"


# Scores ------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_a_model_alone_gives_its_own_log_likelihood(tiny: Tiny) -> None:
    model = tiny()
    lm = PipelineLM(Pipeline([Agent("solver", model, role=Role("", "{question}", chat=False))]))
    context, continuation = "one and one make", " two"
    ((given, _),) = lm.loglikelihood([request(context, continuation)])
    before, after = model.tokens(context), model.tokens(continuation)
    logits = model.model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    rows = range(len(before) - 1, len(before) + len(after) - 1)
    known = sum(float(logits[row, token]) for row, token in zip(rows, after, strict=True))
    assert given == pytest.approx(known, abs=1e-3)


@pytest.mark.numbers
def test_what_greedy_decoding_would_write_is_known(tiny: Tiny) -> None:
    line = pair(tiny)
    query = {"question": "why so?", "context": "why so?"}
    fields = {name: (words,) for name, words in query.items()}
    context = line.answerer.read(fields, line.incoming([query])).context
    ids = line.answerer.model.write(context, Settings(max_tokens=3)).ids
    assert ids is not None
    other = [*ids[0][:2], (ids[0][2] + 1) % 200 + 4]
    repeated = line.answerer.read(
        {name: words * 3 for name, words in fields.items()},
        [Incoming(one.channel, one.message.repeat(3)) for one in line.incoming([query])],
    ).context
    losses, greedy = line.answerer.model.assess(repeated, [ids[0], other, ids[0][:1]])
    assert greedy.tolist() == [True, False, True]
    scored = line.answerer.model.score(repeated, [ids[0], other, ids[0][:1]])
    torch.testing.assert_close(losses, scored, atol=1e-3, rtol=0)


@pytest.mark.numbers
def test_batched_scores_are_those_of_single_requests(tiny: Tiny) -> None:
    line = pair(tiny)
    requests = [
        request(text_of(doc), f" {choice}") for doc in DOCS for choice in [*doc["choices"], "it"]
    ]
    together = PipelineLM(line, batch_size=2).loglikelihood(requests)
    for one, (score, greedy) in zip(requests, together, strict=True):
        ((alone, same),) = PipelineLM(line).loglikelihood([one])
        assert score == pytest.approx(alone, abs=1e-3)
        assert greedy == same


def test_messages_are_sent_once_for_a_question(tiny: Tiny, monkeypatch: Any) -> None:
    line, asked = pair(tiny), list[int]()
    real = line.incoming
    monkeypatch.setattr(
        line, "incoming", lambda queries: asked.append(len(queries)) or real(queries)
    )
    PipelineLM(line, batch_size=2).loglikelihood(
        [request(text_of(doc), f" {choice}") for choice in ("a", "b") for doc in DOCS]
    )
    assert asked == [2, 1]


# Splits and settings -----------------------------------------------------------------------------


def test_a_private_reader_gets_what_stands_before_the_words(tiny: Tiny) -> None:
    line, seen = pair(tiny, template="{context}"), list[dict[str, str]]()
    lm = PipelineLM(line, split="Question:")
    real = lm.split
    lm.split = lambda one: seen.append(dict(real(one))) or seen[-1]
    words = f"Question: a\nA: b\n{text_of(DOCS[0])}"
    lm.generate_until([Instance("generate_until", {}, (words, {"max_gen_toks": 4}), 0)])
    assert seen == [
        {
            "context": "Question: a\nA: b\nAda keeps a parrot.\n",
            "question": "Question: What does Ada keep?\nAnswer:",
        }
    ]


def test_a_function_may_split_by_the_document(tiny: Tiny) -> None:
    line = pair(tiny, template="{context}")

    def by_fact(one: Instance) -> dict[str, str]:
        return {"context": one.doc["fact"], "question": one.doc["ask"]}

    lm = PipelineLM(line, split=by_fact)
    settings = {"max_gen_toks": 5}
    (given,) = lm.generate_until([Instance("generate_until", DOCS[0], ("all", settings), 0)])
    told = line.with_answer_settings(Settings(max_tokens=5)).run(
        {"context": DOCS[0]["fact"], "question": DOCS[0]["ask"]}
    )
    assert given == told.turns[-1].text
    assert lm.get_model_info()["split"] == "by_fact"


def test_every_request_is_answered_by_its_own_settings(tiny: Tiny) -> None:
    line = pair(tiny)
    lm = PipelineLM(line)
    limits = [3, 7, 3]
    requests = [
        Instance("generate_until", {}, ("why?", {"max_gen_toks": limit}), 0) for limit in limits
    ]
    given = lm.generate_until(requests)
    for limit, words in zip(limits, given, strict=True):
        alone = line.with_answer_settings(Settings(max_tokens=limit)).run("why?")
        assert words == alone.turns[-1].text
    assert given[0] == given[2] != given[1]
    letter = given[1][3]
    until = Instance("generate_until", {}, ("why?", {"max_gen_toks": 7, "until": letter}), 0)
    assert lm.generate_until([until]) == [given[1].split(letter)[0]]


def test_only_the_answering_agent_gets_the_settings_of_the_task(tiny: Tiny) -> None:
    line = pair(tiny)
    other = line.with_answer_settings(Settings(max_tokens=3))
    assert other.agents["reader"] is line.agents["reader"]
    assert other.answerer.settings == Settings(max_tokens=3)
    assert line.answerer.settings.max_tokens == 99


def test_models_run_where_lm_eval_says_if_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness._placed(None) == []
    assert harness._placed("cpu") == ["device=cpu"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert harness._placed("cuda:0") == []  # what its command line says unasked
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert harness._placed("cuda:0") == ["device=cuda:0"]


def test_sampling_follows_the_task() -> None:
    settings = harness._settings({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert settings == Settings(max_tokens=256, temperature=0.7, top_p=0.9)
    assert harness._settings({"do_sample": True}).temperature == 1.0
    assert harness._settings({"until": ["", "\n"]}) == Settings(max_tokens=256, stop=("\n",))
    assert replace(settings, temperature=0.0).top_p == 0.9


# Errors ------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_with_a_sentence(tiny: Tiny) -> None:
    line = pair(tiny)
    with pytest.raises(PipelineError, match="either a pipeline or recipe=NAME"):
        PipelineLM()
    with pytest.raises(PipelineError, match="batch_size is a number of items, got 'auto'"):
        PipelineLM(line, batch_size="auto")
    both = pair(tiny, template="{context} {question}")
    with pytest.raises(PipelineError, match=r"'reader' reads \{context\} and \{question\}"):
        PipelineLM(both)
    assert PipelineLM(both, split="Question:").named == "Question:"
    with pytest.raises(PipelineError, match="is a recipe of kind 'relay'"):
        PipelineLM(recipe="relay")
    lm = PipelineLM(line)
    with pytest.raises(PipelineError, match="Tasks of generate_until, loglikelihood"):
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("words",), 0)])
    with pytest.raises(PipelineError, match="leave apply_chat_template off"):
        lm.apply_chat_template([])
    with pytest.raises(DataError, match=r"the task sets \['num_beams'\]"):
        lm.generate_until([Instance("generate_until", {}, ("a", {"num_beams": 3}), 0)])
    with pytest.raises(DataError, match="split='Fact:' is not in the request 'none'"):
        parted("Fact:")(request("none", " a"))
    assert shared(request("all", " a")) == {"question": "all", "context": "all"}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "unspoken.harness")
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[lm-eval\]'"):
        importlib.import_module("unspoken.harness")
