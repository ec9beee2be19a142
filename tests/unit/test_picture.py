"""Pictures of gates, and the line about them in the card of a trained fuser."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from unspoken.errors import MissingExtra
from unspoken.page import picture
from unspoken.page.picture import draw_gates
from unspoken.projectors import Fuser
from unspoken.relay.trained.fusion import TrainedFusion

SIZES: dict[str, int] = {
    "source_heads": 1,
    "source_dim": 4,
    "target_heads": 1,
    "target_dim": 4,
    "hidden": 4,
    "inner": 4,
}
_gates = TrainedFusion().card
LOGITS = ((2.0, -3.0), (0.5, 0.0), (-1.0, -0.1))


def fuser(logits: Sequence[tuple[float, float]] = LOGITS) -> Fuser:
    """Receiver layers 4, 5, ... are fused with sharer layers 7, 8, ..."""
    made = Fuser(**SIZES, layers=[(4 + n, 7 + n) for n in range(len(logits))])
    made.gate.data.copy_(torch.tensor(logits))
    return made.eval()


def drawn(monkeypatch: pytest.MonkeyPatch, made: Fuser, path: Path) -> Any:
    """The axes of the picture, before it becomes pixels."""
    kept: list[Any] = []
    monkeypatch.setattr(picture, "_save", lambda figure, _: kept.append(figure))
    draw_gates(made, path)
    (figure,) = kept
    return figure.axes[0]


def marked(axes: Any, label: str) -> set[tuple[int, int]]:
    """The (layer, side) pairs that have this mark."""
    (points,) = (found for found in axes.collections if found.get_label() == label)
    return {(int(layer), int(side)) for layer, side in points.get_offsets()}


def test_every_gate_is_coloured_by_its_strength_and_marked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    axes = drawn(monkeypatch, fuser(), tmp_path / "gates.png")
    (image,) = axes.images
    expected = torch.tensor(LOGITS).sigmoid().T
    torch.testing.assert_close(torch.tensor(image.get_array().tolist()), expected)
    assert image.get_clim() == (0, 1)
    assert marked(axes, "open") == {(0, 0), (1, 0)}
    assert marked(axes, "shut") == {(0, 1), (1, 1), (2, 0), (2, 1)}
    assert axes.get_title() == "2 of 6 gates open"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4\n7", "5\n8", "6\n9"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["keys", "values"]


@pytest.mark.parametrize("logits", [((1.0, 1.0),), ((-1.0, 0.0),), LOGITS * 10])
def test_a_picture_is_a_png_file(tmp_path: Path, logits: Sequence[tuple[float, float]]):
    draw_gates(fuser(logits), tmp_path / "sub" / "gates.png")
    assert (tmp_path / "sub" / "gates.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_card_counts_open_gates_and_shows_them(tmp_path: Path):
    line = _gates(fuser(), tmp_path)
    told = "* gates open: 2 for keys, 0 for values, of 3 layers, see [gates.png](gates.png)\n"
    assert line == told
    assert (tmp_path / "gates.png").stat().st_size > 1000
    assert "0 for keys, 1 for values, of 1 layers" in _gates(fuser([(-1.0, 1.0)]), tmp_path)


def test_without_matplotlib_a_card_goes_without_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[compare\]'"):
        draw_gates(fuser(), tmp_path / "gates.png")
    assert _gates(fuser(), tmp_path) == "* gates open: 2 for keys, 0 for values, of 3 layers\n"
    assert not list(tmp_path.glob("*.png"))
    told = " ".join(capsys.readouterr().err.split())
    assert "no gates.png is drawn: a picture needs matplotlib" in told
