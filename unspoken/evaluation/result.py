"""What every result says of itself: which models, which items, which settings, which machine."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from typing import Any

from unspoken import kept
from unspoken.evaluation.freshness import code_in_use
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.tasks import Task

__all__ = ["Result", "about", "about_machine", "markdown_table", "write_result"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """What is needed to repeat a measurement.

    models: name and fingerprint of each. task: its name, protocol and split, how many items, and
    the files they came from with their SHA-256. notes: what else was set, the recipe among it.
    code: the files that have made it, with digests, see `freshness`.
    """

    models: list[dict[str, str]]
    task: dict[str, Any]
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    notes: dict[str, Any]
    code: dict[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title}>"

    @property
    def title(self) -> str:
        """The title of a table: task, protocol and number of items."""
        return f"{self.task['name']}, {self.task['protocol']}, n = {self.task['items']}"

    @property
    def stated(self) -> str:
        """Items, seed and models, in sentences."""
        models = ", ".join(f"{m['name']} ({m['fingerprint']})" for m in self.models)
        return (
            f"{self.task['items']} items of the split {self.task['split']}, seed {self.seed}. "
            f"Models: {models}."
        )


def about(
    pipelines: Iterable[Pipeline],
    task: Task,
    items: int,
    seed: int,
    notes: Mapping[str, Any] | None,
    **more: Any,
) -> dict[str, Any]:
    """The fields of a `Result` about test items. more: further fields of the task."""
    specs = {agent.spec for pipeline in pipelines for agent in pipeline.agents.values()}
    return {
        "models": [
            {"name": spec.name, "fingerprint": spec.weights}
            for spec in sorted(specs, key=lambda spec: spec.name)
        ],
        "task": {
            "name": task.name,
            "protocol": task.protocol,
            "split": "test",
            "items": items,
            "files": dict(task.files),
            **more,
        },
        "seed": seed,
        "notes": dict(notes or {}),
        **about_machine(),
    }


def about_machine() -> dict[str, dict[str, Any]]:
    """Versions, machine and our own files, for the record of a run."""
    import torch

    engine: Any = sys.modules.get("vllm")  # its distribution may have another name
    own = {} if engine is None else {"vllm": str(engine.__version__)}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("unspoken", "torch", "transformers", "accelerate")
    return {
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}, **own},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "gpu": gpu,
            "date": datetime.now(UTC).date().isoformat(),
        },
        "code": code_in_use(),
    }


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write the content of a result as JSON with its digest, whole or not at all."""
    write_text(path, json.dumps(kept.digested(dict(content)), indent=1) + "\n")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its last line ended.

    >>> markdown_table(("edge", "bits"), [["a -> b", "2.7"]])
    '| edge | bits |\\n|---|---|\\n| a -> b | 2.7 |\\n'
    """
    lines = [heads, ["---"] * len(heads), *rows]
    head, rule, *body = (f"| {' | '.join(cells)} |\n" for cells in lines)
    return head + rule.replace(" ", "") + "".join(body)
