"""The chart of a fuser's gates, and the line about them in the card of a trained one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from unspoken.errors import MissingExtra
from unspoken.page import Grid, write_picture
from unspoken.projectors import Fuser
from unspoken.relay.trained.fusion import TrainedFusion, gates_chart

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


def test_every_gate_has_its_strength_and_its_mark() -> None:
    chart = gates_chart(fuser())
    sides = dict(chart.rows)
    strengths = torch.tensor([[tile.strength for tile in sides[side]] for side in sides])
    torch.testing.assert_close(strengths, torch.tensor(LOGITS).sigmoid().T)
    assert list(sides) == ["keys", "values"]
    assert [[tile.marked for tile in sides[side]] for side in sides] == [
        [True, True, False],
        [False, False, False],
    ]
    assert chart.columns == (("4", "7"), ("5", "8"), ("6", "9"))
    assert (chart.marked, chart.unmarked, chart.text) == ("open", "shut", "2 of 6 gates open")


@pytest.mark.parametrize("logits", [((1.0, 1.0),), ((-1.0, 0.0),), LOGITS * 10])
def test_a_picture_is_an_svg_file(tmp_path: Path, logits: Sequence[tuple[float, float]]):
    write_picture(gates_chart(fuser(logits)), tmp_path / "sub" / "gates.svg", "gates")
    assert (tmp_path / "sub" / "gates.svg").read_text().startswith("<?xml")


def test_a_card_counts_open_gates_and_shows_them(tmp_path: Path):
    line = _gates(fuser(), tmp_path)
    told = "* gates open: 2 for keys, 0 for values, of 3 layers, see [gates.svg](gates.svg)\n"
    assert line == told
    assert (tmp_path / "gates.svg").stat().st_size > 1000
    assert Grid.read(tmp_path / "gates.json") == gates_chart(fuser())
    assert "0 for keys, 1 for values, of 1 layers" in _gates(fuser([(-1.0, 1.0)]), tmp_path)


def test_without_matplotlib_a_card_goes_without_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[compare\]'"):
        write_picture(gates_chart(fuser()), tmp_path / "gates.svg", "gates")
    assert _gates(fuser(), tmp_path) == "* gates open: 2 for keys, 0 for values, of 3 layers\n"
    assert not list(tmp_path.glob("*.svg"))
    told = " ".join(capsys.readouterr().err.split())
    assert "no gates.svg is drawn: a picture needs matplotlib" in told
