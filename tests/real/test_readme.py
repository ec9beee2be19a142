"""The README's examples print what it says; the one of fusion runs on tiny models."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from unspoken.backbone import Backbone
from unspoken.projectors import Fuser
from unspoken.testing import tiny_backbone

README = Path(__file__).parents[2] / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def printed() -> list[list[str]]:
    """The lines of the first example and of its continuation with a pool, as they are run here."""
    names: dict[str, Any] = {}
    return [_lines(code, names) for code, _ in shown()]


def shown() -> list[tuple[str, str]]:
    """Each example that shows what it prints, with that."""
    pattern = r"```python\n([^`]*)```\n\nIt prints:\n\n```text\n([^`]*)```"
    return re.findall(pattern, README.read_text(encoding="utf-8"))


def _lines(code: str, names: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), names)
    return out.getvalue().splitlines()


@pytest.mark.real
def test_the_examples_print_what_the_readme_says(printed: list[list[str]]):
    assert [lines.splitlines() for _, lines in shown()] == printed


@pytest.mark.real
def test_the_first_example_is_short_and_its_answer_is_right_over_both_channels(
    printed: list[list[str]],
):
    assert len(examples()[0].splitlines()) <= 12
    answers, costs = printed[0][::2], printed[0][1::2]
    assert [answer.partition(":")[0] for answer in answers] == ["text", "handoff"]
    assert all("in the blue bowl in the kitchen" in answer for answer in answers)
    assert all(re.fullmatch(r"  [1-9]\d* tokens read, [1-9][\d,]* bytes sent", c) for c in costs)


@pytest.mark.real
def test_the_pool_reuses_a_context_that_was_read_before(printed: list[list[str]]):
    reused = [int(n) for n in re.findall(r"(\d+) reused", "\n".join(printed[1]))]
    assert reused[0] == 0
    assert reused[1] > 0
    assert "kitchen" in printed[1][2]


def test_the_example_of_fusion_runs_with_a_fuser_of_the_published_format(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The published fuser and its models are downloads; tiny ones stand in their places."""
    kinds = {"Qwen/Qwen2.5-0.5B-Instruct": "qwen", "Qwen/Qwen3-0.6B": "llama"}
    sizes = {"source_heads": 2, "source_dim": 16, "target_heads": 2, "target_dim": 16}
    fuser = Fuser(**sizes, layers=[(n, n) for n in range(3)], hidden=8, inner=8, noise="gumbel")
    torch.nn.init.ones_(fuser.gate)
    fuser.to_published(tmp_path / "C2C_Fuser" / "qwen3_0.6b+qwen2.5_0.5b_Fuser")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backbone, "from_pretrained", lambda name: tiny_backbone(kinds[name]))
    (code,) = (code for code in examples() if "from_published" in code)
    assert len(code.splitlines()) <= 12
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    assert names["pair"].run("Why?").usage.wire > 0
