"""What messages are worth in bits, channel by channel: measured, kept, shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.agents import Agent
from unspoken.errors import DataError
from unspoken.evaluation.kept import key_of, store, stored
from unspoken.evaluation.result import Result, about, markdown_table
from unspoken.evaluation.scores import Scores, measure
from unspoken.evaluation.statistics import Estimate, Interval, mean, wilson
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.studies.comparison.measure import query, sample
from unspoken.studies.information.notes import Written, estimate
from unspoken.tasks import Item, Task, partners

__all__ = ["Information", "Spoken", "WorthReport", "chosen", "informed", "measure_worth", "spoken"]


def spoken(item: Item) -> str:
    """An answer as a model would write it behind its prompt."""
    return f" {item.answers[0]}"


@dataclass(frozen=True)
class Information:
    """Usable bits of one channel's messages about N items; means over items, 95 % intervals.

    bits: what the right message tells of the answer, at most `ceiling` = log2 N. deranged: the same
    of another item's message. pvi: against no message at all. identified: the share of items whose
    own message makes their answer likeliest, Wilson interval. positions, wire: of a message, in
    positions (words in the receiver's tokens) and bytes. seconds: of the whole measurement.
    items: bits, pvi and identified of each item.
    """

    channel: str
    n: int
    ceiling: float
    bits: Estimate
    deranged: Estimate
    pvi: Estimate
    identified: float
    identified_ci: Interval
    positions: float
    wire: float
    seconds: float
    items: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, channel: str, items: Sequence[Item], scores: Scores, seed: int) -> Information:
        n = len(items)
        rows = zip(items, scores.bits, scores.pvi, scores.identified, strict=True)
        return cls(
            channel=channel,
            n=n,
            ceiling=scores.ceiling,
            bits=mean(scores.bits, seed=seed),
            deranged=mean(scores.deranged, seed=seed),
            pvi=mean(scores.pvi, seed=seed),
            identified=sum(scores.identified) / n,
            identified_ci=wilson(round(sum(scores.identified)), n),
            positions=sum(scores.positions) / n,
            wire=sum(scores.wire) / n,
            seconds=scores.seconds,
            items=tuple(
                {"id": item.id, "bits": bits, "pvi": pvi, "identified": found}
                for item, bits, pvi, found in rows
            ),
        )

    @property
    def per_position(self) -> float:
        """Usable bits for each position of a message; 0 if it has none."""
        return self.bits.value / self.positions if self.positions else 0.0

    @property
    def per_kib(self) -> float:
        """Usable bits for each KiB on the wire, header included."""
        return 1024 * self.bits.value / self.wire if self.wire else 0.0


@dataclass(frozen=True)
class Spoken:
    """The text estimator of arXiv 2512.21720: bits that a writer's sampled notes carry."""

    bits: Estimate
    ceiling: float
    tokens: float
    samples: int

    @classmethod
    def of(cls, written: Written, seed: int) -> Spoken:
        bits = mean(written.bits, seed=seed)
        return cls(bits, written.ceiling, written.tokens, written.samples)

    def sentence(self) -> str:
        each = self.bits.value / self.tokens if self.tokens else 0.0
        return (
            f"the sender's notes, by its own probabilities (arXiv 2512.21720): {self.bits:.2f} "
            f"of {self.ceiling:.2f} bits in {self.tokens:.1f} tokens, {each:.2f} bits a token; "
            f"{self.samples} sampled for each item"
        )


@dataclass(frozen=True)
class WorthReport(Result):
    """Channels by usable bits, and everything needed to know what was measured."""

    channels: tuple[Information, ...]
    spoken: Spoken | None

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        each = [
            {**asdict(one), "bits_per_position": one.per_position, "bits_per_kib": one.per_kib}
            for one in self.channels
        ]
        return {**asdict(self), "channels": each, "intervals": _INTERVALS}

    def rows(self, *, brief: bool = False) -> Iterator[list[str]]:
        """The cells of the table; `brief`: the first interval only, and no ceiling."""
        for one in self.channels:
            ends = one.identified_ci
            share = f"{100 * one.identified:.0f} %"
            yield [
                one.channel,
                f"{one.bits:.2f}" if brief else f"{one.bits:.2f} of {one.ceiling:.2f}",
                f"{one.deranged.value:.2f}" if brief else f"{one.deranged:.2f}",
                f"{one.pvi.value:.2f}" if brief else f"{one.pvi:.2f}",
                share if brief else f"{share} ({100 * ends.low:.0f}-{100 * ends.high:.0f})",
                f"{one.positions:.1f}",
                f"{one.wire:,.0f}",
                f"{one.per_position:.3f}",
                f"{one.per_kib:.3g}",
            ]

    def table(self) -> Table:
        """The table for a terminal of 80 columns or more."""
        title = f"{self.task['name']}, {self.task['protocol']}, N = {self.task['items']}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
        most = self.channels[0].ceiling
        table.add_column("channel", min_width=10)
        for name in (f"bits of {most:.2f}", *_COLUMNS[2:]):
            table.add_column(name.replace("/", "/\n"), justify="right", no_wrap=True)
        for row in self.rows(brief=True):
            table.add_row(*row)
        return table

    def findings(self) -> list[str]:
        """What the table does not say."""
        return [self.spoken.sentence()] if self.spoken else []

    def markdown(self) -> str:
        return (
            f"# What a message is worth: {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.stated}\n\n{markdown_table(_COLUMNS, self.rows())}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + "\nbits: what the right message tells the receiver of its answer, against the "
            "messages about all N items; at most log2 N. deranged: the same for another item's "
            "message. PVI: bits against no message. ident.: items whose own message makes "
            "their answer likeliest. pos.: positions, words in the receiver's tokens. bytes: on "
            f"the wire, header included. Nothing is clipped: a message may mislead. {_INTERVALS}\n"
        )

    def save(self, out: Path) -> None:
        """Write worth.json, worth.md and the folder's report.html, each whole or not at all."""
        from unspoken.page import refresh

        write_text(out / "worth.json", json.dumps(self.to_dict(), indent=1) + "\n")
        write_text(out / "worth.md", self.markdown())
        refresh(out)


_COLUMNS = (
    "channel",
    "bits (95 %)",
    "deranged",
    "PVI",
    "ident.",
    "pos.",
    "bytes",
    "bits/pos.",
    "bits/KiB",
)
_INTERVALS = (
    "Intervals of bits: percentile bootstrap over items, 9,999 resamples by the seed, the messages "
    "that are compared with staying the same; of shares: Wilson."
)


def measure_worth(
    pipelines: Mapping[str, Pipeline],
    task: Task,
    *,
    items: int = 64,
    writer: Agent | None = None,
    samples: int = 1,
    say: Callable[[Item], str] = spoken,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> WorthReport:
    """Measure the usable bits of each pipeline's messages to its answering agent.

    items: N, of the `limit` test items that `compare` draws by the same seed. say: the answer whose
    probability is asked. writer: the agent whose sampled notes the text estimator is to judge,
    `samples` about each item. With `out`, the report is kept there, and so are the scores: those
    of the same models, items and settings are not computed again. Raises `DataError`.
    """
    drawn = chosen(task, items, limit, seed)
    found = informed(pipelines, drawn, say=say, seed=seed, batch_size=batch_size, out=out)
    told = None
    if writer is not None and samples:
        told = Spoken.of(_written(writer, drawn, samples, seed, batch_size, out), seed)
    report = WorthReport(
        channels=tuple(found.values()),
        spoken=told,
        **about(pipelines.values(), task, len(drawn), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report


def chosen(task: Task, items: int, limit: int | None, seed: int) -> list[Item]:
    """N of the items that `compare` draws with this limit and seed. Raises `DataError`."""
    drawn = sample(sample(task.test, limit, seed), items, seed)
    if items < 2 or len(drawn) < 2:
        raise DataError(
            f"bits need two items or more to tell apart, got {items} of {len(drawn)}; "
            "raise the number of items"
        )
    return drawn


def informed(
    pipelines: Mapping[str, Pipeline],
    items: Sequence[Item],
    *,
    say: Callable[[Item], str] = spoken,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
) -> dict[str, Information]:
    """The usable bits of each pipeline; with `out`, scores are kept in its folder `information`."""
    queries, answers = [query(item) for item in items], [say(item) for item in items]
    others = partners(items, seed)
    found: dict[str, Information] = {}
    known: dict[str, Scores] = {}
    for name, pipeline in pipelines.items():
        key = key_of(pipeline, queries, answers, others)
        path = out / "information" / f"{name}.json" if out else None
        scores = known.get(key) or stored(path, key, Scores)
        if scores is None:
            scores = measure(
                pipeline,
                queries,
                answers,
                others,
                batch_size=batch_size,
                progress=f"{name}, bits",
            )
        known[key] = scores
        store(path, key, scores)
        found[name] = Information.of(name, items, scores, seed)
    return found


def _written(
    writer: Agent,
    items: Sequence[Item],
    samples: int,
    seed: int,
    batch_size: int,
    out: Path | None,
) -> Written:
    """The text estimate of a writer, kept beside the scores."""
    queries = [query(item) for item in items]
    key = key_of(Pipeline([writer]), queries, samples, seed, batch_size)
    path = out / "information" / "sampled notes.json" if out else None
    found = stored(path, key, Written)
    if found is None:
        found = estimate(
            writer,
            queries,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress="sampled notes",
        )
    store(path, key, found)
    return found
