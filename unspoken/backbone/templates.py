"""A tokenizer's chat template, and its control tokens: those that only a frame may hold."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from secrets import token_hex
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateSyntaxError, meta
from tokenizers import Tokenizer

from unspoken.errors import TemplateError, UnreadableWords, unknown

__all__ = ["ChatTemplate", "ControlTokens"]

Past = Sequence[tuple[str, str]]
"""Earlier turns of a conversation: what the user said, and what the assistant answered."""

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
"""How a template asks transformers for the date."""

_GIVEN = {"messages", "add_generation_prompt"}
"""What a template is always told."""


class ChatTemplate:
    """Renders one user turn, open for the assistant, in the form that the template takes."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        self._forms: dict[tuple[str, bool, str], Form] = {}

    @property
    def source(self) -> str:
        """The template's text, '' without one."""
        return self._source({})

    def _source(self, options: Mapping[str, Any]) -> str:
        """The template that these options ask for: several may have names."""
        if not getattr(self.tokenizer, "chat_template", None):
            return ""
        try:
            return str(self.tokenizer.get_chat_template(tools=options.get("tools")))
        except ValueError as error:
            raise TemplateError(
                f"{self._called} is several, and none of them is the default: {error}. Give the "
                "tokenizer one"
            ) from error

    def names(self, options: Mapping[str, Any]) -> set[str]:
        """The names that the template asks for."""
        source = self._source(options)
        try:
            tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
        except TemplateSyntaxError as error:
            if "generation" not in source:  # a tag of transformers' own
                raise TemplateError(f"{self._called} is no template: {error}") from error
            return set(re.findall(r"[A-Za-z_]\w*", source)) - _GIVEN
        return meta.find_undeclared_variables(tree) - _GIVEN

    def render(
        self,
        system: str,
        user: str,
        options: Mapping[str, Any],
        past: Past = (),
        now: datetime | None = None,
    ) -> str:
        """The turn with `system` and the past before it, in the first of four forms that shows it.

        The forms: a system turn, or its words before the user's; content as words, or as parts.
        now: what a template that writes the date takes for today. Raises `TemplateError` if none
        shows them, `UnknownName` for an option that it never reads.
        """
        known = self.names(options) if options else set[str]()
        for option in options:
            if option not in known:
                remedy = f"These are the names that {self._called} reads."
                raise unknown("template option", option, known, remedy)
        key = (self._source(options), bool(system), repr(sorted(options.items())))
        if key not in self._forms:
            self._forms[key] = self._form(bool(system), options)
        try:
            form, dated = self._forms[key], {} if now is None else self._dated(options, now)
            return self._words(form, system, user, {**options, **dated}, past)
        except Exception as error:  # a template is a program of somebody else's
            raise self._refusal(f"{type(error).__name__}: {error}") from error

    def _form(self, with_system: bool, options: Mapping[str, Any]) -> Form:
        """The first form that shows two marks, told as system words and as the user's."""
        system, user = f"One {token_hex(8)} two." if with_system else "", f"{token_hex(8)}?"
        problem = ""
        for form in _FORMS if with_system else _FORMS[:2]:
            try:
                words = self._words(form, system, user, options)
            except Exception as error:  # as in `render`
                problem = problem or f"{type(error).__name__}: {error}"
                continue
            if system in words and user in words:
                return form
            problem = problem or "it leaves out or changes words"
        raise self._refusal(problem)

    def _words(
        self, form: Form, system: str, user: str, options: Mapping[str, Any], past: Past = ()
    ) -> str:
        turns = form.turns(system, user, past)
        return self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **options
        )

    def _dated(self, options: Mapping[str, Any], now: datetime) -> dict[str, str]:
        """What makes the template write that date where it asks for today's."""
        source = self._source(options)
        fixed = _TODAY.sub(lambda found: json.dumps(now.strftime(found[2])), source)
        return {} if fixed == source else {"chat_template": fixed}

    def _refusal(self, problem: str) -> TemplateError:
        return TemplateError(
            f"{self._called} does not take these words: {problem}. Use Role(chat=False), or "
            "give the tokenizer another chat_template"
        )

    @property
    def _called(self) -> str:
        return f"the chat template of {self.name!r}"


class Form(NamedTuple):
    """How the turns are told to a template: with a system turn or without, as words or parts."""

    system: bool
    parts: bool

    def turns(self, system: str, user: str, past: Past) -> list[dict[str, Any]]:
        turns: list[tuple[str, str]] = [("system", system)] if system and self.system else []
        for asked, said in past:
            turns += [("user", asked), ("assistant", said)]
        turns.append(("user", user))
        if system and not self.system:
            turns[0] = ("user", f"{system}\n\n{turns[0][1]}")
        return [
            {"role": role, "content": [{"type": "text", "text": words}] if self.parts else words}
            for role, words in turns
        ]


_FORMS = (Form(True, False), Form(True, True), Form(False, False), Form(False, True))


Span = tuple[int, int]
"""Where something begins and ends, in characters."""


class _Part(NamedTuple):
    """Where a piece of words begins in them and in the words that stand for them, and its token."""

    begin: int
    began: int
    token: int | None = None


class ControlTokens:
    """The tokens by which a frame marks turns, ends and thoughts. Elsewhere they are words.

    They are all special tokens, every added token that the chat template writes, and every other
    added token that the frame of a prompt holds.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer = tokenizer
        added = {int(n): token for n, token in tokenizer.added_tokens_decoder.items()}
        self.words = {n: t.content for n, t in added.items() if t.special or t.content.strip()}
        self.always = {n for n, w in self.words.items() if added[n].special or w in template}
        self._spellers: dict[frozenset[int], _Speller] = {}

    def spelled(
        self, words: str, ids: Sequence[int], spans: Sequence[Span] | None, frames: Sequence[Span]
    ) -> tuple[list[int], list[int]] | None:
        """Token ids and where each ends, with control tokens in the frames alone.

        ids and spans: what the tokenizer made of the words, (begin, end) in characters, None if it
        cannot tell. None is returned if no control token is beyond the frames. Raises
        `UnreadableWords` for a tokenizer that cannot spell its control tokens.
        """
        found = [(n, span) for n, span in self._found(words, ids, spans) if n in self.words]
        control = self.always | {n for n, span in found if _inside(span, frames)}
        if all(n not in control or _inside(span, frames) for n, span in found):
            return None
        key = frozenset(control)
        if key not in self._spellers:
            named = {n: self.words[n] for n in control}
            self._spellers[key] = _Speller(self.tokenizer, named)
        return self._spellers[key].spell(words, frames)

    def _found(
        self, words: str, ids: Sequence[int], spans: Sequence[Span] | None
    ) -> Iterable[tuple[int, Span]]:
        if spans is not None:
            return zip(ids, spans, strict=True)
        return (
            (n, one.span())
            for n in {*ids} & self.words.keys()
            for one in re.finditer(re.escape(self.words[n]), words)
        )


def _inside(span: Span, frames: Sequence[Span]) -> bool:
    return any(begin <= span[0] and span[1] <= end for begin, end in frames)


class _Speller:
    """A tokenizer that reads control tokens as words, and aliases of them as the tokens."""

    def __init__(self, tokenizer: Any, words: Mapping[int, str]) -> None:
        if not tokenizer.is_fast:
            raise UnreadableWords(
                "the words hold a control token of the model, and a tokenizer written in Python "
                "cannot read it as words. Take it out, or load the model with use_fast=True"
            )
        self.words, first, secret = words, len(tokenizer), token_hex(8)
        self.aliases = {
            token: (first + n, f"\ue000{secret}{n}\ue001") for n, token in enumerate(words)
        }
        self.tokenizer = self._made(json.loads(tokenizer.backend_tokenizer.to_str()))

    def _made(self, about: dict[str, Any]) -> Tokenizer:
        flags = {token["id"]: token for token in about["added_tokens"]}
        for n, token in flags.items():
            token["special"] = n in self.words
        about["added_tokens"] += [
            {**flags[token], "id": n, "content": name, "special": False, "normalized": False}
            for token, (n, name) in self.aliases.items()
        ]
        found = Tokenizer.from_str(json.dumps(about))
        found.no_padding()
        found.no_truncation()
        found.encode_special_tokens = True
        return found

    def spell(self, words: str, frames: Sequence[Span]) -> tuple[list[int], list[int]]:
        """Token ids and where each ends. Raises `UnreadableWords` if they hold one all the same."""
        text, parts = self._replaced(words, frames)
        found = self.tokenizer.encode(text, add_special_tokens=False)
        if any(n in self.words for n in found.ids):
            raise UnreadableWords(
                "the words hold a control token of the model, and its tokenizer cannot read it as "
                "words. Take it out of the question, the document or the message"
            )
        back = {n: token for token, (n, _) in self.aliases.items()}
        ids = [back.get(n, n) for n in found.ids]
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
                text += self.aliases[token][1]
                done = found.end()
                parts.append(_Part(done, len(text)))
        return text + words[done:], parts


def _original(end: int, parts: Sequence[_Part]) -> int:
    """Where in the words a token ends that ends at `end` in the words that stand for them."""
    at = bisect_right([part.began for part in parts], end - 1) - 1
    part = parts[at]
    if part.token is not None:
        return parts[at + 1].begin
    return part.begin + end - part.began
