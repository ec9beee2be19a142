"""The frame of a prompt: what a chat template writes before and after the words of an item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import NamedTuple

from unspoken.agents.roles import Role
from unspoken.errors import TemplateError
from unspoken.protocols import Model
from unspoken.types import CacheSegment, Prompt, Segment, Text

__all__ = ["Frame", "frame_of"]

_EDGE = "\n \t \n\n"
"""White space around the mark, which shows whether a template trims."""

_MARK = "  \"<&>'\n\n\n\u00e9\r\n\t" + "Zz 9, " * 400 + "Zz"
"""Words that a template which escapes, folds, cuts or wraps words would change."""


class Frame(NamedTuple):
    """The words before and after an item, and whether they are those of a chat template.

    trims: whether the template drops white space at the beginning and at the end of an item.
    """

    opening: str
    closing: str
    chat: bool = False
    trims: tuple[bool, bool] = (False, False)

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


def frame_of(model: Model, role: Role) -> Frame:
    """The frame of a role's prompts, by the model's chat template if the role uses it.

    Raises `TemplateError` for a template that does not show an item as it is, exactly once.
    """
    before, after = role.instructions, ""
    if role.first == "item":
        before, after = after, before
    if not (role.chat and model.spec.chats):
        return Frame(before, after)
    mark = f"Aa{token_hex(8)}{_MARK}"  # escaped, folded or cut, it is not found again
    opening, closing = _around(mark, model, role, before, "")
    loose = _around(mark, model, role, before, _EDGE)
    kept = loose[0] == opening + _EDGE, loose[1] == _EDGE + closing
    if any(
        not whole and part != plain
        for whole, part, plain in zip(kept, loose, (opening, closing), strict=True)
    ):
        raise _changed(model, "with other white space")
    if after.strip():  # the instructions end the user's turn, so the item is not at its end
        closing = (after if kept[1] else after.rstrip()) + closing
        return Frame(opening, closing, chat=True, trims=(not kept[0], False))
    return Frame(opening, closing, chat=True, trims=(not kept[0], not kept[1]))


def _around(mark: str, model: Model, role: Role, before: str, edge: str) -> tuple[str, str]:
    """What the template writes before and after words."""
    rendered = model.chat(before, f"{edge}{mark}{edge}", **role.template_options)
    opening, found, closing = rendered.partition(mark)
    if not found or mark in closing:
        raise _changed(model, "twice" if found else "in another form")
    return opening, closing


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
