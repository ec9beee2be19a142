"""Rows in company write what they write alone, whoever comes and goes beside them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from threading import Barrier, current_thread
from threading import enumerate as threads
from typing import Any

import pytest
import torch

from unspoken.backbone import Backbone, passes, running
from unspoken.backbone.grown import GrownCache
from unspoken.backbone.slots import SlotCache
from unspoken.cancelling import cancelled_by
from unspoken.errors import NotFinite, QueueFull
from unspoken.scheduling import Limits
from unspoken.testing import KINDS, tiny_backbone
from unspoken.types import CACHE, Context, KVCache, Prompt, Settings, Text, Words

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]
LETTERS = "the cat sat on a mat, and who would have thought so: 0123456789?"
LONG = "Where is the key? " * 6


def read(model: Backbone, *words: str) -> Context:
    return model.read(Prompt((Text(words),))).context


def asked(seed: int, count: int = 12) -> list[tuple[str, Settings]]:
    """Questions of unlike length, a third of them sampled, some with stop strings."""
    rng = random.Random(seed)
    found: list[tuple[str, Settings]] = []
    for n in range(count):
        words = "".join(rng.choices(LETTERS, k=rng.randint(1, 40)))
        hot = n % 3 == 2
        stop = ("a", "é") if n % 4 == 1 else ()
        settings = Settings(
            rng.randint(1, 14), stop, float(hot), rng.choice((1.0, 0.8)), rng.randrange(99)
        )
        found.append((words, settings))
    return found


def answer(words: Words) -> tuple[Any, ...]:
    return words.ids, words.words, words.finish, words.passes


def at_once(model: Backbone, questions: Sequence[tuple[str, Settings]]) -> list[tuple[Any, ...]]:
    """What each question gives where all are asked by threads that begin together."""
    barrier = Barrier(len(questions))

    def ask(question: tuple[str, Settings]) -> tuple[Any, ...]:
        context = read(model, question[0])
        barrier.wait()
        return answer(model.write(context, question[1]))

    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, questions))


def check_company(model: Backbone, seed: int) -> None:
    questions = asked(seed)
    alone = [answer(model.write(read(model, words), settings)) for words, settings in questions]
    for rows in (64, 3):
        model.scheduler.limits = Limits(max_rows=rows)
        assert at_once(model, questions) == alone
    together = model.write_together(
        [read(model, words) for words, _ in questions], [s for _, s in questions]
    )
    assert [answer(words) for words in together] == alone


@pytest.mark.parametrize("kind", KINDS)
def test_rows_write_in_company_what_they_write_alone(kind: str) -> None:
    model = tiny_backbone(kind)
    for seed in range(2):
        check_company(model, seed)
    assert model.scheduler.idle(30)
    assert not [one for one in threads() if one.name.startswith("scheduler of")]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_writes_the_same(kind: str, tiny: Tiny) -> None:
    model = tiny(kind)
    questions = [(words, Settings(9)) for words, _ in asked(5)]
    for (words, _), (ids, *_) in zip(questions, at_once(model, questions), strict=True):
        given = torch.tensor([model._bos + model.tokens(words)])
        out = model.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=9, do_sample=False
        )
        assert ids == (tuple(out[0, given.shape[1] :].tolist()),)


def one_position(rows: Any) -> None:
    """All rows are taken for as long as the first."""
    for row in rows[1:]:
        row.position = rows[0].position


def left_in_place(slots: SlotCache, row: int) -> None:
    """The last row does not take the place of one that leaves."""
    slots.lengths[row] = slots.lengths[-1]
    slots.lengths.pop()


@pytest.mark.parametrize("twin", ["positions", "places", "draws"])
def test_the_check_finds_what_is_wrong(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone()
    if twin == "positions":
        plain = running.RunningBatch._pass

        def passed(self: Any) -> Any:
            one_position(self.rows)
            return plain(self)

        monkeypatch.setattr(running.RunningBatch, "_pass", passed)
    elif twin == "places":
        monkeypatch.setattr(SlotCache, "leave", left_in_place)
    else:
        draw = torch.Generator()
        monkeypatch.setattr(running.torch, "Generator", lambda device: draw)
    with pytest.raises(AssertionError):
        check_company(model, 0)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_of_cancelled_rows_write_on(seed: int) -> None:
    model, rng = tiny_backbone("gemma"), random.Random(seed)
    questions = [(words, replace(s, max_tokens=20, stop=())) for words, s in asked(seed, 9)]
    alone = [model.write(read(model, words), settings) for words, settings in questions]
    model.scheduler.limits = Limits(max_rows=4)

    def ask(n: int) -> Words:
        words, settings = questions[n]
        context, left = read(model, words), iter(range(rng.randint(1, 16)))
        with cancelled_by(lambda: n % 3 == 0 and next(left, None) is None):
            return model.write(context, settings)

    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(ask, range(9)))
    for n, (one, other) in enumerate(zip(found, alone, strict=True)):
        if n % 3:
            assert answer(one) == answer(other)
        else:
            assert other.ids[0][: one.tokens[0]] == one.ids[0]
            assert one.finish[0] == "cancelled" or one.ids == other.ids
    assert model.scheduler.runner.slots.rooms == []  # an idle model holds no memory


def spoiled(context: Context) -> Context:
    """A context whose cache is NaN."""
    kv = tuple((keys * torch.nan, values * torch.nan) for keys, values in context.kv)
    return replace(context, cache=KVCache(kv))


def check_nan(model: Backbone) -> None:
    long, short = "a rather long question, longer than", "short?"
    alone = [model.write(read(model, words), Settings(12)).ids for words in (long, short)]
    with ThreadPoolExecutor(3) as pool:
        beside = pool.submit(model.write, read(model, long), Settings(12))
        fails = pool.submit(model.write, spoiled(read(model, long * 2)), Settings(12))
        with pytest.raises(NotFinite, match=model.name):
            fails.result()
        assert pool.submit(model.write, read(model, short), Settings(12)).result().ids == alone[1]
        assert beside.result().ids == alone[0]
    bad = [spoiled(read(model, long * 2)), read(model, short), read(model, long)]
    with pytest.raises(NotFinite, match=model.name):
        model.write_together(bad, [Settings(12)] * 3)


def slots_after_nan(leave: Any = None) -> torch.Tensor:
    """What is in the slots of a batch once a row of NaN has left it, and a short one has come."""
    slots = SlotCache()
    row = torch.ones(1, 1, 4, 2)
    slots.join([((row, row),), ((row * torch.nan, row),)], 4)
    (leave or SlotCache.leave)(slots, 1)
    slots.join([((row[:, :, :1], row[:, :, :1]),)], 4)
    return slots.rooms[0][0][:2, :, slots.start : slots.end]


def test_a_row_that_fails_leaves_nothing_behind() -> None:
    check_nan(tiny_backbone())
    assert bool(slots_after_nan().isfinite().all())
    assert not bool(slots_after_nan(lambda slots, row: slots.lengths.pop()).isfinite().all())


def test_rows_of_one_request_fail_together_and_the_next_is_served(tiny: Tiny) -> None:
    model = tiny("llama")
    context = read(model, "one", "another")
    broken = context.kv[0][0].clone()
    broken[1] = torch.nan
    kv = ((broken, context.kv[0][1]), *context.kv[1:])
    with pytest.raises(NotFinite):
        model.write(replace(context, cache=KVCache(kv)), Settings(4))
    assert model.write(context, Settings(4)).words == model.write(context, Settings(4)).words


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_what_was_written_is_in_the_cache_that_comes_back(kind: str, tiny: Tiny) -> None:
    model = tiny(kind)
    rows = "one", "another question"
    context = read(model, *rows)
    words = model.write(context, Settings(5, stop=("\n",)))
    assert words.cache is not None
    kept = words.cache.kv()
    for b, (row, ids) in enumerate(zip(rows, words.ids, strict=True)):
        whole = torch.tensor([[*model._bos, *model.tokens(row), *ids[:-1]]])
        dense = model.extend((), whole, torch.ones_like(whole, dtype=torch.bool), layers=3)
        end = context.mask.shape[1] + len(ids) - 1
        for pair, other in zip(kept, dense, strict=True):
            for part, judge in zip(pair, other, strict=True):
                torch.testing.assert_close(
                    part[b, :, end - whole.shape[1] : end], judge[0], atol=1e-4, rtol=1e-4
                )


def test_a_cache_of_nothing_written_is_what_was_read(tiny: Tiny) -> None:
    context = read(tiny("llama"), "one")
    assert GrownCache.of(context.cache, [()]).kv() is context.kv


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_rows_keep_positions_of_their_own(kind: str, tiny: Tiny) -> None:
    """A cache with fewer slots than positions, beside others."""
    model = tiny(kind)
    whole = read(model, "a question that is cut in its middle")
    keep = torch.arange(whole.mask.shape[1]) % 3 != 1
    keep[-1] = True
    cut = Context(
        whole.cache.rows(slice(None), keep[:-1]),
        whole.mask[:, keep],
        whole.last,
        whole.spelling.rows(slice(None), keep),
        whole.positions[:, keep],
    )
    others = [read(model, words) for words, _ in asked(7, 4)]
    alone = model.write(cut, Settings(8))
    judge = torch.zeros(1, 0, dtype=torch.long)
    together = model.write_together([others[0], cut, *others[1:]], [Settings(8)] * 5)
    assert answer(together[1]) == answer(alone)
    assert alone.ids != model.write(whole, Settings(8)).ids
    first = model.predict(cut).argmax(-1)
    assert torch.cat((judge, first[None]), 1).tolist() == [[alone.ids[0][0]]]


def test_text_comes_to_the_thread_that_asked(tiny: Tiny) -> None:
    model = tiny("llama")
    names: set[str] = set()

    def ask(n: int) -> None:
        pieces: list[str] = []
        mine = current_thread().name

        def tell(row: int, piece: str) -> None:
            names.add(current_thread().name)
            assert current_thread().name == mine
            pieces.append(piece)

        words = model.write(read(model, f"question {n}"), Settings(12), tell)
        assert "".join(pieces) == words.words[0]

    with ThreadPoolExecutor(4, thread_name_prefix="caller") as pool:
        list(pool.map(ask, range(8)))
    assert all(name.startswith("caller") for name in names)


def test_a_listener_that_raises_ends_its_own_row(tiny: Tiny) -> None:
    model = tiny("llama")

    def tell(row: int, piece: str) -> None:
        raise KeyError(piece)

    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(model.write, read(model, "who?"), Settings(20))
        with pytest.raises(KeyError):
            model.write(read(model, "what?"), Settings(200), tell)
        assert beside.result().ids == model.write(read(model, "who?"), Settings(20)).ids
    assert model.scheduler.idle(30)


def test_a_full_queue_is_refused_before_any_pass() -> None:
    model = tiny_backbone()
    context = read(model, "one", "two", "three")
    model.scheduler.limits = Limits(max_rows=1, max_waiting=1)
    with pytest.raises(QueueFull, match="3 more are given"):
        model.write(context, Settings(4))
    assert model.scheduler.state().steps == 0


def test_a_copy_of_a_model_has_a_scheduler_of_its_own() -> None:
    model = tiny_backbone()
    first = model.scheduler
    twin = deepcopy(model)
    twin.model.lm_head.weight.mul_(-1)
    assert twin.scheduler is not first
    assert twin.scheduler.runner.model is twin
    assert (
        twin.write(read(twin, "q"), Settings(6)).ids
        != model.write(read(model, "q"), Settings(6)).ids
    )


def test_a_long_prompt_is_written_on_in_place_once_and_stays_what_was_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "CHUNK", 16)
    model = tiny("llama")
    context = read(model, LONG)
    assert context.mask.shape[1] > 16
    before = [side.clone() for pair in context.kv for side in pair]
    rooms = list[torch.Tensor]()
    begin = SlotCache._begin

    def noted(slots: SlotCache, *given: Any) -> None:
        begin(slots, *given)
        rooms.append(slots.rooms[0][0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotCache, "_begin", noted)
        first = answer(model.write(context, Settings(8)))
        again = answer(model.write(context, Settings(8)))
    in_place = [room.data_ptr() == context.kv[0][0].data_ptr() for room in rooms]
    assert in_place == [True, False]
    assert first == again == answer(model.write(read(model, LONG), Settings(8)))
    after = [side for pair in context.kv for side in pair]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_row_joins_one_that_goes_on_in_place(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK", 16)
    model = tiny("llama")
    questions = [(LONG, Settings(40)), (LONG[:60], Settings(24))]
    alone = [answer(model.write(read(model, words), settings)) for words, settings in questions]
    contexts = [read(model, words) for words, _ in questions]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(model.write, contexts, [settings for _, settings in questions])
        assert [answer(words) for words in found] == alone


def test_threads_of_unlike_precision_do_not_share_steps(tiny: Tiny) -> None:
    model = tiny("llama")
    plain = model.scheduler
    with torch.autocast("cpu", torch.bfloat16):
        assert model.scheduler is not plain
        assert model.scheduler.runner.dtype == torch.bfloat16
        half = model.write(model.read(Prompt((Text(("q",)),)), needs=frozenset({CACHE})).context)
    assert half.tokens[0] > 0
    assert model.scheduler is plain
