"""A model in vLLM does what the same model does in transformers, row for row."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.cases import CASES, Case
from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.cancelling import cancelled_by
from unspoken.engines import VllmModel
from unspoken.engines import scoring as scoring_module
from unspoken.engines.holding import Holding
from unspoken.engines.scoring import check_scores
from unspoken.errors import ContextTooLong, IncompatibleModels, OutOfRoom
from unspoken.pipeline import Edge, Pipeline
from unspoken.sessions import Caches
from unspoken.testing import tiny_backbone
from unspoken.types import (
    CACHE,
    KV,
    TEXT,
    CacheSegment,
    Context,
    KVCache,
    Need,
    Prompt,
    Settings,
    Text,
    Vectors,
)

pytestmark = pytest.mark.vllm

ROWS = ("Ada keeps the green key in a drawer.", "Bo has none.", "x")
BOTH = frozenset({TEXT, CACHE})


def prompt(*words: str, opening: str = "Read this. ") -> Prompt:
    return Prompt((Text((opening,) * len(words), shared=True), Text(words)))


def near(one: KV, other: KV, mask: torch.Tensor) -> bool:
    real = mask[:, None, :, None]
    pairs = [pair for layer in zip(one, other, strict=True) for pair in zip(*layer, strict=True)]
    return all(torch.allclose(a * real, b * real, atol=1e-3) for a, b in pairs)


def drawn(model: Any, length: int, seed: int) -> CacheSegment:
    """A cache of `length` positions that no words have, as of a projector."""
    draw, spec = torch.Generator().manual_seed(seed), model.spec
    shape = (spec.layers, 2, 1, spec.kv_heads, length, spec.head_dim)
    kv = tuple((keys, values) for keys, values in torch.randn(shape, generator=draw))
    return CacheSegment.of(kv, torch.ones(1, length, dtype=torch.bool))


def after(cached: CacheSegment, words: str = "So: ") -> Prompt:
    return Prompt((cached, Text((words,) * cached.batch)))


def test_it_is_the_same_model(model: VllmModel, plain: Backbone):
    for name in ("weights", "tokenizer", "former", "layers", "kv_heads", "positions", "kinds"):
        assert getattr(model.spec, name) == getattr(plain.spec, name)
    assert model.spec.gives == ("text", "cache")
    words = "Ada's key <turn>"
    assert model.encode(words, ()) == plain.encode(words, ())
    assert model.chat("s", "u") == plain.chat("s", "u")
    assert torch.equal(model.embed(torch.tensor([5, 9])), plain.embed(torch.tensor([5, 9])))


def test_it_writes_the_same(model: VllmModel, plain: Backbone):
    settings = Settings(max_tokens=40)
    found, right = (one.write(one.read(prompt(*ROWS)).context, settings) for one in (model, plain))
    assert found.ids == right.ids
    assert (found.words, found.finish, found.tokens) == (right.words, right.finish, right.tokens)
    assert found.wait > 0


def test_its_words_come_as_they_are_written_up_to_a_stop(model: VllmModel, plain: Backbone):
    whole = plain.write(plain.read(prompt(*ROWS)).context, Settings(max_tokens=40)).words
    stop = next(one[5:8] for one in whole if len(one.strip()) > 10)
    settings, told = Settings(max_tokens=40, stop=(stop,)), ["", "", ""]

    def tell(row: int, words: str) -> None:
        told[row] += words

    found = model.write(model.read(prompt(*ROWS)).context, settings, tell)
    right = plain.write(plain.read(prompt(*ROWS)).context, settings)
    assert (found.words, found.finish, found.ids) == (right.words, right.finish, right.ids)
    assert "stop" in found.finish
    assert tuple(told) == found.words


def test_it_scores_the_same(model: VllmModel, plain: Backbone):
    answers = ["in a drawer", "no", [7, 9, 200]]
    context = plain.read(prompt(*ROWS)).context
    right, likeliest = plain.assess(context, answers)
    found, same = model.assess(model.read(prompt(*ROWS)).context, answers)
    assert torch.allclose(found, right, atol=1e-3)
    assert torch.equal(same, likeliest)
    own = plain.write(context, Settings(max_tokens=4)).ids
    assert model.assess(model.read(prompt(*ROWS)).context, own)[1].all()


def test_its_cache_is_the_same(model: VllmModel, plain: Backbone):
    found, right = (one.read(prompt(*ROWS), needs=BOTH) for one in (model, plain))
    assert found.tokens == right.tokens
    assert found.cached is not None
    assert right.cached is not None
    assert near(found.cached.kv, right.cached.kv, right.cached.mask)
    assert near(found.context.kv, right.context.kv, right.context.mask[:, :-1])
    settings = Settings(max_tokens=12)
    assert model.write(found.context, settings).ids == plain.write(right.context, settings).ids


def lay_out(model: Any, plain: Backbone) -> list[Prompt]:
    """Prompts with caches and vectors in all places."""
    own = plain.read(prompt(*ROWS), needs=BOTH).cached
    assert own is not None
    foreign = drawn(plain, 37, seed=1)
    mask = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    vectors = Vectors(torch.randn(3, 3, 64, generator=torch.Generator().manual_seed(2)), mask)
    texts = Text((" one two", " three", " four five six"))
    return [
        Prompt((own, texts)),
        Prompt((foreign.repeat(3), texts)),
        Prompt((Text(("Lead. ",) * 3, shared=True), own, texts)),
        Prompt((Text(ROWS), own, Text(("and",) * 3), foreign.repeat(3), texts)),
        Prompt((Text(("Lead. ",) * 3, shared=True), vectors, texts)),
        Prompt((own, vectors, Text(("and",) * 3), vectors, texts)),
    ]


@pytest.mark.parametrize("place", range(6))
def test_caches_and_vectors_are_read_wherever_they_are(
    place: int, model: VllmModel, plain: Backbone
):
    asked, settings = lay_out(model, plain)[place], Settings(max_tokens=24)
    found, right = (one.read(asked).context for one in (model, plain))
    assert model.write(found, settings).ids == plain.write(right, settings).ids
    answers = ["abc", "d", "ef"]
    assert torch.allclose(model.score(found, answers), plain.score(right, answers), atol=2e-3)


def test_a_row_is_the_same_alone_and_in_company(model: VllmModel):
    settings = Settings(max_tokens=20)
    many = [f"{n} is a number that {'really ' * (n % 5)}counts" for n in range(40)]
    whole = model.write(model.read(prompt(*many)).context, settings).ids
    for n in (0, 13, 39):
        (alone,) = model.write(model.read(prompt(many[n])).context, settings).ids
        assert alone == whole[n]


def test_threads_share_the_engine(model: VllmModel):
    settings = Settings(max_tokens=24)

    def write(n: int) -> Any:
        return model.write(model.read(prompt(f"row {n}")).context, settings).ids

    right = [write(n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(8))) == right


def test_draws_depend_on_the_seed_alone(model: VllmModel):
    context = model.read(prompt("row", "row", "row")).context
    hot = Settings(max_tokens=12, temperature=1.0, top_p=0.9)
    first, second, third = model.write(context, replace(hot, seed=(1, 2, 1))).ids
    assert first == third != second
    assert model.write(model.read(prompt("row")).context, replace(hot, seed=1)).ids == (first,)


# -- salts -----------------------------------------------------------------------------------------


def two_memories(model: VllmModel, plain: Backbone, seed: int) -> tuple[list[Any], list[Any]]:
    """What is written after two caches that are longer than a block, and what is right."""
    settings, caches = Settings(max_tokens=12), [drawn(plain, 80, seed + n) for n in range(2)]
    found, right = (
        [one.write(one.read(after(cached)).context, settings).ids for cached in caches]
        for one in (model, plain)
    )
    assert right[0] != right[1]
    return found, right


def test_each_memory_has_an_answer_of_its_own(model: VllmModel, plain: Backbone):
    found, right = two_memories(model, plain, seed=10)
    assert found == right


def test_without_a_salt_another_memory_answers(
    model: VllmModel, plain: Backbone, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Holding, "_salt", lambda self, load: "")
    found, right = two_memories(model, plain, seed=20)
    assert found[0] == right[0]
    assert found[1] != right[1]  # blocks of the first were taken for it


def test_vectors_are_part_of_what_is_shared(model: VllmModel, plain: Backbone):
    settings, ids = Settings(max_tokens=12), torch.randn(2, 70, 64)
    texts = [Prompt((Vectors(one[None], torch.ones(1, 70).bool()), Text((" so",)))) for one in ids]
    found, right = (
        [one.write(one.read(text).context, settings).ids for text in texts]
        for one in (model, plain)
    )
    assert found == right
    assert right[0] != right[1]


def test_a_memory_is_loaded_and_not_read_again(model: VllmModel):
    computed: list[int] = []
    with spied_schedule(model, computed):
        cached = model.read(prompt("w" * 200), needs=BOTH).cached
    assert cached is not None
    with spied_schedule(model, computed):
        model.write(model.read(after(cached)).context, Settings(max_tokens=1))
    assert computed == [cached.mask.shape[1], len("So: ")]


def _scheduler(model: VllmModel) -> Any:
    return model.engine._llm.engine_core.engine_core.scheduler


# -- scores ----------------------------------------------------------------------------------------


def test_by_default_vllm_scores_placeholders_and_is_refused(
    model: VllmModel, monkeypatch: pytest.MonkeyPatch
):
    holding = Holding(model.inner, model.engine, "checks")
    check_scores(holding)
    monkeypatch.setitem(scoring_module.SCORING, "skip_reading_prefix_cache", None)
    with pytest.raises(IncompatibleModels, match=r"scores tokens by up to .* nats otherwise"):
        check_scores(holding)


def test_blocks_that_are_known_are_scored_all_the_same(model: VllmModel, plain: Backbone):
    """The last token of what was read must be computed again: its logits are the first score."""
    for count in range(50, 54):  # with the opening, one of them ends with a block
        words = "w" * count
        model.write(model.read(prompt(words)).context, Settings(max_tokens=1))
        found, right = (
            one.score(one.read(prompt(words)).context, ["abc"]) for one in (model, plain)
        )
        assert torch.allclose(found, right, atol=1e-3)


# -- owners and room -------------------------------------------------------------------------------


def test_owners_share_neither_names_nor_answers(model: VllmModel, plain: Backbone):
    one, two = model.owned_by("a"), model.owned_by("b")
    cached, settings = drawn(plain, 70, seed=30), Settings(max_tokens=8)
    right = plain.write(plain.read(after(cached)).context, settings).ids
    contexts = [each.read(after(cached)).context for each in (one, two)]
    assert one.write(contexts[0], settings).ids == two.write(contexts[1], settings).ids == right
    names = {held.name for context in contexts for held in _fronts(context)}
    assert len(names) == 2
    mine = _fronts(contexts[0])[0]
    assert model.engine.store.find(mine.name, "b") is None


def test_what_is_handed_to_another_owner_is_his_own_then(model: VllmModel, plain: Backbone):
    one, two = model.owned_by("a"), model.owned_by("b")
    cached = one.read(prompt("a secret of a"), needs=BOTH).cached
    assert cached is not None
    (front,) = _fronts(two.read(after(cached)).context)
    assert front.owner == "b"


def _fronts(context: Context) -> list[Any]:
    cache: Any = context.cache
    return [row.front for row in cache.parts]


def test_a_full_budget_is_an_error_before_anything_is_read(
    model: VllmModel, monkeypatch: pytest.MonkeyPatch
):
    store = model.engine.store
    monkeypatch.setattr(store, "budget", store.used + 100 * model._holding.slot_bytes)
    held = model.read(prompt("w" * 60), needs=BOTH)
    with pytest.raises(OutOfRoom, match="Raise `budget`"):
        model.read(prompt("v" * 60), needs=BOTH)
    used = store.used
    del held
    assert store.used < used
    assert model.read(prompt("v" * 60), needs=BOTH).cached is not None


def test_what_is_too_long_is_refused(model: VllmModel):
    with pytest.raises(ContextTooLong):
        model.read(prompt("w" * 600))
    context = model.read(prompt("w" * 400)).context
    with pytest.raises(ContextTooLong, match="lower max_tokens"):
        model.write(context, Settings(max_tokens=200))
    with pytest.raises(ContextTooLong):
        model.score(context, [[5] * 200])


# -- cancelling ------------------------------------------------------------------------------------


def test_cancelled_rows_give_back_their_blocks(model: VllmModel, plain: Backbone):
    pool = _scheduler(model).kv_cache_manager.block_pool
    free, used = pool.get_num_free_blocks(), model.engine.store.used
    right = plain.write(plain.read(after(drawn(plain, 50, 40))).context, Settings(max_tokens=9)).ids
    for n in range(60):
        cached = drawn(plain, 50, 40 + n % 7)
        asked = iter([False] * (n % 4) + [True] * 1000)
        with cancelled_by(lambda asked=asked: next(asked)):
            context = _or_cancelled(model, after(cached))
            if context is not None:
                words = _or_none(model, context)
                assert words is None or words.finish == ("cancelled",)
    found = model.write(model.read(after(drawn(plain, 50, 40))).context, Settings(max_tokens=9)).ids
    assert found == right
    assert pool.get_num_free_blocks() == free
    assert model.engine.store.used == used
    assert not model.engine.store.saved


def _or_cancelled(model: VllmModel, asked: Prompt) -> Context | None:
    from unspoken.cancelling import Cancelled

    try:
        return model.read(asked, needs=BOTH).context
    except Cancelled:
        return None


def _or_none(model: VllmModel, context: Context) -> Any:
    from unspoken.cancelling import Cancelled

    try:
        return model.write(context, Settings(max_tokens=200))
    except Cancelled:
        return None


# -- channels --------------------------------------------------------------------------------------

ITEMS = [{"context": row, "question": f"Where is it, {n}?"} for n, row in enumerate(ROWS)]
HEARD = ("text", "text-verbatim", "embedding", "embedding-prompt", "embedding-ridge")
HEARD += ("memory", "memory-prompt", "fusion", "constant", "soft-mixing")
SAME = ("handoff", "rollout", "soft")
SHARED = ("handoff", "handoff-without-lead", "text")
REFUSED = ("layers", "rollout", "soft", "layers-one")


def case(name: str) -> Case:
    return next(one for one in CASES if one.name == name)


def pipeline(sender: Any, receiver: Any, channel: Any) -> Pipeline:
    reader = Agent("reader", sender, role=Role("You read.\n", "{context}"))
    role = Role("Answer.\n", "{messages}Q: {question}\nA:", "Note: {message}\n")
    solver = Agent("solver", receiver, role=role, settings=Settings(max_tokens=12))
    return Pipeline([reader, solver], [Edge("reader", "solver", channel)])


@pytest.mark.parametrize("name", HEARD)
def test_messages_of_other_models_are_heard(name: str, model: VllmModel, plain: Backbone):
    kind, _, width = case(name).sender.partition(":")
    sender = tiny_backbone(kind, width=int(width or 32))
    channel = case(name).make(sender, plain)
    found, right = (pipeline(sender, one, channel).run_many(ITEMS) for one in (model, plain))
    assert [run.answer for run in found] == [run.answer for run in right]
    assert [run.usage.read for run in found] == [run.usage.read for run in right]


@pytest.mark.parametrize("name", SAME)
def test_messages_of_the_same_model_in_transformers_are_heard(
    name: str, model: VllmModel, plain: Backbone
):
    channel = case(name).make(plain, plain)
    found, right = (pipeline(plain, one, channel).run_many(ITEMS) for one in (model, plain))
    assert [run.answer for run in found] == [run.answer for run in right]


@pytest.mark.parametrize("name", SHARED)
def test_agents_share_an_engine(name: str, model: VllmModel, plain: Backbone):
    channel = case(name).make(plain, plain)
    found, right = (pipeline(one, one, channel).run_many(ITEMS) for one in (model, plain))
    assert [run.answer for run in found] == [run.answer for run in right]
    assert [run.usage.wire for run in found] == [run.usage.wire for run in right]


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_cannot_send_is_refused_when_a_pipeline_is_made(
    name: str, model: VllmModel, plain: Backbone
):
    with pytest.raises(IncompatibleModels, match=r"channel 'text'|like 'text'|use a Backbone"):
        pipeline(model, model, case(name).make(plain, plain))


def test_a_conversation_goes_on_as_in_transformers(model: VllmModel, plain: Backbone):
    asked = [{"context": row, "question": "Where is it?"} for row in ROWS]
    channel = case("text").make(plain, plain)
    found, right = (
        [run.answer for run in map(pipeline(one, one, channel).session().run, asked)]
        for one in (model, plain)
    )
    assert found == right


def test_conversations_of_two_owners_share_no_blocks(model: VllmModel):
    words = Prompt((Text(("a secret " * 10,)),))
    scheduled: list[int] = []
    for owner in ("ada", "bob", "ada"):
        talk = Caches(AnchorPool("exact"), owner).wrap(model)
        with spied_schedule(model, scheduled):
            talk.write(talk.read(words).context, Settings(max_tokens=1))
    assert scheduled == [90, 90, 90 - 64]  # two blocks of 32 were known


@contextmanager
def spied_schedule(model: VllmModel, counts: list[int]) -> Iterator[None]:
    """Adds up how many tokens the engine computes."""
    scheduler, counted = _scheduler(model), 0
    whole = scheduler.schedule

    def spied(*args: Any, **named: Any) -> Any:
        nonlocal counted
        out = whole(*args, **named)
        counted += out.total_num_scheduled_tokens
        return out

    scheduler.schedule = spied
    try:
        yield
    finally:
        scheduler.schedule = whole
        counts.append(counted)


def test_pools_and_states_are_refused(model: VllmModel, plain: Backbone):
    with pytest.raises(IncompatibleModels, match=r"which it shares itself; use a Backbone"):
        pipeline(model, model, case("text").make(plain, plain)).served_by(AnchorPool())
    with pytest.raises(IncompatibleModels, match="use a Backbone as the sender"):
        model.read(prompt("x"), needs=frozenset({Need("hidden", 1)}))


def test_a_cache_without_some_layers_is_refused(model: VllmModel, plain: Backbone):
    cached = drawn(plain, 5, 1)
    kv = tuple((k[:, :0], v[:, :0]) if n else (k, v) for n, (k, v) in enumerate(cached.kv))
    with pytest.raises(IncompatibleModels, match="leaves out layers"):
        model.read(after(CacheSegment(KVCache(kv), cached.mask, cached.positions)))


def test_a_compacted_cache_is_refused(model: VllmModel, plain: Backbone):
    cached = drawn(plain, 3, 1)
    sparse = CacheSegment(cached.cache, cached.mask, torch.tensor([[0, 2, 5]]))
    with pytest.raises(IncompatibleModels, match="fewer slots than positions"):
        model.read(after(sparse))
