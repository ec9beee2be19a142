"""Two pipelines share kept answers only if nothing that the answers depend on differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from tests.contract.cases import CASES
from tests.contract.test_channels import model_of
from unspoken.agents import Agent, Role
from unspoken.agents.memoized import MemoizedAgent
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.channels import Handoff, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import NoIdentity
from unspoken.evaluation import identity as identities
from unspoken.evaluation.content import content
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.identity import identity, key_of
from unspoken.evaluation.store import Store
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import FreeVectors, VocabularyMixing
from unspoken.protocols import Wrapper
from unspoken.studies.comparison import compare
from unspoken.tasks import Item, Overlap, Task
from unspoken.testing import tiny_backbone
from unspoken.types import Settings, Text
from unspoken.wire import Int4, Message, Tokens

ITEMS = tuple(
    Item(f"q{n}", f"Ada has {n} cats.", f"How many cats has Ada ({n})?", (str(n),))
    for n in range(4)
)
TASK = Task("cats", (), (), ITEMS, {}, Overlap({}, {}, 0))


def spelled(word: str, times: int = 1) -> str:
    return f"{word} " * times


class Telling(TextChannel):
    """Says what it holds in place of what it was given, so that the receiver answers by that."""

    def __init__(self, held: Any) -> None:
        super().__init__(verbatim=True)
        self.held = held

    def send(self, state: SenderState) -> Message:
        number = sum(json.dumps(content(self.held, "held")).encode())
        return self._message(state, Text((f"{number * 7919 % 997}",) * len(state.given)))


class Other(Telling):
    pass


class Child(Telling):
    def send(self, state: SenderState) -> Message:
        return self._message(state, Text(("something else",) * len(state.given)))


def numbers(place: int, count: int = 2000) -> torch.Tensor:
    values = torch.zeros(count)
    values[place] = 1
    return values


SIBLINGS: dict[str, tuple[Callable[[], TextChannel], ...]] = {
    "one element": tuple(partial(Telling, numbers(n)) for n in (700, 701)),
    "dtype": tuple(partial(Telling, numbers(0).to(kind)) for kind in (torch.half, torch.bfloat16)),
    "shape": tuple(partial(Telling, numbers(0).view(*size)) for size in ((2, -1), (-1, 2))),
    "nested": tuple(partial(Telling, {"a": [{"b": [1, n]}]}) for n in (2, 3)),
    "array element": tuple(partial(Telling, numbers(n).int().numpy()) for n in (700, 701)),
    "array dtype": tuple(partial(Telling, np.zeros(9, kind)) for kind in ("<i4", "<f4")),
    "class": (partial(Telling, 1), partial(Other, 1)),
    "subclass": (partial(Telling, 1), partial(Child, 1)),
    "argument": tuple(partial(Telling, partial(spelled, times=n)) for n in (1, 2)),
    "soft": tuple(
        partial(Telling, FreeVectors(count=1, width=2).requires_grad_(grad).train(grad))
        for grad in (True, False)
    ),
}


def pair(model: Backbone, channel: TextChannel) -> Pipeline:
    reads = Agent("sender", model, role=Role(template="F: {context}", chat=False))
    role = Role("", "{messages}\nQ: {question}\nA:", chat=False)
    solves = Agent("receiver", model, role=role, settings=Settings(max_tokens=3))
    return Pipeline([reads, solves], [Edge("sender", "receiver", channel)])


@pytest.mark.parametrize("make", SIBLINGS.values(), ids=SIBLINGS)
def test_siblings_are_told_apart_in_one_call_and_from_a_folder(
    make: tuple[Callable[[], TextChannel], ...], tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    one, two = (pair(tiny("llama"), each()) for each in make)
    assert key_of(one) != key_of(two)
    assert key_of(one) == key_of(pair(tiny("llama"), make[0]()))
    report = compare({"one": one, "two": two}, TASK, out=tmp_path / "both")
    kept = tmp_path / "both" / "predictions"
    found = [row for name in ("one", "two") for row in rows(kept / f"{name}-matched.jsonl")]
    assert len({row["arm"] for row in found}) == 2
    alone = compare({"one": two}, TASK, out=tmp_path / "two").arm("one", "matched")
    assert report.arm("two", "matched").tokens_read == alone.tokens_read
    assert asked_of(one, tmp_path / "both", "one") == 0
    assert asked_of(two, tmp_path / "both", "one") == 1


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked_of(pipeline: Pipeline, folder: Path, name: str) -> int:
    """How often a pipeline is asked whose answers are looked for under another's name."""
    calls, many = list[str](), Pipeline.run_many

    def counted(line: Pipeline, *given: Any, **options: Any) -> Any:
        calls.append(options["progress"])
        return many(line, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "run_many", counted)
        Evaluator(ITEMS, 16, Store(folder)).arm(name, "matched", pipeline)
    return len(calls)


def test_two_channels_that_differ_in_one_number_of_a_long_tensor_have_two_results(
    tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    lines = {str(n): pair(tiny("llama"), Telling(numbers(n))) for n in (1234, 1235)}
    report = compare(lines, TASK, out=tmp_path)
    assert report.channels == ["1234", "1235"]
    one, two = (rows(tmp_path / "predictions" / f"{name}-matched.jsonl") for name in lines)
    assert [row["prediction"] for row in one] != [row["prediction"] for row in two]
    assert {row["arm"] for row in one} != {row["arm"] for row in two}


def changed(model: Backbone) -> dict[str, Pipeline]:
    """Pipelines that differ from the first in one thing each."""
    plain = pair(model, TextChannel(verbatim=True))
    sender, receiver = plain.agents.values()
    (edge,) = plain.edges

    def line(*agents: Agent, edges: tuple[Edge, ...] = (edge,), rounds: int = 1) -> Pipeline:
        return Pipeline(agents, edges, rounds=rounds)

    def answering(**settings: Any) -> Pipeline:
        return line(sender, replace(receiver, settings=Settings(max_tokens=3, **settings)))

    def soft(seed: int) -> Pipeline:
        torch.manual_seed(seed)
        return line(sender, replace(receiver, soft=FreeVectors(count=1, width=model.spec.width)))

    handed = replace(edge, channel=Handoff())
    return {
        "plain": plain,
        "tokens": line(sender, replace(receiver, settings=Settings(max_tokens=4))),
        "temperature": answering(temperature=0.5),
        "seed": answering(temperature=0.5, seed=1),
        "role": line(sender, replace(receiver, role=replace(receiver.role, instructions="Say."))),
        "sender's role": line(replace(sender, role=replace(sender.role, chat=True)), receiver),
        "soft": soft(0),
        "other soft": soft(1),
        "class": line(MemoizedAgent("sender", model, role=sender.role), receiver),
        "limit": line(sender, receiver, edges=(replace(edge, channel=TextChannel(limit=2)),)),
        "shadow": line(sender, receiver, edges=(replace(edge, shadow=True),)),
        "channel": line(sender, receiver, edges=(handed,)),
        "pack": line(sender, receiver, edges=(replace(handed, pack=Int4(group=16)),)),
        "group": line(sender, receiver, edges=(replace(handed, pack=Int4(group=8)),)),
        "share": line(sender, receiver, edges=(replace(handed, pack=Tokens(share=0.5)),)),
        "rounds": line(sender, receiver, rounds=2),
        "two edges": line(sender, receiver, edges=(edge, handed)),
        "none": plain.without_messages(),
    }


def test_whatever_differs_between_pipelines_makes_another_key(tiny: Callable[..., Backbone]):
    first, again = changed(tiny("llama")), changed(tiny("llama"))
    for (one, line), (two, other) in combinations(first.items(), 2):
        assert key_of(line) != key_of(other), (one, two)
    assert [key_of(line) for line in first.values()] == [key_of(line) for line in again.values()]
    precise = tiny_backbone()
    precise.model.to(torch.bfloat16)  # the same weights by their fingerprint
    kinds = [
        tiny("llama"),
        tiny("llama", seed=1),
        precise,
        Wrapper(tiny("llama")),
    ]
    keys = {key_of(Pipeline([Agent("solver", model)])) for model in kinds}
    assert len(keys) == len(kinds)


def test_the_kind_of_device_counts_and_its_number_does_not(
    tiny: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, keys = changed(tiny("llama"))["plain"], list[str]()
    for name in ("cpu", "cuda:0", "cuda:1"):
        monkeypatch.setattr(identities, "device_of", lambda model, name=name: torch.device(name))
        keys.append(key_of(line))
    assert keys[0] != keys[1] == keys[2]


def test_a_model_by_another_name_is_the_same(tiny: Callable[..., Backbone]):
    model = tiny("llama")

    class Named(Wrapper):
        """A model that is known by another name."""

    named = Named(model)
    renamed = replace(model.spec, name="elsewhere", former="")
    one, two = (content(_Stated(spec), "agent") for spec in (model.spec, renamed))
    assert one == two
    assert content(_Stated(replace(renamed, weights="0" * 16)), "agent") != one
    with pytest.raises(NoIdentity, match="Named"):
        content(named, "agent")  # a class that has no name


class _Stated:
    """A model of which only the spec is asked."""

    def __init__(self, spec: Any) -> None:
        self.spec, self.score = spec, None


def test_mixing_by_another_temperature_is_another_channel():
    one, two = (
        VocabularyMixing(source_width=2, target_width=2, words=3, temperature=temperature)
        for temperature in (0.5, 1.0)
    )
    two.load_state_dict(one.state_dict())
    assert content(one, "projector") != content(two, "projector")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_channels_are_the_same_after_use(case: Any, tiny: Callable[..., Backbone]):
    sender, receiver = (model_of(tiny, kind) for kind in (case.sender, case.receiver))
    channel = case.make(sender, receiver)
    before = content(channel, "it")
    agents = [Agent("sender", sender), Agent("receiver", receiver, settings=Settings(max_tokens=2))]
    line = Pipeline(agents, [Edge("sender", "receiver", channel)])
    kept = identity(line)
    line.run_many([{"question": "who?", "context": "Ada."}] * 2)
    assert content(channel, "it") == before
    assert identity(line) == kept


def test_a_trained_part_that_was_saved_is_the_same(tmp_path: Path):
    vectors = FreeVectors(count=2, width=3).eval()
    vectors.save_pretrained(tmp_path)
    assert content(FreeVectors.from_pretrained(tmp_path), "it") == content(vectors, "it")


def test_what_an_agent_has_memorised_changes_nothing(tiny: Callable[..., Backbone]):
    line = changed(tiny("llama"))["class"]
    writing = line.with_edges([replace(line.edges[0], channel=TextChannel(limit=2))])
    before = identity(writing)
    writing.run({"question": "who?", "context": "Ada."})
    assert "_written" in vars(writing.agents["sender"])
    assert identity(writing) == before


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (object(), r"`held` of channel 'text' from 'sender' to 'receiver' is of type .*object"),
        ([lambda: 0], r"`held\[0\]` of channel 'text' .* function .*<lambda>, which cannot be"),
    ],
)
def test_a_comparison_refuses_what_it_cannot_tell_apart_before_any_pass(
    held: Any,
    named: str,
    tiny: Callable[..., Backbone],
    passes: Callable[[Backbone], Any],
) -> None:
    model = tiny("llama")
    lines = {"first": pair(model, TextChannel()), "odd": pair(model, Telling(held))}
    with passes(model) as seen, pytest.raises(NoIdentity, match=named):
        compare(lines, TASK)
    with passes(model) as seen_too, pytest.raises(NoIdentity, match=named):
        compare({"first": lines["first"]}, TASK, constants={"first": lines["odd"]})
    assert not seen
    assert not seen_too


def test_agents_that_read_from_a_pool_are_not_compared(tiny: Callable[..., Backbone]):
    line = pair(tiny("llama"), TextChannel()).served_by(AnchorPool())
    with pytest.raises(NoIdentity, match=r"`model.pool` of agent 'sender' is of type .*AnchorPool"):
        compare({"pooled": line}, TASK)


def test_end_tokens_and_all_of_a_tokenizer_count(tiny: Callable[..., Backbone]):
    model = tiny("llama")

    def made(change: Callable[[Any], None]) -> str:
        tokenizer = deepcopy(model.tokenizer)
        change(tokenizer)
        other = Backbone(model.model, tokenizer, name="other")
        return key_of(Pipeline([Agent("solver", other)]))

    def lower(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def ends(tokenizer: Any) -> None:
        tokenizer.eos_token = "<pad>"

    def template(tokenizer: Any) -> None:
        tokenizer.chat_template = tokenizer.chat_template + "Now: "

    keys = [made(change) for change in (lambda tokenizer: None, lower, ends, template)]
    assert len(set(keys)) == 4
    assert keys[0] == made(lambda tokenizer: None)
