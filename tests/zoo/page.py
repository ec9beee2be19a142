"""docs/models.md: what works with which family, written from what the judge found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import transformers

from .cells import CELLS
from .judge import VERDICTS, Found
from .models import MORE, NOT_BUILT

__all__ = ["known", "page"]

Table = Mapping[str, Mapping[str, Found]]

ABOUT = {
    "reading": ("the next token and the score of an answer", ""),
    "text": ("two agents over the channel `text`", ""),
    "lead": ("shared instructions, read by themselves and kept", ""),
    "batch": ("three items of different length, together and alone", ""),
    "wire text": ("words, to bytes and back", ""),
    "wire cache": ("a hand-over, to bytes and back", "`text`"),
    "handoff": ("the channel `handoff`", "`text`"),
    "shift": ("keys moved to other positions", "`handoff`, which moves nothing"),
    "middle": ("a cache after other text", "`handoff`, which puts it at the beginning"),
    "layers": ("the channel `layers`", "`handoff`, or `text`"),
    "memory": ("the channel `memory`, as receiver", "`embedding`, or `text`"),
    "pool exact": ("a pool, `exact`", "the model without a pool"),
    "pool shifted": ("a pool, `shifted`", "the model without a pool"),
    "pool anchored": ("a pool, `anchored`", "the model without a pool"),
    "pool kvcomm": ("a pool, `kvcomm`", "the model without a pool"),
    "embedding in": ("the channel `embedding`, as receiver", "`text`"),
    "embedding out": ("the channel `embedding`, as sender", "`text`"),
    "fusion": ("the channel `fusion`, with its gates shut", "`embedding`, or `text`"),
    "rollout": ("the channel `rollout`", "`text`"),
    "soft": ("the channel `soft`", "`text`"),
}
"""What each cell is, and what to use where it is refused."""

HEAD = """# Which models work, and with what

Written by `python -m tests.zoo --page docs/models.md` with transformers {version}. It makes a tiny
random model of every family that transformers knows as a causal language model, and of some more.
A second copy of each model runs in plain transformers, and the two are compared. Each check is
also made with a fault put in, and must then fail.

* `.` the same as in plain transformers
* `r` refused before anything is read, by an error that says what to do. It comes when the pipeline
  is made, or when it is run for a text that is too long.
* `L` refused after something was read
* `-` not compared, because plain transformers cannot do it or contradicts itself

{same:,} of {all:,} checks are the same, {refused:,} refused. If a model does not turn
its keys by plain rotary embedding, a pool reuses a text only at the same position.

| | check | use instead if it is refused |
|---|---|---|
{cells}

Each row of marks has these checks in this order.

| marks | families |
|---|---|
{rows}

{more} that are checked besides: {names}.

Not built:

{missing}
"""


def page(table: Table) -> str:
    """The page, from the verdicts of every family."""
    built = {name: found for name, found in table.items() if name not in NOT_BUILT}
    groups: dict[str, list[str]] = {}
    for name, found in built.items():
        groups.setdefault("".join(VERDICTS[one.verdict] for one in found.values()), []).append(name)
    count = Counter(one.verdict for found in built.values() for one in found.values())
    order = sorted(groups, key=lambda marks: (-marks.count("."), marks))
    cells = [f"| {n} | {ABOUT[c][0]} | {ABOUT[c][1]} |" for n, c in enumerate(CELLS, 1)]
    return HEAD.format(
        version=transformers.__version__,
        same=count["same"],
        all=sum(count.values()),
        refused=count["refused"] + count["refused late"],
        cells="\n".join(cells),
        rows="\n".join(f"| `{marks}` | {', '.join(groups[marks])} |" for marks in order),
        more="Rotary scalings, adapters and multimodal models",
        names=", ".join(MORE),
        missing="\n".join(f"* {name}: {why}" for name, why in NOT_BUILT.items()),
    )


def known(text: str) -> dict[str, str]:
    """The marks of each family on a page."""
    rows = re.findall(r"^\| `(\S+)` \| ([^|]+) \|$", text, re.MULTILINE)
    return {name: marks for marks, names in rows for name in names.split(", ")}
