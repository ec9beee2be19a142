"""Channels by name, ours and those of other packages."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import unspoken
from unspoken import channels
from unspoken.agents import Agent
from unspoken.channels import Channel, Constant, Handoff, TextChannel, channel_names, make_channel
from unspoken.channels.registry import _OWN as OURS
from unspoken.errors import SettingsError, UnknownName, UnspokenError
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


class Spoon(TextChannel):
    """Bends."""

    name = "spoon"

    def __init__(self, force: float, **more: object) -> None:
        super().__init__()
        self.more = more
        if not force:
            len()
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
        "spoon = telepathy_of_another:Spoon\n"
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
    with pytest.raises(UnknownName, match=r"unknown channel 'txt'; did you mean 'text'\?"):
        make_channel("txt")
    with pytest.raises(UnknownName) as far:
        make_channel("zzz")
    assert "did you mean" not in str(far.value)


REFUSED = [
    (
        "text",
        {"limt": 4},
        "channel 'text' has no setting 'limt'; did you mean 'limit'? Settings: verbatim=False, "
        "limit=None, reasoning=False.",
    ),
    (
        "handoff",
        {"zzz": 1},
        "channel 'handoff' has no setting 'zzz'. Settings: opening=True.",
    ),
    (
        "embedding",
        {},
        "channel 'embedding' needs the setting 'projector': an `EmbeddingProjector`, a `LinearMap` "
        "or another `StateProjector`, or the folder of one. Settings: projector (needed).",
    ),
    (
        "fusion",
        {"opening": False},
        "channel 'fusion' needs the setting 'fuser': a `Fuser` or the folder of one. Settings: "
        "fuser (needed), order='sequential', opening=True, loose=False.",
    ),
    (
        "memory",
        {"projecter": "x"},
        "channel 'memory' has no setting 'projecter'; did you mean 'projector'? Settings: "
        "projector (needed), decoded_by='receiver'.",
    ),
]


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED)
def test_unknown_and_missing_settings_are_named(kind: str, options: dict[str, Any], said: str):
    with pytest.raises(SettingsError) as refused:
        make_channel(kind, **options)
    assert str(refused.value) == said
    assert isinstance(refused.value, UnspokenError)
    assert isinstance(refused.value, ValueError)


def test_every_needed_setting_of_ours_says_what_it_is_for():
    needing = {"constant", "embedding", "fusion", "memory"}
    for kind in needing:
        with pytest.raises(SettingsError, match=r"needs the setting '\w+': an? `"):
            make_channel(kind)
    for kind in OURS.keys() - needing:
        assert make_channel(kind).name == kind


def test_a_constructor_keeps_its_own_words():
    for wrong in (0, -1, 1.5, "few", True):
        with pytest.raises(SettingsError, match=r"^limit is .*, but it has to be a number"):
            make_channel("text", limit=wrong)
    for odd in (5, None):
        with pytest.raises(UnknownName, match="unknown channel"):
            make_channel(odd)  # type: ignore[arg-type]


@pytest.mark.usefixtures("package")
def test_settings_of_a_channel_of_another_package_are_named_too():
    with pytest.raises(SettingsError, match=r"'telepathy' has no setting 'lowd'; .*'loud'\?"):
        make_channel("telepathy", lowd=True)
    with pytest.raises(SettingsError, match=r"'spoon' needs the setting 'force', of type float\. "):
        make_channel("spoon")
    assert make_channel("spoon", force=1.0, anything=2).more == {"anything": 2}
    with pytest.raises(TypeError, match=r"^len\(\) takes exactly one argument \(0 given\)$"):
        make_channel("spoon", force=0.0)


# -- names -----------------------------------------------------------------------------------------


def test_the_package_exports_every_channel_of_the_registry():
    ours = {type_of(kind) for kind in OURS}
    exported = {getattr(unspoken, name) for name in unspoken.__all__}
    classes = {one for one in exported if isinstance(one, type) and issubclass(one, Channel)}
    assert classes == ours | {Channel}
    assert {one.__name__ for one in ours} <= set(unspoken.__all__)
    assert {getattr(channels, one.__name__) for one in ours} == ours
    assert len(ours) == len(OURS) == 9


def type_of(kind: str) -> Any:
    """The class of a channel, by its entry in the registry."""
    module, _, name = OURS[kind].partition(":")
    found = getattr(import_module(module), name)
    assert found.name == kind
    return found


def test_every_exported_name_is_found_and_listed_once():
    assert sorted(unspoken.__all__) == list(unspoken.__all__)
    assert set(unspoken.__all__) == set(unspoken._WHERE)
    assert all(getattr(unspoken, name) is not None for name in unspoken.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Telepathy'"):
        _ = unspoken.Telepathy


def test_importing_the_package_loads_no_channel_and_no_torch():
    code = (
        "import sys, unspoken; print([m for m in sys.modules if m.startswith(('torch', 'unsp'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "['unspoken']\n"


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
