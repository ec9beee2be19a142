"""Damage to everything that is kept: `benchmarks/damage.py` with few changes to each thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.damage import CHANGES, attack
from benchmarks.kept_things import THINGS, Thing


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.name)
def test_no_damage_is_silent(thing: Thing, tmp_path: Path) -> None:
    bad: list[str] = []
    counts = attack(thing, 2 * len(CHANGES), 7, tmp_path, examples=bad)
    assert bad == []
    assert sum(sum(found.values()) for found in counts.values()) == 2 * len(CHANGES)


def test_what_nobody_checks_is_silent_and_raw(tmp_path: Path) -> None:
    def make(folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "x.bin").write_bytes(bytes([seed + 1]) * 50)

    bad: list[str] = []
    thing = Thing("unchecked", make, lambda folder: (folder / "x.bin").read_bytes())
    counts = attack(thing, 2 * len(CHANGES), 7, tmp_path, examples=bad)
    assert counts["flip"] == {"silent": 2}
    assert counts["remove"] == {"raw": 2}
    assert len(bad) >= 10
