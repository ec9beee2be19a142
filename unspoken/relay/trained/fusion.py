"""Two caches to one, see `Fuser`."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Literal

from pydantic import Field

from unspoken.channels import Channel, Fusion
from unspoken.errors import MissingExtra
from unspoken.page import Grid, Tile, write_picture
from unspoken.projectors import Fuser
from unspoken.projectors.fuser import layer_map
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.relay import Relay
from unspoken.relay.trained.base import TrainedChannel, identities
from unspoken.terminal import PlainConsole

__all__ = ["FusionSettings", "TrainedFusion", "gates_chart"]


class FusionSettings(ProjectorSettings):
    """Two caches to one, see `Fuser`; `above` is the lowest receiver layer that is fused.

    map: which sharer layer goes to which receiver layer. gate: the initial logits of all gates.
    opening: whether the text that both models read first is fused too.
    """

    kind: Literal["fusion"]
    map: Literal["last_aligned", "k_nearest"] = "k_nearest"
    above: int = Field(default=0, ge=0)
    hidden: int = Field(default=256, ge=1)
    inner: int = Field(default=256, ge=1)
    depth: int = Field(default=3, ge=3)
    rank: int | None = Field(default=None, ge=1)
    gate: float = 0.0
    opening: bool = False


class TrainedFusion(TrainedChannel[FusionSettings, Fuser]):
    """Channel `fusion`: training on answers alone, while the gates grow from soft to sharp."""

    settings = FusionSettings
    projector = Fuser

    def fresh(self, relay: Relay, settings: FusionSettings) -> Fuser:
        sender, receiver = relay.sender.spec, relay.receiver.spec
        pairs = layer_map(receiver.layers, sender.layers, settings.map)
        fuser = Fuser(
            source_heads=sender.kv_heads,
            source_dim=sender.head_dim,
            target_heads=receiver.kv_heads,
            target_dim=receiver.head_dim,
            layers=[pair for pair in pairs if pair[0] >= settings.above],
            **settings.model_dump(include={"hidden", "inner", "depth", "rank"}),
            anneal=relay.recipe.training.steps,
            **identities(relay),
        ).to(relay.receiver.device)
        fuser.begin(settings.gate)
        return fuser

    def channel(self, projector: Fuser, settings: FusionSettings) -> Channel:
        return Fusion(projector, opening=settings.opening, loose=True)

    def on_step(self, projector: Fuser, step: int) -> None:
        projector.anneal_to(step)

    def card(self, projector: Fuser, folder: Path) -> str:
        """How many gates are open. Their chart is kept, and drawn if matplotlib is installed."""
        gates = projector.gates()
        keys, values = (sum(gate.key > 0 for gate in gates), sum(gate.value > 0 for gate in gates))
        summary = f"* gates open: {keys} for keys, {values} for values, of {len(gates)} layers"
        chart = gates_chart(projector)
        chart.write(folder / "gates.json")
        try:
            write_picture(chart, folder / "gates.svg", chart.text)
        except MissingExtra as error:
            PlainConsole(stderr=True).print(f"no gates.svg is drawn: {error}")
            return f"{summary}\n"
        return f"{summary}, see [gates.svg](gates.svg)\n"


def gates_chart(fuser: Fuser) -> Grid:
    """One column a fused layer, keys above values: sigmoid(logit), and a mark if it is open."""
    gates = fuser.gates()
    keys, values = [gate.key for gate in gates], [gate.value for gate in gates]
    count = sum(logit > 0 for logit in (*keys, *values))
    return Grid(
        columns=tuple((str(gate.receiver_layer), str(gate.sharer_layer)) for gate in gates),
        rows=(("keys", _tiles(keys)), ("values", _tiles(values))),
        across="receiver layer, and sharer layer below it",
        marked="open",
        unmarked="shut",
        caption="One column a fused layer: how much of the sender’s keys and values the receiver "
        "lets in.",
        text=f"{count} of {2 * len(gates)} gates open",
    )


def _tiles(logits: Sequence[float]) -> tuple[Tile, ...]:
    return tuple(Tile(1 / (1 + exp(-logit)), logit > 0) for logit in logits)
