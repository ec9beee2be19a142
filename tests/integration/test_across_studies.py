"""What one study finds is what another would find: the same items, the same answers, one folder."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.recipe import load_recipe
from unspoken.studies.information import InformationReport
from unspoken.studies.telephone import TelephoneReport


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, InformationReport]:
    """Bits, measured once in a folder that holds what was trained for them."""
    bench = Bench(tmp_path_factory.mktemp("across"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        recipe = bench.recipe("comparison.channels=[full-text, embedding]")
        return bench, run_study("information", recipe, items=5, samples=0)


def rows(bench: Bench, name: str) -> list[dict[str, Any]]:
    path = bench.out / "predictions" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def elsewhere(bench: Bench, measured: Bench, *more: str) -> list[str]:
    return bench.settings(*more, f"trained={measured.out / 'trained'}")


def test_the_first_hop_of_a_game_is_a_comparison(
    measured: tuple[Bench, InformationReport],
    bench: Bench,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "other").mkdir()
    channels, other = (
        "comparison.channels=[full-text, embedding]",
        Bench(tmp_path / "other", folders),
    )
    game = load_recipe(
        "telephone", elsewhere(other, measured[0], channels, "studies.telephone.hops=1")
    )
    report: TelephoneReport = run_study("telephone", game)
    trained = f"trained={measured[0].out / 'trained'}"
    compared = run_study("comparison", bench.recipe(channels, trained))
    for name, hops in report.channels.items():
        for condition in ("matched", "deranged"):
            then = rows(bench, f"{name}-{condition}")
            now = rows(other, f"{name}, hop 1-{condition}")
            assert [row["prediction"] for row in now] == [row["prediction"] for row in then]
            assert [row["message_of"] for row in now] == [row["message_of"] for row in then]
        assert hops[0].matched.correct == compared.arm(name, "matched").correct


def test_bits_are_of_items_that_a_comparison_asks(
    measured: tuple[Bench, InformationReport], bench: Bench
) -> None:
    trained = f"trained={measured[0].out / 'trained'}"
    compared = run_study("comparison", bench.recipe("comparison.channels=[full-text]", trained))
    known = {row["id"] for row in rows(bench, "full-text-matched")}
    assert compared.task["items"] == 6
    for one in measured[1].channels:
        assert {row["id"] for row in one.items} < known


def test_a_comparison_shows_the_bits_that_were_measured_there(
    measured: tuple[Bench, InformationReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, known = measured
    run_study("comparison", bench.recipe("comparison.channels=[full-text]"))
    counter = Counter(monkeypatch)
    report = run_study("comparison", bench.recipe("comparison.channels=[full-text]"), bits=5)
    assert counter.passes == 0
    found = report.information["full-text"]
    assert found == known.channels[0]
    cells = {tuple(row[:2]): row[-1] for row in report.rows()}
    assert cells["full-text", "matched"] == f"{found.bits.value:.2f} of {log2(5):.2f}"
