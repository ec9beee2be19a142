"""The telephone game: a fact goes from agent to agent, hop by hop; what arrives is asked about.

A hop: a sender reads words and sends its message over the channel; a receiver, which sees nothing
but the message, restates it in words. These words are what the next sender reads in the place of
the fact. So any channel makes a hop, and a projector is needed one way only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.errors import DataError
from unspoken.evaluation import asking
from unspoken.evaluation.compare import Desk, models_of, query, sample
from unspoken.evaluation.report import Arm, about_machine
from unspoken.evaluation.statistics import Difference, Estimate, Interval, difference, mean, wilson
from unspoken.evaluation.tasks import Item, Task, normalise, partners
from unspoken.evaluation.worth import spoken
from unspoken.files import write_text
from unspoken.pipeline import Pipeline

__all__ = ["Hop", "Line", "TelephoneReport", "play"]

_SILENCE = "..."
"""What an agent passes on that says nothing: an empty fact cannot be read."""
_SHOWN = 3


@dataclass(frozen=True)
class Line:
    """One channel: who answers the question behind a message, and who restates the message."""

    answering: Pipeline
    restating: Pipeline


@dataclass(frozen=True)
class Hop:
    """What the message of a hop does to its receiver; n items.

    matched, deranged: answers behind the item's own message, and behind that of another item, which
    went as many hops. content: their difference. bits: log2 p(answer) behind the own message;
    drift: by how much it has changed since hop 1. kept, kept_ci: the share of answers that are as
    at hop 1. words: the share of the fact's words that the sender of this hop still read.
    """

    hop: int
    matched: Arm
    deranged: Arm
    content: Difference
    bits: Estimate
    drift: Estimate
    kept: float
    kept_ci: Interval
    words: float


@dataclass(frozen=True)
class TelephoneReport:
    """Hops by channel; alone: without a message. told: for some items, what each sender read."""

    channels: Mapping[str, tuple[Hop, ...]]
    alone: Arm
    told: Mapping[str, tuple[tuple[str, ...], ...]]
    models: list[dict[str, str]]
    task: dict[str, Any]
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    notes: dict[str, Any]

    @property
    def hops(self) -> int:
        return max(len(hops) for hops in self.channels.values())

    def to_dict(self) -> dict[str, Any]:
        """The content of telephone.json."""
        return asdict(self)

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table, hop by hop."""
        for name, hops in self.channels.items():
            for one in hops:
                content = one.content
                yield [
                    name,
                    str(one.hop),
                    f"{_percent(one.matched.accuracy)} ({_ends(one.matched)})",
                    _percent(one.deranged.accuracy),
                    f"{100 * content.value:+.0f} [{100 * content.low:+.0f}, "
                    f"{100 * content.high:+.0f}]",
                    f"{one.bits.value:.1f}",
                    f"{one.drift.value:+.1f} [{one.drift.low:+.1f}, {one.drift.high:+.1f}]",
                    f"{_percent(one.kept)} ({_percent(one.kept_ci.low)}-"
                    f"{_percent(one.kept_ci.high)})",
                    _percent(one.words),
                ]

    def table(self) -> Table:
        """The table for a terminal."""
        title = f"{self.task['name']}, {self.task['protocol']}, n = {self.task['items']}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for number, name in enumerate(_COLUMNS):
            justify = "right" if number else "left"
            table.add_column(name.replace(" (", "\n("), justify=justify, no_wrap=number > 0)
        previous = ""
        for channel, *cells in self.rows():
            table.add_row("" if channel == previous else channel, *cells)
            previous = channel
        return table

    def findings(self) -> list[str]:
        """What is left at the last hop, channel by channel."""
        lines = [f"without a message {_percent(self.alone.accuracy)} % are right"]
        for name, hops in self.channels.items():
            last = hops[-1]
            sure = last.content.low > 0
            lines.append(
                f"{name}: {_percent(hops[0].matched.accuracy)} % right after 1 hop, "
                f"{_percent(last.matched.accuracy)} % after {last.hop}"
                + ("" if sure else "; no content shown by then")
            )
        return lines

    def markdown(self) -> str:
        head = "| " + " | ".join(_COLUMNS) + " |\n|" + "---|" * len(_COLUMNS) + "\n"
        body = "".join("| " + " | ".join(row) + " |\n" for row in self.rows())
        models = ", ".join(f"{m['name']} ({m['fingerprint']})" for m in self.models)
        told = "".join(
            f"\n{name}\n\n" + "".join(f"* {' → '.join(words)}\n" for words in chains)
            for name, chains in self.told.items()
        )
        return (
            f"# Telephone: {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.task['items']} items of the split {self.task['split']}, seed {self.seed}. "
            f"Models: {models}.\n\n{head}{body}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + f"\n![accuracy and drift by hop](telephone.png)\n\n{_NOTES}\n\n"
            f"## What senders read, hop by hop\n{told}"
        )

    def save(self, out: Path) -> None:
        """Write telephone.json, report.md and telephone.png, each whole or not at all."""
        from unspoken.evaluation.picture import draw_telephone

        write_text(out / "telephone.json", json.dumps(self.to_dict(), indent=1) + "\n")
        draw_telephone(self, out / "telephone.png")
        write_text(out / "report.md", self.markdown())


_COLUMNS = (
    "channel",
    "hop",
    "% right (95 %)",
    "deranged",
    "content (95 %)",
    "bits",
    "drift (95 %)",
    "% kept (95 %)",
    "% words",
)
_NOTES = (
    "A hop: a sender reads words and sends its message over the channel; a receiver that sees the "
    "message alone restates it in words, which the next sender reads in the place of the fact. So "
    "every hop restates once, and what full-text loses, restating loses; text restates twice, for "
    "its sender writes a note. deranged: behind another item's message of the same hop; content: "
    "matched - deranged, paired, in points. bits: log2 p(right answer) behind the message; drift: "
    "its change since hop 1. kept: answers that are as at hop 1. words: words of the fact that the "
    "sender of the hop still read. Intervals: Wilson for shares, Newcombe for content, percentile "
    "bootstrap over items for bits."
)


def play(
    lines: Mapping[str, Line],
    task: Task,
    *,
    hops: int = 4,
    say: Callable[[Item], str] = spoken,
    limit: int | None = 64,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> TelephoneReport:
    """Pass the facts of a task on, `hops` times over each channel, and ask at every hop.

    limit, seed: the items are those of `compare`. say: how the right answer is written. With `out`,
    predictions, restatements and likelihoods are kept there, and the report. Raises `DataError`.
    """
    items = sample(task.test, limit, seed)
    if len(items) < 2 or hops < 1:
        raise DataError(f"the game needs two items and a hop, got {len(items)} and hops={hops}")
    game = _Game(items, partners(items, seed), say, seed, batch_size, out)
    played = {name: game.chain(name, line, hops) for name, line in lines.items()}
    pipelines = [line.answering for line in lines.values()]
    report = TelephoneReport(
        channels={name: found for name, (found, _) in played.items()},
        alone=Desk(items, batch_size, out).ask("no message", "none", pipelines[0].alone()),
        told={name: told for name, (_, told) in played.items()},
        models=models_of(pipelines),
        task={
            "name": task.name,
            "protocol": task.protocol,
            "split": "test",
            "items": len(items),
            "files": dict(task.files),
        },
        seed=seed,
        notes=dict(notes or {}),
        **about_machine(),
    )
    if out is not None:
        report.save(out)
    return report


@dataclass(frozen=True)
class _Game:
    """The items, whose message is the wrong one for each, and how they are asked."""

    items: Sequence[Item]
    other: Sequence[int]
    say: Callable[[Item], str]
    seed: int
    batch_size: int
    out: Path | None

    def chain(
        self, name: str, line: Line, hops: int
    ) -> tuple[tuple[Hop, ...], tuple[tuple[str, ...], ...]]:
        """All hops over one channel, and what the senders read about the first items."""
        said: list[list[str]] = [[item.context for item in self.items]]
        found: list[_Heard] = []
        for hop in range(1, hops + 1):
            heard = [
                replace(item, context=words)
                for item, words in zip(self.items, said[-1], strict=True)
            ]
            at, desk = f"{name}, hop {hop}", Desk(heard, self.batch_size, self.out)
            found.append(self._hear(at, desk, line.answering))
            if hop < hops:
                told = desk.rows(at, "restated", line.restating)
                said.append([row["prediction"] or _SILENCE for row in told])
        measured = tuple(
            self._hop(n, one, found[0], words)
            for n, (one, words) in enumerate(zip(found, said, strict=True), start=1)
        )
        shown = range(min(_SHOWN, len(self.items)))
        return measured, tuple(tuple(words[n] for words in said) for n in shown)

    def _hear(self, at: str, desk: Desk, line: Pipeline) -> _Heard:
        """Ask behind the messages of one hop."""
        rows = desk.rows(at, "matched", line)
        likely = asking.Desk(self.batch_size, self.out)
        asked = likely.ask(
            at,
            line,
            [query(item) for item in desk.items],
            [(self.say(item),) for item in desk.items],
        )
        return _Heard(
            matched=Arm.of(at, "matched", rows),
            deranged=desk.ask(at, "deranged", line, self.other),
            given=[normalise(row["prediction"]) for row in rows],
            bits=[nats / log(2) for (nats,) in asked.nats],
        )

    def _hop(self, number: int, now: _Heard, first: _Heard, words: Sequence[str]) -> Hop:
        """What the numbered hop came to, against the first one."""
        n = len(self.items)
        kept = sum(one == two for one, two in zip(now.given, first.given, strict=True))
        drift = [after - before for after, before in zip(now.bits, first.bits, strict=True)]
        return Hop(
            hop=number,
            matched=now.matched,
            deranged=now.deranged,
            content=difference(now.matched.correct, now.deranged.correct),
            bits=mean(now.bits, seed=self.seed),
            drift=mean(drift, seed=self.seed),
            kept=kept / n,
            kept_ci=wilson(kept, n),
            words=sum(map(_left, self.items, words)) / n,
        )


@dataclass(frozen=True)
class _Heard:
    """Behind the messages of one hop: what was answered, and log2 p of the right answers."""

    matched: Arm
    deranged: Arm
    given: list[str]
    bits: list[float]


def _left(item: Item, words: str) -> float:
    """The share of the fact's different words that are among these."""
    fact = set(normalise(item.context).split())
    return len(fact & set(normalise(words).split())) / len(fact)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _ends(arm: Arm) -> str:
    return f"{_percent(arm.ci_low)}-{_percent(arm.ci_high)}"
