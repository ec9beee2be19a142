"""The fuser: its maths by golden data, its files in both layouts, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unspoken.errors import Damaged, StorageError
from unspoken.projectors import Fuser
from unspoken.projectors.fuser import layer_map
from unspoken.types import KV

pytestmark = pytest.mark.numbers

GOLDEN = Path(__file__).parents[1] / "golden" / "c2c"
CASES = ("a_same_depth", "b1_deeper_sharer")


def caches(golden: dict[str, Tensor], name: str, length: int) -> KV:
    layers = sum(key.startswith(f"{name}_key.") for key in golden)
    pairs = [(golden[f"{name}_key.{n}"], golden[f"{name}_value.{n}"]) for n in range(layers)]
    return tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in pairs)


def fuser(seed: int = 0, **options: Any) -> Fuser:
    """Receiver layers 0 and 2 of three take sharer layers 1 and 0 of two; all gates open."""
    torch.manual_seed(seed)
    sizes = {"source_heads": 1, "source_dim": 6, "target_heads": 2, "target_dim": 4}
    made = Fuser(**{**sizes, "layers": [[0, 1], [2, 0]], "hidden": 12, "inner": 20, **options})
    with torch.no_grad():
        made.gate.fill_(1)
    return made.eval()


def random_kv(layers: int, heads: int, length: int, dim: int, batch: int = 2, seed: int = 1) -> KV:
    rng = torch.Generator().manual_seed(seed)
    shape = (batch, heads, length, dim)
    return tuple(
        (torch.randn(shape, generator=rng), torch.randn(shape, generator=rng))
        for _ in range(layers)
    )


TARGET, SOURCE = random_kv(3, 2, 5, 4), random_kv(2, 1, 7, 6, seed=2)
PLACES = torch.tensor([[0, -1, 3, 3, 6], [-1, -1, -1, -1, 2]])


def flat(kv: KV) -> list[Tensor]:
    return [tensor for pair in kv for tensor in pair]


# -- maths -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_caches_are_fused_as_by_the_reference(case: str):
    golden = load_file(GOLDEN / case / "golden.safetensors")
    made = Fuser.from_published(GOLDEN / case / "fuser1")
    length = golden["input_ids"].shape[1] - 1
    target = caches(golden, "receiver_only", length)
    fused = made(target, caches(golden, "sharer1", length), torch.arange(length)[None])
    torch.testing.assert_close(fused, caches(golden, "fused", length), atol=1e-5, rtol=0)
    if case == "a_same_depth":
        pinned = (golden["projector0_out_key"], golden["projector0_out_value"])
        torch.testing.assert_close(fused[0], pinned, atol=1e-5, rtol=0)
        assert fused[2] is target[2]  # logits of 0 are shut
        assert fused[1][1] is target[1][1]
        assert not torch.equal(fused[1][0], target[1][0])


@torch.no_grad()
def test_positions_without_a_place_stay_bit_for_bit():
    fused = fuser()(TARGET, SOURCE, PLACES)
    for before, after in zip(flat(TARGET), flat(fused), strict=True):
        left, right = (tensor.transpose(1, 2)[PLACES < 0] for tensor in (before, after))
        assert torch.equal(left, right)
    assert fused[1] is TARGET[1]
    for layer in (0, 2):
        for before, after in zip(TARGET[layer], fused[layer], strict=True):
            changed = (before != after).any(-1).all(1)
            assert torch.equal(changed, PLACES >= 0)


@torch.no_grad()
def test_rows_do_not_know_of_each_other():
    together = fuser()(TARGET, SOURCE, PLACES)
    for row in range(2):
        one = slice(row, row + 1)
        target, source = (tuple((k[one], v[one]) for k, v in kv) for kv in (TARGET, SOURCE))
        alone = fuser()(target, source, PLACES[one])
        for left, right in zip(flat(together), flat(alone), strict=True):
            torch.testing.assert_close(left[one], right, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_place_says_which_source_position_is_fused():
    moved = tuple((k.flip(2), v.flip(2)) for k, v in SOURCE)
    flipped = torch.where(PLACES >= 0, 6 - PLACES, -1)
    torch.testing.assert_close(
        fuser()(TARGET, SOURCE, PLACES), fuser()(TARGET, moved, flipped), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_nothing_to_fuse_gives_the_very_tensors():
    made, nowhere = fuser(), torch.full_like(PLACES, -1)
    empty = tuple((k[:, :, :0], v[:, :, :0]) for k, v in SOURCE)
    assert identical(made(TARGET, SOURCE, nowhere))
    assert identical(made(TARGET, empty, nowhere))
    made.gate.zero_()
    assert identical(made(TARGET, SOURCE, PLACES))


def identical(kv: KV) -> bool:
    return all(a is b for a, b in zip(flat(TARGET), flat(kv), strict=True))


class Products(TorchDispatchMode):
    """Counts the matrix products under it, and numbers that are read back from the device."""

    products = 0
    read_back = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.products += name in ("mm", "addmm", "bmm", "baddbmm")
        self.read_back += name in ("_local_scalar_dense", "nonzero")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_what_is_shut_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    counts: list[None] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (counts.append(None), tolist(self))[1])
    found: list[int] = []
    for gates in ([[1, 1], [1, 1]], [[1, 0], [0, 0]], [[0, -1], [0, 0]]):
        made = fuser()
        made.gate.copy_(torch.tensor(gates))
        with Products() as seen:
            made(TARGET, SOURCE, PLACES)
        assert not seen.read_back
        found.append(seen.products)
    assert found == [4 * 9, 9, 0]  # two for each of three blocks, and three more
    assert len(counts) == 3  # one sync each


@torch.no_grad()
def test_in_bfloat16_the_sum_is_taken_in_float32():
    made = fuser().bfloat16()
    target, source = (tuple((k.bfloat16(), v.bfloat16()) for k, v in kv) for kv in (TARGET, SOURCE))
    fused = made(target, source, PLACES)
    assert {tensor.dtype for tensor in flat(fused)} == {torch.bfloat16}
    # With targets in float32 nothing is rounded after the sum, and the changes are the same.
    wide = tuple((k.float(), v.float()) for k, v in target)
    exact = made(wide, source, PLACES)
    for rounded, whole in zip(flat(fused), flat(exact), strict=True):
        assert torch.equal(rounded, whole.bfloat16())
    assert not torch.equal(fused[0][0].float(), exact[0][0])
    near = fuser()(TARGET, SOURCE, PLACES)
    torch.testing.assert_close(exact, near, atol=0.1, rtol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("noise", ["logistic", "gumbel"])
@pytest.mark.parametrize("logit", [-1.0, 0.0, 0.7])
def test_a_gate_opens_as_often_as_it_says(noise: str, logit: float):
    made = fuser(noise=noise, layers=[[0, 0]], hot=1e-4, dropout=0.0).train()
    made.gate.fill_(logit)
    made.generator = torch.Generator().manual_seed(0)
    target, source = random_kv(1, 2, 4000, 4), random_kv(1, 1, 1, 6)
    fused = made(target, source, torch.zeros(2, 4000, dtype=torch.long))
    logit = torch.tensor(logit)
    expected = logit.sigmoid() if noise == "logistic" else 1 - (-logit.exp()).exp()
    for before, after in zip(target[0], fused[0], strict=True):
        share = (before != after).any(-1).float().mean()
        assert abs(float(share - expected)) < 0.02


def test_noise_is_drawn_for_each_position_and_head_from_the_generator():
    made = fuser(dropout=0.0).train()

    def draw(seed: int) -> list[Tensor]:
        made.generator = torch.Generator().manual_seed(seed)
        return flat(made(TARGET, SOURCE, PLACES))

    first, again, other = draw(0), draw(0), draw(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    sum(tensor.sum() for tensor in first).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())


def test_temperature_falls_geometrically():
    made = fuser()
    for step, expected in ((0, 1.0), (643, 0.1), (1929, 0.001), (5000, 0.001)):
        made.anneal_to(step)
        assert float(made.temperature) == pytest.approx(expected, rel=1e-5)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("receiver", "sharer", "parameters"),
    [
        ((28, 8, 128), (24, 2, 64), 477_848_056),  # Qwen3-0.6B, Qwen2.5-0.5B
        ((28, 8, 128), (28, 2, 128), 485_188_088),  # Qwen3-1.7B, Qwen2.5-1.5B
        ((30, 3, 64), (18, 1, 256), 417_250_800),  # SmolLM2-135M, Gemma-3-270M
    ],
)
def test_fusers_have_the_size_of_published_ones(
    receiver: tuple[int, int, int], sharer: tuple[int, int, int], parameters: int
):
    with torch.device("meta"):
        made = Fuser(
            source_heads=sharer[1],
            source_dim=sharer[2],
            target_heads=receiver[1],
            target_dim=receiver[2],
            layers=layer_map(receiver[0], sharer[0], "last_aligned"),
        )
    assert sum(p.numel() for p in made.parameters()) == parameters


def test_a_rank_makes_a_fuser_small_and_comes_back(tmp_path: Path):
    full, small = fuser(hidden=64, inner=64), fuser(hidden=64, inner=64, rank=2, alignment="first")
    sizes = [sum(p.numel() for p in made.parameters()) for made in (full, small)]
    assert sizes[1] < sizes[0] / 4
    small.save_pretrained(tmp_path / "small")
    loaded = Fuser.from_pretrained(tmp_path / "small").eval()
    assert (loaded.rank, loaded.alignment, loaded.layers) == (2, "first", [(0, 1), (2, 0)])
    left, right = small(TARGET, SOURCE, PLACES), loaded(TARGET, SOURCE, PLACES)
    assert all(torch.equal(a, b) for a, b in zip(flat(left), flat(right), strict=True))
    with pytest.raises(StorageError, match="no low-rank"):
        small.to_published(tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_gates_are_reported():
    made = fuser()
    with torch.no_grad():
        made.gate.copy_(torch.tensor([[0.5, -1.0], [0.0, -0.25]]))
    first, second = made.gates()
    assert (first.receiver_layer, first.sharer_layer, first.key, first.value) == (0, 1, 0.5, -1.0)
    assert first.open
    assert not second.open
    assert made.top == 1


@pytest.mark.parametrize(
    "wrong", [{"layers": []}, {"layers": [[0, 1], [0, 0]]}, {"depth": 2}, {"noise": "normal"}]
)
def test_settings_that_make_no_fuser_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"not|is"):
        fuser(**wrong)


def test_layers_are_mapped_as_published():
    assert layer_map(5, 7, "last_aligned") == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
    assert layer_map(3, 2, "last_aligned") == [(0, 0), (1, 0), (2, 1)]
    assert layer_map(3, 4, "k_nearest") == [(0, 0), (1, 1), (2, 3)]  # a tie goes down
    assert layer_map(1, 3, "k_nearest") == [(0, 0)]
    with pytest.raises(ValueError, match="last_aligned"):
        layer_map(1, 1, "nearest")  # pyright: ignore[reportArgumentType]


# -- published folders -----------------------------------------------------------------------------


def tensors(folder: Path, n: int) -> dict[str, Tensor]:
    return torch.load(folder / "final" / f"projector_{n}.pt", weights_only=True)


@pytest.mark.parametrize("case", [*CASES, "f_train_step"])
def test_a_published_fuser_goes_round_bit_for_bit(tmp_path: Path, case: str):
    theirs, ours = GOLDEN / case / "fuser1", tmp_path / "ours"
    made = Fuser.from_published(theirs)
    made.to_published(ours, receiver="receiver", sharer="sharer1")
    for file in sorted((theirs / "final").iterdir()):
        copy = ours / "final" / file.name
        if file.suffix == ".json":
            assert json.loads(copy.read_text()) == json.loads(file.read_text())
        else:
            left, right = (torch.load(f, weights_only=True) for f in (file, copy))
            assert left.keys() == right.keys()
            assert all(torch.equal(left[name], right[name]) for name in left)
    recipe, copy = (json.loads((f / "config.json").read_text())["model"] for f in (theirs, ours))
    assert copy.items() <= recipe.items()
    more = ["files.json"]  # with digests
    names = [sorted(p.name for p in folder.rglob("*")) for folder in (ours, theirs)]
    assert names[0] == sorted(names[1] + more)


def test_the_dtype_is_the_one_that_is_stated(tmp_path: Path):
    fuser().bfloat16().to_published(tmp_path / "half")
    loaded = Fuser.from_published(tmp_path / "half")
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.bfloat16}
    assert loaded.noise == "gumbel"
    assert loaded.layers == [(0, 1), (2, 0)]
    (tmp_path / "half" / "files.json").unlink()
    edit(tmp_path / "half" / "final" / "projector_0.json", lambda c: c["init_args"].pop("dtype"))
    edit(tmp_path / "half" / "final" / "projector_1.json", lambda c: c["init_args"].pop("dtype"))
    loaded = Fuser.from_published(tmp_path / "half")
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32}


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def save(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "f_train_step" / "fuser1", tmp_path / "fuser"))


def test_old_aggregators_and_further_sources_are_ignored(folder: Path):
    (folder / "final" / "aggregator_0.pt").write_bytes(b"what")
    (folder / "final" / "aggregator_config.json").write_text("{")

    def more(content: Any) -> None:
        content["0"]["1"]["1"].append([1, 1])

    edit(folder / "final" / "projector_config.json", more)
    assert Fuser.from_published(folder).layers == [(0, 0), (1, 0), (2, 1)]


PT, ARGS, MAP = "final/projector_1.pt", "final/projector_1.json", "final/projector_config.json"


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (PT, lambda c: c.pop("key_in.weight"), "key_in.weight' is missing"),
        (PT, lambda c: c.update(more=torch.zeros(1)), "'more' is surplus"),
        (PT, lambda c: c.update(key_gate_logit=torch.zeros(2)), r"is \(2,\), but must be \(\)"),
        (PT, lambda c: c.update(key_gate_logit=1.0), "'key_gate_logit' is float"),
        (PT, lambda c: c.update(gate_temperature=torch.tensor(9.0)), "gate_temperature"),
        (ARGS, lambda c: c.update({"class": "AllInOneProjector"}), "'AllInOneProjector'"),
        (ARGS, lambda c: c.pop("init_args"), "no init_args"),
        (ARGS, lambda c: c["init_args"].update(magic=1), "'magic'"),
        (ARGS, lambda c: c["init_args"].update(hidden_dim=8), "not those of"),
        (ARGS, lambda c: c["init_args"].pop("source_dim"), "'source_dim' is None"),
        (ARGS, lambda c: c["init_args"].update(num_layers=2), "'num_layers' is 2"),
        (ARGS, lambda c: c["init_args"].update(hidden_dim=1.5), "'hidden_dim' is 1.5"),
        (ARGS, lambda c: c["init_args"].update(num_layers=10**9), "'num_layers' is 1000000000"),
        (ARGS, lambda c: c["init_args"].update(source_dim=2**40), "'source_dim' is 1099511627776"),
        (ARGS, lambda c: c["init_args"].update(dropout=float("nan")), "NaN is no finite number"),
        (PT, lambda c: c["key_in.weight"].fill_(torch.inf), "'key_in.weight' holds numbers"),
        (PT, lambda c: c.update(key_gate_logit=torch.tensor(1j)), "'key_gate_logit' holds numbers"),
        (MAP, lambda c: c["0"]["1"].update({"1": [[0, 10**12]]}), "one receiver"),
        (MAP, lambda c: c["0"]["1"].update({"1": [[-1, 1]]}), "one receiver"),
        (MAP, lambda c: c.update({"1": {}}), "one receiver"),
        (MAP, lambda c: c["0"].update({"2": {}}), "one receiver"),
        (MAP, lambda c: c["0"]["1"].update({"0": []}), "one receiver"),
        (MAP, lambda c: c["0"]["1"].clear(), "no layer"),
        (MAP, lambda c: c["0"]["1"].pop("1"), "no layer of"),
        (MAP, lambda c: c["0"]["1"].update({"3": [[0, 7]]}), r"projector_7.json"),
        ("config.json", lambda c: c.pop("model"), "'model'"),
        (
            "config.json",
            lambda c: c["model"].update(is_do_alignment=True, alignment_strategy="soft"),
            "'soft'",
        ),
    ],
)
def test_an_odd_entry_is_refused_by_name(
    folder: Path, file: str, change: Callable[[Any], Any], told: str
):
    (save if file.endswith(".pt") else edit)(folder / file, change)
    with pytest.raises(StorageError, match=told) as refused:
        Fuser.from_published(folder)
    if file != MAP:
        assert str(folder / file) in str(refused.value)


@pytest.mark.parametrize("file", [PT, ARGS, MAP, "config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"PK\x03\x04"])
def test_a_missing_or_broken_file_is_refused_by_name(
    folder: Path, file: str, content: bytes | None
):
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(StorageError) as refused:
        Fuser.from_published(folder)
    assert str(folder / file) in str(refused.value)


@pytest.mark.parametrize("file", [PT, ARGS, MAP, "config.json"])
def test_a_folder_that_was_written_here_has_digests(folder: Path, file: str, tmp_path: Path):
    Fuser.from_published(folder).to_published(tmp_path / "ours", receiver="r", sharer="s")
    path = tmp_path / "ours" / file
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(Damaged, match=rf"{path} is damaged; give a folder"):
        Fuser.from_published(tmp_path / "ours")


def test_an_unknown_dtype_is_refused(folder: Path):
    for n in range(3):
        edit(folder / f"final/projector_{n}.json", lambda c: c["init_args"].update(dtype="int8"))
    with pytest.raises(StorageError, match="int8"):
        Fuser.from_published(folder)


class _Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_nothing_is_executed(folder: Path, tmp_path: Path):
    save(folder / PT, lambda c: c.update(key_gate_logit=_Trap(tmp_path / "sprung")))
    with pytest.raises(StorageError, match=r"projector_1\.pt"):
        Fuser.from_published(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_stood_there_is_replaced_whole(tmp_path: Path):
    fuser(0, layers=[[0, 0], [1, 1], [2, 1]]).to_published(tmp_path / "out")
    fuser(1).to_published(tmp_path / "out")
    assert Fuser.from_published(tmp_path / "out").layers == [(0, 1), (2, 0)]
    assert len(tensors(tmp_path / "out", 1)) == 33
