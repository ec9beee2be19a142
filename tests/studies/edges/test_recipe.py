"""Which edges matter, from recipe to report and picture, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Counter, items, run_study, write
from unspoken.cli import main
from unspoken.errors import DataError, RecipeError
from unspoken.kept import digested
from unspoken.recipe import PipelineRecipe, load_recipe
from unspoken.studies.edges import GraphReport, learning
from unspoken.studies.edges.former import former_identity
from unspoken.studies.edges.section import chart

LATENT = (3, 4)


def settings_of(home: Path, folders: dict[str, Path]) -> list[str]:
    train = write(home / "train.jsonl", items("train", 24))
    test = write(home / "test.jsonl", items("test", 9))
    models = [f"agents.{n}.model={folders['receiver']}" for n in (0, 2, 3, 4, 5)]
    return [
        *models,
        f"agents.1.model={folders['sender']}",
        *(f"agents.{n}.instructions=Say." for n in (1, 2, 3, 4, 5)),
        *(f"agents.{n}.max_tokens=4" for n in (1, 2, 5)),
        f"task.train={train}",
        f"task.test={test}",
        "task.validation=8",
        "studies.edges.items=6",
        "limit=5",
        "batch_size=4",
        "studies.edges.graph={senders: 1, validation: 4}",
        "studies.edges.graph.training={steps: 4, batch_size: 4, lr: 0.2, warmup: 1, every: 2}",
        "studies.edges.graph.training.bf16=false",
        f"out={home / 'out'}",
    ]


def recipe_of(settings: list[str], *more: str) -> PipelineRecipe:
    found = load_recipe("edges", [*settings, *more])
    assert isinstance(found, PipelineRecipe)
    return found


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[list[str], GraphReport, Path]:
    """A whole run, made once; nothing may write into its folder but the same run again."""
    home = tmp_path_factory.mktemp("edges")
    settings = settings_of(home, folders)
    return settings, run_study("edges", recipe_of(settings)), home / "out"


def test_every_edge_and_every_graph_is_reported(finished: tuple[Any, GraphReport, Path]) -> None:
    _, report, _ = finished
    assert report.order[-1] == "solver"
    assert [edge.name for edge in report.edges] == [
        "library -> clerk",
        "clerk -> solver",
        "guesser -> solver",
        "twin -> solver",
        "echo -> solver",
    ]
    for edge in report.edges:
        assert edge.gain_bits.low <= edge.gain_bits.value <= edge.gain_bits.high
        assert edge.content_bits.low <= edge.content_bits.value <= edge.content_bits.high
        assert edge.wire > 0
    assert report.pruned is not None
    assert len(report.graphs["pruned"]) <= 2
    rest = set(range(5)) - set(report.graphs["pruned"])
    assert set(report.graphs["what was cut"]) == rest
    learned = set(report.graphs["learned"])
    assert learned >= {0, 1, 2}  # words always arrive
    assert len(learned & set(LATENT)) == 1
    assert report.graphs["no edges"] == ()
    whole, none = report.arm("all edges"), report.arm("no edges")
    assert whole.wire_bytes > report.arm("pruned").wire_bytes > none.wire_bytes == 0
    assert {arm.n for arm in report.arms} == {5}
    assert report.task["attributed"] == 6
    assert report.task["overlap"] == {"facts": 0, "questions": 0}


def test_the_files_hold_what_was_found(finished: tuple[Any, GraphReport, Path]) -> None:
    _, report, out = finished
    found = json.loads((out / "edges.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(digested(report.to_dict())))
    assert found["notes"]["logits"].keys() == {"3", "4"}
    assert found["differences"]["no edges"]["content"] is None
    text = (out / "edges.md").read_text(encoding="utf-8")
    assert "facts in both: 0, questions: 0" in text
    for edge in report.edges:
        assert f"| {edge.name} | {edge.channel} |" in text
    for line in report.findings():
        assert line in text
    assert (out / "edges.svg").read_text().startswith("<?xml")


def test_a_second_run_computes_nothing(
    finished: tuple[list[str], GraphReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, report, _ = finished
    counter = Counter(monkeypatch)
    again = run_study("edges", recipe_of(settings))
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert again.edges == report.edges
    assert again.arms == report.arms
    assert again.graphs == report.graphs
    assert all(arm.timed is None for arm in report.arms)
    assert all(arm.timed is not None for arm in again.arms)
    assert "earlier run" in again.markdown()
    assert "earlier run" not in report.markdown()


def test_a_graph_of_version_0_1_is_found_by_its_key(
    finished: tuple[list[str], GraphReport, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings, report, out = finished
    shutil.copytree(out, tmp_path / "out")
    (made,) = (tmp_path / "out" / "trained").glob("graph-*")
    home, named = learning._home, list[Path]()

    def spied(recipe: Any, *given: Any) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(learning, "identity", former_identity)
            named.append(home(recipe.model_copy(update={"out": tmp_path}), *given))
        return home(recipe, *given)

    monkeypatch.setattr(learning, "_home", spied)
    run_study("edges", recipe_of(settings))
    assert named[0].name != made.name
    made.rename(made.with_name(named[0].name))
    monkeypatch.setattr(learning, "fit", None)
    again = run_study("edges", recipe_of(settings, f"out={tmp_path / 'out'}"))
    assert again.graphs == report.graphs
    assert [path.name for path in made.parent.glob("graph-*")] == [named[0].name]


def test_the_command_prints_a_table_or_json_alone(
    finished: tuple[list[str], GraphReport, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _, out = finished

    def told(*more: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["measure", "edges", *settings, *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    (found,) = json.loads(told("--json")).values()
    assert digested(found) == json.loads((out / "edges.json").read_text())
    text = told()
    assert "clerk -> solver (text): without it" in text
    assert "facts in both: 0, questions: 0" in text
    assert f"wrote {out / 'edges.json'}\n\nwrote {out / 'report.html'}\n" in text


def test_the_chart_has_every_agent_and_edge(finished: tuple[Any, GraphReport, Path]) -> None:
    _, report, _ = finished
    drawn = chart(report)
    assert drawn.nodes == report.order
    assert [(arrow.start, arrow.end) for arrow in drawn.arrows] == [
        (edge.sender, edge.receiver) for edge in report.edges
    ]
    assert all("bits" in arrow.text[1] for arrow in drawn.arrows)
    gains = [abs(edge.gain_bits.value) for edge in report.edges]
    assert [arrow.weight for arrow in drawn.arrows] == [gain / max(gains) for gain in gains]
    assert set(drawn.legend) == {edge.verdict for edge in report.edges}


def test_without_budget_and_graph_edges_are_weighed_alone(
    finished: tuple[list[str], GraphReport, Path], tmp_path: Path
) -> None:
    settings, report, _ = finished
    more = ("studies.edges.budget=null", "studies.edges.graph=null", f"out={tmp_path}")
    alone = run_study("edges", recipe_of(settings, *more))
    assert list(alone.graphs) == ["all edges", "no edges"]
    assert alone.pruned is None
    assert alone.edges == report.edges


def test_what_cannot_be_weighed_is_refused(finished: tuple[list[str], Any, Path]) -> None:
    settings, _, _ = finished
    with pytest.raises(DataError, match=r"two validation items or more .* got 0 and 9"):
        run_study("edges", recipe_of(settings, "task.validation=0", "studies.edges.graph=null"))
    with pytest.raises(RecipeError, match="batch_size 2 or more"):
        recipe_of(settings, "studies.edges.graph.training.batch_size=1")
    with pytest.raises(RecipeError, match=r"budget\.unit: "):
        recipe_of(settings, "studies.edges.budget.unit=tokens")
