"""The README's examples run; the first as it stands, the one of fusion on tiny models."""

from __future__ import annotations

import re
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


@pytest.mark.real
def test_the_example_prints_an_answer_and_its_cost_for_each_channel(capsys: pytest.CaptureFixture):
    code = examples()[0]
    assert len(code.splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if "Usage(" in line]
    assert [line.split()[0] for line in lines] == ["text", "handoff"]
    assert all(re.search(r"\w+.*Usage\(read=[1-9]\d*, written=[1-9]\d*", line) for line in lines)


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
