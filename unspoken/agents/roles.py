"""Roles: what an agent reads besides its item and its messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, cast

from unspoken.errors import EmptyPrompt, PipelineError, check_unicode, require
from unspoken.types import Document, FieldValue, Reuse, Text

__all__ = ["Fields", "Role"]

Fields = Mapping[str, tuple[FieldValue, ...]]
"""What a batch is about: field name -> words or documents of each of B rows."""

_FIELD = re.compile(r"\{(\w+)\}")
_MAIL = "messages"


@dataclass(frozen=True, slots=True)
class Role:
    """The words around an item and its messages.

    instructions: what to do, or worked examples: the same for every item, read once for a batch.
    template: the item, with any fields by name, such as {question}, and {messages} where messages
    go. message: how one message is shown there, with {sender} and {message}.
    document: how one document is shown where a field holds documents, with {name} and {text}.
    chat: use the model's chat template if it has one (the instructions become the system turn);
    otherwise instructions and template are read as plain text, as few-shot prompts are.
    template_options: what the chat template is told besides, such as {"enable_thinking": False}.
    first: `item` puts the instructions after the item, at the end of the user's turn. Agents with
    different instructions then begin with the same words, which a pool reads once and exactly.
    reuse: `exact` forbids a pool to serve this role with moved caches, as a judge may want.
    candidates: the answers between which a judge chooses, each a text that it could write.

    >>> Role(template="Q: {question}\\nA:").render({"question": ("why?",)})
    (('',), ('Q: why?\\nA:',))

    A field holds words, or documents. What is in them stays as it is.

    >>> found = {"documents": ((Document("a.md", "{x}"), Document("b.md", "y")),)}
    >>> Role(template="{documents}Go on.", document="{name}: {text}\\n").render(found)
    (('',), ('a.md: {x}\\nb.md: y\\nGo on.',))
    """

    instructions: str = ""
    template: str = "{messages}{question}"
    message: str = "{sender}:{message}\n\n"
    document: str = "## {name}\n{text}\n\n"
    chat: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    first: Literal["instructions", "item"] = "instructions"
    reuse: Reuse = "any"
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("instructions", "template", "message", "document"):
            check_unicode(f"{name} of a role", getattr(self, name), PipelineError)
        for one in self.candidates:
            check_unicode("a candidate of a role", one, PipelineError)
        for name, part in (("message", "{message}"), ("document", "{text}")):
            if (shape := getattr(self, name)).count(part) != 1:
                raise PipelineError(f"the {name} format {shape!r} must hold {part} exactly once")

    def _check_kinds(self) -> None:
        options: Any = self.template_options
        named = isinstance(options, Mapping) and all(
            isinstance(name, str) for name in cast(Mapping[Any, Any], options)
        )
        checks: list[tuple[str, object, bool, str]] = [
            ("instructions", self.instructions, _words(self.instructions), "words"),
            ("template", self.template, _words(self.template), "words"),
            ("message", self.message, _words(self.message), "words"),
            ("document", self.document, _words(self.document), "words"),
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
        """The names of the fields that the template reads, in its order."""
        return tuple(name for name in dict.fromkeys(_FIELD.findall(self.template)) if name != _MAIL)

    def lacking(self, fields: Fields) -> dict[str, list[int]]:
        """The fields that the role reads and some items do not have, with the rows of these."""
        nothing = ("",) * _batch(fields)
        rows = {name: fields.get(name, nothing) for name in self.fields}
        empty = {
            name: [n for n, one in enumerate(row) if _blank(one)] for name, row in rows.items()
        }
        return {name: found for name, found in empty.items() if found}

    def check(self, fields: Fields) -> None:
        """Raise `EmptyPrompt` for items without the fields that the role reads."""
        if lacking := self.lacking(fields):
            told = ", and ".join(
                f"{{{name}}}, but items {rows} have none" for name, rows in lacking.items()
            )
            raise EmptyPrompt(
                f"the role reads {told}; give each item a {' and a '.join(lacking)}, or take it "
                "out of the template"
            )

    def given(self, fields: Fields) -> tuple[str, ...]:
        """B texts, word for word: all fields that the role reads besides the question.

        The question itself if it reads nothing else.
        """
        names = [name for name in self.fields if name != "question"]
        names = [name for name in names or ["question"] if name in fields]
        texts = [_joined(self._shown(name, fields), fields) for name in names]
        return tuple("\n\n".join(row) for row in zip(*texts, strict=True))

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
        return self._pieces(before, fields), self._pieces(after, fields)

    def _pieces(self, template: str, fields: Fields) -> list[Text]:
        """The template cut at its fields, without empty pieces."""
        batch, found = _batch(fields), list[Text]()
        for n, piece in enumerate(_FIELD.split(template)):  # every other one is a field's name
            if n % 2:
                found += self._shown(piece, fields)
            elif piece:
                found.append(Text((piece,) * batch, frame=True))
        return found

    def _shown(self, name: str, fields: Fields) -> list[Text]:
        """A field's words, and its documents one after the other. Rows may have different ones."""
        values = fields[name]
        words = tuple(one if isinstance(one, str) else "" for one in values)
        rows = [() if isinstance(one, str) else one for one in values]
        found = [Text(words, share=name)] if any(words) else []
        for documents in zip_longest(*rows):
            found += _document(self.document, name, documents)
        return found

    def around(self, sender: str, batch: int) -> tuple[list[Text], list[Text]]:
        """B texts before one message and B texts after it. The sender's name is no frame."""
        before, _, after = self.message.partition("{message}")
        return _named(before, sender, batch), _named(after, sender, batch)


def _words(given: object) -> bool:
    return isinstance(given, str)


def _blank(value: FieldValue) -> bool:
    return not value.strip() if isinstance(value, str) else not value


def _batch(fields: Fields) -> int:
    return len(next(iter(fields.values())))


def _document(shape: str, field: str, documents: Sequence[Document | None]) -> list[Text]:
    """One document of each row that has one. What introduces it is its cue, and moves with it."""
    names, texts = (tuple(one[part] if one else "" for one in documents) for part in (0, 1))
    before, _, after = shape.partition("{text}")

    def around(words: str, *, cue: bool) -> list[Text]:
        pieces = [
            Text(tuple(piece if one else "" for one in documents), frame=True, cue=cue)
            for piece in words.split("{name}")
        ]
        return _between(pieces, Text(names, cue=cue))

    return [*around(before, cue=True), Text(texts, share=field), *around(after, cue=False)]


def _named(words: str, sender: str, batch: int) -> list[Text]:
    """Words cut at the places where the sender's name goes."""
    pieces = [Text((piece,) * batch, frame=True) for piece in words.split("{sender}")]
    return _between(pieces, Text((sender,) * batch))


def _between(pieces: Sequence[Text], name: Text) -> list[Text]:
    """Pieces with the name between them, without what is empty in all rows."""
    apart = [one for piece in pieces for one in (name, piece)][1:]
    return [one for one in apart if any(one.words)]


def _joined(texts: Sequence[Text], fields: Fields) -> tuple[str, ...]:
    return tuple("".join(text.words[row] for text in texts) for row in range(_batch(fields)))
