"""Text as it comes: what no tokenizer or terminal can take is handled, or refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unspoken
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import TextChannel
from unspoken.errors import (
    ContextTooLong,
    DataError,
    PipelineError,
    QueryError,
    RecipeError,
    SettingsError,
    UnreadableWords,
)
from unspoken.pipeline import Edge, Pipeline
from unspoken.recipe import load_recipe
from unspoken.recipe.files import recipe_text
from unspoken.studies.comparison.examples import predictions
from unspoken.tasks import load_jsonl
from unspoken.types import Prompt, Settings, Text
from unspoken.wire import Message

Tiny = Callable[..., Backbone]
HALF = "a\ud800b"
ODD = ("\x00", "\u2028", "\u2029", "\x85", "\ufeff", "\u200f", "\u202e", "\u200d", "\r\n", "🏳️‍🌈")
SHORT = Settings(max_tokens=3)
LINE = {
    "id": "q1",
    "context": "Ada keeps a parrot.",
    "question": "What does Ada keep?",
    "answers": ["a parrot"],
}


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda model: Agent(HALF, model), PipelineError, "the name of an agent"),
        (lambda model: Role(HALF), PipelineError, "instructions of a role"),
        (lambda model: Role(template=HALF), PipelineError, "template of a role"),
        (lambda model: Role(message=HALF + "{message}"), PipelineError, "message of a role"),
        (lambda model: Role(candidates=(HALF,)), PipelineError, "a candidate of a role"),
        (lambda model: Settings(stop=HALF), SettingsError, "a stop string"),
        (lambda model: Settings(stop=("x", HALF)), SettingsError, "a stop string"),
        (lambda model: Pipeline([Agent("a", model)], []).run(HALF), QueryError, "the question"),
        (lambda model: model.read(Prompt((Text((HALF,)),))), UnreadableWords, "the words"),
        (lambda model: model.tokens(HALF), UnreadableWords, "the words"),
    ],
)
def test_half_a_letter_is_refused_in_a_sentence(
    tiny: Tiny, make: Callable[[Backbone], Any], error: type[Exception], says: str
):
    with pytest.raises(error, match=rf"{says}.* no valid Unicode"):
        make(tiny("llama"))


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_letters_that_are_rare_go_everywhere(tiny: Tiny, tmp_path: Path, odd: str):
    """Names, instructions, questions, messages, shadows, audits, stop strings."""
    words, model = f"a{odd}b", tiny("llama")
    role = Role(words, f"{odd}{{context}}")
    reader = Agent(words, model, role=role, settings=Settings(max_tokens=3, stop=words))
    solver = Agent("solver", model, role=Role(f"{odd}Answer."), settings=SHORT)
    edge = Edge(words, "solver", TextChannel(verbatim=True), shadow=True)
    pipeline = Pipeline([reader, solver], [edge], audit=tmp_path)
    assert pipeline.run({"question": words, "context": words}).finish
    (file,) = (tmp_path / "messages").iterdir()
    message = Message.load(file)
    assert message.header.sender == words
    assert message.payload == Text((words,))


def test_ten_megabytes_are_refused_before_their_tokens_are_counted(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    model = tiny("llama")
    pipeline = Pipeline([Agent("solver", model, settings=SHORT)], [])
    pipeline.run("Who?")
    kind: Any = type(model.tokenizer)
    call = kind.__call__

    def counted(tokenizer: Any, words: str, **given: Any) -> Any:
        assert len(words) < 1000, "it counts the tokens"
        return call(tokenizer, words, **given)

    monkeypatch.setattr(kind, "__call__", counted)
    for question in ("word " * 2_000_000, "x" * 10_000_000, "\n" * 10_000_000):
        with pytest.raises(ContextTooLong, match=r"10,000,0\d\d characters .* 256 positions"):
            pipeline.run(question + "?")


def test_a_text_that_is_cut_may_be_long(tiny: Tiny):
    model = tiny("llama")
    assert model.shorten("ab" * 10_000, 3) == "aba"


# -- files -----------------------------------------------------------------------------------------


def written(folder: Path, data: bytes) -> Path:
    path = folder / "task.jsonl"
    path.write_bytes(data)
    return path


def test_a_task_may_begin_with_a_byte_order_mark(tmp_path: Path):
    line = json.dumps(LINE).encode()
    plain = load_jsonl(written(tmp_path, line))
    assert load_jsonl(written(tmp_path, b"\xef\xbb\xbf" + line + b"\r\n")) == plain


def test_a_task_in_utf_16_says_so(tmp_path: Path):
    with pytest.raises(DataError, match=r"UTF-16; save it as UTF-8"):
        load_jsonl(written(tmp_path, json.dumps(LINE).encode("utf-16")))


@pytest.mark.parametrize("raw", [b"\\ud800", b"\xed\xa0\x80", b"\xff"])
def test_a_task_with_half_a_letter_names_file_and_line(tmp_path: Path, raw: bytes):
    line = json.dumps(LINE).encode().replace(b"parrot.", raw)
    with pytest.raises(DataError, match=r"task\.jsonl, line 1: "):
        load_jsonl(written(tmp_path, line))


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_task_keeps_its_letters(tmp_path: Path, odd: str):
    line = LINE | {"context": f"Ada{odd}keeps"}
    for ascii_only in (True, False):
        data = json.dumps(line, ensure_ascii=ascii_only).encode()
        (item,) = load_jsonl(written(tmp_path, data))
        assert item.context == f"Ada{odd}keeps"


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_answers_are_found_whatever_they_hold(tmp_path: Path, odd: str):
    """The page had lost its examples where an answer held U+2028."""
    row = {
        "id": "1",
        "question": "q",
        "answers": ["x"],
        "prediction": f"a{odd}b",
        "correct": True,
        "messages": {},
        "message_of": "1",
    }
    folder = tmp_path / "predictions"
    folder.mkdir()
    lines = [json.dumps(row, ensure_ascii=False) + "\n"] * 2
    (folder / "text-matched.jsonl").write_bytes("".join(lines).encode())
    arm: Any = SimpleNamespace(channel="text", condition="matched", n=2, accuracy=1.0)
    assert [one["prediction"] for one in predictions(tmp_path, arm)] == [f"a{odd}b"] * 2


RECIPE = "kind: pipeline\nout: out\nagents:\n- name: a\n  model: m\n  template: '{question}'\n"


@pytest.mark.parametrize(
    "data",
    [
        RECIPE.encode("utf-16"),
        RECIPE.replace("name: a", "name: \xe9").encode("latin-1"),
        RECIPE.replace("name: a", "name: '\x00'").encode(),
        RECIPE.replace("name: a", 'name: "\\ud800"').encode(),
    ],
    ids=["utf-16", "latin-1", "nul", "half a letter"],
)
def test_a_recipe_that_is_no_text_is_named(tmp_path: Path, data: bytes):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"r\.yaml: cannot be read"):
        load_recipe(str(path), [])


def test_a_recipe_that_is_no_text_is_not_shown(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(RECIPE.encode("utf-16"))
    with pytest.raises(RecipeError, match="save it as UTF-8"):
        recipe_text(path)


def test_an_override_with_half_a_letter_is_refused():
    """So a shell hands over bytes that are no UTF-8."""
    with pytest.raises(RecipeError):
        load_recipe("relay", ["out=a\udcffb"])


def test_no_file_is_cut_at_other_ends_of_lines():
    """`splitlines` cuts at U+2028, U+0085 and others, which JSON and YAML hold unescaped."""
    sources = Path(unspoken.__file__).parent.rglob("*.py")
    assert [path for path in sources if ".splitlines(" in path.read_text(encoding="utf-8")] == []
