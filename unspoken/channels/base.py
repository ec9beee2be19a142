"""The contract between agents and the ways to reach them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import sha256
from inspect import signature
from typing import ClassVar, Protocol

from torch import Tensor, nn

from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.finite import all_finite, not_finite
from unspoken.identity import module_fingerprint
from unspoken.projectors import Projector
from unspoken.protocols import Model
from unspoken.types import (
    SEGMENT_KINDS,
    CacheSegment,
    Context,
    Need,
    Prompt,
    Segment,
    Spec,
    Text,
    Vectors,
)
from unspoken.wire import Header, Message

__all__ = [
    "Channel",
    "Identified",
    "check_abilities",
    "check_identities",
    "check_widths",
    "opening_id",
    "remedy",
    "spelled_opening",
]


class Channel(ABC):
    """Turns a sender's state into a message, and a message into what the receiver takes in.

    A channel overrides `write`, which acts before the receiver reads, or `fuse`, which acts after.
    The other one stays the identity, so that messages over different channels compose. A channel
    holds no state of a conversation, so one instance may serve many edges.
    """

    name: ClassVar[str]
    in_front: ClassVar[bool] = False
    """True when the message goes before the whole prompt instead of into its slot."""
    own_cache: ClassVar[bool] = False
    """True when the receiver continues from the sender's cache as if it had read it itself. The
    sender should then read what the receiver would have read, the shared opening included."""
    by_length: ClassVar[bool] = False
    """True when `send` only cuts and moves the sender's cache. How long the message is can then be
    told before anything is read, and `send` is called with a cache without heads for that."""
    carries: ClassVar[tuple[type[Segment], ...]] = (Text, Vectors, CacheSegment)
    """The payloads that `write` or `fuse` can take in."""

    @property
    def reads(self) -> tuple[type[Segment], ...]:
        """What a receiver must be able to read, at least one of them; `carries` by default."""
        return self.carries

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """What the sender has to compute. If no channel needs text, the sender decodes nothing."""

    @abstractmethod
    def send(self, state: SenderState) -> Message:
        """The message, with the B rows of `state`. The state is not changed."""

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        """The receiver's prompt with the message in it."""
        return prompt

    def fuse(self, message: Message, context: Context) -> Context:
        """What the receiver has read, changed by the message."""
        return context

    def calibrated(self, receiver: Model, samples: Sequence[tuple[str, str]]) -> Channel:
        """The channel with what it measures on the receiver.

        samples: pairs of what comes first and what is asked after it. Most channels measure
        nothing. A comparison calls this once, with training items.
        """
        return self

    def check(self, sender: Spec, receiver: Spec) -> None:
        """Raise `IncompatibleModels`, naming both sides and the remedy, if the two do not fit."""

    def ask(self, sender: Model, receiver: Model) -> None:
        """Ask both models for the abilities that the channel needs besides reading and writing.

        Called when a pipeline of this process is made, after `check`. Raises `IncompatibleModels`.
        """

    def accept(self, message: Message, receiver: Spec) -> None:
        """Raise `IncompatibleModels` if the message is not for this channel and this receiver, and
        `NotFinite` if it holds NaN or infinity.

        Called before `write` and before any forward pass, wherever the message comes from.
        """
        header = message.header
        for what, meant, found in (
            ("channel", header.channel, self.name),
            ("receiver weights", header.receiver, receiver.weights),
            ("receiver tokenizer", header.receiver_tokenizer, receiver.tokenizer),
            ("projector", header.projector, self._projector),
        ):
            known = what == "receiver weights" and receiver.is_known_as(meant)
            if meant and meant != found and not known:
                raise IncompatibleModels(
                    f"the message from {header.sender!r} was made for {what} {meant}, but receiver "
                    f"{receiver.name!r} reads it with {found or 'none'}; use the {what} that it "
                    "was made for, or send it again"
                )
        for module in self._modules.values():
            for what in ("weights", "tokenizer"):
                trained, stated = getattr(module, f"source_{what}", ""), getattr(header, what)
                if trained and trained != stated:
                    raise IncompatibleModels(
                        f"the message comes from {header.sender!r} with {what} {stated}, but the "
                        f"{_called(module)} of receiver {receiver.name!r} was trained with "
                        f"{trained}; use the sender that it was trained with"
                    )
        if not isinstance(message.payload, self.carries):
            raise IncompatibleModels(
                f"the message from {header.sender!r} carries {type(message.payload).__name__}, but "
                f"channel {self.name!r} of receiver {receiver.name!r} takes in "
                f"{' or '.join(kind.__name__ for kind in self.carries)}; use what it sends"
            )
        message.check_finite()

    def __repr__(self) -> str:
        known = vars(self)
        options = {
            name: (known[name], option.default)
            for name, option in signature(type(self)).parameters.items()
            if name in known
        }
        told = [
            f"{name}={_brief(given)}"
            for name, (given, usual) in options.items()
            if not same_value(given, usual)
        ]
        return f"{type(self).__name__}({', '.join(told)})"

    def is_like(self, other: Channel) -> bool:
        """Whether the other channel is of the same class, with the same settings and modules."""
        mine, its = vars(self), vars(other)
        return (
            type(self) is type(other)
            and mine.keys() == its.keys()
            and all(same_value(given, its[name]) for name, given in mine.items())
        )

    def _message(
        self, state: SenderState, payload: Segment, *, receiver: str = "", tokenizer: str = ""
    ) -> Message:
        """A message from the sender of `state` to a model with these weights and tokenizer."""
        sender, cached = state.spec, isinstance(payload, CacheSegment)
        trained = {getattr(module, "source_weights", "") for module in self._modules.values()}
        weights = sender.former if sender.former in trained else sender.weights
        header = Header(
            channel=self.name,
            sender=state.agent,
            role=state.role,
            task=state.task,
            step=state.step,
            weights=weights,  # by the name that the receiver's module knows
            tokenizer=sender.tokenizer,
            dtype=sender.dtype,
            receiver=receiver,
            receiver_tokenizer=tokenizer,
            projector=self._projector,
            lead=opening_id(state.opening),
            kinds=sender.kinds if cached else (),
            window=sender.window if cached else None,
        )
        return Message(header, payload)

    def _check_made(self, message: Message, numbers: Iterable[Tensor]) -> None:
        """Raise `NotFinite` if a module of the receiver made NaN or infinity of the message."""
        if not all_finite(numbers):
            (module, *_) = self._modules.values()
            whose = f"the {_called(module)} that takes in the message from"
            raise not_finite(f"{whose} {message.header.sender!r} over {self.name!r}", "")

    @property
    def _projector(self) -> str:
        """The fingerprint of the trained modules that the channel holds, '' for none."""
        found = [module_fingerprint(module) for module in self._modules.values()]
        return found[0] if len(found) == 1 else opening_id("".join(found))

    @property
    def _modules(self) -> dict[str, nn.Module]:
        """The trained modules that the channel holds, by attribute."""
        return {name: part for name, part in vars(self).items() if isinstance(part, nn.Module)}


_LACKS = {
    "text": "words",
    "cache": "a cache",
    "hidden": "hidden states",
    "rollout": "latent steps on a cache",
    "vectors": "vectors",
}


def check_abilities(channel: Channel, needs: Iterable[Need], sender: Spec, receiver: Spec) -> None:
    """Raise `IncompatibleModels` if a side lacks an ability that the channel needs."""
    for kind in sorted({need.kind for need in needs} - set(sender.gives)):
        raise IncompatibleModels(
            f"channel {channel.name!r} needs {_LACKS[kind]} from its sender, but {sender.name!r} "
            f"gives only {_listed(sender.gives)}; use a causal model, or a channel like 'text'"
        )
    kinds = [SEGMENT_KINDS[segment] for segment in channel.reads]
    if not set(kinds) & set(receiver.takes):
        raise IncompatibleModels(
            f"channel {channel.name!r} makes its receiver read {_listed(kinds)}, but "
            f"{receiver.name!r} reads only {_listed(receiver.takes)}; use a causal model, or a "
            "channel like 'text'"
        )


def _listed(kinds: Iterable[str]) -> str:
    return " and ".join(_LACKS[kind] for kind in kinds)


class Identified(Protocol):
    """A trained module that knows the fingerprints of what it was trained with; '' for any."""

    source_weights: str
    source_tokenizer: str
    target_weights: str
    target_tokenizer: str


def check_identities(module: Identified, sender: Spec, receiver: Spec, remedy: str) -> None:
    """Raise `IncompatibleModels` if a side has other weights or another tokenizer."""
    for side, spec, what, then, now in (
        ("sender", sender, "weights", module.source_weights, sender.weights),
        ("sender", sender, "tokenizer", module.source_tokenizer, sender.tokenizer),
        ("receiver", receiver, "weights", module.target_weights, receiver.weights),
        ("receiver", receiver, "tokenizer", module.target_tokenizer, receiver.tokenizer),
    ):
        if then and then != now and not (what == "weights" and spec.is_known_as(then)):
            raise IncompatibleModels(
                f"the {_called(module)} was trained with {side} {what} {then}, but {side} "
                f"{spec.name!r} has {now}; {remedy}"
            )


class _Sized(Protocol):
    source_width: int
    target_width: int


def check_widths(module: _Sized, sender: Spec, receiver: Spec, remedy: str) -> None:
    """Raise `IncompatibleModels` if a side is not as wide as a projector of states expects."""
    for side, spec, has, width in (
        ("sender", sender, "has states of", module.source_width),
        ("receiver", receiver, "embeds", module.target_width),
    ):
        if spec.width != width:
            raise IncompatibleModels(
                f"the projector maps width {module.source_width} to {module.target_width}, but "
                f"{side} {spec.name!r} {has} {spec.width}; {remedy}"
            )


def _called(module: object) -> str:
    return "fuser" if type(module).__name__ == "Fuser" else "projector"


def remedy(module: Projector, sender: Spec, receiver: Spec) -> str:
    """How to get a module that fits these two models."""
    models = f"pair.sender.model={sender.name} pair.receiver.model={receiver.name}"
    if not module.recipe:
        return f"train one for these two, by its own recipe with {models}"
    return f"train one with: unspoken train {module.recipe} {models}"


def same_value(one: object, other: object) -> bool:
    """Whether two settings are equal: the same object, or equal plain values."""
    plain = (str, bytes, int, float, tuple, list, dict, frozenset)
    return one is other or (type(one) is type(other) and isinstance(one, plain) and one == other)


def _brief(value: object) -> str:
    """A setting in some characters."""
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    words = f"{type(value).__name__}()" if isinstance(value, nn.Module) else repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def opening_id(opening: str) -> str:
    """The id of a shared opening in a header: 16 hex digits, or '' for none."""
    return sha256(opening.encode()).hexdigest()[:16] if opening else ""


def spelled_opening(state: SenderState) -> int:
    """How many characters of what the cache spells are the opening.

    0 if another agent handed the opening over, because its cache spells nothing.
    """
    assert state.cached is not None
    assert state.cached.spelling is not None
    words = state.cached.spelling.words
    return len(state.opening) if all(row.startswith(state.opening) for row in words) else 0
