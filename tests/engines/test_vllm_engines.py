"""Engines that are short of blocks, that fail, or that cannot be started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import engine
from tests.engines.test_vllm import after, drawn
from unspoken.backbone import Backbone
from unspoken.engines import VllmModel
from unspoken.errors import IncompatibleModels, WorkerError
from unspoken.models import plain as unmarked
from unspoken.recipe import PipelineRecipe, load_recipe
from unspoken.recipe.pipeline import build
from unspoken.testing import tiny_backbone, tiny_diffusion
from unspoken.types import Prompt, Settings, Text

pytestmark = pytest.mark.vllm


def test_a_preempted_request_loads_its_cache_again(
    folder: Path, plain: Backbone, monkeypatch: pytest.MonkeyPatch
):
    """Two rows that grow beyond the blocks there are: one waits, and both answer as alone."""
    options: dict[str, Any] = {"block_size": 32, "max_model_len": 128, "num_gpu_blocks_override": 6}
    asked = [after(drawn(plain, 50, seed)) for seed in (1, 2)]
    settings = Settings(max_tokens=60)
    right = [plain.write(plain.read(one).context, settings).ids[0] for one in asked]
    with engine(str(folder), **options) as model:
        scheduler: Any = model.engine._llm.engine_core.engine_core.scheduler
        preempted: list[str] = []
        whole = scheduler._preempt_request

        def spied(request: Any, *args: Any, **named: Any) -> Any:
            preempted.append(request.request_id)
            return whole(request, *args, **named)

        monkeypatch.setattr(scheduler, "_preempt_request", spied)
        contexts = [model.read(one).context for one in asked]
        found = model.write_together(contexts, [settings] * 2)
        assert [words.ids[0] for words in found] == right
        assert preempted


def test_an_engine_that_fails_is_an_error_for_all_who_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    with engine(str(folder), kv_cache_memory_bytes=32 << 20) as model:
        context = model.read(Prompt((Text(("one",)),))).context

        def fails() -> Any:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(model.engine._llm, "step", fails)
        with pytest.raises(WorkerError, match=r"out of luck.*make another"):
            model.write(context)
        with pytest.raises(WorkerError, match="out of luck"):
            model.write(context)


def test_a_process_has_one_engine_and_then_another(folder: Path, plain: Backbone):
    asked, settings = Prompt((Text(("one two",)),)), Settings(max_tokens=8)
    with engine(str(folder), kv_cache_memory_bytes=32 << 20) as model:
        with pytest.raises(IncompatibleModels, match="has an engine of vLLM already"):
            VllmModel.from_pretrained(str(folder))
        context = model.read(asked).context
        right = plain.write(plain.read(asked).context, settings).ids
        assert model.write(context, settings).ids == right
    with pytest.raises(WorkerError, match="closed"):
        model.write(context, settings)


def test_agents_of_a_recipe_share_an_engine(folder: Path, plain: Backbone, tmp_path: Path):
    """Two in vLLM, one in transformers, and messages between them."""
    path = tmp_path / "three.yaml"
    path.write_text(RECIPE.format(model=folder))
    recipe, right = (recipe_in(path, *more) for more in ((), OURS))
    with build(recipe) as found:
        models = [agent.model for agent in found.agents.values()]
        assert models[0] is models[2]
        assert isinstance(models[0], VllmModel)
        assert isinstance(models[1], Backbone)
        item = {"context": "Ada has a key.", "question": "Who?"}
        try:
            run, other = found.run(item), build(right).run(item)
            assert [(turn.agent, turn.text) for turn in run.turns] == [
                (turn.agent, turn.text) for turn in other.turns
            ]
            assert run.usage.wire == other.usage.wire
        finally:
            models[0].close()


RECIPE = """
kind: pipeline
agents:
  - {{name: one, model: "{model}", engine: vllm, template: "{{context}}", max_tokens: 6}}
  - {{name: two, model: "{model}", template: "{{messages}}{{context}}", max_tokens: 6}}
  - {{name: three, model: "{model}", engine: vllm, max_tokens: 12}}
edges:
  - {{from: one, to: two, channel: {{kind: handoff}}}}
  - {{from: two, to: three, channel: {{kind: text}}}}
  - {{from: one, to: three, channel: {{kind: handoff}}}}
"""
OURS = ("agents.0.engine=transformers", "agents.2.engine=transformers")


def recipe_in(path: Path, *settings: str) -> PipelineRecipe:
    found = load_recipe(str(path), list(settings))
    assert isinstance(found, PipelineRecipe)
    return found


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tensor_parallel_size": 2}, "spreads the engine over processes"),
        ({"kv_transfer_config": None}, "set here; leave them out"),
        ({"kv_cache_dtype": "fp8"}, "cannot be read back|does not take"),
    ],
)
def test_options_that_cannot_work_are_refused(folder: Path, options: dict[str, Any], reason: str):
    with pytest.raises(IncompatibleModels, match=reason):
        VllmModel.from_pretrained(str(folder), **{"kv_cache_memory_bytes": 32 << 20, **options})


def test_windows_and_diffusion_are_refused_before_an_engine_starts(tmp_path: Path):
    gemma, diffusion = tiny_backbone("gemma"), tiny_diffusion("llada")
    unmarked(gemma.model).save_pretrained(tmp_path / "gemma")
    gemma.tokenizer.save_pretrained(tmp_path / "gemma")
    with pytest.raises(IncompatibleModels, match=r"sliding window.*use it as a Backbone"):
        VllmModel.from_pretrained(str(tmp_path / "gemma"))
    diffusion.save_pretrained(tmp_path / "diffusion")
    with pytest.raises(IncompatibleModels, match=r"by diffusion.*use it as a Backbone"):
        VllmModel.from_pretrained(str(tmp_path / "diffusion"))
