"""Short notes of exchanges, made from their words alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from unspoken.sessions.past import Exchange

__all__ = ["Note", "note_of", "words_of"]

_SIZE = 160
"""Bytes of a note without its labels: some 40 tokens in most languages."""

_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_RULED = re.compile(
    r"\b(never|always|must(n['’]t)?|do not|don['’]t|should(n['’]t| not)|avoid|only|"
    r"from now on|no longer|remember)\b",
    re.IGNORECASE,
)
_FILES = r"(?<![\w./\\-])[\w./\\-]{1,80}\.[A-Za-z]\w{0,4}\b"
_VALUES = re.compile(rf"\"[^\"]{{1,80}}\"|“[^”]{{1,80}}”|`[^`]{{1,80}}`|{_FILES}|\d[\w.,:/%-]*")
_CAPITAL = r"[A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f][\w'’-]+"
_NAMES = re.compile(rf"{_FILES}|{_CAPITAL}(?: {_CAPITAL})*")


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted of an exchange, word for word as it was said.

    rule: what the user asked for from then on, in English words such as "never". topic: the last
    question, or else the sentence of the user that has most values. settled: the sentence of the
    answer that has most values. specifics: of all other sentences the one with most values, such as
    numbers and quotes, that are not noted yet. names: people, places and files that are not noted
    yet.

    >>> from unspoken.sessions.past import Exchange
    >>> asked = {"question": ("Who has the key? It is in box.md.",)}
    >>> print(note_of(Exchange(asked, "I think so. Ada Lovelace has all 12.")))
    topic: Who has the key? | settled: Ada Lovelace has all 12. | specifics: It is in box.md.
    """

    rule: str = ""
    topic: str = ""
    settled: str = ""
    specifics: str = ""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [(name, getattr(self, name)) for name in ("rule", "topic", "settled", "specifics")]
        parts.append(("names", ", ".join(self.names)))
        return " | ".join(f"{name}: {words}" for name, words in parts if words)


def note_of(exchange: Exchange) -> Note:
    """The note of an exchange, which is made once. Equal words give equal notes."""
    if exchange not in _made:
        _made[exchange] = _note(exchange)
    return _made[exchange]


_made: WeakKeyDictionary[Exchange, Note] = WeakKeyDictionary()


def _note(exchange: Exchange) -> Note:
    asked, answered = _sentences(exchange.asked), _sentences(exchange.words)
    own = _sentences(_of_user(exchange))
    rule = _clipped(_rule(own), _SIZE)
    left = _SIZE - _size(rule)
    settled = max(answered, key=_count, default="")
    topic = _clipped(_topic(own), max(left // 2, left - _size(settled)))
    topic = "" if topic == rule else topic
    left -= _size(topic)
    settled = _clipped(settled, left)
    left -= _size(settled)
    noted = " ".join((rule, topic, settled))
    others = [one for one in (*asked, *answered) if not _VALUES.fullmatch(one)]
    rest = max(others, key=lambda one: len(_new(_VALUES, [one], noted)), default="")
    specifics = _clipped(rest, left) if _new(_VALUES, [rest], noted) else ""
    left -= _size(specifics)
    names = list[str]()
    for name in _new(_NAMES, [*asked, *answered], f"{noted} {specifics}"):
        if (left := left - _size(name) - 2) >= 0:
            names.append(name)
    return Note(rule, topic, settled, specifics, tuple(names))


def words_of(exchange: Exchange) -> str:
    """The words of an exchange themselves, in one line."""
    return " ".join(f"asked: {exchange.asked} | answered: {exchange.words}".split())


def _of_user(exchange: Exchange) -> str:
    """The question if the agent reads one, else all words that are no documents."""
    words = [value for (value,) in exchange.fields.values() if isinstance(value, str)]
    (question,) = exchange.fields.get("question", ("",))
    return question if isinstance(question, str) and question else "\n".join(words)


def _rule(sentences: Iterable[str]) -> str:
    """All that the user ruled. A long sentence begins with its ruling word, which is not lost."""
    found = list[str]()
    for one in sentences:
        if (match := _RULED.search(one)) and not one.endswith("?"):
            found.append(one if _size(one) <= _SIZE else one[match.start() :])
    return " ".join(found)


def _topic(sentences: Sequence[str]) -> str:
    """The last question, or else the sentence with most values."""
    questions = [one for one in sentences if one.endswith("?")]
    return questions[-1] if questions else max(sentences, key=_count, default="")


def _sentences(words: str) -> list[str]:
    return [piece.strip() for piece in _SENTENCES.split(words) if piece.strip()]


def _count(sentence: str) -> int:
    return len(_VALUES.findall(sentence)) + len(_names(sentence))


def _names(sentence: str) -> list[str]:
    """Names in a sentence. One capital word at its beginning is none."""
    found = [(m.start(), m[0]) for m in _NAMES.finditer(sentence)]
    return [name for at, name in found if at or " " in name or "." in name]


def _new(kind: re.Pattern[str], sentences: Sequence[str], noted: str) -> list[str]:
    """What of a kind is in the sentences and not in what is noted."""
    named = _names if kind is _NAMES else kind.findall
    return [
        one for one in dict.fromkeys(v for s in sentences for v in named(s)) if one not in noted
    ]


def _clipped(words: str, size: int) -> str:
    """Words in one line, the last left out beyond a number of bytes."""
    words = " ".join(words.split())
    if _size(words) <= size:
        return words
    cut = words.encode()[: max(0, size)].decode(errors="ignore")
    whole = cut.rpartition(" ")[0] or cut
    return f"{whole} …" if whole else ""


def _size(words: str) -> int:
    return len(words.encode())
