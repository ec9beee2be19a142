"""What an agent reads of a conversation that is longer than its window, or than its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_sessions import NO_THOUGHTS, alone, dense, letters
from unspoken.agents import Agent, Role, searching
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.errors import MissingExtra, PipelineError, UnknownName
from unspoken.pipeline import Edge, Pipeline
from unspoken.sessions import Distilled, Note, Past, Recent, Session, Stays
from unspoken.sessions.notes import note_of
from unspoken.sessions.past import Exchange
from unspoken.types import Document, Settings

FACTS = (
    "The key of Ada is 4711.",
    "Never name the harbour to anybody.",
    "Bo likes blue boats.",
    *(f"And what of day {n}?" for n in range(30)),
)


def exchange(asked: str, answered: str = "", **more: Any) -> Exchange:
    return Exchange({"question": (asked,), **more}, answered)


# -- notes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answered", "found"),
    [
        ("who is it?", "Ada Lovelace", "topic: who is it? | settled: Ada Lovelace"),
        ("Hello.", "", "topic: Hello."),
        (
            "Never mention Rome. What do we eat?",
            "Soup.",
            "rule: Never mention Rome. | topic: What do we eat? | settled: Soup.",
        ),
        (
            "Where is it?",
            "Let me see. It lies at 12 Mill Lane. I hope that helps.",
            "topic: Where is it? | settled: It lies at 12 Mill Lane.",
        ),
        (
            "My code is 4711. Bo wrote notes/plan.md. Who read it?",
            "Nobody did.",
            "topic: Who read it? | settled: Nobody did. | specifics: My code is 4711. "
            "| names: notes/plan.md",
        ),
    ],
)
def test_a_note_has_words_that_were_said(asked: str, answered: str, found: str) -> None:
    made = exchange(asked, answered)
    assert str(note_of(made)) == found
    assert note_of(made) == note_of(exchange(asked, answered))  # of equal words


@pytest.mark.parametrize(
    "words",
    [
        "We met at 9 in Bern and again at 12 in Basel. " * 40,
        "x" * 200_000,
        "\u201c" * 50_000 + "1. " * 50_000,
        "\u6211\u4eec\u5728\u4f2f\u5c14\u5c3c\u89c1\u9762\u3002" * 300,
        "Never " + "say it, " * 500,
        " \n",
    ],
)
def test_a_note_is_short(words: str) -> None:
    for made in (exchange(words, words), exchange("who?", words), exchange(words)):
        note = note_of(made)
        parts = [note.rule, note.topic, note.settled, note.specifics, *note.names]
        assert sum(len(part.encode()) for part in parts) <= 160 + 5 * 4


def test_a_ban_in_a_long_sentence_stays_a_ban() -> None:
    long = (
        "When you speak of what we did " + "and then did " * 30 + "please never name the harbour."
    )
    assert note_of(exchange(long)).rule.startswith("never name the harbour")


def test_documents_and_answers_are_no_rules() -> None:
    told = (Document("law.md", "You must never park here. The fine is 90 francs."),)
    note = note_of(exchange("What is it about?", "You should always pay.", documents=(told,)))
    assert note == Note(
        topic="What is it about?",
        settled="You should always pay.",
        specifics="The fine is 90 francs.",
        names=("law.md",),
    )


# -- in a session ----------------------------------------------------------------------------------


def shown(session: Session, question: str) -> tuple[Stays, str]:
    """What the next run reads of the past, and that in words, up to the question."""
    agent = session._conversing("one", lambda left: None)  # pyright: ignore
    stays = agent.standing({"question": (question,)}, (), frozenset())
    notes = "".join(f"- {note}\n" for note in stays.notes)
    return stays, f"Notes of what was said before:\n{notes}\n" if notes else ""


def turns_of(stays: Stays) -> list[tuple[str, str]]:
    return [(str(one.fields["question"][0]), one.words) for one in stays.exchanges]


@pytest.mark.parametrize("template", ["", NO_THOUGHTS])
def test_early_facts_and_bans_are_read_late(template: str) -> None:
    """As transformers alone answer that read the newest turns, the notes and the question."""
    model = letters(template=template)
    reused = read = 0
    with alone(model).session(window=1000, keep="distilled") as talk:
        for question in FACTS:
            stays, notes = shown(talk, question)
            count, answer = dense(model, turns_of(stays), notes + question)
            run = talk.run(question)
            assert (run.usage.read + run.usage.reused, run.answer) == (count, answer)
            assert count + 9 <= 1000
            gone = len(talk.turns) - 1 - len(stays.exchanges)
            assert [(one.exchanges, one.notes) for one in run.left_out] == (
                [(gone, len(stays.notes))] if gone else []
            )
            reused, read = reused + run.usage.reused, read + run.usage.read
        assert gone > 15
        assert reused / (reused + read) > 0.5
        key, boats = shown(talk, "What is the key of Ada?")[0], shown(talk, "Blue boats?")[0]
        assert any("asked: The key of Ada is 4711. | answered:" in one for one in key.notes)
        assert any("asked: Bo likes blue boats." in one for one in boats.notes)
        for stays in (key, boats):
            assert any("rule: Never name the harbour to anybody." in one for one in stays.notes)
        assert key.exchanges == boats.exchanges  # so they begin with the same words


def test_forks_and_files_know_the_same(tmp_path: Path) -> None:
    model = letters()
    pipeline = alone(model)
    with pipeline.session(window=700, keep="distilled") as talk:
        for question in FACTS[:20]:
            talk.run(question)
        talk.save(tmp_path / "talk")
        other = talk.fork()
        again = pipeline.load_session(tmp_path / "talk", window=700, keep="distilled")
        before = shown(talk, "The key of Ada?")[1]
        assert "4711" in before
        assert shown(other, "The key of Ada?")[1] == shown(again, "The key of Ada?")[1] == before
        first, second, third = (one.run("The key of Ada?") for one in (talk, other, again))
        assert first.answer == second.answer == third.answer
        assert first.left_out == second.left_out == third.left_out


def test_an_agent_has_notes_of_what_it_reads_alone() -> None:
    """Its role does not read the context, so no note may show it."""
    model = letters()
    agents = [
        Agent("reader", model, role=Role(template="{context} {question}"), settings=Settings(4)),
        Agent("one", model, role=Role(template="{messages}{question}"), settings=Settings(4)),
    ]
    pipeline = Pipeline(agents, [Edge("reader", "one", "text")])
    with pipeline.session(window=600, keep="distilled") as talk:
        for n in range(12):
            talk.run({"question": f"who came on day {n}?", "context": "The secret is 4711."})
        stays, notes = shown(talk, "The secret?")
        assert stays.notes
        assert "4711" not in notes
        assert all("context" not in one.fields for one in talk.past("one"))
        assert "4711" in talk.past("reader")[0].asked


@pytest.mark.parametrize("keep", ["recent", "distilled"])
def test_a_history_is_cut_where_the_session_cuts_it(keep: str) -> None:
    """A server makes a session for each turn. It reads the same and reuses as much."""
    pipeline, pool = alone(letters()), AnchorPool("exact")
    reused = read = 0
    with pipeline.session(keep=keep, window=600) as talk:
        for question in FACTS[:24]:
            again = pipeline.session(
                keep=keep, window=600, history=talk.turns, pool=pool, owner="ada"
            )
            run, other = talk.run(question), again.run(question)
            assert (run.answer, run.left_out) == (other.answer, other.left_out)
            reused, read = reused + other.usage.reused, read + other.usage.read
        assert run.left_out
    assert reused / (reused + read) > 0.5


@pytest.mark.parametrize("keep", ["recent", "distilled"])
def test_what_is_kept_has_room_in_the_cache(keep: str) -> None:
    """A budget of 600 positions is as good as a window of 600."""
    model = letters()
    with alone(model).session(keep=keep, pool=of_positions(600, model)) as talk:
        runs = [talk.run(question) for question in FACTS]
    with alone(model).session(keep=keep, window=600) as talk:
        windowed = [talk.run(question) for question in FACTS]
    assert runs[-1].left_out
    for run, other in zip(runs, windowed, strict=True):
        assert run.left_out == other.left_out
        usages = (run.usage, other.usage)
        assert len({usage.read + usage.reused for usage in usages}) == 1
        assert run.usage.reused >= other.usage.reused - 1  # a node of one token may be the oldest


def of_positions(count: int, model: Backbone) -> AnchorPool:
    spec = model.spec
    return AnchorPool("exact", budget=count * 2 * spec.layers * spec.kv_heads * spec.head_dim * 4)


def test_without_a_way_to_keep_all_is_read_whatever_the_budget() -> None:
    model = letters()
    with alone(model).session(pool=of_positions(300, model)) as talk:
        runs = [talk.run(question) for question in FACTS[:12]]
    assert not any(run.left_out for run in runs)
    assert runs[-1].usage.read + runs[-1].usage.reused > 500


def test_a_budget_of_nothing_leaves_nothing_out() -> None:
    pool = AnchorPool("exact", budget=0)
    with alone(letters()).session(keep="recent", pool=pool) as talk:
        assert not any(talk.run(question).left_out for question in FACTS[:6])


def test_the_library_is_asked_for_when_a_session_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(searching, "import_module", none)
    pipeline = alone(letters())
    with pytest.raises(MissingExtra, match="unspoken\\[search\\]"):
        pipeline.session(keep="distilled")
    assert pipeline.session(keep="recent").run("who?").answer


@pytest.mark.parametrize("given", [{"share": 0}, {"share": 1.5}, {"notes": 0}, {"notes": 2}])
def test_shares_of_a_room(given: dict[str, float]) -> None:
    kind = Distilled if "notes" in given else Recent
    with pytest.raises(PipelineError, match=f"{next(iter(given))}.*a share of the room"):
        kind(**given)


def test_other_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'distilled'"):
        alone(letters()).session(keep="distiled")


def test_without_a_past_there_is_nothing_to_note() -> None:
    made = Distilled()(Past(), "who?", lambda stays: 100, 50)
    assert made == Stays()
