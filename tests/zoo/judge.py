"""What unspoken does with one tiny model, compared with plain transformers, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Literal

from unspoken.errors import UnspokenError

from . import models
from .cells import CELLS
from .plain import NoJudge
from .world import Differs, World

__all__ = ["VERDICTS", "Found", "Verdict", "judge", "twin_fails", "verdict_of"]

Verdict = Literal[
    "same", "refused", "refused late", "wrong", "raw", "blind", "no judge", "not built"
]
VERDICTS: dict[Verdict, str] = {
    "same": ".",
    "refused": "r",
    "refused late": "L",
    "wrong": "W",
    "raw": "X",
    "blind": "b",
    "no judge": "-",
    "not built": " ",
}
"""Every verdict, with its mark in a table."""


@dataclass(frozen=True)
class Found:
    """A verdict, and what led to it."""

    verdict: Verdict
    detail: str = ""


def _said(error: Exception) -> str:
    where = extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said} ({Path(where.filename).name}:{where.lineno})"


def twin_fails(cell: str, world: World) -> bool:
    """Whether a cell sees a fault that is put into what unspoken does."""
    world.spoil = True
    try:
        CELLS[cell](world)
    except Differs:
        return True
    finally:
        world.spoil = False
    return False


def verdict_of(cell: str, world: World) -> Found:
    """How a model does in one cell."""
    world.words, world.note = 0, ""
    try:
        CELLS[cell](world)
    except Differs as error:
        return Found("wrong", str(error))
    except NoJudge as error:
        return Found("no judge", str(error))
    except UnspokenError as error:
        late = f" after {world.words} passes" if world.words else ""
        return Found("refused late" if world.words else "refused", _said(error) + late)
    except Exception as error:
        return Found("raw", _said(error))
    note = world.note
    try:
        return Found("same", note) if twin_fails(cell, world) else Found("blind", note)
    except Exception as error:
        return Found("blind", f"its twin raised {_said(error)}")


def judge(name: str, cells: Iterable[str] = CELLS) -> dict[str, Found]:
    """How a family does in each cell."""
    cells = list(cells)
    try:
        model = models.build_more(name) if name in models.MORE else models.build(name)
    except Exception as error:
        return dict.fromkeys(cells, Found("not built", _said(error)))
    try:
        world = World(name, model)
    except UnspokenError as error:
        return dict.fromkeys(cells, Found("refused", _said(error)))
    except Exception as error:
        return dict.fromkeys(cells, Found("raw", _said(error)))
    return {cell: verdict_of(cell, world) for cell in cells}
