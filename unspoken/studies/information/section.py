"""What a page shows of usable bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Section, bits_section
from unspoken.studies.information.report import InformationReport

__all__ = ["sections"]


def sections(report: InformationReport, folder: Path) -> Iterator[Section]:
    """One section. It replaces that of a comparison in the same folder."""
    yield bits_section(report.channels, report.findings())
