"""Rounds that end before the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.events import heard
from unspoken.agents import Agent, Edge, Role
from unspoken.channels import TextChannel
from unspoken.cli import main
from unspoken.errors import PipelineError, RecipeError, UnknownName
from unspoken.pipeline import Pipeline, Run
from unspoken.recipe import PipelineRecipe
from unspoken.recipe.loading import recipe_of
from unspoken.recipe.pipeline import build, session_of
from unspoken.sessions import Recent
from unspoken.testing import ScriptedModel
from unspoken.until import Pattern, Phrase

QUESTION = "Say I AGREE when you are done."


def debate(until: Any = None, rounds: int = 9, agrees: int = 3) -> Pipeline:
    """A writer, and a critic who agrees the third time."""
    said = {"critic": 0, "writer": 0}

    def critic(words: str) -> str:
        said["critic"] += 1
        return "I AGREE." if said["critic"] >= agrees else f"no, {said['critic']}"

    def writer(words: str) -> str:
        said["writer"] += 1
        return f"draft {said['writer']}" + (", agreed" if "critic: I AGREE" in words else "")

    agents = [
        Agent(name, ScriptedModel(script), role=Role(template="{question} {messages}"))
        for name, script in (("critic", critic), ("writer", writer))
    ]
    edges = [Edge("writer", "critic", TextChannel()), Edge("critic", "writer", TextChannel())]
    return Pipeline(agents, edges, rounds=rounds, until=until)


def third(run: Run) -> bool:
    return run.answer == "" and len([turn for turn in run.turns if turn.agent == "critic"]) == 3


@pytest.mark.parametrize(
    ("until", "name"),
    [
        ("AGREE", "Phrase(words='AGREE', agent=None)"),
        (Phrase("AGREE", agent="critic"), "Phrase(words='AGREE', agent='critic')"),
        (Pattern(r"(?i)\bi agree\b"), r"Pattern(pattern='(?i)\\bi agree\\b', agent=None)"),
        (third, "tests.unit.test_until:third"),
    ],
)
def test_the_rounds_end_and_the_run_says_by_what(until: Any, name: str) -> None:
    """The question holds the phrase, too, and does not count."""
    run = debate(until).run(QUESTION)
    assert [(turn.agent, turn.round) for turn in run.turns] == [
        ("critic", 1), ("writer", 1), ("critic", 2), ("writer", 2), ("critic", 3), ("writer", 3),
    ]  # fmt: skip
    assert (run.answer, run.ended_by) == ("draft 3, agreed", name)


def test_words_of_the_answering_agent_are_the_answer() -> None:
    run = debate("draft 2").run(QUESTION)
    assert (run.answer, run.turns[-1].text, len(run.turns)) == ("draft 2", "draft 2", 4)


def test_without_a_rule_or_what_it_wants_all_rounds_are_taken() -> None:
    for until in (None, "never said", Phrase("AGREE", agent="writer")):
        run = debate(until, rounds=4).run(QUESTION)
        assert (len(run.turns), run.ended_by) == (8, "")


def test_each_item_has_rounds_of_its_own_and_events_tell_the_same() -> None:
    runs = debate("draft 3").run_many([QUESTION] * 2)
    assert [(len(run.turns), run.answer) for run in runs] == [
        (6, "draft 3, agreed"),
        (18, "draft 12, agreed"),
    ]
    run, pieces = heard(debate("AGREE"), QUESTION)
    assert run.ended_by
    assert "".join(pieces) == "draft 1draft 2draft 3, agreed"


def test_the_words_of_a_short_channel_are_looked_at_whole() -> None:
    """Nothing of the answering agent is cut for the message that it sends."""
    plain = debate("draft 2")
    edges = [Edge("writer", "critic", TextChannel(limit=2)), plain.edges[1]]
    run = Pipeline(list(plain.agents.values()), edges, rounds=9, until="draft 2").run(QUESTION)
    assert run.answer == "draft 2"


def _none(run: Run) -> Any:
    return None


async def _later(run: Run) -> bool:
    return True


@pytest.mark.parametrize("until", [_none, _later, lambda run: "yes"])
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_rule_that_does_not_say_is_refused(until: Any) -> None:
    with pytest.raises(PipelineError, match="it has to be True or False"):
        debate(until).run(QUESTION)


def test_an_error_of_a_rule_comes_out() -> None:
    def broken(run: Run) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(debate(broken).stream(QUESTION))


@pytest.mark.parametrize("until", ["", " ", 3, ["x"]])
def test_what_is_no_rule(until: Any) -> None:
    with pytest.raises(PipelineError):
        debate(until)


@pytest.mark.parametrize("pattern", ["(", "", "x*", None, 3])
def test_what_is_no_pattern(pattern: Any) -> None:
    with pytest.raises(PipelineError):
        Pattern(pattern)


def test_a_rule_needs_rounds_and_an_agent_that_is_there() -> None:
    with pytest.raises(PipelineError, match="set rounds"):
        debate("x", rounds=1)
    with pytest.raises(UnknownName, match="crtic"):
        debate(Phrase("x", agent="crtic"))


def test_what_asks_for_every_turn_is_refused() -> None:
    with pytest.raises(PipelineError, match="every turn of every round"):
        debate("x").run_turns(lambda requests: [])
    with pytest.raises(PipelineError, match="one at a time"):
        debate("x").incoming(["a", "b"])
    assert len(debate("AGREE").incoming([QUESTION])) == 1


# -- recipes ---------------------------------------------------------------------------------------


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    agents = [
        {"name": name, "model": str(folder), "max_tokens": 3} for name in ("critic", "writer")
    ]
    edges = [{"from": "writer", "to": "critic"}, {"from": "critic", "to": "writer"}]
    edges = [{**edge, "channel": {"kind": "text"}} for edge in edges]
    return {"kind": "pipeline", "agents": agents, "edges": edges, "rounds": 3, **more}


@pytest.mark.parametrize(
    ("until", "rule"),
    [
        ({"phrase": "DONE", "agent": "critic"}, Phrase("DONE", "critic")),
        ({"pattern": "DONE|OK"}, Pattern("DONE|OK")),
        ({"function": "tests.unit.test_until:third"}, third),
    ],
)
def test_a_recipe_has_rules(until: Any, rule: Any, folders: dict[str, Path]) -> None:
    found = recipe_of(recipe(folders["receiver"], until=until))
    assert isinstance(found, PipelineRecipe)
    assert build(found).until == rule


@pytest.mark.parametrize(
    "until", [{}, {"phrase": "x", "pattern": "y"}, {"function": "a:b", "agent": "critic"}]
)
def test_a_recipe_has_one_rule(until: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match="until"):
        recipe_of(recipe(folders["receiver"], until=until))


def test_a_recipe_says_how_a_conversation_is_held(folders: dict[str, Path]) -> None:
    given = {"keep": "recent", "window": 99, "budget": 1000}
    found = recipe_of(recipe(folders["receiver"], session=given))
    assert isinstance(found, PipelineRecipe)
    with session_of(found, build(found)) as talk:
        window, caches = talk._window, talk._caches  # pyright: ignore
        assert caches is not None
        assert (window.keep, window.positions, caches.pool.budget) == (Recent(), 99, 1000)
        talk.run("why?")
        assert caches.pool.nbytes <= 1000
    for odd in ({"keep": "all"}, {"window": 0}, {"budget": -1}, {"keeps": "recent"}):
        with pytest.raises(ValidationError, match="session"):
            recipe_of(recipe(folders["receiver"], session=odd))


@pytest.mark.parametrize("name", ["nothing", "no.such:thing", "json:nothing", ":x", ""])
def test_a_function_that_is_not_there(name: str, folders: dict[str, Path]) -> None:
    found = recipe_of(recipe(folders["receiver"], until={"function": name}))
    assert isinstance(found, PipelineRecipe)
    with pytest.raises(RecipeError, match="cannot be imported"):
        build(found)


def test_a_chat_is_a_session_and_shows_who_says_what(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import yaml

    content = recipe(folders["receiver"], session={"keep": "recent", "window": 120})
    (tmp_path / "talk.yaml").write_text(yaml.safe_dump({**content, "rounds": 2}))
    asked = iter(["why?", "and?", "so what of it?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(asked))
    with pytest.raises(SystemExit) as end:
        main(["chat", str(tmp_path / "talk.yaml")])
    assert not end.value.code
    out, err = capsys.readouterr()
    assert out.count("critic: ") == 6
    assert out.count("writer: ") >= 3
    assert " known, 3 written" in err
    assert "no longer reads the first" in err
