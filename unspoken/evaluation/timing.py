"""When and on what seconds were measured, for those that are kept and reported later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from unspoken.evaluation.result import about_machine

__all__ = ["Timed", "earlier_seconds"]


@dataclass(frozen=True, slots=True)
class Timed:
    """The day, the machine and the settings of a measurement of seconds.

    threads: of torch. instructions: the processor's, as torch uses them. gpu: the machine's, if
    there is one. batch_size: the most items that were read together.
    """

    date: str
    system: str
    cores: int | None
    threads: int
    instructions: str
    gpu: str | None
    torch: str
    batch_size: int

    @classmethod
    def now(cls, batch_size: int) -> Self:
        """The seconds of what is being measured in this process."""
        found = about_machine()
        torch = found["versions"]["torch"]
        return cls(**found["machine"], torch=torch, batch_size=batch_size)

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ""
        return (
            f"{self.date} with {self.system} ({self.instructions}){gpu}, {self.threads} of "
            f"{self.cores} cores, torch {self.torch}, batches of {self.batch_size}"
        )


def earlier_seconds(arms: Iterable[tuple[str, Timed | None]]) -> str:
    """A sentence that says which seconds an earlier run has measured, '' if none.

    arms: names, and how the seconds of each were measured, None for those of this run.
    """
    named = list(arms)
    found: dict[Timed, list[str]] = {}
    for name, timed in named:
        if timed is not None:
            found.setdefault(timed, []).append(name)
    if not found:
        return ""
    count = sum(map(len, found.values()))
    if len(found) == 1 and count == len(named):
        when = str(*found)
    else:
        when = "; ".join(f"{', '.join(names)} ({timed})" for timed, names in found.items())
    return f"The seconds of {count} of {len(named)} arms were measured in an earlier run: {when}."
