"""What each user has read, and how it stays from one run of a server to the next."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from unspoken.anchors import AnchorPool
from unspoken.files import file_name, writing

__all__ = ["load_pools", "save_pools"]


def load_pools(owners: Sequence[str], budget: int, folder: Path | None) -> dict[str, AnchorPool]:
    """A pool for each owner, with an equal share of `budget` bytes, and what a folder has of it.

    Raises `StorageError` for a folder that holds something else, or is damaged.
    """
    pools = {owner: AnchorPool("exact", budget=budget // len(owners)) for owner in owners}
    for owner, pool in pools.items():
        if folder is not None and (place := folder / file_name(owner)).exists():
            pool.load(place)
    return pools


def save_pools(pools: Mapping[str, AnchorPool], folder: Path) -> None:
    """Write what is in pools, each whole or not at all. No other account may read it.

    Raises `StorageError`.
    """
    before = os.umask(0o077)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for owner, pool in pools.items():
            pool.save(folder / file_name(owner))
    finally:
        os.umask(before)
