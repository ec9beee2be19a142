"""The frame of a prompt: what a chat template writes before and after the words of an item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from secrets import token_hex
from typing import NamedTuple

from unspoken.agents.roles import Role
from unspoken.errors import TemplateError
from unspoken.protocols import Model
from unspoken.types import CacheSegment, Prompt, Segment, Text

__all__ = ["BETWEEN", "Frame", "frame_of"]

BETWEEN = "\n\n"
"""What comes after an answer in a conversation without a chat template."""

_EDGE = "\n \t \n\n"
"""White space around the mark, which shows whether a template trims."""

_MARK = "  \"<&>'\n\n\n\u00e9\r\n\t" + "Zz 9, " * 400 + "Zz"
"""Words that a template which escapes, folds, cuts or wraps words would change."""


class Frame(NamedTuple):
    """The words before and after an item, and whether they are those of a chat template.

    trims: whether the template drops white space at the beginning and at the end of an item.
    joints: for each earlier turn of a conversation the words between what was asked and what was
    answered, and those between that and what was asked next.
    """

    opening: str
    closing: str
    chat: bool = False
    trims: tuple[bool, bool] = (False, False)
    joints: tuple[tuple[str, str], ...] = ()

    def around(self, prompt: Prompt, front: Sequence[Segment]) -> Prompt:
        """The prompt with its closing words, trimmed as the template does behind its front."""
        segments = list(prompt.segments)
        known = {id(one) for one in front}
        begin = next(
            (n for n, one in enumerate(segments) if not (_cached(one) or id(one) in known)),
            len(segments),
        )
        item = segments[begin:]
        if self.trims[0]:
            item = _stripped(item, str.lstrip)
        if self.trims[1]:
            item = _stripped(item[::-1], str.rstrip)[::-1]
        closing = Text((self.closing,) * prompt.batch, frame=True)
        return replace(prompt, segments=(*segments[:begin], *item, closing))


def frame_of(model: Model, role: Role, past: int = 0, now: datetime | None = None) -> Frame:
    """The frame of a role's prompts, by the model's chat template if the role uses it.

    past: how many earlier turns of a conversation come before the item. now: the date, if the
    template writes one. Raises `TemplateError` for a template that does not show an item as it is,
    exactly once.
    """
    before, after = role.instructions, ""
    if role.first == "item":
        before, after = after, before
    if not (role.chat and model.spec.chats):
        return Frame(before, after, joints=((after, BETWEEN),) * past)
    marks = [f"Aa{token_hex(8)}Zz" for _ in range(2 * past)]
    marks.append(f"Aa{token_hex(8)}{_MARK}")  # escaped, folded or cut, it is not found again
    plain, loose = (_around(marks, model, role, before, edge, now) for edge in ("", _EDGE))
    trims = (loose[0] != plain[0] + _EDGE, loose[-1] != _EDGE + plain[-1])
    if loose != _spaced(plain, trims):
        raise _changed(model, "with other white space")
    pairs = list(zip(plain[1:-1:2], plain[2:-1:2], strict=True))
    opening, closing = plain[0], plain[-1]
    if after.strip():  # the instructions end the user's turn, so the item is not at its end
        end = after.rstrip() if trims[1] else after
        pairs, closing = [(end + asked, answered) for asked, answered in pairs], end + closing
        trims = (trims[0], False)
    return Frame(opening, closing, chat=True, trims=trims, joints=tuple(pairs))


def _around(
    marks: Sequence[str], model: Model, role: Role, before: str, edge: str, now: datetime | None
) -> list[str]:
    """What the template writes around and between words: of the user, the assistant, in turn.

    edge: white space at both ends of the user's.
    """
    words = [f"{edge}{mark}{edge}" if n % 2 == 0 else mark for n, mark in enumerate(marks)]
    past = list(zip(words[:-1:2], words[1::2], strict=True))
    rest = model.chat(before, words[-1], past=past, now=now, **role.template_options)
    found: list[str] = []
    for mark in marks:
        piece, shown, rest = rest.partition(mark)
        if not shown or mark in rest:
            raise _changed(model, "twice" if shown else "in another form")
        found.append(piece)
    return [*found, rest]


def _spaced(plain: Sequence[str], trims: tuple[bool, bool]) -> list[str]:
    """The pieces around words with white space at both ends of the user's, unless it is trimmed."""
    front, end = ("" if trimmed else _EDGE for trimmed in trims)
    return [end + piece if n % 2 else piece + front for n, piece in enumerate(plain)]


def _changed(model: Model, how: str) -> TemplateError:
    return TemplateError(
        f"the chat template of {model.spec.name!r} shows a user's words {how}; use "
        "Role(chat=False), or give the tokenizer another chat_template"
    )


def _cached(segment: Segment) -> bool:
    return isinstance(segment, CacheSegment)


def _stripped(segments: Sequence[Segment], strip: Callable[[str], str]) -> list[Segment]:
    """Segments, the words of the first ones stripped until a row has some."""
    found, open_ = list(segments), [True] * (segments[0].batch if segments else 0)
    for n, segment in enumerate(found):
        if not isinstance(segment, Text) or not any(open_):
            break
        words = [strip(row) if o else row for row, o in zip(segment.words, open_, strict=True)]
        open_ = [o and not row for row, o in zip(words, open_, strict=True)]
        found[n] = replace(segment, words=tuple(words))
    return found
