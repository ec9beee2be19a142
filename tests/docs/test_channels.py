"""docs/channels.md: its example of fusion runs on tiny models of the published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.blocks import blocks, printed
from unspoken.backbone import Backbone
from unspoken.projectors import Fuser
from unspoken.testing import tiny_backbone

BLOCKS = blocks("docs/channels.md", "python")


def test_the_example_of_fusion_runs_with_a_fuser_of_the_published_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The published fuser and its models are downloads; tiny ones stand in their places."""
    kinds = {"Qwen/Qwen2.5-0.5B-Instruct": "qwen", "Qwen/Qwen3-0.6B": "llama"}
    sizes = {"source_heads": 2, "source_dim": 16, "target_heads": 2, "target_dim": 16}
    fuser = Fuser(**sizes, layers=[(n, n) for n in range(3)], hidden=8, inner=8, noise="gumbel")
    torch.nn.init.ones_(fuser.gate)
    fuser.to_published(tmp_path / "C2C_Fuser" / "qwen3_0.6b+qwen2.5_0.5b_Fuser")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backbone, "from_pretrained", lambda name: tiny_backbone(kinds[name]))
    (block,) = BLOCKS
    assert len(block.code.splitlines()) <= 12
    names: dict[str, Any] = {}
    assert printed(block.code, str(block), names).strip()
    assert names["pair"].run("Why?").usage.wire > 0
