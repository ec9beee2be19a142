"""Bits, from recipe to report, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.errors import DataError
from unspoken.evaluation import evaluator
from unspoken.evaluation.items import chosen
from unspoken.kept import digested
from unspoken.studies.information import InformationReport


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, InformationReport]:
    """A whole measurement, made once; tests that change files copy it first."""
    bench = Bench(tmp_path_factory.mktemp("worth"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_study("information", bench.recipe(), items=5)


@pytest.fixture
def copied(
    finished: tuple[Bench, InformationReport], folders: dict[str, Path], tmp_path: Path
) -> Bench:
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


def test_every_channel_stands_beside_its_controls(
    finished: tuple[Bench, InformationReport],
) -> None:
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


def test_the_report_holds_what_was_measured(finished: tuple[Bench, InformationReport]) -> None:
    bench, report = finished
    found = json.loads((bench.out / "worth.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(digested(report.to_dict())))
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


def test_scores_are_kept_and_other_items_are_measured_anew(
    copied: Bench,
    finished: tuple[Bench, InformationReport],
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        again = run_study("information", copied.recipe(), items=5)
    assert (counter.passes, counter.fits, measured) == (0, [], [])
    assert again.channels == finished[1].channels
    assert again.spoken == finished[1].spoken
    run_study("information", copied.recipe("comparison.channels=[full-text]"), items=4, samples=0)
    assert measured == ["full-text, bits", "full-text, tuned reader, bits"]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-40], lambda text: "[]", lambda text: text.replace("key", "kee")]
)
def test_broken_scores_are_measured_anew(
    damage: Callable[[str], str], copied: Bench, measured: list[str]
) -> None:
    path = copied.out / "information" / "full-text.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"full-text\.json is damaged.* It is made anew"):
        run_study(
            "information", copied.recipe("comparison.channels=[full-text]"), items=5, samples=0
        )
    assert measured == ["full-text, bits"]


def test_one_item_cannot_be_told_apart(copied: Bench) -> None:
    task = copied.relay().task
    assert len(chosen(task, 99, 6, 0)) == 6
    with pytest.raises(DataError, match="two items or more"):
        chosen(task, 1, 6, 0)
