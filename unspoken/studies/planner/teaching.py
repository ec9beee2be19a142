"""A diffusion planner by recipe: a causal model learns to denoise notes about facts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from unspoken import kept
from unspoken.agents import Agent
from unspoken.backbone import Backbone, DiffusionBackbone, LanguageModel, Masked, load_model
from unspoken.errors import DataError, IncompatibleModels, RecipeError
from unspoken.evaluation.items import query
from unspoken.files import atomic_folder
from unspoken.identity import digest
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.study import Trained
from unspoken.relay.relay import note_role
from unspoken.relay.saving import checkpoints, drop_checkpoints
from unspoken.relay.train import trained_folder
from unspoken.studies.planner.settings import PlannerRecipe, PlannerSettings
from unspoken.tasks import Item, Task, load_task
from unspoken.terminal import PlainConsole
from unspoken.training import History, fit
from unspoken.training.denoised import Denoised

__all__ = ["planner_of", "train_planner", "train_planner_by"]


def train_planner_by(recipe: PlannerRecipe | RelayRecipe) -> Trained:
    """Train the planner of a recipe, or load the one that the recipe trained before."""
    folder = recipe.out / "trained"
    if isinstance(recipe, RelayRecipe):
        folder, settings = trained_folder(recipe), recipe.studies["planner"]
        assert isinstance(settings, PlannerSettings)
        recipe = settings.recipe_for(recipe)
    planner, home = train_planner(recipe, load_task(recipe.task), folder)
    return Trained("planner", home, sum(part.numel() for part in planner.model.parameters()))


def planner_of(recipe: PlannerRecipe, task: Task, folder: Path) -> LanguageModel:
    """The planner that a recipe trains, or its sender as it is if there is nothing to train."""
    if recipe.teaching.training.steps:
        return train_planner(recipe, task, folder)[0]
    source = recipe.sender
    model = load_model(source.model, dtype=source.dtype, device=source.device)
    if model.spec.states != "written":
        raise IncompatibleModels(
            f"the sender {model.name!r} is a causal model; give teaching.training.steps to teach "
            "it to plan by diffusion, or a diffusion model"
        )
    return model


def train_planner(
    recipe: PlannerRecipe, task: Task, folder: Path
) -> tuple[DiffusionBackbone, Path]:
    """Train all weights of the sender to write facts by diffusion, or load what is in `folder`.

    The planner reads a fact and writes it: a plan that carries the content, to which every step of
    denoising contributes. A run that was killed continues. Raises `RecipeError` if the mask is no
    token of the model, `DataError` without items to train or validate on.
    """
    settings, source = recipe.teaching, recipe.sender
    base = Backbone.from_pretrained(source.model, dtype=source.dtype, device=source.device)
    mask = base.tokenizer.get_vocab().get(settings.mask)
    if mask is None:
        raise RecipeError(
            f"teaching.mask={settings.mask!r} is no token of {source.model!r}; choose one that "
            f"texts do not use, such as one of {base.tokenizer.all_special_tokens}"
        )
    few = list(task.validation[: settings.validation])
    items = [*_distinct(task.train), *few]
    if not few or len(items) == len(few):
        raise DataError(
            f"the task has {len(items) - len(few)} facts to train on and {len(few)} to validate on;"
            " give more data, or set task.validation above 0"
        )
    home, former = (
        folder / f"planner-{_key(known, recipe, base, items, task)}"
        for known in (base.fingerprint, base.spec.former)
    )
    home = former if former.exists() and not home.exists() else home
    checkpoint = checkpoints(home) / "planner.pt"
    if not (home / "config.json").exists():
        planner = DiffusionBackbone(
            base.model, base.tokenizer, Masked(mask, shift=settings.shift), name=base.name
        )
        history = _train(recipe, planner, items, len(few), task, checkpoint)
        planner = DiffusionBackbone(
            planner.model, planner.tokenizer, planner.masked
        )  # as it is now
        _save(planner, recipe, home, history)
    with kept.advising(f"remove {home} to train again"):
        kept.check_files(home)
    drop_checkpoints(home)
    planner = DiffusionBackbone.from_pretrained(
        str(home), dtype=base.dtype, device=str(base.device)
    )
    planner.name = f"{base.name}, diffusion"
    return planner, home


def _train(
    recipe: PlannerRecipe,
    planner: DiffusionBackbone,
    items: list[Item],
    validation: int,
    task: Task,
    checkpoint: Path,
) -> History:
    agent = Agent("planner", planner, role=note_role("", task.protocol))
    objective = Denoised(
        agent,
        [query(item) for item in items],
        [f" {item.context}" for item in items],
        canvas=recipe.teaching.canvas,
        validation=validation,
    )
    planner.model.requires_grad_(True)
    plan = recipe.teaching.training.plan(recipe.seed)
    history = fit(planner.model, objective, plan, checkpoint, title="planner")
    planner.model.eval().requires_grad_(False)
    return history


def _distinct(items: tuple[Item, ...]) -> list[Item]:
    """One item for each fact: the planner does not see the questions."""
    return list({item.context: item for item in items}.values())


def _key(known: str, recipe: PlannerRecipe, base: Backbone, items: list[Item], task: Task) -> str:
    """What the trained weights depend on. known: what the base is known as."""
    parts = [
        known,
        str(base.dtype),
        [item.context for item in items],
        task.protocol,
        recipe.teaching.model_dump(),
        recipe.seed,
    ]
    return digest(parts)[:12]


def _save(planner: DiffusionBackbone, recipe: PlannerRecipe, home: Path, history: History) -> None:
    state = PartialState()  # under torchrun every process has trained; one of them writes
    if state.is_main_process:
        with atomic_folder(home) as beside:
            planner.save_pretrained(beside)
            (beside / "history.json").write_text(json.dumps(asdict(history)))
            kept.write_files(beside)
            (beside / "README.md").write_text(_card(planner, recipe, history))
        PlainConsole(stderr=True).print(f"trained {home}")
    state.wait_for_everyone()


def _card(planner: DiffusionBackbone, recipe: PlannerRecipe, history: History) -> str:
    count = sum(parameter.numel() for parameter in planner.model.parameters())
    return (
        "---\nlibrary_name: unspoken\ntags: [unspoken, diffusion]\n---\n"
        f"# A diffusion planner from {recipe.sender.model}\n\n"
        f"Trained by `unspoken` to write facts of {recipe.task.name} by masked diffusion (LLaDA, "
        f"arXiv 2502.09992), seed {recipe.seed}; all weights.\n\n"
        f"* weights {planner.fingerprint}, {count:,} parameters\n"
        f"* canvases of {', '.join(map(str, recipe.teaching.canvas))} positions, mask "
        f"{recipe.teaching.mask}\n"
        f"* {history.train[-1][0]} steps, best validation loss {history.best:.3f} nats a position\n"
    )
