"""Means, axes and a ridge over blocks, judged by torch over all rows at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unspoken.errors import StorageError
from unspoken.projectors import MemoryProjector, ReadByBoth
from unspoken.projectors.closed_form import moments, principal_axes, ridge
from unspoken.relay.calibration import OnDisk


def rows(count: int = 300, width: int = 24, rank: int = 10) -> Tensor:
    """Correlated columns around means that are large beside their spread."""
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(rank, width, generator=draw) * torch.linspace(3, 0.3, rank)[:, None]
    noise = 0.01 * torch.randn(count, width, generator=draw)
    return torch.randn(count, rank, generator=draw) @ mixed + noise + 50


def cut(values: Tensor, size: int) -> list[Tensor]:
    return list(values.split(size))


@pytest.mark.parametrize("size", [1, 7, 300])
def test_moments_are_those_of_all_rows(size: int):
    found = moments(cut(rows(), size))
    torch.testing.assert_close(found.mean, rows().double().mean(0))
    torch.testing.assert_close(found.spread, rows().double().std(0), rtol=1e-4, atol=0)
    assert found.count == 300


def test_no_rows_have_no_mean():
    with pytest.raises(ValueError, match="give a text to read"):
        moments([])


@pytest.mark.parametrize("size", [7, 300])
@pytest.mark.parametrize("count", [4, 10, 24])
def test_axes_are_those_of_torch_in_the_same_order(size: int, count: int):
    """Of rows of rank 10 and some noise. Axes of noise are close to one another."""
    centred = rows() - rows().mean(0)
    torch.manual_seed(0)
    axes = principal_axes(lambda: iter(cut(centred, size)), 24, count)
    torch.manual_seed(0)
    expected = torch.pca_lowrank(centred, q=count, center=False, niter=1)[2]
    torch.testing.assert_close(axes.T @ axes, torch.eye(count), atol=1e-5, rtol=0)
    alike = (axes * expected).sum(0).abs()[:10]
    torch.testing.assert_close(alike, torch.ones(min(count, 10)), atol=1e-3, rtol=0)
    ours, theirs = (centred @ one @ one.T for one in (axes, expected))
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=0)


def test_rows_without_variance_have_axes_all_the_same():
    axes = principal_axes(lambda: iter([torch.zeros(5, 8)]), 8, 3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [7, 300])
def test_a_ridge_is_the_least_square_with_a_penalty(size: int):
    sources = torch.nn.functional.gelu(rows() - 50)
    targets = rows(rank=5) @ torch.randn(24, 9, generator=torch.Generator().manual_seed(1))
    pairs = zip(cut(sources, size), cut(targets, size), strict=True)
    found = ridge(pairs, moments(cut(targets, size)), 0.03)
    centred, wanted = (part.double() - part.double().mean(0) for part in (sources, targets))
    anchored = torch.cat((centred, (0.03 * 300) ** 0.5 * torch.eye(24, dtype=torch.double)))
    padded = torch.cat((wanted, torch.zeros(24, 9, dtype=torch.double)))
    expected = torch.linalg.lstsq(anchored, padded).solution
    torch.testing.assert_close(found.weight.double(), expected, atol=2e-3, rtol=1e-3)
    made = sources @ found.weight + found.bias
    left = (made - targets).square().sum() / wanted.square().sum()
    assert found.explained == pytest.approx(1 - float(left), abs=1e-4)


class Watched:
    """Blocks that count how many of them are held when the next one is drawn."""

    def __init__(self, blocks: list[ReadByBoth]) -> None:
        self.blocks, self.passes, self.held = blocks, 0, set[int]()

    def __iter__(self) -> Iterator[ReadByBoth]:
        self.passes += 1
        drawn: list[weakref.ref[Tensor]] = []
        for block in self.blocks:
            self.held.add(sum(one() is not None for one in drawn))
            fresh = ReadByBoth(*(part.clone() for part in block))
            drawn.append(weakref.ref(fresh.states))
            yield fresh
            del fresh


def projector() -> MemoryProjector:
    torch.manual_seed(0)
    return MemoryProjector(
        source=(2, 1, 8), target=(3, 2, 4), rotary=(4, 2), target_width=8, width=12, hidden=6
    )


def read(size: int) -> list[ReadByBoth]:
    states = torch.cat((rows(), rows(width=8) - 50), 1)
    ids = torch.zeros(300, dtype=torch.long)
    targets = rows(rank=5) @ torch.randn(24, 48, generator=torch.Generator().manual_seed(1))
    return list(map(ReadByBoth, states.split(size), ids.split(size), targets.split(size)))


@torch.no_grad()
def test_a_memory_starts_the_same_from_blocks_and_holds_no_more_than_the_last():
    whole, parts = projector(), projector()
    watched = Watched(read(32))
    shares = whole.start(read(300)), parts.start(watched)
    assert shares[0] == pytest.approx(shares[1], abs=1e-5)
    assert watched.passes > 1
    assert watched.held == {0, 1}
    states = read(300)[0].states
    said = [
        made.outer(made._sources(made.basis((states - made.mean) / made.spread)))
        for made in (whole, parts)
    ]
    torch.testing.assert_close(said[0], said[1], atol=5e-3, rtol=1e-3)


def test_blocks_on_disk_are_those_that_were_given(tmp_path: Path):
    found = OnDisk(iter(read(64)), tmp_path)
    for _ in range(2):
        for one, two in zip(found, read(64), strict=True):
            assert all(map(torch.equal, one, two))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_a_disk_without_room_is_named(tmp_path: Path):
    (tmp_path / "0.pt").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot write .*0\.pt: No space left on device"):
        OnDisk(read(300), tmp_path)
