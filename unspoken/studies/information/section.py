"""What a page shows of usable bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Section, bits_section
from unspoken.studies.information.report import InformationReport

__all__ = ["sections", "summary"]


def summary(report: InformationReport) -> str:
    """The channel whose messages hold the most bits for the receiver."""
    best = max(report.channels, key=lambda one: one.bits.value)
    return (
        f"Of {best.ceiling:.2f} bits the receiver gets the most out of “{best.channel}”: "
        f"{best.bits:.2f}; another item's message is worth {best.deranged:.2f}."
    )


def sections(report: InformationReport, folder: Path) -> Iterator[Section]:
    """One section. It replaces that of a comparison in the same folder."""
    yield bits_section(report.channels, report.findings())
