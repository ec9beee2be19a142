"""read, write, score and shift against plain transformers, and everything that is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    GlmConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    StableLmConfig,
)

from unspoken.backbone import Backbone
from unspoken.backbone.scoring import _losses
from unspoken.errors import ContextTooLong, EmptyPrompt, IncompatibleModels, UnknownName
from unspoken.testing import KINDS, tiny_backbone
from unspoken.types import (
    CACHE,
    TEXT,
    CacheSegment,
    Context,
    Need,
    Prompt,
    Read,
    Settings,
    Text,
    Vectors,
)

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

LONG = "the quick brown fox jumps over the lazy dog"  # beyond the window of 16
UNEQUAL = ("hi", "what is it?", LONG)

_SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_OLD = {
    "vocab_size": 260,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 128,
}

TURNING: dict[str, Callable[[], Any]] = {
    "yarn": lambda: LlamaConfig(**_GROUPED, rope_parameters=_YARN),
    "phi-partial": lambda: PhiConfig(**_SIZES, partial_rotary_factor=0.5),
    "stablelm-partial": lambda: StableLmConfig(**_GROUPED, partial_rotary_factor=0.25),
    "neox-partial": lambda: GPTNeoXConfig(**_SIZES, rotary_pct=0.5),
    "mistral-window": lambda: MistralConfig(**_GROUPED, head_dim=8, sliding_window=16),
}
FIXED: dict[str, Callable[[], Any]] = {
    "opt": lambda: OPTConfig(**_SIZES, ffn_dim=64, word_embed_proj_dim=32),
    "bloom": lambda: BloomConfig(**{**_OLD, "hidden_size": 32}),
    "gptj-interleaved": lambda: GPTJConfig(**_OLD, rotary_dim=4, n_positions=256),
    "glm-interleaved": lambda: GlmConfig(**_GROUPED, head_dim=8, partial_rotary_factor=0.5),
    "cohere-interleaved": lambda: CohereConfig(**_GROUPED),
    "longrope": lambda: Phi3Config(**_GROUPED, rope_parameters=_LONGROPE),
}


def made(config: Any, name: str) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return Backbone(model, tiny_backbone("llama").tokenizer, name=name)


@pytest.fixture(scope="module")
def architecture() -> Callable[[str], Backbone]:
    kept: dict[str, Backbone] = {}

    def get(name: str) -> Backbone:
        if name not in kept:
            config = {**TURNING, **FIXED}.get(name)
            kept[name] = made(config(), name) if config else tiny_backbone(name)
        return kept[name]

    return get


def prompt_of(*rows: str) -> Prompt:
    return Prompt((Text(rows),))


def ids_of(model: Backbone, words: str) -> list[int]:
    return model.tokenizer(words)["input_ids"]


def plain(model: Backbone, ids: list[int], tokens: int = 8) -> str:
    """What transformers' own `generate` writes behind the ids."""
    given = torch.tensor([ids])
    out = model.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return model.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def written(model: Backbone, context: Context, tokens: int = 8) -> tuple[str, ...]:
    return model.write(context, Settings(max_tokens=tokens)).words


def cache(model: Backbone, *words: str) -> CacheSegment:
    memory = model.read(prompt_of(*words), needs=frozenset({CACHE})).cached
    assert memory is not None
    return memory


def close(left: torch.Tensor, right: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


# -- read and write ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*KINDS, *TURNING, *FIXED])
def test_read_then_write_is_plain_generate(architecture, name: str):
    model = architecture(name)
    want = tuple(plain(model, ids_of(model, row)) for row in UNEQUAL)
    assert len(set(want)) == len(want)
    assert written(model, model.read(prompt_of(*UNEQUAL)).context) == want
    for row, words in zip(UNEQUAL, want, strict=True):
        assert written(model, model.read(prompt_of(row)).context) == (words,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_lead_changes_nothing(tiny: Tiny, passes, kind: str):
    model = tiny_backbone(kind)
    lead = "Answer the question. "
    shared = Prompt((Text((lead,) * 3, shared=True), Text(UNEQUAL)))
    joined = model.read(prompt_of(*(lead + row for row in UNEQUAL)))
    assert model.gaps  # proved before passes are counted
    with passes(model) as seen:
        read = model.read(shared)
    if kind != "gemma":  # rows with padding in their middle are read one by one there
        assert len(seen) == 2
    assert read.passes == 2  # a row takes part in its own passes only
    assert read.tokens == joined.tokens
    assert read.context.mask.sum(1).tolist() == joined.context.mask.sum(1).tolist()
    answers = ("yes", "no", "maybe")
    close(model.score(read.context, answers), model.score(joined.context, answers))
    assert written(model, read.context) == written(model, joined.context)


def test_a_lead_is_read_once_for_a_batch_and_again_for_another_lead(passes):
    model = tiny_backbone("llama")
    assert model.spec.batches  # proved before passes are counted
    assert model.gaps
    rows: list[int] = []
    hook = model.model.base_model.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].shape[0]), with_kwargs=True
    )
    with hook:
        for lead in ("one. ", "one. ", "two. "):
            model.read(Prompt((Text((lead,) * 3, shared=True), Text(UNEQUAL))))
    assert rows == [1, 3, 3, 1, 3]


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_what_all_rows_begin_with_is_read_by_one_of_them(tiny: Tiny, kind: str):
    model = tiny(kind)
    memory = cache(model, *UNEQUAL)
    free = torch.randn(2, model.spec.width, requires_grad=True)

    def begun(*, shared: bool) -> tuple[list[int], torch.Tensor, Read]:
        values = free.expand(3, -1, -1)
        vectors = Vectors(values, torch.ones(values.shape[:2], dtype=torch.bool), shared=shared)
        lead, words = Text(("Be brief. ",) * 3, shared=True), Text(("Fact:",) * 3)
        rows: list[int] = []
        hook = model.model.base_model.register_forward_pre_hook(
            lambda _, __, given: rows.append(len(given["position_ids"])), with_kwargs=True
        )
        with hook:
            read = model.read(Prompt((lead, words, vectors, memory, Text(UNEQUAL))))
        (grad,) = torch.autograd.grad(model.score(read.context, ("a", "b", "c")).sum(), free)
        return rows, grad, read

    begun(shared=True)  # once: now the lead is kept, and keys are proved to turn
    (one, grad, read), (each, other, plain) = begun(shared=True), begun(shared=False)
    if kind != "gemma":  # rows with padding in their middle are read one by one there
        assert (one, each) == ([1, 3], [3, 3])
    assert (read.tokens, read.passes) == (plain.tokens, plain.passes)
    assert torch.equal(read.context.mask, plain.context.mask)
    assert torch.equal(read.context.spelling.ends, plain.context.spelling.ends)
    assert read.context.spelling.words == plain.context.spelling.words
    close(grad, other)
    for pair, others in zip(read.context.kv, plain.context.kv, strict=True):
        close(torch.stack(pair), torch.stack(others))


def test_a_kept_lead_is_not_grown_by_those_who_use_it():
    model = tiny_backbone("llama")
    prompt = Prompt((Text(("Be brief. ",), shared=True), Text((LONG,))))
    first = model.read(prompt)
    words = written(model, first.context)
    model.score(first.context, ["yes"])
    again = model.read(prompt)
    assert written(model, again.context) == words
    for (k, v), (k2, v2) in zip(first.context.kv, again.context.kv, strict=True):
        assert torch.equal(k, k2)
        assert torch.equal(v, v2)


def test_a_lead_kept_in_half_precision_is_not_used_in_full():
    prompt = Prompt((Text(("Be brief. ",), shared=True), Text((LONG,))))
    fresh, model = (tiny_backbone("llama") for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        model.read(prompt)
    want, got = (m.score(m.read(prompt).context, ["yes"]) for m in (fresh, model))
    assert torch.equal(want, got)


@pytest.mark.parametrize("words", ["a", "ab", LONG])
@pytest.mark.parametrize("shared", [False, True])
def test_short_prompts_and_prompts_of_nothing_but_a_lead(tiny: Tiny, words: str, shared: bool):
    model = tiny("llama")
    context = model.read(Prompt((Text((words,) * 2, shared=shared),))).context
    assert written(model, context) == (plain(model, ids_of(model, words)),) * 2
    assert model.score(context, ["x", "y"]).shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_words_read_like_the_words(tiny: Tiny, kind: str):
    model = tiny(kind)
    ids = [torch.tensor(model.tokens(row)) for row in UNEQUAL]
    longest = max(map(len, ids))
    values = torch.stack(
        [torch.nn.functional.pad(model.embed(row).T, (longest - len(row), 0)).T for row in ids]
    )
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in ids])
    soft = Prompt((Text(("a: ",) * 3), Vectors(values, mask), Text((" b", " bcd", ""))))
    with pytest.raises(EmptyPrompt, match="rows \\[2\\]"):
        model.read(soft)
    ends = (" b", " bcd", " !")
    soft = Prompt((Text(("a: ",) * 3), Vectors(values, mask), Text(ends)))
    hard = prompt_of(*(f"a: {row}{end}" for row, end in zip(UNEQUAL, ends, strict=True)))
    got, want = model.read(soft), model.read(hard)
    assert got.tokens == want.tokens
    assert written(model, got.context) == written(model, want.context)


def test_reading_makes_no_vocabulary_logits(tiny: Tiny):
    model = tiny("gemma")
    needs = frozenset({TEXT, CACHE, Need("hidden", 3), Need("hidden", 1)})
    seen: list[int] = []
    hook = model.model.lm_head.register_forward_hook(lambda *_: seen.append(1))
    with hook:
        context = model.read(prompt_of(*UNEQUAL), needs=needs).context
        assert not seen
        model.score(context, ["a"] * 3)
        assert seen  # the hook would have told


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("layers", [(0,), (1, 2), (0, 3), (-1,), (-2, 1)])
@pytest.mark.parametrize("lead", ["", "Think. "])
def test_states_are_those_of_transformers(
    tiny: Tiny, kind: str, layers: tuple[int, ...], lead: str
):
    model = tiny(kind)
    needs = frozenset(Need("hidden", layer) for layer in layers)
    first = (Text((lead,) * 3, shared=True),) if lead else ()
    read = model.read(Prompt((*first, Text(UNEQUAL))), needs=needs)
    for n, row in enumerate(UNEQUAL):
        ids = torch.tensor([ids_of(model, lead + row)])
        want = model.model.base_model(ids, output_hidden_states=True).hidden_states
        for layer in layers:
            got = read.hidden[layer]
            assert got.mask[n].sum() == len(row)  # no lead and no `<bos>`
            close(got.values[n][got.mask[n]], want[layer][0, -len(row) :])


def test_states_of_a_lower_layer_cost_no_upper_layers(tiny: Tiny):
    model = tiny("llama")
    seen: list[int] = []
    hook = model.model.base_model.layers[2].register_forward_hook(lambda *_: seen.append(1))
    with hook:
        read = model.read(prompt_of(LONG), needs=frozenset({Need("hidden", 1)}))
        assert not seen
        assert read.found is None
        with pytest.raises(AssertionError, match="needs"):
            _ = read.context
        model.read(prompt_of(LONG), needs=frozenset({Need("hidden", 1), TEXT}))
        assert seen


def test_two_threads_read_different_layers_of_one_model(tiny: Tiny):
    """A pass that ends early must not end the pass of another thread."""
    model, entered, done = tiny("llama"), Event(), Event()
    needs = frozenset({Need("hidden", 1)})

    def wait(*_: object) -> None:
        if not entered.is_set():
            entered.set()
            assert done.wait(10)

    hook = model.model.base_model.layers[0].register_forward_hook(wait)
    with hook, ThreadPoolExecutor(1) as pool:
        early = pool.submit(model.read, prompt_of("slow"), needs=needs)
        assert entered.wait(10)
        full = model.read(prompt_of(LONG)).context
        done.set()
        assert early.result(10).hidden[1].values.shape[1] == len("slow")
    assert written(model, full) == (plain(model, ids_of(model, LONG)),)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("question", ["equal", "unequal"])
@pytest.mark.parametrize("context", ["short", "long"])
def test_holes_in_a_cache_do_not_shrink_the_window(kind: str, question: str, context: str):
    """A lead and rows of unequal length leave padding in the middle of a batch."""
    model = tiny_backbone(kind)
    rows = {"short": ("a", "abcde"), "long": (LONG[:7], LONG)}[context]
    ends = {"equal": (" why", " who"), "unequal": (" why", " whoever")}[question]
    lead = Text(("Go. ",) * 2, shared=True)
    held = model.read(Prompt((lead, Text(rows))), needs=frozenset({CACHE})).cached
    assert held is not None
    answers = ("because of it, as you know", "somebody else, as you know")
    for prompt in (Prompt((held, Text(ends))), Prompt((lead, Text(rows)))):
        batch = model.read(prompt).context
        scores, words = model.score(batch, answers), written(model, batch, 20)
        for n, answer in enumerate(answers):
            alone = model.read(prompt.row(n)).context
            close(model.score(alone, [answer]), scores[n : n + 1])
            assert written(model, alone, 20) == words[n : n + 1]


# -- `<bos>` and chat templates ------------------------------------------------------------------


def test_bos_stands_once_at_the_front(tiny: Tiny):
    model = tiny("gemma")
    bare = model.read(prompt_of("hello"))
    marked = model.read(Prompt((Text(("<bos>hello",), frame=True),)))
    assert bare.tokens == marked.tokens == (6,)
    assert torch.equal(bare.context.kv[0][0], marked.context.kv[0][0])
    behind = model.read(Prompt((cache(model, "so "), Text(("hello",)))))
    assert behind.tokens == (5,)
    none = tiny("llama").read(prompt_of("hello"))
    assert none.tokens == (5,)


def test_a_chat_template_that_writes_bos_does_not_double_it():
    model = tiny_backbone("gemma")
    model.tokenizer.chat_template = "<bos>" + str(tiny_backbone("llama").tokenizer.chat_template)
    words = model.chat("Be kind.", "hello")
    assert words.startswith("<bos><turn>system")
    ids = model.tokenizer(words, add_special_tokens=False)["input_ids"]
    prompt = Prompt((Text((words,), frame=True),))
    assert model.read(prompt).tokens == (len(ids),)
    assert written(model, model.read(prompt).context) == (plain(model, ids),)


def test_chat_leaves_out_a_system_turn_without_words(tiny: Tiny):
    model = tiny("llama")
    assert model.spec.chats
    assert not tiny("gemma").spec.chats
    assert model.chat("", "hi") == "<turn>user\nhi\n<turn>assistant\n"
    assert model.chat("Be.", "hi").startswith("<turn>system\nBe.\n<turn>user")


# -- writing -------------------------------------------------------------------------------------


def take_turn(monkeypatch: pytest.MonkeyPatch, *rows: str) -> Backbone:
    """A model that says what it is told to: logits that favour the next byte of each row."""
    model = tiny_backbone("llama")
    assert model.spec.gives  # proved before it follows the script
    ids = [[*model.tokens(row), 2] for row in rows]
    forward = model.model.forward
    start: list[int] = []

    def scripted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        step = kwargs["attention_mask"].shape[1]
        start[:] = start or [step]
        for n, row in enumerate(ids):
            said = step - start[0]
            out.logits[n, -1] = 0
            out.logits[n, -1, row[said] if said < len(row) else 2] = 1
        return out

    monkeypatch.setattr(model.model, "forward", scripted)
    return model


@pytest.mark.parametrize(
    ("said", "stop", "words", "tokens"),
    [
        ("Paris.\nNext", ("\n",), "Paris.", 7),
        ("Paris.\n\nNext", ("\n\n",), "Paris.", 8),
        ("a STOP b", ("STOP",), "a ", 6),
        ("a b c", ("x", "b c", "c"), "a ", 5),
        ("one ab two", ("a b", "ab"), "one ", 6),
        ("né 北京北京北京北京 x", ("北京北京北京北京",), "né ", 28),
        ("Paris", ("\n",), "Paris", 6),
        ("Paris", (), "Paris", 6),
        ("a STO", ("STOP",), "a STO", 6),
    ],
)
def test_stop_strings_cut_words_and_token_counts(
    monkeypatch: pytest.MonkeyPatch, said: str, stop: tuple[str, ...], words: str, tokens: int
):
    model = take_turn(monkeypatch, said)
    pieces: list[str] = []
    context = model.read(prompt_of("q")).context
    settings = Settings(max_tokens=40, stop=stop)
    out = model.write(context, settings, lambda _, words: pieces.append(words))
    assert out.words == (words,)
    assert out.tokens == (tokens,)
    assert out.passes == tokens
    assert "".join(pieces) == words


def test_rows_stop_on_their_own(monkeypatch: pytest.MonkeyPatch):
    model = take_turn(monkeypatch, "abc.defghi", "x", "no stop at all, it goes on")
    context = model.read(prompt_of("p", "q", "r")).context
    out = model.write(context, Settings(max_tokens=12, stop=(".",)))
    assert out.words == ("abc", "x", "no stop at a")
    assert out.tokens == (4, 2, 12)
    assert out.passes == 12


def test_words_come_in_pieces(monkeypatch: pytest.MonkeyPatch):
    model = take_turn(monkeypatch, "one two\nthree 北京")
    pieces: list[str] = []
    context, settings = model.read(prompt_of("q")).context, Settings(max_tokens=40)
    out = model.write(context, settings, lambda _, words: pieces.append(words))
    assert "".join(pieces) == out.words[0] == "one two\nthree 北京"
    assert len(pieces) > 2


def test_sampling_is_reproducible_and_leaves_the_global_generator(tiny: Tiny):
    model = tiny("llama")
    context = model.read(prompt_of(*UNEQUAL)).context

    def sample(seed: int, top_p: float = 1.0) -> tuple[str, ...]:
        return model.write(context, Settings(12, (), 1.5, top_p, seed)).words

    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert sample(0) == sample(0)
    assert sample(0) != sample(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    greedy = written(model, context, 12)
    assert sample(0, 1e-6) == sample(1, 1e-6) == greedy


def test_an_end_of_sequence_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    out = (model := take_turn(monkeypatch, "", "abcd")).write(
        model.read(prompt_of("p", "q")).context, Settings(max_tokens=9)
    )
    assert out.words == ("", "abcd")
    assert out.tokens == (1, 5)


# -- score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_log_softmax_by_hand(tiny: Tiny, kind: str):
    model = tiny(kind)
    answers = ("because it is late", "no", "never mind it")
    scores = model.score(model.read(prompt_of(*UNEQUAL)).context, answers)
    for n, (row, answer) in enumerate(zip(UNEQUAL, answers, strict=True)):
        given, told = ids_of(model, row), model.tokens(answer)
        logits = model.model(torch.tensor([given + told])).logits[0].log_softmax(-1)
        want = -sum(float(logits[len(given) + i - 1, token]) for i, token in enumerate(told))
        assert float(scores[n]) == pytest.approx(want, abs=1e-3)


@pytest.mark.numbers
def test_a_large_vocabulary_loses_no_digits():
    logits, ids = torch.randn(1, 4, 262_144) * 3, torch.tensor([[5, 6, 7, -100]])
    want = torch.nn.functional.cross_entropy(logits.double().mT, ids, reduction="none")
    other = torch.nn.functional.cross_entropy(logits.mT, ids, reduction="none")
    assert float((_losses(logits, ids) - want).abs().max()) < 5e-5
    assert float((other - want).abs().max()) > 1e-4


def test_score_has_a_gradient_with_respect_to_vectors(tiny: Tiny):
    model = tiny("gemma")
    values = model.embed(torch.tensor([model.tokens("abc")])).clone().requires_grad_()
    soft = Vectors(values, torch.ones(1, 3, dtype=torch.bool))
    prompt = Prompt((Text((LONG[:8],)), soft, Text((" so?",))))

    def loss() -> torch.Tensor:
        return model.score(model.read(prompt).context, ["yes"])[0]

    loss().backward()
    assert values.grad is not None
    slope, step = values.grad.clone(), 1e-2 * torch.randn_like(values)
    with torch.no_grad():
        values += step
        up = loss()
        values -= 2 * step
        down = loss()
    assert float(up - down) == pytest.approx(2 * float((slope * step).sum()), rel=0.05)


@pytest.mark.parametrize("answers", [["yes"], ["yes", ""], ["a", "b", "c"]])
def test_score_wants_an_answer_for_each_row(tiny: Tiny, answers: list[str]):
    model = tiny("llama")
    context = model.read(prompt_of("p", "q")).context
    with pytest.raises(ValueError, match="need 2 answers"):
        model.score(context, answers)


# -- shift ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen", "gemma", *TURNING])
def test_a_moved_cache_is_the_cache_read_there(architecture, name: str):
    model = architecture(name)
    ids = torch.tensor([model.tokens(LONG)])
    mask = torch.ones_like(ids)
    caches = []
    for start in (0, 11):
        out = model.model.base_model(
            ids, attention_mask=mask, position_ids=start + torch.arange(ids.shape[1])[None]
        ).past_key_values
        caches.append(tuple((layer.keys, layer.values) for layer in out.layers))
    there = model.shift(caches[0], 11)
    for (keys, values), (want, _) in zip(there, caches[1], strict=True):
        length = want.shape[2]  # a windowed layer of transformers keeps its last positions only
        close(keys[:, :, -length:], want, 1e-3)
        assert values.shape == keys.shape
    back = model.shift(there, torch.tensor([-11]))
    for (keys, _), (want, _) in zip(back, caches[0], strict=True):
        close(keys, want, 1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen", "gemma", *TURNING])
def test_a_memory_behind_text_is_moved_there(architecture, name: str):
    """Read behind one token, a cache that saw only itself: the same as with the token masked."""
    model = architecture(name)
    bos = len(model._bos)
    memory = cache(model, "abcdef")
    prompt = Prompt((Text(("xy ",)), memory, Text(("gh",))))
    read = model.read(prompt, needs=frozenset({CACHE}))
    assert read.cached is not None
    keys = read.cached.kv[0][0][0, :, 3 + bos : 9 + 2 * bos]
    first = model.shift(memory.kv, 3 + bos)[0][0][0]
    close(keys, first)
    assert read.context.mask.sum() == 3 + bos + 6 + bos + 2


def test_rows_of_a_memory_move_by_their_own_distance(tiny: Tiny):
    model = tiny("llama")
    memory = model.read(prompt_of("abc", "abcdef"), needs=frozenset({CACHE})).cached
    assert memory is not None
    prompt = Prompt((Text(("x", "some words ")), memory, Text(("?", "??"))))
    batch = model.score(model.read(prompt).context, ["yes", "no"])
    for n, answer in enumerate(["yes", "no"]):
        alone = model.score(model.read(prompt.row(n)).context, [answer])
        close(alone, batch[n : n + 1])


def test_no_move_gives_back_the_same_cache(tiny: Tiny):
    model = tiny("gpt2")
    kv = cache(model, "abc").kv
    assert model.shift(kv, 0) is kv


@pytest.mark.parametrize("name", ["gpt2", *FIXED])
def test_keys_that_do_not_turn_are_not_moved(architecture, passes, name: str):
    model = architecture(name)
    memory = cache(model, "abc")
    with pytest.raises(IncompatibleModels, match="cannot be moved to another position"):
        model.shift(memory.kv, 2)
    real = model.body.forward
    seen: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].tolist() != [[0, 1, 2, 3]])  # not the probe of `shift`
        return real(*args, **kwargs)

    model.body.forward = watched
    try:
        with pytest.raises(IncompatibleModels, match="Put the cache first"):
            model.read(Prompt((Text(("x",)), memory, Text(("?",)))))
        assert not any(seen)
        assert model.read(Prompt((memory, Text(("??",))))).tokens == (2,)
        assert any(seen)
    finally:
        del model.body.forward


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_the_first_move_may_come_under_autocast(kind: str):
    model = tiny_backbone(kind)
    memory = cache(model, "abc")
    with torch.autocast("cpu", torch.bfloat16):
        model.shift(memory.kv, 3)


def test_a_model_in_half_precision_moves_its_cache():
    model = tiny_backbone("llama")
    model.model.bfloat16()
    memory = cache(model, "abc")
    moved = model.shift(memory.kv, 3)
    assert moved[0][0].dtype == torch.bfloat16
    assert not torch.equal(moved[0][0], memory.kv[0][0])


# -- refusals ------------------------------------------------------------------------------------


def refused(model: Backbone, prompt: Prompt, error: type[Exception], passes: Any) -> str:
    with passes(model) as seen, pytest.raises(error) as caught:
        model.read(prompt)
    assert not seen
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_too_long(tiny: Tiny, passes, kind: str):
    model = tiny(kind)
    bos = len(model._bos)
    fits = model.read(prompt_of("x" * (256 - bos)))
    assert fits.tokens == (256,)
    sentence = refused(model, prompt_of("a", "x" * (257 - bos)), ContextTooLong, passes)
    assert "257 positions" in sentence
    assert "at most 256" in sentence
    assert model.name in sentence
    memory = cache(model, "m" * 200)
    both = Prompt((memory, Text(("x" * (57 - bos),))))
    assert "257" in refused(model, both, ContextTooLong, passes)


def test_an_answer_that_would_be_too_long(tiny: Tiny, passes):
    model = tiny("llama")
    context = model.read(prompt_of("x" * 250)).context
    with (
        passes(model) as seen,
        pytest.raises(ContextTooLong, match="250 positions read and 7 to write exceed the 256"),
    ):
        model.write(context, Settings(max_tokens=7))
    assert not seen
    assert len(written(model, context, 6)) == 1


def test_an_answer_that_does_not_fit_is_not_scored(tiny: Tiny, passes):
    """The last token of an answer is not read. Each row has its own room."""
    model = tiny("llama")
    context = model.read(prompt_of("x" * 250, "x")).context
    assert model.score(context, ["y" * 7, "y" * 256]).shape == (2,)
    for answers in (["y" * 8, "y"], ["y", "y" * 257]):
        with passes(model) as seen, pytest.raises(ContextTooLong, match="to score exceed the 256"):
            model.score(context, answers)
        assert not seen


def test_padding_takes_no_room(tiny: Tiny):
    """Rows that are long in different parts have more slots than positions."""
    model = tiny("llama")
    memory = model.read(prompt_of("m" * 150, "m"), needs=frozenset({CACHE})).cached
    assert memory is not None
    context = model.read(Prompt((memory, Text(("x", "x" * 150))))).context
    assert context.mask.shape[1] == 300
    assert len(written(model, context, 100)) == 2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (prompt_of("", "a"), "rows \\[0\\]"),
        (prompt_of("a", "", ""), "rows \\[1, 2\\]"),
        (Prompt(()), "must end with text"),
        (Prompt((Text(("a",)), Vectors(torch.ones(1, 2, 32), torch.ones(1, 2).bool()))), "row"),
        (Prompt((Text(("a", "b")), Text(("c",)))), "1 rows and the prompt 2"),
    ],
    ids=["first", "others", "nothing", "vectors-last", "rows"],
)
def test_empty_prompts(tiny: Tiny, passes, prompt: Prompt, words: str):
    assert re.search(words, refused(tiny("llama"), prompt, EmptyPrompt, passes))


def test_a_prompt_that_ends_with_a_memory(tiny: Tiny, passes):
    model = tiny("llama")
    sentence = refused(model, Prompt((cache(model, "abc"),)), EmptyPrompt, passes)
    assert "must end with text" in sentence


def test_states_of_a_lead_alone_are_refused(tiny: Tiny):
    prompt = Prompt((Text(("lead",), shared=True),))
    with pytest.raises(EmptyPrompt, match="nothing follows the opening"):
        tiny("llama").read(prompt, needs=frozenset({Need("hidden", 1)}))


@pytest.mark.parametrize("width", [31, 48])
def test_vectors_of_another_width(tiny: Tiny, passes, width: int):
    soft = Vectors(torch.ones(1, 2, width), torch.ones(1, 2, dtype=torch.bool))
    prompt = Prompt((Text(("a",)), soft, Text(("b",))))
    sentence = refused(tiny("llama"), prompt, IncompatibleModels, passes)
    assert f"{width} wide" in sentence
    assert "embeds 32" in sentence


def test_a_cache_of_another_shape(tiny: Tiny, passes):
    memory = cache(tiny("llama", layers=2), "abc")
    prompt = Prompt((memory, Text(("b",))))
    sentence = refused(tiny("llama"), prompt, IncompatibleModels, passes)
    assert "2 layers" in sentence
    assert "3 layers of 2 x 16" in sentence


def test_an_unknown_kind_of_tiny_model():
    with pytest.raises(UnknownName, match="did you mean 'gemma'"):
        tiny_backbone("gema")


# -- identity ------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_weights(tiny: Tiny, tmp_path):
    model = tiny("qwen")
    model.model.save_pretrained(tmp_path / "a")
    model.tokenizer.save_pretrained(tmp_path / "a")
    again = Backbone.from_pretrained(str(tmp_path / "a"), device="cpu")
    half = Backbone.from_pretrained(str(tmp_path / "a"), dtype=torch.bfloat16, device="cpu")
    assert model.fingerprint == again.fingerprint == half.fingerprint
    assert again.name == str(tmp_path / "a")
    assert again.spec.tokenizer == model.spec.tokenizer
    assert again.digest() == model.digest() != half.digest()
    assert written(again, again.read(prompt_of(LONG)).context) == written(
        model, model.read(prompt_of(LONG)).context
    )


@pytest.mark.parametrize("options", [{"seed": 1}, {"width": 64}, {"layers": 2}, {"kind": "gpt2"}])
def test_other_weights_have_another_fingerprint(tiny: Tiny, options: dict[str, Any]):
    other = tiny(**{"kind": "llama", **options})
    assert len(other.fingerprint) == 16
    assert other.fingerprint != tiny("llama").fingerprint


def test_a_digest_sees_one_changed_number():
    model = tiny_backbone("llama")
    before = model.digest()
    assert before == tiny_backbone("llama").digest()
    with torch.no_grad():
        next(model.model.parameters())[3, 5] += 1e-6
    assert model.digest() != before


def test_a_spec_says_what_the_caches_look_like(architecture):
    for name in (*KINDS, *TURNING):
        model = architecture(name)
        spec, kv = model.spec, cache(model, "abc").kv
        assert (len(kv), kv[0][0].shape[1], kv[0][0].shape[3]) == (
            spec.layers,
            spec.kv_heads,
            spec.head_dim,
        )
        assert spec.width == model.embed(torch.tensor([1])).shape[-1]
        assert spec.positions == 256
        assert spec.window == (16 if name in ("gemma", "mistral-window") else None)


def test_words_are_shortened_by_tokens(tiny: Tiny):
    model = tiny("llama")
    assert model.shorten("abcdef", 4) == "abcd"
    assert model.shorten("abc", 4) == "abc"


def test_a_read_counts_what_it_read(tiny: Tiny):
    read: Read = tiny("gemma").read(prompt_of("abc", "abcdef"))
    assert read.tokens == (4, 7)
    assert read.passes == 1
    assert tuple(read.context.last.tolist()) == (
        tiny("gemma").tokens("c")[0],
        tiny("gemma").tokens("f")[0],
    )
