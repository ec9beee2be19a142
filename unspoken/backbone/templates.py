"""A tokenizer's chat template, and its control tokens: those that only a frame may hold."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from secrets import token_hex
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateSyntaxError, meta
from tokenizers import Tokenizer

from unspoken.errors import TemplateError, UnreadableWords, unknown

__all__ = ["ChatTemplate", "ControlTokens"]

_GIVEN = {"messages", "add_generation_prompt"}
"""What a template is always told."""


class ChatTemplate:
    """Renders one user turn, open for the assistant, in the form that the template takes."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name

    @cached_property
    def source(self) -> str:
        """The template's text, '' without one."""
        if not getattr(self.tokenizer, "chat_template", None):
            return ""
        return str(self.tokenizer.get_chat_template())

    @cached_property
    def options(self) -> set[str]:
        """The names that the template asks for."""
        try:
            tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(self.source)
        except TemplateSyntaxError as error:
            if "generation" not in self.source:  # a tag of transformers' own
                raise TemplateError(f"{self._called} is no template: {error}") from error
            return set(re.findall(r"[A-Za-z_]\w*", self.source)) - _GIVEN
        return meta.find_undeclared_variables(tree) - _GIVEN

    def render(self, system: str, user: str, options: Mapping[str, Any]) -> str:
        """The turn with `system` before it, in the first of four forms that shows both.

        The forms: a system turn, or its words before the user's; content as words, or as parts.
        Raises `TemplateError` if none shows them, `UnknownName` for an option that it never reads.
        """
        for option in options:
            if option not in self.options:
                remedy = f"These are the names that {self._called} reads."
                raise unknown("template option", option, self.options, remedy)
        problems: list[str] = []
        for turns in _forms(system, user):
            try:
                words: str = self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True, **options
                )
            except Exception as error:  # a template is a program of somebody else's
                problems.append(f"{type(error).__name__}: {error}")
                continue
            if system.strip() in words and user.strip() in words:
                return words
            problems.append("it leaves out or changes words")
        raise TemplateError(
            f"{self._called} does not take these words: {problems[0]}. Use Role(chat=False), or "
            "give the tokenizer another chat_template"
        )

    @property
    def _called(self) -> str:
        return f"the chat template of {self.name!r}"


def _forms(system: str, user: str) -> Iterator[list[dict[str, Any]]]:
    """How the turns can be told to a template, the usual form first."""
    joined = f"{system}\n\n{user}"
    ways = (
        [[("system", system), ("user", user)], [("user", joined)]] if system else [[("user", user)]]
    )
    for turns in ways:
        yield [{"role": role, "content": words} for role, words in turns]
        yield [
            {"role": role, "content": [{"type": "text", "text": words}]} for role, words in turns
        ]


class _Part(NamedTuple):
    """Where a piece of words begins in them and in the words that stand for them, and its token."""

    begin: int
    began: int
    token: int | None = None


class ControlTokens:
    """The tokens by which a frame marks turns, ends and thoughts. Elsewhere they are words.

    They are all special tokens, and every added token that the chat template writes.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer = tokenizer
        self.words: dict[int, str] = {
            int(n): token.content
            for n, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content.strip() and token.content in template)
        }

    def outside(self, words: str, ids: Sequence[int], frames: Sequence[tuple[int, int]]) -> bool:
        """Whether a control token was read beyond the frames, (begin, end) in characters."""
        return any(
            not any(begin <= found.start() and found.end() <= end for begin, end in frames)
            for token in {*ids} & self.words.keys()
            for found in re.finditer(re.escape(self.words[token]), words)
        )

    def spelled(self, words: str, frames: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
        """Token ids and where each ends, with control tokens in the frames alone.

        Raises `UnreadableWords` for a tokenizer that cannot spell its control tokens.
        """
        text, parts = self._replaced(words, frames)
        found = self._speller.encode(text, add_special_tokens=False)
        back = {n: token for token, (n, _) in self._aliases.items()}
        ids = [back.get(n, n) for n in found.ids]
        if any(n in self.words for n in found.ids):
            raise UnreadableWords(
                "the words hold a control token of the model, and its tokenizer cannot read it as "
                "words. Take it out of the question, the document or the message"
            )
        return ids, [_original(end, parts) for _, end in found.offsets]

    def _replaced(self, words: str, frames: Sequence[tuple[int, int]]) -> tuple[str, list[_Part]]:
        """The words with an alias for each control token of a frame, and where pieces begin."""
        known = re.compile("|".join(map(re.escape, sorted(self.words.values(), key=len)[::-1])))
        named = {content: token for token, content in self.words.items()}
        text, parts, done = "", [_Part(0, 0)], 0
        for begin, end in frames:
            for found in known.finditer(words, begin, end):
                token = named[found.group()]
                text += words[done : found.start()]
                parts.append(_Part(found.start(), len(text), token))
                text += self._aliases[token][1]
                done = found.end()
                parts.append(_Part(done, len(text)))
        return text + words[done:], parts

    @cached_property
    def _aliases(self) -> dict[int, tuple[int, str]]:
        """By control token: an id beyond all others, and a name that no text can hold by chance."""
        first, secret = len(self.tokenizer), token_hex(8)
        return {
            token: (first + n, f"\ue000{secret}{n}\ue001") for n, token in enumerate(self.words)
        }

    @cached_property
    def _speller(self) -> Tokenizer:
        """The same tokenizer, which reads control tokens as words and their aliases as tokens."""
        if not self.tokenizer.is_fast:
            raise UnreadableWords(
                "the words hold a control token of the model, and a tokenizer written in Python "
                "cannot read it as words. Take it out, or load the model with use_fast=True"
            )
        about = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in about["added_tokens"]:
            token["special"] = token["id"] in self.words
        flags = {token["id"]: token for token in about["added_tokens"]}
        about["added_tokens"] += [
            {**flags[token], "id": n, "content": name, "special": False, "normalized": False}
            for token, (n, name) in self._aliases.items()
        ]
        found = Tokenizer.from_str(json.dumps(about))
        found.no_padding()
        found.no_truncation()
        found.encode_special_tokens = True
        return found


def _original(end: int, parts: Sequence[_Part]) -> int:
    """Where in the words a token ends that ends at `end` in the words that stand for them."""
    at = bisect_right([part.began for part in parts], end - 1) - 1
    part = parts[at]
    if part.token is not None:
        return parts[at + 1].begin
    return part.begin + end - part.began
