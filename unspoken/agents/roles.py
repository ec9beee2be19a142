"""Roles: what an agent reads besides its item and its messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from unspoken.errors import EmptyPrompt, PipelineError, check_unicode, require
from unspoken.types import Reuse, Text

__all__ = ["FIELDS", "Fields", "Role"]

Fields = Mapping[str, tuple[str, ...]]
"""What a batch is about: field name -> B strings."""

FIELDS = ("question", "context")

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Role:
    """The words around an item and its messages.

    instructions: what to do, or worked examples: the same for every item, read once for a batch.
    template: the item, with the fields {question} and {context}, and {messages} where messages go.
    message: how one message is shown there, with {sender} and {message}.
    chat: use the model's chat template if it has one (the instructions become the system turn);
    otherwise instructions and template are read as plain text, as few-shot prompts are.
    template_options: what the chat template is told besides, such as {"enable_thinking": False}.
    first: `item` puts the instructions after the item, at the end of the user's turn. Agents with
    different instructions then begin with the same words, which a pool reads once and exactly.
    reuse: `exact` forbids a pool to serve this role with moved caches, as a judge may want.
    candidates: the answers between which a judge chooses, each a text that it could write.

    >>> Role(template="Q: {question}\\nA:").render({"question": ("why?",)})
    (('',), ('Q: why?\\nA:',))
    """

    instructions: str = ""
    template: str = "{messages}{question}"
    message: str = "{sender}:{message}\n\n"
    chat: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    first: Literal["instructions", "item"] = "instructions"
    reuse: Reuse = "any"
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("instructions", "template", "message"):
            check_unicode(f"{name} of a role", getattr(self, name), PipelineError)
        for one in self.candidates:
            check_unicode("a candidate of a role", one, PipelineError)
        named = set(_FIELD.findall(self.template))
        if odd := named - {*FIELDS, "messages"}:
            raise PipelineError(
                f"a template names the fields {sorted(odd)}; it may use {{question}}, {{context}} "
                "and {messages}"
            )
        if self.message.count("{message}") != 1:
            raise PipelineError(
                f"the message format {self.message!r} must hold {{message}} exactly once"
            )

    def _check_kinds(self) -> None:
        options: Any = self.template_options
        named = isinstance(options, Mapping) and all(
            isinstance(name, str) for name in cast(Mapping[Any, Any], options)
        )
        checks: list[tuple[str, object, bool, str]] = [
            ("instructions", self.instructions, _words(self.instructions), "words"),
            ("template", self.template, _words(self.template), "words"),
            ("message", self.message, _words(self.message), "words"),
            ("template_options", options, named, "a dictionary by name"),
            ("first", self.first, self.first in ("instructions", "item"), "instructions or item"),
            ("reuse", self.reuse, self.reuse in ("any", "exact"), "any or exact"),
        ]
        for what, given, fits, allowed in checks:
            require(fits, f"{what} of a role", given, allowed, PipelineError)
        once = self.template.count("{messages}") < 2
        allowed = "one with {messages} at most once"
        require(once, "template of a role", self.template, allowed, PipelineError)

    @property
    def takes_messages(self) -> bool:
        """Whether messages have a place in the template."""
        return "{messages}" in self.template

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for field in FIELDS if f"{{{field}}}" in self.template)

    def check(self, fields: Fields) -> None:
        """Raise `EmptyPrompt` for items without a field that the role reads."""
        for name in self.fields:
            rows = fields.get(name, ())
            empty = [n for n, row in enumerate(rows) if not row.strip()]
            if empty or not rows:
                raise EmptyPrompt(
                    f"the role reads {{{name}}}, but items {empty or 'all'} have none; give each "
                    f"item a {name}, or take {{{name}}} out of the template"
                )

    def render(self, fields: Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """B texts before the messages and B texts after them. Raises `EmptyPrompt`."""
        self.check(fields)
        before, after = self.texts(fields)
        return _joined(before, fields), _joined(after, fields)

    def texts(self, fields: Fields) -> tuple[list[Text], list[Text]]:
        """What `render` gives in pieces: a field's words carry its name as share key."""
        before, _, after = self.template.partition("{messages}")
        if not self.takes_messages:
            before, after = "", before
        return _pieces(before, fields), _pieces(after, fields)

    def around(self, sender: str, batch: int) -> tuple[list[Text], list[Text]]:
        """B texts before one message and B texts after it. The sender's name is no frame."""
        before, _, after = self.message.partition("{message}")
        return _named(before, sender, batch), _named(after, sender, batch)


def _words(given: object) -> bool:
    return isinstance(given, str)


def _pieces(template: str, fields: Fields) -> list[Text]:
    """The template cut at its fields, without empty pieces."""
    batch = len(next(iter(fields.values())))
    found: list[Text] = []
    for n, piece in enumerate(_FIELD.split(template)):  # every other one is a field's name
        if piece:
            literal = n % 2 == 0
            found.append(
                Text((piece,) * batch, frame=True) if literal else Text(fields[piece], share=piece)
            )
    return found


def _named(words: str, sender: str, batch: int) -> list[Text]:
    """Words cut at the places where the sender's name goes."""
    pieces = [Text((piece,) * batch, frame=True) for piece in words.split("{sender}")]
    name = Text((sender,) * batch)
    apart = [one for piece in pieces for one in (name, piece)][1:]
    return [one for one in apart if one.words[0]]


def _joined(texts: Sequence[Text], fields: Fields) -> tuple[str, ...]:
    batch = len(next(iter(fields.values())))
    return tuple("".join(text.words[row] for text in texts) for row in range(batch))
