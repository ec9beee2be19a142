"""Cells of words: what is read, written, scored, batched and handed over."""

from __future__ import annotations

from unspoken.channels import Handoff, TextChannel
from unspoken.types import Text
from unspoken.wire import Message

from .world import CHANGED, CONTEXT, OTHER, QUESTION, SETTINGS, Pair, World, close, item, must

__all__ = ["batch", "handoff", "lead", "reading", "text", "wire_cache", "wire_text"]


def reading(world: World) -> None:
    """A prompt that is read, its next token and the score of an answer."""
    rows = world.rows(world.ids(CONTEXT + QUESTION))
    context = world.read(world.either(CONTEXT, CHANGED) + QUESTION)
    world.agree(context, rows)


def text(world: World) -> None:
    """Two agents over channel text, each turn."""
    asked = world.ids(CONTEXT)
    rows = world.rows(asked)
    world.plain.generate(asked, SETTINGS.max_tokens)
    pair = world.pair(TextChannel(), message="Note:{message}\n")
    with world.writing() as log:
        pair.run(world.either(CONTEXT, OTHER))
    (first, said), (second, answered) = log
    world.agree(first, rows, "sender's")
    world.writes(said, asked, "sender's")
    heard = world.tokenizer.decode(said.ids[0], skip_special_tokens=True).strip()
    heard = f" {heard}" if heard else ""
    told = world.ids(f"Note:{heard}\n{QUESTION}")
    world.agree(second, world.rows(told), "receiver's")
    world.writes(answered, told, "receiver's")


_LEAD = "Answer in few words.\n"


def lead(world: World) -> None:
    """Instructions that are read by themselves, once for two questions."""
    agent = world.agent("solver", "{context}", lead=world.either(_LEAD, _LEAD.replace("f", "v")))
    for context in (CONTEXT[:26], OTHER[:24]):
        ids = world.ids(_LEAD + context)
        rows = world.rows(ids)
        world.plain.generate(ids, SETTINGS.max_tokens)
        read = agent.read(item(context)).context
        world.agree(read, rows, "with instructions")
        world.writes(world.model.write(read, SETTINGS), ids, "with instructions")


_ITEMS = (CONTEXT, "Bo has none.", "Cy left it at the station.")
_OTHERS = (OTHER, "Al saw them!", "Di had hers in a small bag")


def batch(world: World) -> None:
    """Three items of unlike lengths together, and each alone."""
    ids = [world.ids(f"{words}\n") for words in _ITEMS]
    rows = [world.rows(one) for one in ids]
    for one in ids:
        world.plain.generate(one, SETTINGS.max_tokens)
    pair = world.agent("reader", "{question}\n")
    agents = Pair(TextChannel(verbatim=True), pair, world.agent("last", "{messages}{question}\n"))
    solo = agents.pipeline.without_messages()
    given = _OTHERS if world.spoil else _ITEMS
    with world.writing() as log:
        together = [run.answer for run in solo.run_many([{"question": q} for q in given])]
    found = [(context, words, row) for context, words in log for row in range(context.batch)]
    order = sorted(range(3), key=lambda n: len(_ITEMS[n]))  # as `run_many` sorts them
    for n, (context, words, row) in zip(order, found, strict=True):
        world.agree(context, rows[n], f"row {n}", row)
        world.writes(words, ids[n], f"row {n}", row)
    alone = [solo.run({"question": q}).answer for q in _ITEMS]
    must(together == alone, f"together {together}, alone {alone}")


def wire_text(world: World) -> None:
    """A message of words, to bytes and back."""
    _through_bytes(world, world.pair(TextChannel(), message="Note:{message}\n"))


def wire_cache(world: World) -> None:
    """A hand-over, to bytes and back."""
    _through_bytes(world, world.pair(Handoff()))


def _through_bytes(world: World, pair: Pair) -> None:
    message = pair.message()
    sent = message
    if world.spoil and isinstance(message.payload, Text):
        sent = Message(message.header, Text(("none of them",)))
    elif world.spoil:
        sent = pair.message(OTHER)
    loaded = Message.from_bytes(sent.to_bytes())
    before, after = (world.model.predict(pair.read(one)) for one in (message, loaded))
    close(after.log_softmax(-1), before.log_softmax(-1), "after bytes")


def handoff(world: World) -> None:
    """A hand-over: what is written is what is written after both texts."""
    ids = [*world.ids(CONTEXT), *world.ids(QUESTION)]
    rows = world.rows(ids)
    world.plain.generate(ids, SETTINGS.max_tokens)
    pair = world.pair(Handoff())
    with world.writing() as log:
        pair.run(world.either(CONTEXT, OTHER))
    ((context, words),) = log
    world.agree(context, rows)
    world.writes(words, ids)
