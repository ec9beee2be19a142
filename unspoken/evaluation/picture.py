"""The picture of a comparison: accuracy by channel and condition, with intervals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unspoken.errors import MissingExtra
from unspoken.files import write_bytes

if TYPE_CHECKING:
    from unspoken.evaluation.report import Report

__all__ = ["draw"]

_COLOURS = {
    "none": "#c9c9c9",
    "constant": "#8d99ae",
    "lora": "#b08ea2",
    "deranged": "#e07a5f",
    "matched": "#2a6f97",
}


def draw(report: Report, path: Path) -> None:
    """Bars of accuracy in percent with 95 % Wilson intervals; one group a channel."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "a report's picture needs matplotlib; install it with: pip install 'unspoken[compare]'"
        ) from error
    channels, shown = report.channels, {arm.condition for arm in report.arms}
    conditions = [name for name in _COLOURS if name in shown]
    figure: Any = Figure(figsize=(1.6 + 1.7 * len(channels), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(conditions)
    for arm in report.arms:
        place = channels.index(arm.channel) + width * (
            conditions.index(arm.condition) - (len(conditions) - 1) / 2
        )
        value = 100 * arm.accuracy
        spread = [[value - 100 * arm.ci_low], [100 * arm.ci_high - value]]
        colour = _COLOURS[arm.condition]
        axes.bar(place, value, width, yerr=spread, color=colour, error_kw={"lw": 0.8})
        axes.text(place, 100 * arm.ci_high + 1, f"{value:.0f}", ha="center", fontsize=8)
    handles = [axes.bar([0], [0], color=_COLOURS[name], label=name) for name in conditions]
    axes.legend(handles=handles, frameon=False, fontsize=8, ncols=len(handles), loc="upper left")
    axes.set_xticks(range(len(channels)), channels, fontsize=9)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, min(115, max(100 * arm.ci_high for arm in report.arms) + 15))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{report.task['name']}, {report.task['protocol']}, n = {report.task['items']}: "
        "what was the message worth?",
        fontsize=10,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue())
