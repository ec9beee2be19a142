"""What messages are worth in bits, channel by channel: measured, kept, shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.bits import Information
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Estimate, mean
from unspoken.files import write_text
from unspoken.studies.information.notes import Written
from unspoken.tasks import Item

__all__ = ["SampledNotes", "InformationReport"]


def spoken(item: Item) -> str:
    """An answer as a model would write it after its prompt."""
    return f" {item.answers[0]}"


@dataclass(frozen=True)
class SampledNotes:
    """The text estimator of arXiv 2512.21720: bits that a writer's sampled notes carry."""

    bits: Estimate
    ceiling: float
    tokens: float
    samples: int

    @classmethod
    def of(cls, written: Written, seed: int) -> SampledNotes:
        bits = mean(written.bits, seed=seed)
        return cls(bits, written.ceiling, written.tokens, written.samples)

    def sentence(self) -> str:
        each = self.bits.value / self.tokens if self.tokens else 0.0
        return (
            f"the sender's notes, by its own probabilities (arXiv 2512.21720): {self.bits:.2f} "
            f"of {self.ceiling:.2f} bits in {self.tokens:.1f} tokens, {each:.2f} bits a token; "
            f"{self.samples} sampled for each item"
        )


@dataclass(frozen=True, repr=False)
class InformationReport(Result):
    """Channels by usable bits, and everything needed to know what was measured."""

    channels: tuple[Information, ...]
    spoken: SampledNotes | None

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
            + "\nbits: how much likelier the right message makes the answer, compared with the "
            "messages about all N items; at most log2 N. deranged: the same for another item's "
            "message (a mismatched message). PVI: bits against no message. ident.: items whose own "
            "message makes their answer likeliest. pos.: positions, words in the receiver's "
            "tokens. bytes: on the wire, header included. Nothing is clipped, since a message may "
            f"mislead. {_INTERVALS}\n"
        )

    def save(self, out: str | Path) -> None:
        """Write worth.json and worth.md, each whole or not at all."""
        write_result(Path(out, "worth.json"), self.to_dict())
        write_text(Path(out, "worth.md"), self.markdown())


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
    "Intervals of bits: percentile bootstrap over items, 9,999 resamples by the seed, against the "
    "same messages each time. Intervals of shares: Wilson."
)
