"""What a machine has and what it lacks, as facts."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from unspoken.errors import MissingExtra
from unspoken.models import PACKAGED, cache_folder

__all__ = ["Health", "examine"]


@dataclass
class Health:
    """found: each fact by its name. missing: what is absent, and how to get it, a line each."""

    found: dict[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    missing: list[str] = field(default_factory=list[str])


def examine() -> Health:
    """Look at Python, the packages, the packaged models and the cache folder of this machine."""
    health = Health({"python": platform.python_version(), "cores": os.cpu_count()})
    _packages(health)
    _models(health)
    _cache(health)
    return health


def _packages(health: Health) -> None:
    for package, extra in _PACKAGES.items():
        try:
            health.found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            health.missing.append(f"{package} is not installed; pip install '{extra}'")


def _models(health: Health) -> None:
    for model in PACKAGED.values():
        try:
            health.found[model.name] = str(model.paths[0])
        except MissingExtra as error:
            health.missing.append(str(error))


def _cache(health: Health) -> None:
    place = _existing(cache_folder())
    health.found["cache"] = str(cache_folder())
    health.found["free GB"] = shutil.disk_usage(place).free >> 30
    if not os.access(place, os.W_OK):
        health.missing.append(f"{place} is not writable; set UNSPOKEN_CACHE to a folder that is")


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


_PACKAGES = {
    "torch": "unspoken",
    "transformers": "unspoken",
    "accelerate": "unspoken",
    "jinja2": "unspoken",
    "gguf": "unspoken[models]",
    "scipy": "unspoken[compare]",
    "matplotlib": "unspoken[compare]",
    "peft": "unspoken[lora]",
    "ray": "unspoken[ray]",
    "cryptography": "unspoken[seal]",
    "lm-eval": "unspoken[lm-eval]",
}
