"""What a folder of results holds, read back from its files and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from unspoken.errors import DataError
from unspoken.evaluation.arm import Arm
from unspoken.studies.comparison.report import Compared
from unspoken.studies.edges.report import GraphReport
from unspoken.studies.information.report import InformationReport
from unspoken.studies.rate.report import RateReport
from unspoken.studies.reuse.report import ReuseReport
from unspoken.studies.teams.report import PlanReport
from unspoken.studies.telephone.report import TelephoneReport

__all__ = ["Found", "Recorded"]


Recorded = (
    Compared
    | InformationReport
    | RateReport
    | ReuseReport
    | PlanReport
    | TelephoneReport
    | GraphReport
)
"""What was measured, each with its models, task, seed, versions and machine."""


@dataclass(frozen=True)
class Found:
    """The results of one folder, whichever are there; `Found.read` raises `DataError`."""

    folder: Path
    compared: Compared | None = None
    worth: InformationReport | None = None
    rate: RateReport | None = None
    reuse: ReuseReport | None = None
    plan: PlanReport | None = None
    telephone: TelephoneReport | None = None
    edges: GraphReport | None = None

    @classmethod
    def read(cls, folder: Path) -> Found:
        """Read results.json and its like, at least one of which must be there."""
        results = _content(folder / "results.json")
        reuse = results is not None and "channels" not in results
        found = cls(
            folder=folder,
            compared=None if reuse else _read(Compared, results, folder / "results.json"),
            reuse=_read(ReuseReport, results, folder / "results.json") if reuse else None,
            worth=_kept(InformationReport, folder / "worth.json"),
            rate=_kept(RateReport, folder / "rate.json"),
            plan=_kept(PlanReport, folder / "plan.json"),
            telephone=_kept(TelephoneReport, folder / "telephone.json"),
            edges=_kept(GraphReport, folder / "edges.json"),
        )
        if not found.recorded:
            raise DataError(
                f"{folder} holds no results.json, worth.json, rate.json, plan.json, "
                "telephone.json or edges.json; give the folder that `unspoken compare` or another "
                "measurement wrote to"
            )
        return found

    @property
    def recorded(self) -> dict[str, Recorded]:
        """What is there, by the command that measured it."""
        compare = self.compared or self.reuse
        found = {
            "compare": compare,
            "worth": self.worth,
            "rate": self.rate,
            "plan": self.plan,
            "telephone": self.telephone,
            "edges": self.edges,
        }
        return {command: one for command, one in found.items() if one is not None}

    def predictions(self, arm: Arm) -> Sequence[dict[str, Any]]:
        """The answers of an arm, item by item; none if they are missing or of another run."""
        path = self.folder / "predictions" / f"{arm.channel}-{arm.condition}.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = TypeAdapter(list[dict[str, Any]]).validate_python(list(map(json.loads, lines)))
        except (OSError, ValueError):
            return ()
        if not all(row.keys() >= _ANSWER for row in rows):
            return ()
        right = sum(bool(row["correct"]) for row in rows)
        return rows if (len(rows), right) == (arm.n, round(arm.accuracy * arm.n)) else ()

    def gates(self) -> Path:
        """Where the picture of the gates stands, if a fuser was compared."""
        notes = self.compared.notes if self.compared else {}
        return self.folder / str(notes.get("projector_folder", "")) / "gates.png"


_ANSWER = {"id", "question", "answers", "prediction", "correct", "messages", "message_of"}


def _content(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is no JSON: {error}; run the command again that wrote it"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no results; run the command again that wrote it")
    return TypeAdapter(dict[str, Any]).validate_python(content)


_Kind = TypeVar(
    "_Kind",
    Compared,
    InformationReport,
    RateReport,
    ReuseReport,
    PlanReport,
    TelephoneReport,
    GraphReport,
)


def _kept(kind: type[_Kind], path: Path) -> _Kind | None:
    return _read(kind, _content(path), path)


def _read(kind: type[_Kind], content: dict[str, Any] | None, path: Path) -> _Kind | None:
    if content is None:
        return None
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not of this version: {place}: {first['msg']}; run the command again that "
            "wrote it"
        ) from error
