"""Digests: what is not as it was written is refused, by name, before anything of it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unspoken import kept
from unspoken.errors import Damaged, StorageError

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(7),
    "half": torch.randn(3).bfloat16(),
    "turned": torch.arange(6).reshape(2, 3).T,
    "mask": torch.tensor([True, False]),
}
CONTENT = {"n": 1, "words": ["é", None], "deep": {"x": 0.1, "y": 1e300}}


def test_tensors_and_content_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    kept.save(path, "thing", CONTENT, TENSORS)
    found = kept.load(path, "thing")
    assert found.content == CONTENT
    plain = load_file(path)  # others can read it
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
        assert torch.equal(plain[name], tensor)
    assert found.tensors.keys() == TENSORS.keys() == plain.keys()


@pytest.mark.parametrize("step", range(1, 12))
def test_every_changed_byte_is_noticed_or_means_nothing(step: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    kept.save(path, "thing", CONTENT, TENSORS)
    data = path.read_bytes()
    for at in range(step, len(data), 11):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        try:
            found = kept.load(path, "thing")
        except Damaged:
            continue
        assert found.content == CONTENT
        assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_bytes(b""), "no safetensors"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: save_file({"a": torch.ones(1)}, path), "has no digest"),
        (lambda path: kept.save(path, "other", {}, {}), "'other' in version 1, but 'thing'"),
        (lambda path: save_file({}, path, {"sha256": "0"}), "its digest was made of"),
        (lambda path: (path.unlink(), path.mkdir()), "no safetensors"),
    ],
)
def test_files_that_are_no_such_thing(
    write: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    kept.save(path, "thing", CONTENT, TENSORS)
    write(path)
    with pytest.raises(Damaged, match=says):
        kept.load(path, "thing")


def test_a_file_without_a_digest_is_read_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, path, {"format": "pt"})
    found = kept.load_weights(path, "thing")
    assert (found.content, found.digest) == ({"format": "pt"}, "")
    assert found.tensors["a"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": NaN}', "no finite number"),
        ('{"a": 1e999}', "no finite number"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"a": "\xff"}', "no JSON"),
        ('{"a": 1, "sha256": "0"}', "its digest was made of"),
    ],
)
def test_json_is_read_strictly(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Damaged, match=says):
        kept.read_json(path)


def test_the_digest_is_of_the_content_and_not_of_its_form(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = kept.digested(CONTENT)
    path.write_text(json.dumps(dict(reversed(content.items())), indent=3))
    assert kept.read_json(path) == CONTENT
    path.write_text(json.dumps({**content, "n": 2}))
    with pytest.raises(Damaged):
        kept.read_json(path)
    with pytest.raises(StorageError, match="cannot read"):
        kept.read_json(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": torch.ones(2), "b": torch.ones(1)}, "an unknown tensor 'b'"),
        ({}, "no tensor 'a'"),
        ({"a": torch.ones(3)}, r"'a' is \(3,\), but must be \(2,\)"),
        ({"a": torch.tensor([1, torch.inf])}, "not real and finite"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "not real and finite"),
    ],
)
def test_tensors_are_what_they_stand_for(tensors: dict[str, torch.Tensor], says: str) -> None:
    kept.check_tensors({"a": torch.ones(2)}, {"a": torch.zeros(2)}, Path("f"))
    with pytest.raises(Damaged, match=f"^f .*{says}"):
        kept.check_tensors(tensors, {"a": (2,)}, Path("f"))


def test_keys_are_named() -> None:
    kept.check_keys({"a": 1}, ("a", "b"), Path("f"), needed=("a",))
    with pytest.raises(Damaged, match=r"f has unknown keys \['c'\]; known are \['a'\]"):
        kept.check_keys({"a": 1, "c": 1}, ("a",), Path("f"))
    with pytest.raises(Damaged, match=r"f lacks the keys \['b'\]"):
        kept.check_keys({"a": 1}, ("a", "b"), Path("f"))
    with pytest.raises(Damaged, match="list where an object"):
        kept.check_keys([], (), Path("f"))


def test_a_folder_is_checked_file_by_file(tmp_path: Path) -> None:
    assert kept.check_files(tmp_path) is None
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"abc")
    kept.write_files(tmp_path, layout=3)
    assert kept.check_files(tmp_path) == {
        "layout": 3,
        "files": {"sub/x": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    }
    (tmp_path / "sub" / "x").write_bytes(b"abd")
    with pytest.raises(Damaged, match="x is damaged"):
        kept.check_files(tmp_path)
    (tmp_path / "sub" / "x").unlink()
    with pytest.raises(Damaged, match="x is missing"):
        kept.check_files(tmp_path)


def test_one_damaged_file_is_kept(tmp_path: Path) -> None:
    path, error = tmp_path / "x.bin", Damaged("x.bin is damaged")
    for content in (b"1", b"2"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"x\.bin is damaged\. It is made anew; the old one"):
            kept.set_aside(path, error)
    kept.set_aside(path, error)  # another process was faster: no warning
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.bin.damaged", b"2")]


def test_an_error_says_what_to_do() -> None:
    with pytest.raises(Damaged, match=r"^f is damaged; train again$"), kept.advising("train again"):
        raise Damaged("f is damaged")
