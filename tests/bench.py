"""A bench for tests: two tiny models, a task of a few lines, a recipe, and a count of what runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unspoken.backbone import Backbone
from unspoken.pipeline import Pipeline
from unspoken.recipe import Recipe, RelayRecipe, load_recipe, measurements
from unspoken.recipe.loading import recipe_of
from unspoken.relay import train as training
from unspoken.relay.relay import Relay

__all__ = ["Bench", "Counter", "items", "run_study", "timeless", "write"]


def items(split: str, count: int, *, groups: int = 0) -> list[dict[str, Any]]:
    """Short facts that share nothing with another split's; in groups, several to one fact's."""
    names = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jo", "Kit", "Lou")
    what = {"train": ("cat", "dog"), "test": ("owl", "yak")}[split]
    return [
        {
            "id": f"{split}-{n}",
            "context": f"{names[n % 12]} {split[:2]}{n} has a{'n' * (n % 2)} {what[n % 2]} {n}é.",
            "question": f"What has {names[n % 12]} {split[:2]}{n}?",
            "answers": [f"{what[n % 2]} {n}é"],
            **({"group": f"{split}-g{n % groups}"} if groups else {}),
        }
        for n in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@dataclass
class Bench:
    """A folder with models and a task, and a recipe that points at them."""

    home: Path
    models: dict[str, Path]

    def __post_init__(self) -> None:
        self.out = self.home / "out"
        self.train = write(self.home / "train.jsonl", items("train", 24))
        self.test = write(self.home / "test.jsonl", items("test", 9))

    def settings(self, *more: str) -> list[str]:
        return [
            f"pair.sender.model={self.models['sender']}",
            f"pair.receiver.model={self.models['receiver']}",
            f"task.train={self.train}",
            f"task.test={self.test}",
            "task.validation=6",
            "validation=4",
            "prompts.instruction=Answer.",
            "prompts.shots=1",
            "prompts.note_instructions=''",
            "prompts.note_tokens=4",
            "prompts.answer_tokens=4",
            "projector.hidden=16",
            "projector.prompt=2",
            "warmup={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "comparison.reader.vectors=2",
            "comparison.constant.vectors=3",
            "comparison.limit=6",
            f"out={self.out}",
            *more,
        ]

    def recipe(self, *more: str) -> RelayRecipe:
        found = load_recipe("relay", self.settings("studies={}", *more))
        assert isinstance(found, RelayRecipe)
        return found

    def relay(self, *more: str) -> Relay:
        return Relay.of(self.recipe(*more))

    def results(self) -> dict[str, Any]:
        return json.loads((self.out / "results.json").read_text(encoding="utf-8"))

    def predictions(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.out / "predictions").iterdir()}


def run_study(name: str, recipe: Recipe, **settings: Any) -> Any:
    """Run a study as a recipe lists it, or with these settings if it does not."""
    if name in recipe.studies:
        assert not settings
    else:
        content = recipe.model_dump(mode="json", by_alias=True)
        recipe = recipe_of({**content, "studies": {name: settings}})
    (found,) = measurements(recipe, name)
    return found.run()


_TIMES = {"seconds", "training_seconds", "machine", "code", "recipe", "timed", "sha256"}


def timeless(content: Any) -> Any:
    """Results without times and places."""
    if isinstance(content, dict):
        return {name: timeless(one) for name, one in content.items() if name not in _TIMES}
    return [timeless(one) for one in content] if isinstance(content, list) else content


class Counter:
    """Counts what is computed: forward passes of any model, and arms that are answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.passes, self.arms, self.fits = 0, list[str](), list[str]()
        forward, many, fit = Backbone.pass_over, Pipeline.run_many, training.fit

        def counted(model: Any, kv: Any, mask: Any, run: Any, *given: Any, **options: Any) -> Any:
            self.passes += bool(run.ids.max() >= 16)  # below are the tokens of proofs on a model
            return forward(model, kv, mask, run, *given, **options)

        def asked(line: Pipeline, *given: Any, **options: Any) -> Any:
            self.arms.append(options["progress"])
            return many(line, *given, **options)

        def fitted(*given: Any, **options: Any) -> Any:
            self.fits.append(options["title"])
            return fit(*given, **options)

        patch.setattr(Backbone, "pass_over", counted)
        patch.setattr(Pipeline, "run_many", asked)
        patch.setattr(training, "fit", fitted)
