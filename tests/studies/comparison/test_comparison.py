"""A comparison by recipe, from training to its report, on tiny models in folders."""

from __future__ import annotations

import json

from tests.bench import Bench
from unspoken.backbone import Backbone
from unspoken.evaluation.freshness import freshness
from unspoken.files import sha256
from unspoken.kept import digested
from unspoken.studies.comparison import Report
from unspoken.studies.comparison.section import chart

ARM = {
    "channel",
    "condition",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "tokens_read",
    "tokens_written",
    "wire_bytes",
    "seconds",
}
CONDITIONS = {
    "full-text": ("none", "matched", "deranged"),
    "full-text, tuned reader": ("none", "matched", "deranged"),
    "text": ("none", "matched", "deranged"),
    "text, tuned reader": ("none", "matched", "deranged"),
    "embedding": ("none", "matched", "deranged", "constant"),
}


def test_results_hold_what_the_issue_lists(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    found = bench.results()
    assert found == json.loads(json.dumps(digested(report.to_dict())))
    listed = [(arm["channel"], arm["condition"]) for arm in found["arms"]]
    assert listed == [(name, c) for name, known in CONDITIONS.items() for c in known]
    for arm in found["arms"]:
        assert set(arm) >= ARM
        assert arm["n"] == 6
        assert 0 <= arm["ci_low"] <= arm["accuracy"] <= arm["ci_high"] <= 1
        assert arm["ci_low"] < arm["ci_high"]
        assert arm["tokens_read"] > 0
        assert 0 < arm["tokens_written"] <= 8
        assert arm["seconds"] > 0
        silent = arm["condition"] == "none"
        assert (arm["wire_bytes"] == 0) == silent or arm["channel"].startswith("text")
    assert set(found["channels"]) == set(CONDITIONS)
    for name, worth in found["channels"].items():
        for kind in ("gain", "content"):
            difference = worth[kind]
            assert -1 <= difference["low"] <= difference["value"] <= difference["high"] <= 1
            assert 0 <= difference["p"] <= 1
        assert (worth["over_constant"] is not None) == (name == "embedding")
        assert worth["verdict"]


def test_results_say_what_was_compared(finished: tuple[Bench, Report]) -> None:
    bench, _ = finished
    found = bench.results()
    sender, receiver = (
        Backbone.from_pretrained(str(bench.models[side])) for side in ("sender", "receiver")
    )
    named = {model["name"]: model["fingerprint"] for model in found["models"]}
    assert named == {
        str(bench.models["sender"]): sender.fingerprint,
        str(bench.models["receiver"]): receiver.fingerprint,
    }
    task = found["task"]
    assert (task["name"], task["split"], task["protocol"], task["items"]) == (
        "jsonl",
        "test",
        "private",
        6,
    )
    assert task["files"] == {
        "train": {"path": str(bench.train), "sha256": sha256(bench.train)},
        "test": {"path": str(bench.test), "sha256": sha256(bench.test)},
    }
    assert set(task["overlap"]) == {"questions", "facts", "dropped"}
    assert not any(task["overlap"]["facts"].values())
    assert found["seed"] == 0
    assert {"python", "unspoken", "torch", "transformers"} <= set(found["versions"])
    assert {"unspoken/pipeline.py", "unspoken/relay/train.py"} <= set(found["code"])
    assert freshness(found).state == "fresh"
    assert {"system", "cores", "threads", "gpu"} <= set(found["machine"])
    assert found["notes"]["training_seconds"] > 0


def test_the_report_can_be_read_and_seen(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    text = (bench.out / "report.md").read_text(encoding="utf-8")
    for arm in report.arms:
        assert f"| {arm.channel} | {arm.condition} | {100 * arm.accuracy:.1f} (" in text
    models = (str(bench.models["sender"]), str(bench.models["receiver"]))
    for line in (*report.findings(), "report.png", "seed 0", *models):
        assert line in text
    assert (bench.out / "report.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in bench.out.iterdir()} == {
        "predictions",
        "report.md",
        "report.png",
        "results.json",
        "trained",
    }


def test_the_chart_has_a_bar_for_every_arm(finished: tuple[Bench, Report]) -> None:
    _, report = finished
    bars = {
        (row.name, mark.name): (mark.value, mark.low, mark.high)
        for row in chart(report.arms).rows
        for mark in row.marks
    }
    assert bars == {
        (arm.channel, arm.condition): (100 * arm.accuracy, 100 * arm.ci_low, 100 * arm.ci_high)
        for arm in report.arms
    }


def test_predictions_are_kept_per_item(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    asked: set[tuple[str, ...]] = set()
    for arm in report.arms:
        path = bench.out / "predictions" / f"{arm.channel}-{arm.condition}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        asked.add(tuple(row["id"] for row in rows))
        assert tuple(row["correct"] for row in rows) == arm.correct
        for row in rows:
            assert isinstance(row["prediction"], str)
            assert row["answers"]
            assert (row["message_of"] != row["id"]) == (arm.condition == "deranged")
            wrote = arm.channel.startswith("text") and arm.condition != "none"
            assert ("sender" in row["messages"]) == wrote
    assert len(asked) == 1  # every arm answers the same items
    assert len(asked.pop()) == 6


def test_arms_without_a_message_cost_the_receiver_alone(finished: tuple[Bench, Report]) -> None:
    _, report = finished
    none, matched = (report.arm("embedding", name) for name in ("none", "matched"))
    assert none.tokens_read < matched.tokens_read
    assert report.arm("full-text", "none").correct == none.correct
    tuned = [vars(report.arm(f"{name}, tuned reader", "none")) for name in ("text", "full-text")]
    assert {**tuned[0], "channel": ""} == {**tuned[1], "channel": ""}
