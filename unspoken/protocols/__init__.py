"""What agents, channels and studies may ask of a language model.

A `Model` reads, writes and scores; an agent needs no more. What only some models can do has a
separate protocol, and a function of the same name asks for it: `movable(model, ...)` returns the
model as a `Movable`, or raises an error that says what to use instead. Channels, pools and training
ask when they are put together, before anything is read.
"""

from unspoken.protocols.abilities import (
    Assesses,
    Changeable,
    Fillable,
    Foresees,
    Movable,
    Owned,
    RollsOut,
    Tabled,
    WritesTogether,
    assesses,
    changeable,
    fillable,
    foresees,
    movable,
    owned_by,
    rolls_out,
    tabled,
    writes_together,
)
from unspoken.protocols.model import Model
from unspoken.protocols.wrapper import SameWords, Wrapper, device_of, unwrapped

__all__ = [
    "Assesses",
    "Changeable",
    "Fillable",
    "Foresees",
    "Model",
    "Movable",
    "Owned",
    "RollsOut",
    "SameWords",
    "Tabled",
    "Wrapper",
    "WritesTogether",
    "assesses",
    "changeable",
    "device_of",
    "fillable",
    "foresees",
    "movable",
    "owned_by",
    "rolls_out",
    "tabled",
    "unwrapped",
    "writes_together",
]
