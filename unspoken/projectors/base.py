"""What every trained module shares: safetensors and JSON on disk, checked before they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import huggingface_hub
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from unspoken import kept
from unspoken.errors import Damaged
from unspoken.files import sha256
from unspoken.seeding import seeded

__all__ = ["CONFIG", "WEIGHTS", "Projector", "local", "read_config"]


class Projector(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="unspoken",
    tags=["unspoken", "projector"],
):
    """A module with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Settings are the keyword arguments of the constructor, kept in config.json. Weights are
    float32 master weights in model.safetensors. Both have one digest. In folders without it, those
    of other people and of version 0.1, a surplus or missing key or tensor is an error too, and so
    is a number that is not finite.
    """

    recipe: ClassVar[str] = ""
    """The recipe that makes one for two models, as errors name it: `ridge`."""

    def beside(self) -> dict[str, str]:
        """The texts of further files in the folder, by name."""
        return {}

    def _save_pretrained(self, save_directory: Path) -> None:
        given: Any = cast(Any, self)._hub_mixin_config
        config: dict[str, Any] = json.loads(json.dumps(given or {}))
        files = {name: text.encode() for name, text in self.beside().items()}
        for name, data in files.items():
            (save_directory / name).write_bytes(data)
        content = {
            "settings": kept.content_digest(config),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        digest = kept.save(save_directory / _WEIGHTS, _KIND, content, self.state_dict())
        text = json.dumps({**config, WEIGHTS: digest}, sort_keys=True, indent=2)
        (save_directory / CONFIG).write_text(text)

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load from a folder or from the hub. Raises `Damaged` for what is not whole."""
        where = {key: options.pop(key) for key in _WHERE if key in options}
        folder = local(name, **where)
        with kept.advising("get the folder again, or train the projector again"):
            _check_settings(cls, read_config(folder), folder / CONFIG)
            return super().from_pretrained(folder, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **options: Any) -> Self:
        """From a folder as the mixin does, but checked, and with nothing printed."""
        folder = Path(model_id)
        settings = {name: value for name, value in options.items() if name not in _WHERE}
        found = kept.load_weights(folder / _WEIGHTS, _KIND)
        _check_together(folder, found)
        with torch.device("meta"):  # so that no size is believed before the weights have it
            wanted = cls._made(settings, folder).state_dict()
        kept.check_tensors(found.tensors, wanted, folder / _WEIGHTS)
        made = cls._made(settings, folder)
        made.load_state_dict(found.tensors)
        return made.to(map_location).eval()

    @classmethod
    def _made(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        try:
            with seeded():  # what is drawn now is replaced by what was trained
                return cast(Self, cast(Any, cls)(**settings))
        except _WRONG as error:
            raise Damaged(
                f"{folder / CONFIG} has settings that make no {cls.__name__}: {error}"
            ) from error


CONFIG = "config.json"
WEIGHTS = "weights_sha256"
"""The key of config.json that has the digest of the weights."""

_WEIGHTS = "model.safetensors"
_KIND = "projector"
_WHERE = ("revision", "cache_dir", "force_download", "token", "local_files_only")
"""Options that say where on the hub something is."""
_WRONG = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_MOST = 2**31


def local(name: str | Path, **where: Any) -> Path:
    """The folder itself, or its copy if it is on the hub."""
    if Path(name).is_dir():
        return Path(name)
    wanted = ["*.json", "*.safetensors"]
    download = cast(Any, huggingface_hub).snapshot_download
    return Path(download(str(name), allow_patterns=wanted, **where))


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a folder. Raises `StorageError`."""
    return kept.read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}


def _check_settings(cls: type[Projector], config: Mapping[str, Any], path: Path) -> None:
    known = signature(cls.__init__).parameters
    if not any(one.kind is Parameter.VAR_KEYWORD for one in known.values()):
        kept.check_keys(config, {*known, WEIGHTS} - {"self"}, path, needed=())
    for name, value in config.items():
        if any(abs(number) > _MOST for number in _numbers(value)):
            raise Damaged(f"{path} has {name!r} beyond {_MOST}, which is the most")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, int | float):
        return [value]
    parts = cast(list[Any], value) if isinstance(value, list) else []
    return [number for part in parts for number in _numbers(part)]


def _check_together(folder: Path, found: kept.Tensors) -> None:
    """Raise `Damaged` unless settings, weights and further files were written together."""
    config = read_config(folder)
    stated = config.pop(WEIGHTS, found.digest)
    settings = found.content.get("settings") if found.digest else kept.content_digest(config)
    if stated != found.digest or settings != kept.content_digest(config):
        raise Damaged(f"{folder / CONFIG} and {_WEIGHTS} were not written together")
    files: dict[str, str] = found.content["files"] if found.digest else {}
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise Damaged(f"{path} is {'damaged' if path.is_file() else 'missing'}")
