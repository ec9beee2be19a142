"""Kinds of tasks and channels that are compared, and what is refused."""

from __future__ import annotations

import json
from math import log2

import pytest

from tests.bench import Bench, Counter, items, run_study, write
from unspoken.errors import (
    DataError,
    IncompatibleModels,
    UnknownName,
)


def test_a_handoff_is_compared_between_equal_models(bench: Bench, counter: Counter) -> None:
    report = run_study(
        "comparison",
        bench.recipe(
            f"pair.sender.model={bench.models['receiver']}",
            "comparison.channels=[full-text, handoff]",
        ),
    )
    assert counter.fits == ["reader"]
    found = [(arm.channel, arm.condition) for arm in report.arms][-3:]
    assert found == [("handoff", name) for name in ("none", "matched", "deranged")]
    rows = [
        [json.loads(line)["prediction"] for line in content.split(b"\n")[:-1]]
        for name, content in sorted(bench.predictions().items())
        if name in ("full-text-matched.jsonl", "handoff-matched.jsonl")
    ]
    assert rows[0] == rows[1]  # the fact handed over reads like the fact as text
    assert report.arm("handoff", "matched").wire_bytes > 100 * len("a fact")
    assert [model["name"] for model in report.models] == [str(bench.models["receiver"])]


def test_a_handoff_alone_trains_nothing(bench: Bench, counter: Counter) -> None:
    run_study(
        "comparison",
        bench.recipe(
            f"pair.sender.model={bench.models['receiver']}", "comparison.channels=[handoff]"
        ),
    )
    assert counter.fits == []
    assert not (bench.out / "trained").exists()


def test_a_handoff_between_other_models_is_refused_before_training(
    bench: Bench, counter: Counter
) -> None:
    with pytest.raises(IncompatibleModels, match="handoff needs the same weights"):
        run_study("comparison", bench.recipe("comparison.channels=[full-text, embedding, handoff]"))
    assert (counter.passes, counter.fits) == (0, [])


def test_a_receiver_that_shares_the_fact_reads_more(bench: Bench, counter: Counter) -> None:
    channels = "comparison.channels=[embedding]"
    private = run_study("comparison", bench.recipe(channels))
    trained = len(counter.fits)
    shared = run_study("comparison", bench.recipe(channels, "task.protocol=shared"))
    assert len(counter.fits) == 2 * trained  # what was trained on other prompts is no use here
    assert shared.task["protocol"] == "shared"
    for name in ("none", "matched", "deranged"):
        more = (
            shared.arm("embedding", name).tokens_read - private.arm("embedding", name).tokens_read
        )
        assert more > len(items("test", 1)[0]["context"]) - 5


def test_items_in_groups_stay_together(bench: Bench) -> None:
    write(bench.train, items("train", 24, groups=6))
    relay = bench.relay("task.validation=8", "comparison.channels=[full-text]")
    groups = [{item.group for item in split} for split in (relay.task.train, relay.task.validation)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]
    report = run_study(
        "comparison", bench.recipe("task.validation=8", "comparison.channels=[full-text]")
    )
    assert report.task["items"] == 6


def test_too_little_data_is_refused_before_any_pass(bench: Bench, counter: Counter) -> None:
    write(bench.train, items("train", 1))
    with pytest.raises(DataError, match="of 1 training items"):
        run_study("comparison", bench.recipe())
    write(bench.train, items("train", 24))
    write(bench.test, items("test", 1))
    with pytest.raises(DataError):
        run_study("comparison", bench.recipe("comparison.channels=[full-text]", "training.steps=1"))
    with pytest.raises(UnknownName, match="no model at"):
        run_study("comparison", bench.recipe(f"pair.sender.model={bench.home}/"))


def test_a_column_shows_bits_if_asked(bench: Bench) -> None:
    handoff = (f"pair.sender.model={bench.models['receiver']}", "comparison.channels=[handoff]")
    plain = run_study("comparison", bench.recipe(*handoff))
    assert "bits" not in plain.columns
    report = run_study("comparison", bench.recipe(*handoff), bits=5)
    found = report.information["handoff"]
    cells = {tuple(row[:2]): row[-1] for row in report.rows()}
    assert cells["handoff", "matched"] == f"{found.bits.value:.2f} of {log2(5):.2f}"
    assert cells["handoff", "deranged"] == f"{found.deranged.value:.2f} of {log2(5):.2f}"
    assert cells["handoff", "none"] == ""
    assert bench.results()["information"]["handoff"]["bits"]["value"] == found.bits.value
    assert "at most log2 5" in report.markdown()
