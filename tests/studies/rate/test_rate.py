"""Rate and distortion, from recipe to report, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from math import exp, log2
from pathlib import Path

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.errors import RecipeError
from unspoken.kept import digested
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.pipelines import curves
from unspoken.relay.relay import Relay
from unspoken.studies.rate import fit
from unspoken.studies.rate.section import chart


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Bench:
    """What the recipe trains, made once; tests copy it first."""
    bench = Bench(tmp_path_factory.mktemp("rate"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        recipe = bench.recipe()
        dict(curves(Relay.of(recipe)))
    return bench


@pytest.fixture
def copied(trained: Bench, folders: dict[str, Path], tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, folders)
    shutil.copytree(trained.out, bench.out)
    return bench


def rate_recipe(bench: Bench, *more: str) -> RelayRecipe:
    found = load_recipe(
        "rate",
        bench.settings(
            "studies.rate.lengths=[1,4]", "studies.rate.packs=[]", "studies.rate.items=5", *more
        ),
    )
    assert isinstance(found, RelayRecipe)
    return found


def test_a_curve_is_fitted_by_its_form() -> None:
    rates = [0.0, 0.5, 1.5, 3.0, 4.5]
    found = fit(rates, [0.6 * exp(-0.9 * rate) + 0.25 for rate in rates])
    assert found is not None
    assert (found.scale, found.decay, found.floor) == pytest.approx((0.6, 0.9, 0.25), abs=1e-4)
    assert found.error < 1e-5
    assert found.at(2.0) == pytest.approx(0.6 * exp(-1.8) + 0.25, abs=1e-4)
    assert fit([0.0, 1.0, 1.0, 2.0], [1.0, 0.5, 0.5, 0.3]) is None


def test_lengths_and_settings_are_swept(copied: Bench, folders: dict[str, Path]) -> None:
    packs = "studies.rate.packs=[{kind: int8}, {kind: tokens, share: 0.5}]"
    report = run_study(
        "rate", rate_recipe(copied, "studies.rate.sweep={layers: [[0], [2]]}", packs)
    )
    cut = ["1 tokens", "4 tokens", "whole"]
    vectors = ["1 positions", "4 positions", "whole"]
    assert {
        name: [point.setting for point in points] for name, points in report.curves.items()
    } == {
        "full-text, tuned reader": cut,
        "text, tuned reader": cut,
        "embedding": vectors,
        "embedding, packed": ["int8", "tokens, share=0.5"],
        "embedding, by layers": ["layers=[0]", "layers=[2]"],
    }
    for points in (report.curves["full-text, tuned reader"], report.curves["embedding"]):
        assert points[0].positions < points[1].positions < points[2].positions
        assert points[0].wire < points[1].wire < points[2].wire
    assert report.curves["embedding"][0].positions == 1
    for packed in report.curves["embedding, packed"]:
        assert packed.wire < report.curves["embedding"][2].wire
    whole, same = report.curves["embedding"][2], report.curves["embedding, by layers"][0]
    assert (whole.bits, whole.distortion) == (same.bits, same.distortion)
    for point in report.points:
        assert point.distortion_ci.low <= point.distortion <= point.distortion_ci.high
        assert point.bits.value <= report.ceiling == log2(5)
    found = json.loads((copied.out / "rate.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(digested(report.to_dict())))
    assert (copied.out / "rate.svg").read_text().startswith("<?xml")
    text = (copied.out / "rate.md").read_text(encoding="utf-8")
    for line in (*report.findings(), "| embedding | 4 positions |", "rate.svg"):
        assert line in text


def test_any_channel_is_swept_and_whole_only_where_a_part_would_be_the_lead(
    copied: Bench,
) -> None:
    own = "sender: receiver, channel"
    more = (
        f"{{name: soft, {own}: {{kind: soft, limit: 6}}}}",
        f"{{name: half, {own}: {{kind: layers, ratio: 0.5}}}}",
        "{name: ridge, projector: {kind: ridge, layers: [1], texts: 8}}",
        f"{{name: words, {own}: {{kind: text, limit: 3}}}}",
        f"{{name: cache, {own}: {{kind: handoff}}}}",
    )
    report = run_study("rate", rate_recipe(copied, f"comparison.channels=[{', '.join(more)}]"))
    cut = ["1 positions", "4 positions", "whole"]
    settings = {name: [one.setting for one in found] for name, found in report.curves.items()}
    assert (settings["soft"], settings["ridge"]) == (cut, cut)
    assert (settings["words"], settings["cache"]) == (["whole"], ["whole"])
    half = report.curves["half"][-1]
    assert 0 < half.wire < report.curves["cache"][0].wire


def test_a_second_sweep_computes_nothing(copied: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_study("rate", rate_recipe(copied, "comparison.channels=[full-text, embedding]"))
    counter = Counter(monkeypatch)
    again = run_study("rate", rate_recipe(copied, "comparison.channels=[full-text, embedding]"))
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert again.points == first.points


def test_the_chart_has_every_curve_on_every_axis(copied: Bench) -> None:
    report = run_study("rate", rate_recipe(copied, "comparison.channels=[full-text, embedding]"))
    drawn = chart(report)
    for panel, along in zip(
        drawn.panels,
        (
            [point.wire for point in report.points],
            [point.positions for point in report.points],
            [point.bits.value for point in report.points],
        ),
        strict=True,
    ):
        places = [(dot.x, dot.y) for line in panel.lines for dot in line.dots]
        wrong = [100 * point.distortion for point in report.points]
        assert places == list(zip(along, wrong, strict=True))
    assert [line.name for line in drawn.legend] == list(report.curves)
    assert drawn.guides == ("no message", "ceiling")


def test_a_sweep_of_what_a_projector_has_not_is_refused(copied: Bench) -> None:
    with pytest.raises(RecipeError, match=r"sweep\.depth to 3: Extra inputs"):
        rate_recipe(copied, "studies.rate.sweep={depth: [3]}")
    with pytest.raises(RecipeError, match=r"lengths\.1: .*greater than or equal to 1"):
        rate_recipe(copied, "studies.rate.lengths=[1,0]")
