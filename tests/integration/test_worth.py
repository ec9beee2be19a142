"""Bits, and rate and distortion, from recipe to report, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import exp, log2
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_recipes import Bench, Counter, folders
from unspoken.errors import DataError, RecipeError
from unspoken.evaluation import evaluator
from unspoken.evaluation.items import chosen
from unspoken.page import picture
from unspoken.recipe import RateRecipe, load_recipe
from unspoken.studies.comparison.recipe import run_relay
from unspoken.studies.information.recipe import run_worth
from unspoken.studies.information.report import WorthReport
from unspoken.studies.rate.recipe import run_rate
from unspoken.studies.rate.report import fit

__all__ = ["folders"]  # a fixture


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, WorthReport]:
    """A whole measurement, made once; tests that change files copy it first."""
    bench = Bench(tmp_path_factory.mktemp("worth"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_worth(bench.recipe("worth.items=5"))


@pytest.fixture
def copied(finished: tuple[Bench, WorthReport], folders: dict[str, Path], tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, folders)
    shutil.copytree(finished[0].out, bench.out)
    return bench


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of what is measured from here on."""
    seen, real = list[str](), evaluator.measure

    def watched(*given: Any, **options: Any) -> Any:
        seen.append(options["progress"])
        return real(*given, **options)

    monkeypatch.setattr(evaluator, "measure", watched)
    return seen


def rate_recipe(bench: Bench, *more: str) -> RateRecipe:
    found = load_recipe("rate", bench.settings("lengths=[1,4]", "packs=[]", "worth.items=5", *more))
    assert isinstance(found, RateRecipe)
    return found


# Bits --------------------------------------------------------------------------------------------


def test_every_channel_stands_beside_its_controls(finished: tuple[Bench, WorthReport]) -> None:
    _, report = finished
    assert [one.channel for one in report.channels] == [
        "full-text",
        "full-text, tuned reader",
        "text",
        "text, tuned reader",
        "embedding",
        "embedding, constant",
        "embedding, noise",
    ]
    for one in report.channels:
        assert (one.n, one.ceiling) == (5, log2(5))
        assert one.bits.low <= one.bits.value <= one.bits.high <= one.ceiling
        assert one.deranged.value < one.ceiling
        assert len(one.items) == 5
        assert one.per_kib == pytest.approx(1024 * one.bits.value / one.wire)
        assert one.per_position == pytest.approx(one.bits.value / one.positions)
    constant = report.channels[5]
    assert (constant.bits.value, constant.identified) == (0.0, pytest.approx(0.2))
    assert report.spoken is not None
    assert report.spoken.bits.value <= report.spoken.ceiling == log2(5)


def test_the_report_holds_what_was_measured(finished: tuple[Bench, WorthReport]) -> None:
    bench, report = finished
    found = json.loads((bench.out / "worth.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(report.to_dict()))
    assert found["seed"] == 0
    assert "bootstrap" in found["intervals"]
    text = (bench.out / "worth.md").read_text(encoding="utf-8")
    for one in report.channels:
        bits = (
            f"{one.bits.value:.2f} [{one.bits.low:.2f}, {one.bits.high:.2f}] of {one.ceiling:.2f}"
        )
        assert f"| {one.channel} | {bits} |" in text
    for line in report.findings():
        assert line in text


def test_the_items_are_those_of_a_comparison(
    finished: tuple[Bench, WorthReport], copied: Bench
) -> None:
    _, report = finished
    compared = run_relay(copied.recipe("channels=[full-text]"))
    asked = (copied.out / "predictions" / "full-text-matched.jsonl").read_text(encoding="utf-8")
    known = {json.loads(line)["id"] for line in asked.splitlines()}
    assert compared.task["items"] == 6
    for one in report.channels:
        assert {row["id"] for row in one.items} < known


def test_scores_are_kept_and_other_items_are_measured_anew(
    copied: Bench,
    finished: tuple[Bench, WorthReport],
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        again = run_worth(copied.recipe("worth.items=5"))
    assert (counter.passes, counter.fits, measured) == (0, [], [])
    assert again.channels == finished[1].channels
    assert again.spoken == finished[1].spoken
    run_worth(copied.recipe("worth.items=4", "channels=[full-text]", "worth.samples=0"))
    assert measured == ["full-text, bits", "full-text, tuned reader, bits"]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-40], lambda text: "[]", lambda text: text.replace("key", "kee")]
)
def test_broken_scores_are_measured_anew(
    damage: Callable[[str], str], copied: Bench, measured: list[str]
) -> None:
    path = copied.out / "information" / "full-text.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    run_worth(copied.recipe("worth.items=5", "channels=[full-text]", "worth.samples=0"))
    assert measured == ["full-text, bits"]


def test_a_comparison_shows_bits_if_asked(copied: Bench, measured: list[str]) -> None:
    plain = run_relay(copied.recipe("channels=[full-text]"))
    assert "bits" not in plain.columns
    report = run_relay(copied.recipe("channels=[full-text]", "worth.items=5", "worth.column=true"))
    assert not measured  # `worth` left them there
    found = report.information["full-text"]
    cells = {tuple(row[:2]): row[-1] for row in report.rows()}
    assert cells["full-text", "matched"] == f"{found.bits.value:.2f} of {log2(5):.2f}"
    assert cells["full-text", "deranged"] == f"{found.deranged.value:.2f} of {log2(5):.2f}"
    assert cells["full-text", "none"] == ""
    assert copied.results()["information"]["full-text"]["bits"]["value"] == found.bits.value
    assert "at most log2 5" in report.markdown()


def test_one_item_cannot_be_told_apart(copied: Bench) -> None:
    task = copied.relay().task
    assert len(chosen(task, 99, 6, 0)) == 6
    with pytest.raises(DataError, match="two items or more"):
        chosen(task, 1, 6, 0)


# Rate and distortion -----------------------------------------------------------------------------


def test_a_curve_is_fitted_by_its_form() -> None:
    rates = [0.0, 0.5, 1.5, 3.0, 4.5]
    found = fit(rates, [0.6 * exp(-0.9 * rate) + 0.25 for rate in rates])
    assert found is not None
    assert (found.scale, found.decay, found.floor) == pytest.approx((0.6, 0.9, 0.25), abs=1e-4)
    assert found.error < 1e-5
    assert found.at(2.0) == pytest.approx(0.6 * exp(-1.8) + 0.25, abs=1e-4)
    assert fit([0.0, 1.0, 1.0, 2.0], [1.0, 0.5, 0.5, 0.3]) is None


def test_lengths_and_settings_are_swept(copied: Bench, folders: dict[str, Path]) -> None:
    packs = "packs=[{kind: int8}, {kind: tokens, share: 0.5}]"
    report = run_rate(rate_recipe(copied, "sweep={layers: [[0], [2]]}", packs))
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
    assert found == json.loads(json.dumps(report.to_dict()))
    assert (copied.out / "rate.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    text = (copied.out / "rate.md").read_text(encoding="utf-8")
    for line in (*report.findings(), "| embedding | 4 positions |", "rate.png"):
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
    report = run_rate(rate_recipe(copied, f"channels=[{', '.join(more)}]"))
    cut = ["1 positions", "4 positions", "whole"]
    settings = {name: [one.setting for one in found] for name, found in report.curves.items()}
    assert (settings["soft"], settings["ridge"]) == (cut, cut)
    assert (settings["words"], settings["cache"]) == (["whole"], ["whole"])
    half = report.curves["half"][-1]
    assert 0 < half.wire < report.curves["cache"][0].wire


def test_a_second_sweep_computes_nothing(copied: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_rate(rate_recipe(copied, "channels=[full-text, embedding]"))
    counter = Counter(monkeypatch)
    again = run_rate(rate_recipe(copied, "channels=[full-text, embedding]"))
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert again.points == first.points


def test_the_picture_has_every_curve_on_every_axis(
    copied: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = run_rate(rate_recipe(copied, "channels=[full-text, embedding]"))
    drawn = list[Any]()
    monkeypatch.setattr(picture, "_save", lambda figure, path: drawn.append(figure))
    picture.draw_rates(report, tmp_path / "rate.png")
    by_bytes, by_positions, by_bits = drawn[0].axes
    for axes, along in (
        (by_bytes, [point.wire for point in report.points]),
        (by_positions, [point.positions for point in report.points]),
        (by_bits, [point.bits.value for point in report.points]),
    ):
        places = [place for line in axes.containers for place in line[0].get_xydata().tolist()]
        assert [x for x, _ in places] == pytest.approx(along)
        assert [y for _, y in places] == pytest.approx([p.distortion for p in report.points])
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert set(names) == {*report.curves, "no message"}


def test_a_sweep_of_what_a_projector_has_not_is_refused(copied: Bench) -> None:
    with pytest.raises(RecipeError, match=r"sweep\.depth to 3: Extra inputs"):
        rate_recipe(copied, "sweep={depth: [3]}")
    with pytest.raises(RecipeError, match=r"lengths\.1: .*greater than or equal to 1"):
        rate_recipe(copied, "lengths=[1,0]")
