"""Messages that travel smaller: what comes back, what it costs, and that rows stay their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unspoken.backbone import Backbone
from unspoken.channels import Handoff
from unspoken.errors import IncompatibleModels, NotFinite, RecipeError, WireError
from unspoken.evaluation.identity import identity
from unspoken.pipeline import Pipeline
from unspoken.recipe import PipelineRecipe, RelayRecipe, load_recipe
from unspoken.recipe.pipeline import build
from unspoken.relay.relay import Relay
from unspoken.tasks import TaskSource, load_task
from unspoken.types import CacheSegment, Segment, Spelling, Text, Vectors
from unspoken.wire import (
    LOSSLESS,
    BFloat16,
    Header,
    Int4,
    Int8,
    Layers,
    Lossless,
    LowRank,
    Message,
    Packing,
    Seal,
    Tokens,
)

pytestmark = pytest.mark.numbers

HEADER = Header(channel="c", sender="s", weights="w", tokenizer="t", task=("a", "b", "c"))
MASK = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 4 + [True]])


def vectors(dtype: torch.dtype = torch.float32, width: int = 48) -> Vectors:
    return Vectors(torch.randn(3, 5, width).to(dtype), MASK)


def memory(dtype: torch.dtype = torch.float32, layers: int = 4) -> CacheSegment:
    kv = tuple(tuple(torch.randn(3, 2, 5, 16).to(dtype) for _ in range(2)) for _ in range(layers))
    return CacheSegment.of(kv, MASK)  # pyright: ignore[reportArgumentType]


def memory_without(*layers: int) -> CacheSegment:
    """As the channel `layers` sends it: no heads where a layer was left out."""
    kv = tuple(
        (k[:, :0], v[:, :0]) if n in layers else (k, v) for n, (k, v) in enumerate(memory().kv)
    )
    return CacheSegment.of(kv, MASK)


def spelled() -> CacheSegment:
    words = ("abc", "de fg", "h")
    return CacheSegment.of(memory().kv, MASK, Spelling(words, torch.where(MASK, 1, -1)))


PAYLOADS: dict[str, Callable[[], Segment]] = {
    "vectors": vectors,
    "odd vectors": lambda: vectors(width=7),
    "half vectors": lambda: vectors(torch.bfloat16),
    "cache": memory,
    "half cache": lambda: memory(torch.float16),
    "spelled cache": spelled,
    "some layers": lambda: memory_without(1, 2),
    "no positions": lambda: Vectors(torch.zeros(3, 0, 8), MASK[:, :0]),
    "words": lambda: Text(("a", "", "ü")),
}
PACKINGS: dict[str, Packing] = {
    "lossless": Lossless(),
    "bf16": BFloat16(),
    "int8": Int8(),
    "int8-16": Int8(group=16),
    "int4": Int4(),
    "low-rank": LowRank(rank=2),
    "high-rank": LowRank(rank=99),
    "layers": Layers(layers=(0, 3)),
    "tokens": Tokens(share=0.5),
    "all-tokens": Tokens(share=1),
}


def tensors(payload: Segment) -> list[Tensor]:
    match payload:
        case Text():
            return []
        case Vectors(values, _):
            return [values]
        case CacheSegment(cache, _):
            kv = cache.kv()
            return [tensor for pair in kv for tensor in pair]


def apart(one: Segment, other: Segment) -> float:
    """The relative error over real positions."""
    error = total = 0.0
    for a, b in zip(tensors(one), tensors(other), strict=True):
        keep = MASK[:, None] if a.ndim == 4 else MASK
        error += float((a - b).float()[keep.expand(a.shape[:-1])].square().sum())
        total += float(b.float()[keep.expand(b.shape[:-1])].square().sum())
    return (error / total) ** 0.5


def near(got: Tensor, sent: Tensor) -> bool:
    """Whether two products agree: how one is rounded follows from where its factors stand."""
    torch.testing.assert_close(got, sent)
    return True


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_is_packed_arrives_as_it_says(payload: str, packing: str):
    """The bytes say how they are packed, their number is known, and nothing changes on the way."""
    plain = Message(HEADER, PAYLOADS[payload]())
    if packing == "layers" and isinstance(plain.payload, Vectors):
        with pytest.raises(IncompatibleModels, match="use another packing for vectors"):
            plain.pack(PACKINGS[packing])
        return
    message = plain.pack(PACKINGS[packing])
    data = message.to_bytes()
    assert len(data) == message.nbytes
    loaded = Message.from_bytes(data)
    assert loaded.to_bytes() == data
    assert loaded.header == message.header == plain.header
    assert loaded.layout == message.layout
    for got, sent, original in zip(
        *(tensors(m.payload) for m in (loaded, message, plain)), strict=True
    ):
        same = near if "rank" in packing else torch.equal
        assert same(got, sent)
        assert got.shape == original.shape
        assert got.dtype == original.dtype
    rows = [plain.row(n).pack(PACKINGS[packing]) for n in range(3)]
    assert message.row_bytes() == [len(row.to_bytes()) for row in rows]
    for n, size in enumerate(message.row_bytes()):
        row = message.row(n)
        assert row.nbytes == len(row.to_bytes()) == size
        again = Message.from_bytes(row.to_bytes()).payload
        assert all(map(near, tensors(again), tensors(row.payload)))
    seal = Seal(sign=bytes(32))
    assert len(message.to_bytes(seal)) == message.nbytes + seal.overhead


@pytest.mark.parametrize(
    ("packing", "most", "share"),
    [
        (Lossless(), 0.0, 1.0),
        (BFloat16(), 4e-3, 0.5),
        (Int8(group=16), 8e-3, 0.4),
        (Int4(group=16), 0.12, 0.25),
        (LowRank(rank=99), 1e-5, 2.0),
        (Tokens(share=1), 0.0, 1.0),
    ],
)
def test_what_is_lost_and_what_it_saves(packing: Packing, most: float, share: float):
    kv = tuple((torch.randn(3, 4, 5, 64), torch.randn(3, 4, 5, 64)) for _ in range(4))
    plain = Message(HEADER, CacheSegment.of(kv, MASK))
    message = plain.pack(packing)
    lost = apart(message.payload, plain.payload)
    assert lost <= most
    assert (lost == 0) == (most == 0)
    head = 3000  # bytes of names and shapes
    assert message.nbytes < share * plain.nbytes + head


def test_a_low_rank_is_the_best_of_its_rank():
    plain = Message(HEADER, memory())
    lost = [apart(plain.pack(LowRank(rank=n)).payload, plain.payload) for n in (1, 2, 4, 5)]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 0.5
    assert lost[-1] < 1e-5


def test_layers_that_are_not_kept_come_as_zeros():
    plain = memory()
    payload = Message(HEADER, plain).pack(Layers(layers=(1, 2))).payload
    assert isinstance(payload, CacheSegment)
    for n, (got, sent) in enumerate(zip(payload.kv, plain.kv, strict=True)):
        for a, b in zip(got, sent, strict=True):
            assert torch.equal(
                a, b.masked_fill(~MASK[:, None, :, None], 0) if n in (1, 2) else a * 0
            )


def test_tokens_with_small_keys_and_the_first_one_are_kept():
    keys = torch.tensor([9.0, 1, 5, 3, 7]).view(1, 1, 5, 1).expand(1, 2, 5, 4)
    plain = CacheSegment.of(((keys, keys),), torch.ones(1, 5, dtype=torch.bool))
    header = HEADER.row(0)
    payload = Message(header, plain).pack(Tokens(share=0.5)).payload
    assert isinstance(payload, CacheSegment)
    assert payload.kv[0][0][0, 0, :, 0].tolist() == [9, 1, 0, 3, 0]
    assert payload.mask.all()


def test_large_vectors_are_kept():
    values = torch.tensor([1.0, 9, 5, 3, 7]).view(1, 5, 1).expand(1, 5, 4)
    plain = Vectors(values, torch.ones(1, 5, dtype=torch.bool))
    payload = Message(HEADER.row(0), plain).pack(Tokens(share=0.6)).payload
    assert isinstance(payload, Vectors)
    assert payload.values[0, :, 0].tolist() == [1, 9, 0, 0, 7]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_row_is_packed_the_same_in_any_batch(packing: str):
    torch.manual_seed(0)  # singular values that are nearly equal are cut off one way or the other
    plain = Message(HEADER, memory())
    together = plain.pack(PACKINGS[packing])
    for n in range(3):
        alone = plain.row(n).pack(PACKINGS[packing])
        for a, b in zip(tensors(together.row(n).payload), tensors(alone.payload), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_a_group_far_from_zero_is_not_clipped(offset: float):
    values = offset + torch.rand(1, 1, 64)
    plain = Message(HEADER.row(0), Vectors(values, torch.ones(1, 1, dtype=torch.bool)))
    for packing, codes in ((Int8(), 255), (Int4(), 15)):
        got = tensors(plain.pack(packing).payload)[0]
        reach = 1.05 + abs(offset) * 2**-6  # the lowest value is kept in bfloat16
        assert float((got - values).abs().max()) <= reach / codes


def test_constant_groups_come_back():
    values = torch.zeros(3, 5, 32)
    message = Message(HEADER, Vectors(values, MASK))
    for packing in (Int4(), Int8(), LowRank(rank=3)):
        assert torch.equal(tensors(message.pack(packing).payload)[0], values)


def test_nothing_is_written_into_what_is_packed():
    plain = memory()
    before = [tensor.clone() for tensor in tensors(plain)]
    for packing in PACKINGS.values():
        Message(HEADER, plain).pack(packing)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), before, strict=True))


def test_numbers_that_are_not_finite_are_not_packed():
    values = torch.full((3, 5, 8), torch.nan)
    with pytest.raises(NotFinite, match="NaN or infinite"):
        Message(HEADER, Vectors(values, MASK)).pack(Int8())
    outside = torch.where(MASK[..., None], torch.ones(3, 5, 8), values)
    Message(HEADER, Vectors(outside, MASK)).pack(Int8())


def test_packed_twice_is_refused():
    message = Message(HEADER, vectors()).pack(Int8())
    with pytest.raises(WireError, match="'int8' already"):
        message.pack(Int4())


def test_layers_that_the_cache_has_not():
    with pytest.raises(IncompatibleModels, match=r"keeps layers \[4, 9\].*has 4\. Name layers"):
        Message(HEADER, memory()).pack(Layers(layers=(0, 4, 9)))


def test_a_small_message_may_not_unfold_without_limit():
    """Half a kilobyte that claims a gigabyte, in layers that are left out."""
    one = torch.randn(1, 1, 1, 4)
    plain = Message(
        HEADER.row(0), CacheSegment.of(((one, one),) * 4, torch.ones(1, 1, dtype=torch.bool))
    )
    data = plain.pack(Layers(layers=())).to_bytes()
    assert Message.from_bytes(data, limit=1 << 16).payload.batch == 1
    wide = data.replace(
        rb"\"widths\":[4,4]", rb"\"widths\":[1<30,0]".replace(b"1<30", b"1073741824")
    )
    size = int.from_bytes(data[:8], "little") + len(wide) - len(data)
    wide = size.to_bytes(8, "little") + wide[8:]
    with pytest.raises(WireError, match="claims 17,179,869,184 bytes, unpacked; allowed are"):
        Message.from_bytes(wide)


def test_the_default_is_lossless_and_free():
    message = Message(HEADER, memory())
    assert message.pack(LOSSLESS) is message
    assert message.packed is None


# -- in recipes and comparisons --------------------------------------------------------------------


def test_a_recipe_says_how_messages_travel(tmp_path: Path, tiny: Callable[..., Backbone]):
    model = tiny("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "pair.yaml").write_text(
        f"""
kind: pipeline
agents:
  - {{name: reader, model: {tmp_path / "model"}}}
  - {{name: solver, model: {tmp_path / "model"}}}
edges:
  - {{from: reader, to: solver, channel: {{kind: handoff}}, pack: {{kind: int4, group: 16}},
     shadow: true}}
"""
    )
    recipe = load_recipe(str(tmp_path / "pair.yaml"))
    assert isinstance(recipe, PipelineRecipe)
    edge = build(recipe).edges[0]
    assert edge.pack == Int4(group=16)
    assert edge.shadow
    with pytest.raises(RecipeError, match=r"pack.*zip"):
        load_recipe(str(tmp_path / "pair.yaml"), ["edges.0.pack={kind: zip}"])


def test_a_comparison_says_how_messages_travel(tiny: Callable[..., Backbone]):
    model = tiny("llama")
    task = load_task(TaskSource())
    lines: list[Pipeline] = []
    for settings in ([], ["comparison.pack={kind: tokens, share: 0.5}"]):
        recipe = load_recipe("memory", [*settings, "studies={}"])
        assert isinstance(recipe, RelayRecipe)
        lines.append(Relay(recipe, model, model, task).pipeline_over(Handoff()))
    plain, packed = lines
    assert plain.edges[0].pack == LOSSLESS
    assert packed.edges[0].pack == Tokens(share=0.5)
    assert identity(plain) != identity(packed)
