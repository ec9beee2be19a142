"""Folders of projectors, whoever wrote them: what they hold is found out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from unspoken.channels import Embedding, make_channel
from unspoken.errors import Damaged, DataError, IncompatibleModels, UnknownName
from unspoken.projectors import (
    EmbeddingProjector,
    FreeVectors,
    Fuser,
    LinearMap,
    MemoryProjector,
    Projector,
    VocabularyMixing,
    load_projector,
    load_trained,
)

WIDTHS: dict[str, Any] = {"source_width": 8, "target_width": 4}
CACHES: dict[str, Any] = {"source": (1, 1, 4), "target": (1, 1, 4), "rotary": (2, 2)}
HEADS = {"source_heads": 1, "source_dim": 4, "target_heads": 1, "target_dim": 4}
MADE: dict[str, Projector] = {
    "embedding": EmbeddingProjector(**WIDTHS, hidden=8),
    "memory": MemoryProjector(**CACHES, target_width=4, width=4, hidden=4),
    "fusion": Fuser(**HEADS, layers=[(0, 0)], hidden=4, inner=4),
    "ridge": LinearMap(**WIDTHS, layers=[0]),
    "procrustes": LinearMap(**WIDTHS, layers=[0], kind="procrustes"),
    "mixing": VocabularyMixing(**WIDTHS, words=3),
}


def same(left: Projector, right: Projector) -> bool:
    one, two = left.state_dict(), right.state_dict()
    return type(left) is type(right) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", MADE)
def test_a_folder_without_a_word_about_its_kind_is_loaded(tmp_path: Path, kind: str):
    """Such folders are those of earlier versions, and what `save_pretrained` writes."""
    MADE[kind].save_pretrained(tmp_path)
    found, loaded, settings = load_trained(tmp_path)
    assert same(loaded, MADE[kind])
    assert found.projector is type(MADE[kind])
    assert settings == found.settings.model_validate({"kind": kind})


@pytest.mark.parametrize("kind", MADE)
def test_a_projector_is_loaded_from_the_hub(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    MADE[kind].save_pretrained(tmp_path / "hub")

    def download(repo: str, *, allow_patterns: list[str]) -> str:
        assert repo == "somebody/projector"
        for pattern in allow_patterns:
            for path in (tmp_path / "hub").glob(pattern):
                shutil.copy(path, tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert same(load_projector("somebody/projector"), MADE[kind])


def test_what_holds_no_projector_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no projector, as it has no config\.json"):
        load_projector(tmp_path)
    FreeVectors(count=1, width=2).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"says no kind of projector, and its settings .*'count'"):
        load_projector(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(
        Damaged, match=r"config\.json is damaged, as it is no JSON: .* get the fold"
    ):
        load_projector(tmp_path)
    (tmp_path / "pair.json").write_text("{}")
    with pytest.raises(DataError, match=r"pair\.json says no kind of projector"):
        load_projector(tmp_path)
    (tmp_path / "pair.json").write_text('{"projector": {"kind": "memoty"}}')
    with pytest.raises(UnknownName, match=r"'memoty'; did you mean 'memory'\?"):
        load_projector(tmp_path)


def test_a_channel_of_states_refuses_a_projector_of_caches(tmp_path: Path):
    MADE["memory"].save_pretrained(tmp_path)
    with pytest.raises(
        IncompatibleModels, match=r"takes a projector of states, but .* holds a Mem"
    ):
        Embedding(str(tmp_path))


@pytest.mark.parametrize("kind", ["ridge", "mixing"])
def test_a_channel_of_states_takes_any_of_them(tmp_path: Path, kind: str):
    MADE[kind].save_pretrained(tmp_path)
    channel = make_channel("embedding", projector=str(tmp_path))
    assert isinstance(channel, Embedding)
    assert same(channel.projector, MADE[kind])


def test_loading_draws_no_random_numbers(tmp_path: Path):
    MADE["embedding"].save_pretrained(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_projector(tmp_path)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("kind", MADE)
def test_what_is_saved_has_the_rights_that_the_umask_leaves(tmp_path: Path, kind: str):
    before = os.umask(0o027)
    try:
        MADE[kind].save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "saved").iterdir()} == {
        "0o640"
    }
