"""A projector from its folder, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from unspoken import kept
from unspoken.errors import DataError
from unspoken.projectors.base import CONFIG, WEIGHTS, Projector, local, read_config
from unspoken.projectors.registry import TrainedKind, trained_kind

__all__ = ["PAIR", "load_projector", "load_trained"]

PAIR = "pair.json"
"""The file in which training records what it trained, see `unspoken.relay.pair`."""

_BY_SETTINGS = ("embedding", "memory", "fusion")


def load_projector(name: str | Path) -> Projector:
    """Load a projector from a folder or from the hub, ready for use.

    The folder names its kind in pair.json, which training writes, or in config.json. In folders of
    earlier versions the settings in config.json tell it. Raises `UnknownName` for a kind that is
    not registered, `DataError` for a folder without a projector, `Damaged` if it is not whole.
    """
    return load_trained(name)[1]


def load_trained(name: str | Path) -> tuple[TrainedKind, Projector, BaseModel]:
    """The kind of a folder, its projector, and the settings that its recipe gave the projector.

    If the folder does not keep these settings, they are the defaults of the kind.
    """
    folder = local(name)
    with kept.advising("get the folder again, or train the projector again"):
        settings = _settings(folder)
    kind = trained_kind(str(settings["kind"]))
    projector = kind.projector.from_pretrained(folder).eval()
    try:
        return kind, projector, kind.settings.model_validate(settings)
    except ValidationError as error:
        raise DataError(
            f"{folder / PAIR} has settings that no recipe gives to a projector of kind "
            f"{settings['kind']!r}: {error.errors()[0]['msg']}; train it again"
        ) from error


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of the projector as a recipe gives them, the kind at least."""
    if (folder / PAIR).exists():
        found = kept.read_json(folder / PAIR).get("projector")
        if not isinstance(found, dict) or "kind" not in found:
            raise DataError(f"{folder / PAIR} says no kind of projector; train it again")
        return cast(dict[str, Any], found)
    if not (folder / CONFIG).exists():
        raise DataError(
            f"{folder} holds no projector, as it has no config.json; give the folder that "
            "`unspoken train` names at its end"
        )
    config = read_config(folder)
    config.pop(WEIGHTS, None)
    if "kind" in config:
        return {"kind": config["kind"]}
    for kind in _BY_SETTINGS:
        if _makes(trained_kind(kind).projector, config):
            return {"kind": kind}
    raise DataError(
        f"{folder / CONFIG} says no kind of projector, and its settings {sorted(config)} "
        f"are those of none of {', '.join(_BY_SETTINGS)}; load it with `from_pretrained` of its "
        "class"
    )


def _makes(projector: type[Projector], config: Mapping[str, Any]) -> bool:
    """Whether these are the settings of that class: all that it needs, and nothing else."""
    known = dict(signature(projector.__init__).parameters)
    del known["self"]
    needed = {name for name, one in known.items() if one.default is Parameter.empty}
    return needed <= config.keys() <= known.keys()
