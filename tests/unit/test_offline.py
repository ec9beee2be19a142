"""Prompts that are known ahead: which share a beginning, what is read once, and the same words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest

from unspoken.backbone import Backbone
from unspoken.errors import ContextTooLong
from unspoken.scheduling import Group, Limits, grouped
from unspoken.testing import tiny_backbone
from unspoken.types import CACHE, Prompt, Settings, Text

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]


def saved(groups: Sequence[Group]) -> int:
    return sum(group.saved for group in groups)


def best(prompts: Sequence[Sequence[int]], places: Sequence[int]) -> int:
    """The most that any grouping saves: every set with the first prompt, and the rest."""
    if not places:
        return 0
    first, rest = places[0], places[1:]
    most = 0
    for count in range(len(rest) + 1):
        for others in combinations(rest, count):
            rows = [prompts[n] for n in (first, *others)]
            begin = 0
            while all(len(row) > begin + 1 and row[begin] == rows[0][begin] for row in rows):
                begin += 1
            left = [n for n in rest if n not in others]
            most = max(most, count * begin + best(prompts, left))
    return most


@pytest.mark.parametrize("seed", range(40))
def test_no_grouping_saves_more(seed: int) -> None:
    rng = random.Random(seed)
    prompts = [rng.choices((1, 2), k=rng.randint(1, 6)) for _ in range(7)]
    groups = grouped(prompts, least=1)
    assert sorted(n for group in groups for n in group.members) == list(range(7))
    for group in groups:
        assert len({tuple(prompts[n][: group.begin]) for n in group.members}) == 1
        assert all(len(prompts[n]) > group.begin for n in group.members) or not group.begin
    assert saved(groups) == best(prompts, range(7))


def test_a_beginning_that_is_too_short_is_none() -> None:
    assert [group.begin for group in grouped([[1, 2, 3], [1, 2, 4]], least=3)] == [0, 0]
    assert grouped([]) == []
    assert grouped([[1] * 5000] * 3)[0] == Group(4999, (0, 1, 2))
    nested = [[1] * n for n in range(1, 1500)]  # each begins the next, as the turns of a talk do
    assert sum(len(group.members) for group in grouped(nested)) == 1499


def prompts() -> list[Prompt]:
    """Questions on three documents, in no order, and one on none."""
    documents = [f"Document {n}: " + "the ship sailed north. " * (n + 1) for n in range(3)]
    found = [f"{documents[n % 3]}\nQuestion {n}?" for n in range(10)]
    return [Prompt((Text((words,)),)) for words in [*found, "And what else?"]]


def read_tokens(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of a row each pass reads from now on."""
    plain, counts = model.turns.read, list[int]()

    def counted(tokens: int) -> Any:
        counts.append(tokens)
        return plain(tokens)

    monkeypatch.setattr(model.turns, "read", counted)
    return counts


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_all_are_answered_as_each_alone_and_beginnings_are_read_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = tiny_backbone(kind), prompts()
    settings = [Settings(3 + n % 4, temperature=float(n % 2), seed=n) for n in range(len(asked))]
    alone = [
        model.write(model.read(prompt).context, own)
        for prompt, own in zip(asked, settings, strict=True)
    ]
    model.scheduler.limits = Limits(max_rows=2)
    counts = read_tokens(model, monkeypatch)
    found = model.write_all(asked, settings)
    assert [(one.ids, one.finish) for one in found] == [(one.ids, one.finish) for one in alone]
    assert all(one.cache is None for one in found)
    grouped_tokens = sum(counts)
    counts.clear()
    for prompt in asked:
        model.read(prompt)
    assert grouped_tokens < 0.6 * sum(counts)
    assert model._opening == ((), ())  # the last beginning is dropped too
    assert model.scheduler.idle(30)


def test_prompts_that_share_nothing_are_read_as_they_are(tiny: Tiny) -> None:
    model = tiny("llama")
    cached = model.read(Prompt((Text(("a cache",)),)), needs=frozenset({CACHE})).cached
    assert cached is not None
    asked = [
        Prompt((Text(("one", "another")),)),
        Prompt((cached, Text((" and words",)))),
        Prompt((Text(("one",)),)),
    ]
    found = model.write_all(asked, [Settings(4)] * 3)
    for prompt, one in zip(asked, found, strict=True):
        assert one.ids == model.write(model.read(prompt).context, Settings(4)).ids


def test_what_does_not_fit_is_refused_and_leaves_nothing_behind() -> None:
    model = tiny_backbone()
    asked = prompts()[:3]
    with pytest.raises(ContextTooLong, match="lower max_tokens"):
        model.write_all(asked, [Settings(20), Settings(20), Settings(250)])
    assert model.scheduler.idle(30)
    assert model.scheduler.state().running == 0
