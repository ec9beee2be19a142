"""Shapes, padding and files of the trained modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.kept.folders import without_digest
from unspoken.channels import Constant, Embedding, make_channel
from unspoken.errors import Damaged, IncompatibleModels
from unspoken.projectors import EmbeddingProjector, FreeVectors, Projector
from unspoken.types import Vectors

pytestmark = pytest.mark.numbers


def projector(
    vectors: int | None = None, layers: tuple[int, ...] = (0, 2), prompt: int = 0
) -> EmbeddingProjector:
    torch.manual_seed(0)
    return EmbeddingProjector(
        source_width=8,
        target_width=6,
        layers=layers,
        hidden=10,
        vectors=vectors,
        prompt=prompt,
        scale=0.5,
    )


def free() -> FreeVectors:
    torch.manual_seed(0)
    return FreeVectors(count=3, width=6, target_weights="w")


MAKE: dict[str, Callable[[], Projector]] = {
    "per position": projector,
    "one layer": lambda: projector(layers=(-1,)),
    "pooled": lambda: projector(4),
    "with a prompt": lambda: projector(prompt=2),
    "free": free,
}


def states(seed: int = 1) -> Vectors:
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    values = torch.randn(2, 5, 2, 8, generator=torch.Generator().manual_seed(seed))
    return Vectors(values, mask)


def out(made: Projector) -> Vectors:
    if isinstance(made, FreeVectors):
        return made(2)
    given = states()
    return made(Vectors(given.values[:, :, : len(made.layers)], given.mask))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("per position", (2, 5, 6)),
        ("one layer", (2, 5, 6)),
        ("pooled", (2, 4, 6)),
        ("free", (2, 3, 6)),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...]):
    vectors = out(MAKE[name]())
    assert vectors.values.shape == shape
    assert vectors.mask.shape == shape[:2]
    assert vectors.mask.dtype == torch.bool
    assert vectors.values.dtype == torch.float32
    if name in ("per position", "one layer"):
        assert torch.equal(vectors.mask, states().mask)
    else:
        assert vectors.mask.all()


def test_vectors_begin_at_the_scale_of_the_receiver():
    rms = out(projector()).values.pow(2).mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("vectors", [None, 4])
def test_padding_is_ignored(vectors: int | None):
    made, given = projector(vectors), states()
    loud = given.values.masked_fill(~given.mask[:, :, None, None], 1e3)
    before, after = made(given), made(Vectors(loud, given.mask))
    assert torch.equal(before.values[before.mask], after.values[after.mask])
    alone = made(Vectors(given.values[:1, 2:], given.mask[:1, 2:]))
    torch.testing.assert_close(alone.values[0], before.values[0][before.mask[0]])
    heard = made(Vectors(loud, torch.ones_like(given.mask)))
    assert not torch.allclose(heard.values[0, -1], before.values[0, -1]) or vectors is None


def test_pooling_does_not_hear_the_other_row():
    made, given = projector(4), states()
    other = given.values.clone()
    other[1] = 0
    assert torch.equal(made(given).values[0], made(Vectors(other, given.mask)).values[0])


def test_positions_are_projected_one_by_one():
    made, given = projector(), states()
    turned = Vectors(given.values.flip(1), given.mask.flip(1))
    torch.testing.assert_close(made(turned).values.flip(1), made(given).values)


def test_calibration_standardises_each_dimension():
    made = projector()
    sample = torch.randn(500, 2, 8) * torch.arange(1.0, 17).view(2, 8) + 7
    made.calibrate(sample)
    flat = (sample.flatten(1) - made.mean) / made.spread
    torch.testing.assert_close(flat.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(0), torch.ones(16), atol=1e-4, rtol=0)
    shifted = Vectors(states().values * 100 + 1, states().mask)
    before = made(shifted).values
    made.calibrate(sample * 100 + 1)
    assert not torch.allclose(made(shifted).values, before, atol=1e-2)


def test_a_dimension_that_never_moves_is_no_division_by_zero():
    made = projector()
    made.calibrate(torch.ones(10, 2, 8))
    assert made(states()).values.isfinite().all()


@pytest.mark.parametrize("name", MAKE)
def test_a_round_trip_is_bit_equal(tmp_path: Path, name: str):
    made = MAKE[name]()
    if isinstance(made, EmbeddingProjector):
        made.calibrate(torch.randn(50, len(made.layers), 8))
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path)
    assert made.state_dict().keys() == again.state_dict().keys()
    for key, tensor in made.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert torch.equal(out(again).values, out(made).values)
    for setting in ("layers", "vectors", "target_weights", "source_width", "count"):
        assert getattr(again, setting, None) == getattr(made, setting, None)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_that_are_not_the_modules_are_refused(tmp_path: Path, name: str, change: str):
    made = MAKE[name]()
    made.save_pretrained(tmp_path)
    path = without_digest(tmp_path)
    tensors = load_file(path)
    key = sorted(tensors)[-1]
    if change == "missing":
        del tensors[key]
    elif change == "surplus":
        key = "another"
        tensors[key] = torch.ones(2)
    else:
        tensors[key] = torch.ones(2, 2, 2)
    save_file(tensors, path)
    with pytest.raises(Damaged, match=key):
        type(made).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", MAKE)
def test_a_folder_without_a_digest_is_loaded(tmp_path: Path, name: str):
    made = MAKE[name]()
    made.save_pretrained(tmp_path)
    without_digest(tmp_path)
    assert torch.equal(out(type(made).from_pretrained(tmp_path)).values, out(made).values)


def test_weights_of_another_training_are_refused(tmp_path: Path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        FreeVectors(count=3, width=6).save_pretrained(tmp_path / f"{seed}")
    weights = [tmp_path / f"{seed}" / "model.safetensors" for seed in (0, 1)]
    weights[0].write_bytes(weights[1].read_bytes())
    with pytest.raises(Damaged, match=r"were not written together; get the folder again"):
        FreeVectors.from_pretrained(tmp_path / "0")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hiden": 3}, r"unknown keys \['hiden'\]"),
        ({"hidden": 2**40}, "'hidden' beyond"),
        ({"hidden": 2**30}, r"'inner.*' is \(10.*\), but must be"),
        ({"hidden": "many"}, "settings that make no EmbeddingProjector"),
        ({"layers": [0]}, r"but must be \(10, 8\)"),
        ({"scale": float("nan")}, "no finite number"),
    ],
)
@pytest.mark.parametrize("digest", [True, False])
def test_settings_that_are_not_those_of_the_weights_are_refused(
    tmp_path: Path, change: dict[str, Any], says: str, digest: bool
):
    projector().save_pretrained(tmp_path)
    if not digest:
        without_digest(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    says = "config.json" if digest else says
    with pytest.raises(Damaged, match=rf"{says}.*; get the folder again"):
        EmbeddingProjector.from_pretrained(tmp_path)


@pytest.mark.parametrize("digest", [True, False])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, digest: bool):
    made = projector()
    with torch.no_grad():
        made.outer.weight[0, 0] = torch.nan
    made.save_pretrained(tmp_path)
    if not digest:
        without_digest(tmp_path)
    with pytest.raises(Damaged, match=r"'outer\.weight' holds numbers that are not real"):
        EmbeddingProjector.from_pretrained(tmp_path)


def test_channels_load_what_was_saved(tmp_path: Path):
    projector().save_pretrained(tmp_path / "p")
    free().save_pretrained(tmp_path / "f")
    embedding = make_channel("embedding", projector=str(tmp_path / "p"))
    constant = make_channel("constant", vectors=str(tmp_path / "f"))
    assert isinstance(embedding, Embedding)
    assert isinstance(constant, Constant)
    assert {need.layer for need in embedding.needs} == {0, 2}
    assert torch.equal(embedding.projector(states()).values, projector()(states()).values)
    assert torch.equal(constant.vectors.values, free().values)


def test_free_vectors_can_start_from_words():
    made, words = free(), torch.randn(3, 6)
    made.start_from(words)
    assert torch.equal(made(1).values[0], words)
    assert made.values.requires_grad


@pytest.mark.parametrize(("source", "target", "side"), [(48, 32, "sender"), (32, 48, "receiver")])
def test_widths_that_do_not_fit(tiny, source: int, target: int, side: str):
    spec = tiny("llama").spec  # no weights are recorded: the widths alone decide
    made = EmbeddingProjector(source_width=source, target_width=target)
    with pytest.raises(
        IncompatibleModels, match=rf"{source} to {target}, but {side} '{spec.name}'"
    ):
        Embedding(made).check(spec, spec)


def test_free_vectors_of_another_width(tiny):
    with pytest.raises(IncompatibleModels, match=r"are 48 wide, but receiver .* embeds 32; train"):
        Constant(FreeVectors(count=1, width=48)).check(tiny("llama").spec, tiny("llama").spec)


@pytest.mark.parametrize("layers", [(4,), (-5,), (0, 9)])
def test_a_layer_that_the_sender_has_not(tiny, layers: tuple[int, ...]):
    spec = tiny("llama").spec
    made = EmbeddingProjector(source_width=32, target_width=32, layers=layers)
    with pytest.raises(IncompatibleModels, match=r"reads layers .* has 3; train one with"):
        Embedding(made).check(spec, spec)


@pytest.mark.parametrize("layers", [(3,), (-4,), (0, -1)])
def test_layers_that_the_sender_has(tiny, layers: tuple[int, ...]):
    spec = tiny("llama").spec
    made = EmbeddingProjector(source_width=32, target_width=32, layers=layers)
    assert Embedding(made).check(spec, spec) is None


def test_what_stands_before_every_message_is_not_sent():
    made = projector(prompt=2)
    lead = made.front_vectors(3)
    assert lead.values.shape == (3, 2, 6)
    assert lead.mask.all()
    assert torch.equal(lead.values[0], lead.values[2])
    assert torch.equal(made(states()).values, out(projector()).values)
    assert projector().front_vectors(3).values.shape == (3, 0, 6)
