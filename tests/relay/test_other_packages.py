"""Trained channels of other packages: one class and one entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from unspoken.audit import describe, listen
from unspoken.errors import MissingExtra, RecipeError, UnknownName
from unspoken.projectors import EmbeddingProjector, load_projector
from unspoken.projectors.registry import trained_kind, trained_kinds
from unspoken.relay.train import train_projector
from unspoken.relay.trained import trained_channel, trained_pipeline

from ..bench import Bench, run_study
from ..pairs import QUERY

MODULE = '''
from typing import Literal

from unspoken.channels import Embedding
from unspoken.projectors import EmbeddingProjector
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.trained import TrainedChannel, identities


class Narrow(EmbeddingProjector):
    """A projector with few hidden units, and with settings of its own."""

    def __init__(
        self,
        *,
        source_width: int,
        target_width: int,
        units: int = 4,
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__(
            source_width=source_width,
            target_width=target_width,
            hidden=units,
            source_weights=source_weights,
            target_weights=target_weights,
            source_tokenizer=source_tokenizer,
            target_tokenizer=target_tokenizer,
        )


class NarrowSettings(ProjectorSettings):
    kind: Literal["narrow"] = "narrow"
    units: int = 4


class TrainedNarrow(TrainedChannel[NarrowSettings, Narrow]):
    """Made for a test."""

    settings = NarrowSettings
    projector = Narrow

    def fresh(self, relay, settings):
        width = relay.sender.spec.width, relay.receiver.spec.width
        return Narrow(
            units=settings.units, source_width=width[0], target_width=width[1], **identities(relay)
        )

    def channel(self, projector, settings):
        return Embedding(projector)

    def card(self, projector, folder):
        return "* as narrow as can be\\n"


class NoChannel:
    settings = NarrowSettings
    projector = Narrow
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path that registers trained channels, as pip would install it."""
    (tmp_path / "narrow_of_another.py").write_text(MODULE)
    info = tmp_path / "narrow_of_another-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: narrow-of-another\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[unspoken.trained_channels]\n"
        "narrow = narrow_of_another:TrainedNarrow\n"
        "nothing = narrow_of_another:NoChannel\n"
        "broken = narrow_of_another:Nowhere\n"
        "embedding = narrow_of_another:TrainedNarrow\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


NARROW = ("projector={kind: narrow, units: 3}", "comparison.channels=[full-text, text, narrow]")


@pytest.mark.usefixtures("package")
def test_its_kind_is_trained_and_compared_like_ours(bench: Bench):
    report = run_study("comparison", bench.recipe(*NARROW))
    assert [arm.condition for arm in report.arms if arm.channel == "narrow"] == [
        "none",
        "matched",
        "deranged",
        "constant",
    ]
    assert report.arm("narrow", "matched").wire_bytes > 0
    assert report.notes["recipe"]["projector"] == {"kind": "narrow", "units": 3}
    (home,) = (bench.out / "trained").glob("projector-*")
    assert "* as narrow as can be\n" in (home / "README.md").read_text()


@pytest.mark.usefixtures("package")
def test_its_folder_is_loaded_by_what_it_says(bench: Bench):
    relay = bench.relay(*NARROW)
    projector, home = train_projector(relay, bench.out)
    loaded = load_projector(home)
    assert type(loaded) is type(projector) is trained_channel("narrow").projector
    pipeline = trained_pipeline(relay, loaded)
    state, _ = pipeline.agents["sender"].compute(
        {name: (words,) for name, words in QUERY.items()}, needs=pipeline.edges[0].channel.needs
    )
    message = pipeline.edges[0].channel.send(state)
    assert describe(message)["header"]["channel"] == "embedding"
    assert listen(message, str(bench.models["receiver"]), str(home))["reading"]


def test_without_the_package_its_folder_says_what_is_missing(bench: Bench):
    with pytest.raises(RecipeError, match=r"projector: .*unknown kind of projector 'narrow'"):
        bench.recipe(*NARROW)
    home = bench.home / "home"
    home.mkdir()
    (home / "pair.json").write_text('{"projector": {"kind": "narrow"}}')
    with pytest.raises(UnknownName, match="unknown kind of projector 'narrow'"):
        load_projector(home)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("projector={kind: narow}", r"projector: .*'narow'; did you mean 'narrow'\?"),
        ("projector={kind: narrow, unit: 3}", r"projector\.unit: Extra inputs"),
        ("projector={kind: narrow, units: many}", r"projector\.units: .*integer"),
        (
            "comparison.channels=[text, narow]",
            r"comparison\.channels\.1\.name: .*'narow'; did you mean 'narrow'\?",
        ),
        (
            "comparison.channels=[narrow]",
            "channels name 'narrow', but the recipe trains .*kind=embedding",
        ),
        (
            "comparison.channels=[{name: x, projector: {kind: narrow}}]",
            r"comparison\.channels\.0\.settings\.projector: .*'narrow' has to be trained",
        ),
    ],
)
def test_what_a_recipe_says_wrongly_is_named(bench: Bench, override: str, told: str):
    with pytest.raises(RecipeError, match=told):
        bench.recipe(override)


@pytest.mark.usefixtures("package")
def test_another_package_does_not_replace_ours():
    assert trained_kind("embedding").projector is EmbeddingProjector
    assert "narrow" in trained_kinds()


@pytest.mark.usefixtures("package")
def test_an_entry_point_that_names_something_else_is_refused():
    with pytest.raises(TypeError, match=r"'nothing' .* names a NoChannel; .*TrainedChannel"):
        trained_channel("nothing")
    with pytest.raises(MissingExtra, match=r"'broken' cannot be imported from narrow.*uninstall"):
        trained_channel("broken")


def test_without_the_package_it_is_gone():
    assert "narrow" not in trained_kinds()
