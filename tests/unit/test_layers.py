"""Memories that leave out layers: exact where they are absent, and the choice of what is sent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from threading import Event, Thread, get_ident
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.backbone.attention import narrowed
from unspoken.backbone.caches import fresh_cache
from unspoken.channels import Handoff, SelectiveLayers, make_channel
from unspoken.channels.layers import ranked
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import tiny_backbone
from unspoken.types import CACHE, CacheSegment, Context, KVCache, Need, Prompt, Settings, Text

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

FACT, LEAD, ASKED = "The key is here.", "Answer. ", "Where is it?"
REMEMBERED = frozenset({CACHE})


def remembered(model: Backbone, *texts: str) -> CacheSegment:
    """What the model read, without `<bos>`, as if it were all."""
    agent = Agent("reader", model, role=Role(template="{context}", chat=False))
    message = SelectiveLayers(ratio=1.0).send(
        agent.compute({"context": texts}, needs=REMEMBERED)[0]
    )
    assert isinstance(message.payload, CacheSegment)
    return message.payload


def without(memory: CacheSegment, *layers: int) -> CacheSegment:
    kv = [(k[:, :0], v[:, :0]) if n in layers else (k, v) for n, (k, v) in enumerate(memory.kv)]
    return replace(memory, cache=KVCache(tuple(kv)))


def heard(model: Backbone, memory: CacheSegment, lead: str = LEAD, asked: str = ASKED) -> Context:
    batch = memory.batch
    first = (Text((lead,) * batch, shared=True),) if lead else ()
    return model.read(Prompt((*first, memory, Text((asked,) * batch)))).context


class Cut(TorchFunctionMode):
    """The reference: in some layers the memory's keys are taken away, not masked.

    slots: where the memory stands; layers: those that do not hold it.
    """

    def __init__(self, depth: int, layers: tuple[int, ...], slots: slice) -> None:
        super().__init__()
        self.depth, self.layers, self.slots, self.calls = depth, layers, slots, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            layer, self.calls = self.calls % self.depth, self.calls + 1
            query, keys, values = args
            if layer in self.layers and keys.shape[2] >= self.slots.stop:
                keep = torch.ones(keys.shape[2], dtype=torch.bool)
                keep[self.slots] = False
                mask = kwargs["attn_mask"]
                mask = mask if mask is None else mask[..., keep]
                args, kwargs = (
                    (query, keys[:, :, keep], values[:, :, keep]),
                    {**kwargs, "attn_mask": mask},
                )
        return func(*args, **(kwargs or {}))


def near(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-5)


def greedy(model: Backbone, context: Context, count: int) -> tuple[int, ...]:
    """The likeliest tokens after a context, pass by pass, in this thread."""
    cache, last, mask, found = fresh_cache(context.kv), context.last, context.mask, list[int]()
    while len(found) < count and not set(found) & set(model.ends):
        out = model.model(
            input_ids=last[:, None],
            attention_mask=mask.long(),
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
        )
        last, mask = out.logits[:, -1].argmax(-1), torch.nn.functional.pad(mask, (0, 1), value=True)
        found.append(int(last))
    return tuple(found)


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
@pytest.mark.parametrize("layers", [(0,), (1, 2), (2,)])
@torch.no_grad()
def test_a_layer_that_is_left_out_is_as_if_its_keys_were_not_there(
    tiny: Tiny, kind: str, layers: tuple[int, ...]
):
    model = tiny(kind)
    memory = remembered(model, FACT)
    begin = len(LEAD) + (kind == "gemma")
    slots = slice(begin, begin + memory.mask.shape[1])
    context = heard(model, without(memory, *layers))
    with Cut(3, layers, slots):
        reference = heard(model, memory)
        expected = model.score(reference, ["attic"]), model.predict(reference)
        words = greedy(model, reference, 6)
    for pair, others in zip(context.kv, reference.kv, strict=True):
        for left, right in zip(pair, others, strict=True):
            near(left[:, :, slots.stop :], right[:, :, slots.stop :])
    near(model.score(context, ["attic"]), expected[0])
    near(model.predict(context), expected[1])
    assert model.write(context, Settings(max_tokens=6)).ids == (words,)
    whole = heard(model, memory)
    assert (model.score(context, ["attic"]) - model.score(whole, ["attic"])).abs() > 1e-3


@torch.no_grad()
def test_eager_attention_is_narrowed_too(tiny: Tiny):
    model, eager = tiny("llama"), tiny_backbone("llama")
    eager.model.set_attn_implementation("eager")
    memory = without(remembered(model, FACT), 1)
    near(eager.predict(heard(eager, memory)), model.predict(heard(model, memory)))


@torch.no_grad()
def test_a_memory_of_all_layers_is_the_plain_one(tiny: Tiny):
    model = tiny("llama")
    context = heard(model, remembered(model, FACT))
    assert context.seen is None
    text = model.read(Prompt((Text((FACT,)), Text((ASKED,))))).context
    alone = heard(model, remembered(model, FACT), lead="")
    near(model.predict(alone), model.predict(text))


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@torch.no_grad()
def test_rows_with_gaps_are_one_by_one(tiny: Tiny, kind: str):
    """For Gemma beyond its window of 16, where such rows are read one by one and joined."""
    model, facts = tiny(kind), (FACT, "Short.", f"{FACT} {FACT}")
    asked = ("Where?", ASKED, "And now?")
    memory = without(remembered(model, *facts), 0)
    prompt = Prompt((Text((LEAD,) * 3, shared=True), memory, Text(asked)))
    together = model.read(prompt).context
    assert together.seen is not None
    assert together.seen.shape == (3, *together.mask.shape)
    scores = model.score(together, ["attic"] * 3)
    for n in range(3):
        alone = heard(model, without(remembered(model, facts[n]), 0), asked=asked[n])
        near(model.score(alone, ["attic"]), scores[n : n + 1])


def test_bytes_are_those_of_the_layers_that_are_sent(tiny: Tiny):
    model = tiny("llama")
    agent = Agent("reader", model, role=Role(template="{context}", chat=False))
    state, _ = agent.compute({"context": (FACT,)}, needs=REMEMBERED)
    sizes = [SelectiveLayers(ratio=part).send(state).nbytes for part in (1 / 3, 2 / 3, 1.0)]
    layer = 2 * 4 * 2 * 16 * len(FACT)  # keys and values, float32, heads, width, positions
    assert [b - a for a, b in pairwise(sizes)] == pytest.approx([layer] * 2, abs=99)


def test_an_unwhole_cache_is_not_passed_on(tiny: Tiny):
    model = tiny("llama")
    agents = [Agent(name, model) for name in ("a", "b", "c")]
    edges = [Edge("a", "b", SelectiveLayers()), Edge("b", "c", Handoff())]
    with pytest.raises(IncompatibleModels, match=r"leaves out layers.*channel 'text'"):
        Pipeline(agents, edges).run("Where?")
    context = heard(model, without(remembered(model, FACT), 1))
    with pytest.raises(IncompatibleModels, match="leaves out layers"):
        model.roll_out(context, Need("rollout", limit=2))


def test_a_model_whose_layers_cannot_be_narrowed_is_refused(tiny: Tiny, passes):
    model = tiny("gpt2")
    memory = model.read(Prompt((Text((FACT,)),)), needs=REMEMBERED).cached
    assert memory is not None
    assert not model.narrows
    with (
        passes(model) as seen,
        pytest.raises(IncompatibleModels, match="cannot be kept from seeing"),
    ):
        model.read(Prompt((without(memory, 1), Text((ASKED,)))))
    assert not seen


@torch.no_grad()
def test_other_threads_see_everything(tiny: Tiny):
    model = tiny("llama")
    prompt = Prompt((Text((FACT,)),))
    before, found = model.predict(model.read(prompt).context), list[Tensor]()
    blind = torch.zeros(3, 1, 4, dtype=torch.bool)

    def read() -> None:
        with torch.no_grad():
            found.append(model.predict(model.read(prompt).context))

    with narrowed(model.model.base_model.layers, blind):
        other = Thread(target=read)
        other.start()
        other.join()
        read()
    assert torch.equal(found[0], before)
    assert not torch.allclose(found[1], before)
    assert torch.equal(model.predict(model.read(prompt).context), before)


def _narrowed(model: Backbone, prompt: Prompt) -> object:
    blind = torch.zeros(3, 1, 4, dtype=torch.bool)
    with narrowed(model.model.base_model.layers, blind):
        return model.read(prompt)


_PASSES: dict[str, Callable[[Backbone, Prompt], object]] = {
    "narrowed": _narrowed,
    "states": lambda model, prompt: model.read(prompt, needs=frozenset({Need("hidden", 1)})),
    "layers": lambda model, prompt: model.extend(
        (), torch.arange(4, 9)[None], torch.ones(1, 5, dtype=torch.bool), layers=1
    ),
}


@pytest.mark.parametrize("what", _PASSES)
@torch.no_grad()
def test_a_pass_that_ends_while_another_thread_is_in_the_same_layer(what: str):
    """torch asks only after it has listed a module's hooks how each of them is called."""
    model, prompt = tiny_backbone("llama"), Prompt((Text((FACT,)),))
    expected, inside, ended = model.predict(model.read(prompt).context), Event(), Event()

    def read() -> Tensor:
        with torch.no_grad():
            return model.predict(model.read(prompt).context)

    with ThreadPoolExecutor(1) as others:
        found: list[Future[Tensor]] = []
        here = get_ident()

        def wait(*_: object) -> None:
            if get_ident() != here:
                inside.set()
                assert ended.wait(10)
            elif not found:
                found.append(others.submit(read))
                assert inside.wait(10)

        with model.model.base_model.layers[1].register_forward_pre_hook(wait):
            _PASSES[what](model, prompt)
            ended.set()
            assert torch.equal(found[0].result(10), expected)


@torch.no_grad()
def test_a_hook_is_silent_until_it_is_registered_whole():
    model = tiny_backbone("llama")
    layer, context = model.model.base_model.layers[0], model.read(Prompt((Text((FACT,)),))).context
    before = model.predict(context)
    with narrowed(model.model.base_model.layers, torch.zeros(3, 1, 4, dtype=torch.bool)):
        assert not torch.allclose(model.predict(context), before)
        layer._forward_pre_hooks_with_kwargs.clear()  # what torch notes last
        assert len(layer._forward_pre_hooks) == 1
        model.predict(context)
    assert torch.equal(model.predict(context), before)


# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@torch.no_grad()
def test_attention_is_measured_as_transformers_shows_it(tiny: Tiny, kind: str):
    model, eager = tiny(kind), tiny_backbone(kind)
    eager.model.set_attn_implementation("eager")
    ids = torch.tensor([[*model._bos, *model.tokens(FACT), *model.tokens(ASKED)]])
    begin = ids.shape[1] - len(model.tokens(ASKED))
    shown = eager.model(input_ids=ids, output_attentions=True).attentions
    expected = [float(layer[0, :, begin:, 1:begin].sum(-1).mean()) for layer in shown]
    assert model.regard(FACT, ASKED).tolist() == pytest.approx(expected, abs=1e-5)


def test_attention_that_cannot_be_measured_is_refused():
    eager = tiny_backbone("llama")
    eager.model.set_attn_implementation("eager")
    with pytest.raises(IncompatibleModels, match=r"'eager'\. Load the model with attn_impl"):
        SelectiveLayers().calibrated(eager, [(FACT, ASKED)])


def test_the_prior_prefers_the_middle_and_attention_what_is_attended_to():
    assert ranked(7, None, 1.0, 0.5, 2.0) == [3, 2, 4, 1, 5, 0, 6]
    paid = [0.9, 0.1, 0.2, 0.3, 0.1, 0.1, 0.8]
    assert ranked(7, paid, 1.0, 0.5, 2.0)[:3] == [0, 6, 3]
    assert ranked(7, paid, 0.0, 0.5, 2.0) == ranked(7, None, 1.0, 0.5, 2.0)
    assert ranked(7, paid, 0.3, 0.5, 2.0)[0] == 3


def test_a_share_of_the_layers_is_rounded_up():
    assert [len(SelectiveLayers(ratio=r).chosen(30)) for r in (0.01, 0.3, 0.31, 1.0)] == [
        1,
        9,
        10,
        30,
    ]


def test_what_was_measured_is_a_setting(tiny: Tiny):
    model = tiny("llama")
    measured = SelectiveLayers(ratio=0.3, sigma=2.0).calibrated(
        model, [(FACT, ASKED), (FACT, "Who?")]
    )
    assert (measured.ratio, measured.sigma) == (0.3, 2.0)
    assert measured.attention is not None
    again = make_channel("layers", ratio=0.3, sigma=2.0, attention=measured.attention)
    assert vars(again) == vars(measured)
    with pytest.raises(ValueError, match="of 2 layers is given, but the model has 3"):
        make_channel("layers", attention=[1, 2]).chosen(3)


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"alpha": 2.0}, {"sigma": 0.0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(ValueError, match=r"^(ratio|alpha|sigma) is "):
        SelectiveLayers(**options)


def test_the_receiver_hears_what_is_sent(tiny: Tiny):
    model = tiny("llama")
    agent = Agent("reader", model, role=Role(template="{context}", chat=False))
    channel = SelectiveLayers(ratio=0.5)
    message = channel.send(agent.compute({"context": (FACT,)}, needs=channel.needs)[0])
    solver = Agent("solver", model, role=Role("", "{messages}{question}", "{message}", chat=False))
    fields = {"question": (ASKED,)}
    with_it, bare = (
        solver.read(fields, arrivals).context for arrivals in ([Incoming(channel, message)], [])
    )
    assert int(with_it.mask.sum() - bare.mask.sum()) == len(FACT)
    assert (model.predict(with_it) - model.predict(bare)).abs().max() > 1e-3
