"""Channels by name, ours and those of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from unspoken.agents import Agent
from unspoken.channels import Channel, Constant, Handoff, TextChannel, channel_names, make_channel
from unspoken.errors import UnknownName
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import FreeVectors

CHANNEL = '''
from unspoken.channels import TextChannel


class Telepathy(TextChannel):
    """Shouts."""

    name = "telepathy"

    def __init__(self, *, loud: bool = False) -> None:
        super().__init__(verbatim=True)
        self.loud = loud
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path that registers the channel 'telepathy', as pip would install it."""
    (tmp_path / "telepathy_of_another.py").write_text(CHANNEL)
    info = tmp_path / "telepathy_of_another-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: telepathy-of-another\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[unspoken.channels]\n"
        "telepathy = telepathy_of_another:Telepathy\n"
        "text = telepathy_of_another:Telepathy\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "made"),
    [
        ("text", {"verbatim": True, "limit": 3}, TextChannel),
        ("handoff", {}, Handoff),
        ("constant", {"vectors": FreeVectors(count=1, width=2)}, Constant),
    ],
)
def test_our_channels_by_name(kind: str, options: dict[str, object], made: type[Channel]):
    channel = make_channel(kind, **options)
    assert type(channel) is made
    assert channel.name == kind
    assert all(getattr(channel, name) is value for name, value in options.items())


def test_every_channel_knows_its_name():
    names = ["constant", "embedding", "fusion", "handoff", "layers", "memory", "rollout"]
    names += ["soft", "text"]
    assert set(names) <= set(channel_names())


def test_an_unknown_channel_is_met_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"'handof'; did you mean 'handoff'\? Known: constant, "):
        make_channel("handof")
    with pytest.raises(UnknownName) as far:
        make_channel("zzz")
    assert "did you mean" not in str(far.value)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match=r"'text' does not take these options: .*'limt'"):
        make_channel("text", limt=3)


@pytest.mark.usefixtures("package")
def test_a_channel_of_another_package_joins(tiny):
    assert "telepathy" in channel_names()
    channel = make_channel("telepathy", loud=True)
    assert channel.loud
    agents = [Agent(name, tiny("llama")) for name in ("a", "b")]
    run = Pipeline(agents, [Edge("a", "b", channel)]).run("hello?")
    assert run.turns[0].usage.wire > 0
    with pytest.raises(UnknownName, match="did you mean 'telepathy'"):
        make_channel("telepaty")


@pytest.mark.usefixtures("package")
def test_another_package_does_not_replace_ours():
    assert type(make_channel("text")) is TextChannel


def test_without_the_package_it_is_gone():
    assert "telepathy" not in channel_names()
