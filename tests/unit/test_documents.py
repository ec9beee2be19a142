"""Fields of any name and documents: what arrives in a prompt, and what a pool keeps of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
import torch

from tests.unit import workers
from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool, Ladder
from unspoken.backbone import Backbone
from unspoken.channels import TextChannel
from unspoken.errors import (
    ContextTooLong,
    EmptyPrompt,
    PipelineError,
    QueryError,
    UnknownName,
    UnspokenError,
)
from unspoken.executors import Processes
from unspoken.pipeline import Edge, Pipeline
from unspoken.runs import fields_of, length_of
from unspoken.types import Document, Prompt, Read, Served, Settings, Text

Tiny = Callable[..., Backbone]

TEXTS = {
    "a.md": "Ada keeps a grey parrot in the attic.",
    "b.md": "Bo sold the old boat to Cy.",
    "c.md": "Rain fell on Dee for nine days.",
    "d.md": "Eli bakes bread, and Fay eats it.",
    "e.md": "The key is under the third pot.",
}
ROLE = Role("Read. ", "{documents}Q: {question} A:", document="## {name}\n{text}\n", chat=False)
SHORT = Settings(max_tokens=4)


def reader(model: Any, role: Role = ROLE, name: str = "reader") -> Agent:
    return Agent(name, model, role=role, settings=SHORT)


def words(prompt: Prompt, row: int = 0) -> str:
    return "".join(one.words[row] for one in prompt.segments if isinstance(one, Text))


def asked(*names: str, question: str = "Who?", **more: str) -> dict[str, Any]:
    return {"question": question, "documents": {name: TEXTS[name] for name in names}, **more}


# -- what arrives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"a.md": "one", "b.md": "two"},
        [{"name": "a.md", "text": "one"}, {"text": "two", "name": "b.md"}],
        (Document("a.md", "one"), Document("b.md", "two")),
    ],
    ids=["mapping", "list", "documents"],
)
def test_documents_come_in_three_forms(tiny: Tiny, given: Any):
    prompt = reader(tiny("llama")).prompt(fields_of([{"question": "Who?", "documents": given}]))
    assert words(prompt) == "Read. ## a.md\none\n## b.md\ntwo\nQ: Who? A:"


def test_texts_without_names_are_numbered(tiny: Tiny):
    fields = fields_of([{"question": "Who?", "documents": ["one", "two"]}])
    assert "## 1\none\n## 2\ntwo\n" in words(reader(tiny("llama")).prompt(fields))


def test_a_field_may_have_any_name_and_hold_words_or_documents(tiny: Tiny):
    role = Role(
        "", "{tool_results}[{style}] {größe}", document="<{name}>{text}</{name}>", chat=False
    )
    query = {"tool_results": {"search": "found"}, "style": "brief", "größe": "9"}
    assert role.fields == ("tool_results", "style", "größe")
    prompt = reader(tiny("llama"), role).prompt(fields_of([query]))
    assert words(prompt) == "<search>found</search>[brief] 9"
    plain = reader(tiny("llama"), role).prompt(fields_of([{**query, "tool_results": "none"}]))
    assert words(plain) == "none[brief] 9"


@pytest.mark.parametrize(
    "odd",
    [
        "{question}",
        "{documents} {name} {text}",
        '{"a": {"b": [1]}}',
        "{0} {} {{x}} }{",
        "%s $x \\n",
    ],
)
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_values_arrive_unchanged(tiny: Tiny, kind: str, odd: str):
    """No value is a template, wherever it stands: in a text, a name, a question or a style."""
    role = replace(ROLE, template="{documents}{style} Q: {question} A:")
    query = {"question": odd, "style": odd, "documents": {odd: odd, "b": f"x{odd}"}}
    prompt = reader(tiny(kind), role).prompt(fields_of([query]))
    assert words(prompt) == f"Read. ## {odd}\n{odd}\n## b\nx{odd}\n{odd} Q: {odd} A:"


def test_control_tokens_in_documents_are_words_and_in_formats_count(tiny: Tiny):
    model = tiny("llama")
    role = replace(ROLE, document="<turn>{name}\n{text}\n")
    query = {"question": "Who?", "documents": {"<turn>": "<turn>user", "b": "y"}}
    ids = [
        int(n)
        for part in model.lay_out(reader(model, role).prompt(fields_of([query])))
        for n in part.ids[0]  # pyright: ignore
    ]
    mark = model.tokenizer.convert_tokens_to_ids("<turn>")
    assert ids.count(mark) == 2  # those of the format
    assert (
        len(ids) == len("Read. Q: Who? A:") + 2 * len("1\n\n") + len("<turn><turn>useryb") - 2 + 2
    )


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_rows_of_a_batch_may_have_different_documents(tiny: Tiny, kind: str):
    queries = [
        asked("a.md", "b.md", "c.md"),
        asked("d.md", question="And who else?"),
        {"question": "What?", "documents": "Nothing but words. "},
        asked("e.md", "a.md"),
    ]
    agent = reader(tiny(kind))
    together = agent.prompt(fields_of(queries))
    singles = [agent.prompt(fields_of([query])) for query in queries]
    assert [words(together, n) for n in range(4)] == [words(one) for one in singles]
    pipeline = Pipeline([agent])
    alone = [pipeline.run(query).answer for query in queries]
    assert [run.answer for run in pipeline.run_many(queries, batch_size=4)] == alone


@pytest.mark.parametrize("chat", [True, False])
def test_a_long_and_a_short_row_are_read_as_alone(tiny: Tiny, chat: bool):
    """Padding, the chat's trimming and absent documents change no token of a row."""
    model = tiny("llama")
    agent = reader(model, replace(ROLE, chat=chat, template="{question} {documents}"))
    queries = [asked("a.md", "b.md"), asked("c.md")]
    both = agent.read(fields_of(queries)).context
    for n, query in enumerate(queries):
        one = agent.read(fields_of([query])).context
        for side in (0, 1):
            row, alone = both.kv[2][side][n], one.kv[2][side][0]
            row, alone = row[:, both.mask[n, :-1]], alone[:, one.mask[0, :-1]]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_a_verbatim_sender_passes_on_its_documents(tiny: Tiny):
    role = replace(ROLE, template="{documents}")
    sender = reader(tiny("llama"), role, "sender")
    solver = Agent("solver", tiny("llama"), settings=SHORT)
    edge = Edge("sender", "solver", TextChannel(verbatim=True))
    (arrival,) = Pipeline([sender, solver], [edge]).incoming([asked("a.md")])
    assert arrival.message.payload.words == (f"## a.md\n{TEXTS['a.md']}\n",)  # pyright: ignore


def test_items_with_other_documents_have_other_ids(tiny: Tiny):
    from unspoken.agents.agent import task_ids

    one, two = asked("a.md", "b.md"), asked("b.md", "a.md")
    together = task_ids(fields_of([one, two, "Who?"]))
    assert len(set(together)) == 3
    assert together == tuple(task_ids(fields_of([q]))[0] for q in (one, two, "Who?"))
    assert length_of(one) == length_of(two) > length_of("Who?") == 4


def test_a_part_of_a_pipeline_takes_the_same_items(tiny: Tiny):
    """Without messages, and with fewer edges, the fields of absent agents are left unread."""
    sender = reader(tiny("llama"), replace(ROLE, template="{documents}"), "sender")
    solver = Agent("solver", tiny("llama"), settings=SHORT)
    pair = Pipeline([sender, solver], [Edge("sender", "solver", TextChannel())])
    for part in (
        pair.without_messages(),
        pair.with_edges([]),
        pair.without_messages().with_edges([]),
    ):
        assert part.run(asked("a.md")).answer == part.run("Who?").answer
        with pytest.raises(UnknownName, match="'docs'"):
            part.run({"question": "Who?", "docs": "x"})


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        (asked("a.md", stile="x"), UnknownName, r"'stile'.*Known: documents, question, style"),
        (
            {"question": "Who?", "docs": {}},
            UnknownName,
            r"'docs'.*lack \{documents\} and \{style\}",
        ),
        (asked("a.md"), EmptyPrompt, r"\{style\}, but items \[0\] have none"),
        (asked("a.md", style=" "), EmptyPrompt, r"\{style\}, but items \[0\]"),
        ({"question": "Who?"}, EmptyPrompt, r"\{documents\}, but .*, and \{style\}, but"),
        ({"question": "W", "documents": {}, "style": "x"}, EmptyPrompt, r"\{documents\}, but"),
        ({"question": "W", "documents": [], "style": "x"}, EmptyPrompt, r"\{documents\}, but"),
        (
            {"documents": {"a": ""}},
            QueryError,
            "the text of document 'a' in the documents of q.* 0",
        ),
        ({"documents": {"a": "\n "}}, QueryError, "is empty; give it words, or leave the document"),
        ({"documents": {"": "x"}}, QueryError, "the name of document '' .* is empty"),
        ({"documents": {"a": None}}, QueryError, "the text of document 'a' .* is None; give words"),
        ({"documents": {"a": ["x"]}}, QueryError, r"is \['x'\]; give words"),
        ({"documents": {3: "x"}}, QueryError, "the name of document 3 .* is 3; give words"),
        ({"documents": None}, QueryError, "the documents of query 0 is None; give words, or doc"),
        ({"documents": 7}, QueryError, "is 7; give words, or documents"),
        ({"documents": ["x", 7]}, QueryError, "number 2 of the documents of query 0 is 7"),
        ({"documents": [{"text": "x"}]}, QueryError, r"number 1 .* is \{'text': 'x'\}; give"),
        (
            {"documents": [{"name": "a", "text": "x"}, {"name": "a", "text": "y"}]},
            QueryError,
            "the documents of query 0 have the name 'a' twice; give each document another",
        ),
        ({"documents": [{"name": "2", "text": "x"}, "y"]}, QueryError, "have the name '2' twice"),
        ({"documents": {"a": "\ud800"}}, QueryError, "is no valid Unicode"),
        ({"documents": {"\ud800": "a"}}, QueryError, "is no valid Unicode"),
        ({7: "x"}, QueryError, "query 0 has a field 7; name fields by words"),
        ({"question": b"x"}, QueryError, "the question of query 0 is b'x'; give words"),
    ],
)
def test_items_that_no_agent_can_read(
    tiny: Tiny, passes: Any, query: dict[Any, Any], error: type[UnspokenError], said: str
):
    """Refused before any pass, although the agent that cannot read them comes last."""
    model = tiny("llama")
    solver = reader(model, replace(ROLE, template="{messages}{documents}[{style}]"), "solver")
    first = Agent("first", model, settings=SHORT)
    pipeline = Pipeline([first, solver], [Edge("first", "solver", TextChannel())])
    with passes(model) as seen:
        for ask in (
            pipeline.run,
            lambda one: pipeline.run_many([one]),
            lambda one: pipeline.incoming([one]),
        ):
            with pytest.raises(error, match=said):
                ask(query)
    assert not seen


def test_a_document_longer_than_the_window_is_refused_before_any_pass(tiny: Tiny, passes: Any):
    model = tiny("llama")
    solver = reader(model, replace(ROLE, template="{messages}{documents}{question}"), "solver")
    first = Agent("first", model, settings=SHORT)
    pipeline = Pipeline([first, solver], [Edge("first", "solver", TextChannel())])
    long = {"question": "Who?", "documents": {"a.md": "short", "big.md": "x" * 300}}
    said = r"item 1 makes .* at most 256. Its longest text is document 'big.md' of its documents"
    with passes(model) as seen, pytest.raises(ContextTooLong, match=said):
        pipeline.run_many([asked("a.md"), long], batch_size=1)
    assert not seen


def test_a_silent_sender_may_pass_on_what_it_could_not_read(tiny: Tiny):
    sender = reader(tiny("llama"), replace(ROLE, template="{documents}"), "sender")
    solver = Agent("solver", tiny("llama"), settings=SHORT)
    edge = Edge("sender", "solver", TextChannel(verbatim=True, limit=20))
    query = {"question": "Who?", "documents": {"big.md": "x" * 300}}
    assert Pipeline([sender, solver], [edge]).run(query).turns


@pytest.mark.parametrize(
    ("document", "said"),
    [("{name}", r"hold \{text\} exactly once"), ("{text}{text}", "exactly once"), (7, "is 7, but")],
)
def test_formats_that_show_no_document(document: Any, said: str):
    with pytest.raises(PipelineError, match=said):
        Role(document=document)


# -- what a pool keeps -----------------------------------------------------------------------------

MOVES = Ladder(offsets="none", first=2, least=8)


def served(agent: Agent, query: dict[str, Any]) -> Served:
    return agent.read(fields_of([query])).served[0]


def bases(pool: AnchorPool) -> list[tuple[int, ...]]:
    return [base.ids for store in pool._stores.values() for base in store.shelf.bases]  # pyright: ignore


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_documents_in_another_order_are_moved_to_their_place(tiny: Tiny, kind: str):
    """Layer 0 sees no context, so there what is moved is exactly what a dense read gives."""
    model, pool = tiny(kind), AnchorPool(MOVES)
    agent = replace(reader(model), model=pool.wrap(model))
    agent.read(fields_of([asked("a.md", "b.md", "c.md", "d.md")]))
    query = asked("c.md", "a.md", "d.md", "b.md", question="Why?")
    read, dense = (one.read(fields_of([query])) for one in (agent, reader(model)))
    texts = sum(len(TEXTS[name]) for name in query["documents"])
    assert read.served[0].shifted + read.served[0].exact > texts
    for one, other in zip(read.context.kv[0], dense.context.kv[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_each_document_is_kept_once_whatever_the_order(tiny: Tiny):
    model, pool, draw = tiny("llama"), AnchorPool(MOVES), Random(0)
    agent = replace(reader(model), model=pool.wrap(model))
    names, shares = list(TEXTS), list[float]()
    for turn in range(12):
        draw.shuffle(names)
        query = asked(*names[: 5 - turn % 3], question=f"{turn}?")
        found = served(agent, query)
        shares.append(found.reused / (found.reused + found.dense + found.recomputed))
    assert len(bases(pool)) == len(TEXTS)
    assert shares[0] == 0
    assert min(shares[1:]) > 0.7
    pool.check()


def test_new_documents_between_known_ones_are_the_only_ones_read(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool(replace(MOVES, first=0))
    agent = replace(reader(model), model=pool.wrap(model))
    agent.read(fields_of([asked("a.md", "b.md")]))
    found = served(agent, asked("b.md", "e.md", "a.md"))
    new = f"## e.md\n{TEXTS['e.md']}\n"
    rest = "\n" * 2 + "Q: Who? A:"  # the end of the known documents, and what follows
    assert found.dense == len(new) + len(rest)
    again = served(agent, asked("e.md", "a.md", question="Why?"))
    assert again.dense == len("\n\nQ: Why? A:")


def test_a_document_is_found_by_its_content_in_any_field_and_format(tiny: Tiny):
    """As another role's context, under another name, and in a format without names."""
    model, pool = tiny("llama"), AnchorPool(replace(MOVES, first=0))
    wrapped = pool.wrap(model)
    reader(wrapped).read(fields_of([asked("a.md", "b.md")]))
    for role, query in (
        (Role("So. ", "{context}?", chat=False), {"context": TEXTS["b.md"]}),
        (ROLE, {"question": "Why?", "documents": {"other name": TEXTS["b.md"]}}),
        (replace(ROLE, document="{text} "), {"question": "Why?", "documents": [TEXTS["b.md"]]}),
    ):
        found = served(reader(wrapped, role), query)
        assert found.shifted in (len(TEXTS["b.md"]), len(TEXTS["b.md"]) + 1)  # the break before it
    assert len(bases(pool)) == 2


def test_hot_documents_stay_while_others_come_and_go(tiny: Tiny):
    """200 turns with two new documents each, and room for about twelve."""
    model = tiny("llama")
    pool = AnchorPool(MOVES, budget=12 * 45 * 768)
    agent, draw = replace(reader(model), model=pool.wrap(model)), Random(1)
    hot, late = list(TEXTS.items())[:2], list[int]()
    for turn in range(200):
        new = [(f"n{turn}{n}", "".join(draw.choices("abcdefgh ", k=40))) for n in "xy"]
        shown = [*new, *(hot if turn % 3 == 0 else [])]
        draw.shuffle(shown)
        found = served(agent, {"question": "Who?", "documents": dict(shown)})
        if turn % 3 == 0 and turn > 150:
            late.append(found.reused)
        assert pool.nbytes <= pool.budget
    assert min(late) > sum(len(text) for _, text in hot) - 4
    pool.check()


def test_what_was_hot_once_makes_room_in_the_end(tiny: Tiny):
    model = tiny("llama")
    pool = AnchorPool(MOVES, budget=6 * 45 * 768)
    agent = replace(reader(model), model=pool.wrap(model))
    for names in [("a.md", "b.md")] * 6 + [("c.md", "d.md"), ("d.md", "c.md")] * 6:
        found = served(agent, asked(*names))
    assert found.reused > len(TEXTS["c.md"]) + len(TEXTS["d.md"])


def test_roles_that_read_exactly_and_other_owners_get_nothing_moved(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool(MOVES)
    mine = pool.wrap(model, owner="ada")
    reader(mine).read(fields_of([asked("a.md", "b.md")]))
    swapped = fields_of([asked("b.md", "a.md")])
    exact = reader(mine, replace(ROLE, reuse="exact")).read(swapped)
    assert exact.served[0].reason == "the role reads exactly"
    assert exact.served[0].shifted == 0
    other = reader(pool.wrap(model, owner="bo")).read(swapped)
    assert other.served[0].reused == 0
    assert reader(mine).read(swapped).served[0].shifted > 0


def test_a_probe_out_of_tolerance_ends_moving_in_every_order(tiny: Tiny):
    """A consumer is the role, not one order or number of documents."""
    model = tiny("llama")
    pool = AnchorPool(MOVES, probe=1.0, tolerance=1e-12)
    agent = replace(reader(model), model=pool.wrap(model))
    reads: list[Read] = [
        agent.read(fields_of([asked(*names)]))
        for names in (
            ("a.md", "b.md"),
            ("b.md", "a.md"),
            ("c.md", "b.md"),
            ("b.md", "c.md", "a.md"),
        )
    ]
    assert [read.served[0].shifted for read in reads] == [0] * 4
    assert reads[1].served[0].reason == "its read was probed"
    assert all("KL" in read.served[0].reason for read in reads[2:])
    assert pool.state().fallen == 1


def test_offsets_learned_from_one_order_serve_the_others(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool(replace(MOVES, offsets="mean"))
    agent = replace(reader(model), model=pool.wrap(model))
    agent.read(fields_of([asked("a.md", "b.md")]))
    learned = served(agent, asked("b.md", "a.md"))
    assert "learn" in learned.reason
    assert served(agent, asked("c.md", "a.md", "b.md")).anchored > len(TEXTS["a.md"])


def test_rows_of_a_batch_are_served_each_by_its_own_documents(tiny: Tiny):
    model, pool = tiny("llama"), AnchorPool(replace(MOVES, first=0))
    agent = replace(reader(model), model=pool.wrap(model))
    agent.read(fields_of([asked("a.md", "b.md", "c.md")]))
    queries = [asked("c.md"), asked("b.md", "a.md", question="Why?"), asked("d.md")]
    found = agent.read(fields_of(queries)).served
    texts = [sum(len(TEXTS[name]) for name in query["documents"]) for query in queries]
    assert [row.shifted >= text for row, text in zip(found, texts, strict=True)] == [
        True,
        True,
        False,
    ]
    assert len(bases(pool)) == 4


# -- elsewhere -------------------------------------------------------------------------------------


def test_documents_reach_agents_in_other_processes(tiny: Tiny):
    make = partial(workers.tiny, "solver", "llama", 32, "{documents}{style} {question}")
    queries = [asked("a.md", "b.md", style="Brief."), asked("c.md", style="{x}")]
    here = Pipeline([make])
    with Pipeline([make], executor=Processes("pipe")) as there:
        for query in queries:
            assert there.run(query).answer == here.run(query).answer
        with pytest.raises(EmptyPrompt, match=r"\{documents\}"):
            there.run({"question": "Who?", "style": "x"})
        with pytest.raises(UnknownName, match="did you mean 'style'"):
            there.run(asked("a.md", style="x", styl="y"))
    assert json.loads(json.dumps(queries)) == queries
