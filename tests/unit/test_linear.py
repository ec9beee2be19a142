"""Closed-form maps: what they recover, their norms, their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unspoken.channels import Embedding, make_channel
from unspoken.errors import IncompatibleModels, UnknownName
from unspoken.projectors import EmbeddingProjector, LinearMap, load_projector
from unspoken.projectors.alignment import mean_embeddings
from unspoken.types import Vectors

pytestmark = pytest.mark.numbers


def fresh(kind: str = "ridge", width: int = 8, target: int = 6, layers: int = 1) -> LinearMap:
    return LinearMap(source_width=width, target_width=target, layers=[*range(layers)], kind=kind)


def drawn(count: int = 400, width: int = 8, target: int = 6) -> tuple[Tensor, Tensor]:
    """States with unlike spreads, and a linear map of them with an offset."""
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(count, 1, width, generator=rng) * torch.arange(1.0, width + 1) + 3
    mixed = torch.randn(width, target, generator=rng)
    return states, states[:, 0] @ mixed + 5


def made_of(projector: LinearMap, states: Tensor) -> Tensor:
    mask = torch.ones(1, len(states), dtype=torch.bool)
    return projector(Vectors(states[None], mask)).values[0].detach()


def test_a_ridge_recovers_a_linear_relation_up_to_the_norm():
    states, targets = drawn()
    made = fresh()
    assert made.fit(states[:300], targets[:300], penalty=1e-8) == pytest.approx(1, abs=1e-5)
    wanted = torch.nn.functional.normalize(targets[300:], dim=1) * targets[:300].norm(dim=1).mean()
    torch.testing.assert_close(made_of(made, states[300:]), wanted, atol=1e-2, rtol=1e-3)


def test_a_rotation_is_recovered_by_procrustes():
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(4000, 1, 6, generator=rng)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    targets = 0.3 * states[:, 0] @ rotation
    made = fresh("procrustes", 6)
    assert made.fit(states, targets) > 0.99
    torch.testing.assert_close(made.linear.weight.T / 0.3, rotation, atol=0.05, rtol=0)


@pytest.mark.parametrize(("width", "target"), [(8, 6), (6, 8)])
def test_procrustes_turns_and_scales_and_does_nothing_else(width: int, target: int):
    states, targets = drawn(width=width, target=target)
    made = fresh("procrustes", width, target)
    share = made.fit(states, targets)
    weight = made.linear.weight.detach().double()
    gram = weight @ weight.T if target < width else weight.T @ weight
    scale = gram.diagonal().mean()
    torch.testing.assert_close(gram / scale, torch.eye(len(gram)).double(), atol=1e-4, rtol=0)
    sources = (states.flatten(1) - made.mean) / made.spread
    wanted = targets - targets.mean(0)

    def left(factor: float) -> float:
        weight = made.linear.weight.detach().T
        return float((factor * sources @ weight - wanted).square().sum())

    assert left(1.0) < min(left(0.98), left(1.02))
    assert share == pytest.approx(1 - left(1.0) / float(wanted.square().sum()), abs=1e-4)
    assert share < fresh("ridge", width, target).fit(states, targets)


@pytest.mark.parametrize("kind", ["ridge", "procrustes"])
def test_every_vector_has_the_mean_norm_of_the_targets(kind: str):
    states, targets = drawn()
    made = fresh(kind)
    made.fit(states, targets)
    norms = made_of(made, states).norm(dim=1)
    wanted = targets.norm(dim=1).mean().expand_as(norms)
    torch.testing.assert_close(norms, wanted, rtol=1e-5, atol=0)


def test_a_penalty_shrinks_what_cannot_be_known():
    states, targets = drawn(20)
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))
    loose, tight = fresh(), fresh()
    assert loose.fit(states, noise, penalty=1e-6) > tight.fit(states, noise, penalty=10.0)
    assert tight.linear.weight.norm() < 0.2 * loose.linear.weight.norm()


def test_several_layers_and_a_dimension_that_never_moves():
    states, targets = drawn()
    both = torch.cat((states, torch.ones_like(states)), 1)
    made = fresh(layers=2)
    assert made.fit(both, targets) > 0.99
    assert made_of(made, both).isfinite().all()


@pytest.mark.parametrize("kind", ["ridge", "procrustes"])
def test_a_map_is_loaded_by_its_folder_as_it_was(tmp_path: Path, kind: str):
    states, targets = drawn()
    made = fresh(kind)
    made.fit(states, targets)
    made.save_pretrained(tmp_path)
    channel = make_channel("embedding", projector=str(tmp_path))
    assert isinstance(channel, Embedding)
    loaded = channel.projector
    assert isinstance(loaded, LinearMap)
    assert (loaded.kind, loaded.layers) == (kind, (0,))
    assert torch.equal(made_of(loaded, states), made_of(made, states))


def test_what_a_folder_holds_is_told_by_its_kind(tmp_path: Path):
    EmbeddingProjector(source_width=4, target_width=4).save_pretrained(tmp_path)
    assert type(load_projector(str(tmp_path))) is EmbeddingProjector
    fresh().save_pretrained(tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    path.write_text(path.read_text().replace("ridge", "rigde"))
    with pytest.raises(UnknownName, match=r"'rigde'; did you mean 'ridge'\?"):
        load_projector(str(tmp_path / "other"))


def test_widths_that_do_not_fit_are_refused(tiny):
    spec = tiny("llama").spec
    with pytest.raises(IncompatibleModels, match=r"maps width 8 to 6, but sender .* of 32; train"):
        Embedding(fresh()).check(spec, spec)


def test_words_that_end_at_one_place_are_averaged():
    table = torch.arange(12.0).view(6, 2)
    count, mean = mean_embeddings(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 5]), 4, table)
    assert count.tolist() == [1, 0, 2, 0]
    assert torch.equal(mean, torch.tensor([[2.0, 3.0], [0, 0], [8, 9], [0, 0]]))
