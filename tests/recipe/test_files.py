"""The files of recipes: found, continued, and described without reading a setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from unspoken.errors import RecipeError, UnknownName
from unspoken.recipe import load_recipe
from unspoken.recipe.files import chain, find_recipe, first_sentence, listed_studies


def made(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("remark", "sentence"),
    [
        ("# One thing.\nkind: relay\n", "One thing."),
        (
            "# One thing, told\n# on two lines. Another.\n#\n#   unspoken\n",
            "One thing, told on two lines.",
        ),
        ("# Does it pay? Perhaps.\n", "Does it pay?"),
        ("# Gemma-3.5 reads, v1.0 writes\n\n# more\n", "Gemma-3.5 reads, v1.0 writes"),
        ("kind: relay\n", ""),
    ],
)
def test_a_recipe_is_described_by_its_first_sentence(
    remark: str, sentence: str, tmp_path: Path
) -> None:
    assert first_sentence(Path(made(tmp_path, "one", remark))) == sentence


def test_a_recipe_lists_its_own_studies_or_those_it_continues(tmp_path: Path) -> None:
    made(tmp_path, "low", "kind: relay\nstudies: {comparison: {}, rate: {lengths: [1]}}\n")
    same = made(tmp_path, "same", "base: low.yaml\nseed: 1\n")
    other = made(tmp_path, "other", "base: same.yaml\nstudies: {gossip: {}}\n")
    assert listed_studies(same) == ["comparison", "rate"]
    assert listed_studies(other) == ["gossip"]
    assert listed_studies(made(tmp_path, "none", "kind: pipeline\n")) == []


def test_a_path_that_is_not_there_is_no_recipe_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("relay") == find_recipe("relay.yaml")
    for name in ("mine/relay.yaml", "/no/such/dir/relay.yaml", "recipes/relay.yaml", "./relay"):
        with pytest.raises(UnknownName) as refused:
            find_recipe(name)
        assert f"unknown recipe {name!r}: there is no such file" in str(refused.value)
        assert "did you mean 'relay', a recipe that ships?" in str(refused.value)


def test_a_path_that_is_misspelt_gets_the_file_that_is_beside_it(tmp_path: Path) -> None:
    right = made(tmp_path, "relay_of_mine", "kind: relay\n")
    with pytest.raises(UnknownName) as refused:
        find_recipe(str(tmp_path / "relay_of_mime.yaml"))
    assert f"did you mean {right!r}?" in str(refused.value)
    with pytest.raises(UnknownName, match="named without a folder: edges, "):
        find_recipe(str(tmp_path / "zzz" / "zzzzzz"))


@pytest.mark.parametrize("base", ["../low.yaml", "/etc/passwd", "..", "[1]"])
def test_a_base_that_is_no_name_of_a_file_is_refused(base: str, tmp_path: Path) -> None:
    path = made(tmp_path, "one", f"base: {base}\n")
    for read in (chain, load_recipe):
        with pytest.raises(RecipeError, match="is no name of a file in the same folder"):
            read(path)


def test_a_circle_of_recipes_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "two", "base: one.yaml\n")
    with pytest.raises(RecipeError, match=r"two.yaml: base: one.yaml continues this recipe"):
        chain(made(tmp_path, "one", "base: two.yaml\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [1", "own.yaml: cannot be read"),
        ("- 1\n", "a recipe is a mapping"),
        ("base: none.yaml\n", "none.yaml: cannot be read"),
        ("base: own.yaml\n", "base: own.yaml continues this recipe"),
        ("base: ./own.yaml\n", "base: './own.yaml' is no name of a file in the same folder"),
        ("base: /tmp/own.yaml\n", "base: '/tmp/own.yaml' is no name of a file"),
        ("base: [own.yaml]\n", "is no name of a file"),
        ("base: ..\n", "base: '..' is no name of a file"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said) as refused:
        chain(made(tmp_path, "own", text))
    assert "\n" not in str(refused.value)
