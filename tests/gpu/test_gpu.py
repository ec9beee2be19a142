"""One check of some minutes on a GPU: `pytest -m gpu tests/gpu -s`. It prints its ratios.

A random model of half a billion parameters is made there, and plain transformers is the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, Qwen3Config

from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.testing import tiny_backbone
from unspoken.types import CACHE, Prompt, Settings, Text

pytestmark = pytest.mark.gpu

SIZES = {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 3072}
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128}
TEXT = "Ada keeps the green key in a drawer by the window, and Bo has none. " * 4
ROWS = (TEXT, "Who has it?", "The third bench, said Cy, is the one by the sea.")
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


@pytest.fixture(scope="module")
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return "cuda"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest, device: str) -> Backbone:
    return made(SIZES, request.param, device)


def made(sizes: dict[str, int], dtype: torch.dtype, device: str) -> Backbone:
    config = Qwen3Config(
        vocab_size=260, num_attention_heads=16, num_key_value_heads=8, head_dim=64, **sizes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = AutoModelForCausalLM.from_config(config, dtype=dtype)
    net = net.to(device).eval().requires_grad_(False)
    return Backbone(
        net.eval().requires_grad_(False), tiny_backbone("llama").tokenizer, name="half a billion"
    )


@torch.no_grad()
def plain(model: Backbone, words: str, start: int = 0) -> tuple[Tensor, DynamicCache]:
    """Logits after the last token, and the cache, as plain transformers gives them."""
    ids = torch.tensor([model.tokens(words)], device=model.device)
    cache = DynamicCache()
    at = torch.arange(start, start + ids.shape[1], device=model.device)[None]
    out = model.model(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True)
    return out.logits[0, -1], cache


def near(got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    off = (got.float() - want.float()).norm() / want.float().norm()
    return bool(off <= ROUNDING[dtype])


def prompt(*rows: str) -> Prompt:
    return Prompt((Text(rows),))


@torch.no_grad()
def test_a_batch_is_its_rows_and_they_are_plain(model: Backbone):
    together = model.predict(model.read(prompt(*ROWS)).context)
    for row, words in zip(together, ROWS, strict=True):
        assert near(row, plain(model, words)[0], model.dtype)
        assert near(row, model.predict(model.read(prompt(words)).context)[0], model.dtype)
    assert not near(together[0], together[1], model.dtype)


@torch.no_grad()
def test_moved_keys_are_those_that_are_read_there(model: Backbone):
    cached = model.read(prompt(TEXT), needs=frozenset({CACHE})).cached
    assert cached is not None
    there = plain(model, TEXT, start=100)[1]
    for (keys, _), layer in zip(model.shift(cached.kv, 100), there.layers, strict=True):
        assert near(keys, layer.keys, model.dtype)
    assert not near(cached.kv[0][0], there.layers[0].keys, model.dtype)


@pytest.mark.parametrize("ladder", ["exact", "shifted", "anchored", "kvcomm"])
@torch.no_grad()
def test_a_pool_serves_what_a_dense_read_gives(model: Backbone, ladder: str):
    reader = AnchorPool(ladder).wrap(model)
    for words in (TEXT + "Who?", TEXT + "Where is it?", TEXT + "Who?"):
        read = reader.read(prompt(words))
        assert near(model.predict(read.context)[0], plain(model, words)[0], model.dtype)
    assert read.served[0].exact > len(TEXT) - 8


@torch.no_grad()
def test_ratios_to_plain_generate_are_told(model: Backbone, capsys: pytest.CaptureFixture[str]):
    words = TEXT * 12
    ids = torch.tensor([model.tokens(words)], device=model.device)
    mask = torch.ones_like(ids)
    lead = Prompt((Text(("Answer. ",), shared=True), Text((words,))))

    def generate(count: int) -> Any:
        return model.model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)

    def ours(count: int) -> Any:
        return model.write(model.read(lead).context, Settings(max_tokens=count))

    with capsys.disabled():
        for name, count in (("prefill", 1), ("prefill and 64 tokens", 64)):
            ratio = timed(ours, count, model) / timed(generate, count, model)
            print(f"\n{model.dtype}, {ids.shape[1]} tokens, {name}: {ratio:.2f} times plain")


def timed(run: Callable[[int], Any], count: int, model: Backbone) -> float:
    """Seconds, the best of three after one to warm up."""
    seconds: list[float] = []
    for _ in range(4):
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        start = perf_counter()
        run(count)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return min(seconds[1:])
