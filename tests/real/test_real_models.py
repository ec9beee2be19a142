"""The packaged models: they load, make sense, and keep the promises that tiny models keep."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from pathlib import Path
from time import perf_counter

import pytest
import torch
from transformers import AutoTokenizer

from unspoken import models
from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.channels import Handoff, TextChannel
from unspoken.pipeline import Edge, Pipeline
from unspoken.types import CACHE, CacheSegment, Need, Prompt, Settings, Text
from unspoken.wire import Message

pytestmark = pytest.mark.real

PARAGRAPH = (
    "The old lighthouse stood at the end of the pier, where the fishermen used to dry their nets. "
    "Every evening the keeper climbed the stairs, lit the lamp and wrote down the weather in a "
    "small book. When the storm came in the autumn, the light could be seen from twenty miles away "
    "and the boats found their way home. Nobody in the village could remember a night on which it "
    "had not been lit."
)
QUESTION = "\n\nQuestion: Who lit the lamp?\nAnswer: The lamp was lit by"
FINGERPRINTS = {
    "smollm2-135m-instruct": "eaf82a638717523f",
    "gemma-3-270m": "2e29ef2e3c12763a",
}
SHAPES = {
    "smollm2-135m-instruct": (576, 30, 3, 64, None),
    "gemma-3-270m": (640, 18, 1, 256, 512),
}


@pytest.fixture(scope="module")
def load() -> Callable[[str], Backbone]:
    kept: dict[str, Backbone] = {}

    def get(name: str) -> Backbone:
        if name not in kept:
            kept[name] = Backbone.from_pretrained(name, dtype=torch.float32, device="cpu")
        return kept[name]

    return get


@pytest.fixture(params=sorted(SHAPES))
def model(request: pytest.FixtureRequest, load: Callable[[str], Backbone]) -> Backbone:
    return load(request.param)


def plain(model: Backbone, words: str, tokens: int) -> list[int]:
    """What transformers' own `generate` writes behind the words."""
    ids = torch.tensor([model.tokenizer(words)["input_ids"]])
    out = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return out[0, ids.shape[1] :].tolist()


def test_a_packaged_model_loads_by_name(model: Backbone):
    spec = model.spec
    shape = (spec.width, spec.layers, spec.kv_heads, spec.head_dim, spec.window)
    assert shape == SHAPES[model.name]
    assert models.is_ready(models.PACKAGED[model.name])
    assert model.spec.chats == (model.name == "smollm2-135m-instruct")


def test_a_converted_model_loads_again(model: Backbone, capsys: pytest.CaptureFixture[str]):
    best, again = float("inf"), model
    for _ in range(3):
        start = perf_counter()
        again = Backbone.from_pretrained(model.name, device="cpu")
        best = min(best, perf_counter() - start)
    with capsys.disabled():
        print(f" {model.name} loads in {best:.2f} s ", end="")
    assert again.fingerprint == model.fingerprint
    assert again.spec.tokenizer == model.spec.tokenizer


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_ordinary_english_is_no_surprise(load: Callable[[str], Backbone], name: str):
    model, (first, _, rest) = load(name), PARAGRAPH.partition(" ")
    answer = f" {rest}"
    loss = model.score(model.read(Prompt((Text((first,)),))).context, [answer])
    perplexity = exp(float(loss) / len(model.tokens(answer)))
    assert 1 < perplexity < 40


@torch.no_grad()
def test_gemma_needs_its_bos(load: Callable[[str], Backbone]):
    model = load("gemma-3-270m")
    assert model._bos == [model.tokenizer.bos_token_id]
    context = model.read(Prompt((Text(("The",)),))).context
    assert context.mask.shape[1] == 2


@pytest.mark.parametrize(("name", "times"), [("smollm2-135m-instruct", 1), ("gemma-3-270m", 7)])
def test_a_handed_over_cache_is_the_text(load: Callable[[str], Backbone], name: str, times: int):
    """Token for token what plain `generate` writes; Gemma reads more than its window of 512."""
    model, text = load(name), PARAGRAPH * times
    assert times == 1 or len(model.tokens(text)) > 512
    memory = model.read(Prompt((Text((text,)),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    context = model.read(Prompt((memory, Text((QUESTION,))))).context
    want = plain(model, text + QUESTION, 12)
    words = model.write(context, Settings(max_tokens=12)).words[0]
    assert words == model.tokenizer.decode(want, skip_special_tokens=True)
    alone = model.read(Prompt((Text((QUESTION,)),))).context
    assert model.write(alone, Settings(max_tokens=12)).words[0] != words


def test_a_thousand_tokens_of_gemma_survive_the_bytes(
    load: Callable[[str], Backbone], tmp_path: Path
):
    """Twice its window of 512, bit for bit, from a mapped file; and the words that follow."""
    model = load("gemma-3-270m")
    text = model.shorten(PARAGRAPH * 14, 999)  # and `<bos>`
    role = Role(template="{context}")
    state, _ = Agent("reader", model, role=role).compute(
        {"context": (text,)}, needs=Handoff().needs
    )
    message = Handoff().send(state)
    assert message.header.kinds.count("sliding") == 15
    assert message.header.window == 512
    message.save(tmp_path / "m")
    loaded = Message.load(tmp_path / "m").payload
    assert isinstance(loaded, CacheSegment)
    assert state.cached is not None
    assert loaded.mask.shape == (1, 1000)
    for read, sent in zip(loaded.kv, state.cached.kv, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(read, sent, strict=True))
    context = model.read(Prompt((loaded, Text((QUESTION,))))).context
    want = model.tokenizer.decode(plain(model, text + QUESTION, 12), skip_special_tokens=True)
    assert model.write(context, Settings(max_tokens=12)).words[0] == want


def test_fingerprints_are_those_of_committed_results(model: Backbone):
    """Saved projectors and results name them; a copy in bfloat16 has the same one."""
    assert model.spec.former == FINGERPRINTS[model.name]
    half = Backbone.from_pretrained(model.name, dtype=torch.bfloat16, device="cpu")
    assert half.spec.former == model.spec.former
    assert half.fingerprint == model.fingerprint
    assert (half.spec.dtype, model.spec.dtype) == ("bfloat16", "float32")


def test_a_slight_change_of_one_tensor_is_another_model(load: Callable[[str], Backbone]):
    model = Backbone.from_pretrained("smollm2-135m-instruct", dtype=torch.float32, device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        weight = model.model.model.layers[17].mlp.down_proj.weight
        weight.mul_(1 + 1e-4 * torch.randn_like(weight))
    assert model.fingerprint != FINGERPRINTS[model.name]


@pytest.mark.parametrize("channel", [Handoff(), TextChannel(limit=12)], ids=["handoff", "text"])
def test_a_batch_of_four_is_one_by_one(load: Callable[[str], Backbone], channel):
    model = load("smollm2-135m-instruct")
    people = ["Ada", "Bo", "Cyril", "Dana", "Edward", "Fay", "Gustavo", "Hanna"]
    places = ["Rome", "a small town in Norway", "Lima", "the harbour of Oslo", "Kyoto", "Bern"]
    items = [
        {
            "context": f"{person} lives in {places[n % 6]} and works there. " * (1 + n % 3),
            "question": f"Where does {person} live?",
        }
        for n, person in enumerate(people)
    ]
    planner = Agent(
        "planner", model, role=Role("Say what matters.", "{context}"), settings=Settings(12)
    )
    solver = Agent("solver", model, role="Answer in a few words.", settings=Settings(10))
    pair = Pipeline([planner, solver], [Edge("planner", "solver", channel)])
    together = pair.run_many(items, batch_size=4)
    for run, item in zip(together, items, strict=True):
        alone = pair.run(item)
        assert run.answer == alone.answer
        assert run.usage.wire == alone.usage.wire
        assert run.usage.read == alone.usage.read
    assert len({run.answer for run in together}) > 4


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_tokenizer_loads_quickly_and_as_transformers_loads_it(name: str):
    where = models.resolve(name)
    quick, usual = models.load_tokenizer(name, where), AutoTokenizer.from_pretrained(where)
    assert quick.get_vocab() == usual.get_vocab()
    assert quick.chat_template == usual.chat_template
    assert quick.all_special_ids == usual.all_special_ids
    for words in ("", "naïve 北京 🙂\n\n  x", "<start_of_turn>user<|im_end|>", PARAGRAPH):
        assert quick(words)["input_ids"] == usual(words)["input_ids"]


def test_a_moved_text_is_read_in_a_twentieth_and_predicts_the_same(model: Backbone):
    """For Gemma the text is longer than its window of 512."""
    story = " ".join(f"Chapter {n}. {PARAGRAPH}" for n in range(8))

    def prompt(lead: str) -> Prompt:
        return Prompt((Text((lead,)), Text((f" {story}",), share="story"), Text((QUESTION,))))

    leads = ("Read this story twice.", "You are a judge of short stories; find out who did it.")
    reader = AnchorPool("shifted").wrap(model)
    reader.read(prompt(leads[0]))
    read, dense = reader.read(prompt(leads[1])), model.read(prompt(leads[1]))
    assert read.tokens[0] < dense.tokens[0] / 15
    logits = [model.predict(found.context) for found in (dense, read)]
    assert logits[0].argmax() == logits[1].argmax()
    p, q = (torch.log_softmax(found.float(), -1) for found in logits)
    assert float((p.exp() * (p - q)).sum()) < 0.1


@pytest.mark.parametrize("feed", ["ridge", "identity"])
def test_a_rollout_of_sixteen_is_one_by_one(load: Callable[[str], Backbone], feed):
    """Rows of unequal length; the code published with the paper attends to their padding."""
    model, need = load("smollm2-135m-instruct"), Need("rollout", limit=8, feed=feed)
    words = PARAGRAPH.split()
    texts = [" ".join(words[: 3 + 4 * n]) for n in range(16)]
    together = model.roll_out(model.read(Prompt((Text(tuple(texts)),))).context, need)
    assert together.cached is not None
    for n, text in enumerate(texts):
        alone = model.roll_out(model.read(Prompt((Text((text,)),))).context, need)
        assert alone.cached is not None
        near = {"atol": 2e-3, "rtol": 2e-3}
        torch.testing.assert_close(together.vectors.values[n], alone.vectors.values[0], **near)
        row = together.cached.rows(slice(n, n + 1))
        for pair, others in zip(row.kv, alone.cached.kv, strict=True):
            for left, right in zip(pair, others, strict=True):
                assert float((left - right).norm() / right.norm()) < 1e-3


@torch.no_grad()
def test_a_layer_can_be_kept_from_seeing_a_memory(model: Backbone):
    """For Gemma the memory is longer than its window of 512."""
    text = PARAGRAPH * 7
    memory = model.read(Prompt((Text((text,)),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    half = [(k, v) if n % 2 else (k[:, :0], v[:, :0]) for n, (k, v) in enumerate(memory.kv)]
    contexts = [
        model.read(Prompt((CacheSegment.of(kv, memory.mask), Text((QUESTION,))))).context
        for kv in (memory.kv, tuple(half))
    ]
    whole, partial = (torch.softmax(model.predict(context).float(), -1) for context in contexts)
    assert partial.isfinite().all()
    assert (whole - partial).abs().max() > 1e-3
    shares = model.regard(f"The story: {PARAGRAPH}", QUESTION)
    assert bool(((shares > 0) & (shares < 1)).all())
